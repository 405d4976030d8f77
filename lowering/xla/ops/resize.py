"""Resampling: Resize, GridSample and AffineGrid.

Resize works axis by axis. Which input cells an output cell takes, and their weights, are numbers
known at compile time, in float32 as ONNX Runtime has them.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.lowering.xla.dtypes import is_float
from graphopt.lowering.xla.emit import Context
from graphopt.lowering.xla.ops import lowers
from graphopt.lowering.xla.ops.matmul import accumulator

Array = Any
F32 = np.float32

MAX_AXIS = 1 << 24
"""The longest axis that is resized to: its coordinates are worked out at compile time."""


@dataclasses.dataclass(frozen=True)
class _Axis:
    """One axis to resize: its input size, output size, scale and region of interest."""

    axis: int
    size: int
    out: int
    scale: np.float32
    roi: tuple[float, float]


@lowers("Resize", since=(18, 19), static=("roi", "scales", "sizes"))
def resize(
    ctx: Context,
    x: Array,
    roi: np.ndarray | None,
    scales: np.ndarray | None,
    sizes: np.ndarray | None,
    *,
    antialias: int = 0,
    axes: tuple[int, ...] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Array:
    """x resampled to other sizes by nearest, linear or cubic interpolation along each axis.

    Spec: https://onnx.ai/onnx/operators/onnx__Resize.html
    """
    chosen = [a % x.ndim for a in axes] if axes is not None else list(range(x.ndim))
    crop = coordinate_transformation_mode == "tf_crop_and_resize"
    region = _regions(roi if crop else None, len(chosen))
    plan = _plan(ctx, x.shape, chosen, scales, sizes, keep_aspect_ratio_policy, region, crop)
    y = x if mode == "nearest" else x.astype(_numbers(x.dtype))
    outside: list[tuple[int, np.ndarray]] = []
    for item in plan:
        if isinstance(item, tuple):
            axis, factor = item
            y = _repeat_symbolic(ctx, y, axis, factor, mode, coordinate_transformation_mode, nearest_mode)
            continue
        source = _source_coordinates(item, coordinate_transformation_mode)
        if crop:
            outside.append((item.axis, (source < 0) | (source > item.size - 1)))
        if mode == "nearest":
            y = _take(y, _nearest(source, item.size, nearest_mode), item.axis)
        else:
            taps, weights = _taps(
                source, item, mode, bool(antialias), bool(exclude_outside), F32(cubic_coeff_a)
            )
            y = _interpolate(y, taps, weights, item.axis)
    for axis, mask in outside:
        if mask.any():
            shape = tuple(len(mask) if a == axis else 1 for a in range(x.ndim))
            y = jnp.where(mask.reshape(shape), jnp.asarray(extrapolation_value, y.dtype), y)
    if y.dtype != x.dtype and not is_float(x.dtype):
        info = jnp.iinfo(x.dtype)
        y = jnp.clip(y, float(info.min), float(info.max))
    return y.astype(x.dtype)


def _regions(roi: np.ndarray | None, count: int) -> list[tuple[float, float]]:
    if roi is None or roi.size == 0:
        return [(0.0, 1.0)] * count
    flat = [float(v) for v in roi.reshape(-1)]
    return list(zip(flat[:count], flat[count:], strict=True))


def _plan(
    ctx: Context,
    shape: Sequence[Any],
    axes: list[int],
    scales: np.ndarray | None,
    sizes: np.ndarray | None,
    policy: str,
    regions: list[tuple[float, float]],
    crop: bool,
) -> list[_Axis | tuple[int, float]]:
    """What to do for each axis that changes; (axis, scale) for one whose size is symbolic."""
    if sizes is not None and sizes.size:
        wanted = list(sizes.reshape(-1))
        factors: list[Any] = [None] * len(axes)
        if policy != "stretch":
            ratios = [F32(int(n)) / F32(int(shape[a])) for n, a in zip(wanted, axes, strict=True)]
            ratio = min(ratios) if policy == "not_larger" else max(ratios)
            factors = [ratio] * len(axes)
            wanted = [math.floor(float(ratio) * int(shape[a]) + 0.5) for a in axes]
    elif scales is not None and scales.size:
        factors = [F32(s) for s in scales.reshape(-1)]
        wanted = [None] * len(axes)
        if not all(np.isfinite(s) and s > 0 for s in factors):
            raise ctx.unsupported("scales must be positive", found=list(map(float, factors)))
    else:
        raise ctx.unsupported("neither scales nor sizes are given")
    plan: list[_Axis | tuple[int, float]] = []
    for axis, factor, out, region in zip(axes, factors, wanted, regions, strict=True):
        size = shape[axis]
        if not isinstance(size, int):
            if (factor is not None and factor != 1) or (factor is None and out != size):
                plan.append((axis, 0.0 if factor is None else float(factor)))
            continue
        length = math.floor(float(F32(size) * factor)) if out is None else int(out)
        if not 0 <= length <= MAX_AXIS:
            raise ctx.unsupported("the size of the result", found=length, expected=f"at most {MAX_AXIS}")
        scale = F32(length) / F32(size) if factor is None else factor
        if crop or length != size or scale != 1:
            plan.append(_Axis(axis, size, length, scale, region))
    return plan


def _source_coordinates(item: _Axis, mode: str) -> np.ndarray:
    """For each output cell, the coordinate in the input (float32)."""
    x = np.arange(item.out, dtype=F32)
    half, last, scale = F32(0.5), F32(item.size - 1), item.scale
    if mode == "align_corners":
        return x * last / F32(item.out - 1) if item.out > 1 else np.zeros_like(x)
    if mode == "asymmetric":
        return x / scale
    if mode == "tf_crop_and_resize":
        start, end = F32(item.roi[0]), F32(item.roi[1])
        if item.out > 1:
            return start * last + x * (end - start) * last / F32(item.out - 1)
        return np.full_like(x, half * (start + end) * last)
    if mode == "pytorch_half_pixel" and item.out <= 1:
        return np.zeros_like(x)
    edge = (x + half) / scale
    if mode == "half_pixel_symmetric":
        adjustment = F32(item.out) / (scale * F32(item.size))
        edge = F32(item.size) / F32(2) * (F32(1) - adjustment) + edge
    return edge - half


def _nearest(source: np.ndarray, size: int, mode: str) -> np.ndarray:
    """The indices of the nearest cells."""
    if mode == "floor":
        index = np.floor(source)
    elif mode == "ceil":
        index = np.ceil(source)
    elif mode == "round_prefer_ceil":
        index = np.floor(source + F32(0.5))
    else:
        index = np.ceil(source - F32(0.5))
    clipped: np.ndarray = np.clip(index, 0, max(size - 1, 0)).astype(np.int32)
    return clipped


def _take(x: Array, index: np.ndarray, axis: int) -> Array:
    """x at `index` along `axis`; whole repeats and strides without a gather."""
    size, out = x.shape[axis], len(index)
    counts = np.arange(out)
    if size and out % size == 0 and np.array_equal(index, counts // (out // size)):
        return _repeat(x, out // size, axis)
    step = int(index[1] - index[0]) if out > 1 else 1
    if out > 1 and step > 0 and np.array_equal(index, index[0] + counts * step):
        return lax.slice_in_dim(x, int(index[0]), int(index[-1]) + 1, step, axis)
    return jnp.take(x, jnp.asarray(index), axis=axis, mode="clip")


def _repeat(x: Array, factor: int, axis: int) -> Array:
    """Every cell `factor` times along `axis`, as a broadcast."""
    if factor == 1:
        return x
    wide = jnp.broadcast_to(
        jnp.expand_dims(x, axis + 1), (*x.shape[: axis + 1], factor, *x.shape[axis + 1 :])
    )
    return wide.reshape((*x.shape[:axis], x.shape[axis] * factor, *x.shape[axis + 1 :]))


def _repeat_symbolic(
    ctx: Context, x: Array, axis: int, factor: float, mode: str, coordinates: str, nearest_mode: str
) -> Array:
    """Resize an axis of symbolic size, which works where every cell is simply repeated."""
    whole = int(factor)
    if mode == "nearest" and whole == factor and whole >= 1 and coordinates != "align_corners":
        sample = _Axis(axis, 5, 5 * whole, F32(factor), (0.0, 1.0))
        index = _nearest(_source_coordinates(sample, coordinates), 5, nearest_mode)
        if coordinates != "tf_crop_and_resize" and np.array_equal(index, np.arange(5 * whole) // whole):
            return _repeat(x, whole, axis)
    raise ctx.unsupported(
        f"axis {axis} has no fixed size", found=str(x.shape[axis]), next_step="Bind it with --dim."
    )


def _taps(
    source: np.ndarray, item: _Axis, mode: str, antialias: bool, exclude_outside: bool, a: np.float32
) -> tuple[np.ndarray, np.ndarray]:
    """Input cells and weights of each output cell: two int32/float32 arrays [out, taps]."""
    reach = 1 if mode == "linear" else 2
    shrink = min(float(item.scale), 1.0) if antialias else 1.0
    first = math.floor(-reach / shrink) + 1
    offsets = np.arange(first, 2 - first)
    base = np.floor(source)
    distance = (offsets[None, :] - (source - base)[:, None]).astype(F32) * F32(shrink)
    weights = _triangle(distance) if mode == "linear" else _cubic(distance, a)
    taps = base[:, None].astype(np.int64) + offsets[None, :]
    if exclude_outside:
        weights = np.where((taps >= 0) & (taps < item.size), weights, F32(0))
    if antialias or exclude_outside:
        weights = weights / weights.sum(1, keepdims=True)
    return np.clip(taps, 0, item.size - 1).astype(np.int32), weights.astype(F32)


def _triangle(distance: np.ndarray) -> np.ndarray:
    weights: np.ndarray = np.clip(F32(1) - np.abs(distance), F32(0), F32(1))
    return weights


def _cubic(distance: np.ndarray, a: np.float32) -> np.ndarray:
    """Keys' cubic kernel with parameter `a` (-0.5 or -0.75 as a rule)."""
    d = np.abs(distance)
    near = ((a + F32(2)) * d - (a + F32(3))) * d * d + F32(1)
    far = ((a * d - F32(5) * a) * d + F32(8) * a) * d - F32(4) * a
    return np.where(d <= 1, near, np.where(d < 2, far, F32(0)))


def _interpolate(x: Array, taps: np.ndarray, weights: np.ndarray, axis: int) -> Array:
    """Weighted sums of the tapped cells along `axis`."""
    out, count = taps.shape
    cells = jnp.take(x, jnp.asarray(taps.reshape(-1)), axis=axis, mode="clip")
    cells = cells.reshape((*x.shape[:axis], out, count, *x.shape[axis + 1 :]))
    shape = (out, count) + (1,) * (x.ndim - axis - 1)
    return jnp.sum(cells * jnp.asarray(weights.reshape(shape), x.dtype), axis + 1)


@lowers("GridSample", since=(16, 20, 22))
def grid_sample(
    x: Array, grid: Array, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros"
) -> Array:
    """x interpolated at the grid's points, whose coordinates run from -1 to 1, last axis first.

    Shapes: ``x: [N, C, *D]``, ``grid: [N, *out, len(D)]``; the result is ``[N, C, *out]``.
    Spec: https://onnx.ai/onnx/operators/onnx__GridSample.html
    """
    numbers = _numbers(x.dtype)
    wide = np.finfo(numbers).dtype  # of coordinates and weights
    sizes = x.shape[2:]
    points = [
        _denormalized(grid[..., len(sizes) - 1 - axis].astype(wide), size, bool(align_corners))
        for axis, size in enumerate(sizes)
    ]
    kind = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    if kind != "cubic":
        points = [
            _into_range(p, size, padding_mode, bool(align_corners))
            for p, size in zip(points, sizes, strict=True)
        ]
    corners = [_corners(p, kind) for p in points]
    total: Array = jnp.zeros((), numbers)
    for combination in itertools.product(*corners):
        weight: Array = jnp.ones((), wide)
        inside: Array = jnp.ones((), np.bool_)
        index = []
        for (position, part), size in zip(combination, sizes, strict=True):
            weight = weight * part
            place = _into_range(position, size, padding_mode, bool(align_corners))
            inside = inside & (place >= 0) & (place <= size - 1)
            index.append(jnp.clip(place, 0, size - 1).astype(np.int32))
        cells = jax.vmap(lambda image, where: image[(slice(None), *where)])(x, tuple(index))
        weight = jnp.where(inside, weight, jnp.zeros((), wide))
        total = total + cells.astype(numbers) * weight[:, None].astype(numbers)
    return total.astype(x.dtype)


def _numbers(dtype: np.dtype) -> np.dtype:
    """The type to interpolate numbers of type `dtype` in: complex numbers stay so."""
    if dtype.kind == "c":
        return dtype
    return accumulator(dtype) if is_float(dtype) else np.dtype(F32)


def _denormalized(g: Array, size: Any, align_corners: bool) -> Array:
    """From -1 … 1 to cells: the ends are the centres of the outer cells, or their outer edges."""
    one, half = jnp.ones((), g.dtype), jnp.asarray(0.5, g.dtype)
    extent = jnp.asarray(size, g.dtype)
    return (g + one) * half * (extent - one) if align_corners else ((g + one) * extent - one) * half


def _into_range(p: Array, size: Any, padding_mode: str, align_corners: bool) -> Array:
    """Coordinates outside moved to the border, or reflected; left alone for zeros."""
    if padding_mode == "zeros":
        return p
    last = jnp.asarray(size - 1, p.dtype)
    zero = jnp.zeros((), p.dtype)
    if padding_mode == "reflection":
        low = zero if align_corners else jnp.asarray(-0.5, p.dtype)
        span = last if align_corners else last + jnp.ones((), p.dtype)
        safe = jnp.where(span > 0, span, jnp.ones((), p.dtype))
        distance = jnp.abs(p - low)
        fraction = jnp.remainder(distance, safe)
        flipped = jnp.remainder(jnp.floor(distance / safe), jnp.asarray(2, p.dtype)) == 1
        p = jnp.where(flipped, span - fraction, fraction) + low
    return jnp.clip(p, zero, last)


def _corners(p: Array, mode: str) -> list[tuple[Array, Array]]:
    """The cells around coordinate p on one axis, with their weights."""
    one = jnp.ones((), p.dtype)
    if mode == "nearest":
        return [(jnp.round(p), one)]
    base = jnp.floor(p)
    t = p - base
    if mode == "linear":
        return [(base, one - t), (base + one, t)]
    result = []
    for offset in (-1, 0, 1, 2):
        d = jnp.abs(t - jnp.asarray(offset, p.dtype))
        near = (1.25 * d - 2.25) * d * d + 1.0
        far = ((-0.75 * d + 3.75) * d - 6.0) * d + 3.0
        result.append((base + jnp.asarray(offset, p.dtype), near if offset in (0, 1) else far))
    return result


@lowers("AffineGrid", since=(20,), static=("size",))
def affine_grid(ctx: Context, theta: Array, size: np.ndarray, *, align_corners: int = 0) -> Array:
    """The sampling grid of the affine map theta for an image of `size` (N, C, *D).

    Shapes: ``theta: [N, d, d + 1]``; the result is ``[N, *D, d]``, coordinates last axis first.
    Spec: https://onnx.ai/onnx/operators/onnx__AffineGrid.html
    """
    dtype, wide = theta.dtype, accumulator(theta.dtype)
    lengths = [int(n) for n in size.reshape(-1)[2:]]
    lines = []
    for n in lengths:
        count = jnp.arange(n, dtype=wide)
        one = jnp.ones((), wide)
        if align_corners:
            lines.append(count * jnp.asarray(2 / max(n - 1, 1), wide) - one)
        else:
            lines.append((count + count + one) / jnp.asarray(n, wide) - one)
    mesh = jnp.meshgrid(*lines, indexing="ij")
    points = jnp.stack([*reversed(mesh), jnp.ones(lengths, wide)], -1)
    grid = jnp.einsum("...k,njk->n...j", points, theta.astype(wide), precision=ctx.precision)
    return grid.astype(dtype)
