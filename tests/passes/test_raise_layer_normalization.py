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


TWO_MOMENTS = "q = Mul(x, x) v2 = ReduceMean(q, axes) mm = Mul(m, m) v = Sub(v2, mm)"
NUMBERS_OF_FORMS = {
    "zero": np.float32(0),
    "eighth": np.float32(1 / 8),
    "seventh": np.float32(1 / 7),
    "eight": np.float32(8),
    "kept": np.array([0, 3, 1], np.int64),
    "last": np.array([2], np.int64),
}
MORE_NUMBERS = ", float zero, float eighth, float seventh, float eight, int64[3] kept, int64[1] last"
FORMS = {
    "two moments": f"{MEAN} {TWO_MOMENTS} e = Add(v, eps) s = Sqrt(e) n = Div(d, s) t = Mul(n, g) y = Add(t, b)",
    "two moments, at least 0": f"{MEAN} {TWO_MOMENTS} w = Max(v, zero) e = Add(w, eps) s = Sqrt(e) r = Reciprocal(s)"
    " n = Mul(d, r) t = Mul(n, g) y = Add(t, b)",
    "sums divided": "u = ReduceSum(x, axes) m = Div(u, eight) d = Sub(x, m) q = Mul(d, d) k = ReduceSum(q, axes)"
    " v = Mul(k, eighth) e = Add(v, eps) s = Sqrt(e) n = Div(d, s) t = Mul(n, g) y = Add(t, b)",
    "statistics reshaped": "u = ReduceMean <keepdims = 0> (x, axes) m = Unsqueeze(u, last) d = Sub(x, m) q = Mul(d, d)"
    " k = ReduceMean <keepdims = 0> (q, axes) e = Add(k, eps) s = Sqrt(e) z = Reshape(s, kept) n = Div(d, z)"
    " t = Mul(n, g) y = Add(t, b)",
    "scale times deviation": f"{MEAN} q = Mul(d, d) v = ReduceMean(q, axes) e = Add(v, eps) s = Sqrt(e) w = Mul(g, d)"
    " n = Div(w, s) y = Add(n, b)",
    "scale times root": f"{MEAN} q = Mul(d, d) v = ReduceMean(q, axes) e = Add(v, eps) s = Sqrt(e) r = Reciprocal(s)"
    " w = Mul(r, g) n = Mul(d, w) y = Add(n, b)",
    "factor and shift": "m = ReduceMean(x, axes) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, axes) e = Add(v, eps)"
    " s = Sqrt(e) r = Reciprocal(s) w = Mul(r, g) n = Mul(x, w) mw = Mul(m, w) o = Sub(b, mw) y = Add(n, o)",
    "difference twice": "m = ReduceMean(x, axes) d = Sub(x, m) f = Sub(x, m) h = Sub(x, m) q = Mul(f, h)"
    " v = ReduceMean(q, axes) e = Add(v, eps) s = Sqrt(e) n = Div(d, s) t = Mul(n, g) y = Add(t, b)",
    "negative bias": f"{CORE} t = Mul(n, g) y = Sub(t, b)",
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_exporters(form: str) -> None:
    numbers = weights() | NUMBERS_OF_FORMS
    check_rewrite(
        RaiseLayerNormalization(),
        source(FORMS[form], more=MORE_NUMBERS),
        "LayerNormalization",
        weights=numbers,
    )


OTHER_FUNCTIONS = {
    "n - 1 for n": ("sums divided", "eighth", "seventh", "number of its elements"),
    "moments of two values": ("two moments", "Mul(x, x)", "Mul(x, d)", "one value over the same axes"),
    "mean not squared": ("two moments", "Mul(m, m)", "Mul(m, eps)", "a mean and a squared mean"),
    "at least epsilon": ("two moments, at least 0", "Max(v, zero)", "Max(v, eps)", "no variance above"),
    "reshaped elsewhere": (
        "statistics reshaped",
        "Reshape(s, kept)",
        "Reshape(s, shifted)",
        "one number for",
    ),
    "another factor": ("factor and shift", "Mul(m, w)", "Mul(m, r)", "with the same factor"),
    "not the mean": ("factor and shift", "mw = Mul(m, w)", "mw = Mul(v, w)", "with the same factor"),
}


@pytest.mark.parametrize("case", OTHER_FUNCTIONS)
def test_other_functions_stay(case: str) -> None:
    form, old, new, reason = OTHER_FUNCTIONS[case]
    assert old in FORMS[form]
    text = source(FORMS[form].replace(old, new), "float[3, 3, 8] x", f"{MORE_NUMBERS}, int64[3] shifted")
    numbers = weights(shifted=np.array([1, 3, 3], np.int64)) | NUMBERS_OF_FORMS
    check_declines(
        RaiseLayerNormalization(), text.replace("[N, 3, 8] y", "[3, 3, 8] y"), reason, weights=numbers
    )


CHANNELS = {
    "channels of an image": ("float[N, 8, 3, 2] x", [1], (8, 1, 1)),
    "the middle axis": ("float[N, 8, 5] x", [-2], (1, 8, 1)),
    "two axes apart": ("float[2, 5, 4] x", [0, 2], (2, 1, 4)),
}


@pytest.mark.parametrize("case", CHANNELS)
def test_over_other_axes_with_transpositions(case: str) -> None:
    x, axes, shape = CHANNELS[case]
    tail = "t = Mul(n, g) y = Add(t, b)"
    text = source(f"{CORE} {tail}", x, outputs=x.replace(" x", " y"))
    sizes = ", ".join(str(d) for d in shape)
    text = text.replace("float[8] g, float[8] b", f"float[{sizes}] g, float[{sizes}] b")
    text = text.replace("int64[1] axes", f"int64[{len(axes)}] axes")
    numbers = NUMBERS | arrays(4, g=shape, b=shape) | {"axes": np.array(axes, np.int64)}
    check_rewrite(RaiseLayerNormalization(), text, "Transpose LayerNormalization Transpose", weights=numbers)


def test_parameters_of_other_axes_stay_behind_the_transposition() -> None:
    text = source(f"{CORE} y = Mul(n, g)", "float[2, 8, 5] x", outputs="float[2, 8, 5] y")
    text = text.replace("float[8] g, float[8] b", "float[5] g, float[5] b")
    numbers = NUMBERS | arrays(4, g=(5,), b=(5,)) | {"axes": np.array([1], np.int64)}
    _, changes = check_rewrite(
        RaiseLayerNormalization(), text, "Transpose LayerNormalization Transpose Mul", weights=numbers
    )
    assert any("varies outside" in reason for reason in changes.declined)


def test_float16_with_parameters_that_float16_holds() -> None:
    text = source(
        f"x = Cast <to = 1> (h) {CORE} t = Mul(n, g) u = Add(t, b) y = Cast <to = 10> (u)", "float16[3, 8] h"
    )
    text = text.replace("(float[N, 3, 8] y)", "(float16[3, 8] y)")
    numbers = weights(g=np.linspace(0.5, 2.25, 8, dtype=np.float32), b=np.arange(8, dtype=np.float32))
    check_rewrite(RaiseLayerNormalization(), text, "LayerNormalization", weights=numbers, rtol=2e-3)
