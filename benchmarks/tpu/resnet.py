"""ResNet-50 in plain JAX: images to class scores, channels last, normalizations folded into convolutions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from common import Array, Params, dense, dense_weights, weight

STAGES = ((3, 256), (4, 512), (6, 1024), (3, 2048))
STEM, CLASSES = 64, 1000
LAYERS = 6
"""The most blocks of a stage; fewer cut every stage down to that many."""


def _conv_weights(size: int, inputs: int, outputs: int) -> Params:
    return {"kernel": weight(size, size, inputs, outputs), "bias": weight(outputs)}


def weights(layers: int = LAYERS) -> Params:
    """The shapes of all weights."""
    stages, inputs = [], STEM
    for blocks, width in STAGES:
        stage = []
        for _ in range(min(blocks, layers)):
            block = {
                "reduce": _conv_weights(1, inputs, width // 4),
                "spatial": _conv_weights(3, width // 4, width // 4),
                "expand": _conv_weights(1, width // 4, width),
            }
            if inputs != width:
                block["shortcut"] = _conv_weights(1, inputs, width)
            stage.append(block)
            inputs = width
        stages.append(stage)
    return {"stem": _conv_weights(7, 3, STEM), "stages": stages, "head": dense_weights(inputs, CLASSES)}


def inputs(batch: int, side: int) -> dict[str, jax.ShapeDtypeStruct]:
    """What is fed."""
    return {"pixel_values": jax.ShapeDtypeStruct((batch, side, side, 3), jnp.float32)}


def _conv(params: Params, x: Array, stride: int = 1) -> Array:
    margin = params["kernel"].shape[0] // 2
    y = jax.lax.conv_general_dilated(
        x,
        params["kernel"],
        window_strides=(stride, stride),
        padding=[(margin, margin)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y + params["bias"]


def model(params: Params, *, pixel_values: Array) -> Array:
    """The class scores [B, classes] in float32."""
    x = jax.nn.relu(_conv(params["stem"], pixel_values.astype(jnp.bfloat16), 2))
    lowest = jnp.array(-jnp.inf, x.dtype)
    x = jax.lax.reduce_window(
        x, lowest, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), [(0, 0), (1, 1), (1, 1), (0, 0)]
    )
    for number, stage in enumerate(params["stages"]):
        for place, block in enumerate(stage):
            stride = 2 if number and not place else 1
            y = jax.nn.relu(_conv(block["reduce"], x))
            y = jax.nn.relu(_conv(block["spatial"], y, stride))
            shortcut = _conv(block["shortcut"], x, stride) if "shortcut" in block else x
            x = jax.nn.relu(_conv(block["expand"], y) + shortcut)
    x = jnp.mean(x.astype(jnp.float32), (1, 2)).astype(x.dtype)
    return dense(params["head"], x).astype(jnp.float32)
