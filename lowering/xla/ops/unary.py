"""Unary mathematics.

Spec: https://onnx.ai/onnx/operators/ , one page for each operator.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.lowering.xla.numerics import widened
from graphopt.lowering.xla.ops import lowers

Array = Any


@lowers("Abs", since=(13,))
def abs_(x: Array) -> Array:
    """|x|."""
    return jnp.abs(x)


@lowers("Neg", since=(13,))
def neg(x: Array) -> Array:
    """-x; the smallest integer stays itself."""
    return jnp.negative(x)


@lowers("Sign", since=(13,))
def sign(input: Array) -> Array:
    """-1, 0 or 1; NaN stays NaN."""
    return jnp.sign(input)


@lowers("Ceil", since=(13,))
def ceil(x: Array) -> Array:
    """The least integer that is not below x."""
    return jnp.ceil(x)


@lowers("Floor", since=(13,))
def floor(x: Array) -> Array:
    """The greatest integer that is not above x."""
    return jnp.floor(x)


@lowers("Round", since=(11, 22))
def round_(x: Array) -> Array:
    """The nearest integer, halves to the even one."""
    return lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN)


@lowers("Reciprocal", since=(13,))
def reciprocal(x: Array) -> Array:
    """1 / x."""
    return lax.div(jnp.ones_like(x), x)


@lowers("Sqrt", since=(13,))
def sqrt(x: Array) -> Array:
    """The square root; NaN for negative x."""
    return jnp.sqrt(x)


@lowers("Exp", since=(13,))
def exp(input: Array) -> Array:
    """e ** x."""
    return jnp.exp(input)


@lowers("Log", since=(13,))
def log(input: Array) -> Array:
    """The natural logarithm."""
    return jnp.log(input)


@lowers("Sin", since=(7, 22))
def sin(input: Array) -> Array:
    """sin x, x in radians."""
    return jnp.sin(input)


@lowers("Cos", since=(7, 22))
def cos(input: Array) -> Array:
    """cos x, x in radians."""
    return jnp.cos(input)


@lowers("Tan", since=(7, 22))
def tan(input: Array) -> Array:
    """tan x, x in radians."""
    return jnp.tan(input)


@lowers("Asin", since=(7, 22))
def asin(input: Array) -> Array:
    """The angle in radians whose sine is x."""
    return jnp.arcsin(input)


@lowers("Acos", since=(7, 22))
def acos(input: Array) -> Array:
    """The angle in radians whose cosine is x."""
    return jnp.arccos(input)


@lowers("Atan", since=(7, 22))
def atan(input: Array) -> Array:
    """The angle in radians whose tangent is x."""
    return jnp.arctan(input)


@lowers("Sinh", since=(9, 22))
def sinh(input: Array) -> Array:
    """The hyperbolic sine."""
    return jnp.sinh(input)


@lowers("Cosh", since=(9, 22))
def cosh(input: Array) -> Array:
    """The hyperbolic cosine."""
    return jnp.cosh(input)


@lowers("Tanh", since=(13,))
def tanh(input: Array) -> Array:
    """The hyperbolic tangent."""
    return jnp.tanh(input)


@lowers("Asinh", since=(9, 22))
def asinh(input: Array) -> Array:
    """The inverse hyperbolic sine."""
    return jnp.arcsinh(input)


@lowers("Acosh", since=(9, 22))
def acosh(input: Array) -> Array:
    """The inverse hyperbolic cosine."""
    return jnp.arccosh(input)


@lowers("Atanh", since=(9, 22))
def atanh(input: Array) -> Array:
    """The inverse hyperbolic tangent."""
    return jnp.arctanh(input)


@lowers("Erf", since=(13,))
def erf(input: Array) -> Array:
    """The error function; of an integer the result is truncated to the integer type."""
    if jnp.issubdtype(input.dtype, jnp.integer):
        return lax.erf(input.astype(np.float32)).astype(input.dtype)
    return lax.erf(widened(input)).astype(input.dtype)
