"""Reductions, arg-reductions, cumulative operators and TopK.

Narrow floats are accumulated in float32; the result has the operand's type.

Spec: https://onnx.ai/onnx/operators/ , one page for each operator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.errors import LoweringError
from graphopt.lowering.xla.numerics import below_peak, integer_limits, widened
from graphopt.lowering.xla.ops import lowers

Array = Any
Axes = np.ndarray | None
Reduction = Callable[[Array, tuple[int, ...], bool], Array]


def _reduced(
    data: Array, axes: Axes, keepdims: int, noop_with_empty_axes: int, reduction: Reduction
) -> Array:
    """`reduction` over `axes`: over all of them if there are none, unless `noop_with_empty_axes`."""
    dims = () if axes is None else tuple(int(a) for a in axes.reshape(-1))
    if not dims and not noop_with_empty_axes:
        dims = tuple(range(data.ndim))
    return reduction(widened(data), dims, bool(keepdims)).astype(data.dtype)


def _in_float(data: Array) -> Array:
    """Integers as float64, for reductions whose formula leaves the integers; floats as they are."""
    return data.astype(np.float64) if jnp.issubdtype(data.dtype, jnp.integer) else data


def _is_empty(data: Array, dims: tuple[int, ...]) -> bool:
    """Whether nothing is reduced into each result."""
    return any(isinstance(data.shape[d], int) and data.shape[d] == 0 for d in dims)


def _sum(x: Array, dims: tuple[int, ...], keepdims: bool) -> Array:
    return jnp.sum(x, axis=dims, keepdims=keepdims, dtype=x.dtype)


def _mean(x: Array, dims: tuple[int, ...], keepdims: bool) -> Array:
    count: Any = 1
    for dim in dims:
        count = count * x.shape[dim]
    if not jnp.issubdtype(x.dtype, jnp.integer):
        return _sum(x, dims, keepdims) / jnp.asarray(count).astype(x.dtype)
    wide = np.uint64 if jnp.issubdtype(x.dtype, jnp.unsignedinteger) else np.int64
    total = jnp.sum(x, axis=dims, keepdims=keepdims, dtype=wide)
    return lax.div(total, jnp.broadcast_to(jnp.asarray(count).astype(wide), total.shape))


def _lowest(dtype: np.dtype) -> Any:
    return -np.inf if jnp.issubdtype(dtype, jnp.floating) else integer_limits(dtype)[0]


def _highest(dtype: np.dtype) -> Any:
    return np.inf if jnp.issubdtype(dtype, jnp.floating) else integer_limits(dtype)[1]


def _max(x: Array, dims: tuple[int, ...], keepdims: bool) -> Array:
    if x.dtype == bool:
        return jnp.any(x, axis=dims, keepdims=keepdims)
    initial = jnp.asarray(_lowest(x.dtype), x.dtype) if _is_empty(x, dims) else None
    return jnp.max(x, axis=dims, keepdims=keepdims, initial=initial)


def _min(x: Array, dims: tuple[int, ...], keepdims: bool) -> Array:
    if x.dtype == bool:
        return jnp.all(x, axis=dims, keepdims=keepdims)
    initial = jnp.asarray(_highest(x.dtype), x.dtype) if _is_empty(x, dims) else None
    return jnp.min(x, axis=dims, keepdims=keepdims, initial=initial)


def _log_sum_exp(x: Array, dims: tuple[int, ...], keepdims: bool) -> Array:
    x = _in_float(x)
    peak = _max(x, dims, True)
    peak = jnp.where(jnp.isfinite(peak), peak, jnp.zeros((), x.dtype))
    total = jnp.log(jnp.sum(jnp.exp(below_peak(x, peak)), axis=dims, keepdims=True)) + peak
    return total if keepdims else jnp.squeeze(total, axis=dims)


@lowers("ReduceSum", since=(13,), static=("axes",))
def reduce_sum(data: Array, axes: Axes, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Array:
    """The sum; 0 over nothing; integers wrap around."""
    return _reduced(data, axes, keepdims, noop_with_empty_axes, _sum)


@lowers("ReduceMean", since=(18,), static=("axes",))
def reduce_mean(data: Array, axes: Axes, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Array:
    """The mean; of integers truncated toward zero; over nothing NaN, or an unspecified integer."""
    return _reduced(data, axes, keepdims, noop_with_empty_axes, _mean)


@lowers("ReduceProd", since=(18,), static=("axes",))
def reduce_prod(data: Array, axes: Axes, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Array:
    """The product; 1 over nothing; integers wrap around."""

    def prod(x: Array, dims: tuple[int, ...], keep: bool) -> Array:
        return jnp.prod(x, axis=dims, keepdims=keep, dtype=x.dtype)

    return _reduced(data, axes, keepdims, noop_with_empty_axes, prod)


@lowers("ReduceMax", since=(18, 20), static=("axes",))
def reduce_max(data: Array, axes: Axes, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Array:
    """The maximum; NaN if any is NaN; over nothing the least number of the type; False < True."""
    return _reduced(data, axes, keepdims, noop_with_empty_axes, _max)


@lowers("ReduceMin", since=(18, 20), static=("axes",))
def reduce_min(data: Array, axes: Axes, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Array:
    """The minimum; NaN if any is NaN; over nothing the greatest number of the type; False < True."""
    return _reduced(data, axes, keepdims, noop_with_empty_axes, _min)


@lowers("ReduceL1", since=(18,), static=("axes",))
def reduce_l1(data: Array, axes: Axes, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Array:
    """The sum of |x|."""
    return _reduced(data, axes, keepdims, noop_with_empty_axes, lambda x, d, keep: _sum(jnp.abs(x), d, keep))


@lowers("ReduceL2", since=(18,), static=("axes",))
def reduce_l2(data: Array, axes: Axes, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Array:
    """The square root of the sum of x * x; of integers truncated."""

    def norm(x: Array, dims: tuple[int, ...], keep: bool) -> Array:
        x = _in_float(x)
        return jnp.sqrt(_sum(x * x, dims, keep))

    return _reduced(data, axes, keepdims, noop_with_empty_axes, norm)


@lowers("ReduceSumSquare", since=(18,), static=("axes",))
def reduce_sum_square(data: Array, axes: Axes, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Array:
    """The sum of x * x."""
    return _reduced(data, axes, keepdims, noop_with_empty_axes, lambda x, d, keep: _sum(x * x, d, keep))


@lowers("ReduceLogSum", since=(18, 28), static=("axes",))
def reduce_log_sum(data: Array, axes: Axes, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Array:
    """The logarithm of the sum; minus infinity over nothing; of integers truncated."""
    return _reduced(
        data,
        axes,
        keepdims,
        noop_with_empty_axes,
        lambda x, d, keep: jnp.log(_in_float(_sum(x, d, keep))),
    )


@lowers("ReduceLogSumExp", since=(18, 28), static=("axes",))
def reduce_log_sum_exp(data: Array, axes: Axes, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Array:
    """The logarithm of the sum of exp(x), shifted by the maximum so that it does not overflow."""
    return _reduced(data, axes, keepdims, noop_with_empty_axes, _log_sum_exp)


@lowers("ArgMax", since=(13,))
def arg_max(data: Array, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Array:
    """The index of the first (or last) maximum along `axis`: int64."""
    return _arg_reduced(lax.argmax, data, axis, keepdims, select_last_index)


@lowers("ArgMin", since=(13,))
def arg_min(data: Array, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Array:
    """The index of the first (or last) minimum along `axis`: int64."""
    return _arg_reduced(lax.argmin, data, axis, keepdims, select_last_index)


def _arg_reduced(
    reduction: Callable[..., Array], data: Array, axis: int, keepdims: int, select_last_index: int
) -> Array:
    axis = axis % data.ndim
    if select_last_index:
        index = data.shape[axis] - 1 - reduction(jnp.flip(data, axis), axis, np.int64)
    else:
        index = reduction(data, axis, np.int64)
    return jnp.expand_dims(index, axis) if keepdims else index


@lowers("CumSum", since=(14,), static=("axis",))
def cum_sum(x: Array, axis: np.ndarray, *, exclusive: int = 0, reverse: int = 0) -> Array:
    """Running sums along `axis`, each with or (``exclusive``) without its own element."""
    return _cumulated(lax.cumsum, 0, x, axis, exclusive, reverse)


@lowers("CumProd", since=(26,), static=("axis",))
def cum_prod(x: Array, axis: np.ndarray, *, exclusive: int = 0, reverse: int = 0) -> Array:
    """Running products along `axis`, each with or (``exclusive``) without its own element."""
    return _cumulated(lax.cumprod, 1, x, axis, exclusive, reverse)


def _cumulated(
    cumulate: Callable[..., Array], start: int, x: Array, axis: np.ndarray, exclusive: int, reverse: int
) -> Array:
    dim = int(axis.reshape(-1)[0]) % x.ndim
    wide = widened(x)
    if exclusive:
        shift = [(0, 0, 0)] * x.ndim
        shift[dim] = (-1, 1, 0) if reverse else (1, -1, 0)
        wide = lax.pad(wide, jnp.asarray(start, wide.dtype), shift)
    return cumulate(wide, dim, reverse=bool(reverse)).astype(x.dtype)


@lowers("TopK", since=(11, 24), static=("k",), ignores=("sorted",))  # what we return is always sorted
def top_k(x: Array, k: np.ndarray, *, axis: int = -1, largest: int = 1) -> tuple[Array, Array]:
    """The k largest (or smallest) elements along `axis` in order, and their indices (int64); ties by index.

    Raises:
        LoweringError: k is larger than the axis.
    """
    count = int(k.reshape(-1)[0])
    size = x.shape[axis]
    if count < 0 or (isinstance(size, int) and count > size):
        raise LoweringError("GO202", "TopK's k is larger than its axis", found=count, expected=f"<= {size}")
    keys = jnp.moveaxis(x, axis, -1)
    ordered = keys if largest else _reversed_order(keys)
    if not jnp.issubdtype(keys.dtype, jnp.floating):
        values, indices = lax.top_k(ordered, count)
        values = values if largest else _reversed_order(values)
    else:  # XLA puts 0 above -0, which ties with it here
        zero = jnp.zeros((), keys.dtype)
        indices = lax.top_k(jnp.where(ordered == zero, zero, ordered), count)[1]
        values = jnp.take_along_axis(keys, indices, axis=-1)
    return jnp.moveaxis(values, -1, axis), jnp.moveaxis(indices.astype(np.int64), -1, axis)


def _reversed_order(x: Array) -> Array:
    """A one-to-one map that turns the order around: ~x for integers, where -x would overflow, else -x."""
    return jnp.bitwise_not(x) if jnp.issubdtype(x.dtype, jnp.integer) else -x
