"""The fusions and raising passes together on whole models, against ONNX Runtime without optimisations."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from checking import check_interface, check_same_results, run_onnxruntime
from rewriting import operators

from graphopt.ir import Model
from graphopt.ir.io import load
from graphopt.transform import Exactness, Pipeline

SAMPLES = Path(__file__).parents[2] / "samples"
FUSIONS = (
    "canonicalize-arithmetic,fuse-conv-bn,fuse-bias,fuse-pad,fuse-matmul-add,raise-layer-normalization,"
    "raise-hard-swish,raise-gelu{upgrade=true},push-transposes"
)
GENERATED = ["bert-tiny", "gpt-tiny", "mnist-cnn", "recommender"]


def sample(name: str) -> tuple[Model, dict[str, np.ndarray]]:
    """A generated sample and its feeds."""
    sys.path.insert(0, str(SAMPLES))
    try:
        import catalogue
    finally:
        sys.path.remove(str(SAMPLES))
    found = next(s for s in catalogue.samples([name], fetch=False) if s.name == name)
    return load(str(found.path)), found.feeds(0)


@pytest.mark.parametrize("name", GENERATED)
def test_fusions_keep_the_answers(name: str) -> None:
    model, feeds = sample(name)
    original = model.clone()
    model, report = Pipeline(FUSIONS).run(model)
    check_interface(original, model)
    check_same_results(original, model, feeds, Exactness.REASSOCIATES)
    again, second = Pipeline(FUSIONS).run(model)
    assert second.nodes_after == report.nodes_after
    assert not any(record.modified for record in second.passes), [r.counts for r in second.passes]
    assert again is model


@pytest.mark.parametrize(
    ("name", "raised"),
    [
        ("bert-tiny", {"LayerNormalization": 5, "Gelu": 2, "Erf": 0, "Sqrt": 0, "ReduceMean": 0}),
        ("gpt-tiny", {"LayerNormalization": 5, "Gelu": 2, "Tanh": 0, "Sqrt": 0, "ReduceMean": 0}),
    ],
)
def test_every_normalization_and_activation_is_found(name: str, raised: dict[str, int]) -> None:
    model, _ = sample(name)
    model, _ = Pipeline(FUSIONS).run(model)
    counts = Counter(operators(model))
    assert {op: counts[op] for op in raised} == raised


@pytest.mark.parametrize("name", GENERATED)
def test_half_precision_stays_close(name: str) -> None:
    model, feeds = sample(name)
    original = model.clone()
    model, _ = Pipeline(FUSIONS + ",narrow-float{to=fp16},narrow-int").run(model)
    check_interface(original, model)
    check_same_results(original, model, feeds, Exactness.LOSSY)


@pytest.mark.parametrize("name", GENERATED)
def test_narrow_indices_change_no_bit(name: str) -> None:
    model, feeds = sample(name)
    original = model.clone()
    model, _ = Pipeline("narrow-int").run(model)
    expected, found = run_onnxruntime(original, feeds), run_onnxruntime(model, feeds)
    for output, reference in expected.items():
        np.testing.assert_array_equal(found[output], reference)
