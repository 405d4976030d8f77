"""Numerics that several families share: the types results are computed in, and stable exponentials."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

Array = Any

NARROW_FLOATS = frozenset({np.dtype(jnp.float16), np.dtype(jnp.bfloat16)})


def compute_dtype(dtype: Any) -> np.dtype:
    """The element type to compute in for operands of `dtype`: float32 for the floats of 16 bits or fewer."""
    dtype = np.dtype(dtype)
    narrow = dtype in NARROW_FLOATS or (jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize == 1)
    return np.dtype(np.float32) if narrow else dtype


def integer_limits(dtype: Any) -> tuple[int, int]:
    """The least and the greatest number of an integer type, int4 and its like included."""
    limits = jnp.iinfo(dtype)
    return int(limits.min), int(limits.max)


def widened(x: Array) -> Array:
    """`x` in the type that its results are computed in."""
    return x.astype(compute_dtype(x.dtype))


def biased(product: Array, bias: Array, dtype: Any) -> Array:
    """`product` + `bias` in `dtype`; product: in the wide type that it was summed in.

    bfloat16, which has float32's range, is rounded before the bias is added too: a bias that is widened
    first is a kernel of its own on a TPU, one for every layer, and the compiler keeps the wide sums inside
    of a fusion anyway.
    """
    dtype = np.dtype(dtype)
    if dtype == jnp.bfloat16:
        return product.astype(dtype) + bias.astype(dtype)
    return (product + bias.astype(product.dtype)).astype(dtype)


def in_compute_dtype(function: Callable[..., Array]) -> Callable[..., Array]:
    """Make an op's function compute in float32 for narrow floats; the result has its first operand's type.

    Absent operands (None) and attributes pass through.
    """

    @wraps(function)
    def run(*operands: Array, **attributes: Any) -> Array:
        wide = [None if operand is None else widened(operand) for operand in operands]
        return function(*wide, **attributes).astype(operands[0].dtype)

    return run


def softmax(x: Array, axis: int = -1) -> Array:
    """exp(x) / sum of exp(x) along `axis`, for floats of 32 bits or more."""
    exponentials = jnp.exp(below_peak(x, _peak(x, axis)))
    return exponentials / jnp.sum(exponentials, axis, keepdims=True)


def log_softmax(x: Array, axis: int = -1) -> Array:
    """The logarithm of :func:`softmax`, without its underflow."""
    peak = _peak(x, axis)
    shifted = below_peak(x, peak)
    total = jnp.log(jnp.sum(jnp.exp(shifted), axis, keepdims=True))
    return jnp.where(jnp.isneginf(x), x - peak, shifted) - total


def below_peak(x: Array, peak: Array) -> Array:
    """``x - peak`` for a `peak` that is the maximum of x; -inf counts as the lowest number.

    Without the maximum here, LLVM merges a product x into the subtraction, unrounded (FMA contraction, which
    XLA has no switch for; optimization barriers are gone by then), while `peak` is of the rounded products:
    at 1e10 the two are hundreds apart, and the exponential of that is infinite, or 0 everywhere.
    """
    return lax.max(x, jnp.asarray(jnp.finfo(x.dtype).min, x.dtype)) - peak


def _peak(x: Array, axis: int) -> Array:
    return jnp.max(x, axis, keepdims=True, initial=-np.inf)
