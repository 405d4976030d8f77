"""widen-scalars: arithmetic on sizes in vectors of one element, where they are made and wanted as such."""

from __future__ import annotations

import dataclasses

import numpy as np

from graphopt.ir import DataType, Node, Value
from graphopt.ir.query import attribute, constant_tensor, ints, is_op, rank, scalar, static_shape
from graphopt.passes._axes import known_size
from graphopt.passes._matching import attributes_of, produced_by
from graphopt.transform import NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

MAX_DEPTH = 4
MAX_USES = 8

_ARITHMETIC = frozenset({"Add", "Div", "Max", "Min", "Mod", "Mul", "Sub"})
_INDEX_TYPES = frozenset({DataType.INT32, DataType.INT64})


def _as_vector(node: Node) -> bool:
    """Whether `node` makes a vector of one element of a scalar."""
    if is_op(node, "Unsqueeze"):
        axes = ints(node.inputs[1])
    else:
        axes = ints(node.inputs[1]) if is_op(node, "Reshape") else None
        axes = (0,) if axes in ((1,), (-1,)) else None
    return axes in ((0,), (-1,)) and rank(node.inputs[0]) == 0


def _only_widened(value: Value, depth: int = MAX_DEPTH) -> bool:
    """Whether all users of `value` make vectors of it, or calculate what only makes vectors in turn."""
    uses = value.uses()
    if value.is_graph_output() or len(uses) > MAX_USES or depth == 0:
        return False
    for use in uses:
        node = use.node
        if _as_vector(node):
            continue
        if not _is_arithmetic(node) or not _only_widened(node.outputs[0], depth - 1):
            return False
    return True


def _is_arithmetic(node: Node | None) -> bool:
    return node is not None and is_op(node, *_ARITHMETIC) and rank(node.outputs[0]) == 0


Made = dict[Value, Value | None]


def _widened(value: Value | None, rewriter: Rewriter, made: Made, depth: int = MAX_DEPTH) -> Value | None:
    """`value` as a vector of one element, by no node that only changes its rank; None if impossible."""
    if value is not None and value not in made:
        made[value] = _widen(value, rewriter, made, depth)
    return None if value is None else made[value]


def _widen(value: Value, rewriter: Rewriter, made: Made, depth: int) -> Value | None:
    number = scalar(value)
    if depth == 0:
        return None
    if number is not None and constant_tensor(value) is not None:
        return value  # broadcast by the other operand
    node = value.producer()
    if node is None:
        return None
    if is_op(node, "Squeeze"):
        source = node.inputs[0]
        return source if static_shape(source) == (1,) else None
    if is_op(node, "Gather"):
        source, index = node.inputs[0], scalar(node.inputs[1])
        size = known_size(source, 0)
        if index is None or rank(source) != 1 or size is None or not -size <= index < size:
            return None
        position = int(index) % size
        shape = produced_by(source, "Shape")
        if shape is None or shape.inputs[0] is None or shape.inputs[0].shape is None:
            return rewriter.op("Gather", source, rewriter.const(np.array([position], np.int64), "index"))
        begin = range(len(shape.inputs[0].shape))[int(attribute(shape, "start", 0)) :].start
        return rewriter.op("Shape", shape.inputs[0], start=begin + position, end=begin + position + 1)
    if not _is_arithmetic(node) or not _only_widened(value):
        return None
    operands = [_widened(v, rewriter, made, depth - 1) for v in node.inputs]
    if any(v is None for v in operands) or all(rank(v) == 0 for v in operands):
        return None
    return rewriter.op(node.op_type, *operands, **attributes_of(node))


@rule("Unsqueeze", "Reshape")
def vector_of_scalar(node: Node, rewriter: Rewriter) -> Replacement:
    """Unsqueeze(f(Gather(Shape(x), i), c)) = f(Shape(x, i, i + 1), c), for arithmetic f on integers."""
    value = node.inputs[0]
    if value is None or value.dtype not in _INDEX_TYPES or not _as_vector(node):
        return NoMatch("it makes no vector of one integer")
    if constant_tensor(value) is not None:
        return NoMatch("the scalar is a constant")
    result = _widened(value, rewriter, {})
    if result is None or static_shape(result) != (1,):
        return NoMatch("the scalar is used as such, or not read from a vector", value.name)
    return result


@dataclasses.dataclass(frozen=True)
class WidenScalars(RulePass):
    """Read sizes as vectors of one element, and calculate with those, where only vectors are wanted.

    given:  float[2, 3, N] x
    before: y = Unsqueeze(Mul(Gather(Shape(x), 2), 4), [0])
    after:  y = Mul(Shape<start = 2, end = 3>(x), 4)

    A scalar that anything but such arithmetic uses stays, and with it what it is made of.

    Spec: https://onnx.ai/onnx/operators/onnx__Shape.html
    """

    rules = (vector_of_scalar,)
