"""Operators that make tensors from little: constants, ranges, one-hot and identity matrices.

Spec: https://onnx.ai/onnx/operators/ , one page for each operator.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.errors import LoweringError
from graphopt.lowering.xla.dtypes import from_onnx
from graphopt.lowering.xla.emit import Context
from graphopt.lowering.xla.numerics import compute_dtype
from graphopt.lowering.xla.ops import lowers

Array = Any


@lowers("Constant", since=(13, 19, 21, 23, 24, 25))
def constant(
    ctx: Context,
    *,
    value: np.ndarray | None = None,
    value_int: int | None = None,
    value_ints: tuple[int, ...] | None = None,
    value_float: float | None = None,
    value_floats: tuple[float, ...] | None = None,
    sparse_value: object = None,
    value_string: object = None,
    value_strings: object = None,
) -> Array:
    """The attribute's tensor. Strings and sparse tensors are refused."""
    if value is not None:
        return value
    for ints in (value_int, value_ints):
        if ints is not None:
            return np.asarray(ints, np.int64)
    for floats in (value_float, value_floats):
        if floats is not None:
            return np.asarray(floats, np.float32)
    raise ctx.unsupported("XLA has no string or sparse tensors")


@lowers("ConstantOfShape", since=(9, 20, 21, 23, 24, 25), static=("input",))
def constant_of_shape(input: np.ndarray, *, value: np.ndarray | None = None) -> Array:
    """A tensor of shape `input` filled with `value` (float32 zero if it is not given)."""
    fill = np.zeros(1, np.float32) if value is None else value.reshape(-1)
    return jnp.full(dimensions(input), fill[0], dtype=fill.dtype)


def dimensions(shape: np.ndarray) -> list[Any]:
    """A shape operand as dimensions: Python integers, or symbolic dimensions as they are."""
    return [int(d) if isinstance(d, (int, np.integer)) else d for d in shape.reshape(-1)]


@lowers("Range", since=(11, 27), static=("start", "limit", "delta"))
def range_(start: np.ndarray, limit: np.ndarray, delta: np.ndarray, *, stash_type: int = 1) -> Array:
    """start, start + delta, ... before limit. float16 and bfloat16 are computed in float32 by default."""
    low, high, step = (a.reshape(-1)[0] for a in (start, limit, delta))
    if object in (start.dtype, limit.dtype, delta.dtype):
        count = -(-(high - low) // step)
        return jnp.asarray(low, np.int64) + lax.iota(np.int64, count) * jnp.asarray(step, np.int64)
    if not step:
        raise LoweringError("GO202", "Range's delta is zero")
    count = max(math.ceil((float(high) - float(low)) / float(step)), 0)
    dtype = compute_dtype(start.dtype) if stash_type == 1 else start.dtype
    steps = lax.iota(np.int64, count).astype(dtype)
    return (jnp.asarray(low.astype(dtype)) + steps * jnp.asarray(step.astype(dtype))).astype(start.dtype)


@lowers("EyeLike", since=(9, 22))
def eye_like(input: Array, *, dtype: int | None = None, k: int = 0) -> Array:
    """A matrix of the shape of `input` with ones on diagonal k."""
    rows, columns = (lax.broadcasted_iota(np.int64, input.shape, axis) for axis in (0, 1))
    return (columns == rows + k).astype(input.dtype if dtype is None else from_onnx(dtype))


@lowers("OneHot", since=(11, 28), static=("depth",))
def one_hot(indices: Array, depth: np.ndarray, values: Array, *, axis: int = -1) -> Array:
    """values[1] where the new axis equals the index, else values[0]; negative indices count from the end.

    indices: any numeric type, truncated to int64. values: [off, on].
    """
    size = int(depth.reshape(-1)[0])
    axis = axis % (indices.ndim + 1)
    places = jnp.expand_dims(indices.astype(np.int64), axis)
    places = jnp.where(places < 0, places + size, places)
    shape = (*places.shape[:axis], size, *places.shape[axis + 1 :])
    return jnp.where(lax.broadcasted_iota(np.int64, shape, axis) == places, values[1], values[0])
