"""Comparisons, logic and tests on numbers; the results are booleans (BitwiseNot keeps its type).

Spec: https://onnx.ai/onnx/operators/ , one page for each operator.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from graphopt.lowering.xla.numerics import widened
from graphopt.lowering.xla.ops import lowers

Array = Any


@lowers("And", since=(7,))
def and_(a: Array, b: Array) -> Array:
    """a and b."""
    return jnp.logical_and(a, b)


@lowers("Or", since=(7,))
def or_(a: Array, b: Array) -> Array:
    """a or b."""
    return jnp.logical_or(a, b)


@lowers("Xor", since=(7,))
def xor(a: Array, b: Array) -> Array:
    """Either a or b."""
    return jnp.logical_xor(a, b)


@lowers("Not", since=(1,))
def not_(x: Array) -> Array:
    """not x."""
    return jnp.logical_not(x)


@lowers("BitwiseNot", since=(18,))
def bitwise_not(x: Array) -> Array:
    """~x."""
    return jnp.bitwise_not(x)


@lowers("Equal", since=(13, 19))
def equal(a: Array, b: Array) -> Array:
    """a == b; NaN equals nothing."""
    return jnp.equal(a, b)


@lowers("Greater", since=(13,))
def greater(a: Array, b: Array) -> Array:
    """a > b."""
    return jnp.greater(a, b)


@lowers("GreaterOrEqual", since=(16,))
def greater_or_equal(a: Array, b: Array) -> Array:
    """a >= b."""
    return jnp.greater_equal(a, b)


@lowers("Less", since=(13,))
def less(a: Array, b: Array) -> Array:
    """a < b."""
    return jnp.less(a, b)


@lowers("LessOrEqual", since=(16,))
def less_or_equal(a: Array, b: Array) -> Array:
    """a <= b."""
    return jnp.less_equal(a, b)


@lowers("IsNaN", since=(13, 20))
def is_nan(x: Array) -> Array:
    """Whether x is NaN."""
    return jnp.isnan(widened(x))


@lowers("IsInf", since=(10, 20))
def is_inf(x: Array, *, detect_negative: int = 1, detect_positive: int = 1) -> Array:
    """Whether x is an infinity of a sign that is asked for."""
    x = widened(x)
    if detect_negative and detect_positive:
        return jnp.isinf(x)
    if detect_positive:
        return jnp.isposinf(x)
    return jnp.isneginf(x) if detect_negative else jnp.zeros(x.shape, bool)
