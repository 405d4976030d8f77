"""ONNX Runtime's activations: the Gelu family, with a bias or a gate, and the fused additions around them.

Spec: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md , a heading for each.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.lowering.xla import numerics
from graphopt.lowering.xla.emit import Context
from graphopt.lowering.xla.numerics import in_compute_dtype, widened
from graphopt.lowering.xla.ops import lowers
from graphopt.lowering.xla.ops.activation import gelu, tanh_gelu

Array = Any
DOMAIN = "com.microsoft"


@lowers("Gelu", since=(1,), domain=DOMAIN)
def gelu_1(x: Array) -> Array:
    """x * Phi(x) with Phi by erf."""
    return gelu(x)


@lowers("FastGelu", since=(1,), domain=DOMAIN)
@in_compute_dtype
def fast_gelu(x: Array, bias: Array | None) -> Array:
    """The tanh form of Gelu of x + bias."""
    return tanh_gelu(x if bias is None else x + bias)


@lowers("BiasGelu", since=(1,), domain=DOMAIN)
@in_compute_dtype
def bias_gelu(a: Array, b: Array) -> Array:
    """Gelu(a + b)."""
    return gelu(a + b)


@lowers("QuickGelu", since=(1,), domain=DOMAIN)
@in_compute_dtype
def quick_gelu(x: Array, *, alpha: float = 1.702) -> Array:
    """x * sigmoid(alpha * x)."""
    return x * lax.logistic(alpha * x)


@lowers("BiasSplitGelu", since=(1,), domain=DOMAIN)
@in_compute_dtype
def bias_split_gelu(x: Array, bias: Array) -> Array:
    """left * Gelu(right) of the halves of x + bias along the last axis."""
    left, right = jnp.split(x + bias, 2, axis=-1)
    return left * gelu(right)


@lowers("BiasAdd", since=(1,), domain=DOMAIN)
@in_compute_dtype
def bias_add(x: Array, bias: Array, skip: Array) -> Array:
    """x + bias + skip."""
    return x + bias + skip


@lowers("ScaledSiLU", since=(1,), domain=DOMAIN)
def scaled_silu(x: Array, scale: Array | None, *, alpha: float = 1.0) -> Array:
    """z * sigmoid(z) for z = factor * x, every step rounded to x's type; `scale` replaces `alpha`."""
    wide = widened(x)
    factor = jnp.asarray(alpha, wide.dtype) if scale is None else scale.astype(wide.dtype).reshape(())
    z = widened((wide * factor).astype(x.dtype))
    return (z * widened(lax.logistic(z).astype(x.dtype))).astype(x.dtype)


@lowers("BiasSoftmax", since=(1,), domain=DOMAIN)
def bias_softmax(
    ctx: Context, data: Array, bias: Array, *, axis: int = 1, is_inner_broadcast: int
) -> Array:  # fmt: skip
    """softmax(data + bias) over all axes from `axis` on.

    The bias is that of a slice of data: of its last axes repeated for the outer ones, or (inner) of its first
    axes repeated for those just before `axis`.
    """
    axis = axis % data.ndim
    total, size = math.prod(data.shape), math.prod(data.shape[axis:])
    if math.prod(bias.shape) % max(size, 1):
        raise ctx.unsupported("the bias holds no whole rows", found=bias.shape)
    rows = total // size if size else 0
    count = math.prod(bias.shape) // size if size else 0
    if count and rows % count:
        raise ctx.unsupported("the bias does not repeat a whole number of times", found=bias.shape)
    wide = widened(data).reshape((rows, size))
    added = widened(bias).reshape((count, size))
    repeats = rows // count if count else 0
    added = jnp.repeat(added, repeats, 0) if is_inner_broadcast else jnp.tile(added, (repeats, 1))
    return numerics.softmax(wide + added).reshape(data.shape).astype(data.dtype)


# Nothing is drawn, so that the seed does not matter.
@lowers("BiasDropout", since=(1,), domain=DOMAIN, static=("ratio", "training_mode"), ignores=("seed",))
def bias_dropout(
    ctx: Context,
    data: Array,
    bias: Array,
    residual: Array | None,
    ratio: np.ndarray | None,
    training_mode: np.ndarray | None,
) -> tuple[Array, Array]:
    """data + bias + residual and a mask of ones: inference. Training with a ratio above 0 is refused."""
    training = training_mode is not None and bool(training_mode.reshape(-1)[0])
    if training and (ratio is None or float(ratio.reshape(-1)[0]) > 0):
        raise ctx.unsupported("BiasDropout in training mode is random")
    y = widened(data) + widened(bias)
    if residual is not None:
        y = y + widened(residual)
    return y.astype(data.dtype), jnp.ones(data.shape, bool)
