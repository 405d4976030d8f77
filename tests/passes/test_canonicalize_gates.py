"""canonicalize-gates: the order of a value, its gate, and what both multiply."""

from __future__ import annotations

import pytest
from checking import check_pass

from graphopt.passes.canonicalize_gates import CanonicalizeGates

HEAD = "g (float[N, 4] x, float[N, 4] u) => (float[N, 4] y{more}) <float c = {{1.702}}>"
SWIGLU = "s = Sigmoid(x) p = Mul(x, s) y = Mul(p, u)"


def text(body: str, more: str = "") -> str:
    return HEAD.format(more=more) + f"{{ {body} }}"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("s = Sigmoid(x) y = Mul(s, x)", "s = Sigmoid(x) y = Mul(x, s)"),
        ("a = Mul(x, c) s = Sigmoid(a) y = Mul(s, x)", "a = Mul(x, c) s = Sigmoid(a) y = Mul(x, s)"),
        ("s = Sigmoid(x) p = Mul(s, x) y = Mul(u, p)", SWIGLU),
        ("s = Sigmoid(x) p = Mul(s, u) y = Mul(x, p)", SWIGLU),
        ("s = Sigmoid(x) p = Mul(u, s) y = Mul(p, x)", SWIGLU),
        ("s = Sigmoid(x) p = Mul(x, s) y = Mul(u, p)", SWIGLU),
        ("a = Gelu(x) y = Mul(u, a)", "a = Gelu(x) y = Mul(a, u)"),
    ],
)
def test_orders(before: str, after: str) -> None:
    check_pass(CanonicalizeGates(), text(before), text(after), opset=20)


@pytest.mark.parametrize(
    "body",
    [
        SWIGLU,
        "s = Sigmoid(x) y = Mul(x, s)",
        "s = Sigmoid(u) y = Mul(s, x)",
        "s = Sigmoid(x) y = Mul(s, s)",
        "a = Gelu(x) b = Gelu(u) y = Mul(a, b)",
        "a = Gelu(x) y = Mul(a, c)",
        "s = Sigmoid(u) p = Mul(s, x) y = Mul(x, p)",
    ],
)
def test_what_stays(body: str) -> None:
    check_pass(CanonicalizeGates(), text(body), opset=20)


def test_products_and_gates_that_others_use_stay() -> None:
    body = "s = Sigmoid(x) p = Mul(s, u) y = Mul(x, p)"
    check_pass(CanonicalizeGates(), text(body, ", float[N, 4] p"), opset=20)
    check_pass(CanonicalizeGates(), text(body, ", float[N, 4] s"), opset=20)
