"""Cases of the operators that work element by element."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from hypothesis import strategies as st
from operator_cases import OpCase
from operator_values import (
    FLOATS,
    INTEGERS,
    NUMBERS,
    SIGNED,
    UNSIGNED,
    broadcastable,
    numbers,
    shapes,
    some,
)

Cases = st.SearchStrategy[OpCase]
STRATEGIES: dict[str, Cases] = {}

WIDE = (np.float32, np.float64, np.float16)


def unary(op_type: str, dtypes: tuple[Any, ...], *, opset: int = 21, **attributes: Any) -> None:
    """x of any type and shape; each attribute is left out or one of its values."""

    @st.composite
    def cases(draw: Any) -> OpCase:
        dtype = draw(st.sampled_from(dtypes))
        given = some(draw, **{k: draw(st.sampled_from(v)) for k, v in attributes.items()})
        # 1 + erf cancels: what is left of it is as exact as 1 is.
        cancels = op_type == "Gelu"
        return OpCase(
            op_type, {"x": numbers(draw, draw(shapes()), dtype)}, given, opset=opset, scaled=cancels
        )

    STRATEGIES[op_type] = cases()


for (
    name
) in "Acos Acosh Asin Asinh Atan Atanh Cos Cosh Sin Sinh Tan Tanh Exp Log Sqrt Reciprocal Sigmoid".split():
    unary(name, FLOATS, opset=22)
unary(
    "Erf", (np.float32, np.float16, ml_dtypes.bfloat16), opset=22
)  # the reference rounds doubles to float32
for name in "Softplus Softsign Mish".split():
    unary(name, WIDE, opset=22)
unary("HardSwish", (np.float32, np.float16), opset=22)  # the reference's sixth is a float32 in float64 too
for name in "Ceil Floor Round".split():
    unary(name, FLOATS, opset=22)
for name in "Abs Sign Neg Identity".split():
    unary(name, FLOATS + SIGNED)
unary("Relu", (*FLOATS, np.int32, np.int8))
unary("IsNaN", FLOATS, opset=20)
unary("IsInf", (np.float32, np.float64), opset=20, detect_negative=(0, 1), detect_positive=(0, 1))
unary("Not", (np.bool_,))
unary("BitwiseNot", INTEGERS)
ALPHAS = (0.0, 0.3, 1.0, -0.5, 2.0)
unary("Elu", WIDE, opset=22, alpha=(0.3, 1.0, 2.0))
unary("Celu", (np.float32,), alpha=(0.3, 1.0, 2.0))
unary("Selu", WIDE, opset=22, alpha=(0.3, 2.0), gamma=(0.5, 2.0))
unary("LeakyRelu", WIDE, alpha=ALPHAS)
unary("ThresholdedRelu", WIDE, opset=22, alpha=ALPHAS)
unary("HardSigmoid", WIDE, opset=22, alpha=ALPHAS, beta=ALPHAS)
unary("Shrink", (*WIDE, np.int32, np.int8, np.uint8), bias=ALPHAS, lambd=(0.0, 0.5, 2.0))
unary(
    "Gelu", (np.float32, np.float16), opset=20, approximate=("none", "tanh")
)  # float32 constants in the reference
unary("Swish", (np.float32, np.float16), opset=24, alpha=ALPHAS)


def binary(
    op_type: str, dtypes: tuple[Any, ...], *, opset: int = 21, values: Callable[..., Any] | None = None
) -> None:
    """Operands that broadcast; `values` mends the second one where some numbers have no answer."""

    @st.composite
    def cases(draw: Any) -> OpCase:
        dtype = draw(st.sampled_from(dtypes))
        shape = draw(shapes())
        a, b = (
            numbers(draw, broadcastable(draw, shape), dtype),
            numbers(draw, broadcastable(draw, shape), dtype),
        )
        if values is not None:
            a, b = values(a, b)
        return OpCase(op_type, {"a": a, "b": b}, opset=opset)

    STRATEGIES[op_type] = cases()


def divisible(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """No integer is divided by zero, or the least one by -1: the answer is anything."""
    if b.dtype.kind not in "iu":
        return a, b
    return np.where(a == np.iinfo(a.dtype).min, np.ones_like(a), a), np.where(b == 0, np.ones_like(b), b)


for name in "Add Sub Mul".split():
    binary(name, NUMBERS)
binary("Div", NUMBERS, values=divisible)
for name in "And Or Xor".split():
    binary(name, (np.bool_,))
for name in "BitwiseAnd BitwiseOr BitwiseXor".split():
    binary(name, INTEGERS)
binary("Equal", (*NUMBERS, np.bool_))
for name in "Greater GreaterOrEqual Less LessOrEqual".split():
    binary(name, NUMBERS)
binary("SwiGLU", (np.float32,), opset=28)


@st.composite
def mod(draw: Any) -> OpCase:
    dtype = draw(st.sampled_from(INTEGERS + WIDE))
    shape = draw(shapes())
    a, b = divisible(numbers(draw, shape, dtype), numbers(draw, broadcastable(draw, shape), dtype))
    fmod = 1 if np.dtype(dtype).kind == "f" else draw(st.integers(0, 1))
    return OpCase("Mod", {"a": a, "b": b}, {"fmod": fmod})


@st.composite
def pow_(draw: Any) -> OpCase:
    base = draw(st.sampled_from((np.float32, np.float64, np.int32, np.int64)))
    exponent = draw(st.sampled_from((np.float32, np.float64, np.int32, np.int64)))
    shape = draw(shapes())
    x, y = numbers(draw, shape, base), numbers(draw, broadcastable(draw, shape), exponent)
    if np.dtype(base).kind == "i":  # an integer's negative or overflowing power is anything
        x, y = np.clip(x, -4, 4), np.clip(np.nan_to_num(y), 0, 5)
        y = np.floor(y).astype(exponent)
    return OpCase("Pow", {"x": x, "y": y})


@st.composite
def bit_shift(draw: Any) -> OpCase:
    dtype = draw(st.sampled_from(UNSIGNED))
    shape = draw(shapes())
    x = numbers(draw, shape, dtype)
    y = (numbers(draw, broadcastable(draw, shape), dtype) % np.array(8 * x.dtype.itemsize, dtype)).astype(
        dtype
    )
    return OpCase("BitShift", {"x": x, "y": y}, {"direction": draw(st.sampled_from(("LEFT", "RIGHT")))})


@st.composite
def prelu(draw: Any) -> OpCase:
    dtype = draw(st.sampled_from((*WIDE, np.int32, np.int64)))
    shape = draw(shapes())
    return OpCase(
        "PRelu", {"x": numbers(draw, shape, dtype), "slope": numbers(draw, broadcastable(draw, shape), dtype)}
    )


@st.composite
def clip(draw: Any) -> OpCase:
    dtype = draw(st.sampled_from(NUMBERS))

    def bound() -> np.ndarray | None:
        return numbers(draw, (), dtype, edges=False) if draw(st.booleans()) else None

    return OpCase(
        "Clip", {"x": numbers(draw, draw(shapes()), dtype), "min": bound(), "max": bound()}, opset=13
    )


@st.composite
def where(draw: Any) -> OpCase:
    dtype = draw(st.sampled_from((*FLOATS, np.int64, np.int32, np.uint8, np.bool_)))
    shape = draw(shapes())
    parts = [numbers(draw, broadcastable(draw, shape), t) for t in (np.bool_, dtype, dtype)]
    return OpCase("Where", dict(zip("cxy", parts, strict=True)))


def variadic(op_type: str, dtypes: tuple[Any, ...]) -> None:
    @st.composite
    def cases(draw: Any) -> OpCase:
        dtype, shape = draw(st.sampled_from(dtypes)), draw(shapes())
        count = draw(st.integers(1, 4))
        return OpCase(
            op_type, {f"x{i}": numbers(draw, broadcastable(draw, shape), dtype) for i in range(count)}
        )

    STRATEGIES[op_type] = cases()


for name in ("Max", "Min"):
    variadic(name, NUMBERS)
for name in ("Sum", "Mean"):
    variadic(name, FLOATS)

CASTS = (*FLOATS, *INTEGERS, np.bool_, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2)
CASTS += (ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2fnuz, ml_dtypes.int4, ml_dtypes.uint4)


@st.composite
def cast(draw: Any) -> OpCase:
    source, to = draw(st.sampled_from(CASTS)), np.dtype(draw(st.sampled_from(CASTS)))
    wide = numbers(draw, draw(shapes()), np.float32 if np.dtype(source).kind not in "iub" else source)
    if to.kind in "iu" or to in (
        ml_dtypes.int4,
        ml_dtypes.uint4,
    ):  # what the type cannot hold becomes anything
        wide = np.clip(np.nan_to_num(wide.astype(np.float64)), 0, 7).astype(wide.dtype)
    attributes: dict[str, Any] = {"to": onnx.helper.np_dtype_to_tensor_dtype(to)}
    if "float8" in to.name:
        attributes |= some(draw, saturate=draw(st.integers(0, 1)))
    if np.dtype(source) in (ml_dtypes.int4, ml_dtypes.uint4):
        wide = np.clip(np.nan_to_num(wide), 0, 7)
    return OpCase("Cast", {"x": np.asarray(wide.astype(source))}, attributes)


@st.composite
def cast_like(draw: Any) -> OpCase:
    case = draw(cast())
    target = onnx.helper.tensor_dtype_to_np_dtype(case.attributes["to"])
    kept = {k: v for k, v in case.attributes.items() if k != "to"}
    return OpCase("CastLike", {**case.inputs, "like": np.zeros((1,), target)}, kept)


@st.composite
def bit_cast(draw: Any) -> OpCase:
    widths = {
        1: (np.int8, np.uint8),
        2: (np.int16, np.uint16, np.float16),
        4: (np.int32, np.uint32, np.float32),
    }
    family = draw(st.sampled_from(list(widths.values())))
    source, to = draw(st.sampled_from(family)), draw(st.sampled_from(family))
    attributes = {"to": onnx.helper.np_dtype_to_tensor_dtype(np.dtype(to))}
    return OpCase("BitCast", {"x": numbers(draw, draw(shapes()), source)}, attributes, opset=26)


STRATEGIES |= {
    "Mod": mod(), "Pow": pow_(), "BitShift": bit_shift(), "PRelu": prelu(), "Clip": clip(), "Where": where(),
    "Cast": cast(), "CastLike": cast_like(), "BitCast": bit_cast(),
}  # fmt: skip
