"""raise-softmax against ONNX Runtime: forms, infinities and near misses."""

from __future__ import annotations

import numpy as np
import pytest
from checking import check_pass
from rewriting import check_declines, check_rewrite

from graphopt.passes.raise_softmax import RaiseSoftmax

CONSTANTS = "int64[1] axes, int64[1] other, int64[2] both, float low, float two, int64[3] kept"
NUMBERS = {
    "axes": np.array([1]),
    "other": np.array([0]),
    "both": np.array([1, 2]),
    "low": np.float32(-np.inf),
    "two": np.float32(2),
    "kept": np.array([0, 1, 4]),
}
CORE = "m = ReduceMax(x, axes) d = Sub(x, m) e = Exp(d) s = ReduceSum(e, axes)"
FORMS = [
    f"{CORE} y = Div(e, s)",
    f"{CORE} r = Reciprocal(s) y = Mul(e, r)",
    f"{CORE} r = Reciprocal(s) y = Mul(r, e)",
    "k = ReduceMax <keepdims = 0> (x, axes) l = Max(low, k) m = Unsqueeze(l, axes) d = Sub(x, m) e = Exp(d)"
    " t = ReduceSum <keepdims = 0> (e, axes) s = Reshape(t, kept) y = Div(e, s)",
]
LOG = f"{CORE} l = Log(s) y = Sub(d, l)"


def source(body: str, kind: str = "float", more: str = "", x: str = "[N, 3, 4]") -> str:
    text = f"g (float{x} x, {CONSTANTS}) => (float{x} y{more}) {{ {body} }}"
    return text.replace("float", kind)


@pytest.mark.parametrize("form", FORMS)
def test_softmax(form: str) -> None:
    model, _ = check_rewrite(RaiseSoftmax(), source(form), "Softmax", weights=NUMBERS)
    assert model.graph.node(0).attributes["axis"].as_int() == -2


def test_log_softmax() -> None:
    check_rewrite(RaiseSoftmax(), source(LOG), "LogSoftmax", weights=NUMBERS)


@pytest.mark.parametrize("body", [FORMS[0], LOG])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e30, -1e30])
def test_special_values(body: str, value: float) -> None:
    x = np.linspace(-3, 3, 12, dtype=np.float32).reshape(1, 3, 4)
    x[0, :, 0] = value
    x[0, 1, 1] = value
    check_rewrite(
        RaiseSoftmax(),
        source(body),
        "LogSoftmax" if body is LOG else "Softmax",
        weights=NUMBERS,
        feeds={"x": x},
    )


def test_float64() -> None:
    numbers = {k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in NUMBERS.items()}
    check_rewrite(RaiseSoftmax(), source(FORMS[0], "double"), "Softmax", weights=numbers)


def test_the_whole_text() -> None:
    check_pass(
        RaiseSoftmax(),
        before="""g (float[N, 2] x) => (float[N, 2] y) <int64[1] axes = {-1}> {
            m = ReduceMax(x, axes) d = Sub(x, m) e = Exp(d) s = ReduceSum(e, axes) y = Div(e, s)
        }""",
        after="g (float[N, 2] x) => (float[N, 2] y) { y = Softmax <axis = -1> (x) }",
    )


NEAR_MISSES = {
    "no maximum": ("e = Exp(x) s = ReduceSum(e, axes) y = Div(e, s)", "", "not subtracted"),
    "maximum of another axis": (
        FORMS[0].replace("ReduceMax(x, axes)", "ReduceMax(x, other)"),
        "",
        "other axes",
    ),
    "maximum of another value": (
        f"w = Relu(x) {FORMS[0].replace('ReduceMax(x', 'ReduceMax(w')}",
        "",
        "same values",
    ),
    "sum of other exponentials": (FORMS[0].replace("ReduceSum(e", "ReduceSum(d"), "", "same exponentials"),
    "a minimum": (FORMS[0].replace("ReduceMax", "ReduceMin"), "", "same values"),
    "two axes": (FORMS[0].replace("axes)", "both)"), "", "one known axis"),
    "clamped maximum": (FORMS[3].replace("Max(low", "Max(two"), "", "same values"),
    "exponentials used": (f"{FORMS[0]} z = Relu(e)", ", float[N, 3, 4] z", "used elsewhere"),
    "sum is an output": (FORMS[0], ", float[N, 1, 4] s", "used elsewhere"),
    "logarithm of softmax": ("p = Softmax(x) y = Log(p)", "", ""),
    "logarithm of another sum": (
        LOG.replace("l = Log(s)", "f = Exp(x) u = ReduceSum(f, axes) l = Log(u)"),
        "",
        "",
    ),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_misses(case: str) -> None:
    body, more, reason = NEAR_MISSES[case]
    if reason:
        check_declines(RaiseSoftmax(), source(body, more=more), reason, weights=NUMBERS)
    else:
        from rewriting import with_weights

        assert not RaiseSoftmax().run(with_weights(source(body, more=more), NUMBERS)).modified


def test_a_sum_that_meets_another_slice() -> None:
    # In a square, the sums of the rows without their axis are broadcast along the columns.
    body = FORMS[0].replace("ReduceSum(e", "ReduceSum <keepdims = 0> (e").replace("axes)", "last)")
    text = source(body, x="[4, 4]").replace("int64[1] axes", "int64[1] last")
    numbers = {**NUMBERS, "last": np.array([1])}
    check_declines(RaiseSoftmax(), text, "one number for each slice", weights=numbers)
