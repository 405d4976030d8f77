"""A GPT-2-style decoder with the causal mask, the tied head and the 2-D projections of the original."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto

from model_builders.torch_graph import TorchGraph

LAYERS, HIDDEN, HEADS, VOCABULARY, POSITIONS = 2, 64, 4, 500, 128
EPSILON = 1e-5


def build() -> onnx.ModelProto:
    """input_ids: int64 [batch, sequence] → logits: [batch, sequence, vocabulary]."""
    g = TorchGraph("gpt-tiny")
    ids = g.input("input_ids", TensorProto.INT64, ["batch", "sequence"])
    with g.module("transformer"):
        batch, length = g.size(ids, 0), g.size(ids, 1)
        flat_ids = g.view(ids, -1, length)
        steps = g.op("Range", g.constant(0, np.int64), length, g.constant(1, np.int64))
        positions = g.op("Unsqueeze", steps, g.integers(0))
        words = g.embedding(flat_ids, "wte", VOCABULARY, HIDDEN)
        hidden = g.op("Add", words, g.embedding(positions, "wpe", POSITIONS, HIDDEN))
        for layer in range(LAYERS):
            with g.module(f"h.{layer}"):
                hidden = _block(g, hidden)
        normal = g.layer_norm(hidden, "ln_f", HIDDEN, EPSILON)
        hidden = g.view(normal, batch, length, HIDDEN)
    with g.module("lm_head"):
        head = g.op("Transpose", "transformer.wte.weight", perm=[1, 0])
        logits = g.op("MatMul", hidden, head)
    g.output(logits, "logits", ["batch", "sequence", VOCABULARY])
    return g.model()


def _block(g: TorchGraph, hidden: str) -> str:
    normal = g.layer_norm(hidden, "ln_1", HIDDEN, EPSILON)
    with g.module("attn"):
        attended = _attention(g, normal)
    hidden = g.op("Add", attended, hidden)
    normal = g.layer_norm(hidden, "ln_2", HIDDEN, EPSILON)
    with g.module("mlp"):
        wide = _gelu_tanh(g, _conv1d(g, normal, "c_fc", HIDDEN, 4 * HIDDEN))
        narrow = _conv1d(g, wide, "c_proj", 4 * HIDDEN, HIDDEN)
    return g.op("Add", hidden, narrow)


def _conv1d(g: TorchGraph, x: str, path: str, inputs: int, outputs: int) -> str:
    """GPT-2's `Conv1D`: rows flattened to a matrix, one Gemm, the leading sizes put back."""
    with g.module(path):
        batch, length = g.size(x, 0), g.size(x, 1)
        rows = g.view(x, -1, g.size(x, -1))
        weight = g.weight("weight", inputs, outputs, spread=inputs**-0.5)
        product = g.op("Gemm", rows, weight, g.weight("bias", outputs, spread=0.1), alpha=1.0, beta=1.0)
        return g.view(product, batch, length, outputs)


def _attention(g: TorchGraph, x: str) -> str:
    """Causal attention; query, key and value come from one projection."""

    def split_heads(part: str, order: list[int]) -> str:
        return g.op(
            "Transpose", g.view(part, g.size(part, 0), g.size(part, 1), HEADS, HIDDEN // HEADS), perm=order
        )

    fused = _conv1d(g, x, "c_attn", HIDDEN, 3 * HIDDEN)
    parts = g.ops("Split", fused, g.integers(HIDDEN, HIDDEN, HIDDEN), outputs=3, axis=2)
    query, value = split_heads(parts[0], [0, 2, 1, 3]), split_heads(parts[2], [0, 2, 1, 3])
    key = split_heads(parts[1], [0, 2, 3, 1])
    width = g.op("Cast", g.size(value, -1), to=TensorProto.FLOAT)
    scores = g.op("Div", g.op("MatMul", query, key), g.op("Pow", width, g.constant(0.5)))
    visible = _causal_mask(g, g.size(query, -2), g.size(key, -1))
    masked = g.op("Where", visible, scores, g.constant(np.finfo(np.float32).min))
    context = g.op("MatMul", g.op("Softmax", masked, axis=-1), value)
    context = g.op("Transpose", context, perm=[0, 2, 1, 3])
    joined = g.view(context, g.size(context, 0), g.size(context, 1), HIDDEN)
    return _conv1d(g, joined, "c_proj", HIDDEN, HIDDEN)


def _causal_mask(g: TorchGraph, queries: str, keys: str) -> str:
    """The last `queries` rows of the lower triangle over `keys` columns: bool [1, 1, queries, keys]."""
    triangle = g.buffer("bias", np.tril(np.ones((1, 1, POSITIONS, POSITIONS), np.bool_)))
    start, stop = g.vector(g.op("Sub", keys, queries)), g.vector(keys)
    return g.slice(g.slice(triangle, 2, start, stop), 3, g.integers(0), stop)


def _gelu_tanh(g: TorchGraph, x: str) -> str:
    """0.5 · x · (1 + tanh(√(2/π) · (x + 0.044715 · x³)))."""
    with g.module("act"):
        half = g.multiply(x, 0.5)
        cubic = g.multiply(g.op("Pow", x, g.constant(3.0)), 0.044715)
        inner = g.multiply(g.op("Add", x, cubic), math.sqrt(2 / math.pi))
        return g.op("Mul", half, g.add(g.op("Tanh", inner), 1.0))
