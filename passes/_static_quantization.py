"""QuantizeLinear and DequantizeLinear around what has integer kernels, scales from observed ranges.

Values stay float32 in the graph's terms (QDQ form): a runtime with integer kernels fuses
``DequantizeLinear -> Conv -> QuantizeLinear`` into one, any other computes the same numbers in float32.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from graphopt.ir import DataType, Model, Node, TensorProtocol, Value
from graphopt.ir.edit import Namer, add_initializer, make_node
from graphopt.ir.provenance import merge_origins
from graphopt.ir.query import attribute, constant_tensor, is_op, only_use, rank, static_shape
from graphopt.passes._dynamic_quantization import WeightPolicy
from graphopt.passes._integer_grid import Affine, Grid, affine, integers, weight_affine
from graphopt.passes._matching import numbers
from graphopt.transform import NoMatch, Ranges

WEIGHTED = ("Conv", "Gemm", "MatMul")
SAME_GRID = frozenset(
    {"Flatten", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze", "DepthToSpace", "SpaceToDepth"}
)
"""Their results are numbers of their first operand, and take its scale."""
OWN_GRID = frozenset({"Add", "AveragePool", "Concat", "GlobalAveragePool"})
"""They have integer kernels for quantised operands; results have scales of their own."""
ABSORBED = ("Relu", "Clip")
"""What an integer kernel does by saturating: the result is quantised after it."""
LARGEST_BIAS = float(1 << 30)


class StaticQuantizer:
    """Quantises the main graph of one model."""

    def __init__(self, model: Model, policy: WeightPolicy, activations: Grid, ranges: Ranges) -> None:
        self.counts: Counter[str] = Counter()
        self.declined: Counter[str] = Counter()
        self._graph = model.graph
        self._policy = policy
        self._grid = activations
        self._ranges = ranges
        self._namer = Namer(model.graph)
        # By a dequantised value its (scale, zero point); by a float value its dequantised one.
        self._parameters: dict[Value, tuple[Value, Value]] = {}
        self._quantised: dict[Value, Value] = {}
        self._weights: dict[tuple[Value, int | None, float], Value] = {}
        self._anchor = model.graph[0] if len(model.graph) else None

    def run(self) -> None:
        """Quantise in graph order, so that the operands of a node are known."""
        for node in list(self._graph):
            if is_op(node, *WEIGHTED):
                self._visit(node, self._weighted(node))
            elif not node.domain and node.op_type in SAME_GRID | OWN_GRID:
                self._visit(node, self._follower(node))

    def _visit(self, node: Node, answer: NoMatch | None) -> None:
        if answer is None:
            self.counts[node.op_type] += 1
        elif answer.reason:
            self.declined[f"{node.op_type}: {answer.reason}"] += 1

    # --- products with weights

    def _weighted(self, node: Node) -> NoMatch | None:
        x, weight = node.inputs[0], node.inputs[1]
        refused = self._policy.reason_against(node, weight)
        if refused is not None or weight is None or x is None:
            return refused or NoMatch("it has no weight")
        if constant_tensor(x) is not None or x.dtype != DataType.FLOAT:
            return NoMatch("its first operand is no float32 activation", x.name)
        axis = self._channel_axis(node, weight)
        if isinstance(axis, NoMatch):
            return axis
        if x not in self._parameters and self._range(x) is None:
            return NoMatch("its operand was not observed", x.name)
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        bias_numbers = None if bias is None else numbers(bias)
        channels = (static_shape(weight) or ())[axis]
        if bias is not None and (bias_numbers is None or bias_numbers.shape != (channels,)):
            return NoMatch("its bias is not one constant per channel", bias.name)
        by = weight_affine(weight, self._policy.grid, axis if self._policy.per_channel else None)
        if by is None:
            return NoMatch("the weight is empty or not finite", weight.name)
        quantised = self._dequantised(x, node)
        x_scale = self._scale_of(quantised)
        if bias_numbers is not None and bias is not None:
            if not np.all(np.isfinite(bias_numbers)):
                return NoMatch("the bias is not finite", bias.name)
            # A channel whose weights are next to nothing gets a scale at which its bias fits into int32.
            needed = np.abs(bias_numbers) / (x_scale * LARGEST_BIAS)
            needed = needed if by.axis is not None else needed.max()
            coarser = np.maximum(by.scale, needed).astype(np.float32)
            by = (
                affine(-coarser * by.grid.high, coarser * by.grid.high, by.grid, by.axis)
                if np.any(coarser > by.scale)
                else by
            )
        node.replace_input_with(0, quantised)
        node.replace_input_with(1, self._weight(weight, by, node))
        if bias is not None and bias_numbers is not None:
            node.replace_input_with(2, self._bias(bias, bias_numbers, by.scale * np.float32(x_scale), node))
        self._quantise_result(self._tail(node))
        return None

    def _channel_axis(self, node: Node, weight: Value) -> int | NoMatch:
        """The axis of the weight with the output channels."""
        if node.op_type == "Conv":
            return 0
        if rank(weight) != 2:
            return NoMatch("the weight is no matrix", weight.name)
        if node.op_type == "MatMul":
            return 1
        plain = float(attribute(node, "alpha", 1.0)) == 1.0 == float(attribute(node, "beta", 1.0))
        if attribute(node, "transA", 0) or not plain:
            return NoMatch("it scales or transposes", node.name)
        return 0 if attribute(node, "transB", 0) else 1

    def _weight(self, weight: Value, by: Affine, node: Node) -> Value:
        kind = by.grid.dtype.name.lower()
        name = self._namer.value(f"{weight.name}/{kind}")
        levels = self._constant(name, integers(weight, by, name))
        scale = self._constant(f"{name}/scale", np.asarray(by.scale))
        point = self._constant(f"{name}/zero_point", np.asarray(by.zero_point, by.grid.dtype.numpy()))
        return self._dequantize(levels, scale, point, node, by.axis)

    def _bias(self, bias: Value, found: np.ndarray, scale: np.ndarray, node: Node) -> Value:
        levels = np.clip(np.rint(found / np.asarray(scale, np.float64)), -(2**31) + 1, 2**31 - 1).astype(
            np.int32
        )
        name = self._namer.value(f"{bias.name}/int32")
        point = self._constant(f"{name}/zero_point", np.zeros(scale.shape, np.int32))
        axis = 0 if scale.ndim else None
        return self._dequantize(
            self._constant(name, levels),
            self._constant(f"{name}/scale", np.asarray(scale)),
            point,
            node,
            axis,
        )

    def _tail(self, node: Node) -> Node:
        """`node`, or the Relu or Clip that alone uses it and that its kernel takes along."""
        user = only_use(node.outputs[0])
        if user is None or user.graph is not node.graph or not is_op(user, *ABSORBED):
            return node
        if node.op_type == "Conv" and all(constant_tensor(v) is not None for v in user.inputs[1:] if v):
            return user
        return node

    # --- what follows

    def _follower(self, node: Node) -> NoMatch | None:
        """Quantise a node whose operands already are."""
        same = node.op_type in SAME_GRID
        data = node.inputs[:1] if same else list(node.inputs)
        if not data or any(v is None or v not in self._parameters for v in data):
            return NoMatch("")
        if any(v.uses() for v in node.outputs[1:]) or node.outputs[0].is_graph_output():
            return NoMatch("its result is an output of the model, or it has a second one", node.name)
        if same:
            scale, point = self._parameters[data[0]]  # type: ignore[index]
            self._insert(node.outputs[0], scale, point)
            return None
        if self._range(node.outputs[0]) is None:
            return NoMatch("its result was not observed", node.name)
        self._quantise_result(node)
        return None

    # --- values

    def _range(self, value: Value) -> tuple[float, float] | None:
        found = self._ranges.get(value.name or "")
        return None if found is None else (found.low, found.high)

    def _scale_of(self, dequantised: Value) -> float:
        scale = numbers(self._parameters[dequantised][0])
        assert scale is not None
        return float(scale)

    def _dequantised(self, value: Value, user: Node) -> Value:
        """`value` after QuantizeLinear and DequantizeLinear, for quantised users only."""
        if value in self._parameters:
            return value
        if value not in self._quantised:
            self._quantised[value] = self._pair(value, *self._scales(value), user)
        return self._quantised[value]

    def _quantise_result(self, node: Node) -> None:
        """Quantise the result of `node` for all of its users, unless it is an output of the model."""
        value = node.outputs[0]
        if not value.is_graph_output() and self._range(value) is not None:
            self._insert(value, *self._scales(value))

    def _insert(self, value: Value, scale: Value, point: Value) -> None:
        users = list(value.uses())
        new = self._pair(value, scale, point, value.producer())
        for use in users:
            use.node.replace_input_with(use.idx, new)
        self._quantised[value] = new

    def _scales(self, value: Value) -> tuple[Value, Value]:
        found = self._range(value)
        assert found is not None
        by = affine(np.asarray(found[0]), np.asarray(found[1]), self._grid)
        stem = self._namer.value(f"{value.name}/{by.grid.dtype.name.lower()}")
        point = np.asarray(by.zero_point, by.grid.dtype.numpy())
        return self._constant(f"{stem}/scale", np.asarray(by.scale)), self._constant(
            f"{stem}/zero_point", point
        )

    def _pair(self, value: Value, scale: Value, point: Value, near: Node | None) -> Value:
        producer = value.producer()
        stem = f"{value.name}/quantize"
        quantize = make_node(
            "QuantizeLinear",
            [value, scale, point],
            name=self._namer.node(stem),
            output_names=[self._namer.value(stem)],
        )
        quantize.outputs[0].dtype, quantize.outputs[0].shape = self._grid.dtype, value.shape
        origin = producer or near
        if origin is not None:
            merge_origins([quantize], [origin])
        if producer is not None:
            self._graph.insert_after(producer, quantize)
        else:
            assert self._anchor is not None
            self._graph.insert_before(self._anchor, quantize)
        new = self._dequantize(quantize.outputs[0], scale, point, None)
        self._graph.insert_after(quantize, new.producer())  # type: ignore[arg-type]
        if origin is not None:
            merge_origins([new.producer()], [origin])  # type: ignore[list-item]
        self._parameters[new] = (scale, point)
        return new

    def _dequantize(
        self, levels: Value, scale: Value, point: Value, before: Node | None, axis: int | None = None
    ) -> Value:
        stem = f"{levels.name}/dequantize"
        node = make_node(
            "DequantizeLinear",
            [levels, scale, point],
            {"axis": axis},
            name=self._namer.node(stem),
            output_names=[self._namer.value(stem)],
        )
        node.outputs[0].dtype, node.outputs[0].shape = DataType.FLOAT, levels.shape
        if before is not None:
            self._graph.insert_before(before, node)
            merge_origins([node], [before])
        return node.outputs[0]

    def _constant(self, name: str, data: np.ndarray | TensorProtocol) -> Value:
        return add_initializer(self._graph, name, data)
