"""Operators that move elements without changing them: shape, order, joining and splitting.

Spec: https://onnx.ai/onnx/operators/ , one page for each operator.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.errors import LoweringError
from graphopt.lowering.xla.emit import Context
from graphopt.lowering.xla.ops import lowers
from graphopt.lowering.xla.ops.create import dimensions

Array = Any
Dim = Any  # int, or a symbolic dimension


@lowers("Identity", since=(16, 19, 21, 23, 24, 25))
def identity(input: Array) -> Array:
    """The operand itself: a tensor, a sequence or an optional."""
    return input


@lowers("Reshape", since=(14, 19, 21, 23, 24, 25), static=("shape",))
def reshape(data: Array, shape: np.ndarray, *, allowzero: int = 0) -> Array:
    """The same elements in another shape; 0 copies a dimension (unless allowzero), -1 infers one."""
    dims = dimensions(shape)
    if not allowzero:
        dims = [data.shape[i] if isinstance(d, int) and d == 0 else d for i, d in enumerate(dims)]
    return jnp.reshape(data, dims)


@lowers("Flatten", since=(13, 21, 23, 24, 25))
def flatten(input: Array, *, axis: int = 1) -> Array:
    """A matrix: the axes before `axis` become its rows, the others its columns."""
    axis = axis + input.ndim if axis < 0 else axis
    return jnp.reshape(input, (math.prod(input.shape[:axis]), math.prod(input.shape[axis:])))


@lowers("Squeeze", since=(13, 21, 23, 24, 25), static=("axes",))
def squeeze(data: Array, axes: np.ndarray | None) -> Array:
    """Without the axes named, or without all axes of size 1."""
    if axes is None:
        named = tuple(i for i, d in enumerate(data.shape) if isinstance(d, int) and d == 1)
    else:
        named = tuple(dimensions(axes))
    return jnp.squeeze(data, axis=named)


@lowers("Unsqueeze", since=(13, 21, 23, 24, 25), static=("axes",))
def unsqueeze(data: Array, axes: np.ndarray) -> Array:
    """With new axes of size 1 at `axes` of the result."""
    return jnp.expand_dims(data, tuple(dimensions(axes)))


@lowers("Transpose", since=(13, 21, 23, 24, 25))
def transpose(data: Array, *, perm: tuple[int, ...] | None = None) -> Array:
    """The axes in the order `perm`, reversed without one."""
    return jnp.transpose(data, perm)


@lowers("Expand", since=(13,), static=("shape",))
def expand(input: Array, shape: np.ndarray) -> Array:
    """Broadcast both ways against `shape`."""
    return jnp.broadcast_to(input, lax.broadcast_shapes(input.shape, tuple(dimensions(shape))))


@lowers("Tile", since=(13,), static=("repeats",))
def tile(input: Array, repeats: np.ndarray) -> Array:
    """repeats[i] copies one after another along each axis i."""
    return jnp.tile(input, dimensions(repeats))


@lowers("Concat", since=(13,))
def concat(*inputs: Array, axis: int) -> Array:
    """The operands one after another along `axis`."""
    return jnp.concatenate(inputs, axis=axis)


@lowers("Split", since=(18,), static=("split",))
def split(
    ctx: Context, input: Array, split: np.ndarray | None, *, axis: int = 0, num_outputs: int | None = None
) -> tuple[Array, ...]:
    """Parts along `axis`: of the sizes given, else of equal size but for a smaller last one."""
    size = input.shape[axis]
    if split is not None:
        sizes = dimensions(split)
    else:
        count = num_outputs or ctx.outputs
        step = -(-size // count)
        sizes = [step] * (count - 1) + [size - step * (count - 1)]
        if isinstance(step, int):
            sizes = [min(step, max(size - i * step, 0)) for i in range(count)]
    starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    if isinstance(starts[-1], int) and starts[-1] != size:
        raise LoweringError("GO110", "the parts do not add up to the axis", found=sizes, expected=size)
    parts = [lax.slice_in_dim(input, a, b, axis=axis) for a, b in pairwise(starts)]
    return tuple(parts)  # a list would be a sequence


@lowers("Slice", since=(13,), static=("starts", "ends", "axes", "steps"))
def slice_(
    data: Array, starts: np.ndarray, ends: np.ndarray, axes: np.ndarray | None, steps: np.ndarray | None
) -> Array:
    """data[start:end:step] along each of `axes`; bounds are clamped, a negative step goes backward.

    Raises:
        LoweringError: a step is zero.
    """
    places = list(range(starts.size)) if axes is None else dimensions(axes)
    strides = [1] * starts.size if steps is None else dimensions(steps)
    for start, end, axis, step in zip(dimensions(starts), dimensions(ends), places, strides, strict=True):
        if step == 0:
            raise LoweringError("GO202", "Slice's step is zero")
        data = _sliced(data, start, end, axis % data.ndim, step)
    return data


def _sliced(data: Array, start: Dim, end: Dim, axis: int, step: int) -> Array:
    size = data.shape[axis]
    first, last = (0, size) if step > 0 else (-1, size - 1)
    start = _clamp(_from_start(start, size, 0), 0, last)  # going backward, too, it starts inside the axis
    end = _clamp(_from_start(end, size, first), first, last)
    if step == 1:
        if not isinstance(end - start, int):  # the result is empty where the bounds cross
            end = start + jax.core.max_dim(end - start, 0)
        return lax.slice_in_dim(data, start, max(start, end) if isinstance(end, int) else end, axis=axis)
    if step > 0:
        count = -(-_at_least_zero(end - start) // step)
        return lax.slice_in_dim(data, start, _stop(start, count, step), step, axis)
    count = -(-_at_least_zero(start - end) // -step)
    lowest = start + (count - 1) * step if not _is_zero(count) else 0
    return lax.rev(lax.slice_in_dim(data, lowest, _stop(lowest, count, -step), -step, axis), (axis,))


def _from_start(x: Dim, size: Dim, first: int) -> Dim:
    if isinstance(x, int) and x <= -INFINITE:
        return first
    return x + size if isinstance(x, int) and x < 0 else x


def _is_zero(count: Dim) -> bool:
    return isinstance(count, int) and count == 0


def _stop(start: Dim, count: Dim, step: int) -> Dim:
    """The end of a slice that takes exactly `count` elements from `start`."""
    return start if _is_zero(count) else start + (count - 1) * step + 1


def _at_least_zero(x: Dim) -> Dim:
    return max(x, 0) if isinstance(x, int) else jax.core.max_dim(x, 0)


INFINITE = (1 << 31) - 1
"""Bounds from here on stand for "to the end"; no axis is as long as that."""


def _clamp(x: Dim, low: Dim, high: Dim) -> Dim:
    """`x` within [low, high]; symbolic where one of them is."""
    if isinstance(x, int) and isinstance(high, int):
        return min(max(x, low), high)
    if isinstance(x, int) and x >= INFINITE:
        return high
    if isinstance(x, int) and x == low:
        return low
    return jax.core.min_dim(jax.core.max_dim(x, low), high)


@lowers("Pad", since=(18, 19, 21, 23, 24, 25), static=("pads", "axes"))
def pad(
    ctx: Context,
    data: Array,
    pads: np.ndarray,
    constant_value: Array | None,
    axes: np.ndarray | None,
    *,
    mode: str = "constant",
) -> Array:
    """More elements, or with negative counts fewer, before and after each axis.

    pads: all the counts before, then all after. Modes other than constant crop first, then pad.
    """
    places = list(range(data.ndim)) if axes is None else [a % data.ndim for a in dimensions(axes)]
    counts = dimensions(pads)
    widths: list[tuple[Dim, Dim]] = [(0, 0)] * data.ndim
    for i, axis in enumerate(places):
        widths[axis] = (counts[i], counts[i + len(places)])
    if mode == "constant":
        fill = jnp.zeros((), data.dtype) if constant_value is None else jnp.reshape(constant_value, ())
        return lax.pad(data, fill, [(before, after, 0) for before, after in widths])
    if mode not in ("reflect", "edge", "wrap"):
        raise ctx.unsupported("an unknown padding mode", found=mode)
    for axis, (before, after) in enumerate(widths):
        crop = tuple(-w if isinstance(w, int) and w < 0 else 0 for w in (before, after))
        if any(crop):
            data = lax.slice_in_dim(data, crop[0], data.shape[axis] - crop[1], axis=axis)
    positive = [tuple(0 if isinstance(w, int) and w < 0 else w for w in pair) for pair in widths]
    return jnp.pad(data, positive, mode=mode)


@lowers("CenterCropPad", since=(18,), static=("shape",))
def center_crop_pad(input_data: Array, shape: np.ndarray, *, axes: tuple[int, ...] | None = None) -> Array:
    """Cropped or zero-padded around the centre to `shape`; an odd element is cut or added at the end."""
    places = range(input_data.ndim) if axes is None else [a % input_data.ndim for a in axes]
    widths = [(0, 0, 0)] * input_data.ndim
    for axis, target in zip(places, dimensions(shape), strict=True):
        missing = target - input_data.shape[axis]
        before = missing // 2 if missing > 0 else -(-missing // 2)
        widths[axis] = (before, missing - before, 0)
    return lax.pad(input_data, jnp.zeros((), input_data.dtype), widths)


@lowers("DepthToSpace", since=(13, 28))
def depth_to_space(input: Array, *, blocksize: int, mode: str = "DCR") -> Array:
    """Blocks of channels become blocks of pixels. input: [N, C * blocksize**2, H, W]."""
    n, c, h, w = input.shape
    depth = c // (blocksize * blocksize)
    if mode == "DCR":
        blocks = jnp.reshape(input, (n, blocksize, blocksize, depth, h, w)).transpose(0, 3, 4, 1, 5, 2)
    else:
        blocks = jnp.reshape(input, (n, depth, blocksize, blocksize, h, w)).transpose(0, 1, 4, 2, 5, 3)
    return jnp.reshape(blocks, (n, depth, h * blocksize, w * blocksize))


@lowers("SpaceToDepth", since=(13, 28))
def space_to_depth(input: Array, *, blocksize: int, mode: str = "DCR") -> Array:
    """Blocks of pixels become blocks of channels. input: [N, C, H * blocksize, W * blocksize]."""
    n, c, h, w = input.shape
    height, width = h // blocksize, w // blocksize
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    blocks = jnp.reshape(input, (n, c, height, blocksize, width, blocksize)).transpose(order)
    return jnp.reshape(blocks, (n, c * blocksize * blocksize, height, width))


@lowers("Trilu", since=(14,))
def trilu(input: Array, k: Array | None, *, upper: int = 1) -> Array:
    """The upper or lower triangle of the last two axes from diagonal k on, zeros elsewhere."""
    rows, columns = (lax.broadcasted_iota(np.int64, input.shape[-2:], axis) for axis in (0, 1))
    offset = jnp.zeros((), np.int64) if k is None else jnp.reshape(k, ()).astype(np.int64)
    keep = columns >= rows + offset if upper else columns <= rows + offset
    return jnp.where(keep, input, jnp.zeros((), input.dtype))


@lowers("Col2Im", since=(18,), static=("image_shape", "block_shape"))
def col2im(
    input: Array,
    image_shape: np.ndarray,
    block_shape: np.ndarray,
    *,
    dilations: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Array:
    """The sum of overlapping blocks, one for each column. input: [N, C * prod(block), L] -> [N, C, *image].

    Each element of the block is one strided copy of the image, spread by interior padding.
    """
    image, block = dimensions(image_shape), dimensions(block_shape)
    rank = len(image)
    dilations, strides = dilations or (1,) * rank, strides or (1,) * rank
    pads = pads or (0,) * (2 * rank)
    padded = [size + pads[i] + pads[i + rank] for i, size in enumerate(image)]
    counts = [
        (size - dilation * (edge - 1) - 1) // stride + 1
        for size, edge, dilation, stride in zip(padded, block, dilations, strides, strict=True)
    ]
    n, rows, _ = input.shape
    columns = jnp.reshape(input, (n, rows // math.prod(block), math.prod(block), *counts))
    zero = jnp.zeros((), input.dtype)
    total: Array = None
    for index, place in enumerate(np.ndindex(*block)):
        widths = [(0, 0, 0), (0, 0, 0)]
        for i in range(rank):
            before = place[i] * dilations[i] - pads[i]
            covered = (counts[i] - 1) * strides[i] + 1
            widths.append((before, image[i] - before - covered, strides[i] - 1))
        term = lax.pad(columns[:, :, index], zero, widths)
        total = term if total is None else total + term
    return total
