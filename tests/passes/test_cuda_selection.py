"""What is selected for CUDA against the models as they are: on the CPU provider, and in fp16 by XLA."""

from __future__ import annotations

from pathlib import Path

import pytest
from checking import model_from

import graphopt
from graphopt.ir.io import read
from graphopt.lowering.cuda.kernels import cuda_kernels
from graphopt.lowering.registry import schema_version
from graphopt.passes._upgrading import NO_CUDA_KERNEL_FROM_22
from graphopt.passes.presets import pipeline_text
from graphopt.passes.raise_attention import RaiseAttention
from graphopt.platforms import NEW_CUDA_KERNELS, onnxruntime_version
from graphopt.target import Target

SAMPLES = sorted((Path(__file__).parents[2] / "samples" / "generated").glob("*.onnx"))
HALF = {"BiasGelu", "FastGelu", "SkipLayerNormalization", "LayerNormalization"}


@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: p.stem)
def test_samples_give_the_same_on_the_cpu_provider(path: Path) -> None:
    executable = graphopt.compile(path, "cuda")
    report = graphopt.verify(executable, path, runs=2)
    assert report.ok, report.table()


@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: p.stem)
def test_samples_in_fp16_give_the_same_by_xla(path: Path) -> None:
    """ONNX Runtime's CPU provider casts to float32; graphopt's own lowering computes in float16."""
    half = graphopt.optimize(path, "cuda", precision="fp16").model
    executable = graphopt.compile(half, "xla-cpu", 0)
    executable.manifest["exactness"] = "lossy"
    executable.manifest["options"]["precision"] = "fp16"
    report = graphopt.verify(executable, read(path), runs=1)
    assert report.ok, report.table()


@pytest.mark.parametrize("name", ["bert-tiny", "gpt-tiny"])
def test_fp16_reaches_the_fused_operators(name: str) -> None:
    path = next(p for p in SAMPLES if p.stem == name)
    model = graphopt.optimize(path, "cuda", precision="fp16").model
    types = {node.op_type: node.inputs[0].dtype.name for node in model.graph if node.op_type in HALF}  # type: ignore[union-attr]
    assert len(types) >= 2
    assert set(types.values()) == {"FLOAT16"}


def test_newer_operators_are_raised_where_their_kernels_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.passes import presets

    def raised(version: tuple[int, ...]) -> bool:
        monkeypatch.setattr(presets, "onnxruntime_version", lambda: version)
        return "raise-attention{upgrade=true provider=cuda}" in pipeline_text(2, Target.parse("cuda"))

    assert [raised(v) for v in ((1, 24, 0), (1, 30, 9), NEW_CUDA_KERNELS, (2, 0))] == [
        False,
        False,
        True,
        True,
    ]
    assert onnxruntime_version() >= (1, 20)


def test_no_operator_loses_its_cuda_kernel_by_a_newer_opset() -> None:
    """What the passes take for lost is what the table of ONNX Runtime 1.31 says."""
    table = cuda_kernels(new=True)

    def serves(op: str, opset: int) -> bool:
        since = schema_version("", op, opset)
        return since is not None and any(kernel.serves(since) for kernel in table["", op])

    ops = sorted(op for domain, op in table if domain == "")
    lost = {op for op in ops for opset in (22, 23) if serves(op, 18) and not serves(op, opset)}
    assert lost == NO_CUDA_KERNEL_FROM_22
    assert not [op for op in ops if serves(op, 18) and not serves(op, 20)]


def test_a_model_whose_pool_would_fall_back_keeps_its_opset() -> None:
    text = """g (float[1, 2, 8, 4] q, float[1, 2, 8, 4] k, float[1, 2, 8, 4] v) => (float[1, 2, 8, 4] y) {
        kt = Transpose<perm = [0, 1, 3, 2]>(k) s = MatMul(q, kt) t = Softmax(s) a = MatMul(t, v)
        y = MaxPool<kernel_shape = [1, 1]>(a) }"""
    cuda, cpu = model_from(text), model_from(text)
    RaiseAttention(upgrade=True, provider="cuda").run(cuda)
    RaiseAttention(upgrade=True).run(cpu)
    assert cuda.opset_imports[""] == 18
    assert cpu.opset_imports[""] == 23
