"""The targets for NVIDIA GPUs on the command line: what is here, what a model lacks, what to install."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

import pytest
from conftest import MNIST, Cli

from graphopt.cli import doctor
from graphopt.cli import targets as listing
from graphopt.lowering.tensorrt_rtx import build
from graphopt.lowering.xla import aot
from graphopt.target import CAPABILITIES, devices

DET = (
    '<ir_version: 8, opset_import: ["": 18]> g (float[2, 3, 3] x) => (float[2] y) { a = Relu(x) y = Det(a) }'
)

needs_rtx = pytest.mark.skipif(
    not build.installed(), reason="NOT TESTED: tensorrt_rtx is missing (pip install 'graphopt[tensorrt-rtx]')"
)
needs_xla_gpu = pytest.mark.skipif(
    not aot.gpu_compiler_installed(),
    reason="NOT TESTED: XLA:GPU is missing (pip install 'graphopt[xla-gpu]')",
)


@pytest.fixture
def det(tmp_path: Path) -> Path:
    """A model with a node that TensorRT has no layer for."""
    path = tmp_path / "det.onnxtxt"
    path.write_text(DET)
    return path


def test_targets_name_the_gpus(cli: Cli) -> None:
    document = cli("targets", "--json").json
    assert document["capabilities"] == CAPABILITIES
    assert {row["name"] for row in document["devices"]["gpu"]} == set(devices("gpu"))
    shown = cli("targets").out
    assert "sm121" in shown and "h200" in shown and "not built" not in shown


def test_status_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    absent = ("tensorrt_rtx", *listing.GPU_PLUGINS)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in absent else find(name, *a)
    )
    for kind in ("tensorrt-rtx", "xla-gpu"):
        assert f"pip install 'graphopt[{kind}]'" in listing.status(kind)["compiles_here"]


def test_doctor_looks_for_the_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "tensorrt_rtx":
            return "1.7.1"
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    rtx, xla = doctor.gpu_compilers()
    assert (rtx["status"], rtx["found"]) == ("ok", "tensorrt_rtx 1.7.1")
    assert xla["status"] == "missing" and "pip install 'graphopt[xla-gpu]'" in xla["advice"]


def test_check_asks_the_table_where_there_is_no_parser(
    cli: Cli, det: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "installed", lambda: False)
    outcome = cli("check", det, "--target", "tensorrt-rtx:sm89", "--json")
    (finding,) = outcome.json["targets"]
    assert outcome.code == 3
    assert [row["op_type"] for row in finding["unsupported"]] == ["Det"]
    assert "pip install" in finding["notes"][0]
    assert not cli("check", MNIST, "--target", "tensorrt-rtx:sm89", "--json").json["targets"][0][
        "unsupported"
    ]


@needs_rtx
@pytest.mark.tensorrt_rtx
def test_check_asks_the_parser(cli: Cli, det: Path) -> None:
    outcome = cli("check", det, "--target", "tensorrt-rtx:sm89", "--json")
    (row,) = outcome.json["targets"][0]["unsupported"]
    assert outcome.code == 3
    assert (row["op_type"], row["reason"]) == ("Det", "TensorRT-RTX does not support Det")
    assert cli("check", MNIST, "--target", "tensorrt-rtx:sm89,sm120").code == 0


@needs_rtx
@pytest.mark.tensorrt_rtx
def test_compile_shows_kernels_and_writes_the_engine(cli: Cli) -> None:
    outcome = cli("compile", MNIST, "--target", "tensorrt-rtx:sm89", "--dim", "batch=1:4:16", "-o", "art")
    assert outcome.code == 0, outcome.err
    assert "model.engine" in outcome.out and "model_ctx.onnx" in outcome.out
    assert "/conv/Conv" in outcome.out and "weights" in outcome.out
    run = cli("run", "art")
    assert run.code == 3
    assert run.err.startswith("GO605") and "sm89" in run.err


@needs_xla_gpu
@pytest.mark.xla_gpu
def test_compile_for_an_absent_gpu_shows_what_its_kernels_need(cli: Cli) -> None:
    outcome = cli("compile", MNIST, "--target", "xla-gpu:h100", "--dim", "batch=8", "-o", "art")
    assert outcome.code == 0, outcome.err
    assert "at least" in outcome.out and "nothing for starting it" in outcome.out
    assert "gpu.executable" in outcome.out
    assert "cudnn convolution" in outcome.out


def test_a_range_is_refused_where_shapes_must_be_fixed(cli: Cli) -> None:
    outcome = cli("compile", MNIST, "--target", "xla-gpu:h100", "--dim", "batch=1:4:16", "--no-save")
    assert outcome.code in (2, 3)
    assert outcome.err.startswith(("GO701", "GO207"))
