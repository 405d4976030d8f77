"""ONNX Runtime's attention with as many key heads as query heads, and the position biases that go with it.

A masked key has ``mask_filter_value`` added to its score, so that a row that is masked throughout still is an
ordinary softmax. Keys ahead of a causal query get the lowest number, which no score outweighs.

Spec: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md , a heading for each.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.lowering.xla.emit import Context
from graphopt.lowering.xla.numerics import softmax, widened
from graphopt.lowering.xla.ops import lowers
from graphopt.lowering.xla.ops.matmul import accumulator

Array = Any
DOMAIN = "com.microsoft"
MASK_FILTER_VALUE = -10000.0


def split_heads(x: Array, heads: int) -> Array:
    """[B, S, N * H] as [B, N, S, H]."""
    return jnp.swapaxes(x.reshape((*x.shape[:2], heads, x.shape[2] // heads)), 1, 2)


def merge_heads(x: Array) -> Array:
    """[B, N, S, H] as [B, S, N * H]."""
    batch, heads, length, size = x.shape
    return jnp.swapaxes(x, 1, 2).reshape((batch, length, heads * size))


def attended(
    ctx: Context, q: Array, k: Array, v: Array, *, scale: float, added: Array | None
) -> tuple[Array, Array]:  # fmt: skip
    """softmax(scale * q k' + added) v of [B, N, S, H] as [B, S, N * H], and the scores before the softmax."""
    dtype, wide = q.dtype, accumulator(q.dtype)
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k, precision=ctx.precision, preferred_element_type=wide)
    scores = scores * jnp.asarray(scale or 1 / math.sqrt(q.shape[-1]), wide)
    if added is not None:
        scores = scores + added
    weights = softmax(scores).astype(dtype)
    y = jnp.einsum("bhqk,bhkd->bhqd", weights, v, precision=ctx.precision, preferred_element_type=wide)
    return merge_heads(y.astype(dtype)), scores


def added_to_scores(
    ctx: Context,
    q: Array,
    keys: Array,
    mask: Array | None,
    bias: Array | None,
    *,
    past: Any,
    causal: int,
    filter_value: float,
) -> Array | None:
    """What masks, the causal rule and the bias add to the scores of q: [B, N, S, H]; None if nothing.

    `mask` has one of the shapes that :func:`_allowed` reads.
    """
    wide, batch, length, total = accumulator(q.dtype), q.shape[0], q.shape[2], keys.shape[2]
    added = None if bias is None else bias.astype(wide)
    if mask is not None:
        allowed = _allowed(ctx, mask, batch, length, total)
        filtered = jnp.where(allowed, jnp.zeros((), wide), jnp.asarray(filter_value, wide))
        added = filtered if added is None else added + filtered
    if causal:
        if keys.shape[2] - past > length:
            raise ctx.unsupported("a causal mask over more keys than queries", found=f"{total - past} keys")
        position = lax.broadcasted_iota(np.int64, (1, 1, length, 1), 2) + past
        ahead = lax.broadcasted_iota(np.int64, (1, 1, 1, total), 3) > position
        added = jnp.zeros((), wide) if added is None else added
        added = jnp.where(ahead, jnp.asarray(jnp.finfo(wide).min, wide), added)
    return added


def _allowed(ctx: Context, mask: Array, batch: int, length: Any, total: Any) -> Array:
    """[B, 1, S or 1, T]: which keys a mask lets through.

    It is 0 or positive for each key ``[B, T]`` or each pair ``[B, S, T]``; or tells the length of each row's
    keys ``[B]``, also with cumulated lengths of queries and keys behind them ``[3 * B + 2]``; or the ends,
    then the starts of each row ``[2 * B]``.
    """
    if mask.ndim == 1:
        key = lax.broadcasted_iota(mask.dtype, (1, 1, 1, total), 3)
        allowed = key < mask[:batch].reshape((batch, 1, 1, 1))
        if mask.shape[0] == 2 * batch:
            return allowed & (key >= mask[batch:].reshape((batch, 1, 1, 1)))
        if mask.shape[0] in (batch, 3 * batch + 2):
            return allowed
    elif mask.ndim == 2 and mask.shape[1] == total:
        return mask[:, None, None, :] > 0
    elif mask.ndim == 3 and mask.shape[1:] == (length, total):
        return mask[:, None] > 0
    raise ctx.unsupported("this form of the mask is not known", found=mask.shape)


@lowers("Attention", since=(1,), domain=DOMAIN, ignores=("rotary_embedding_dim",))  # do_rotary is refused
def attention(
    ctx: Context,
    input: Array,
    weights: Array,
    bias: Array | None,
    mask_index: Array | None,
    past: Array | None,
    attention_bias: Array | None,
    past_sequence_length: Array | None,
    *,
    do_rotary: int = 0,
    mask_filter_value: float = MASK_FILTER_VALUE,
    num_heads: int,
    past_present_share_buffer: int = 0,
    qkv_hidden_sizes: tuple[int, ...] | None = None,
    scale: float = 0.0,
    unidirectional: int = 0,
) -> tuple[Array, ...]:
    """Self-attention of ``input @ weights + bias``, split into queries, keys and values; also the new cache.

    Shapes: ``input: [B, S, C]``, ``weights: [C, D + D + Dv]``, ``past: [2, B, N, P, H]``.
    """
    if do_rotary:
        raise ctx.unsupported("do_rotary")
    if past_present_share_buffer or past_sequence_length is not None:
        raise ctx.unsupported("past_present_share_buffer")
    wide = accumulator(input.dtype)
    projected = jnp.matmul(input, weights, precision=ctx.precision, preferred_element_type=wide)
    if bias is not None:
        projected = projected + bias.astype(wide)
    sizes = qkv_hidden_sizes or (weights.shape[1] // 3,) * 3
    q, k, v = jnp.split(projected.astype(input.dtype), (sizes[0], sizes[0] + sizes[1]), axis=-1)
    y, present = self_attention(
        ctx, q, k, v, mask_index, past, attention_bias,
        filter_value=mask_filter_value, num_heads=num_heads, scale=scale, unidirectional=unidirectional,
    )  # fmt: skip
    return (y,) if present is None else (y, present)


def self_attention(
    ctx: Context,
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None,
    past: Array | None,
    attention_bias: Array | None,
    *,
    filter_value: float,
    num_heads: int,
    scale: float,
    unidirectional: int,
) -> tuple[Array, Array | None]:
    """Attention of projected ``[B, S, D]`` operands with a cache of keys and values in one tensor.

    The new cache comes back where the node has one as its second output, which is None otherwise.
    """
    q, k, v = (split_heads(x, num_heads) for x in (q, k, v))
    before: Any = 0
    if past is not None:
        before = past.shape[3]
        k, v = jnp.concatenate((past[0], k), 2), jnp.concatenate((past[1], v), 2)
    present = None
    if ctx.wants(1):
        if k.shape != v.shape:
            raise ctx.unsupported("a cache of keys and values of unlike sizes", found=(k.shape, v.shape))
        present = jnp.stack((k, v))
    added = added_to_scores(
        ctx, q, k, mask, attention_bias, past=before, causal=unidirectional, filter_value=filter_value
    )
    return attended(ctx, q, k, v, scale=scale, added=added)[0], present


@lowers("MultiHeadAttention", since=(1,), domain=DOMAIN)
def multi_head_attention(
    ctx: Context,
    query: Array,
    key: Array | None,
    value: Array | None,
    bias: Array | None,
    key_padding_mask: Array | None,
    attention_bias: Array | None,
    past_key: Array | None,
    past_value: Array | None,
    past_sequence_length: Array | None,
    cache_indirection: Array | None,
    *,
    mask_filter_value: float = MASK_FILTER_VALUE,
    num_heads: int,
    scale: float = 0.0,
    unidirectional: int = 0,
) -> tuple[Array | None, ...]:
    """Attention of projected operands, with their biases; also the new cache and the scores before softmax.

    Shapes: ``query: [B, S, D]``; ``key``, ``value``: ``[B, L, D]``, or ``[B, N, L, H]`` (no bias is added to
    them then). Packed: ``query: [B, S, N, 3, H]`` alone, or ``key: [B, L, N, 2, H]`` with no value.
    """
    if past_sequence_length is not None or cache_indirection is not None:
        raise ctx.unsupported("past_sequence_length and cache_indirection")
    if (past_key is None) != (past_value is None):
        raise ctx.unsupported("a past key without a past value, or the reverse")
    q, k, v = _projected(ctx, query, key, value, bias, num_heads)
    before: Any = 0
    if past_key is not None and past_value is not None:
        before = past_key.shape[2]
        k, v = jnp.concatenate((past_key, k), 2), jnp.concatenate((past_value, v), 2)
    added = added_to_scores(
        ctx, q, k, key_padding_mask, attention_bias,
        past=before, causal=unidirectional, filter_value=mask_filter_value,
    )  # fmt: skip
    y, scores = attended(ctx, q, k, v, scale=scale, added=added)
    if not ctx.wants(3):
        return y, k, v
    if query.dtype != np.float32:
        raise ctx.unsupported("the scores of narrow floats", found=query.dtype)
    return y, k, v, scores


def _projected(
    ctx: Context, query: Array, key: Array | None, value: Array | None, bias: Array | None, heads: int
) -> tuple[Array, Array, Array]:
    """Queries, keys and values as [B, N, S, H] with their biases added."""
    if query.ndim == 5:
        q, k, v = (jnp.swapaxes(query[:, :, :, i], 1, 2) for i in range(3))
    elif key is None:
        raise ctx.unsupported("queries without keys", found=query.shape)
    elif key.ndim == 5:
        q = split_heads(query, heads)
        k, v = (jnp.swapaxes(key[:, :, :, i], 1, 2) for i in range(2))
    elif value is None:
        raise ctx.unsupported("keys without values", found=key.shape)
    else:
        q = split_heads(query, heads)
        k, v = (x if x.ndim == 4 else split_heads(x, heads) for x in (key, value))
    if bias is None:
        return q, k, v
    size, value_size = heads * q.shape[3], heads * v.shape[3]
    if bias.shape != (2 * size + value_size,):
        raise ctx.unsupported("the bias is not one for queries, keys and values", found=bias.shape)
    each = jnp.split(bias, (size, 2 * size))
    biases = [part.reshape((1, heads, 1, -1)) for part in each]
    q = q + biases[0]
    return (q, k, v) if key is not None and key.ndim == 4 else (q, k + biases[1], v + biases[2])


@lowers("GatedRelativePositionBias", since=(1,), domain=DOMAIN)
def gated_relative_position_bias(
    ctx: Context,
    query_layer: Array,
    query_bias: Array,
    rel_pos: Array,
    weight: Array,
    bias: Array,
    eco_a: Array,
    token_offset: Array | None,
    *,
    num_heads: int,
) -> Array:
    """rel_pos times (u * (r * eco_a - 1) + 2) with gates u and r computed from each query."""
    if token_offset is not None or query_layer.ndim != 3:
        raise ctx.unsupported("packed tokens")
    dtype = query_layer.dtype
    q = split_heads(widened(query_layer) + widened(query_bias), num_heads)
    gates = jnp.matmul(q, widened(weight), precision=ctx.precision) + widened(bias)
    gates = jnp.sum(gates.reshape((*gates.shape[:-1], 2, gates.shape[-1] // 2)), -1)
    u, r = jnp.split(lax.logistic(gates), 2, axis=-1)
    return ((u * (r * widened(eco_a) - 1.0) + 2.0) * widened(rel_pos)).astype(dtype)
