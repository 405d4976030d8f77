"""raise-sigmoid against ONNX Runtime: spellings, special values and near misses."""

from __future__ import annotations

import numpy as np
import pytest
from checking import check_pass
from rewriting import check_declines, check_rewrite

from graphopt.passes.raise_sigmoid import RaiseSigmoid

NUMBERS = {
    "one": np.float32(1),
    "two": np.float32(2),
    "minus": np.float32(-1),
    "quick": np.float32(-1.702),
    "edge": np.float32(20),
    "low": np.float32(3),
    "deep": np.ones((1, 1, 1), np.float32),
}
SPECIAL = np.array(
    [[np.nan, np.inf, -np.inf, 0.0], [-0.0, 1e30, -1e30, 87.0], [-87.0, 1.0, 21.0, -30.0]], np.float32
)


def source(body: str, more: str = "", y: str = "float[N, 4] y") -> str:
    names = "float one, float two, float minus, float quick, float edge, float low, float[1, 1, 1] deep"
    return f"g (float[N, 4] x, {names}) => ({y}{more}) {{ {body} }}"


SIGMOIDS = [
    ("n = Neg(x) e = Exp(n) s = Add(e, one) y = Reciprocal(s)", "Sigmoid"),
    ("n = Neg(x) e = Exp(n) s = Add(one, e) y = Div(one, s)", "Sigmoid"),
    ("n = Mul(minus, x) e = Exp(n) s = Add(e, one) y = Div(one, s)", "Sigmoid"),
    ("n = Mul(x, quick) e = Exp(n) s = Add(e, one) y = Div(one, s)", "Mul Sigmoid"),
    ("n = Neg(x) e = Exp(n) s = Add(e, one) y = Div(x, s)", "Sigmoid Mul"),
    ("n = Neg(x) e = Exp(n) s = Add(e, one) r = Reciprocal(s) y = Mul(r, x)", "Sigmoid Mul"),
    ("n = Neg(x) e = Exp(n) s = Add(e, one) y = Div(two, s)", "Sigmoid Mul"),
]


@pytest.mark.parametrize(("body", "after"), SIGMOIDS)
def test_sigmoid(body: str, after: str) -> None:
    check_rewrite(RaiseSigmoid(), source(body), after, weights=NUMBERS)


OTHERS = [
    ("p = Softplus(x) t = Tanh(p) y = Mul(x, t)", "Mish"),
    ("p = Softplus(x) t = Tanh(p) y = Mul(t, x)", "Mish"),
    ("a = Abs(x) s = Add(a, one) y = Div(x, s)", "Softsign"),
    ("a = Abs(x) s = Add(one, a) y = Div(x, s)", "Softsign"),
    ("c = Greater(x, edge) p = Softplus(x) y = Where(c, x, p)", "Softplus"),
]


@pytest.mark.parametrize(("body", "after"), OTHERS)
@pytest.mark.parametrize("special", [False, True])
def test_others(body: str, after: str, special: bool) -> None:
    feeds = {"x": SPECIAL} if special else None
    check_rewrite(RaiseSigmoid(), source(body), after, weights=NUMBERS, feeds=feeds)


def test_special_values_of_sigmoid() -> None:
    check_rewrite(RaiseSigmoid(), source(SIGMOIDS[0][0]), "Sigmoid", weights=NUMBERS, feeds={"x": SPECIAL})


def test_the_whole_text() -> None:
    check_pass(
        RaiseSigmoid(),
        before="""g (float[N] x) => (float[N] y) <float one = {1.0}> {
            n = Neg(x) e = Exp(n) s = Add(e, one) y = Div(x, s)
        }""",
        after="g (float[N] x) => (float[N] y) { s = Sigmoid(x) y = Mul(x, s) }",
    )


START = "n = Neg(x) e = Exp(n) s = Add(e, one)"
NEAR_MISSES = {
    "two below": (START.replace("one", "two") + " y = Reciprocal(s)", "", "not 1 and something"),
    "rising exponent": ("e = Exp(x) s = Add(e, one) y = Reciprocal(s)", "", "not a negative"),
    "positive multiple": (
        "n = Mul(x, two) e = Exp(n) s = Add(e, one) y = Reciprocal(s)",
        "",
        "negative multiple",
    ),
    "sum used twice": (f"{START} y = Reciprocal(s) z = Relu(s)", ", float[N, 4] z", "used elsewhere"),
    "exponential is an output": (f"{START} y = Reciprocal(s)", ", float[N, 4] e", "used elsewhere"),
    "under a logarithm": (f"{START} r = Reciprocal(s) y = Log(r)", "", "digits of small"),
    "gate of another value": ("p = Softplus(x) t = Tanh(p) w = Relu(x) y = Mul(w, t)", "", "another value"),
    "softplus used twice": (
        "p = Softplus(x) t = Tanh(p) y = Mul(x, t) z = Relu(p)",
        ", float[N, 4] z",
        "no softplus",
    ),
    "low threshold": ("c = Greater(x, low) p = Softplus(x) y = Where(c, x, p)", "", "differs"),
    "other way round": ("c = Greater(x, edge) p = Softplus(x) y = Where(c, p, x)", "", "choice between"),
    "test of another value": (
        "w = Relu(x) c = Greater(w, edge) p = Softplus(x) y = Where(c, x, p)",
        "",
        "another value",
    ),
    "two and magnitude": ("a = Abs(x) s = Add(a, two) y = Div(x, s)", "", "divided by 1"),
    "magnitude of another": ("w = Relu(x) a = Abs(w) s = Add(a, one) y = Div(x, s)", "", "same value"),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_misses(case: str) -> None:
    body, more, reason = NEAR_MISSES[case]
    check_declines(RaiseSigmoid(), source(body, more), reason, weights=NUMBERS)


def test_a_one_that_raises_the_rank() -> None:
    text = source("n = Neg(x) e = Exp(n) s = Add(e, deep) y = Reciprocal(s)", y="float[1, N, 4] y")
    check_declines(RaiseSigmoid(), text, "not 1 and something", weights=NUMBERS)


def test_types_that_an_opset_lacks() -> None:
    numbers = {k: v.astype(np.float64) for k, v in NUMBERS.items()}
    check_declines(
        RaiseSigmoid(), source(OTHERS[0][0]).replace("float", "double"), "not float32", weights=numbers
    )
