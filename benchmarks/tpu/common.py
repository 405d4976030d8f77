"""What the models written by hand share: dense layers, normalization, attention, declared weights."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

Array = Any
Params = dict[str, Any]


def weight(*shape: int) -> jax.ShapeDtypeStruct:
    """A weight in bfloat16: an argument of the program, so that only its shape is needed here."""
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16)


def dense_weights(inputs: int, outputs: int) -> Params:
    return {"kernel": weight(inputs, outputs), "bias": weight(outputs)}


def norm_weights(size: int) -> Params:
    return {"scale": weight(size), "bias": weight(size)}


def dense(params: Params, x: Array) -> Array:
    """x @ kernel + bias: bfloat16 operands, sums in float32 inside the matrix unit."""
    return jnp.dot(x, params["kernel"]) + params["bias"]


def layer_norm(params: Params, x: Array, epsilon: float) -> Array:
    """Normalized over the last axis, with statistics in float32."""
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, -1, keepdims=True)
    variance = jnp.var(wide, -1, keepdims=True)
    y = (wide - mean) * jax.lax.rsqrt(variance + epsilon)
    return (y * params["scale"] + params["bias"]).astype(x.dtype)


def attention(q: Array, k: Array, v: Array, heads: int, mask: Array) -> Array:
    """Attention of [B, S, H * D] operands with a softmax in float32; boolean mask: [B or 1, 1, S or 1, S]."""
    batch, length, width = q.shape
    q, k, v = (x.reshape(batch, length, heads, width // heads) for x in (q, k, v))
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)
    scores = jnp.where(mask, scores * (width // heads) ** -0.5, -1e9)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(batch, length, width)
