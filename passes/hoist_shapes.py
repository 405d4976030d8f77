"""hoist-shapes: ask for the shape of what a value is made of, where nothing else needs the value."""

from __future__ import annotations

import dataclasses

from graphopt.ir import Node, Value
from graphopt.ir.query import attribute, constant_tensor, ints, is_op, same_dim
from graphopt.passes.eliminate_expands import BROADCASTING, UNARY
from graphopt.transform import NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

MAX_USES = 16
"""A value with more users is not asked whether all of them are Shapes."""

_KEEPING = UNARY | BROADCASTING | {"Identity", "Expand"}


@rule("Shape")
def shape_of_elementwise(node: Node, rewriter: Rewriter) -> Replacement:
    """Shape(f(x, y)) = Shape(x), if x has those axes and f(x, y) serves its shape only."""
    value = node.inputs[0]
    producer = None if value is None else value.producer()
    if value is None or value.shape is None or producer is None or producer.graph is not node.graph:
        return NoMatch("the rank is not known, or nothing makes it")
    if not is_op(producer, "Unsqueeze", *_KEEPING):
        return NoMatch("what makes it does not keep shapes", producer.name)
    if value.is_graph_output() or len(value.uses()) > MAX_USES:
        return NoMatch("the value is used elsewhere, too", value.name)
    if not all(is_op(use.node, "Shape") for use in value.uses()):
        return NoMatch("the value is used elsewhere, too", value.name)
    count = len(value.shape)
    span = range(count)[attribute(node, "start", 0) : attribute(node, "end")]
    if not span:
        return NoMatch("it asks for no axis", node.name)
    if is_op(producer, "Unsqueeze"):
        return _before_unsqueeze(node, producer, span, count, rewriter)
    operands = producer.inputs[:1] if is_op(producer, "Expand") else producer.inputs
    for x in operands:
        if x is None or x.shape is None or constant_tensor(x) is not None:
            continue
        shift = count - len(x.shape)
        if span[0] < shift:
            continue
        if all(same_dim(x.shape.dims[i - shift], value.shape.dims[i]) for i in span):
            return _shape(x, span[0] - shift, span[-1] + 1 - shift, rewriter)
    return NoMatch("no operand has all those axes", producer.name)


def _before_unsqueeze(node: Node, producer: Node, span: range, count: int, rewriter: Rewriter) -> Replacement:
    axes, x = ints(producer.inputs[1]), producer.inputs[0]
    if axes is None or x is None:
        return NoMatch("the axes are not constant", producer.name)
    new = {a % count for a in axes}
    if new & set(span):
        return NoMatch("it asks for an axis that is new", producer.name)
    start = span[0] - sum(a < span[0] for a in new)
    return _shape(x, start, start + len(span), rewriter)


def _shape(x: Value, start: int, end: int, rewriter: Rewriter) -> Value:
    assert x.shape is not None
    whole = start == 0 and end == len(x.shape)
    return rewriter.op("Shape", x) if whole else rewriter.op("Shape", x, start=start, end=end)


@dataclasses.dataclass(frozen=True)
class HoistShapes(RulePass):
    """Take a Shape of an operand, where the result is computed for its shape only.

    given:  float[N, 4] x; float[4] z
    before: y = Shape(Max(x, z))
    after:  y = Shape(x)

    Spec: https://onnx.ai/onnx/operators/onnx__Shape.html
    """

    rules = (shape_of_elementwise,)
