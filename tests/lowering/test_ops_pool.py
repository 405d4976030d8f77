"""Pooling against ONNX Runtime; against onnx.reference where it has no kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checking import check_op

RANDOM = np.random.default_rng(0)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}

WINDOWS: list[dict[str, Any]] = [
    {"kernel_shape": [2, 3]},
    {"kernel_shape": [3, 2], "strides": [2, 3], "pads": [1, 0, 2, 1]},
    {"kernel_shape": [3, 2], "strides": [2, 3], "pads": [1, 0, 2, 1], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "strides": [3, 2], "ceil_mode": 1},
    {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [0, 0, 1, 1], "ceil_mode": 1},
    {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
    {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "VALID"},
]
DILATED: list[dict[str, Any]] = [
    {"kernel_shape": [2, 3], "dilations": [3, 2]},
    {"kernel_shape": [3, 2], "dilations": [2, 1], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1},
]


def normal(*shape: int, dtype: object = np.float32) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(dtype)  # type: ignore[call-overload]


@pytest.mark.parametrize("window", WINDOWS + DILATED)
def test_max_pool_with_positions(window: dict[str, Any]) -> None:
    check_op("MaxPool", {"x": normal(2, 3, 9, 8)}, outputs=2, **window)
    check_op("MaxPool", {"x": normal(2, 3, 9, 8)}, **window)


@pytest.mark.parametrize("storage_order", [0, 1])
def test_max_pool_position_of_ties_is_the_first(storage_order: int) -> None:
    x = RANDOM.integers(0, 3, (2, 2, 6, 5)).astype(np.float32)
    check_op("MaxPool", {"x": x}, outputs=2, kernel_shape=[3, 2], strides=[1, 2], storage_order=storage_order)


@pytest.mark.parametrize("shape", [(1, 2, 9), (1, 2, 5, 6, 7)])
def test_max_pool_in_other_dimensions(shape: tuple[int, ...]) -> None:
    rank = len(shape) - 2
    attributes = {"kernel_shape": [3] * rank, "strides": [2] * rank, "pads": [1] * 2 * rank}
    check_op("MaxPool", {"x": normal(*shape)}, outputs=2, **attributes)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.float64, np.float16])
def test_max_pool_of_other_types(dtype: type) -> None:
    x = RANDOM.integers(0, 100, (1, 1, 7, 7)).astype(dtype) - dtype(50 if dtype != np.uint8 else 0)
    reference = "onnx" if dtype is np.float16 else "onnxruntime"
    attributes = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}
    check_op("MaxPool", {"x": x}, reference=reference, **attributes)


@pytest.mark.parametrize("opset", [18, 22])
@pytest.mark.parametrize("count_include_pad", [0, 1])
@pytest.mark.parametrize("window", WINDOWS)
def test_average_pool(window: dict[str, Any], count_include_pad: int, opset: int) -> None:
    check_op(
        "AveragePool",
        {"x": normal(2, 3, 9, 8)},
        opset=opset,
        count_include_pad=count_include_pad,
        **window,
        **CLOSE,
    )


@pytest.mark.parametrize("count_include_pad", [0, 1])
@pytest.mark.parametrize("window", DILATED)
def test_dilated_average_pool(window: dict[str, Any], count_include_pad: int) -> None:
    check_op(
        "AveragePool",
        {"x": normal(1, 2, 9, 8)},
        opset=19,
        count_include_pad=count_include_pad,
        **window,
        **CLOSE,
    )


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("window", [WINDOWS[0], WINDOWS[1], WINDOWS[3], DILATED[0]])
def test_lp_pool(window: dict[str, Any], p: int) -> None:
    check_op("LpPool", {"x": normal(2, 3, 9, 8)}, p=p, **window, **CLOSE)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 4, 5), (0, 3, 4, 4)])
def test_global_pools(op: str, shape: tuple[int, ...]) -> None:
    check_op(op, {"x": normal(*shape)}, **CLOSE)


def test_global_average_of_halves_does_not_overflow() -> None:
    x = np.full((1, 1, 64, 64), 100, np.float16)  # the sum is beyond float16
    found = check_op("GlobalAveragePool", {"x": x}, opset=22, reference="onnx")
    assert found["y0"].item() == 100


def test_max_unpool_undoes_max_pool() -> None:
    x = normal(1, 2, 4, 6)
    pooled = check_op("MaxPool", {"x": x}, outputs=2, kernel_shape=[2, 2], strides=[2, 2])
    inputs = {"x": pooled["y0"], "i": pooled["y1"]}
    unpooled = check_op("MaxUnpool", inputs, kernel_shape=[2, 2], strides=[2, 2])["y0"]
    assert set(unpooled[unpooled != 0]) == set(pooled["y0"].reshape(-1))


def test_max_unpool_into_a_larger_shape() -> None:
    # Positions count in the inferred shape. ONNX Runtime counts them in the larger one, and fails the
    # standard's own case for it.
    pooled = check_op("MaxPool", {"x": normal(1, 2, 4, 6)}, outputs=2, kernel_shape=[2, 2], strides=[2, 2])
    inputs = {"x": pooled["y0"], "i": pooled["y1"], "s": np.array([1, 2, 5, 7], np.int64)}
    attributes = {"kernel_shape": [2, 2], "strides": [2, 2]}
    check_op("MaxUnpool", inputs, constant=("s",), reference="onnx", **attributes)
