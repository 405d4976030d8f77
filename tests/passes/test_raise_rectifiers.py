"""raise-rectifiers against ONNX Runtime: forms, special values and near misses."""

from __future__ import annotations

import numpy as np
import pytest
from checking import check_pass
from rewriting import check_declines, check_rewrite

from graphopt.passes.raise_rectifiers import RaiseRectifiers

NUMBERS = {
    "zero": np.float32(0),
    "six": np.float32(6),
    "minus": np.float32(-1),
    "slope": np.float32(0.1),
    "steep": np.float32(2),
    "infinite": np.float32(np.inf),
    "same": np.full((1, 1), 0.25, np.float32),
    "slopes": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
    "deep": np.zeros((1, 1, 1), np.float32),
}
SPECIAL = np.array(
    [[np.nan, np.inf, -np.inf, 0.0], [-0.0, 1e30, -1e30, 6.5], [1e-40, 0.3, -0.5, 0.1]], np.float32
)


def source(body: str, more: str = "", y: str = "float[N, 4] y") -> str:
    names = "float zero, float six, float minus, float slope, float steep, float infinite"
    names += ", float[1, 1] same, float[4] slopes, float[1, 1, 1] deep"
    return f"g (float[N, 4] x, {names}) => ({y}{more}) {{ {body} }}"


FORMS = [
    ("l = Mul(x, slope) y = Max(x, l)", "LeakyRelu"),
    ("l = Mul(slope, x) y = Max(l, x)", "LeakyRelu"),
    ("c = Greater(x, zero) l = Mul(x, slope) y = Where(c, x, l)", "LeakyRelu"),
    ("c = GreaterOrEqual(x, zero) l = Mul(x, steep) y = Where(c, x, l)", "LeakyRelu"),
    ("c = Less(x, zero) l = Mul(x, slope) y = Where(c, l, x)", "LeakyRelu"),
    ("c = LessOrEqual(x, zero) l = Div(x, six) y = Where(c, l, x)", "LeakyRelu"),
    ("y = PRelu(x, same)", "LeakyRelu"),
    ("c = Greater(x, slope) y = Where(c, x, zero)", "ThresholdedRelu"),
    ("y = Max(x, zero)", "Relu"),
    ("y = Max(zero, x)", "Relu"),
    ("m = Max(x, zero) y = Min(m, six)", "Clip"),
    ("m = Min(six, x) y = Max(zero, m)", "Clip"),
    ("m = Max(x, minus) y = Min(m, steep)", "Clip"),
    ("m = Relu(x) y = Min(six, m)", "Clip"),
]


@pytest.mark.parametrize(("body", "after"), FORMS)
@pytest.mark.parametrize("special", [False, True])
def test_forms(body: str, after: str, special: bool) -> None:
    feeds = {"x": SPECIAL} if special else None
    check_rewrite(RaiseRectifiers(), source(body), after, weights=NUMBERS, feeds=feeds)


def test_the_whole_text() -> None:
    check_pass(
        RaiseRectifiers(),
        before="""g (float[N] x) => (float[N] z) <float zero = {0.0}, float six = {6.0}, float slope = {0.5}> {
            m = Max(x, zero) y = Min(m, six) c = Greater(y, zero) l = Mul(y, slope) z = Where(c, y, l)
        }""",
        after="""g (float[N] x) => (float[N] z) <float zero = {0.0}, float six = {6.0}> {
            y = Clip(x, zero, six) z = LeakyRelu <alpha = 0.5> (y)
        }""",
    )


NEAR_MISSES = {
    "steep maximum": ("l = Mul(x, steep) y = Max(x, l)", "", "not below 1"),
    "falling line": ("l = Mul(x, minus) y = Max(x, l)", "", "multiple of it"),
    "line used twice": ("l = Mul(x, slope) y = Max(x, l) z = Relu(l)", ", float[N, 4] z", "multiple of it"),
    "another value": ("w = Abs(x) l = Mul(w, slope) y = Max(x, l)", "", "multiple of it"),
    "compared with 6": ("c = Greater(x, six) l = Mul(x, slope) y = Where(c, x, l)", "", "with 0"),
    "other way round": ("c = Less(x, zero) l = Mul(x, slope) y = Where(c, x, l)", "", "not the value itself"),
    "slopes of channels": ("y = PRelu(x, slopes)", "", "not one constant"),
    "slopes at run time": ("w = Abs(x) y = PRelu(x, w)", "", "not one constant"),
    "threshold from below": ("c = Less(x, slope) y = Where(c, zero, x)", "", "value is greater"),
    "not 0 below": ("c = Greater(x, slope) y = Where(c, x, slope)", "", "not 0 below"),
    "one end": ("y = Max(x, minus)", "", "number 0"),
    "infinite end": ("m = Max(x, minus) y = Min(m, infinite)", "", "finite"),
    "ends the wrong way": ("m = Min(x, minus) y = Max(m, six)", "", "above the upper"),
    "middle used twice": (
        "m = Max(x, minus) y = Min(m, six) z = Abs(m)",
        ", float[N, 4] z",
        "used elsewhere",
    ),
    "vector of ends": ("m = Max(x, slopes) y = Min(m, six)", "", "finite"),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_misses(case: str) -> None:
    body, more, reason = NEAR_MISSES[case]
    check_declines(RaiseRectifiers(), source(body, more), reason, weights=NUMBERS)


def test_a_zero_that_raises_the_rank() -> None:
    text = source("y = Max(x, deep)", y="float[1, N, 4] y")
    check_declines(RaiseRectifiers(), text, "number 0", weights=NUMBERS)


def test_integers_stay() -> None:
    text = source("y = Max(x, zero)").replace("float", "int32")
    numbers = {k: np.nan_to_num(v, posinf=9).astype(np.int32) for k, v in NUMBERS.items()}
    check_declines(RaiseRectifiers(), text, "not of a float", weights=numbers)


@pytest.mark.parametrize("body", [FORMS[0][0], FORMS[6][0], FORMS[7][0]])
def test_float64_has_no_kernels(body: str) -> None:
    numbers = {k: v.astype(np.float64) for k, v in NUMBERS.items()}
    check_declines(RaiseRectifiers(), source(body).replace("float", "double"), "float32", weights=numbers)
