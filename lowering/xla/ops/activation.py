"""Activation functions. Narrow floats are computed in float32 and rounded once.

Spec: https://onnx.ai/onnx/operators/ , one page for each operator.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.errors import UnsupportedError
from graphopt.lowering.xla.numerics import in_compute_dtype
from graphopt.lowering.xla.ops import lowers

Array = Any

SELU_ALPHA = 1.6732632423543772
SELU_GAMMA = 1.0507009873554805


@lowers("Relu", since=(14,))
def relu(x: Array) -> Array:
    """max(x, 0); NaN stays NaN."""
    return jnp.maximum(x, jnp.zeros((), x.dtype))


@lowers("Clip", since=(13,))
def clip(input: Array, min: Array | None, max: Array | None) -> Array:
    """min(max(x, low), high): the upper bound wins where the bounds cross; NaN stays NaN."""
    if min is not None:
        input = jnp.maximum(input, jnp.reshape(min, ()))
    return input if max is None else jnp.minimum(input, jnp.reshape(max, ()))


@lowers("LeakyRelu", since=(16,))
@in_compute_dtype
def leaky_relu(x: Array, *, alpha: float = 0.01) -> Array:
    """x, or alpha * x below zero."""
    return jnp.where(x >= 0, x, alpha * x)


@lowers("PRelu", since=(16,))
def prelu(x: Array, slope: Array) -> Array:
    """x, or slope * x below zero. slope: broadcasts to x."""
    return jnp.where(x < jnp.zeros((), x.dtype), slope * x, x)


@lowers("Elu", since=(6, 22))
@in_compute_dtype
def elu(x: Array, *, alpha: float = 1.0) -> Array:
    """x, or alpha * (exp(x) - 1) below zero."""
    return jnp.where(x > 0, x, alpha * jnp.expm1(jnp.minimum(x, 0)))


@lowers("Selu", since=(6, 22))
@in_compute_dtype
def selu(x: Array, *, alpha: float = SELU_ALPHA, gamma: float = SELU_GAMMA) -> Array:
    """gamma * x, or gamma * alpha * (exp(x) - 1) below zero."""
    return gamma * jnp.where(x > 0, x, alpha * jnp.expm1(jnp.minimum(x, 0)))


@lowers("Celu", since=(12, 28))
@in_compute_dtype
def celu(x: Array, *, alpha: float = 1.0) -> Array:
    """max(x, 0) + min(0, alpha * (exp(x / alpha) - 1))."""
    return jnp.maximum(x, 0) + jnp.minimum(alpha * jnp.expm1(x / alpha), 0)


@lowers("HardSigmoid", since=(6, 22))
@in_compute_dtype
def hard_sigmoid(x: Array, *, alpha: float = 0.2, beta: float = 0.5) -> Array:
    """alpha * x + beta, clipped to [0, 1]."""
    return jnp.minimum(jnp.maximum(alpha * x + beta, 0), 1)


@lowers("HardSwish", since=(14, 22))
@in_compute_dtype
def hard_swish(x: Array) -> Array:
    """x * clip(x / 6 + 1/2, 0, 1)."""
    return x * jnp.minimum(jnp.maximum(x / 6 + 0.5, 0), 1)


@lowers("Sigmoid", since=(13,))
@in_compute_dtype
def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    return lax.logistic(x)


@lowers("Softplus", since=(1, 22))
@in_compute_dtype
def softplus(x: Array) -> Array:
    """log(1 + exp(x)), without overflow."""
    return _softplus(x)


@lowers("Softsign", since=(1, 22))
@in_compute_dtype
def softsign(input: Array) -> Array:
    """x / (1 + |x|)."""
    return input / (1 + jnp.abs(input))


@lowers("Mish", since=(18, 22))
@in_compute_dtype
def mish(x: Array) -> Array:
    """x * tanh(softplus(x))."""
    return x * jnp.tanh(_softplus(x))


@lowers("Gelu", since=(20,))
@in_compute_dtype
def gelu(x: Array, *, approximate: str = "none") -> Array:
    """x * Phi(x), the normal distribution's Phi by erf, or by tanh if ``approximate="tanh"``."""
    if approximate == "tanh":
        return tanh_gelu(x)
    if approximate != "none":
        raise UnsupportedError("GO202", "Gelu's 'approximate' must be 'none' or 'tanh'", found=approximate)
    return 0.5 * x * (1 + lax.erf(x * math.sqrt(0.5)))


def tanh_gelu(x: Array) -> Array:
    """x * Phi(x) with Phi approximated by tanh, for floats of 32 bits or more."""
    return 0.5 * x * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))))


@lowers("Swish", since=(24,))
@in_compute_dtype
def swish(x: Array, *, alpha: float = 1.0) -> Array:
    """x * sigmoid(alpha * x)."""
    return x * lax.logistic(alpha * x)


@lowers("SwiGLU", since=(28,))
@in_compute_dtype
def swiglu(a: Array, b: Array, *, alpha: float = 1.0) -> Array:
    """a * sigmoid(alpha * a) * b. a, b: of one shape."""
    return a * lax.logistic(alpha * a) * b


@lowers("ThresholdedRelu", since=(10, 22))
@in_compute_dtype
def thresholded_relu(x: Array, *, alpha: float = 1.0) -> Array:
    """x above alpha, else 0."""
    return jnp.where(x > alpha, x, jnp.zeros((), x.dtype))


@lowers("Shrink", since=(9,))
def shrink(input: Array, *, bias: float = 0.0, lambd: float = 0.5) -> Array:
    """x + bias below -lambd, x - bias above lambd, else 0; integers go through float32 and wrap around."""
    if jnp.issubdtype(input.dtype, jnp.integer):
        shrunk = _shrink(input.astype(np.float32), bias, lambd)
        wrapped = shrunk.astype(np.int64).astype(input.dtype)
        if input.dtype != np.uint64:
            return wrapped
        return jnp.where(shrunk < 0, wrapped, shrunk.astype(input.dtype))
    return in_compute_dtype(_shrink)(input, bias=bias, lambd=lambd)


def _shrink(x: Array, bias: float, lambd: float) -> Array:
    return jnp.where(x < -lambd, x + bias, jnp.where(x > lambd, x - bias, jnp.zeros((), x.dtype)))


def _softplus(x: Array) -> Array:
    return jnp.logaddexp(x, jnp.zeros((), x.dtype))
