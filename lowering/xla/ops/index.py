"""Gathering and selecting by index. Negative indices count from the end; ONNX leaves indices out of
range undefined, here they are clamped, so that no model reads out of bounds.

Spec: https://onnx.ai/onnx/operators/ , one page for each operator.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.lowering.xla.emit import Context
from graphopt.lowering.xla.ops import lowers

Array = Any


def from_start(indices: Array, size: Any) -> Array:
    """`indices` along an axis of `size` with negative ones counted from the end."""
    if jnp.issubdtype(indices.dtype, jnp.unsignedinteger):
        return indices
    return jnp.where(indices < 0, indices + jnp.asarray(size).astype(indices.dtype), indices)


@lowers("Gather", since=(13,))
def gather(data: Array, indices: Array, *, axis: int = 0) -> Array:
    """Slices of `data` along `axis`: data[..., indices, ...]."""
    axis = axis % data.ndim
    if isinstance(data.shape[axis], int) and data.shape[axis] == 0:  # which JAX's take ignores the indices of
        return jnp.zeros((*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]), data.dtype)
    return jnp.take(data, from_start(indices, data.shape[axis]), axis=axis, mode="clip")


@lowers("GatherElements", since=(13,))
def gather_elements(data: Array, indices: Array, *, axis: int = 0) -> Array:
    """y[i][j][k] = data[indices[i][j][k]][j][k] for axis 0; `indices` may be smaller in the other axes."""
    axis = axis % data.ndim
    places = from_start(indices, data.shape[axis])
    for other in range(data.ndim):
        if other != axis:
            data = lax.slice_in_dim(data, 0, indices.shape[other], axis=other)
    return jnp.take_along_axis(data, places, axis=axis, mode="clip")


def index_tuples(indices: Array, data: Array, batch_dims: int = 0) -> tuple[Array, ...]:
    """The index arrays of ``data[...]`` for tuples in the last axis of `indices`, batch axes before them."""
    outer = indices.shape[:-1]
    batch = [lax.broadcasted_iota(np.int64, outer, axis) for axis in range(batch_dims)]
    places = [
        from_start(indices[..., i].astype(np.int64), data.shape[batch_dims + i])
        for i in range(indices.shape[-1])
    ]
    return (*batch, *places)


@lowers("GatherND", since=(13,))
def gather_nd(data: Array, indices: Array, *, batch_dims: int = 0) -> Array:
    """Slices of `data` at the index tuples in the last axis of `indices`, after `batch_dims` shared axes."""
    return data.at[index_tuples(indices, data, batch_dims)].get(mode="clip")


@lowers("ReverseSequence", since=(10, 28))
def reverse_sequence(input: Array, sequence_lens: Array, *, batch_axis: int = 1, time_axis: int = 0) -> Array:
    """The first sequence_lens[b] steps of each sequence in reverse order, the rest as it is."""
    time = lax.broadcasted_iota(np.int64, input.shape, time_axis)
    shape = [1] * input.ndim
    shape[batch_axis] = input.shape[batch_axis]
    lengths = jnp.reshape(sequence_lens.astype(np.int64), shape)
    return jnp.take_along_axis(
        input, jnp.where(time < lengths, lengths - 1 - time, time), axis=time_axis, mode="clip"
    )


@lowers("Compress", since=(11, 28), static=("condition",))
def compress(input: Array, condition: np.ndarray, *, axis: int | None = None) -> Array:
    """The slices along `axis` (of the flattened input without one) where the condition holds."""
    if axis is None:
        input, axis = jnp.ravel(input), 0
    (places,) = np.nonzero(condition.reshape(-1))
    return jnp.take(input, jnp.asarray(places.astype(np.int64)), axis=axis, mode="clip")


@lowers("NonZero", since=(13,), static=("x",))
def non_zero(x: np.ndarray) -> np.ndarray:
    """The indices of the elements that are not zero, one row for each axis: int64, in row-major order."""
    return np.array(np.nonzero(np.atleast_1d(x)), dtype=np.int64)


@lowers("Unique", since=(11, 28), static=("x",))
def unique(
    ctx: Context, x: np.ndarray, *, axis: int | None = None, sorted: int = 1
) -> tuple[np.ndarray, ...]:
    """The distinct elements (or slices along `axis`), where they first occur, the inverse and the counts."""
    if x.dtype == object:
        raise ctx.unsupported("Unique needs numbers; these are symbolic dimensions")
    values, first, inverse, counts = np.unique(
        x, return_index=True, return_inverse=True, return_counts=True, axis=axis
    )
    inverse = inverse.reshape(-1)
    if not sorted:
        order = np.argsort(first, kind="stable")
        values = np.take(values, order, axis=0 if axis is None else axis)
        first, counts, inverse = first[order], counts[order], np.argsort(order)[inverse]
    return values, first.astype(np.int64), inverse.astype(np.int64), counts.astype(np.int64)
