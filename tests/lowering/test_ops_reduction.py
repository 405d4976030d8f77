"""Reductions, arg-reductions, cumulative operators and TopK at the edges."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from checking import check_op, make_model, run_xla

SUMS = ["ReduceSum", "ReduceMean", "ReduceProd", "ReduceSumSquare", "ReduceL1", "ReduceL2"]
LOGS = ["ReduceLogSum", "ReduceLogSumExp"]
EXTREMES = ["ReduceMax", "ReduceMin"]
GENERATOR = np.random.default_rng(0)
CUBE = GENERATOR.uniform(0.5, 2, (2, 3, 4)).astype(np.float32)


def axes(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@pytest.mark.parametrize("op", [*SUMS, *LOGS, *EXTREMES])
def test_axes_and_keepdims(op: str) -> None:
    for which, keepdims in ((axes(1), 0), (axes(-1, 0), 1), (None, 0)):
        check_op(op, {"x": CUBE, "axes": which}, keepdims=keepdims)


@pytest.mark.parametrize("op", [*SUMS, *LOGS, *EXTREMES])
def test_no_axes_and_scalars(op: str) -> None:
    check_op(op, {"x": CUBE, "axes": axes()}, noop_with_empty_axes=0)
    check_op(op, {"x": np.float32(3).reshape(())})
    # ONNX Runtime returns the operand as it is here; the specification still maps each element.
    check_op(op, {"x": CUBE, "axes": axes()}, noop_with_empty_axes=1, reference="onnx")


EMPTY = {
    "ReduceSum": 0,
    "ReduceProd": 1,
    "ReduceSumSquare": 0,
    "ReduceL1": 0,
    "ReduceL2": 0,
    "ReduceLogSum": -np.inf,
    "ReduceLogSumExp": -np.inf,
    "ReduceMax": -np.inf,
    "ReduceMin": np.inf,
}


@pytest.mark.parametrize("op", EMPTY)
def test_reducing_over_nothing(op: str) -> None:
    model, feeds = make_model(op, {"x": np.zeros((2, 0, 3), np.float32), "axes": axes(1)}, opset=20)
    found = run_xla(model, feeds)["y0"]
    np.testing.assert_array_equal(found, np.full((2, 1, 3), EMPTY[op], np.float32))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64])
def test_extremes_of_integers_over_nothing(dtype: type) -> None:
    for op, expected in (("ReduceMax", np.iinfo(dtype).min), ("ReduceMin", np.iinfo(dtype).max)):
        model, feeds = make_model(op, {"x": np.zeros((0, 2), dtype), "axes": axes(0)}, opset=20, keepdims=0)
        np.testing.assert_array_equal(run_xla(model, feeds)["y0"], np.full(2, expected, dtype))


@pytest.mark.parametrize(
    "op", ["ReduceSum", "ReduceMean", "ReduceProd", "ReduceL1", "ReduceMax", "ReduceMin"]
)
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_integers(op: str, dtype: type) -> None:
    if op in ("ReduceL1",) and dtype == np.int64:
        check_op(op, {"x": np.array([[-7, 2, -3]], dtype), "axes": axes(1)}, reference="onnx")
        return
    check_op(op, {"x": np.array([[-7, 2, -3], [4, 4, 4]], dtype), "axes": axes(1)})


def test_integer_results_that_are_not_whole_are_truncated() -> None:
    x = {"x": np.array([[1, 2, 4]], np.int32), "axes": axes(1)}
    for op in ("ReduceL2", "ReduceMean"):
        check_op(op, x, reference="onnx")
    model, feeds = make_model("ReduceLogSum", x)
    np.testing.assert_array_equal(run_xla(model, feeds)["y0"], np.array([[1]], np.int32))  # log 7 = 1.9


@pytest.mark.parametrize("op", EXTREMES)
def test_nan_and_booleans(op: str) -> None:
    x = np.array([[1, np.nan, 3], [-np.inf, 2, np.inf]], np.float32)
    check_op(op, {"x": x, "axes": axes(1)}, reference="onnx")
    check_op(op, {"x": np.array([[True, False], [True, True]]), "axes": axes(1)}, opset=20)


def test_log_sum_exp_does_not_overflow() -> None:
    x = np.array([[1000, 1000.5], [-1000, -1001], [-np.inf, 0], [np.inf, 0], [-np.inf, -np.inf]], np.float32)
    found = run_xla(*make_model("ReduceLogSumExp", {"x": x, "axes": axes(1)}, keepdims=0))["y0"]
    np.testing.assert_allclose(found, np.logaddexp(x[:, 0], x[:, 1]), rtol=1e-6)


def test_half_floats_are_accumulated_in_float32() -> None:
    for dtype in (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)):
        x = np.full((1, 4096), 1.0).astype(dtype)
        found = run_xla(*make_model("ReduceSum", {"x": x, "axes": axes(1)}))["y0"]
        assert found.dtype == dtype
        assert float(found[0, 0]) == 4096


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_arg_reductions(op: str) -> None:
    x = np.array([[2, 1, 2, 1], [3, 3, 0, 0]], np.float32)
    for axis in (0, -1):
        for last in (0, 1):
            check_op(op, {"x": x}, axis=axis, select_last_index=last, keepdims=last)
    for dtype in (np.uint8, np.int32):
        check_op(op, {"x": x.astype(dtype)}, axis=1)


@pytest.mark.parametrize("op", ["CumSum", "CumProd"])
def test_cumulative(op: str) -> None:
    x = np.array([[1, 2, np.inf, 3], [4, -1, 2, 0.5]], np.float32)
    for axis, exclusive, reverse in ((0, 0, 1), (-1, 0, 0), (-1, 1, 0), (1, 1, 1)):
        operands = {"x": x, "axis": np.array(axis, np.int64)}
        check_op(op, operands, opset=26, reference="onnx", exclusive=exclusive, reverse=reverse)
    check_op("CumSum", {"x": np.arange(4, dtype=np.int32), "axis": np.array(0, np.int32)})
    check_op("CumSum", {"x": np.zeros((0, 2), np.float32), "axis": np.array(0, np.int64)})


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_top_k_in_order_with_ties(dtype: type, largest: int) -> None:
    x = np.array([[3, 1, 3, 2, 1], [5, 5, 5, 0, 7]], dtype)
    for axis, k in ((1, 3), (-1, 5), (0, 1), (1, 0)):
        check_op("TopK", {"x": x, "k": axes(k)}, 2, axis=axis, largest=largest)


def test_top_k_of_extreme_integers() -> None:
    low, high = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    check_op("TopK", {"x": np.array([high, low, 0, low + 1], np.int64), "k": axes(2)}, 2, largest=0)
    check_op(
        "TopK", {"x": np.array([0, 7, 255], np.uint8), "k": axes(2)}, 2, opset=24, largest=0, reference="onnx"
    )
