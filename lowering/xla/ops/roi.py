"""Pooling over regions of interest, one region after the other so that memory stays small."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.lowering.xla.emit import Context
from graphopt.lowering.xla.ops import lowers
from graphopt.lowering.xla.ops.matmul import accumulator

Array = Any
MAX_SAMPLES = 4096


@lowers("RoiAlign", since=(16, 22))
def roi_align(
    ctx: Context,
    x: Array,
    rois: Array,
    batch_indices: Array,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Array:
    """The mean (or maximum) of bilinear samples in each bin of each region.

    Shapes: ``x: [N, C, H, W]``, ``rois: [R, 4]`` (x1, y1, x2, y2); the result is
    ``[R, C, output_height, output_width]``. With sampling_ratio 0 the number of samples follows from
    the regions, which then have to be known at compile time.
    Spec: https://onnx.ai/onnx/operators/onnx__RoiAlign.html
    """
    wide = accumulator(x.dtype)
    half = coordinate_transformation_mode == "half_pixel"
    out = (output_height, output_width)
    samples = (sampling_ratio, sampling_ratio)
    if sampling_ratio == 0:
        samples = _most_samples(ctx, spatial_scale, half, out)
    boxes = rois.astype(wide) * jnp.asarray(spatial_scale, wide) - jnp.asarray(0.5 if half else 0.0, wide)

    def pool(region: tuple[Array, Array]) -> Array:
        box, index = region
        image = lax.dynamic_index_in_dim(x, index, keepdims=False).astype(wide)
        axes = []
        for axis in (0, 1):
            start, length = box[1 - axis], box[3 - axis] - box[1 - axis]
            if not half:
                length = jnp.maximum(length, jnp.ones((), wide))
            bin_size = length / jnp.asarray(out[axis], wide)
            count = jnp.ceil(bin_size) if sampling_ratio == 0 else jnp.asarray(sampling_ratio, wide)
            axes.append(_samples(start, bin_size, count, out[axis], samples[axis], x.shape[2 + axis]))
        return _pool_samples(image, axes[0], axes[1], mode)

    return lax.map(pool, (boxes, batch_indices)).astype(x.dtype)


def _most_samples(ctx: Context, scale: float, half: bool, out: tuple[int, int]) -> tuple[int, int]:
    """The most samples that any bin of the known regions takes along each axis."""
    known = ctx.known(1)
    if known is None:
        raise ctx.unsupported(
            "sampling_ratio 0 takes as many samples as the regions are large, and these are computed",
            next_step="Set sampling_ratio, or bind the regions with --constant.",
        )
    boxes = known.astype(np.float64).reshape(-1, 4) * scale
    if not np.isfinite(boxes).all():
        raise ctx.unsupported("regions must be finite")
    lengths = np.maximum(boxes[:, 2:] - boxes[:, :2], 0.0 if half else 1.0)
    width, height = (float(n) for n in np.max(lengths, 0, initial=1.0))
    most = (int(np.ceil(height / out[0])) + 1, int(np.ceil(width / out[1])) + 1)
    if max(most) * max(out) > MAX_SAMPLES:
        raise ctx.unsupported("a region is too large", found=f"{width:.0f} x {height:.0f} cells")
    return most


def _samples(start: Array, bin_size: Array, count: Array, out: int, most: int, size: Any) -> Any:
    """Along one axis: cells below and above each sample, their weights, and which samples count.

    All have the shape [out, most]; the last is the number that count.
    """
    dtype = start.dtype
    number = lax.broadcasted_iota(np.int32, (out, most), 1).astype(dtype)
    place = lax.broadcasted_iota(np.int32, (out, most), 0).astype(dtype)
    half = jnp.asarray(0.5, dtype)
    steps = jnp.maximum(count, jnp.ones((), dtype))
    at = start + place * bin_size + (number + half) * bin_size / steps
    last = jnp.asarray(size - 1, dtype)
    inside = (at >= -1) & (at <= last + 1)
    at = jnp.clip(at, jnp.zeros((), dtype), last)
    low = jnp.floor(at)
    high = jnp.minimum(low + 1, last)
    upper = jnp.where(inside, at - low, jnp.zeros((), dtype))
    lower = jnp.where(inside, low + 1 - at, jnp.zeros((), dtype))
    return low.astype(np.int32), high.astype(np.int32), lower, upper, number < count, count


def _pool_samples(image: Array, rows: Any, columns: Any, mode: str) -> Array:
    """Combine the samples at all rows and columns of each bin: [C, out_h, out_w]."""
    corners = []
    for row, row_weight in ((rows[0], rows[2]), (rows[1], rows[3])):
        for column, column_weight in ((columns[0], columns[2]), (columns[1], columns[3])):
            cells = image[:, row[:, :, None, None], column[None, None]]  # [C, oh, sh, ow, sw]
            corners.append(cells * row_weight[:, :, None, None] * column_weight[None, None])
    counted = rows[4][:, :, None, None] & columns[4][None, None]
    zero = jnp.zeros((), image.dtype)
    if mode == "max":
        best = jnp.maximum(jnp.maximum(corners[0], corners[1]), jnp.maximum(corners[2], corners[3]))
        best = jnp.max(jnp.where(counted, best, jnp.asarray(-np.inf, image.dtype)), (2, 4))
        return jnp.where(jnp.isneginf(best), zero, best)
    total = jnp.sum(jnp.where(counted, corners[0] + corners[1] + corners[2] + corners[3], zero), (2, 4))
    return total / jnp.maximum(rows[5] * columns[5], jnp.ones((), image.dtype))


@lowers("MaxRoiPool", since=(1, 22))
def max_roi_pool(
    x: Array, rois: Array, *, pooled_shape: tuple[int, ...], spatial_scale: float = 1.0
) -> Array:
    """The maximum of each bin of each region, 0 where a bin is empty.

    Shapes: ``x: [N, C, H, W]``, ``rois: [R, 5]`` (image, x1, y1, x2, y2, ends included); the result is
    ``[R, C, *pooled_shape]``.
    Spec: https://onnx.ai/onnx/operators/onnx__MaxRoiPool.html
    """
    wide = accumulator(x.dtype)
    lowest = jnp.asarray(-np.inf, x.dtype)

    def bins(first: Array, last: Array, out: int, size: Any) -> Array:
        """[out, size]: which cells belong to each bin."""
        length = jnp.maximum(last - first + 1, jnp.ones((), wide))
        share = length / jnp.asarray(out, wide)
        number = lax.iota(np.int32, out).astype(wide)
        begin = jnp.floor(number * share) + first
        end = jnp.ceil((number + 1) * share) + first
        cell = lax.iota(np.int32, size).astype(wide)[None, :]
        return (cell >= begin[:, None]) & (cell < end[:, None])

    def pool(roi: Array) -> Array:
        image = lax.dynamic_index_in_dim(x, roi[0].astype(np.int32), keepdims=False)
        # Halves round away from zero, as in C.
        scaled = roi[1:].astype(wide) * jnp.asarray(spatial_scale, wide)
        edges = jnp.trunc(scaled + jnp.copysign(jnp.asarray(0.5, wide), scaled))
        columns = bins(edges[0], edges[2], pooled_shape[1], x.shape[3])
        rows = bins(edges[1], edges[3], pooled_shape[0], x.shape[2])
        across = jnp.max(jnp.where(columns[None, None], image[:, :, None, :], lowest), -1)  # [C, H, ow]
        best = jnp.max(jnp.where(rows[None, :, :, None], across[:, None], lowest), 2)
        return jnp.where(jnp.isneginf(best), jnp.zeros((), x.dtype), best)

    return lax.map(pool, rois)
