"""raise-gelu against ONNX Runtime: association orders, constants and near misses."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from checking import model_from
from rewriting import check_declines, check_rewrite, operators, with_weights

from graphopt.passes.raise_gelu import RaiseGelu

NAMES = {
    "one": 1.0,
    "two": 2.0,
    "three": 3.0,
    "half": 0.5,
    "root2": math.sqrt(2),
    "rroot2": math.sqrt(0.5),
    "k": math.sqrt(2 / math.pi),
    "c": 0.044715,
    "off": 0.72,
    "c2": 0.05,
}
ERFS = ["i = Div(x, root2)", "i = Mul(x, rroot2)", "i = Mul(rroot2, x)"]
BELL = "e = Erf(i) s = Add(e, one)"
PRODUCTS = [
    "p = Mul(x, s) y = Mul(p, half)",
    "h = Mul(half, x) y = Mul(h, s)",
    "h = Mul(s, half) y = Mul(x, h)",
    "p = Mul(s, x) y = Div(p, two)",
    "h = Div(x, two) y = Mul(s, h)",
]
TANHS = [
    "q = Pow(x, three) r = Mul(q, c) t = Add(x, r) i = Mul(t, k)",
    "q = Mul(x, x) q3 = Mul(q, x) r = Mul(c, q3) t = Add(r, x) i = Mul(k, t)",
    "q = Mul(c, x) q2 = Mul(q, x) q3 = Mul(q2, x) t = Add(x, q3) i = Mul(k, t)",
    "q = Mul(x, x) r = Mul(q, c) t = Add(one, r) u = Mul(x, k) i = Mul(u, t)",
    "q = Pow(x, two) r = Mul(c, q) t = Add(r, one) u = Mul(t, x) i = Mul(u, k)",
]


def source(body: str, kind: str = "float", outputs: str = "") -> str:
    names = ", ".join(f"{kind} {n}" for n in NAMES)
    return f"g ({kind}[N, 4] x, {names}) => ({kind}[N, 4] y{outputs}) {{ {body} }}"


def weights(dtype: type = np.float32) -> dict[str, np.ndarray]:
    return {k: np.asarray(v, dtype) for k, v in NAMES.items()}


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("argument", ERFS)
def test_erf(argument: str, product: str) -> None:
    model, _ = check_rewrite(
        RaiseGelu(), source(f"{argument} {BELL} {product}"), "Gelu", weights=weights(), opset=20
    )
    assert model.graph.node(0).attributes["approximate"].as_string() == "none"


@pytest.mark.parametrize("product", PRODUCTS[:3])
@pytest.mark.parametrize("argument", TANHS)
def test_tanh(argument: str, product: str) -> None:
    body = f"{argument} e = Tanh(i) s = Add(one, e) {product}"
    model, _ = check_rewrite(RaiseGelu(), source(body), "Gelu", weights=weights(), opset=20)
    assert model.graph.node(0).attributes["approximate"].as_string() == "tanh"


def all_products() -> list[str]:
    """Every association of x, a half and the bell, with the operands of each product in both orders."""
    found = []
    for first, second, third in itertools.permutations(["x", "half", "s"]):
        found.append(f"p = Mul({first}, {second}) y = Mul(p, {third})")
        found.append(f"p = Mul({first}, {second}) y = Mul({third}, p)")
    return found


@pytest.mark.parametrize("product", all_products())
@pytest.mark.parametrize("half", [f"{ERFS[1]} {BELL}", f"{TANHS[1]} e = Tanh(i) s = Add(e, one)"])
def test_every_association(half: str, product: str) -> None:
    check_rewrite(RaiseGelu(), source(f"{half} {product}"), "Gelu", weights=weights(), opset=20)


@pytest.mark.parametrize(
    "body",
    [
        "n = Neg(x) i = Mul(n, rroot2) e = Erf(i) s = Sub(one, e) p = Mul(x, s) y = Mul(p, half)",
        "i = Mul(x, rroot2) e = Erf(i) h = Mul(e, half) s = Add(h, half) y = Mul(x, s)",
        f"{TANHS[0]} e = Tanh(i) h = Mul(half, e) s = Add(half, h) y = Mul(s, x)",
        f"{TANHS[2]} v = Mul(i, two) s = Sigmoid(v) y = Mul(x, s)",
    ],
)
def test_other_spellings_of_the_bell(body: str) -> None:
    check_rewrite(RaiseGelu(), source(body), "Gelu", weights=weights(), opset=20, rtol=2e-5)


@pytest.mark.parametrize(
    "body",
    [
        "i = Mul(x, rroot2) e = Erf(i) s = Sub(one, e) p = Mul(x, s) y = Mul(p, half)",
        "i = Mul(x, rroot2) e = Erf(i) s = Sub(e, one) p = Mul(x, s) y = Mul(p, half)",
        "i = Mul(x, rroot2) e = Erf(i) h = Mul(e, two) s = Add(h, one) p = Mul(x, s) y = Mul(p, half)",
        "i = Mul(x, rroot2) e = Erf(i) h = Mul(e, half) s = Add(h, one) p = Mul(x, s) y = Mul(p, half)",
        f"{TANHS[2]} s = Sigmoid(i) y = Mul(x, s)",
        f"{TANHS[2]} e = Tanh(i) s = Sub(one, e) p = Mul(x, s) y = Mul(p, half)",
    ],
)
def test_other_bells(body: str) -> None:
    model = with_weights(source(body), weights(), 20)
    assert not RaiseGelu().run(model).modified


def test_constants_in_float16() -> None:
    for argument, function in ((ERFS[1], "Erf"), (TANHS[1], "Tanh")):
        body = f"{argument} e = {function}(i) s = Add(e, one) {PRODUCTS[0]}"
        check_rewrite(
            RaiseGelu(), source(body, "float16"), "Gelu", weights=weights(np.float16), opset=20, rtol=4e-3
        )


def test_the_opset_is_raised_only_if_asked_and_of_use() -> None:
    text = source(f"{ERFS[0]} {BELL} {PRODUCTS[0]}")
    check_declines(RaiseGelu(), text, "needs opset 20", weights=weights(), opset=18)
    model, _ = check_rewrite(RaiseGelu(upgrade=True), text, "Gelu", weights=weights(), opset=18)
    assert model.opset_imports[""] == 20
    other = model_from("g (float[2] x) => (float[2] y) { y = Erf(x) }")
    assert not RaiseGelu(upgrade=True).run(other).modified
    assert other.opset_imports[""] == 18


def test_the_opset_stays_where_an_operator_would_lose_its_kernel() -> None:
    text = source(f"{ERFS[0]} {BELL} {PRODUCTS[0]} z = LeakyRelu(w)", outputs=", double[3] z")
    text = text.replace("[N, 4] x,", "[N, 4] x, double[3] w,")
    check_declines(RaiseGelu(upgrade=True), text, "needs opset 20", weights=weights())


def test_float64_has_no_kernel() -> None:
    text = source(f"{ERFS[0]} {BELL} {PRODUCTS[0]}", "double")
    check_declines(RaiseGelu(), text, "not of float32", weights=weights(np.float64), opset=20)


def test_inside_a_branch_with_a_captured_input() -> None:
    names = ", ".join(f"float {n}" for n in NAMES)
    text = f"""g (float[4] x, bool p, {names}) => (float[4] r) {{
        r = If (p) <then_branch = t () => (float[4] y) {{ {ERFS[0]} {BELL} {PRODUCTS[1]} }},
                    else_branch = f () => (float[4] z) {{ z = Relu(x) }}>
    }}"""
    check_rewrite(RaiseGelu(), text, "If Gelu Relu", weights=weights(), opset=20)


NEAR_MISSES = {
    "another scale under erf": (f"i = Mul(x, off) {BELL} {PRODUCTS[0]}", "", "not x / sqrt(2)"),
    "another value under erf": (
        f"w = Relu(x) i = Mul(w, rroot2) {BELL} {PRODUCTS[0]}",
        "",
        "not x / sqrt(2)",
    ),
    "not halved": (f"{ERFS[0]} {BELL} y = Mul(x, s)", "", "not halved"),
    "two plus erf": (f"{ERFS[0]} e = Erf(i) s = Add(e, two) {PRODUCTS[0]}", "", "not halved"),
    "other cubic": (
        f"{TANHS[0].replace('q, c)', 'q, c2)')} e = Tanh(i) s = Add(one, e) {PRODUCTS[0]}",
        "",
        "other coefficients",
    ),
    "square for cube": (
        f"{TANHS[0].replace('three', 'two')} e = Tanh(i) s = Add(one, e) {PRODUCTS[0]}",
        "",
        "not a polynomial",
    ),
    "erf is an output": (f"{ERFS[0]} {BELL} {PRODUCTS[0]}", ", float[N, 4] e", "no 1 + erf"),
    "argument is an output": (f"{ERFS[0]} {BELL} {PRODUCTS[0]}", ", float[N, 4] i", "not x / sqrt(2)"),
    "sum used twice": (f"{ERFS[0]} {BELL} {PRODUCTS[0]} z = Relu(s)", ", float[N, 4] z", "no 1 + erf"),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_misses(case: str) -> None:
    body, outputs, reason = NEAR_MISSES[case]
    check_declines(RaiseGelu(), source(body, outputs=outputs), reason, weights=weights(), opset=20)


def test_a_constant_that_raises_the_rank_is_no_scalar() -> None:
    text = source(f"{ERFS[0]} {BELL} {PRODUCTS[0]}").replace("float half", "float[1, 1, 1] half")
    text = text.replace("(float[N, 4] y)", "(float[1, N, 4] y)")
    check_declines(
        RaiseGelu(), text, "not", weights=weights() | {"half": np.full((1, 1, 1), 0.5, np.float32)}, opset=20
    )


def test_a_very_long_product_is_left_alone() -> None:
    chain = " ".join(f"v{i} = Mul(v{i - 1}, half)" for i in range(1, 500))
    model = model_from(
        f"g (float[2] v0) => (float[2] y) <float half = {{0.5}}> {{ {chain} y = Erf(v499) }}", 20
    )
    assert not RaiseGelu().run(model).modified


def test_quick_gelu_is_another_function() -> None:
    model = model_from("g (float[2] x) => (float[2] y) { s = Sigmoid(x) y = Mul(x, s) }", 20)
    assert not RaiseGelu().run(model).modified
    assert operators(model) == ["Sigmoid", "Mul"]
