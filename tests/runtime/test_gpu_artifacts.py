"""What was compiled ahead of time for a GPU, run on one: ``pytest -m gpu -n 0`` on a machine that has it.

Elsewhere only the messages are tested that say what is missing.
"""

from __future__ import annotations

import os
import types
from pathlib import Path

import pytest

import graphopt
from graphopt.errors import UnsupportedError
from graphopt.lowering.tensorrt_rtx import build
from graphopt.lowering.xla import aot
from graphopt.runtime import devices, tensorrt_rtx, xla
from graphopt.target import CAPABILITIES

MNIST = Path(__file__).resolve().parents[2] / "samples" / "generated" / "mnist-cnn.onnx"
HERE = devices.compute_capabilities()
needs_gpu = pytest.mark.skipif(
    not HERE and not os.environ.get("GRAPHOPT_REQUIRE_GPU"), reason="NOT TESTED: there is no NVIDIA GPU"
)


@needs_gpu
@pytest.mark.gpu
@pytest.mark.skipif(not build.installed(), reason="NOT TESTED: tensorrt_rtx is missing")
def test_an_engine_agrees_with_the_original(tmp_path: Path) -> None:
    if HERE[0] not in CAPABILITIES:
        pytest.skip(f"TensorRT-RTX builds nothing for {HERE[0]}")
    precision = "fp16" if HERE[0] == "sm75" else None
    made = graphopt.compile(MNIST, f"tensorrt-rtx:{HERE[0]}", dims={"batch": (1, 4, 16)}, precision=precision)
    loaded = graphopt.load_artifact(made.save(tmp_path / "art"))
    for executable in (made, loaded):
        for batch in (1, 4, 16):
            report = graphopt.verify(executable, MNIST, dims={"batch": batch})
            assert report.ok, report.table()


@needs_gpu
@pytest.mark.gpu
@pytest.mark.skipif(not aot.gpu_compiler_installed(), reason="NOT TESTED: XLA:GPU is missing")
def test_a_program_for_another_gpu_of_the_family_runs_too(tmp_path: Path) -> None:
    made = graphopt.compile(MNIST, "xla-gpu:h100", dims={"batch": 8})
    report = graphopt.verify(graphopt.load_artifact(made.save(tmp_path / "art")), MNIST, dims={"batch": 8})
    assert report.ok, report.table()


def test_no_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_rtx, "compute_capabilities", lambda: ())
    with pytest.raises(UnsupportedError, match="GO605") as error:
        tensorrt_rtx.require_device(("sm89", "sm120"))
    assert error.value.expected == "a GPU of compute capability sm89 or sm120"
    monkeypatch.setattr(xla, "cuda_device_count", lambda: 0)
    with pytest.raises(UnsupportedError, match=r"GO605.*there is none here"):
        xla.require_gpu()


def test_another_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_rtx, "compute_capabilities", lambda: ("sm86",))
    tensorrt_rtx.require_device(("sm89", "sm86"))
    with pytest.raises(UnsupportedError, match="built for other GPUs") as error:
        tensorrt_rtx.require_device(("sm89",))
    assert error.value.found == "sm86"
    assert "--target tensorrt-rtx:sm89,sm86" in (error.value.next_step or "")


def test_jax_without_its_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xla, "cuda_device_count", lambda: 1)
    with pytest.raises(UnsupportedError, match="JAX cannot use the GPU") as error:
        xla.require_gpu()  # the tests run with JAX_PLATFORMS=cpu
    assert error.value.code == "GO605"


def test_a_missing_provider_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        tensorrt_rtx, "importlib", types.SimpleNamespace(util=types.SimpleNamespace(find_spec=lambda _: None))
    )
    with pytest.raises(UnsupportedError, match="GO605") as error:
        tensorrt_rtx.open_engine("model_ctx.onnx")
    assert "pip install onnxruntime-ep-nv-tensorrt-rtx" in (error.value.next_step or "")


def test_a_provider_that_does_not_load_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / tensorrt_rtx.PLUGIN
    package.mkdir()
    (package / "__init__.py").write_text("def get_library_path():\n    return '/nowhere/libprovider.so'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UnsupportedError, match="cannot be loaded") as error:
        tensorrt_rtx.open_engine("model_ctx.onnx")
    assert "libprovider.so" in str(error.value.found)
