"""XLA:GPU compiles here, with no GPU, for GPUs that are described to it: which kernels, of which nodes, at what cost."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

import graphopt
from graphopt.errors import UnsupportedError
from graphopt.executable import Executable, ReportDocument
from graphopt.lowering.xla import aot, gpu_report
from graphopt.lowering.xla.aot import Compiled
from graphopt.lowering.xla.gpu_target import gpu_capability, gpu_names, target_config
from graphopt.target import Target, devices

GENERATED = Path(__file__).resolve().parents[2] / "samples" / "generated"
TARGET = Target.parse("xla-gpu:h100")
MEMORY = dict.fromkeys(("argument", "output", "temp", "alias", "generated_code"), 1 << 20)

needs_compiler = pytest.mark.skipif(
    not aot.gpu_compiler_installed(),
    reason="NOT TESTED: XLA:GPU is missing (pip install 'graphopt[xla-gpu]')",
)

TEXT = """<ir_version: 8, opset_import: ["": 18]>
g (float[256, 512] x, float[512, 1024] w, float[1024] b) => (float[256, 1024] y)
{ a = MatMul(x, w) c = Add(a, b) y = Relu(c) }"""

MODULE = """
%fused (p0: f32[256,512], p1: f32[512,1024], p2: f32[1024]) -> f32[256,1024] {
  %p0 = f32[256,512]{1,0} parameter(0)
  %p1 = f32[512,1024]{1,0} parameter(1)
  %p2 = f32[1024]{0} parameter(2)
  %dot.1 = f32[256,1024]{1,0} dot(%p0, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}, operand_precision={highest,highest}, metadata={op_name="jit(main)/go0_MatMul/dot_general"}
  %b = f32[256,1024]{1,0} broadcast(%p2), dimensions={1}, metadata={op_name="jit(main)/go1_Add/add"}
  ROOT %add.1 = f32[256,1024]{1,0} add(%dot.1, %b), metadata={op_name="jit(main)/go1_Add/add"}
}

%body (t: (s32[], f32[256,1024])) -> (s32[], f32[256,1024]) {
  %t = (s32[], f32[256,1024]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %v = f32[256,1024]{1,0} get-tuple-element(%t), index=1
  %copy.1 = f32[256,1024]{1,0} copy(%v), metadata={op_name="jit(main)/go2_Relu/max"}
  ROOT %r = (s32[], f32[256,1024]{1,0}) tuple(%i, %copy.1)
}

%cond (c: (s32[], f32[256,1024])) -> pred[] {
  %c = (s32[], f32[256,1024]{1,0}) parameter(0)
  ROOT %always = pred[] constant(true)
}

ENTRY %main (x: f32[256,512], w: f32[512,1024], b: f32[1024], k: f32[1,8,8,4], f: f32[6,3,3,4]) -> f32[256,1024] {
  %x = f32[256,512]{1,0} parameter(0), metadata={op_name="args[1]['x']"}
  %w = f32[512,1024]{1,0} parameter(1), metadata={op_name="args[0]['w']"}
  %b = f32[1024]{0} parameter(2), metadata={op_name="args[0]['b']"}
  %k = f32[1,8,8,4]{3,2,1,0} parameter(3)
  %f = f32[6,3,3,4]{3,2,1,0} parameter(4)
  %product = f32[256,1024]{1,0} fusion(%x, %w, %b), kind=kCustom, calls=%fused, metadata={op_name="jit(main)/go1_Add/add"}
  %conv = (f32[1,6,6,6]{3,2,1,0}, u8[4096]{0}) custom-call(%k, %f), window={size=3x3}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"
  %grad = (f32[1,8,8,4]{3,2,1,0}, u8[0]{0}) custom-call(%conv, %f), window={size=3x3}, dim_labels=b01f_o01i->b01f, operand_precision={highest,highest}, custom_call_target="__cudnn$convBackwardInput"
  %blas = (f32[256,1024]{1,0}, u8[64]{0}) custom-call(%x, %w), custom_call_target="__cublas$gemm", metadata={op_name="jit(main)/go0_MatMul/dot_general"}
  %zero = s32[] constant(0)
  %start = (s32[], f32[256,1024]{1,0}) tuple(%zero, %product)
  %loop = (s32[], f32[256,1024]{1,0}) while(%start), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %end = f32[256,1024]{1,0} get-tuple-element(%loop), index=1
}
"""


@functools.cache
def report() -> tuple[dict[str, Any], dict[str, Any], dict[str, dict[str, Any]]]:
    model = graphopt.load(TEXT)
    compiled = Compiled(b"", MODULE, MEMORY, 0.0, 0.0, "H100", "xla 1", "h100", 1.0)
    cost, memory, kernels = gpu_report.gpu_report(compiled, model, TARGET, {"precision": None})
    return cost, memory, {row["name"]: row for row in kernels}


def test_every_gpu_of_the_device_table_is_described() -> None:
    assert set(gpu_names()) == set(devices("gpu"))
    for name in gpu_names():
        text = target_config(name)
        major, minor = gpu_capability(name).split(".")
        assert f"major: {major} minor: {minor}" in text
        # Two sources that should say the same of the memory: the description and the datasheet.
        size = int(next(line for line in text.splitlines() if "device_memory_size" in line).split()[1])
        assert 0.9 < size / devices("gpu")[name].hbm_bytes < 1.08
        speed = int(next(line for line in text.splitlines() if "memory_bandwidth" in line).split()[1])
        assert 0.99 < speed / devices("gpu")[name].hbm_bytes_per_s < 1.01


def test_kernels_are_what_the_schedule_launches() -> None:
    _, _, kernels = report()
    assert {name: row["kind"] for name, row in kernels.items()} == {
        "product": "triton product",
        "conv": "cudnn convolution",
        "grad": "cudnn convolution",
        "blas": "cublas product",
        "copy.1": "copy",
    }
    assert kernels["copy.1"]["runs"] == 5


def test_work_is_counted_and_held_against_the_right_peak() -> None:
    _, _, kernels = report()
    product = 2 * 256 * 512 * 1024
    assert kernels["product"]["flops"] == kernels["blas"]["flops"] == product
    assert kernels["conv"]["flops"] == kernels["grad"]["flops"] == 2 * (6 * 6 * 6) * (3 * 3 * 4)
    h100 = devices("gpu")["h100"]
    assert kernels["product"]["seconds"] == pytest.approx(product / h100.flops["fp32"])
    assert kernels["product"]["bound"] == "arithmetic"
    # Without a precision XLA may use TF32: 7 times as fast, and then the bytes take longer.
    moved = 4 * (256 * 512 + 512 * 1024 + 256 * 1024)
    assert kernels["blas"]["bytes"] == moved, "scratch is not moved"
    assert kernels["blas"]["seconds"] == pytest.approx(moved / h100.hbm_bytes_per_s)
    assert kernels["copy.1"]["seconds"] == pytest.approx(5 * 2 * 4 * 256 * 1024 / h100.hbm_bytes_per_s)


def test_costs_are_laid_on_the_nodes() -> None:
    cost, memory, kernels = report()
    assert {row["op_type"] for row in cost["nodes"]} == {"MatMul", "Add", "Relu"}
    laid = sum(row["seconds"] for row in cost["nodes"])
    alone = kernels["conv"]["seconds"] + kernels["grad"]["seconds"]  # of no node
    assert laid + alone == pytest.approx(cost["seconds"])
    assert cost["seconds"] == pytest.approx(sum(row["seconds"] for row in kernels.values()))
    (matmul,) = [row for row in cost["nodes"] if row["op_type"] == "MatMul"]
    assert set(matmul["kernels"]) == {"product", "blas"}
    assert cost["launches"] == 4 + 5
    assert memory["hbm"] == 3 << 20


def test_the_page_of_an_executable_maps_least_times() -> None:
    cost, _, _ = report()
    model = graphopt.load(TEXT)
    page = Executable(TARGET, model, ReportDocument(), {"options": {}}, cost=cost).page()
    assert "Least time" in page and "nothing for starting it" in page


def test_programs_that_run_one_after_another_add_up() -> None:
    model = graphopt.load(TEXT)
    compiled = Compiled(b"", MODULE, MEMORY, 0.0, 0.0, "H100", "xla 1", "h100", 1.0)
    one = gpu_report.gpu_report(compiled, model, TARGET, {})
    cost, memory, kernels = gpu_report.combined_gpu({"segment0": one, "segment1": one})
    assert cost["seconds"] == pytest.approx(2 * one[0]["seconds"])
    assert sum(row["share"] for row in cost["nodes"]) == pytest.approx(
        sum(r["share"] for r in one[0]["nodes"]), abs=1e-4
    )
    assert memory["temp"] == 1 << 20, "temporaries are of one program at a time"
    assert len(kernels) == 2 * len(one[2])


def test_without_the_compiler_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aot, "gpu_compiler_installed", lambda: False)
    with pytest.raises(UnsupportedError, match="GO207") as error:
        graphopt.compile(TEXT, "xla-gpu:h100")
    assert "pip install 'graphopt[xla-gpu]'" in (error.value.next_step or "")


@needs_compiler
@pytest.mark.xla_gpu
@pytest.mark.parametrize("device", ["a100", "h100", "l4"])
def test_a_real_executable(device: str, tmp_path: Path) -> None:
    source = GENERATED / "mnist-cnn.onnx"
    made = graphopt.compile(source, f"xla-gpu:{device}", dims={"batch": 8})
    assert made.cost is not None and made.memory is not None
    served = {name for row in made.kernels for name in row["nodes"]}
    assert {n.name for n in made.model.graph if n.op_type in ("Conv", "Gemm", "MaxPool")} <= served
    assert made.cost["seconds"] > 0
    assert made.memory["argument"] > 250_000
    # What the text of the module says of the products must be what the model has.
    conv, gemm = 2 * 8 * 32 * 28 * 28 * 25, 2 * 8 * 6272 * 10
    padding = 1 - (28 * 5 - 6) ** 2 / (28 * 5) ** 2  # positions beyond the edge are not counted
    assert made.cost["matrix_flops"] == pytest.approx(conv * (1 - padding) + gemm, rel=1e-3)
    folder = made.save(tmp_path / "art")
    assert (folder / "gpu.executable").stat().st_size > 1000
    loaded = graphopt.load_artifact(folder)
    assert loaded.kernels == made.kernels
    with pytest.raises(UnsupportedError, match="GO605"):
        loaded.run({})


@needs_compiler
@pytest.mark.xla_gpu
def test_dimensions_must_be_bound() -> None:
    with pytest.raises(UnsupportedError, match="GO204"):
        graphopt.compile(GENERATED / "mnist-cnn.onnx", "xla-gpu:h100")
