"""Operators whose results are as large as the data says, padded to the most that it can say.

Spec: https://onnx.ai/onnx/operators/ , one page for each operator.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.lowering.xla.bounded import (
    MOST_ELEMENTS,
    SOURCES,
    Bounded,
    Case,
    compacted,
    make,
    new_count,
    rule,
)
from graphopt.lowering.xla.emit import as_array

Array = Any

COMPARISONS = 1 << 28
"""How many pairs of boxes NonMaxSuppression compares at most."""


def _within(case: Case, size: Any) -> int:
    """`size`, a bound. Raises UnsupportedError where it is symbolic or too large to pad to."""
    if not isinstance(size, int) or size > MOST_ELEMENTS:
        raise case.refuse()
    return size


def _plain(case: Case, index: int) -> Array:
    """Operand `index` as an array. Raises UnsupportedError if it is bounded or absent."""
    operand = case.operand(index)
    if operand is None or isinstance(operand, Bounded):
        raise case.refuse()
    return as_array(operand)


@rule("NonZero", table=SOURCES)
def non_zero(case: Case) -> list[Any]:
    """The places of what is not zero, in row-major order: int64[rank, n]."""
    operand = case.operands[0]
    x = operand.filled(0) if isinstance(operand, Bounded) else as_array(operand)
    shape = tuple(x.shape) or (1,)
    _within(case, math.prod(shape))
    places, count = compacted(case.ctx, jnp.reshape(x != jnp.zeros((), x.dtype), (-1,)))
    rows = []
    for axis in range(len(shape)):
        inner = max(math.prod(shape[axis + 1 :]), 1)
        place = lax.div(places, jnp.asarray(inner, np.int64))
        rows.append(lax.rem(place, jnp.asarray(max(shape[axis], 1), np.int64)))
    return [make(case.ctx, jnp.stack(rows), count, 1)]


@rule("Compress", table=SOURCES)
def compress(case: Case) -> list[Any]:
    """The slices along an axis, or elements, where the condition holds."""
    data, condition = case.operands
    axis = case.attributes.get("axis")
    if axis is None:
        if isinstance(data, Bounded) and data.ndim != 1:
            raise case.refuse()
        axis = 0
        source = data if isinstance(data, Bounded) else jnp.ravel(as_array(data))
    else:
        source = data if isinstance(data, Bounded) else as_array(data)
        axis = axis % (source.ndim)
    if isinstance(source, Bounded):
        if (
            source.axis != axis
            or not isinstance(condition, Bounded)
            or condition.count.key != source.count.key
        ):
            raise case.refuse()
        source = source.array
    keep = condition.filled(False) if isinstance(condition, Bounded) else as_array(condition)
    keep = keep.reshape(-1)
    if isinstance(condition, Bounded) and not isinstance(data, Bounded):
        raise case.refuse()
    size = _within(case, min(keep.shape[0], source.shape[axis]))
    places, count = compacted(case.ctx, keep[:size])
    return [make(case.ctx, jnp.take(source, places, axis=axis, mode="clip"), count, axis)]


@rule("Unique", table=SOURCES)
def unique(case: Case) -> list[Any]:
    """The distinct elements of a vector, where they first occur, the inverse, and how often they occur."""
    x = _plain(case, 0)
    if case.attributes.get("axis") is not None and x.ndim != 1:
        raise case.refuse()
    x = jnp.ravel(x)
    size = _within(case, x.shape[0])
    if size == 0:
        raise case.refuse()
    order = jnp.argsort(x, stable=True)
    ordered = x[order]
    before = jnp.roll(ordered, 1)
    differs = ordered != before
    if jnp.issubdtype(x.dtype, jnp.floating):  # as numpy has it, all NaN are one
        differs = differs & ~(jnp.isnan(ordered) & jnp.isnan(before))
    starts = differs | (lax.iota(np.int64, size) == 0)
    group = jnp.cumsum(starts.astype(np.int64)) - 1  # of each in the order
    first = jnp.full((size,), size, np.int64).at[group].min(order.astype(np.int64))
    number = jnp.zeros((size,), np.int64).at[group].add(1)
    inverse = jnp.zeros((size,), np.int64).at[order].set(group)
    if not case.attributes.get("sorted", 1):
        by_first = jnp.argsort(first, stable=True)  # groups that are none come last
        first, number = first[by_first], number[by_first]
        inverse = jnp.zeros((size,), np.int64).at[by_first].set(lax.iota(np.int64, size))[inverse]
    count = new_count(case.ctx, jnp.sum(starts.astype(np.int64)), size)
    values = jnp.take(x, first, mode="clip")
    first = jnp.where(first < size, first, 0)
    rows: list[Any] = [make(case.ctx, each, count, 0) for each in (values, first, number)]
    return [rows[0], rows[1], inverse, rows[2]]


@rule("NonMaxSuppression", table=SOURCES)
def non_max_suppression(case: Case) -> list[Any]:
    """The indices [batch, class, box] of boxes that no better one overlaps: int64[n, 3].

    As :func:`graphopt.lowering.xla.ops.boxes.non_max_suppression`, for boxes and scores that are computed.
    """
    boxes, scores = _plain(case, 0), _plain(case, 1)
    batches, classes, size = scores.shape
    limit, overlap, threshold = (None if case.operand(i) is None else _plain(case, i) for i in (2, 3, 4))
    most = size
    given = case.operand(2)
    if limit is None or limit.size == 0:
        most = 0
    elif isinstance(given, np.ndarray):
        most = min(max(int(given.reshape(-1)[0]), 0), size)
    bound = _within(case, batches * classes * most)
    if bound * size > COMPARISONS:
        raise case.ctx.unsupported("too many boxes to compare", found=f"{scores.shape}, {most} per class")
    if bound == 0:
        return [jnp.zeros((0, 3), np.int64)]
    corners = _corners(boxes, int(case.attributes.get("center_point_box", 0)))
    share = jnp.zeros((), np.float32) if overlap is None or not overlap.size else overlap.reshape(-1)[0]
    enough = jnp.ones(scores.shape, np.bool_)
    if threshold is not None and threshold.size:
        enough = scores > threshold.reshape(-1)[0]
    allowed = jnp.asarray(most, np.int64)
    if limit is not None and not isinstance(given, np.ndarray):
        allowed = jnp.clip(limit.reshape(-1)[0].astype(np.int64), 0, most)
    found, counts = _select(corners, scores, enough, share.astype(corners.dtype), most, allowed)
    taken = lax.iota(np.int64, most)[None, None, :] < counts[:, :, None]
    places, count = compacted(case.ctx, taken.reshape(-1))
    batch, kind = (lax.broadcasted_iota(np.int64, (batches, classes, most), axis) for axis in (0, 1))
    rows = jnp.stack([batch, kind, found], axis=-1).reshape(-1, 3)
    return [make(case.ctx, jnp.take(rows, places, axis=0, mode="clip"), count, 0)]


def _corners(boxes: Array, center_point_box: int) -> Array:
    """Boxes [batches, n, 4] as lowest and highest coordinates: [batches, 4, n]."""
    a, b, c, d = (boxes[..., i] for i in range(4))
    if center_point_box:
        two = jnp.asarray(2, boxes.dtype)
        return jnp.stack((a - c / two, b - d / two, a + c / two, b + d / two), axis=1)
    low = (jnp.minimum(b, d), jnp.minimum(a, c))
    return jnp.stack((*low, jnp.maximum(b, d), jnp.maximum(a, c)), axis=1)


def _select(
    corners: Array, scores: Array, enough: Array, share: Array, most: int, allowed: Array
) -> tuple[Array, Array]:
    """The selected boxes of each batch and class, best first, and how many they are.

    Each turn takes the best box left in every class at once, and drops what it overlaps.
    """
    batches, classes, size = scores.shape
    order = jnp.argsort(-scores, axis=-1, stable=True)
    left = jnp.take_along_axis(enough, order, axis=-1)
    # [4, batches, classes, n], best first
    sides = jnp.moveaxis(jnp.take_along_axis(corners[:, None], order[:, :, None], axis=-1), 2, 0)

    def turn(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        step, left, found, counts = state
        some = jnp.any(left, axis=-1)
        best = jnp.argmax(left, axis=-1)[..., None]
        box = jnp.take_along_axis(sides, best[None], axis=-1)
        box_number = jnp.take_along_axis(order, best, axis=-1)
        gone = (_intersection_over_union(sides, box) > share) | (lax.iota(np.int64, size) == best)
        found = lax.dynamic_update_slice_in_dim(found, box_number.astype(np.int64), step, axis=-1)
        return step + 1, left & ~gone, found, counts + some.astype(np.int64)

    def more(state: tuple[Array, Array, Array, Array]) -> Array:
        return (state[0] < allowed) & jnp.any(state[1])

    start = (
        jnp.zeros((), np.int64),
        left,
        jnp.zeros((batches, classes, most), np.int64),
        jnp.zeros((batches, classes), np.int64),
    )
    _, _, found, counts = jax.lax.while_loop(more, turn, start)
    return found, counts


def _intersection_over_union(boxes: Array, box: Array) -> Array:
    """For each of `boxes`; -inf where one of the two, or what they share, has no area."""
    left, right = jnp.maximum(boxes[0], box[0]), jnp.minimum(boxes[2], box[2])
    low, high = jnp.maximum(boxes[1], box[1]), jnp.minimum(boxes[3], box[3])
    shared = (right - left) * (high - low)
    first, second = ((b[2] - b[0]) * (b[3] - b[1]) for b in (boxes, box))
    union = first + second - shared
    zero = jnp.zeros((), boxes.dtype)
    apart = (right <= left) | (high <= low) | (shared <= zero) | (first <= zero) | (second <= zero)
    return jnp.where(apart | (union <= zero), jnp.asarray(-np.inf, boxes.dtype), shared / union)
