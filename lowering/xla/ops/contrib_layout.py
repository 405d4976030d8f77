"""ONNX Runtime's operators that move, pick and measure elements, most of them older forms of standard ones.

Spec: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md , a heading for each.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.lowering.xla.emit import Context
from graphopt.lowering.xla.numerics import widened
from graphopt.lowering.xla.ops import lowers
from graphopt.lowering.xla.ops.conv import Ints
from graphopt.lowering.xla.ops.create import range_
from graphopt.lowering.xla.ops.index import gather_nd
from graphopt.lowering.xla.ops.matmul import accumulator
from graphopt.lowering.xla.ops.pool import max_pool
from graphopt.lowering.xla.ops.resize import grid_sample
from graphopt.lowering.xla.ops.shape import pad, trilu

Array = Any
DOMAIN = "com.microsoft"


@lowers("NhwcMaxPool", since=(1,), domain=DOMAIN)
def nhwc_max_pool(
    ctx: Context,
    x: Array,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints = None,
    kernel_shape: tuple[int, ...],
    pads: Ints = None,
    strides: Ints = None,
) -> Array:
    """MaxPool of x: [N, *D, C]."""
    (y,) = max_pool(
        ctx, jnp.moveaxis(x, -1, 1), kernel_shape=kernel_shape, auto_pad=auto_pad, ceil_mode=ceil_mode,
        dilations=dilations, pads=pads, strides=strides,
    )  # fmt: skip
    return jnp.moveaxis(y, 1, -1)


@lowers("Pad", since=(1,), domain=DOMAIN, static=("pads",))
def pad_1(
    ctx: Context, data: Array, pads: np.ndarray, value: Array | None, *, mode: str = "constant"
) -> Array:  # fmt: skip
    """The standard's Pad; the counts may come as one row."""
    return pad(ctx, data, pads.reshape(-1), value, None, mode=mode)


@lowers("Trilu", since=(1,), domain=DOMAIN)
def trilu_1(x: Array, k: Array | None, *, upper: int = 1) -> Array:
    """The standard's Trilu."""
    return trilu(x, k, upper=upper)


@lowers("GridSample", since=(1,), domain=DOMAIN)
def grid_sample_1(
    x: Array, grid: Array, *, align_corners: int = 0, mode: str = "bilinear", padding_mode: str = "zeros"
) -> Array:
    """The standard's GridSample."""
    return grid_sample(x, grid, align_corners=align_corners, mode=mode, padding_mode=padding_mode)


@lowers("GatherND", since=(1,), domain=DOMAIN)
def gather_nd_1(data: Array, indices: Array) -> Array:
    """The standard's GatherND."""
    return gather_nd(data, indices)


@lowers("ExpandDims", since=(1,), domain=DOMAIN, static=("axis",))
def expand_dims(x: Array, axis: np.ndarray) -> Array:
    """x with one more axis; a negative one counts from the end of the result."""
    return jnp.expand_dims(x, int(axis.reshape(-1)[0]))


@lowers("Range", since=(1,), domain=DOMAIN, static=("start", "limit", "delta"))
def range_1(start: np.ndarray, limit: np.ndarray, delta: np.ndarray | None) -> Array:
    """The standard's Range; the step is 1 if it is not given."""
    return range_(start, limit, np.ones(1, start.dtype) if delta is None else delta)


@lowers("UnfoldTensor", since=(1,), domain=DOMAIN)
def unfold_tensor(input: Array, *, dim: int = -1, size: int, step: int = 1) -> Array:
    """All slices of `size` along `dim`, `step` apart, each in a new last axis."""
    axis = dim % input.ndim
    starts = np.arange(0, input.shape[axis] - size + 1, step)
    slices = jnp.take(input, starts[:, None] + np.arange(size)[None], axis=axis)
    return jnp.moveaxis(slices, axis + 1, -1)


@lowers("Inverse", since=(1,), domain=DOMAIN)
def inverse(x: Array) -> Array:
    """The inverse of each matrix."""
    return jnp.linalg.inv(widened(x)).astype(x.dtype)


@lowers("CDist", since=(1,), domain=DOMAIN)
def cdist(ctx: Context, a: Array, b: Array, *, metric: str = "sqeuclidean") -> Array:
    """The (squared) Euclidean distance of each row of a from each row of b."""
    if metric not in ("sqeuclidean", "euclidean"):
        raise ctx.unsupported("only the metrics sqeuclidean and euclidean", found=metric)
    squares = jnp.sum(jnp.square(a[:, None] - b[None]), -1)
    return squares if metric == "sqeuclidean" else jnp.sqrt(squares)


@lowers("IsAllFinite", since=(1,), domain=DOMAIN)
def is_all_finite(ctx: Context, *input: Array, isinf_only: int = 0, isnan_only: int = 0) -> Array:
    """Whether no element of any operand is infinite or NaN (or just one of these), as a scalar."""
    if isinf_only and isnan_only:
        raise ctx.unsupported("isinf_only and isnan_only exclude each other")
    wrong = jnp.isinf if isinf_only else jnp.isnan if isnan_only else lambda x: ~jnp.isfinite(x)
    result = jnp.ones((), np.bool_)
    for x in input:
        result = result & ~jnp.any(wrong(x))
    return result


@lowers("ComplexMul", since=(1,), domain=DOMAIN)
def complex_mul(a: Array, b: Array) -> Array:
    """a * b of complex numbers held as pairs in the last axis."""
    return _complex_product(a, b, 1)


@lowers("ComplexMulConj", since=(1,), domain=DOMAIN)
def complex_mul_conj(a: Array, b: Array) -> Array:
    """a times the conjugate of b, of complex numbers held as pairs in the last axis."""
    return _complex_product(a, b, -1)


def _complex_product(a: Array, b: Array, sign: int) -> Array:
    (r, i), (s, j) = ((widened(x[..., 0]), widened(x[..., 1])) for x in (a, b))
    j = j * sign
    return jnp.stack((r * s - i * j, r * j + i * s), -1).astype(a.dtype)


@lowers("Rfft", since=(1,), domain=DOMAIN)
def rfft(
    ctx: Context, x: Array, *, normalized: int = 0, onesided: int = 1, signal_ndim: int = 1
) -> Array:  # fmt: skip
    """The one-sided Fourier transform over the last `signal_ndim` axes, real and imaginary parts last."""
    if normalized or not onesided:
        raise ctx.unsupported("normalized and two-sided transforms")
    y = jnp.fft.rfftn(widened(x), axes=tuple(range(-signal_ndim, 0)))
    return jnp.stack((jnp.real(y), jnp.imag(y)), -1).astype(x.dtype)


@lowers("Irfft", since=(1,), domain=DOMAIN)
def irfft(ctx: Context, x: Array, *, normalized: int = 0, onesided: int = 1, signal_ndim: int) -> Array:
    """The inverse of :func:`rfft`, of an even length, divided by the number of elements."""
    if normalized or not onesided:
        raise ctx.unsupported("normalized and two-sided transforms")
    wide = widened(x)
    y = jnp.fft.irfftn(lax.complex(wide[..., 0], wide[..., 1]), axes=tuple(range(-signal_ndim, 0)))
    return y.astype(x.dtype)


@lowers("CropAndResize", since=(1,), domain=DOMAIN, static=("crop_size",))
def crop_and_resize(
    ctx: Context,
    x: Array,
    rois: Array,
    batch_indices: Array,
    crop_size: np.ndarray,
    *,
    extrapolation_value: float = 0.0,
    mode: str = "bilinear",
) -> Array:
    """Each box of its image at `crop_size`, corners aligned; what lies outside the image has a fixed value.

    Shapes: ``x: [N, C, H, W]``, ``rois: [R, 4]`` (y1, x1, y2, x2 from 0 to 1); the result: ``[R, C, h, w]``.
    """
    if mode not in ("bilinear", "nearest"):
        raise ctx.unsupported("an unknown mode", found=mode)
    wide = accumulator(x.dtype)
    boxes = rois.astype(wide)
    sizes = [int(n) for n in crop_size.reshape(-1)]

    def places(axis: int) -> Array:
        """[R, cells]: where the cells of the crop are on an axis of the image."""
        first, last = boxes[:, axis, None], boxes[:, axis + 2, None]
        extent, count = jnp.asarray(x.shape[2 + axis] - 1, wide), sizes[axis]
        if count == 1:
            return jnp.asarray(0.5, wide) * (first + last) * extent
        step = (last - first) * extent / jnp.asarray(count - 1, wide)
        return first * extent + jnp.arange(count, dtype=wide)[None] * step

    rows, columns = places(0), places(1)
    height, width = x.shape[2:]
    images = x.astype(wide)[batch_indices]  # [R, C, H, W]
    if mode == "nearest":
        y = _rounded_away(images, rows, columns)
    else:
        top, left = jnp.floor(rows), jnp.floor(columns)
        down, right = rows - top, columns - left
        upper = _blended(images, top, left, right)
        lower = _blended(images, jnp.ceil(rows), left, right)
        y = upper + (lower - upper) * down[:, None, :, None]
    inside = ((rows >= 0) & (rows <= height - 1))[:, None, :, None]
    inside = inside & ((columns >= 0) & (columns <= width - 1))[:, None, None, :]
    return jnp.where(inside, y, jnp.asarray(extrapolation_value, wide)).astype(x.dtype)


def _blended(images: Array, rows: Array, left: Array, right: Array) -> Array:
    """The cells of `rows` between the columns `left` and those after, which count by `right`."""
    a = _cells(images, rows, left)
    b = _cells(images, rows, jnp.where(right > 0, left + 1, left))
    return a + (b - a) * right[:, None, None, :]


def _rounded_away(images: Array, rows: Array, columns: Array) -> Array:
    """The nearest cells, halves upwards (no coordinate that counts is negative)."""
    half = jnp.asarray(0.5, rows.dtype)
    return _cells(images, jnp.floor(rows + half), jnp.floor(columns + half))


def _cells(images: Array, rows: Array, columns: Array) -> Array:
    """``images: [R, C, H, W]`` at whole rows [R, h] and columns [R, w]: [R, C, h, w]."""
    height, width = images.shape[2:]
    at = jnp.clip(rows, 0, height - 1).astype(np.int32)[:, None, :, None]
    picked = jnp.take_along_axis(images, at, axis=2)
    at = jnp.clip(columns, 0, width - 1).astype(np.int32)[:, None, None, :]
    return jnp.take_along_axis(picked, at, axis=3)
