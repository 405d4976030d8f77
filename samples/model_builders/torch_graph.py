"""A graph builder that writes what PyTorch's TorchScript-based ONNX exporter writes.

That means: weights named after the module that owns them, nodes and values named after the module that ran
them (`/encoder/layer.0/attention/self/MatMul_1` makes `…/MatMul_1_output_0`), every number a Constant node,
and every size that the Python code read from a tensor a tower of Shape, Gather, Unsqueeze and Concat in front
of a Reshape. Layer normalisation and GELU are spelled out in elementary operators, as in models exported at
an older opset or written by hand, although opset 17 has LayerNormalization: the harder form for a compiler.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8  # what the exporter writes with opset 17

Dim = str | int


class TorchGraph:
    """Collects nodes and weights; every method that computes returns the name of the value it made."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._path: list[str] = []
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._used: Counter[str] = Counter()

    @contextmanager
    def module(self, path: str) -> Iterator[None]:
        """Everything made inside belongs to the submodule `path` (slashes for nesting)."""
        self._path.append(path)
        yield
        self._path.pop()

    # --- the interface ------------------------------------------------------------------------------------

    def input(self, name: str, dtype: int, shape: Sequence[Dim]) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, value: str, name: str, shape: Sequence[Dim]) -> None:
        """Make `value`, the result of a node, the float32 graph output `name`."""
        for node in self._nodes:
            for names in (node.input, node.output):
                names[:] = [name if each == value else each for each in names]
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self._nodes, self.name, self._inputs, self._outputs, list(self._weights.values())
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="graphopt-samples",
        )

    # --- weights ------------------------------------------------------------------------------------------

    def weight(self, name: str, *shape: int, spread: float = 1.0, around: float = 0.0) -> str:
        """A float32 parameter of the current module, drawn uniformly from around ± spread."""
        return self.buffer(name, self._random(name, shape, spread, around))

    def buffer(self, name: str, values: np.ndarray) -> str:
        return self._initializer(self._parameter_name(name), values)

    def _initializer(self, name: str, values: np.ndarray) -> str:
        self._weights[name] = numpy_helper.from_array(values, name)
        return name

    def _parameter_name(self, name: str) -> str:
        return ".".join([*self._path, name]).replace("/", ".")

    def _random(self, name: str, shape: Sequence[int], spread: float, around: float = 0.0) -> np.ndarray:
        """Random numbers that are the same on every machine and in every release.

        The legacy generator is used because its stream is frozen, uniform numbers because they need no
        logarithm, and a seed from the name so that a weight does not depend on what else the model holds.
        """
        random = np.random.RandomState(zlib.crc32(f"{self.name}/{self._parameter_name(name)}".encode()))
        return (around + spread * (2 * random.random_sample(shape) - 1)).astype(np.float32)

    # --- nodes --------------------------------------------------------------------------------------------

    def ops(self, op_type: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        name = "/" + "/".join([*self._path, op_type])
        self._used[name] += 1
        if self._used[name] > 1:
            name += f"_{self._used[name] - 1}"
        results = [f"{name}_output_{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(op_type, inputs, results, name, **attributes))
        return results

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        return self.ops(op_type, *inputs, outputs=1, **attributes)[0]

    def constant(self, value: Any, dtype: type[np.generic] = np.float32) -> str:
        return self.op("Constant", value=numpy_helper.from_array(np.asarray(value, dtype)))

    def integers(self, *values: int) -> str:
        """A vector of int64, as Unsqueeze, Slice, Split and Concat take it."""
        return self.constant(values, np.int64)

    def add(self, x: str, number: float) -> str:
        return self.op("Add", x, self.constant(number))

    def multiply(self, x: str, number: float) -> str:
        return self.op("Mul", x, self.constant(number))

    # --- sizes and shapes ---------------------------------------------------------------------------------

    def size(self, x: str, axis: int) -> str:
        """`x.size(axis)`, a scalar."""
        return self.op("Gather", self.op("Shape", x), self.constant(axis, np.int64), axis=0)

    def vector(self, scalar: str) -> str:
        return self.op("Unsqueeze", scalar, self.integers(0))

    def view(self, x: str, *sizes: str | int) -> str:
        """`x.view(sizes)`: a size is a number or a scalar value."""
        parts = [self.vector(size) if isinstance(size, str) else self.integers(size) for size in sizes]
        return self.op("Reshape", x, self.op("Concat", *parts, axis=0))

    def slice(self, x: str, axis: int, start: str, stop: str) -> str:
        """`x[start:stop]` along `axis`; the bounds are vectors of one element."""
        return self.op("Slice", x, start, stop, self.integers(axis), self.integers(1))

    # --- layers -------------------------------------------------------------------------------------------

    def linear(self, x: str, path: str, inputs: int, outputs: int) -> str:
        """`Linear` on a tensor of rank 3 or more.

        The exporter stores the weight transposed, which costs it its name, and adds the bias from the left.
        """
        with self.module(path):
            values = self._random("weight", (inputs, outputs), spread=inputs**-0.5)
            product = self.op("MatMul", x, self._initializer(f"onnx::MatMul_{len(self._nodes)}", values))
            return self.op("Add", self.weight("bias", outputs, spread=0.1), product)

    def linear_2d(self, x: str, path: str, inputs: int, outputs: int) -> str:
        """`Linear` on a matrix: a Gemm."""
        with self.module(path):
            weight = self.weight("weight", outputs, inputs, spread=inputs**-0.5)
            bias = self.weight("bias", outputs, spread=0.1)
            return self.op("Gemm", x, weight, bias, alpha=1.0, beta=1.0, transB=1)

    def embedding(self, ids: str, path: str, count: int, width: int) -> str:
        with self.module(path):
            return self.op("Gather", self.weight("weight", count, width), ids, axis=0)

    def layer_norm(self, x: str, path: str, width: int, epsilon: float) -> str:
        """(x − mean) / sqrt(variance + epsilon) · weight + bias over the last axis."""
        with self.module(path):
            centred = self.op("Sub", x, self.op("ReduceMean", x, axes=[-1]))
            squared = self.op("Pow", centred, self.constant(2.0))
            variance = self.op("ReduceMean", squared, axes=[-1])
            normal = self.op("Div", centred, self.op("Sqrt", self.add(variance, epsilon)))
            scaled = self.op("Mul", normal, self.weight("weight", width, spread=0.2, around=1.0))
            return self.op("Add", scaled, self.weight("bias", width, spread=0.1))
