"""A BERT-style encoder."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto

from model_builders.torch_graph import TorchGraph

LAYERS, HIDDEN, HEADS, VOCABULARY, POSITIONS = 2, 64, 4, 500, 128
EPSILON = 1e-12


def build() -> onnx.ModelProto:
    """Three int64 [batch, sequence] → last_hidden_state [batch, sequence, 64], pooler_output [batch, 64]."""
    g = TorchGraph("bert-tiny")
    names = ("input_ids", "attention_mask", "token_type_ids")
    ids, mask, types = (g.input(name, TensorProto.INT64, ["batch", "sequence"]) for name in names)
    penalty = _mask_penalty(g, mask)
    hidden = _embeddings(g, ids, types)
    for layer in range(LAYERS):
        with g.module(f"encoder/layer.{layer}"):
            hidden = _layer(g, hidden, penalty)
    with g.module("pooler"):
        first = g.op("Gather", hidden, g.constant(0, np.int64), axis=1)
        dense = g.linear_2d(first, "dense", HIDDEN, HIDDEN)
        with g.module("activation"):
            pooled = g.op("Tanh", dense)
    g.output(hidden, "last_hidden_state", ["batch", "sequence", HIDDEN])
    g.output(pooled, "pooler_output", ["batch", HIDDEN])
    return g.model()


def _mask_penalty(g: TorchGraph, mask: str) -> str:
    """(1 − mask) · the most negative float32, as [batch, 1, 1, sequence]."""
    rank3 = g.op("Unsqueeze", mask, g.integers(1))
    rank4 = g.op("Unsqueeze", rank3, g.integers(2))
    visible = g.op("Cast", rank4, to=TensorProto.FLOAT)
    hidden = g.op("Sub", g.constant(1.0), visible)
    return g.multiply(hidden, float(np.finfo(np.float32).min))


def _embeddings(g: TorchGraph, ids: str, types: str) -> str:
    """Word + token type + position, normalised: [batch, sequence, hidden]."""
    with g.module("embeddings"):
        length = g.vector(g.size(ids, 1))
        positions = g.buffer("position_ids", np.arange(POSITIONS, dtype=np.int64)[None])
        here = g.slice(positions, 1, g.integers(0), length)
        words = g.embedding(ids, "word_embeddings", VOCABULARY, HIDDEN)
        kinds = g.embedding(types, "token_type_embeddings", 2, HIDDEN)
        places = g.embedding(here, "position_embeddings", POSITIONS, HIDDEN)
        total = g.op("Add", g.op("Add", words, kinds), places)
        return g.layer_norm(total, "LayerNorm", HIDDEN, EPSILON)


def _layer(g: TorchGraph, hidden: str, penalty: str) -> str:
    with g.module("attention"):
        with g.module("self"):
            context = _self_attention(g, hidden, penalty)
        with g.module("output"):
            projected = g.linear(context, "dense", HIDDEN, HIDDEN)
            hidden = g.layer_norm(g.op("Add", projected, hidden), "LayerNorm", HIDDEN, EPSILON)
    with g.module("intermediate"):
        wide = _gelu(g, g.linear(hidden, "dense", HIDDEN, 4 * HIDDEN))
    with g.module("output"):
        narrow = g.linear(wide, "dense", 4 * HIDDEN, HIDDEN)
        return g.layer_norm(g.op("Add", narrow, hidden), "LayerNorm", HIDDEN, EPSILON)


def _self_attention(g: TorchGraph, hidden: str, penalty: str) -> str:
    """softmax(q·kᵀ / sqrt(d) + penalty)·v, heads split off and joined again by view and permute."""

    def split_heads(x: str, order: list[int]) -> str:
        return g.op("Transpose", g.view(x, g.size(x, 0), g.size(x, 1), HEADS, HIDDEN // HEADS), perm=order)

    mixed = g.linear(hidden, "query", HIDDEN, HIDDEN)
    key = split_heads(g.linear(hidden, "key", HIDDEN, HIDDEN), [0, 2, 3, 1])
    value = split_heads(g.linear(hidden, "value", HIDDEN, HIDDEN), [0, 2, 1, 3])
    query = split_heads(mixed, [0, 2, 1, 3])
    scores = g.op("Div", g.op("MatMul", query, key), g.constant(math.sqrt(HIDDEN // HEADS)))
    weights = g.op("Softmax", g.op("Add", scores, penalty), axis=-1)
    context = g.op("Transpose", g.op("MatMul", weights, value), perm=[0, 2, 1, 3])
    return g.view(context, g.size(context, 0), g.size(context, 1), HIDDEN)


def _gelu(g: TorchGraph, x: str) -> str:
    """x · (1 + erf(x / √2)) · 0.5."""
    with g.module("intermediate_act_fn"):
        erf = g.op("Erf", g.op("Div", x, g.constant(math.sqrt(2))))
        return g.multiply(g.op("Mul", x, g.add(erf, 1.0)), 0.5)
