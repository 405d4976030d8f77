"""canonicalize-arithmetic: the same bits under ONNX Runtime, on hard numbers too."""

from __future__ import annotations

import numpy as np
import pytest
from checking import check_pass
from rewriting import check_declines, check_rewrite

from graphopt.ir.query import constant
from graphopt.passes.canonicalize_arithmetic import CanonicalizeArithmetic

HARD = np.array(
    [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-40, 1.1754944e-38, 3.4e38, 1 / 3, -7.5, 1e-30], np.float32
)


@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_constants_go_right(op: str) -> None:
    check_pass(
        CanonicalizeArithmetic(),
        before=f"g (float[12] x) => (float[12] y) <float c = {{3.0}}> {{ y = {op}(c, x) }}",
        after=f"g (float[12] x) => (float[12] y) <float c = {{3.0}}> {{ y = {op}(x, c) }}",
        feeds={"x": HARD},
    )


def test_comparisons_and_logic_too() -> None:
    check_pass(
        CanonicalizeArithmetic(),
        before="""g (int64[3] x, bool[3] p) => (bool[3] y) <int64 c = {1}, bool t = {1}> {
            e = Equal(c, x) q = Xor(t, p) y = And(e, q)
        }""",
        after="""g (int64[3] x, bool[3] p) => (bool[3] y) <int64 c = {1}, bool t = {1}> {
            e = Equal(x, c) q = Xor(p, t) y = And(e, q)
        }""",
    )


@pytest.mark.parametrize(("divisor", "factor"), [("8.0", "0.125"), ("-0.25", "-4.0"), ("1.0", "1.0")])
def test_division_by_a_power_of_two(divisor: str, factor: str) -> None:
    check_pass(
        CanonicalizeArithmetic(),
        before=f"g (float[12] x) => (float[12] y) <float c = {{{divisor}}}> {{ y = Div(x, c) }}",
        after=f"g (float[12] x) => (float[12] y) <float c = {{{factor}}}> {{ y = Mul(x, c) }}",
        feeds={"x": HARD},
    )


def test_vectors_and_halves() -> None:
    model, _ = check_rewrite(
        CanonicalizeArithmetic(),
        "g (float16[2] x, float16[2] c) => (float16[2] y) { y = Div(x, c) }",
        "Mul",
        weights={"c": np.array([2, 4], np.float16)},
    )
    np.testing.assert_array_equal(constant(model.graph.node(0).inputs[1]), [0.5, 0.25])


def test_half_precision_squares_stay() -> None:
    text = "g (float16[2] x, float16 c) => (float16[2] y) { y = Pow(x, c) }"
    check_declines(
        CanonicalizeArithmetic(), text, "not float32 or float64", weights={"c": np.array(2, np.float16)}
    )


@pytest.mark.parametrize("kind", ["float", "double"])
@pytest.mark.parametrize("exponent", ["float e = {2.0}", "int64 e = {2}", "float[1] e = {2.0}"])
def test_squares(kind: str, exponent: str) -> None:
    check_pass(
        CanonicalizeArithmetic(),
        before=f"g ({kind}[12] x) => ({kind}[12] y) <{exponent}> {{ y = Pow(x, e) }}",
        after=f"g ({kind}[12] x) => ({kind}[12] y) {{ y = Mul(x, x) }}",
        feeds={"x": HARD.astype(np.float32 if kind == "float" else np.float64)},
    )


def test_inside_a_loop() -> None:
    text = """g (float[3] a, int64 n) => (float[3] r) <float c = {{2.0}}> {{
        r = Loop (n, , a) <body = b (int64 i, bool k, float[3] x) => (bool k2, float[3] y)
            {{ k2 = Identity(k) y = {} }}>
    }}"""
    check_pass(CanonicalizeArithmetic(), before=text.format("Add(c, x)"), after=text.format("Add(x, c)"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(float[2] x) => (float[2] y) <float c = {3.0}> { y = Div(x, c) }", "not a power of two"),
        ("(float[2] x) => (float[2] y) <float[2] c = {2.0, 3.0}> { y = Div(x, c) }", "not a power of two"),
        ("(float[2] x) => (float[2] y) <float c = {0.0}> { y = Div(x, c) }", "not a power of two"),
        ("(float[2] x) => (float[2] y) <float c = {1.7014118e38}> { y = Div(x, c) }", "not a normal number"),
        ("(int32[2] x) => (int32[2] y) <int32 c = {2}> { y = Div(x, c) }", "not a small float constant"),
        ("(float[2] x) => (float[2] y) <float c = {3.0}> { y = Pow(x, c) }", "not the scalar 2"),
        ("(float[2] x) => (float[2] y) <float[2] c = {2.0, 2.0}> { y = Pow(x, c) }", "not the scalar 2"),
        ("(float[2] x) => (float[1, 2] y) <float[1, 1] c = {2.0}> { y = Pow(x, c) }", "not the scalar 2"),
        ("(float[2] x) => (float[2] y) <float c = {2.0}> { y = Add(x, c) }", "left operand"),
        ("(float[2] x, float[2] z) => (float[2] y) { y = Add(x, z) }", "left operand"),
    ],
)
def test_near_misses(text: str, reason: str) -> None:
    check_declines(CanonicalizeArithmetic(), f"g {text}", reason)


def test_the_order_of_differences_stays() -> None:
    check_pass(
        CanonicalizeArithmetic(),
        before="g (float[2] x) => (float[2] y) <float c = {3.0}> { d = Sub(c, x) y = Div(c, d) }",
    )
