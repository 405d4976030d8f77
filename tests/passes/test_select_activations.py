"""select-activations against ONNX Runtime: Gelu with a bias, with tanh, and SiLU."""

from __future__ import annotations

import math

import numpy as np
import pytest
from checking import check_pass
from rewriting import check_declines, check_rewrite

from graphopt.passes.select_activations import SelectActivations

PASS = SelectActivations()
WEIGHTS = {
    "one": np.float32(1),
    "half": np.float32(0.5),
    "root": np.float32(math.sqrt(2)),
    "three": np.float32(3),
    "k": np.float32(math.sqrt(2 / math.pi)),
    "cubic": np.float32(0.044715),
    "bias": np.linspace(-1, 1, 4, dtype=np.float32),
    "row": np.linspace(-1, 1, 3, dtype=np.float32).reshape(3, 1),
}
ERF = "i = Div(x, root) e = Erf(i) s = Add(e, one) p = Mul(x, s) y = Mul(p, half)"
TANH = """q = Pow(x, three) r = Mul(q, cubic) t = Add(x, r) i = Mul(t, k) e = Tanh(i) s = Add(e, one)
    p = Mul(x, s) y = Mul(p, half)"""


def source(body: str, kind: str = "float", outputs: str = "") -> str:
    names = ", ".join(f"float{list(v.shape) or ''} {n}" for n, v in WEIGHTS.items())
    return f"g ({kind}[N, 3, 4] z, {names}) => ({kind}[N, 3, 4] y{outputs}) {{ {body} }}"


@pytest.mark.parametrize(
    ("body", "after"),
    [
        (ERF.replace("x", "z"), "Gelu"),
        (TANH.replace("x", "z"), "FastGelu"),
        (f"x = Add(z, bias) {ERF}", "BiasGelu"),
        (f"x = Add(bias, z) {TANH}", "FastGelu"),
        ("x = Add(z, bias) y = com.microsoft.Gelu(x)", "BiasGelu"),
        (f"x = Add(z, row) {ERF}", "Add Gelu"),
    ],
)
def test_gelu(body: str, after: str) -> None:
    check_rewrite(PASS, source(body), after, weights=WEIGHTS)


@pytest.mark.parametrize(("form", "after"), [("", "BiasGelu"), ('<approximate = "tanh">', "FastGelu")])
def test_standard_gelu_of_a_sum(form: str, after: str) -> None:
    body = f"x = Add(z, bias) y = Gelu{form}(x)"
    check_rewrite(PASS, source(body), after, weights=WEIGHTS, opset=20)


def test_silu() -> None:
    check_pass(
        PASS,
        before="g (float[N, 4] x) => (float[N, 4] y) { s = Sigmoid(x) y = Mul(x, s) }",
        after="g (float[N, 4] x) => (float[N, 4] y) { y = com.microsoft.QuickGelu<alpha = 1.0>(x) }",
    )


def test_a_slope_under_the_sigmoid() -> None:
    check_rewrite(
        PASS, source("a = Mul(three, z) s = Sigmoid(a) y = Mul(s, z)"), "QuickGelu", weights=WEIGHTS
    )


NEAR_MISSES = {
    "another value under the sigmoid": ("r = Relu(z) s = Sigmoid(r) y = Mul(z, s)", "", "not the other"),
    "a vector as slope": ("a = Mul(z, bias) s = Sigmoid(a) y = Mul(z, s)", "", "not the other"),
    "the sigmoid is an output": ("s = Sigmoid(z) y = Mul(z, s)", ", float[N, 3, 4] s", "used elsewhere"),
    "the sum is an output": (
        "x = Add(z, bias) y = com.microsoft.Gelu(x)",
        ", float[N, 3, 4] x",
        "no sum that only",
    ),
    "the Gelu has a bias": ("x = Add(z, bias) y = com.microsoft.FastGelu(x, bias)", "", "it has a bias"),
    "no Gelu": (ERF.replace("x", "z").replace("half", "three"), "", "not halved"),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_misses(case: str) -> None:
    body, outputs, reason = NEAR_MISSES[case]
    check_declines(PASS, source(body, outputs=outputs), reason, weights=WEIGHTS)


def test_types_without_a_kernel() -> None:
    text = "g (double[4] x) => (double[4] y) { s = Sigmoid(x) y = Mul(x, s) }"
    check_declines(PASS, text, "cpu has no QuickGelu of type double")
    check_rewrite(SelectActivations(provider="cuda"), text.replace("double", "float"), "QuickGelu")
