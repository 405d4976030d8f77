"""ONNX Runtime's GroupQueryAttention, and rotary embeddings by its conventions.

Spec: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md , a heading for each.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.lowering.xla.emit import Context
from graphopt.lowering.xla.numerics import below_peak
from graphopt.lowering.xla.ops import lowers
from graphopt.lowering.xla.ops.contrib_attention import merge_heads, split_heads
from graphopt.lowering.xla.ops.matmul import accumulator

Array = Any
DOMAIN = "com.microsoft"
BEFORE_SOFTMAX, AFTER_SOFTMAX = 1, 2


def rotated(x: Array, cos: Array, sin: Array, *, interleaved: int) -> Array:
    """Turn pairs of the first R features of x: [B, N, S, H] by the angles of cos, sin: [B, 1, S, R / 2]."""
    wide, size = accumulator(x.dtype), 2 * cos.shape[-1]
    cos, sin = cos.astype(wide), sin.astype(wide)
    head, rest = x[..., :size].astype(wide), x[..., size:]
    if interleaved:
        a, b = head[..., 0::2], head[..., 1::2]
    else:
        a, b = head[..., : size // 2], head[..., size // 2 :]
    real, imaginary = cos * a - sin * b, sin * a + cos * b
    if interleaved:
        turned = jnp.stack((real, imaginary), -1).reshape(head.shape)
    else:
        turned = jnp.concatenate((real, imaginary), -1)
    return jnp.concatenate((turned.astype(x.dtype), rest), -1)


def angles(cache: Array, positions: Array) -> Array:
    """The rows of ``cache: [M, R / 2]`` at ``positions: [B, S]``, for all heads: [B, 1, S, R / 2]."""
    return jnp.take(cache, positions, axis=0, mode="clip")[:, None]


@lowers("RotaryEmbedding", since=(1,), domain=DOMAIN)
def rotary_embedding(
    ctx: Context,
    input: Array,
    position_ids: Array,
    cos_cache: Array,
    sin_cache: Array,
    *,
    interleaved: int = 0,
    is_packed_batching: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
    scale: float = 1.0,
) -> Array:
    """Rotate pairs of features by the angle of the token's position.

    Shapes: ``input: [B, S, D]`` or ``[B, N, S, H]``, caches ``[M, R / 2]``. One position stands for the
    first token's. Without num_heads a head of [B, S, D] is as large as what is rotated.
    """
    if is_packed_batching or scale != 1.0:
        raise ctx.unsupported("packed batches and scales")
    if rotary_embedding_dim and rotary_embedding_dim != 2 * cos_cache.shape[1]:
        raise ctx.unsupported("rotary_embedding_dim is not what the caches hold", found=cos_cache.shape)
    x = input
    if input.ndim == 3:
        x = split_heads(input, num_heads or input.shape[2] // (2 * cos_cache.shape[1]))
    positions = position_ids
    if positions.ndim < 2:
        positions = positions.reshape((1, 1)) + lax.iota(positions.dtype, x.shape[2])[None]
    cos, sin = angles(cos_cache, positions), angles(sin_cache, positions)
    y = rotated(x, cos, sin, interleaved=interleaved)
    return merge_heads(y) if input.ndim == 3 else y


@lowers("GemmaRotaryEmbedding", since=(1,), domain=DOMAIN)
def gemma_rotary_embedding(emb: Array, q: Array, q_rot: Array, k: Array, k_rot: Array) -> tuple[Array, Array]:
    """x * cos(emb) + x_rot * sin(emb) of queries and keys, in their own type."""
    cos, sin = (f(emb).astype(q.dtype)[:, None] for f in (jnp.cos, jnp.sin))
    return q * cos + q_rot * sin, k * cos + k_rot * sin


@dataclasses.dataclass(frozen=True)
class _Cache:
    """Where the new tokens of each row stand in the buffer of all keys.

    Attributes:
        before: [B, 1]: how many keys came earlier.
        valid: [B, 1]: how many are there with the new ones.
        size: the buffer's length.
        prompt: whether nothing came earlier, as is known at compile time.
    """

    before: Array
    valid: Array
    size: int
    prompt: bool

    def extended(self, past: Array | None, new: Array) -> Array:
        """``[B, K, size, H]``: the past's first keys, the new ones, zeros."""
        length = new.shape[2]
        room = [(0, 0, 0), (0, 0, 0), (0, self.size - length, 0), (0, 0, 0)]
        zero = np.zeros((), new.dtype)
        if self.prompt or past is None:
            return lax.pad(new, zero, room)
        # The rotation brings the padded new keys to their place; a slice update would clamp it.
        place = lax.iota(np.int32, self.size)[None] - self.before
        moved = jax.vmap(lambda x, at: jnp.take(x, jnp.clip(at, 0, length - 1), axis=1))(new, place)
        old = lax.pad(past, zero, [(0, 0, 0), (0, 0, 0), (0, self.size - past.shape[2], 0), (0, 0, 0)])
        at = place[:, None, :, None]
        kept = jnp.where((at >= 0) & (at < length), moved, jnp.zeros((), new.dtype))
        return jnp.where(at < 0, old.astype(new.dtype), kept)


@lowers("GroupQueryAttention", since=(1,), domain=DOMAIN, static=("total_sequence_length",),
        ignores=("kv_cache_bit_width", "qk_norm_epsilon"))  # of forms that are refused  # fmt: skip
def group_query_attention(
    ctx: Context,
    query: Array,
    key: Array | None,
    value: Array | None,
    past_key: Array | None,
    past_value: Array | None,
    seqlens_k: Array,
    total_sequence_length: np.ndarray,
    cos_cache: Array | None,
    sin_cache: Array | None,
    position_ids: Array | None,
    attention_bias: Array | None,
    head_sink: Array | None,
    k_scale: Array | None,
    v_scale: Array | None,
    q_norm_weight: Array | None,
    k_norm_weight: Array | None,
    *,
    causal: int = 1,
    do_rotary: int = 0,
    k_quant_type: str = "NONE",
    kv_num_heads: int,
    local_window_size: int = -1,
    num_heads: int,
    qk_output: int = 0,
    rotary_interleaved: int = 0,
    scale: float = 0.0,
    sliding_window_cache: int = 0,
    smooth_softmax: int = -1,
    softcap: float = 0.0,
    v_quant_type: str = "NONE",
) -> tuple[Array | None, ...]:
    """Causal attention where groups of query heads share a key head, over a cache of keys and values.

    Shapes: ``query: [B, S, N * H]`` (packed: ``[B, S, (N + 2 K) * H]`` alone), ``key``, ``value``:
    ``[B, S, K * H]``, the caches ``[B, K, P, H]``. ``seqlens_k`` holds each row's number of valid keys, less
    one; where the total is S there are none before. What lies beyond a row's valid keys is zero.
    """
    quantised = (k_quant_type, v_quant_type) != ("NONE", "NONE") or not (k_scale is None and v_scale is None)
    normed = not (q_norm_weight is None and k_norm_weight is None)
    if quantised or normed or sliding_window_cache:
        raise ctx.unsupported("a quantised or sliding cache, and normalization of queries and keys")
    q, k, v = _grouped(ctx, query, key, value, num_heads, kv_num_heads)
    batch, _, length, _ = q.shape
    total = int(total_sequence_length.reshape(-1)[0])
    valid = seqlens_k.astype(np.int32).reshape((batch, 1)) + np.int32(1)
    prompt = length == total
    before = jnp.zeros_like(valid) if prompt else valid - np.int32(length)
    size = max(total, past_key.shape[2] if past_key is not None else 0)
    if (
        k.shape[2] != length
        or (past_key is None and not prompt)
        or (past_key is None) != (past_value is None)
    ):
        raise ctx.unsupported("keys that are neither the queries' own nor cached", found=k.shape)
    cache = _Cache(before, valid, size, prompt)
    if do_rotary:
        if cos_cache is None or sin_cache is None:
            raise ctx.unsupported("do_rotary without its caches")
        positions = before + lax.iota(np.int32, length)[None] if position_ids is None else position_ids
        cos, sin = angles(cos_cache, positions), angles(sin_cache, positions)
        q, k = (rotated(x, cos, sin, interleaved=rotary_interleaved) for x in (q, k))
    k, v = cache.extended(past_key, k), cache.extended(past_value, v)
    options = _Options(causal, local_window_size, scale, softcap, head_sink, smooth_softmax == 1)
    y, scores, weights = _attend(ctx, q, k, v, cache, attention_bias, options)
    if not qk_output or not ctx.wants(3):
        return y, k, v
    shown = scores if qk_output == BEFORE_SOFTMAX else weights
    return y, k, v, shown[..., :total].astype(query.dtype)


def _grouped(
    ctx: Context, query: Array, key: Array | None, value: Array | None, heads: int, shared: int
) -> tuple[Array, Array, Array]:
    """Queries, keys and values by heads, unpacked."""
    if key is not None and value is not None:
        return split_heads(query, heads), split_heads(key, shared), split_heads(value, shared)
    if key is not None or value is not None:
        raise ctx.unsupported("keys without values, or the reverse")
    packed = split_heads(query, heads + 2 * shared)
    return packed[:, :heads], packed[:, heads : heads + shared], packed[:, heads + shared :]


@dataclasses.dataclass(frozen=True)
class _Options:
    causal: int
    window: int
    scale: float
    softcap: float
    sink: Array | None
    smooth: bool


def _attend(
    ctx: Context, q: Array, k: Array, v: Array, cache: _Cache, bias: Array | None, options: _Options
) -> tuple[Array, Array, Array]:
    """The result ``[B, S, N * H]``, the scores (0 where masked) and the weights, ``[B, N, S, T]`` both."""
    dtype, wide = q.dtype, accumulator(q.dtype)
    batch, heads, length, width = q.shape
    total, shared = k.shape[2], k.shape[1]
    grouped = q.reshape((batch, shared, heads // shared, length, width))
    scores = jnp.einsum(
        "bkgqd,bktd->bkgqt", grouped, k, precision=ctx.precision, preferred_element_type=wide
    ).reshape((batch, heads, length, total))  # fmt: skip
    scores = scores * jnp.asarray(options.scale or 1 / math.sqrt(width), wide)
    if options.softcap:
        cap = jnp.asarray(options.softcap, wide)
        scores = cap * jnp.tanh(scores / cap)
    if bias is not None:
        missing = total - bias.shape[3]  # the bias is as long as the keys, the buffer may be longer
        room = [(0, 0, 0), (0, 0, 0), (0, 0, 0), (0, missing, 0)]
        scores = scores + lax.pad(bias.astype(wide), np.zeros((), wide), room)
    place = lax.iota(np.int32, total).reshape((1, 1, 1, total))
    allowed = place < cache.valid[:, :, None, None]
    if options.causal:
        position = cache.before[:, :, None, None] + lax.iota(np.int32, length).reshape((1, 1, length, 1))
        allowed = allowed & (place <= position)
        if options.window > 0:
            allowed = allowed & (place > position - options.window)
    weights = _sink_softmax(jnp.where(allowed, scores, jnp.asarray(-np.inf, wide)), options)
    scores = jnp.where(allowed, scores, jnp.zeros((), wide))
    held = weights.astype(dtype).reshape((batch, shared, heads // shared, length, total))
    y = jnp.einsum("bkgqt,bktd->bkgqd", held, v, precision=ctx.precision, preferred_element_type=wide)
    return merge_heads(y.reshape((batch, heads, length, width)).astype(dtype)), scores, weights


def _sink_softmax(scores: Array, options: _Options) -> Array:
    """Softmax with one more score in the sum that no key gets: each head's sink, or 0 if it is smooth."""
    peak = jnp.max(scores, -1, keepdims=True, initial=-np.inf)
    sink: Array | None = None
    if options.sink is not None:
        sink = options.sink.astype(scores.dtype).reshape((1, -1, 1, 1))
    elif options.smooth:
        sink = jnp.zeros((1, 1, 1, 1), scores.dtype)
    if sink is not None:
        peak = jnp.maximum(peak, sink)
    exponentials = jnp.exp(below_peak(scores, peak))
    total = jnp.sum(exponentials, -1, keepdims=True)
    if sink is not None:
        total = total + jnp.exp(sink - peak)
    return exponentials / total
