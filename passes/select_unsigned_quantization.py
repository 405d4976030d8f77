"""select-unsigned-quantization: int8 activations become uint8, which ONNX Runtime's kernels take."""

from __future__ import annotations

import dataclasses

import numpy as np

from graphopt.ir import DataType, LazyTensor, Model, Node, TensorProtocol, Value, tensor
from graphopt.ir.edit import Namer, add_initializer
from graphopt.ir.query import attribute, constant_tensor, is_op, static_shape, walk_graphs
from graphopt.passes._retype import Retyper
from graphopt.transform import Changes, Exactness, NoMatch, Pass

_ZERO = 128
"""What an int8 is moved by to be a uint8."""

_MOVES = frozenset(
    {
        *("DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice"),
        *("SpaceToDepth", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
    }
)
_OF_ONE_TYPE = frozenset({"Add", "Mul", "Concat", "Where"})
"""Operators whose quantised kernels take operands of one type. Those of products take int8 weights."""

Group = list[tuple[Node, list[int], list[int]]]
"""Nodes, each with its inputs and outputs that are to be uint8."""


@dataclasses.dataclass(frozen=True)
class SelectUnsignedQuantization(Pass):
    """Quantise activations to uint8 in the place of int8, every number and zero point 128 higher.

    given:  float[2, 3] x; z = int8 3; u = uint8 131
    before: y = DequantizeLinear(QuantizeLinear(x, 0.5, z), 0.5, z)
    after:  y = DequantizeLinear(QuantizeLinear(x, 0.5, u), 0.5, u)

    ONNX Runtime does so itself on x86 where one QuantizeLinear meets one DequantizeLinear, and leaves the
    other pairs and the constants; an operator with both types around it then runs in float32. Quantised
    networks take 0.46 to 0.71 of the time (BERT 0.46, ResNet 0.53, ViT 0.64, U-Net 0.65, MobileNet 0.71).
    The numbers are the same; but where more is fused, its integer kernels round more numbers, by one step.
    Weights of products stay int8.

    It is for ONNX Runtime's CPU provider alone: TensorRT takes int8 only.

    Spec: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html
    """

    exactness = Exactness.BIT_EXACT

    def run(self, model: Model) -> Changes:
        """Retype what lies between each QuantizeLinear and its DequantizeLinears, then the constants."""
        changes = Changes()
        work = _Work(model)
        nodes = [node for graph in walk_graphs(model.graph) for node in graph]
        for node in nodes:
            if is_op(node, "QuantizeLinear") and node.outputs[0].dtype == DataType.INT8:
                work.apply(_activation(node), "activation", changes)
        if changes.modified:
            for node in nodes:
                if is_op(node, "DequantizeLinear") and _is_int8_constant(node.inputs[0]):
                    work.apply(_constant(node), "constant", changes)
        work.retyper.clean_up()
        return changes


class _Work:
    """Makes groups of nodes work on uint8."""

    def __init__(self, model: Model) -> None:
        self.retyper = Retyper(model, DataType.INT8, DataType.UINT8, _shifted)
        self._model = model
        self._namer = Namer(model.graph)

    def apply(self, group: Group | NoMatch, what: str, changes: Changes) -> None:
        """Retype `group`, or note why not."""
        if isinstance(group, NoMatch):
            changes.declined[f"{what}: {group.reason}"] += 1
            return
        for node, inputs, outputs in group:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear") and _zero_point(node) is None:
                self._add_zero_point(node)
                inputs = [i for i in inputs if i != 2]
            self.retyper.retype(node, inputs, outputs)
        changes.counts[what] += 1

    def _add_zero_point(self, node: Node) -> None:
        """Give `node`, which has none, the zero point that an int8 of 0 becomes."""
        shape = static_shape(node.inputs[1])
        assert shape is not None
        name = self._namer.value(f"{node.name}/uint8_zero")
        zero = add_initializer(self._model.graph, name, np.full(shape, _ZERO, np.uint8))
        node.resize_inputs(3)
        node.replace_input_with(2, zero)
        node.attributes.pop("output_dtype", None)


def _activation(quantize: Node) -> Group | NoMatch:
    """What lies between `quantize` and the DequantizeLinears of what it makes, both included."""
    if constant_tensor(quantize.inputs[0]) is not None:
        return NoMatch("what is quantised is constant", quantize.name)
    refusal = _why_not(quantize)
    if refusal is not None:
        return refusal
    readers = _readers(quantize.outputs[0])
    return readers if isinstance(readers, NoMatch) else [(quantize, [2], [0]), *readers]


def _readers(value: Value) -> Group | NoMatch:
    """Everything that reads the int8 `value`, up to the DequantizeLinears; they must end all ways."""
    found: Group = []
    waiting = [value]
    while waiting:
        moved = waiting.pop()
        if moved.is_graph_output() or not moved.uses():
            return NoMatch("its int8 is a result", moved.name)
        for node, index in moved.uses():
            if index != 0 or not is_op(node, "DequantizeLinear", *_MOVES):
                return NoMatch(f"{node.op_type} reads it as int8", node.name)
            if node.op_type == "DequantizeLinear":
                refusal = _why_not(node)
                if refusal is not None:
                    return refusal
                found.append((node, [0, 2], []))
            else:
                found.append((node, [0], [0]))
                waiting.append(node.outputs[0])
    return found


def _constant(dequantize: Node) -> Group | NoMatch:
    """`dequantize` of a constant, if that is an operand beside activations and no weight of a product."""
    if len(dequantize.inputs[0].uses() if dequantize.inputs[0] is not None else ()) != 1:
        return NoMatch("it is used elsewhere", dequantize.name)
    refusal = _why_not(dequantize)
    if refusal is not None:
        return refusal
    result = dequantize.outputs[0]
    if result.is_graph_output() or not result.uses():
        return NoMatch("it is a result", result.name)
    for node, index in result.uses():
        moves = index == 0 and is_op(node, *_MOVES)
        if not (is_op(node, *_OF_ONE_TYPE) or (moves and _is_quantized(node.outputs[0]))):
            return NoMatch(f"{node.op_type} takes int8 beside uint8, or float", node.name)
    return [(dequantize, [0, 2], [])]


def _is_quantized(value: Value) -> bool:
    """Whether `value` is only quantised."""
    uses = value.uses()
    return bool(uses) and not value.is_graph_output() and all(is_op(u.node, "QuantizeLinear") for u in uses)


def _is_int8_constant(value: Value | None) -> bool:
    return value is not None and value.dtype == DataType.INT8 and constant_tensor(value) is not None


def _zero_point(node: Node) -> Value | None:
    return node.inputs[2] if len(node.inputs) > 2 else None


def _why_not(node: Node) -> NoMatch | None:
    """Why the zero point of `node` cannot be one of uint8, or None if it can."""
    zero = _zero_point(node)
    if attribute(node, "output_dtype", 0) and is_op(node, "QuantizeLinear") and zero is not None:
        return NoMatch("it names its type twice", node.name)
    if zero is not None and constant_tensor(zero) is None:
        return NoMatch("the zero point is not constant", node.name)
    if zero is None and static_shape(node.inputs[1]) is None:
        return NoMatch("the shape of the scale is not known", node.name)
    return None


def _shifted(signed: TensorProtocol, name: str) -> TensorProtocol:
    """`signed`, 128 higher, made when its numbers are read."""
    return LazyTensor(
        lambda: tensor(signed.numpy().view(np.uint8) ^ np.uint8(_ZERO), name=name),
        dtype=DataType.UINT8,
        shape=signed.shape,  # type: ignore[arg-type]
        name=name,
    )
