"""Elementwise arithmetic on two or more operands; all of it broadcasts both ways.

Spec: https://onnx.ai/onnx/operators/ , one page for each operator.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.lowering.xla.numerics import in_compute_dtype, widened
from graphopt.lowering.xla.ops import lowers

Array = Any


def is_integer(x: Array) -> bool:
    """Whether `x` holds integers (int4 and uint4 included, booleans not)."""
    return bool(jnp.issubdtype(x.dtype, jnp.integer))


@lowers("Add", since=(14,))
def add(a: Array, b: Array) -> Array:
    """a + b; integers wrap around."""
    return jnp.add(a, b)


@lowers("Sub", since=(14,))
def sub(a: Array, b: Array) -> Array:
    """a - b; integers wrap around."""
    return jnp.subtract(a, b)


@lowers("Mul", since=(14,))
def mul(a: Array, b: Array) -> Array:
    """a * b; integers wrap around."""
    return jnp.multiply(a, b)


@lowers("Div", since=(14,))
def div(a: Array, b: Array) -> Array:
    """a / b; integers truncate toward zero. An integer divided by zero gives an unspecified number."""
    return lax.div(*jnp.broadcast_arrays(a, b))


@lowers("Mod", since=(13, 28))
def mod(a: Array, b: Array, *, fmod: int = 0) -> Array:
    """a - floor(a / b) * b, or a - trunc(a / b) * b if `fmod`."""
    if fmod:
        return lax.rem(*jnp.broadcast_arrays(a, b))
    return jnp.remainder(a, b)


@lowers("Pow", since=(15,))
def pow_(x: Array, y: Array) -> Array:
    """x ** y in the type of x; x and y may differ in type.

    Integers: a negative exponent gives the truncated quotient 1 / x**-y, so 0 unless x is 1 or -1.
    An integer to a fractional power is computed in float64.
    """
    if not is_integer(x):
        base = widened(x)
        return jnp.power(base, y.astype(base.dtype)).astype(x.dtype)
    if not is_integer(y):
        return jnp.power(x.astype(np.float64), y.astype(np.float64)).astype(x.dtype)
    x, y = jnp.broadcast_arrays(x, y)
    if jnp.issubdtype(y.dtype, jnp.unsignedinteger):
        return _integer_power(x, y)
    odd = jnp.bitwise_and(y, jnp.ones((), y.dtype)) != 0
    one, zero = jnp.ones((), x.dtype), jnp.zeros((), x.dtype)
    minus_one = jnp.full((), -1, np.int64).astype(x.dtype)
    unit = jnp.where(x == one, one, jnp.where(x == minus_one, jnp.where(odd, minus_one, one), zero))
    return jnp.where(y < 0, unit, _integer_power(x, jnp.maximum(y, jnp.zeros((), y.dtype))))


def _integer_power(x: Array, y: Array) -> Array:
    """x ** y for y >= 0 by repeated squaring, modulo 2 ** bits. x, y: of one shape."""
    bits = y.dtype.itemsize * 8
    one = jnp.ones((), y.dtype)

    def step(_: int, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        result, square, rest = state
        result = jnp.where(jnp.bitwise_and(rest, one) != 0, result * square, result)
        return result, square * square, lax.shift_right_logical(rest, jnp.broadcast_to(one, rest.shape))

    return lax.fori_loop(0, bits, step, (jnp.ones_like(x), x, y))[0]


@lowers("BitShift", since=(11, 28))
def bit_shift(x: Array, y: Array, *, direction: str) -> Array:
    """x shifted by y bits, to the right arithmetically if signed; beyond the width only the sign is left."""
    x, y = jnp.broadcast_arrays(x, y)
    if direction == "LEFT":
        return lax.shift_left(x, y)
    if jnp.issubdtype(x.dtype, jnp.signedinteger):
        return lax.shift_right_arithmetic(x, y)
    return lax.shift_right_logical(x, y)


@lowers("BitwiseAnd", since=(18,))
def bitwise_and(a: Array, b: Array) -> Array:
    """a & b."""
    return jnp.bitwise_and(a, b)


@lowers("BitwiseOr", since=(18,))
def bitwise_or(a: Array, b: Array) -> Array:
    """a | b."""
    return jnp.bitwise_or(a, b)


@lowers("BitwiseXor", since=(18,))
def bitwise_xor(a: Array, b: Array) -> Array:
    """a ^ b."""
    return jnp.bitwise_xor(a, b)


@lowers("Max", since=(13,))
def max_(*data_0: Array) -> Array:
    """The largest operand; NaN if any is NaN."""
    return reduce(jnp.maximum, data_0)


@lowers("Min", since=(13,))
def min_(*data_0: Array) -> Array:
    """The smallest operand; NaN if any is NaN."""
    return reduce(jnp.minimum, data_0)


@lowers("Sum", since=(13,))
def sum_(*data_0: Array) -> Array:
    """The sum of all operands."""
    return _wide_sum(*data_0)


@lowers("Mean", since=(13,))
def mean(*data_0: Array) -> Array:
    """The sum of all operands divided by their number."""
    return _wide_mean(*data_0)


@in_compute_dtype
def _wide_sum(*operands: Array) -> Array:
    return reduce(jnp.add, operands)


@in_compute_dtype
def _wide_mean(*operands: Array) -> Array:
    return reduce(jnp.add, operands) / len(operands)


@lowers("Where", since=(16,))
def where(condition: Array, x: Array, y: Array) -> Array:
    """x where the condition holds, else y."""
    return jnp.where(condition, x, y)
