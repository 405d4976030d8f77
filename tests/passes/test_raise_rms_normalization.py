"""raise-rms-normalization against ONNX Runtime: spellings, scales, precisions and near misses."""

from __future__ import annotations

import numpy as np
import pytest
from rewriting import arrays, check_declines, check_rewrite, with_weights

from graphopt.passes.raise_rms_normalization import RaiseRmsNormalization

NUMBERS = {"e": 1e-5, "one": 1.0, "two": 2.0, "three": 3.0, "half": 0.5, "mhalf": -0.5, "zero": 0.0}
SQUARES = ["q = Mul(x, x)", "q = Pow(x, two)"]
ROOTS = [
    "r = Sqrt(a) i = Reciprocal(r) n = Mul(x, i)",
    "r = Sqrt(a) i = Div(one, r) n = Mul(i, x)",
    "i = Pow(a, mhalf) n = Mul(x, i)",
    "p = Reciprocal(a) i = Sqrt(p) n = Mul(x, i)",
    "r = Sqrt(a) n = Div(x, r)",
    "r = Pow(a, half) n = Div(x, r)",
]
MEAN = "m = ReduceMean<keepdims = 1>(q, axes) a = Add(m, e)"
SCALED = "y = Mul(n, s)"


def source(body: str, kind: str = "float", scale: str = "8") -> str:
    names = ", ".join(f"{kind} {n}" for n in NUMBERS)
    return f"g ({kind}[N, 4, 8] x, {kind}[{scale}] s, {names}, int64[K] axes) => ({kind}[A, B, C] y) {{ {body} }}"


def weights(
    axes: tuple[int, ...] = (-1,), dtype: type = np.float32, **more: np.ndarray
) -> dict[str, np.ndarray]:
    numbers = {k: np.asarray(v, dtype) for k, v in NUMBERS.items()}
    return {**numbers, "axes": np.array(axes), **more}


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("square", SQUARES)
def test_spellings(square: str, root: str) -> None:
    text = source(f"{square} {MEAN} {root} {SCALED}")
    model, _ = check_rewrite(
        RaiseRmsNormalization(), text, "RMSNormalization", weights=weights(**arrays(s=(8,))), opset=23
    )
    node = model.graph.node(0)
    assert node.attributes["axis"].value == -1
    assert node.attributes["epsilon"].value == pytest.approx(1e-5)


BODY = f"{SQUARES[0]} {MEAN} {ROOTS[0]}"


@pytest.mark.parametrize(
    ("axes", "scale"), [((2,), "8"), ((1, 2), "4, 8"), ((-1, -2), "8"), ((-1,), "1, 1, 8"), ((-1,), "1")]
)
def test_axes_and_scales(axes: tuple[int, ...], scale: str) -> None:
    shape = tuple(map(int, scale.split(",")))
    text = source(f"{BODY} y = Mul(s, n)", scale=scale)
    check_rewrite(
        RaiseRmsNormalization(), text, "RMSNormalization", weights=weights(axes, **arrays(s=shape)), opset=23
    )


def test_scales_that_are_computed_join_if_they_fit() -> None:
    text = source(f"{BODY} t = Relu(s) y = Mul(n, t)")
    check_rewrite(RaiseRmsNormalization(), text, "Relu RMSNormalization", weights=weights(), opset=23)


def test_scales_that_vary_elsewhere_stay_outside() -> None:
    text = source(f"{BODY} {SCALED}", scale="4, 1")
    check_rewrite(
        RaiseRmsNormalization(), text, "RMSNormalization Mul", weights=weights(**arrays(s=(4, 1))), opset=23
    )
    text = source(f"{BODY} {SCALED}", scale="1, 1, 1, 8").replace("[A, B, C] y", "[A, B, C, D] y")
    given = weights(**arrays(s=(1, 1, 1, 8)))
    check_rewrite(RaiseRmsNormalization(), text, "RMSNormalization Mul", weights=given, opset=23)


def test_without_a_scale() -> None:
    check_rewrite(RaiseRmsNormalization(), source(f"{BODY} y = Neg(n)"), "RMSNormalization Neg",
                  weights=weights(), opset=23)  # fmt: skip


def test_large_and_tiny_numbers() -> None:
    text = source(f"{BODY} {SCALED}")
    x = np.random.default_rng(0).standard_normal((3, 4, 8)).astype(np.float32)
    x[0], x[1, :2], x[2, 0] = 0, 1e-25, 1e25
    x[2, 1, 0] = np.nan
    feeds = {"x": x, "s": np.ones(8, np.float32)}
    check_rewrite(RaiseRmsNormalization(), text, "RMSNormalization", weights=weights(), opset=23, feeds=feeds)


def test_half_precision_with_float32_inside() -> None:
    names = ", ".join(f"float {n}" for n in NUMBERS)
    text = f"""g (float16[N, 4, 8] h, float16[8] s, {names}, int64[K] axes) => (float16[A, B, C] y) {{
        x = Cast<to = 1>(h) {BODY} c = Cast<to = 10>(n) {SCALED.replace("(n,", "(c,")} }}"""
    given = weights(s=np.arange(8).astype(np.float16))
    check_rewrite(RaiseRmsNormalization(), text, "RMSNormalization", weights=given, opset=23, rtol=2e-3)


def test_a_float32_scale_inside_keeps_the_casts() -> None:
    names = ", ".join(f"float {n}" for n in NUMBERS)
    text = f"""g (float16[N, 4, 8] h, float[8] s, {names}, int64[K] axes) => (float16[A, B, C] y) {{
        x = Cast<to = 1>(h) {BODY} c = Mul(n, s) y = Cast<to = 10>(c) }}"""
    check_rewrite(RaiseRmsNormalization(), text, "Cast RMSNormalization Cast",
                  weights=weights(**arrays(s=(8,))), opset=23, rtol=2e-3)  # fmt: skip


@pytest.mark.parametrize(
    ("body", "reason", "axes"),
    [
        (f"{SQUARES[0]} {MEAN} {ROOTS[0]} {SCALED}", "known sizes", (1,)),
        (f"{SQUARES[0]} {MEAN} {ROOTS[0]} {SCALED}", "known sizes", (0, 1, 2)),
        (f"{SQUARES[0]} {MEAN.replace('Add(m, e)', 'Add(m, zero)')} {ROOTS[0]} {SCALED}", "epsilon", (-1,)),
        (f"q = Pow(x, three) {MEAN} {ROOTS[0]} {SCALED}", "power is not 2", (-1,)),
        (f"z = Abs(x) q = Mul(z, z) {MEAN} {ROOTS[0]} {SCALED}", "not what is squared", (-1,)),
        (f"q = Mul(x, s) {MEAN} {ROOTS[0]} {SCALED}", "not a square", (-1,)),
        (f"{SQUARES[0]} {MEAN} {ROOTS[0]} u = Mul(n, i) y = Mul(u, s)", "used elsewhere", (-1,)),
    ],
)
def test_near_misses(body: str, reason: str, axes: tuple[int, ...]) -> None:
    check_declines(RaiseRmsNormalization(), source(body), reason, weights=weights(axes), opset=23)


def test_double_precision_is_left() -> None:
    text = source(f"{BODY} {SCALED}", "double")
    check_declines(RaiseRmsNormalization(), text, "precision", weights=weights((-1,), np.float64), opset=23)


def test_the_opset_is_raised_only_if_asked_and_of_use() -> None:
    text = source(f"{BODY} {SCALED}")
    check_declines(RaiseRmsNormalization(), text, "needs opset 23", weights=weights(), opset=18)
    model, _ = check_rewrite(
        RaiseRmsNormalization(upgrade=True), text, "RMSNormalization", weights=weights(), opset=18
    )
    assert model.opset_imports[""] == 23
    other = with_weights(source(f"q = Pow(x, three) {MEAN} {ROOTS[0]} {SCALED}"), weights(), 18)
    assert not RaiseRmsNormalization(upgrade=True).run(other).modified
    assert other.opset_imports[""] == 18


@pytest.mark.parametrize(
    "other", ["RandomNormalLike(x)", "RandomUniformLike(x)", "Bernoulli(x)", "RandomNormal<shape = [2]>()"]
)
def test_the_opset_stays_where_an_operator_has_no_kernel_from_22_on(other: str) -> None:
    text = source(f"{BODY} {SCALED}").rstrip().removesuffix("}")
    model = with_weights(f"{text} unused = {other} }}", weights(), 18)
    assert not RaiseRmsNormalization(upgrade=True).run(model).modified
    assert model.opset_imports[""] == 18


@pytest.mark.parametrize(("dtype", "opset"), [("int8", 18), ("uint8", 23)])
def test_the_opset_stays_where_onnxruntime_would_refuse_int8_that_is_moved(dtype: str, opset: int) -> None:
    text = source(f"{BODY} {SCALED}").rstrip().removesuffix("}")
    zero = f"z = Constant<value = {dtype} {{3}}>() b = QuantizeLinear(x, three, z)"
    model = with_weights(
        f"{text} {zero} d = DequantizeLinear(b, three, z) t = Transpose(d) unused = Neg(t) }}", weights(), 18
    )
    RaiseRmsNormalization(upgrade=True).run(model)
    assert model.opset_imports[""] == opset
