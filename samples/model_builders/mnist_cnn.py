"""The smallest useful image classifier: convolution, ReLU, pooling, flatten, dense."""

from __future__ import annotations

import onnx
from onnx import TensorProto

from model_builders.torch_graph import TorchGraph


def build() -> onnx.ModelProto:
    """input: [batch, 1, 28, 28] → logits: [batch, 10]."""
    g = TorchGraph("mnist-cnn")
    image = g.input("input", TensorProto.FLOAT, ["batch", 1, 28, 28])
    with g.module("conv"):
        weight, bias = g.weight("weight", 32, 1, 5, 5, spread=0.2), g.weight("bias", 32, spread=0.1)
        x = g.op(
            "Conv",
            image,
            weight,
            bias,
            dilations=[1, 1],
            group=1,
            kernel_shape=[5, 5],
            pads=[2, 2, 2, 2],
            strides=[1, 1],
        )
    with g.module("relu"):
        x = g.op("Relu", x)
    with g.module("pool"):
        x = g.op("MaxPool", x, ceil_mode=0, kernel_shape=[2, 2], pads=[0, 0, 0, 0], strides=[2, 2])
    flat = g.view(x, g.size(x, 0), -1)
    g.output(g.linear_2d(flat, "dense", 32 * 14 * 14, 10), "logits", ["batch", 10])
    return g.model()
