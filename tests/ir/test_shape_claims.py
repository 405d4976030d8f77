"""Shapes are what is proven, not what is likely."""

from __future__ import annotations

import pytest
from checking import model_from

from graphopt.ir import SymbolicDim

HEAD = (
    "g (float[N] x, float[M] z, float[N, S, 4] w, int64[1] k) => (float[Q] y) "
    "<int64[1] zero = {0}, int64[1] one = {1}, int64[1] far = {9223372036854775807}, "
    "int64[1] h = {128}, int64[1] last = {2}, int64[1] minus = {-1}, float[1] one_float = {1.0}, "
    "float[1, 128] table = {" + ", ".join(["0.0"] * 128) + "}>"
)


def shape_of(nodes: str) -> list[str]:
    model = model_from(f"{HEAD} {{ {nodes} y = Neg(r) }}")
    value = next(v for n in model.graph for v in n.outputs if v.name == "r")
    assert value.shape is not None
    return [
        "?" if isinstance(d, SymbolicDim) and str(d.value).startswith("_d") else str(d)
        for d in value.shape.dims
    ]


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("r = Add(x, z)", ["?"]),
        ("r = Add(x, x)", ["N"]),
        ("a = Unsqueeze(x, one) r = Add(a, z)", ["N", "M"]),
        ("s = Shape(z) r = Expand(x, s)", ["?"]),
        ("s = Shape(x) r = Expand(x, s)", ["N"]),
        ("r = Reshape(x, k)", ["?"]),
        ("r = Expand(x, h)", ["128"]),
        ("r = Slice(w, zero, h, one)", ["N", "?", "4"]),
        ("r = Slice(w, zero, far, one)", ["N", "S", "4"]),
        ("r = Slice(w, k, far, one)", ["N", "?", "4"]),
        (
            "s = Shape<start = 1, end = 2>(w) t = Slice(table, zero, s, one) r = Add(t, t)",
            ["1", "Min(128, S)"],
        ),
        (
            "s = Shape<start = 1, end = 2>(w) t = Slice(table, zero, s, one) "
            "u = Unsqueeze(t, last) r = Add(u, w)",
            ["N", "S", "4"],
        ),
        ("s = Shape(z) e = Equal(s, far) t = Where(e, one, s) r = Expand(one_float, t)", ["?"]),
        ("s = Shape(z) e = Equal(s, minus) t = Where(e, one, s) r = Expand(one_float, t)", ["M"]),
        (
            "s = Shape(z) d = Sub(s, one) e = Equal(d, minus) t = Where(e, one, d) r = Expand(one_float, t)",
            ["?"],
        ),
        ("s = Shape<start = 1, end = 2>(w) d = Sub(s, s) r = Slice(table, d, s, one)", ["1", "Min(128, S)"]),
    ],
)
def test_dimension_is_proven_or_unknown(nodes: str, expected: list[str]) -> None:
    assert shape_of(nodes) == expected
