"""The types that results are computed in: float32 where float16 and bfloat16 would lose digits."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax.numpy as jnp
import numpy as np

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


def in_compute_dtype(function: Callable[..., Array]) -> Callable[..., Array]:
    """Make an op's function compute in float32 for narrow floats; the result has its first operand's type.

    Absent operands (None) and attributes pass through.
    """

    @wraps(function)
    def run(*operands: Array, **attributes: Any) -> Array:
        wide = [None if operand is None else widened(operand) for operand in operands]
        return function(*wide, **attributes).astype(operands[0].dtype)

    return run
