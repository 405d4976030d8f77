"""What needs an NVIDIA GPU: ``make test-gpu``, or ``pytest -m gpu -n 0``. Elsewhere all of it is skipped."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

import graphopt
from graphopt.cli import main
from graphopt.errors import ModelError, PolicyError
from graphopt.lowering.cuda.placement import CPU, predict
from graphopt.runtime.devices import why_unusable
from graphopt.runtime.ort import OrtSession
from graphopt.target import Target

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
SAMPLES = sorted((Path(__file__).parents[1] / "samples" / "generated").glob("*.onnx"))
MNIST = next(path for path in SAMPLES if path.stem == "mnist-cnn")
REASON = why_unusable(CUDA)
REQUIRED = bool(os.environ.get("GRAPHOPT_REQUIRE_GPU"))
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(REASON is not None and not REQUIRED, reason=f"no GPU to run on: {REASON}"),
]
needs_tensorrt = pytest.mark.skipif(
    why_unusable(TENSORRT) is not None, reason=f"no TensorRT: {why_unusable(TENSORRT)}"
)
TARGETS = ["cuda", pytest.param("tensorrt", marks=needs_tensorrt)]


def test_the_gpu_can_be_used() -> None:
    assert REASON is None


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: p.stem)
def test_samples_run_there_and_agree_with_the_original(path: Path, target: str) -> None:
    executable = graphopt.compile(path, target, strict=True)
    session: Any = executable.session(strict=True)
    assert session.fallbacks == []
    report = graphopt.verify(executable, path, runs=2)
    assert report.ok, report.table()


@pytest.mark.parametrize("precision", ["fp16", "bf16", "tf32"])
@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: p.stem)
def test_samples_in_other_precisions(path: Path, precision: str) -> None:
    executable = graphopt.compile(path, "cuda", precision=precision)
    executable.session(strict=True)
    report = graphopt.verify(executable, path, runs=2)
    assert report.ok, report.table()


@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: p.stem)
def test_onnxruntime_puts_nodes_where_they_are_predicted(path: Path) -> None:
    executable = graphopt.compile(path, "cuda")
    assert executable.manifest["onnxruntime"]["placement_source"].startswith("ONNX Runtime")
    assert executable.manifest["onnxruntime"]["summary"]["disagreements"] == 0
    predicted = {p.node: p.provider for p in predict(executable.model, Target.parse("cuda"))}
    assert {row["node"]: row["provider"] for row in executable.placement} == predicted


def test_a_node_without_a_kernel_is_refused_by_default(tmp_path: Path) -> None:
    text = (
        '<ir_version: 9, opset_import: ["" : 18]> g (float[4] x) => (float[4] y) { a = Exp(x) y = Asin(a) }'
    )
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    assert main(["compile", str(tmp_path / "m.onnx"), "-t", "cuda", "-o", str(tmp_path / "a"), "-q"]) == 0
    assert main(["run", str(tmp_path / "a"), "--random", "-q"]) == PolicyError.exit_code
    assert main(["run", str(tmp_path / "a"), "--random", "-q", "--no-strict"]) == 0


def test_a_captured_graph_gives_the_same_again_and_again() -> None:
    plain = graphopt.compile(MNIST, "cuda", dims={"batch": 2} if _free(MNIST) else None)
    captured = graphopt.compile(MNIST, "cuda", dims={"batch": 2} if _free(MNIST) else None)
    dict(captured.manifest["onnxruntime"]["providers"])[CUDA]["enable_cuda_graph"] = "1"
    shape = [d if isinstance(d, int) else 2 for d in plain.inputs[0]["shape"]]
    name = plain.inputs[0]["name"]
    for seed in range(5):
        x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        for key, expected in plain.run({name: x}).items():
            np.testing.assert_allclose(captured.run({name: x})[key], expected, rtol=1e-4, atol=1e-5)


def _free(path: Path) -> bool:
    return any(not isinstance(d, int) for v in graphopt.load(path).graph.inputs for d in (v.shape or ()))


@needs_tensorrt
def test_engines_are_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE_DIR", str(tmp_path / "cache"))
    folder = graphopt.compile(MNIST, "tensorrt").save(tmp_path / "artifact")
    assert main(["run", str(folder), "--random", "-q"]) == 0
    engines = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*.engine")}
    assert engines
    assert main(["run", str(folder), "--random", "-q"]) == 0
    assert {p: p.stat().st_mtime_ns for p in engines} == engines
    for path in engines:
        path.write_bytes(b"no engine")
    code = main(["run", str(folder), "--random", "-q"])
    assert code in (0, ModelError.exit_code), "built anew, or a clear message"


def test_too_little_memory_is_a_clear_message() -> None:
    text = """<ir_version: 9, opset_import: ["" : 18]> g (int64[2] s) => (float t) {
        z = ConstantOfShape(s) e = Exp(z) t = ReduceSum<keepdims = 0>(e) }"""
    session = OrtSession(onnx.parser.parse_model(text).SerializeToString(), [CUDA, CPU])
    with pytest.raises(ModelError, match="not enough memory"):
        session.run({"s": np.array([1 << 20, 1 << 20])})


def test_tune_and_bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "tuned"
    assert main(["tune", str(MNIST), "-t", "cuda", "--budget", "20s", "-o", str(folder), "-q"]) == 0
    capsys.readouterr()
    assert main(["bench", str(folder), "--original", str(MNIST), "--runs", "50", "--json"]) == 0
    original, tuned = json.loads(capsys.readouterr().out)["candidates"]
    assert tuned["speedup_interval"][1] > 0.8, (original, tuned)
