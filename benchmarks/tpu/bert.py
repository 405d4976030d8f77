"""BERT-base in plain JAX: token ids, mask and token types to the last hidden state and the pooled token."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from common import Array, Params, attention, dense, dense_weights, layer_norm, norm_weights, weight

VOCABULARY, POSITIONS, TYPES, WIDTH, HEADS, HIDDEN = 30522, 512, 2, 768, 12, 3072
LAYERS = 12
EPSILON = 1e-12


def weights(layers: int = LAYERS) -> Params:
    """The shapes of all weights."""
    layer = {
        **{name: dense_weights(WIDTH, WIDTH) for name in ("query", "key", "value", "projection")},
        "attention_norm": norm_weights(WIDTH),
        "up": dense_weights(WIDTH, HIDDEN),
        "down": dense_weights(HIDDEN, WIDTH),
        "norm": norm_weights(WIDTH),
    }
    return {
        "tokens": weight(VOCABULARY, WIDTH),
        "positions": weight(POSITIONS, WIDTH),
        "types": weight(TYPES, WIDTH),
        "norm": norm_weights(WIDTH),
        "layers": [layer] * layers,
        "pooler": dense_weights(WIDTH, WIDTH),
    }


def inputs(batch: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
    """What is fed."""
    ids = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    return {"input_ids": ids, "attention_mask": ids, "token_type_ids": ids}


def model(
    params: Params, *, input_ids: Array, attention_mask: Array, token_type_ids: Array
) -> tuple[Array, Array]:
    """The last hidden state [B, S, W] and the pooled output [B, W], in float32."""
    x = params["tokens"][input_ids] + params["positions"][: input_ids.shape[1]]
    x = x + params["types"][token_type_ids]
    x = layer_norm(params["norm"], x, EPSILON)
    mask = attention_mask[:, None, None, :] != 0
    for layer in params["layers"]:
        q, k, v = (dense(layer[name], x) for name in ("query", "key", "value"))
        y = dense(layer["projection"], attention(q, k, v, HEADS, mask))
        x = layer_norm(layer["attention_norm"], x + y, EPSILON)
        y = jax.nn.gelu(dense(layer["up"], x), approximate=False)
        x = layer_norm(layer["norm"], x + dense(layer["down"], y), EPSILON)
    pooled = jnp.tanh(dense(params["pooler"], x[:, 0]))
    return x.astype(jnp.float32), pooled.astype(jnp.float32)
