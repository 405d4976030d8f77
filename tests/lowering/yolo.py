"""A YOLO detector in small, as exported: stem, split blocks, pooling pyramid, upsampling neck, box decoding."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE, CLASSES, BINS, STRIDE = 64, 5, 8, 8


class Builder:
    """Collects nodes and weights; every method returns the name of the value it made."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)

    def op(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        name = f"/{op_type.lower()}.{len(self.nodes)}"
        results = [f"{name}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, results, name, **attributes))
        return results[0] if outputs == 1 else results

    def constant(self, values: Any, dtype: type = np.float32) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def integers(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def conv(self, x: str, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> str:
        """Convolution and SiLU."""
        spread = (inputs * kernel * kernel) ** -0.5
        weight = self.constant(self.random.normal(0, spread, (outputs, inputs, kernel, kernel)))
        bias = self.constant(self.random.normal(0, 0.1, outputs))
        pads = [kernel // 2] * 4
        y = self.op("Conv", x, weight, bias, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads)
        return str(self.op("Mul", y, self.op("Sigmoid", y)))

    def split_block(self, x: str, inputs: int, width: int) -> str:
        """C2f: one half goes on as it is and through a bottleneck with a residual."""
        y = self.conv(x, inputs, width, 1)
        left, right = self.op("Split", y, self.integers(width // 2, width // 2), outputs=2, axis=1)
        inner = self.conv(self.conv(right, width // 2, width // 2), width // 2, width // 2)
        joined = self.op("Concat", left, right, self.op("Add", right, inner), axis=1)
        return self.conv(joined, width * 3 // 2, width, 1)

    def pyramid(self, x: str, width: int) -> str:
        """SPPF: what three poolings in a row see."""
        seen = [self.conv(x, width, width // 2, 1)]
        for _ in range(3):
            pooled = self.op("MaxPool", seen[-1], kernel_shape=[5, 5], strides=[1, 1], pads=[2] * 4)
            seen.append(pooled)
        return self.conv(self.op("Concat", *seen, axis=1), width * 2, width, 1)


def build(batch: int | str = "batch") -> onnx.ModelProto:
    """image: [batch, 3, 64, 64] → detections: [batch, 4 + CLASSES, 64], boxes in pixels and scores."""
    b = Builder()
    x = b.conv(b.conv("image", 3, 8, stride=2), 8, 16, stride=2)
    near = b.split_block(b.conv(x, 16, 16, stride=2), 16, 16)
    far = b.pyramid(b.split_block(b.conv(near, 16, 32, stride=2), 32, 32), 32)
    larger = b.op("Resize", far, "", b.constant([1, 1, 2, 2]), mode="nearest", nearest_mode="floor")
    neck = b.split_block(b.op("Concat", larger, near, axis=1), 48, 16)
    head = b.conv(neck, 16, 4 * BINS + CLASSES, 1)
    cells = SIDE // STRIDE
    flat = b.op("Reshape", head, b.integers(0, 4 * BINS + CLASSES, cells * cells))
    boxes, scores = b.op("Split", flat, b.integers(4 * BINS, CLASSES), outputs=2, axis=1)
    bins = b.op("Reshape", boxes, b.integers(0, 4, BINS, cells * cells))
    likely = b.op("Softmax", b.op("Transpose", bins, perm=[0, 1, 3, 2]), axis=3)
    steps = b.constant(np.arange(BINS).reshape(BINS, 1))
    sides = b.op("Squeeze", b.op("MatMul", likely, steps), b.integers(3))
    before, after = b.op("Split", sides, b.integers(2, 2), outputs=2, axis=1)
    y, x = np.mgrid[0.5:cells, 0.5:cells]
    anchors = b.constant(np.stack([x.ravel(), y.ravel()])[None])
    low, high = b.op("Sub", anchors, before), b.op("Add", anchors, after)
    centre = b.op("Div", b.op("Add", low, high), b.constant(2))
    box = b.op("Mul", b.op("Concat", centre, b.op("Sub", high, low), axis=1), b.constant(STRIDE))
    b.nodes.append(
        helper.make_node("Concat", [box, b.op("Sigmoid", scores)], ["detections"], "/concat.end", axis=1)
    )
    graph = helper.make_graph(
        b.nodes,
        "yolo-small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("detections", TensorProto.FLOAT, [batch, 4 + CLASSES, cells * cells])],
        b.weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
