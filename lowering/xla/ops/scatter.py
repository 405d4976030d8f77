"""Scattering updates into a copy of a tensor. Negative indices count from the end; updates out of range
(undefined in ONNX) are dropped.

Spec: https://onnx.ai/onnx/operators/ , one page for each operator.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.errors import LoweringError
from graphopt.lowering.xla.ops import lowers
from graphopt.lowering.xla.ops.index import from_start, index_tuples

Array = Any


def _scattered(data: Array, places: tuple[Array, ...], updates: Array, reduction: str) -> Array:
    """`data` with `updates` at `places`: they replace, or combine with what is there by `reduction`."""
    target = data.at[places]
    if reduction == "none":
        return target.set(updates, mode="drop")
    if data.dtype == bool:  # the sum of booleans is their maximum, the product their minimum
        reduction = {"add": "max", "mul": "min"}.get(reduction, reduction)
    if reduction == "add":
        return target.add(updates, mode="drop")
    if reduction == "mul":
        return target.multiply(updates, mode="drop")
    if reduction == "max":
        return target.max(updates, mode="drop")
    if reduction == "min":
        return target.min(updates, mode="drop")
    raise LoweringError("GO202", "an unknown scatter reduction", found=reduction)


def _in_range(places: Array, size: Any) -> Array:
    """`places` with those below zero moved past the end, where updates are dropped."""
    return jnp.where(places < 0, jnp.asarray(size).astype(places.dtype), places)


@lowers("ScatterElements", since=(18,))
def scatter_elements(
    data: Array, indices: Array, updates: Array, *, axis: int = 0, reduction: str = "none"
) -> Array:
    """A copy of `data` with y[indices[i][j]][j] = updates[i][j] for axis 0."""
    axis = axis % data.ndim
    places = [lax.broadcasted_iota(np.int64, indices.shape, other) for other in range(data.ndim)]
    size = data.shape[axis]
    places[axis] = _in_range(from_start(indices.astype(np.int64), size), size)
    return _scattered(data, tuple(places), updates, reduction)


@lowers("ScatterND", since=(18,))
def scatter_nd(data: Array, indices: Array, updates: Array, *, reduction: str = "none") -> Array:
    """A copy of `data` with slices replaced at the index tuples in the last axis of `indices`."""
    places = tuple(_in_range(p, data.shape[i]) for i, p in enumerate(index_tuples(indices, data)))
    return _scattered(data, places, updates, reduction)


@lowers("TensorScatter", since=(24,))
def tensor_scatter(
    past_cache: Array,
    update: Array,
    write_indices: Array | None,
    *,
    axis: int = -2,
    mode: str = "linear",
) -> Array:
    """The cache with `update` written along `axis` from each sample's write index on, or around it.

    past_cache: [B, ..., S, ...]; update: [B, ..., L, ...] with L <= S; write_indices: [B], zero if absent.
    """
    cache, news = jnp.moveaxis(past_cache, axis, 1), jnp.moveaxis(update, axis, 1)
    batch, length, size = news.shape[0], news.shape[1], cache.shape[1]
    starts = jnp.zeros((batch,), np.int64) if write_indices is None else write_indices.astype(np.int64)
    places = starts[:, None] + lax.iota(np.int64, length)[None, :]
    if mode == "circular":
        places = jnp.remainder(places, jnp.asarray(size, np.int64))
    samples = jnp.broadcast_to(lax.iota(np.int64, batch)[:, None], places.shape)
    return jnp.moveaxis(_scattered(cache, (samples, _in_range(places, size)), news, "none"), 1, axis)
