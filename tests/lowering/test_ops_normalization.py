"""Normalizations against ONNX Runtime; against onnx.reference where it has no kernel."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from checking import check_op, make_model, model_from, run_xla

RANDOM = np.random.default_rng(0)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def normal(*shape: int, dtype: object = np.float32) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(dtype)  # type: ignore[call-overload]


def positive(*shape: int, dtype: object = np.float32) -> np.ndarray:
    return RANDOM.uniform(0.5, 2, shape).astype(dtype)  # type: ignore[call-overload]


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 5), (2, 3, 4, 5), (0, 3, 4)])
def test_batch_normalization(shape: tuple[int, ...]) -> None:
    inputs = {"x": normal(*shape), "s": normal(3), "b": normal(3), "m": normal(3), "v": positive(3)}
    check_op("BatchNormalization", inputs, epsilon=1e-3, **CLOSE)


def test_batch_normalization_in_training() -> None:
    inputs = {"x": normal(2, 3, 4, 5), "s": normal(3), "b": normal(3), "m": normal(3), "v": positive(3)}
    check_op("BatchNormalization", inputs, outputs=3, training_mode=1, momentum=0.7, **CLOSE)


def test_batch_normalization_of_halves() -> None:
    inputs = {"x": normal(2, 3, 4, dtype=np.float16)}
    inputs |= {k: normal(3, dtype=np.float16) for k in "sbm"} | {"v": positive(3, dtype=np.float16)}
    check_op("BatchNormalization", inputs, reference="onnx", rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 4, 5), (1, 3, 2, 3, 2)])
def test_instance_normalization(shape: tuple[int, ...]) -> None:
    check_op("InstanceNormalization", {"x": normal(*shape), "s": normal(3), "b": normal(3)}, **CLOSE)


@pytest.mark.parametrize("axis", [-1, 1, 2, -3])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_normalization(axis: int, bias: bool) -> None:
    shape = (2, 3, 5)
    scale = shape[axis:] if axis != -3 else shape
    inputs = {"x": normal(*shape), "s": normal(*scale), "b": normal(*scale) if bias else None}
    check_op("LayerNormalization", inputs, outputs=3, axis=axis, epsilon=1e-3, **CLOSE)


def test_layer_normalization_of_narrow_types() -> None:
    # Large, close values: statistics in float16 would lose them.
    x = (normal(4, 64) + 100).astype(np.float16)
    inputs = {"x": x, "s": positive(64, dtype=np.float16), "b": normal(64, dtype=np.float16)}
    check_op("LayerNormalization", inputs, rtol=5e-3, atol=5e-3)
    doubles = {"x": normal(2, 5, dtype=np.float64), "s": normal(5, dtype=np.float64)}
    check_op("LayerNormalization", doubles, rtol=1e-9)


@pytest.mark.parametrize("axis", [-1, 1, 0])
def test_rms_normalization(axis: int) -> None:
    x = normal(2, 3, 5)
    inputs = {"x": x, "s": normal(*x.shape[axis:])}
    check_op("RMSNormalization", inputs, opset=23, axis=axis, reference="onnx", **CLOSE)


def test_rms_normalization_result_has_the_type_of_scale() -> None:
    # The schema says so; onnx.reference gives the type of x.
    x, scale = normal(2, 8, dtype=np.float16), normal(8)
    model, feeds = make_model("RMSNormalization", {"x": x, "s": scale}, opset=23)
    found = run_xla(model, feeds)["y0"]
    wide = x.astype(np.float64)
    expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * scale
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("opset", [18, 21])
@pytest.mark.parametrize("shape", [(2, 6, 4), (2, 6, 3, 5)])
def test_group_normalization(opset: int, shape: tuple[int, ...]) -> None:
    channels = 3 if opset < 21 else 6
    inputs = {"x": normal(*shape), "s": normal(channels), "b": normal(channels)}
    # onnx.reference has version 21 only; ONNX Runtime expands both from the schema's function.
    check_op("GroupNormalization", inputs, opset=opset, num_groups=3, epsilon=1e-3, **CLOSE)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_lp_normalization(p: int, axis: int) -> None:
    check_op("LpNormalization", {"x": normal(3, 4, 5)}, p=p, axis=axis, **CLOSE)


def test_lp_normalization_of_zeros_is_zero() -> None:
    x = np.array([[0, 0], [3, 4]], np.float32)
    np.testing.assert_array_equal(check_op("LpNormalization", {"x": x})["y0"][0], 0)


@pytest.mark.parametrize("axes", [None, [0, 2], [1]])
def test_mean_variance_normalization(axes: list[int] | None) -> None:
    attributes: dict[str, Any] = {} if axes is None else {"axes": axes}
    check_op("MeanVarianceNormalization", {"x": normal(2, 3, 4, 5)}, reference="onnx", **attributes, **CLOSE)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_lrn_windows_of_even_and_odd_size(size: int) -> None:
    attributes = {"alpha": 0.3, "beta": 0.6, "bias": 1.5}
    # ONNX Runtime refuses even sizes; onnx.reference is right for batches of at least C samples only.
    reference = "onnx" if size % 2 == 0 else "onnxruntime"
    check_op("LRN", {"x": normal(5, 5, 3, 2)}, size=size, reference=reference, **attributes, **CLOSE)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_softmax_family(op: str, axis: int) -> None:
    check_op(op, {"x": normal(2, 3, 4)}, axis=axis)
    check_op(op, {"x": np.array([[1000, 0, 1000], [-1000, -1001, -1000]], np.float32)})
    check_op(op, {"x": normal(0, 3)})


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_softmax_of_other_types(dtype: Any) -> None:
    unit = float(ml_dtypes.finfo(dtype).eps)
    reference = "onnx" if dtype is ml_dtypes.bfloat16 else "onnxruntime"
    check_op("Softmax", {"x": normal(3, 8, dtype=dtype)}, reference=reference, rtol=4 * unit, atol=unit)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "ReduceLogSumExp"])
def test_peak_is_of_the_numbers_it_is_taken_from(op: str) -> None:
    """The mean is a product: its maximum is of rounded products, and so the difference has to be."""
    model = model_from(f"""
        agraph (float[8, 1000, 13, 13] x) => (float[8, n, 1, 1] y) <int64[1] axis = {{1}}> {{
            mean = GlobalAveragePool (x)
            y = {"ReduceLogSumExp (mean, axis)" if op == "ReduceLogSumExp" else f"{op} <axis = 1> (mean)"}
        }}""")
    pixels = np.random.default_rng(0).uniform(1e10, 1.5e10, (8, 1, 13, 13)).astype(np.float32)
    found = run_xla(model, {"x": np.broadcast_to(pixels, (8, 1000, 13, 13))})["y"]
    if op == "ReduceLogSumExp":
        np.testing.assert_allclose(found[:, 0, 0, 0], pixels.mean((1, 2, 3)), rtol=1e-6)
    else:
        expected = 1 / 1000 if op == "Softmax" else -np.log(1000)
        np.testing.assert_allclose(found, np.full_like(found, expected), rtol=1e-6)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_softmax_of_infinities(op: str) -> None:
    inf = np.inf
    rows = [[-inf, 0, 1], [-inf, -inf, -inf], [inf, 0, 1], [-inf, -3.4e38, 3.4e38], [np.nan, 0, -inf]]
    check_op(op, {"x": np.array(rows, np.float32)})
