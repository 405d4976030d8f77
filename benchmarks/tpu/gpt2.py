"""GPT-2 small in plain JAX: token ids to logits over the vocabulary, tied to the embedding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from common import Array, Params, attention, dense, dense_weights, layer_norm, norm_weights, weight

VOCABULARY, POSITIONS, WIDTH, HEADS = 50257, 1024, 768, 12
LAYERS = 12
EPSILON = 1e-5


def weights(layers: int = LAYERS) -> Params:
    """The shapes of all weights."""
    layer = {
        "attention_norm": norm_weights(WIDTH),
        "qkv": dense_weights(WIDTH, 3 * WIDTH),
        "projection": dense_weights(WIDTH, WIDTH),
        "norm": norm_weights(WIDTH),
        "up": dense_weights(WIDTH, 4 * WIDTH),
        "down": dense_weights(4 * WIDTH, WIDTH),
    }
    return {
        "tokens": weight(VOCABULARY, WIDTH),
        "positions": weight(POSITIONS, WIDTH),
        "layers": [layer] * layers,
        "norm": norm_weights(WIDTH),
    }


def inputs(batch: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
    """What is fed."""
    return {"input_ids": jax.ShapeDtypeStruct((batch, length), jnp.int32)}


def model(params: Params, *, input_ids: Array) -> Array:
    """The logits [B, S, V] in float32."""
    length = input_ids.shape[1]
    x = params["tokens"][input_ids] + params["positions"][:length]
    places = jnp.arange(length)
    mask = (places[:, None] >= places[None, :])[None, None]
    for layer in params["layers"]:
        q, k, v = jnp.split(dense(layer["qkv"], layer_norm(layer["attention_norm"], x, EPSILON)), 3, axis=-1)
        x = x + dense(layer["projection"], attention(q, k, v, HEADS, mask))
        y = dense(layer["up"], layer_norm(layer["norm"], x, EPSILON))
        x = x + dense(layer["down"], jax.nn.gelu(y, approximate=True))
    x = layer_norm(params["norm"], x, EPSILON)
    return jnp.einsum("bsw,vw->bsv", x, params["tokens"], preferred_element_type=jnp.float32)
