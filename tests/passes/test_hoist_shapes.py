"""hoist-shapes."""

from __future__ import annotations

import pytest
from checking import check_pass

from graphopt.passes.hoist_shapes import HoistShapes

CONSTANTS = "<int64[1] one = {1}, int64[2] wide = {1, 5}, float[1] half = {0.5}>"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("m = Max(x, z) y = Shape(m)", "y = Shape(x)"),
        ("m = Max(z, x) y = Shape<start = 1>(m)", "y = Shape(z)"),
        ("m = Exp(x) y = Shape<start = -2, end = -1>(m)", "y = Shape<start = 0, end = 1>(x)"),
        ("m = Unsqueeze(x, one) y = Shape<start = 2>(m)", "y = Shape<start = 1, end = 2>(x)"),
        (
            "m = Unsqueeze(x, one) e = Exp(m) y = Shape<start = 2, end = 3>(e)",
            "y = Shape<start = 1, end = 2>(x)",
        ),
        ("m = Unsqueeze(x, one) y = Shape(m)", None),
        ("m = Expand(half, wide) y = Shape(m)", None),
        ("m = Add(z, half) e = Unsqueeze(m, one) f = Add(x, e) y = Shape(f)", None),
        ("m = MatMul(x, w) y = Shape<end = 1>(m)", None),
        ("m = Exp(x) y = Shape<start = 1, end = 1>(m)", None),
    ],
)
def test_rules(before: str, after: str | None) -> None:
    head = f"g (float[N, M] x, float[M] z, float[M, 3] w) => (int64[K] y) {CONSTANTS}"
    dims = {"N": 2, "M": 3}
    text = None if after is None else f"{head} {{ {after} }}"
    check_pass(HoistShapes(), f"{head} {{ {before} }}", text, dims=dims)


def test_a_value_that_others_use_stays() -> None:
    head = "g (float[N, M] x) => (int64[2] y, float[N, M] z)"
    check_pass(HoistShapes(), f"{head} {{ m = Exp(x) y = Shape(m) z = Exp(m) }}")
    check_pass(HoistShapes(), f"{head} {{ z = Exp(x) y = Shape(z) }}")
