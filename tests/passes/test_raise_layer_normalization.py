"""raise-layer-normalization against ONNX Runtime: spellings, parameters and what only looks like it."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir
import pytest
from checking import check_pass, run_onnxruntime
from rewriting import arrays, check_declines, check_rewrite

from graphopt.passes.raise_layer_normalization import RaiseLayerNormalization

CONSTANTS = "float eps, float two, float half, float minus_half, float one, int64[1] axes"
NUMBERS = {
    "eps": np.float32(1e-5),
    "two": np.float32(2),
    "half": np.float32(0.5),
    "minus_half": np.float32(-0.5),
    "one": np.float32(1),
    "axes": np.array([-1], np.int64),
}
MEAN = "m = ReduceMean(x, axes) d = Sub(x, m)"
SQUARES = ["q = Pow(d, two)", "q = Mul(d, d)", "dd = Sub(x, m) q = Pow(dd, two)"]
SHIFTED = ["e = Add(v, eps)", "e = Add(eps, v)"]
QUOTIENTS = [
    "s = Sqrt(e) n = Div(d, s)",
    "s = Pow(e, half) n = Div(d, s)",
    "s = Sqrt(e) r = Reciprocal(s) n = Mul(d, r)",
    "s = Sqrt(e) r = Div(one, s) n = Mul(r, d)",
    "s = Pow(e, minus_half) n = Mul(d, s)",
]
TAILS = [
    ("y = Identity(n)", "LayerNormalization Identity"),
    ("y = Mul(n, g)", "LayerNormalization"),
    ("y = Add(b, n)", "LayerNormalization"),
    ("t = Mul(g, n) y = Add(t, b)", "LayerNormalization"),
]


def source(body: str, x: str = "float[N, 3, 8] x", more: str = "", outputs: str = "float[N, 3, 8] y") -> str:
    return f"g ({x}, {CONSTANTS}, float[8] g, float[8] b{more}) => ({outputs}) {{ {body} }}"


def weights(**more: np.ndarray) -> dict[str, np.ndarray]:
    return NUMBERS | arrays(4, g=(8,), b=(8,)) | more


@pytest.mark.parametrize(("square", "quotient"), list(itertools.product(SQUARES, QUOTIENTS)))
def test_spellings(square: str, quotient: str) -> None:
    body = f"{MEAN} {square} v = ReduceMean(q, axes) {SHIFTED[len(square) % 2]} {quotient} y = Mul(n, g)"
    model, _ = check_rewrite(RaiseLayerNormalization(), source(body), "LayerNormalization", weights=weights())
    node = model.graph.node(0)
    assert node.attributes["axis"].as_int() == -1
    assert node.attributes["epsilon"].as_float() == pytest.approx(1e-5)


CORE = f"{MEAN} q = Mul(d, d) v = ReduceMean(q, axes) e = Add(v, eps) s = Sqrt(e) n = Div(d, s)"


@pytest.mark.parametrize(("tail", "wanted"), TAILS)
@pytest.mark.parametrize("x", ["float[N, 3, 8] x", "float[8] x"])
def test_parameters(tail: str, wanted: str, x: str) -> None:
    outputs = x.replace(" x", " y")
    check_rewrite(
        RaiseLayerNormalization(), source(f"{CORE} {tail}", x, "", outputs), wanted, weights=weights()
    )


def test_the_whole_text() -> None:
    check_pass(
        RaiseLayerNormalization(),
        before="""g (float[N, 2] x, float[2] s) => (float[N, 2] y)
            <int64[1] axes = {1}, float two = {2.0}, float eps = {0.125}, float[1, 2] b = {1.0, 2.0}> {
            m = ReduceMean(x, axes) d = Sub(x, m) q = Pow(d, two) v = ReduceMean(q, axes)
            e = Add(v, eps) r = Sqrt(e) n = Div(d, r) t = Mul(n, s) y = Add(t, b)
        }""",
        after="""g (float[N, 2] x, float[2] s) => (float[N, 2] y) <float[2] b = {1.0, 2.0}> {
            y = LayerNormalization <axis = -1, epsilon = 0.125> (x, s, b)
        }""",
    )


@pytest.mark.parametrize("axes", [[-1, -2], [1, 2], [2, 1]])
def test_several_axes(axes: list[int]) -> None:
    numbers = weights(axes=np.array(axes, np.int64)) | arrays(k=(3, 8), row=(8,), one_value=(1, 1))
    more = ", float[3, 8] k, float[8] row, float[1, 1] one_value"
    for parameter in ("k", "row", "one_value"):
        model, _ = check_rewrite(
            RaiseLayerNormalization(),
            source(f"{CORE} y = Mul(n, {parameter})", more=more).replace("int64[1] axes", "int64[2] axes"),
            "LayerNormalization",
            weights=numbers,
        )
        assert model.graph.node(0).attributes["axis"].as_int() == -2


def test_over_everything() -> None:
    body = CORE.replace(", axes)", ")")
    check_rewrite(
        RaiseLayerNormalization(),
        source(f"{body} y = Relu(n)", "float[3, 8] x", outputs="float[3, 8] y"),
        "LayerNormalization Relu",
        weights=weights(),
    )


def test_casts_to_the_same_type_are_seen_through() -> None:
    body = f"{MEAN} c = Cast <to = 1> (d) q = Pow(c, two) v = ReduceMean(q, axes) e = Add(v, eps) "
    body += "s = Sqrt(e) n = Div(d, s) y = Mul(n, g)"
    check_rewrite(RaiseLayerNormalization(), source(body), "LayerNormalization", weights=weights())


def test_float16_inside_float32() -> None:
    body = f"x = Cast <to = 1> (h) {CORE} c = Cast <to = 10> (n) t = Mul(c, g) y = Add(t, b)"
    text = source(body, "float16[N, 3, 8] h", outputs="float16[N, 3, 8] y")
    text = text.replace("float[8] g, float[8] b", "float16[8] g, float16[8] b")
    halves = NUMBERS | arrays(4, np.float16, g=(8,), b=(8,))
    check_rewrite(RaiseLayerNormalization(), text, "LayerNormalization", weights=halves, rtol=2e-3)


def test_float16_with_a_scale_in_float32_stays_in_float32() -> None:
    text = source(f"x = Cast <to = 1> (h) {CORE} t = Mul(n, g) y = Cast <to = 10> (t)", "float16[3, 8] h")
    text = text.replace("(float[N, 3, 8] y)", "(float16[3, 8] y)")
    model, changes = check_rewrite(
        RaiseLayerNormalization(), text, "Cast LayerNormalization Cast", weights=weights(), rtol=2e-3
    )
    assert any("applied in float32" in reason for reason in changes.declined)
    assert model.graph.node(1).outputs[0].dtype == onnx_ir.DataType.FLOAT


def test_inside_a_loop() -> None:
    text = f"""g (float[3, 8] x0, int64 trip, {CONSTANTS}, float[8] g, float[8] b) => (float[3, 8] r) {{
        r = Loop (trip, , x0) <body = l (int64 i, bool c, float[3, 8] x) => (bool c2, float[3, 8] y) {{
            c2 = Identity(c) {CORE} y = Mul(n, g)
        }}>
    }}"""
    check_rewrite(
        RaiseLayerNormalization(), text, "Loop Identity LayerNormalization", weights=weights(), rtol=1e-4
    )


NEAR_MISSES = {
    "mean is an output": (f"{CORE} y = Mul(n, g)", ", float[N, 3, 1] m", "used elsewhere"),
    "variance used again": (f"{CORE} y = Mul(n, g) z = Relu(v)", ", float[N, 3, 1] z", "used elsewhere"),
    "cube": (CORE.replace("Mul(d, d)", "Pow(d, three)") + " y = Mul(n, g)", "", "power is not 2"),
    "no epsilon": (CORE.replace("Add(v, eps)", "Relu(v)") + " y = Mul(n, g)", "", "no epsilon"),
    "negative epsilon": (CORE.replace("eps)", "minus_half)") + " y = Mul(n, g)", "", "positive scalar"),
    "vector epsilon": (CORE.replace("eps)", "wide)") + " y = Mul(n, g)", "", "positive scalar"),
    "over a size that is not known": (
        CORE.replace("axes)", "first)") + " y = Mul(n, g)",
        "",
        "unknown or very large",
    ),
    "different axes": (
        CORE.replace("ReduceMean(q, axes)", "ReduceMean(q, first)") + " y = Mul(n, g)",
        "",
        "not over the same axes",
    ),
    "other mean": (
        CORE.replace("n = Div(d, s)", "m2 = ReduceMean(x, first) d2 = Sub(x, m2) n = Div(d2, s)")
        + " y = Mul(n, g)",
        "",
        "same mean",
    ),
    "product of two": (CORE.replace("Mul(d, d)", "Mul(d, x)") + " y = Mul(n, g)", "", "not a square"),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_misses_of_the_core(case: str) -> None:
    body, outputs, reason = NEAR_MISSES[case]
    more = ", float three, float[3, 1] wide, int64[1] first"
    numbers = weights(
        three=np.float32(3), wide=np.full((3, 1), 1e-5, np.float32), first=np.array([0], np.int64)
    )
    text = source(body, more=more, outputs=f"float[N, 3, 8] y{outputs}")
    check_declines(RaiseLayerNormalization(), text, reason, weights=numbers)


@pytest.mark.parametrize(
    ("tail", "wanted", "reason"),
    [
        ("y = Mul(n, column)", "LayerNormalization Mul", "varies outside"),
        ("y = Add(n, column)", "LayerNormalization Add", "varies outside"),
        ("y = Mul(n, deep)", "LayerNormalization Mul", "raises the rank"),
        ("y = Mul(n, x)", "LayerNormalization Mul", "not of the normalized shape"),
        ("y = Mul(n, n)", "LayerNormalization Mul", "used elsewhere"),
        ("t = Add(n, b) y = Mul(t, g)", "LayerNormalization Mul", "no LayerNormalization there"),
        ("t = Mul(n, g) u = Mul(t, b) y = Relu(u)", "LayerNormalization Mul Relu", "another scale"),
    ],
)
def test_parameters_that_stay_outside(tail: str, wanted: str, reason: str) -> None:
    y = "float[1, 2, 3, 8] y" if "deep" in tail else "float[2, 3, 8] y"
    more = ", float[3, 1] column, float[1, 1, 1, 8] deep"
    numbers = weights() | arrays(column=(3, 1), deep=(1, 1, 1, 8))
    _, changes = check_rewrite(
        RaiseLayerNormalization(),
        source(f"{CORE} {tail}", "float[2, 3, 8] x", more, y),
        wanted,
        weights=numbers,
        rtol=1e-4,
    )
    if reason != "no LayerNormalization there":
        assert any(reason in text for text in changes.declined), changes.declined


def test_float64_is_not_computed_in_float32() -> None:
    text = source(f"{CORE} y = Mul(n, g)").replace("float", "double")
    doubles = {k: v if k == "axes" else v.astype(np.float64) for k, v in weights().items()}
    check_declines(RaiseLayerNormalization(), text, "not the input's precision", weights=doubles)


def test_unknown_normalized_dimensions() -> None:
    text = source(f"{CORE} y = Relu(n)", "float[3, M] x", outputs="float[3, M] y")
    check_declines(RaiseLayerNormalization(), text, "unknown or very large", weights=weights())


def test_an_output_in_the_middle_keeps_the_scale_outside() -> None:
    text = source(f"{CORE} y = Mul(n, g)", outputs="float[N, 3, 8] y, float[N, 3, 8] n")
    model, _ = check_rewrite(RaiseLayerNormalization(), text, "LayerNormalization Mul", weights=weights())
    assert set(run_onnxruntime(model, {"x": np.ones((1, 3, 8), np.float32)})) == {"y", "n"}
