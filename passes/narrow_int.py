"""narrow-int: index arithmetic in int32 where no number can leave its range."""

from __future__ import annotations

import dataclasses

import numpy as np

from graphopt.ir import DataType, LazyTensor, Model, Node, TensorProtocol, Value, tensor
from graphopt.ir.query import constant_tensor, is_op, walk_graphs
from graphopt.passes._retype import Converter, Retyper
from graphopt.passes._signature import typed_operands
from graphopt.passes._value_ranges import Ranges, index_range
from graphopt.transform import Changes, Exactness, Pass

_ALL, _DATA = None, (0,)
# Operators that compute with int64 alike in int32, and which of their operands are numbers to compute with
# (the others are shapes and axes, which are int64 by definition). Range stays: ONNX Runtime propagates
# shapes as int64 into its operands and then refuses a mixture of types.
ARITHMETIC: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys(
        ("Abs", "Add", "Concat", "Div", "Identity", "Max", "Min", "Mod", "Mul", "Neg", "Sub"), _ALL
    ),
    **dict.fromkeys(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Clip"), _ALL),
    **dict.fromkeys(("Expand", "Flatten", "Gather", "GatherElements"), _DATA),
    **dict.fromkeys(("Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze"), _DATA),
    "Where": (1, 2),
}
INDEX_OPERAND = {"Gather": 1, "GatherElements": 1, "ScatterElements": 1}
"""Operands that index along ``axis`` of the first one and may be int32 or int64."""


@dataclasses.dataclass(frozen=True)
class NarrowInt(Pass):
    """Compute with indices in int32 where they provably fit, and index with them.

    given:  float[2, 4] x; float[5, 3] table
    before: y = Gather(table, Add(ArgMax<axis = -1, keepdims = 0>(x), 1))
    after:  y = Gather(table, Add(Cast<to = 6>(ArgMax<axis = -1, keepdims = 0>(x)), int32 1))

    A number fits by what is known of constants, static dimensions, small integer types and the
    dimension that is indexed. A chain is narrowed only if nothing that needs int64 reads it.

    Options:
        floats: also compute in float32 instead of float64: lossy, and infinite beyond float32's range.
    """

    floats: bool = False

    exactness = Exactness.BIT_EXACT

    def __post_init__(self) -> None:
        if self.floats:
            object.__setattr__(self, "exactness", Exactness.LOSSY)

    def run(self, model: Model) -> Changes:
        """Narrow integers, then, if asked, float64."""
        changes = Changes()
        _narrow_integers(model, changes)
        if self.floats:
            _narrow_doubles(model, changes)
        return changes


def _narrow_integers(model: Model, changes: Changes) -> None:
    nodes = [n for g in walk_graphs(model.graph) for n in g]
    ranges = Ranges(model)
    chosen = _narrowable(nodes, ranges, changes)
    retyper = Retyper(model, DataType.INT64, DataType.INT32, _converter(DataType.INT32))
    for node in nodes:
        if node in chosen:
            operands = _numbers(node)
            outputs = [i for i, v in enumerate(node.outputs) if v.dtype == DataType.INT64]
            retyper.retype(node, operands, outputs)
            changes.counts[node.op_type] += 1
        index = _index_operand(node, ranges)
        if index is not None:
            retyper.retype(node, [index], [])
            changes.counts["index operand"] += 1
    retyper.clean_up()


def _numbers(node: Node) -> list[int]:
    """Positions of the int64 operands that `node` computes with."""
    positions = ARITHMETIC[node.op_type]
    return [
        i
        for i, v in enumerate(node.inputs)
        if v is not None and v.dtype == DataType.INT64 and (positions is None or i in positions)
    ]


def _narrowable(nodes: list[Node], ranges: Ranges, changes: Changes) -> set[Node]:
    """The nodes to compute in int32: all their numbers fit, and so does everything that reads them."""
    chosen: set[Node] = set()
    for node in reversed(nodes):
        if node.domain or node.op_type not in ARITHMETIC or any(v.dtype is None for v in node.outputs):
            continue
        operands = _numbers(node)
        if not operands:
            continue
        results = [v for v in node.outputs if v.dtype == DataType.INT64]
        involved = [*(node.inputs[i] for i in operands), *results]
        if not all(ranges.fits(v) for v in involved):
            changes.declined[f"{node.op_type}: a number may leave the range of int32"] += 1
        elif not all(_reads_int32(v, chosen, ranges) for v in results):
            changes.declined[f"{node.op_type}: its result is read as int64"] += 1
        else:
            chosen.add(node)
    return {node for node in chosen if _is_worth_it(node, chosen)}


def _is_worth_it(node: Node, chosen: set[Node]) -> bool:
    """Whether `node` gives numbers, or compares some that are narrow already."""
    if any(v.dtype == DataType.INT64 for v in node.outputs):
        return True
    sources = [v.producer() for i in _numbers(node) if (v := node.inputs[i]) and constant_tensor(v) is None]
    return any(source in chosen for source in sources)


def _reads_int32(value: Value, chosen: set[Node], ranges: Ranges) -> bool:
    """Whether `value` has users and all of them can read it in int32."""
    if value.is_graph_output() or not value.uses():
        return False
    for user, index in value.uses():
        as_number = user in chosen and index in _numbers(user)
        as_index = _index_operand(user, ranges) == index
        if not (as_number or as_index or is_op(user, "Cast")):
            return False
    return True


def _index_operand(node: Node, ranges: Ranges) -> int | None:
    """The position of an int64 operand that indexes a dimension of known, small extent."""
    position = INDEX_OPERAND.get(node.op_type) if not node.domain else None
    if position is None or len(node.inputs) <= position:
        return None
    value = node.inputs[position]
    if value is None or value.dtype != DataType.INT64:
        return None
    # An index beyond the dimension is an error in the model, so the dimension bounds every index.
    return position if index_range(node) is not None or ranges.fits(value) else None


def _narrow_doubles(model: Model, changes: Changes) -> None:
    """Make float32 of float64 wherever the schema has it; the interface and bodies' interfaces stay."""
    retyper = Retyper(model, DataType.DOUBLE, DataType.FLOAT, _converter(DataType.FLOAT))

    def visit(node: Node) -> None:
        if is_op(node, "Cast"):
            return  # reads either type and gives the type that it names
        operands = typed_operands(node, model, DataType.DOUBLE, retyper.retyped)
        if operands is None or not operands.allows(DataType.FLOAT):
            retyper.restore(node)
            return
        touched = operands.outputs or any(node.inputs[i] not in retyper.retyped for i in operands.inputs)
        retyper.retype(node, operands.inputs, operands.outputs)
        retyper.restore(node, but=operands.inputs)
        if touched:
            changes.counts[f"{node.op_type} in float32"] += 1

    retyper.run(visit)


def _converter(to: DataType) -> Converter:
    """Conversion of a constant to `to`, done when its numbers are read."""

    def convert(wide: TensorProtocol, name: str) -> TensorProtocol:
        return LazyTensor(
            lambda: tensor(_converted(wide.numpy(), to), name=name),
            dtype=to,
            shape=wide.shape,  # type: ignore[arg-type]
            name=name,
        )

    return convert


def _converted(array: np.ndarray, to: DataType) -> np.ndarray:
    with np.errstate(over="ignore"):
        return array.astype(to.numpy())
