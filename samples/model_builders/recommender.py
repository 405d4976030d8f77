"""A click predictor in the manner of DLRM: embeddings and dense features meet in pairwise dot products."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
from onnx import TensorProto

from model_builders.torch_graph import TorchGraph

TABLES, WIDTH, DENSE = (100, 50, 200, 20), 16, 8


def build() -> onnx.ModelProto:
    """dense: float32 [batch, 8], sparse: int64 [batch, 4] → probability: [batch, 1]."""
    g = TorchGraph("recommender")
    dense = g.input("dense", TensorProto.FLOAT, ["batch", DENSE])
    sparse = g.input("sparse", TensorProto.INT64, ["batch", len(TABLES)])
    with g.module("bottom"):
        features = _mlp(g, dense, [DENSE, 32, WIDTH], last="Relu")
    vectors = [features]
    for i, rows in enumerate(TABLES):
        ids = g.op("Gather", sparse, g.constant(i, np.int64), axis=1)
        vectors.append(g.embedding(ids, f"tables.{i}", rows, WIDTH))
    with g.module("interaction"):
        together = g.op("Concat", features, _pairwise_dots(g, vectors), axis=1)
    pairs = len(vectors) * (len(vectors) - 1) // 2
    with g.module("top"):
        probability = _mlp(g, together, [WIDTH + pairs, 32, 1], last="Sigmoid")
    g.output(probability, "probability", ["batch", 1])
    return g.model()


def _mlp(g: TorchGraph, x: str, widths: list[int], last: str) -> str:
    """Dense layers with ReLU between them and `last` at the end, numbered as in a `Sequential`."""
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        x = g.linear_2d(x, str(2 * i), inputs, outputs)
        with g.module(str(2 * i + 1)):
            x = g.op(last if i == len(widths) - 2 else "Relu", x)
    return x


def _pairwise_dots(g: TorchGraph, vectors: list[str]) -> str:
    """The dot product of every pair of different vectors: [batch, n(n−1)/2] from n times [batch, width]."""
    count = len(vectors)
    joined = g.op("Concat", *vectors, axis=1)
    stack = g.view(joined, g.size(joined, 0), -1, WIDTH)
    products = g.op("MatMul", stack, g.op("Transpose", stack, perm=[0, 2, 1]))
    flat = g.view(products, g.size(products, 0), -1)
    rows, columns = np.tril_indices(count, -1)
    return g.op("Gather", flat, g.constant(rows * count + columns, np.int64), axis=1)
