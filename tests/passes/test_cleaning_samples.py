"""The cleaning passes together on real models: same answers, a fixed point, and no towers left."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checking import check_interface, run_onnxruntime

from graphopt.ir.io import load
from graphopt.transform import Pipeline

ROOT = Path(__file__).parents[2]
CLEANING = (
    "eliminate-identity,infer-shapes,inline-branches,fold-shapes,fold-constants,eliminate-noops,"
    "merge-transposes,merge-reshapes,merge-casts,eliminate-common-subexpressions,"
    "deduplicate-initializers,eliminate-dead-nodes"
)
# Nodes before and the most that may be left.
NODES = {
    "mnist-cnn": (9, 7),
    "bert-tiny": (182, 123),
    "gpt-tiny": (305, 130),
    "recommender": (31, 26),
    "magika": (95, 76),
    "ppocr-cls": (261, 233),
    "ppocr-rec": (449, 408),
    "silero-vad-16k": (190, 77),
    "silero-vad": (348, 150),
    "silero-vad-sequence": (34, 27),
}
FETCHED = ("magika", "ppocr-cls", "ppocr-rec", "silero-vad-16k", "silero-vad", "silero-vad-sequence")
# Folding makes the weights of an LSTM constants, which ONNX Runtime packs and multiplies otherwise.
ROUNDED = frozenset({"silero-vad-16k", "silero-vad"})


def sample(name: str) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "samples"))
        one = importlib.import_module("catalogue").samples([name], fetch=False, folder=ROOT / "models")[0]
    sys.modules.pop("catalogue", None)
    if not one.path.exists():
        pytest.skip("the model was not fetched")
    return one


@pytest.mark.parametrize(
    "name", [n if n not in FETCHED else pytest.param(n, marks=pytest.mark.models) for n in NODES]
)
def test_cleaning_keeps_every_answer_and_comes_to_rest(name: str) -> None:
    one = sample(name)
    model = load(one.path)
    before = model.clone()
    nodes, left = NODES[name]
    assert sum(1 for _ in model.graph.all_nodes()) == nodes
    for _ in range(3):
        model, report = Pipeline(CLEANING).run(model)
        if not any(record.modified for record in report.passes):
            break
    else:
        pytest.fail("three rounds did not reach a fixed point")
    assert report.nodes_after <= left
    check_interface(before, model)
    feeds = one.feeds()
    old, new = run_onnxruntime(before, feeds), run_onnxruntime(model, feeds)
    for key, expected in old.items():
        if name in ROUNDED:
            np.testing.assert_allclose(new[key], expected, rtol=1e-5, atol=2e-6)
        else:
            np.testing.assert_array_equal(new[key], expected)


@pytest.mark.parametrize("name", ["bert-tiny", "gpt-tiny"])
def test_binding_leaves_no_shape_arithmetic(name: str) -> None:
    one = sample(name)
    model = load(one.path)
    before = model.clone()
    dims = {"batch": 2, "sequence": 9}
    bind = "bind-dims{dims=batch=2:sequence=9}"
    model, _ = Pipeline(f"{bind},{CLEANING}").run(model)
    kinds = {node.op_type for node in model.graph}
    assert not kinds & {"Shape", "Range", "ConstantOfShape", "Slice", "Expand"}
    feeds = one.feeds(dims=dims)
    old, new = run_onnxruntime(before, feeds), run_onnxruntime(model, feeds)
    for key, expected in old.items():
        np.testing.assert_allclose(new[key], expected, rtol=1e-5, atol=1e-6)
