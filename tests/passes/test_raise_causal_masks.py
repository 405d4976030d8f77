"""raise-causal-masks: a triangle is an attribute, anything else a mask."""

from __future__ import annotations

import numpy as np
import pytest
from checking import run_xla
from rewriting import check_declines, with_weights

from graphopt.ir import Model
from graphopt.passes.raise_causal_masks import RaiseCausalMasks

LOWEST = np.finfo(np.float32).min
CLOSED = np.triu(np.ones((6, 6), bool), 1)
ONNX_TEXT = """g (float[2, 3, 6, 4] q, float[2, 3, 6, 4] k, float[2, 3, 6, 4] v, KIND[1, 1, 6, 6] m)
    => (float[2, 3, 6, 4] y) { y = Attention (q, k, v, m) }"""


def source(mask: np.ndarray) -> str:
    return ONNX_TEXT.replace("KIND", "bool" if mask.dtype == bool else "float")


def run(model: Model) -> np.ndarray:
    generator = np.random.default_rng(0)
    feeds = {n: generator.standard_normal((2, 3, 6, 4)).astype(np.float32) for n in "qkv"}
    return np.asarray(run_xla(model, feeds)["y"])


@pytest.mark.parametrize("fill", [LOWEST, -np.inf, None])
def test_a_triangle(fill: float | None) -> None:
    mask = ~CLOSED if fill is None else np.where(CLOSED, np.float32(fill), np.float32(0))
    model = with_weights(source(mask), {"m": mask[None, None]}, opset=23)
    before = run(model.clone())
    assert RaiseCausalMasks().run(model).modified
    (node,) = model.graph
    assert len(node.inputs) == 3
    assert node.attributes["is_causal"].value == 1
    np.testing.assert_allclose(run(model), before, rtol=1e-6, atol=1e-6)
    assert not RaiseCausalMasks().run(model).modified


@pytest.mark.parametrize(
    "mask",
    [
        np.where(CLOSED, np.float32(-1e4), np.float32(0)),  # hides much, but not whatever the score
        np.where(CLOSED.T, LOWEST, np.float32(0)),
        np.where(CLOSED, LOWEST, np.float32(1)),  # moves scores, which is no mask
        np.where(np.eye(6, dtype=bool), LOWEST, np.where(CLOSED, LOWEST, np.float32(0))),
    ],
)
def test_no_triangle(mask: np.ndarray) -> None:
    mask = mask.astype(np.float32)
    reason = "the mask is no triangle"
    check_declines(RaiseCausalMasks(), source(mask), reason, weights={"m": mask[None, None]}, opset=23)


def test_more_keys_than_queries() -> None:
    text = """g (float[2, 3, 5, 4] q, float[2, 3, 6, 4] k, float[2, 3, 6, 4] v, bool[5, 6] m)
        => (float[2, 3, 5, 4] y) { y = Attention (q, k, v, m) }"""
    mask = np.tril(np.ones((5, 6), bool))
    check_declines(RaiseCausalMasks(), text, "as many queries as keys", weights={"m": mask}, opset=23)
