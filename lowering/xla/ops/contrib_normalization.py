"""ONNX Runtime's normalizations, fused with the sums and lookups before them. Statistics are in float32.

Spec: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md , a heading for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.lowering.xla.dtypes import from_onnx
from graphopt.lowering.xla.emit import Context
from graphopt.lowering.xla.numerics import widened
from graphopt.lowering.xla.ops import lowers

Array = Any
DOMAIN = "com.microsoft"


def _normalized(x: Array, axes: Sequence[int], epsilon: float) -> Array:
    """(x - mean) / sqrt(var + epsilon) over `axes`."""
    centered = x - jnp.mean(x, tuple(axes), keepdims=True)
    variance = jnp.mean(jnp.square(centered), tuple(axes), keepdims=True)
    return centered * lax.rsqrt(variance + jnp.asarray(epsilon, x.dtype))


def _root_mean_square(x: Array, axes: Sequence[int], epsilon: float) -> tuple[Array, Array]:
    """x / sqrt(mean(x²) + epsilon) over `axes`, and the factor."""
    inverse = lax.rsqrt(
        jnp.mean(jnp.square(x), tuple(axes), keepdims=True) + jnp.asarray(epsilon, x.dtype)
    )  # fmt: skip
    return x * inverse, inverse


def _total(ctx: Context, input: Array, skip: Array, bias: Array | None) -> Array:
    """input + skip + bias in float32 at least."""
    if ctx.wants(1) or ctx.wants(2):
        raise ctx.unsupported("the saved statistics, which are for training")
    if input.shape[input.ndim - skip.ndim :] != skip.shape and skip.shape != (1, *input.shape[1:]):
        raise ctx.unsupported("a skip that is not the input's last axes", found=skip.shape)
    total = widened(input) + widened(skip)
    return total if bias is None else total + widened(bias)


@lowers("SkipLayerNormalization", since=(1,), domain=DOMAIN)
def skip_layer_normalization(
    ctx: Context,
    input: Array,
    skip: Array,
    gamma: Array,
    beta: Array | None,
    bias: Array | None,
    *,
    epsilon: float = 1e-12,
) -> tuple[Array | None, ...]:
    """LayerNormalization of input + skip + bias over the last axis, and that sum as fourth output."""
    total = _total(ctx, input, skip, bias)
    y = _normalized(total, (-1,), epsilon) * widened(gamma)
    if beta is not None:
        y = y + widened(beta)
    return y.astype(input.dtype), None, None, total.astype(input.dtype)


@lowers("SkipSimplifiedLayerNormalization", since=(1,), domain=DOMAIN)
def skip_simplified_layer_normalization(
    ctx: Context, input: Array, skip: Array, gamma: Array, bias: Array | None, *, epsilon: float = 1e-12
) -> tuple[Array | None, ...]:
    """RMSNormalization of input + skip + bias over the last axis, and that sum as fourth output."""
    total = _total(ctx, input, skip, bias)
    y = _root_mean_square(total, (-1,), epsilon)[0] * widened(gamma)
    return y.astype(input.dtype), None, None, total.astype(input.dtype)


@lowers("SimplifiedLayerNormalization", since=(1,))
def simplified_layer_normalization(
    x: Array, scale: Array, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> tuple[Array, Array]:
    """x / sqrt(mean(x²) + epsilon) * scale over the axes from `axis` on, and the factor that x was scaled by.

    ONNX Runtime keeps it in the standard's domain. The result has scale's type.
    """
    stash = from_onnx(stash_type)
    wide = x.astype(np.promote_types(widened(x).dtype, stash))
    y, inverse = _root_mean_square(wide, range(axis % x.ndim, x.ndim), epsilon)
    return (y * scale.astype(wide.dtype)).astype(scale.dtype), inverse.astype(stash)


# mask_index_type says what the shape of the second output is, for shape inference.
@lowers("EmbedLayerNormalization", since=(1,), domain=DOMAIN, ignores=("mask_index_type",))
def embed_layer_normalization(
    input_ids: Array,
    segment_ids: Array | None,
    word_embedding: Array,
    position_embedding: Array,
    segment_embedding: Array | None,
    gamma: Array,
    beta: Array,
    mask: Array | None,
    position_ids: Array | None,
    *,
    epsilon: float = 1e-12,
) -> tuple[Array, Array, Array]:
    """LayerNormalization of the sum of the embeddings; the number of ones of each row's mask; the sum."""
    batch, length = input_ids.shape
    total = widened(jnp.take(word_embedding, input_ids, axis=0, mode="clip"))
    if position_ids is None:
        total = total + widened(position_embedding[:length])[None]
    else:
        total = total + widened(jnp.take(position_embedding, position_ids, axis=0, mode="clip"))
    if segment_embedding is not None and segment_ids is not None:
        total = total + widened(jnp.take(segment_embedding, segment_ids, axis=0, mode="clip"))
    y = _normalized(total, (-1,), epsilon) * widened(gamma) + widened(beta)
    if mask is None:
        count = jnp.zeros((batch,), np.int32)
    else:
        count = jnp.sum(mask == 1, axis=1, dtype=np.int32)
    return y.astype(word_embedding.dtype), count, total.astype(word_embedding.dtype)


@lowers("GroupNorm", since=(1,), domain=DOMAIN)
def group_norm(
    ctx: Context,
    x: Array,
    gamma: Array,
    beta: Array,
    *,
    activation: int,
    channels_last: int = 1,
    epsilon: float = 1e-5,
    groups: int,
) -> Array:
    """GroupNormalization with scale and bias per channel, then SiLU if ``activation`` is 1."""
    y = _group_normalized(ctx, widened(x), gamma, beta, activation, channels_last, epsilon, groups)
    return y.astype(x.dtype)


@lowers("SkipGroupNorm", since=(1,), domain=DOMAIN)
def skip_group_norm(
    ctx: Context,
    x: Array,
    gamma: Array,
    beta: Array,
    skip: Array,
    bias: Array | None,
    *,
    activation: int,
    channels_last: int = 1,
    epsilon: float = 1e-5,
    groups: int,
) -> tuple[Array, Array]:
    """GroupNorm of x + skip + bias, and that sum. skip: like x, or one value for each sample and channel."""
    channel = x.ndim - 1 if channels_last else 1

    def over_channels(parameter: Array, samples: int) -> Array:
        shape = [1] * x.ndim
        shape[0], shape[channel] = samples, x.shape[channel]
        return widened(parameter).reshape(shape)

    total = widened(x) + (over_channels(skip, x.shape[0]) if skip.shape != x.shape else widened(skip))
    if bias is not None:
        total = total + over_channels(bias, 1)
    y = _group_normalized(ctx, total, gamma, beta, activation, channels_last, epsilon, groups)
    return y.astype(x.dtype), total.astype(x.dtype)


def _group_normalized(
    ctx: Context,
    x: Array,
    gamma: Array,
    beta: Array,
    activation: int,
    channels_last: int,
    epsilon: float,
    groups: int,
) -> Array:
    if activation not in (0, 1):
        raise ctx.unsupported("activations other than SiLU", found=f"activation {activation}")
    if channels_last:
        x = jnp.moveaxis(x, -1, 1)
    grouped = x.reshape((x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]))
    y = _normalized(grouped, range(2, grouped.ndim), epsilon).reshape(x.shape)
    over = (1, -1) + (1,) * (x.ndim - 2)
    y = y * widened(gamma).reshape(over) + widened(beta).reshape(over)
    if activation:
        y = y * lax.logistic(y)
    return jnp.moveaxis(y, 1, -1) if channels_last else y
