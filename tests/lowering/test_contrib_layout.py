"""ONNX Runtime's older forms of standard operators, and small others, against its own kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checking import check_op, make_model, run_xla

from graphopt.errors import UnsupportedError

RANDOM = np.random.default_rng(0)
DOMAIN = {"domain": "com.microsoft"}


def normal(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"strides": [2, 1], "pads": [1, 0, 1, 1]},
        {"dilations": [2, 1]},
        {"strides": [2, 2], "ceil_mode": 1},
    ],
)
def test_nhwc_max_pool(dtype: Any, options: dict[str, Any]) -> None:
    x = RANDOM.integers(-100, 100, (2, 6, 7, 3)).astype(dtype)
    check_op("NhwcMaxPool", {"x": x}, **DOMAIN, kernel_shape=[2, 3], **options)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
@pytest.mark.parametrize("pads", [[1, 0, 1, 2], [[0, 1, 2, 0]], [-1, 0, 1, -1]])
def test_pad(mode: str, pads: Any) -> None:
    inputs = {"x": normal(4, 5), "pads": np.array(pads), "value": normal(1) if mode == "constant" else None}
    check_op("Pad", inputs, **DOMAIN, mode=mode)


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("k", [None, -2, 1, 9])
def test_trilu(upper: int, k: int | None) -> None:
    inputs = {"x": normal(2, 3, 4), "k": None if k is None else np.array(k)}
    check_op("Trilu", inputs, **DOMAIN, upper=upper)


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align", [0, 1])
def test_grid_sample(mode: str, padding: str, align: int) -> None:
    inputs = {"x": normal(2, 3, 5, 4), "grid": RANDOM.uniform(-1.4, 1.4, (2, 3, 6, 2)).astype(np.float32)}
    check_op(
        "GridSample",
        inputs,
        **DOMAIN,
        rtol=1e-4,
        atol=1e-5,
        mode=mode,
        padding_mode=padding,
        align_corners=align,
    )


def test_gather_nd_expand_dims_range_and_unfold() -> None:
    check_op("GatherND", {"x": normal(3, 4, 5), "i": np.array([[0, -1], [2, 1]])}, **DOMAIN)
    for axis in (0, -1, 1, -3):
        check_op("ExpandDims", {"x": normal(3, 4), "axis": np.array(axis, np.int32)}, **DOMAIN)
    for dtype in (np.float32, np.float64, np.int16, np.int32, np.int64):
        start, limit, delta = (np.array([x], dtype) for x in (9, 1, -3))
        check_op("Range", {"start": start, "limit": limit, "delta": delta}, **DOMAIN)
        check_op("Range", {"start": limit, "limit": start}, **DOMAIN)
    for options in ({"size": 3}, {"size": 2, "step": 3, "dim": 0}, {"size": 2, "step": 2, "dim": 1}):
        check_op("UnfoldTensor", {"x": normal(5, 4, 6)}, **DOMAIN, **options)


@pytest.mark.parametrize("shape", [(3, 3), (2, 4, 4), (1, 1)])
def test_inverse(shape: tuple[int, ...]) -> None:
    check_op(
        "Inverse",
        {"x": normal(*shape) + 3 * np.eye(shape[-1], dtype=np.float32)},
        **DOMAIN,
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cdist(metric: str, dtype: Any) -> None:
    check_op(
        "CDist",
        {"a": normal(5, 3, dtype=dtype), "b": normal(4, 3, dtype=dtype)},
        **DOMAIN,
        rtol=1e-3,
        atol=1e-4,
        metric=metric,
    )
    with pytest.raises(UnsupportedError, match="metric"):
        run_xla(*make_model("CDist", {"a": normal(5, 3), "b": normal(4, 3)}, **DOMAIN, metric="cosine"))


@pytest.mark.parametrize(("values", "options", "wanted"), [
    ([1, 2], {}, True), ([1, np.inf], {}, False), ([1, np.nan], {}, False), ([1, np.nan], {"isinf_only": 1}, True),
    ([1, -np.inf], {"isinf_only": 1}, False), ([1, np.inf], {"isnan_only": 1}, True), ([np.nan, 1], {"isnan_only": 1}, False),
])  # fmt: skip
def test_is_all_finite(values: list[float], options: dict[str, int], wanted: bool) -> None:
    inputs = {"a": normal(3), "b": np.array(values, np.float32)}
    found = run_xla(*make_model("IsAllFinite", inputs, **DOMAIN, **options))["y0"]
    assert found.shape == () and bool(found) is wanted


def test_complex_products_and_transforms_against_numpy() -> None:
    a, b = normal(2, 5, 2), normal(2, 5, 2)
    z, w = (x[..., 0] + 1j * x[..., 1] for x in (a, b))
    for op_type, product in (("ComplexMul", z * w), ("ComplexMulConj", z * w.conj())):
        found = run_xla(*make_model(op_type, {"a": a, "b": b}, **DOMAIN))["y0"]
        np.testing.assert_allclose(found, np.stack((product.real, product.imag), -1), rtol=1e-5, atol=1e-6)
    x = normal(3, 4, 6)
    for axes in (1, 2):
        transform = np.fft.rfftn(x, axes=range(-axes, 0))
        pairs = np.stack((transform.real, transform.imag), -1).astype(np.float32)
        found = run_xla(*make_model("Rfft", {"x": x}, **DOMAIN, signal_ndim=axes))["y0"]
        np.testing.assert_allclose(found, pairs, rtol=1e-4, atol=1e-4)
        back = run_xla(*make_model("Irfft", {"x": pairs}, **DOMAIN, signal_ndim=axes))["y0"]
        np.testing.assert_allclose(back, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("size", [(3, 4), (1, 1), (7, 2)])
def test_crop_and_resize(mode: str, size: tuple[int, int]) -> None:
    rois = np.array(
        [[0, 0, 1, 1], [0.2, 0.13, 0.9, 0.71], [-0.2, 0.1, 0.8, 1.3], [0.9, 0.7, 0.13, 0.21]], np.float32
    )
    inputs = {
        "x": normal(2, 3, 6, 5),
        "rois": rois,
        "batch": np.array([0, 1, 1, 0], np.int32),
        "size": np.array(size, np.int32),
    }
    check_op("CropAndResize", inputs, **DOMAIN, rtol=1e-4, atol=1e-5, mode=mode, extrapolation_value=2.5)
