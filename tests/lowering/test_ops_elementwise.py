"""Elementwise arithmetic, logic, unary mathematics and activations against ONNX Runtime, at the edges."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from checking import check_op, make_model, run_xla

FLOATS = (np.float16, np.float32, np.float64)
SIGNED = (np.int8, np.int16, np.int32, np.int64)
UNSIGNED = (np.uint8, np.uint16, np.uint32, np.uint64)
SPECIAL = np.array([-np.inf, -2.5, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 1.5, 2.5, np.inf, np.nan], np.float32)
BF16 = np.dtype(ml_dtypes.bfloat16)


def pairs(values: np.ndarray) -> dict[str, np.ndarray]:
    """Every value against every other."""
    return {"a": values[:, None], "b": values[None, :]}


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "Pow"])
def test_arithmetic_on_special_floats(op: str) -> None:
    check_op(op, pairs(SPECIAL))


def test_division_keeps_the_sign_of_zero() -> None:
    x = np.array([1.0, -1.0, 1.0, -1.0], np.float32)
    y = np.array([np.inf, np.inf, -np.inf, -np.inf], np.float32)
    found = check_op("Div", {"a": x, "b": y})["y0"]
    np.testing.assert_array_equal(np.signbit(found), [False, True, True, False])


@pytest.mark.parametrize("dtype", [np.int8, np.int64])
def test_integers_wrap_around(dtype: type) -> None:
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    x = np.array([low, low + 1, -1, 0, 1, high - 1, high], dtype)
    for op in ("Add", "Sub", "Mul"):
        check_op(op, pairs(x))


@pytest.mark.parametrize("dtype", SIGNED)
def test_integer_division_and_remainders_by_sign(dtype: type) -> None:
    x = {"a": np.array([-7, -6, -1, 0, 1, 6, 7], dtype)[:, None], "b": np.array([-3, -2, 2, 3], dtype)}
    check_op("Div", x)
    check_op("Mod", x)
    check_op("Mod", x, fmod=1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint64])
def test_unsigned_arithmetic(dtype: type) -> None:
    high = np.iinfo(dtype).max
    x = {"a": np.array([0, 1, 7, high - 1, high], dtype)[:, None], "b": np.array([1, 2, 3, high], dtype)}
    for op in ("Add", "Sub", "Mul", "Div", "Mod", "Max", "Min"):
        # ONNX Runtime compares 16-bit integers nowhere.
        check_op(op, x, reference="onnx" if dtype == np.uint16 and op in ("Max", "Min") else "onnxruntime")


@pytest.mark.parametrize("dtype", [*FLOATS, BF16])
def test_float_types_keep_their_type(dtype: Any) -> None:
    x = {"a": np.array([[1.5], [-2.0], [3.25]]).astype(dtype), "b": np.array([0.5, -4.0]).astype(dtype)}
    for op in ("Add", "Sub", "Mul", "Div"):
        # ONNX Runtime has no bfloat16 kernels of these on the CPU.
        check_op(op, x, reference="onnx" if dtype == BF16 else "onnxruntime", rtol=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_float_remainder_has_the_sign_of_the_dividend(dtype: type) -> None:
    x = np.array([-5.5, -4.3, 0.0, 4.3, 5.5, np.inf, np.nan], dtype)
    y = np.array([-3.0, 2.0, 2.5, np.inf], dtype)
    check_op("Mod", {"a": x[:, None], "b": y}, fmod=1)


def test_floored_float_remainder_has_the_sign_of_the_divisor() -> None:
    x = {"a": np.array([-5.5, -4.3, 4.3, 5.5], np.float32)[:, None], "b": np.array([-3.0, 2.0], np.float32)}
    found = check_op("Mod", x, opset=28, reference="onnx")["y0"]
    assert (np.sign(found) == np.sign(x["b"])).all()


@pytest.mark.parametrize(
    ("base", "exponent"),
    [
        (np.float32, np.int32),
        (np.float32, np.int64),
        (np.float32, np.float64),
        (np.float64, np.int32),
        (np.int32, np.int32),
        (np.int64, np.int64),
        (np.int32, np.float32),
        (np.int64, np.float32),
    ],
)
def test_pow_of_mixed_types(base: type, exponent: type) -> None:
    check_op("Pow", {"x": np.array([[1], [2], [3], [5]], base), "y": np.array([0, 1, 2, 5], exponent)})


def test_pow_of_integers_to_negative_powers_truncates() -> None:
    x = np.array([-2, -1, 1, 2, 3], np.int64)[:, None]
    check_op("Pow", {"x": x, "y": np.array([-3, -2, -1], np.int64)})


@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
@pytest.mark.parametrize("dtype", UNSIGNED)
def test_bit_shift(dtype: type, direction: str) -> None:
    bits = np.iinfo(dtype).bits
    x = np.array([0, 1, 3, np.iinfo(dtype).max], dtype)[:, None]
    check_op(
        "BitShift", {"x": x, "y": np.array([0, 1, bits - 1], dtype)}, reference="onnx", direction=direction
    )


def test_bit_shift_beyond_the_width_leaves_the_sign() -> None:
    x, y = np.array([-5, 5, -5, 5], np.int32), np.array([32, 40, 31, -1], np.int32)
    for direction, expected in (("RIGHT", [-1, 0, -1, 0]), ("LEFT", [0, 0, -(2**31), 0])):
        model, feeds = make_model("BitShift", {"x": x, "y": y}, opset=28, direction=direction)
        np.testing.assert_array_equal(run_xla(model, feeds)["y0"], np.array(expected, np.int32))


@pytest.mark.parametrize("dtype", [np.int8, np.uint64])
def test_bitwise(dtype: type) -> None:
    x = np.array([0, 1, 5, np.iinfo(dtype).max, np.iinfo(dtype).min], dtype)
    for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
        check_op(op, pairs(x))
    check_op("BitwiseNot", {"x": x})


@pytest.mark.parametrize("op", ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
def test_comparisons(op: str) -> None:
    check_op(op, pairs(SPECIAL))
    check_op(op, pairs(np.array([-(2**62) - 1, -(2**62), 2**62, 2**62 + 1], np.int64)))


@pytest.mark.parametrize("op", ["And", "Or", "Xor"])
def test_logic(op: str) -> None:
    check_op(op, pairs(np.array([True, False])))


def test_equal_of_booleans_and_not() -> None:
    check_op("Equal", pairs(np.array([True, False])))
    check_op("Not", {"x": np.array([True, False])})


def test_is_nan_and_is_inf() -> None:
    for dtype in (np.float32, np.float64):
        x = SPECIAL.astype(dtype)
        check_op("IsNaN", {"x": x})
        for signs in ((0, 0), (0, 1), (1, 0), (1, 1))[:: 1 if dtype == np.float32 else 3]:
            check_op("IsInf", {"x": x}, detect_negative=signs[0], detect_positive=signs[1])


@pytest.mark.parametrize("op", ["Add", "Max", "Where"])
def test_scalars_and_empty_tensors(op: str) -> None:
    for shape, other in (((), (3,)), ((0,), (1,)), ((2, 0), (1,)), ((1, 3), (2, 1)), ((), ())):
        x, y = np.ones(shape, np.float32), np.full(other, 2, np.float32)
        feeds = {"c": np.array(True), "a": x, "b": y} if op == "Where" else {"a": x, "b": y}
        check_op(op, feeds)


def test_variadic_operators_take_one_or_many() -> None:
    x = np.array([[1.0, np.nan, 3.0]], np.float32)
    many = {f"x{i}": x.T + i if i % 2 else x - i for i in range(4)}
    for op in ("Sum", "Mean", "Max", "Min"):
        check_op(op, {"x": x})
        check_op(op, many)


UNARY = (
    "Abs Neg Sign Ceil Floor Round Reciprocal Sqrt Exp Log Sin Cos Tan Asin Acos Atan Sinh Cosh Tanh Asinh "
    "Acosh Atanh Erf Relu LeakyRelu Elu Selu Celu HardSigmoid HardSwish Sigmoid Softplus Softsign Mish "
    "Shrink ThresholdedRelu"
)
GRID = np.concatenate([SPECIAL, np.linspace(-12, 12, 49, dtype=np.float32), [100, -100, 1e-7, -1e-7]])


@pytest.mark.parametrize("op", UNARY.split())
def test_unary(op: str) -> None:
    x = GRID.astype(np.float32)
    if op == "Tan":
        x = x[np.abs(x) < 13]
    check_op(op, {"x": x}, atol=2e-6)


def test_unary_on_scalars_and_empty_tensors() -> None:
    for op in ("Sqrt", "Sigmoid", "Erf"):
        check_op(op, {"x": np.float32(0.25).reshape(())})
        check_op(op, {"x": np.zeros((2, 0), np.float32)})


@pytest.mark.parametrize("op", ["Abs", "Neg", "Sign", "Relu"])
@pytest.mark.parametrize("dtype", [np.int8, np.int64])
def test_unary_on_integers(op: str, dtype: type) -> None:
    check_op(op, {"x": np.array([-128, -3, 0, 3, 127], dtype)})


@pytest.mark.parametrize("dtype", [np.uint8, np.uint64])
def test_unsigned_unary(dtype: type) -> None:
    x = np.array([0, 1, np.iinfo(dtype).max], dtype)
    check_op("Abs", {"x": x})
    check_op("Sign", {"x": x})


@pytest.mark.parametrize("op", ["Sigmoid", "Softplus", "Erf"])
def test_half_floats_are_rounded_once(op: str) -> None:
    x = np.linspace(-4, 4, 33)
    for dtype, unit in ((np.dtype(np.float16), 2**-10), (BF16, 2**-7)):
        narrow = x.astype(dtype)
        exact = check_op(op, {"x": narrow.astype(np.float64)}, reference="onnx", rtol=1e-6)["y0"]
        model, feeds = make_model(op, {"x": narrow}, opset=22)
        found = run_xla(model, feeds)["y0"]
        assert found.dtype == dtype
        np.testing.assert_allclose(found.astype(np.float64), exact, rtol=unit, atol=1e-7)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("LeakyRelu", {"alpha": 0.3}),
        ("Elu", {"alpha": 2.0}),
        ("Selu", {"alpha": 1.1, "gamma": 2.0}),
        ("Celu", {"alpha": 2.0}),
        ("HardSigmoid", {"alpha": 0.4, "beta": 0.1}),
        ("ThresholdedRelu", {"alpha": 0.7}),
        ("Shrink", {"lambd": 1.0, "bias": 0.5}),
    ],
)
def test_activation_attributes(op: str, attributes: dict[str, float]) -> None:
    check_op(op, {"x": GRID[12:].astype(np.float32)}, **attributes)


@pytest.mark.parametrize(("op", "opset"), [("Gelu", 20), ("Swish", 24)])
def test_new_activations(op: str, opset: int) -> None:
    x = np.linspace(-10, 10, 41, dtype=np.float32)
    for attributes in ({}, {"approximate": "tanh"}) if op == "Gelu" else ({}, {"alpha": 1.7}):
        check_op(op, {"x": x}, opset=opset, reference="onnx", **attributes)


def test_swiglu() -> None:
    x = np.linspace(-10, 10, 41, dtype=np.float32)
    check_op("SwiGLU", {"a": x, "b": x[::-1].copy()}, opset=28, reference="onnx", alpha=1.3)


def test_clip_bounds() -> None:
    low, high = np.float32(-1).reshape(()), np.float32(1).reshape(())
    for bounds in ((low, high), (high, low)):
        check_op("Clip", {"x": SPECIAL, "min": bounds[0], "max": bounds[1]})
    # Without a bound ONNX Runtime clips to the largest finite number, the specification does not.
    for bounds in ((low, None), (None, high), (None, None)):
        check_op("Clip", {"x": SPECIAL, "min": bounds[0], "max": bounds[1]}, reference="onnx")
    for dtype in (np.int8, np.uint64, np.float64):
        check_op(
            "Clip", {"x": np.arange(9).astype(dtype), "min": np.array(2, dtype), "max": np.array(5, dtype)}
        )


def test_prelu_broadcasts_its_slope() -> None:
    x = np.linspace(-3, 3, 24, dtype=np.float32).reshape(2, 3, 4)
    for shape in ((3, 1), (4,), (1,), ()):
        check_op("PRelu", {"x": x, "slope": np.full(shape, 0.2, np.float32)})
    check_op("PRelu", {"x": np.array([-3, 0, 3], np.int32), "slope": np.array([2], np.int32)})


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.int64, np.uint8, np.bool_])
def test_where_of_types(dtype: type) -> None:
    x = np.array([[0, 1, 1]], dtype)
    operands = {"c": np.array([[True], [False]]), "x": x, "y": x[:, ::-1].copy()}
    check_op("Where", operands, reference="onnx" if dtype == np.bool_ else "onnxruntime")
