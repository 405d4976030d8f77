"""Normalization operators. Statistics of narrow floats are taken in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.lowering.xla import numerics
from graphopt.lowering.xla.dtypes import from_onnx
from graphopt.lowering.xla.emit import Context
from graphopt.lowering.xla.ops import lowers
from graphopt.lowering.xla.ops.matmul import accumulator

Array = Any


def _channels(parameter: Array, like: Array) -> Array:
    """A vector over axis 1 of `like`, shaped to broadcast, in its type."""
    return parameter.astype(like.dtype).reshape((1, -1) + (1,) * (like.ndim - 2))


def _moments(x: Array, axes: Sequence[int], given: Any = np.float32) -> tuple[Array, Array]:
    """Mean and population variance over `axes`, kept as dimensions of one.

    Of numbers that were `given` in 16 bits or fewer the variance is mean(x²) - mean², as in the
    operators' function bodies: both sums are taken in one pass, which the compiler fuses with what makes x.
    What float32 loses by the cancellation is less than what x lost when it was rounded: x is off by
    2**-9 |mean| (2**-12 in float16), and the standard deviation by 2**-25 mean² / deviation, which is
    more only where the mean is over 2**13 deviations, and x holds no digit of the deviation any more.
    """
    mean = jnp.mean(x, tuple(axes), keepdims=True)
    if np.dtype(given).itemsize < np.dtype(np.float32).itemsize:
        square = jnp.mean(jnp.square(x), tuple(axes), keepdims=True)
        return mean, jnp.maximum(square - jnp.square(mean), jnp.zeros((), x.dtype))
    return mean, jnp.mean(jnp.square(x - mean), tuple(axes), keepdims=True)


def _wider(dtype: np.dtype, stash_type: int) -> np.dtype:
    """The type that statistics are taken in: the stash type, or the input's own if it is wider."""
    stash = from_onnx(stash_type)
    return stash if stash.itemsize >= np.dtype(dtype).itemsize else np.dtype(dtype)


@lowers("BatchNormalization", since=(15,))
def batch_normalization(
    x: Array,
    scale: Array,
    b: Array,
    input_mean: Array,
    input_var: Array,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> tuple[Array, ...]:
    """(x - mean) / sqrt(var + epsilon) * scale + b per channel; training takes the batch's statistics.

    Training also returns the running mean and variance: momentum * old + (1 - momentum) * batch.
    Spec: https://onnx.ai/onnx/operators/onnx__BatchNormalization.html
    """
    wide = x.astype(accumulator(x.dtype))
    if not training_mode:
        return (_batch_normalized(wide, scale, b, input_mean, input_var, epsilon).astype(x.dtype),)
    mean, var = _moments(wide, [0, *range(2, x.ndim)])
    mean, var = mean.reshape(-1), var.reshape(-1)
    y = _batch_normalized(wide, scale, b, mean, var, epsilon).astype(x.dtype)

    def running(old: Array, new: Array) -> Array:
        kind = accumulator(old.dtype)
        kept, added = jnp.asarray(momentum, kind), jnp.asarray(1.0 - momentum, kind)
        return (old.astype(kind) * kept + new.astype(kind) * added).astype(old.dtype)

    return y, running(input_mean, mean), running(input_var, var)


def _batch_normalized(x: Array, scale: Array, b: Array, mean: Array, var: Array, epsilon: float) -> Array:
    if x.ndim == 1:
        # One sample of one channel for each element, as ONNX Runtime reads it.
        return _batch_normalized(x[:, None], scale, b, mean, var, epsilon)[:, 0]
    wide = accumulator(var.dtype)
    inverse = lax.rsqrt(var.astype(wide) + jnp.asarray(epsilon, wide))
    factor = _channels(inverse, x) * _channels(scale, x)
    return (x - _channels(mean, x)) * factor + _channels(b, x)


@lowers("InstanceNormalization", since=(6, 22))
def instance_normalization(input: Array, scale: Array, b: Array, *, epsilon: float = 1e-5) -> Array:
    """(x - mean) / sqrt(var + epsilon) * scale + b with statistics of each sample and channel.

    Spec: https://onnx.ai/onnx/operators/onnx__InstanceNormalization.html
    """
    x = input.astype(accumulator(input.dtype))
    mean, var = _moments(x, range(2, x.ndim), input.dtype)
    y = (x - mean) * lax.rsqrt(var + jnp.asarray(epsilon, x.dtype))
    return (y * _channels(scale, x) + _channels(b, x)).astype(input.dtype)


@lowers("LayerNormalization", since=(17,))
def layer_normalization(
    x: Array, scale: Array, b: Array | None, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> tuple[Array, ...]:
    """(x - mean) / sqrt(var + epsilon) * scale + b over the axes from `axis` on; also mean and 1/std.

    Spec: https://onnx.ai/onnx/operators/onnx__LayerNormalization.html
    """
    axes = range(axis % x.ndim, x.ndim)
    wide = x.astype(_wider(x.dtype, stash_type))
    mean, var = _moments(wide, axes, x.dtype)
    inverse = lax.rsqrt(var + jnp.asarray(epsilon, wide.dtype))
    y = _scaled((wide - mean) * inverse, scale, x.dtype)
    stash = from_onnx(stash_type)
    y = y.astype(x.dtype) if b is None else numerics.biased(y, b, x.dtype)
    return y, mean.astype(stash), inverse.astype(stash)


def _scaled(normalized: Array, scale: Array, dtype: Any) -> Array:
    """`normalized` * `scale`; of bfloat16 in bfloat16, as in the operators' function bodies.

    A scale that is widened is a kernel of its own on a TPU. float16 keeps the wide product: it might
    overflow before a bias brings it back.
    """
    if np.dtype(dtype) == jnp.bfloat16:
        return normalized.astype(dtype) * scale.astype(dtype)
    return normalized * scale.astype(normalized.dtype)


@lowers("RMSNormalization", since=(23,))
def rms_normalization(
    x: Array, scale: Array, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Array:
    """x / sqrt(mean(x²) + epsilon) * scale over the axes from `axis` on; the result has scale's type.

    Spec: https://onnx.ai/onnx/operators/onnx__RMSNormalization.html
    """
    axes = tuple(range(axis % x.ndim, x.ndim))
    wide = x.astype(_wider(x.dtype, stash_type))
    mean_square = jnp.mean(jnp.square(wide), axes, keepdims=True)
    y = wide * lax.rsqrt(mean_square + jnp.asarray(epsilon, wide.dtype))
    return _scaled(y, scale, scale.dtype).astype(scale.dtype)


@lowers("GroupNormalization", since=(18, 21))
def group_normalization(
    ctx: Context,
    x: Array,
    scale: Array,
    bias: Array,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Array:
    """Normalize each group of channels of each sample; scale and bias per channel (18: per group).

    Spec: https://onnx.ai/onnx/operators/onnx__GroupNormalization.html
    """
    wide = x.astype(_wider(x.dtype, stash_type))
    grouped = wide.reshape((x.shape[0], num_groups, x.shape[1] // num_groups, *x.shape[2:]))
    mean, var = _moments(grouped, range(2, grouped.ndim), x.dtype)
    y = (grouped - mean) * lax.rsqrt(var + jnp.asarray(epsilon, wide.dtype))
    if ctx.version < 21:
        y = y * _channels(scale, y) + _channels(bias, y)
        return y.reshape(x.shape).astype(x.dtype)
    y = y.reshape(x.shape)
    return (y * _channels(scale, y) + _channels(bias, y)).astype(x.dtype)


@lowers("LpNormalization", since=(1, 22))
def lp_normalization(input: Array, *, axis: int = -1, p: int = 2) -> Array:
    """x / (L1 or L2 norm along axis), 0 where the norm is 0.

    Spec: https://onnx.ai/onnx/operators/onnx__LpNormalization.html
    """
    x = input.astype(accumulator(input.dtype))
    if p == 1:
        norm = jnp.sum(jnp.abs(x), axis, keepdims=True)
    else:
        norm = jnp.sqrt(jnp.sum(jnp.square(x), axis, keepdims=True))
    zero = jnp.zeros((), x.dtype)
    safe = jnp.where(norm == zero, jnp.ones((), x.dtype), norm)
    return jnp.where(norm == zero, zero, x / safe).astype(input.dtype)


@lowers("MeanVarianceNormalization", since=(13,))
def mean_variance_normalization(x: Array, *, axes: tuple[int, ...] = (0, 2, 3)) -> Array:
    """(x - mean) / (std + 1e-9) over `axes`.

    Spec: https://onnx.ai/onnx/operators/onnx__MeanVarianceNormalization.html
    """
    wide = x.astype(accumulator(x.dtype))
    mean, var = _moments(wide, axes)
    return ((wide - mean) / (jnp.sqrt(var) + jnp.asarray(1e-9, wide.dtype))).astype(x.dtype)


@lowers("LRN", since=(13,))
def lrn(x: Array, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Array:
    """x / (bias + alpha / size * sum of x² over `size` neighbouring channels) ** beta.

    Spec: https://onnx.ai/onnx/operators/onnx__LRN.html
    """
    wide = x.astype(accumulator(x.dtype))
    window = (1, size) + (1,) * (x.ndim - 2)
    padding = [(0, 0)] * x.ndim
    padding[1] = ((size - 1) // 2, size - 1 - (size - 1) // 2)
    zero = np.zeros((), wide.dtype)
    squares = lax.reduce_window(jnp.square(wide), zero, lax.add, window, (1,) * x.ndim, padding)
    base = jnp.asarray(bias, wide.dtype) + jnp.asarray(alpha / size, wide.dtype) * squares
    return (wide / jnp.power(base, jnp.asarray(beta, wide.dtype))).astype(x.dtype)


@lowers("Softmax", since=(13,))
def softmax(input: Array, *, axis: int = -1) -> Array:
    """exp(x) / sum of exp(x) along axis.

    Spec: https://onnx.ai/onnx/operators/onnx__Softmax.html
    """
    return numerics.softmax(input.astype(accumulator(input.dtype)), axis).astype(input.dtype)


@lowers("LogSoftmax", since=(13,))
def log_softmax(input: Array, *, axis: int = -1) -> Array:
    """log(softmax(x)) along axis.

    Spec: https://onnx.ai/onnx/operators/onnx__LogSoftmax.html
    """
    return numerics.log_softmax(input.astype(accumulator(input.dtype)), axis).astype(input.dtype)


@lowers("Hardmax", since=(13,))
def hardmax(input: Array, *, axis: int = -1) -> Array:
    """1 at the first maximum along axis, 0 elsewhere.

    Spec: https://onnx.ai/onnx/operators/onnx__Hardmax.html
    """
    first = jnp.argmax(input, axis, keepdims=True)
    positions = lax.broadcasted_iota(first.dtype, input.shape, axis % input.ndim)
    return (positions == first).astype(input.dtype)
