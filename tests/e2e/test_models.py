"""Every sample model, fetched and generated, through the public API: each target and level agrees
with ONNX Runtime on the original model, its optimisations off."""

from __future__ import annotations

import functools
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

import graphopt
from graphopt.lowering.xla.aot import tpu_compiler_installed

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "samples"))
from catalogue import Sample, samples  # noqa: E402

GENERATED = ["mnist-cnn", "bert-tiny", "gpt-tiny", "recommender"]
FETCHED = [
    "ppocr-det",
    "ppocr-rec",
    "ppocr-cls",
    "silero-vad",
    "silero-vad-16k",
    "silero-vad-sequence",
    "magika",
]
MODELS = [*GENERATED, *(pytest.param(name, marks=[pytest.mark.models, pytest.mark.slow]) for name in FETCHED)]


@functools.cache
def sample(name: str) -> Sample:
    (found,) = samples([name], folder=ROOT / "models")
    return found


def binding(item: Sample) -> dict[str, Any]:
    return {"dims": item.dims, "shapes": item.shapes, "constants": item.constants}


def check(executable: graphopt.Executable, item: Sample) -> None:
    feeds = [{k: v for k, v in item.feeds(seed).items() if k not in item.constants} for seed in (0, 1)]
    report = graphopt.verify(executable, against=item.path, feeds=feeds, constants=item.constants)
    assert report.ok, report.table()


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("target", ["xla-cpu", "cuda", "cpu"])
@pytest.mark.parametrize("name", MODELS)
def test_static(name: str, target: str, level: int) -> None:
    item = sample(name)
    executable = graphopt.compile(item.path, target=target, level=level, **binding(item))
    check(executable, item)
    report = executable.report
    assert report["nodes_after"] <= report["nodes_before"]


@pytest.mark.parametrize("name", GENERATED)
def test_dynamic_dims_at_two_sizes(name: str) -> None:
    item = sample(name)
    executable = graphopt.compile(item.path, target="xla-cpu")
    for batch in (1, 3):
        feeds = item.feeds(0, dims={**item.dims, "batch": batch})
        report = graphopt.verify(executable, against=item.path, feeds=[feeds])
        assert report.ok, report.table()


@pytest.mark.tpu_compiler
@pytest.mark.slow
@pytest.mark.skipif(
    not tpu_compiler_installed(), reason="libtpu is not installed: pip install 'graphopt[tpu]'"
)
@pytest.mark.parametrize("name", MODELS)
def test_tpu(name: str, tmp_path: Path) -> None:
    item = sample(name)
    executable = graphopt.compile(item.path, target="tpu:v5e", **binding(item))
    assert executable.cost is not None
    assert executable.memory is not None
    assert executable.cost["unattributed_cycles"] < 0.05 * executable.cost["total_cycles"]
    known = {n.name for n in graphopt.load(item.path).graph.all_nodes()}
    for node in executable.cost["nodes"]:
        assert set(node["origins"]) <= known
    folder = executable.save(tmp_path / "art")
    check(graphopt.load_artifact(folder), item)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist-cnn", "bert-tiny"])
@pytest.mark.parametrize("target", ["xla-cpu", "cuda"])
def test_bf16_is_close_and_keeps_the_interface(name: str, target: str) -> None:
    item = sample(name)
    executable = graphopt.compile(item.path, target=target, precision="bf16", **binding(item))
    assert {i["dtype"] for i in executable.inputs} <= {"float32", "int64"}
    if target == "cuda":  # ONNX Runtime's CPU provider has no bfloat16 kernels to check it with
        return
    check(executable, item)


def test_torch_is_not_needed() -> None:
    assert "torch" not in sys.modules or importlib.util.find_spec("torch") is not None
