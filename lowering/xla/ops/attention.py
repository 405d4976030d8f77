"""Attention, rotary embeddings and the linear-attention recurrence."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.ir import DataType, Value
from graphopt.lowering.xla.dtypes import from_onnx
from graphopt.lowering.xla.emit import STATIC_BYTES, Context
from graphopt.lowering.xla.numerics import softmax
from graphopt.lowering.xla.ops import lowers
from graphopt.lowering.xla.ops.matmul import accumulator

Array = Any
MASK = 3
"""The position of Attention's mask among its inputs."""

FLOATS = frozenset({DataType.FLOAT, DataType.FLOAT16, DataType.BFLOAT16, DataType.DOUBLE})
SMALL = 1 << 30
MOVES = ("Expand", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
AFTER_SOFTCAP, AFTER_MASK, AFTER_SOFTMAX = 1, 2, 3


def _heads(ctx: Context, x: Array, count: int | None) -> Array:
    """[B, S, H * D] as [B, H, S, D]; four axes stay."""
    if x.ndim == 4:
        return x
    if count is None:
        raise ctx.unsupported("inputs of three axes need the number of heads")
    batch, length, hidden = x.shape
    return jnp.swapaxes(x.reshape((batch, length, count, hidden // count)), 1, 2)


@lowers("Attention", since=(23, 24, 25))
def attention(
    ctx: Context,
    q: Array,
    k: Array,
    v: Array,
    attn_mask: Array | None,
    past_key: Array | None,
    past_value: Array | None,
    nonpad_kv_seqlen: Array | None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    left_window_size: int = -1,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
) -> tuple[Array, ...]:
    """softmax(scale * q k' + mask) v, with shared key/value heads, caches, softcap and windows.

    Shapes: ``q: [B, Hq, S, D]`` or ``[B, S, Hq * D]``, ``k`` and ``v`` alike with Hkv heads that divide
    Hq. Also returns the present key and value, and the scores at the stage that the mode names. A
    query that may look at nothing gives zeros. Scores are kept in float32 at least.
    Spec: https://onnx.ai/onnx/operators/onnx__Attention.html
    """
    dtype, flat = q.dtype, q.ndim == 3
    q, k, v = _heads(ctx, q, q_num_heads), _heads(ctx, k, kv_num_heads), _heads(ctx, v, kv_num_heads)
    past_length: Any = 0
    if past_key is not None and past_value is not None:
        past_length = past_key.shape[2]
        k, v = jnp.concatenate((past_key, k), 2), jnp.concatenate((past_value, v), 2)
    batch, heads, length, size = q.shape
    groups = heads // k.shape[1]
    wide = accumulator(dtype)
    factor = 1 / math.sqrt(size) if scale is None else scale
    grouped = q.reshape((batch, k.shape[1], groups, length, size))
    scores = jnp.einsum(
        "bhgqd,bhkd->bhgqk", grouped, k, precision=ctx.precision, preferred_element_type=wide
    ).reshape((batch, heads, length, k.shape[2]))
    scores = scores * jnp.asarray(factor, wide)
    stages = {0: scores}
    if softcap:
        cap = jnp.asarray(softcap, wide)
        scores = cap * jnp.tanh(scores / cap)
    stages[AFTER_SOFTCAP] = scores

    allowed, bias = _masks(attn_mask, k.shape[2], wide)
    open_rows = True
    offset: Any = past_length
    if nonpad_kv_seqlen is not None and past_key is None:
        valid = nonpad_kv_seqlen.astype(np.int64).reshape((-1, 1, 1, 1))
        offset, open_rows = valid - length, False
        keys = lax.broadcasted_iota(np.int64, (1, 1, 1, k.shape[2]), 3)
        allowed = _and(allowed, keys < valid)
    visible = _visible(length, k.shape[2], offset, is_causal, left_window_size, right_window_size)
    # Without a mask every query sees at least itself. A check for rows that are closed costs a pass over
    # the scores, so it is made only where the mask may have some.
    sees_itself = isinstance(k.shape[2], int) and k.shape[2] == past_length + length
    mask_is_open = attn_mask is None or (visible is None and not _may_close_rows(ctx, MASK))
    open_rows = open_rows and mask_is_open and (visible is None or sees_itself)
    allowed = _and(allowed, visible)
    empty = None
    if bias is not None:
        scores = scores + bias
        empty = jnp.isneginf(bias)
    if allowed is not None:
        scores = jnp.where(allowed, scores, jnp.asarray(-np.inf, wide))
        empty = ~allowed if empty is None else ~allowed | empty
    stages[AFTER_MASK] = scores
    precise = wide if softmax_precision is None else np.promote_types(wide, _numpy_float(softmax_precision))
    weights = softmax(scores.astype(precise), -1)
    if empty is not None and not open_rows:
        weights = jnp.where(jnp.all(empty, -1, keepdims=True), jnp.zeros((), precise), weights)
    stages[AFTER_SOFTMAX] = weights

    shared = weights.astype(dtype).reshape((batch, k.shape[1], groups, length, k.shape[2]))
    y = jnp.einsum("bhgqk,bhkd->bhgqd", shared, v, precision=ctx.precision, preferred_element_type=wide)
    y = y.reshape((batch, heads, length, v.shape[-1])).astype(dtype)
    if flat:
        y = jnp.swapaxes(y, 1, 2).reshape((batch, length, heads * v.shape[-1]))
    return y, k, v, stages[qk_matmul_output_mode].astype(dtype)


def _numpy_float(number: int) -> np.dtype:
    """float64 if that is asked; whatever is narrower than float32 is computed in float32."""
    dtype = from_onnx(number)
    return dtype if dtype == np.float64 else np.dtype(np.float32)


def _may_close_rows(ctx: Context, index: int) -> bool:
    """Whether the mask at input `index` may hide every key from some query, by what is known of it."""
    mask = ctx.known(index)
    if mask is None:
        value = ctx.node.inputs[index]
        return value is None or not _is_finite_choice(value)
    if mask.size == 0 or mask.ndim == 0:
        return True
    closed = ~mask if mask.dtype == np.bool_ else np.isneginf(_in_float32(mask))
    return bool(closed.all(-1).any())


def _in_float32(mask: np.ndarray) -> np.ndarray:
    """The numbers as scores take them: what is beyond float32 is infinite there."""
    with np.errstate(over="ignore"):
        return mask.astype(np.float32)


def _is_finite_choice(value: Value, depth: int = 4) -> bool:
    """Whether `value` holds finite constants only: moved around, or chosen from such by a Where."""
    if value.const_value is not None:
        tensor = value.const_value
        is_plain = tensor.dtype in FLOATS and tensor.nbytes <= STATIC_BYTES
        return is_plain and bool(np.isfinite(_in_float32(tensor.numpy())).all())
    node = value.producer()
    if node is None or node.domain or not depth:
        return False
    sources = {"Where": node.inputs[1:], **dict.fromkeys(MOVES, node.inputs[:1])}.get(node.op_type, ())
    return bool(sources) and all(v is not None and _is_finite_choice(v, depth - 1) for v in sources)


def _and(a: Array | None, b: Array | None) -> Array | None:
    return b if a is None else a if b is None else a & b


def _masks(mask: Array | None, keys: Any, wide: np.dtype) -> tuple[Array | None, Array | None]:
    """The mask as (what is allowed, what is added), padded to all keys with nothing allowed."""
    if mask is None:
        return None, None
    boolean = mask.dtype == np.bool_
    mask = mask if boolean else mask.astype(wide)
    missing = keys - mask.shape[-1]
    if not (isinstance(missing, int) and missing <= 0):
        nothing = np.array(False) if boolean else np.array(-np.inf, wide)
        mask = lax.pad(mask, nothing, [(0, 0, 0)] * (mask.ndim - 1) + [(0, missing, 0)])
    return (mask, None) if boolean else (None, mask)


def _visible(queries: Any, keys: Any, offset: Any, causal: int, left: int, right: int) -> Array | None:
    """[1 or B, 1, S, T]: whether key j may be seen from position p = offset + i; None if all may.

    Causal: j <= p. Windows: p - left <= j <= p + right, where they are not negative.
    """
    if not causal and left < 0 and right < 0:
        return None
    # Positions that are known are no matter for the 64-bit numbers that a TPU emulates.
    static = all(isinstance(d, int) for d in (queries, keys, offset)) and max(left, right) < SMALL
    kind = np.int32 if static and queries + keys + offset < SMALL else np.int64
    position = lax.broadcasted_iota(kind, (1, 1, queries, 1), 2) + offset
    key = lax.broadcasted_iota(kind, (1, 1, 1, keys), 3)
    allowed: Array | None = key <= position if causal else None
    if left >= 0:
        allowed = _and(allowed, key >= position - left)
    if right >= 0:
        allowed = _and(allowed, key <= position + right)
    return allowed


@lowers("RotaryEmbedding", since=(23,))
def rotary_embedding(
    ctx: Context,
    x: Array,
    cos_cache: Array,
    sin_cache: Array,
    position_ids: Array | None,
    *,
    interleaved: int = 0,
    num_heads: int | None = None,
    rotary_embedding_dim: int = 0,
) -> Array:
    """Rotate pairs of features of each head by the angle of the token's position.

    Shapes: ``x: [B, H, S, D]`` or ``[B, S, H * D]``; caches ``[positions, R/2]`` with position_ids
    ``[B, S]``, else ``[B, S, R/2]``. Features beyond R = rotary_embedding_dim stay.
    Spec: https://onnx.ai/onnx/operators/onnx__RotaryEmbedding.html
    """
    shape, dtype, wide = x.shape, x.dtype, accumulator(x.dtype)
    flat = x.ndim == 3
    x = _heads(ctx, x, num_heads)
    rotated = rotary_embedding_dim or x.shape[-1]
    if position_ids is not None:
        cos_cache = jnp.take(cos_cache, position_ids, axis=0, mode="clip")
        sin_cache = jnp.take(sin_cache, position_ids, axis=0, mode="clip")
    cos, sin = cos_cache[:, None].astype(wide), sin_cache[:, None].astype(wide)
    head, rest = x[..., :rotated].astype(wide), x[..., rotated:]
    if interleaved:
        a, b = head[..., 0::2], head[..., 1::2]
    else:
        a, b = head[..., : rotated // 2], head[..., rotated // 2 :]
    real, imaginary = cos * a - sin * b, sin * a + cos * b
    if interleaved:
        turned = jnp.stack((real, imaginary), -1).reshape(head.shape)
    else:
        turned = jnp.concatenate((real, imaginary), -1)
    y = jnp.concatenate((turned.astype(dtype), rest), -1)
    return jnp.swapaxes(y, 1, 2).reshape(shape) if flat else y


# chunk_size is a hint that does not change the result.
@lowers("LinearAttention", since=(27,), ignores=("chunk_size",))
def linear_attention(
    ctx: Context,
    query: Array,
    key: Array,
    value: Array,
    past_state: Array | None,
    decay: Array | None,
    beta: Array | None,
    *,
    kv_num_heads: int,
    q_num_heads: int,
    scale: float = 0.0,
    update_rule: str = "gated_delta",
) -> tuple[Array, Array]:
    """A state of key-value products updated token by token, and read by the queries.

    With the state first faded by exp(decay) (gated rules), the update is the outer product of the key
    and the value, or (delta rules) of the key and beta times what the state lacks of the value.
    Spec: https://onnx.ai/onnx/operators/onnx__LinearAttention.html
    """
    dtype, wide = query.dtype, accumulator(query.dtype)
    batch, length = query.shape[:2]
    size = query.shape[-1] // q_num_heads
    factor = jnp.asarray(scale or 1 / math.sqrt(size), wide)

    def steps(x: Array, heads: int) -> Array:
        """[B, T, H * D] as [T, B, H, D]."""
        return jnp.moveaxis(x.astype(wide).reshape((batch, length, heads, x.shape[-1] // heads)), 1, 0)

    q, k, v = steps(query, q_num_heads), steps(key, kv_num_heads), steps(value, kv_num_heads)
    fade = None if decay is None or "gated" not in update_rule else jnp.exp(steps(decay, kv_num_heads))
    rate = None
    if beta is not None and "delta" in update_rule:
        rate = steps(beta, beta.shape[-1])  # one for each head, or one for all

    def step(state: Array, at: Any) -> tuple[Array, Array]:
        q_t, k_t, v_t, fade_t, rate_t = at
        if fade_t is not None:
            state = state * fade_t[..., None]
        if "delta" in update_rule:
            known = jnp.einsum("bhkv,bhk->bhv", state, k_t, precision=ctx.precision)
            v_t = v_t - known if rate_t is None else rate_t * (v_t - known)
        state = state + k_t[..., None] * v_t[..., None, :]
        grouped = q_t.reshape((batch, kv_num_heads, q_num_heads // kv_num_heads, size))
        out = jnp.einsum("bhgk,bhkv->bhgv", grouped, state, precision=ctx.precision)
        return state, out.reshape((batch, q_num_heads * state.shape[-1])) * factor

    shape = (batch, kv_num_heads, k.shape[-1], v.shape[-1])
    initial = jnp.zeros(shape, wide) if past_state is None else past_state.astype(wide)
    state, outputs = lax.scan(step, initial, (q, k, v, fade, rate))
    kept = dtype if past_state is None else past_state.dtype
    return jnp.moveaxis(outputs, 0, 1).astype(dtype), state.astype(kept)
