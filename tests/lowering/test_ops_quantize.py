"""Linear quantization against ONNX Runtime and the reference implementation."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from checking import check_op

X = np.array([[-1000.0, -1.25, -0.5, 0.0, 0.25], [0.5, 0.75, 1.25, 40.0, 1000.0]], np.float32)
SCALE = np.float32(0.5).reshape(())


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
def test_quantize_per_tensor(dtype: Any) -> None:
    zero = np.array(3, dtype)
    y = check_op("QuantizeLinear", {"x": X, "s": SCALE, "z": zero}, opset=21)["y0"]
    check_op("DequantizeLinear", {"x": y, "s": SCALE, "z": zero}, opset=21)


def test_quantize_rounds_halves_to_even_and_defaults_to_uint8() -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, 254.5, 255.5], np.float32)
    found = check_op("QuantizeLinear", {"x": x, "s": np.float32(1).reshape(())}, opset=21)["y0"]
    np.testing.assert_array_equal(found, np.array([0, 2, 2, 0, 254, 255], np.uint8))


@pytest.mark.parametrize("dtype", ["int4", "uint4"])
def test_quantize_to_four_bits(dtype: str) -> None:
    kind = getattr(ml_dtypes, dtype)
    operands = {"x": X, "s": SCALE, "z": np.array(2).astype(kind)}
    y = check_op("QuantizeLinear", operands, opset=21, reference="onnx")["y0"]
    check_op("DequantizeLinear", {"x": y, "s": SCALE, "z": operands["z"]}, opset=21, reference="onnx")


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"])
@pytest.mark.parametrize("saturate", [0, 1])
def test_quantize_to_float8(dtype: str, saturate: int) -> None:
    operands = {"x": X * 100, "s": SCALE, "z": np.array(0).astype(getattr(ml_dtypes, dtype))}
    y = check_op("QuantizeLinear", operands, opset=21, reference="onnx", saturate=saturate)["y0"]
    check_op("DequantizeLinear", {"x": y, "s": SCALE}, opset=21, reference="onnx")


@pytest.mark.parametrize("constant", [(), ("s",)])
def test_halves_that_a_reciprocal_would_miss(constant: tuple[str, ...]) -> None:
    x = (np.arange(-120, 120, dtype=np.float32) + np.float32(0.5)) * np.float32(0.1)
    operands = {"x": x, "s": np.float32(0.1).reshape(()), "z": np.array(0, np.int8)}
    check_op("QuantizeLinear", operands, opset=21, constant=constant, atol=0)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_per_axis(axis: int) -> None:
    scale = np.linspace(0.25, 1.5, X.shape[axis], dtype=np.float32)
    zero = np.arange(X.shape[axis]).astype(np.int8)
    y = check_op("QuantizeLinear", {"x": X, "s": scale, "z": zero}, opset=21, axis=axis)["y0"]
    check_op("DequantizeLinear", {"x": y, "s": scale, "z": zero}, opset=21, axis=axis)


def test_blocks_with_a_smaller_last_one() -> None:
    scale = np.linspace(0.25, 1.5, 6, dtype=np.float32).reshape(2, 3)
    zero = np.arange(6).reshape(2, 3).astype(np.uint8)
    operands = {"x": X[:, :5], "s": scale, "z": zero}
    y = check_op("QuantizeLinear", operands, opset=21, axis=1, block_size=2)["y0"]
    check_op("DequantizeLinear", {"x": y, "s": scale, "z": zero}, opset=21, axis=1, block_size=2)


def test_dequantize_int32_and_other_result_types() -> None:
    x = np.array([-(2**31), -3, 0, 2**31 - 1], np.int32)
    check_op("DequantizeLinear", {"x": x, "s": SCALE}, opset=21)
    operands = {"x": np.array([-3, 0, 5], np.int8), "s": SCALE.astype(np.float16)}
    check_op("DequantizeLinear", operands, opset=21)
    check_op("DequantizeLinear", operands, opset=23, output_dtype=1, reference="onnx")


@pytest.mark.parametrize(
    "x", [X, np.zeros((2, 2), np.float32), -np.ones(3, np.float32), np.arange(9.0, dtype=np.float32)]
)
def test_dynamic_quantize(x: np.ndarray) -> None:
    check_op("DynamicQuantizeLinear", {"x": x}, 3, reference="onnxruntime")
