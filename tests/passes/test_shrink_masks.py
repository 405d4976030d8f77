"""shrink-masks: what repeats a mask goes, what changes it stays."""

from __future__ import annotations

import numpy as np
import pytest
from checking import run_xla
from rewriting import check_declines, operators, with_weights

from graphopt.passes.shrink_masks import ShrinkMasks

HIDE = {"zero": np.float32(0), "low": np.finfo(np.float32).min}


def source(body: str, mask: str = "bool[2, 1, 1, 6]") -> str:
    return f"""g (float[2, 3, 6, 4] q, {mask} m, bool[1, 1, 6, 1] all, float zero, float low, int64[4] s)
        => (float[2, 3, 6, 4] y) {{ {body} }}"""


def weights(visible: bool = True) -> dict[str, np.ndarray]:
    every = np.ones((1, 1, 6, 1), bool)
    every[0, 0, 2] = visible
    return {**HIDE, "all": every, "s": np.array([2, 1, 6, 6], np.int64)}


@pytest.mark.parametrize(
    ("body", "after"),
    [
        ("a = And(m, all) w = Where(a, zero, low) y = Attention(q, q, q, w)", "Where Attention"),
        ("a = Expand(m, s) b = Not(a) y = Attention(q, q, q, b)", "Not Attention"),
    ],
)
def test_repetitions_go(body: str, after: str) -> None:
    model = with_weights(source(body), weights(), opset=23)
    visible = np.array([[1, 1, 1, 1, 0, 1], [0, 1, 0, 0, 1, 1]], bool)
    feeds = {
        "q": np.random.default_rng(0).standard_normal((2, 3, 6, 4)).astype(np.float32),
        "m": visible[:, None, None],
    }
    before = np.asarray(run_xla(model.clone(), feeds)["y"])
    assert ShrinkMasks().run(model).modified
    assert operators(model) == after.split()
    np.testing.assert_array_equal(np.asarray(run_xla(model, feeds)["y"]), before)
    assert not ShrinkMasks().run(model).modified


@pytest.mark.parametrize(
    ("body", "mask", "visible"),
    [
        ("a = And(m, all) y = Attention(q, q, q, a)", "bool[2, 1, 1, 6]", False),
        ("a = Expand(m, s) y = Attention(q, q, q, a)", "bool[2, 1, 6, 1]", True),  # shorter, not broadcast
        ("y = Attention(q, q, q, m)", "bool[2, 1, 6, 6]", True),
    ],
)
def test_what_stays(body: str, mask: str, visible: bool) -> None:
    check_declines(
        ShrinkMasks(), source(body, mask), "the mask is not broadcast", weights=weights(visible), opset=23
    )
