"""raise-mean against ONNX Runtime: divisors, axes and near misses."""

from __future__ import annotations

import numpy as np
import pytest
from checking import check_pass
from rewriting import check_declines, check_rewrite

from graphopt.passes.raise_mean import RaiseMean

NUMBERS = {
    "axes": np.array([1, -1]),
    "n": np.float32(21),
    "r": np.float32(1 / 21),
    "bessel": np.float32(1 / 20),
    "vector": np.full((1, 1, 1, 1), 21, np.float32),
}


def source(body: str, x: str = "float[N, 3, 7] x", y: str = "float[N, 1, 1] y") -> str:
    names = "int64[2] axes, float n, float r, float bessel, float[1, 1, 1, 1] vector"
    return f"g ({x}, {names}) => ({y}) {{ {body} }}"


@pytest.mark.parametrize("tail", ["y = Div(s, n)", "y = Mul(s, r)", "y = Mul(r, s)"])
def test_divisors(tail: str) -> None:
    check_rewrite(RaiseMean(), source(f"s = ReduceSum(x, axes) {tail}"), "ReduceMean", weights=NUMBERS)


def test_dropped_axes_and_all_axes() -> None:
    body = "s = ReduceSum <keepdims = 0> (x, axes) y = Div(s, n)"
    check_rewrite(RaiseMean(), source(body, y="float[N] y"), "ReduceMean", weights=NUMBERS)
    body = "s = ReduceSum(x) y = Div(s, n)"
    check_rewrite(RaiseMean(), source(body, "float[3, 7] x", "float[1, 1] y"), "ReduceMean", weights=NUMBERS)


def test_the_whole_text() -> None:
    check_pass(
        RaiseMean(),
        before="""g (float[N, 2] x) => (float[N, 1] y) <int64[1] axes = {1}, float half = {0.5}> {
            s = ReduceSum(x, axes) y = Mul(s, half)
        }""",
        after="g (float[N, 2] x) => (float[N, 1] y) <int64[1] axes = {1}> { y = ReduceMean(x, axes) }",
    )


@pytest.mark.parametrize(
    ("body", "x", "reason"),
    [
        ("s = ReduceSum(x, axes) y = Mul(s, bessel)", "float[N, 3, 7] x", "number of summed"),
        ("s = ReduceSum(x, axes) y = Mul(s, n)", "float[N, 3, 7] x", "number of summed"),
        ("s = ReduceSum(x, axes) y = Div(n, s)", "float[N, 3, 7] x", "not divided by a scalar"),
        ("s = ReduceSum(x, axes) y = Div(s, n)", "float[N, M, 7] x", "number of summed"),
        ("s = ReduceSumSquare(x, axes) y = Div(s, n)", "float[N, 3, 7] x", "no ReduceSum"),
    ],
)
def test_near_misses(body: str, x: str, reason: str) -> None:
    check_declines(RaiseMean(), source(body, x), reason, weights=NUMBERS)


def test_a_divisor_that_raises_the_rank() -> None:
    text = source("s = ReduceSum(x, axes) y = Div(s, vector)", y="float[1, N, 1, 1] y")
    check_declines(RaiseMean(), text, "not divided by a scalar", weights=NUMBERS)


def test_integers_are_divided_otherwise() -> None:
    text = source("s = ReduceSum(x, axes) y = Div(s, n)").replace("float", "int64")
    numbers = {k: v.astype(np.int64) for k, v in NUMBERS.items()}
    check_declines(RaiseMean(), text, "no float", weights=numbers)


def test_a_large_count_is_not_mistaken_for_its_neighbour() -> None:
    text = source("s = ReduceSum(x, axes) y = Div(s, n)", "float[N, 100, 1000] x")
    check_declines(RaiseMean(), text, "number of summed", weights=NUMBERS | {"n": np.float32(99999)})
