"""What the docstring of a pass shows is what the pass does."""

from __future__ import annotations

import pytest
from checking import check_pass
from examples import example_of, model_of

from graphopt import passes
from graphopt.transform.pipeline import parse_pipeline

PROSE = "its docstring has a sketch of the effect, which is not written as a model yet"

WITHOUT = {
    "infer-shapes": "what it learns is types, which a model that is read again has learnt already",
    **dict.fromkeys(
        (
            "bind-dims",
            "eliminate-index-grids",
            "fold-comparisons",
            "fold-sequences",
            "fuse-bias",
            "lower-activations",
            "merge-projections",
            "merge-slices",
            "merge-small-layouts",
            "prune",
            "quantize",
            "raise-attention",
            "raise-batched-matmul",
            "raise-causal-masks",
            "raise-gelu",
            "raise-group-normalization",
            "raise-instance-normalization",
            "raise-layer-normalization",
            "raise-matmul",
            "raise-rms-normalization",
            "raise-rotary-embedding",
            "raise-softmax",
            "select-attention",
            "select-global-pools",
            "shrink-masks",
            "split-projections",
            "unroll-loops",
            "widen-scalars",
        ),
        PROSE,
    ),
}
"""Passes whose docstrings have no example that could be run, and why."""


@pytest.mark.parametrize("name", [n for n in passes.names() if n not in WITHOUT])
def test_example(name: str) -> None:
    example = example_of(passes.find(name))
    assert example is not None, "a pass shows in its docstring what it does: see CONTRIBUTING.md"
    (pass_,) = parse_pipeline(example.get("pass", name))
    assert type(pass_) is passes.find(name)
    given = example.get("given", "")
    before, after = (model_of(f"{given}; {example[key]}") for key in ("before", "after"))
    changed = before.clone()
    pass_.run(changed)
    assert changed.opset_imports[""] == after.opset_imports[""]
    check_pass(pass_, before, after)


def test_exceptions_are_passes() -> None:
    assert set(WITHOUT) <= set(passes.names())
