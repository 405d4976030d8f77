"""Rules of simplify-masks about positions, which count up from zero."""

from __future__ import annotations

from graphopt.ir import Node, Value
from graphopt.ir.query import constant, is_op, same_shape, scalar
from graphopt.passes._matching import made_for, produced_by, scalar_factor
from graphopt.transform import NoMatch, Rewriter, rule
from graphopt.transform.rule import Replacement

MAX_MOVES = 6
MAX_USERS = 256


def _is_true_throughout(value: Value | None) -> bool:
    """Whether `value` compares positions, which are never negative, with a number that is not positive."""
    test = produced_by(value, "GreaterOrEqual", "Greater", "LessOrEqual", "Less")
    if test is None:
        return False
    large, small = test.inputs if test.op_type.startswith("Greater") else test.inputs[::-1]
    bound = scalar_factor(small, large)
    if bound is None or bound > 0 or (bound == 0 and not test.op_type.endswith("OrEqual")):
        return False
    return _is_position(large)


def _is_position(value: Value | None) -> bool:
    """Whether `value` is a Range from zero or more upward, in whatever shape."""
    for _ in range(MAX_MOVES):
        counted = produced_by(value, "Range")
        if counted is not None:
            start, step = scalar(counted.inputs[0]), scalar(counted.inputs[2])
            return isinstance(start, int) and isinstance(step, int) and start >= 0 and step > 0
        moved = produced_by(value, "Expand", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
        value = None if moved is None else moved.inputs[0]
    return False


@rule("And")
def and_with_truth(node: Node, _: Rewriter) -> Replacement:
    """And(position >= 0, m) = m, if m has the shape of the result."""
    for truth, mask in (node.inputs, node.inputs[::-1]):
        if _is_true_throughout(truth) and mask is not None:
            if same_shape(mask.shape, node.outputs[0].shape):
                return mask
            return NoMatch("the other operand would broadcast it", mask.name)
    return NoMatch("no operand is true throughout")


@rule("Where")
def where_of_broadcast_truth(node: Node, rewriter: Rewriter) -> Replacement:
    """x + Where(And(position >= 0, m), a, b) = x + Where(m, a, b), where x broadcasts m anyway."""
    both = made_for(node.inputs[0], node, "And")
    if isinstance(both, NoMatch):
        return both
    masks = [m for t, m in (both.inputs, both.inputs[::-1]) if _is_true_throughout(t)]
    if not masks or masks[0] is None:
        return NoMatch("no operand of the And is true throughout", both.name)
    if any(
        constant(v, max_elements=1) is None or scalar_factor(v, masks[0]) is None for v in node.inputs[1:]
    ):
        return NoMatch("it does not choose between two numbers", node.name)
    result = node.outputs[0]
    if result.is_graph_output() or len(result.uses()) > MAX_USERS:
        return NoMatch("its shape is seen outside, or it has very many users", result.name)
    for use in result.uses():
        other = use.node.inputs[1 - use.idx] if is_op(use.node, "Add", "Mul", "Sub") else None
        if other is None or other is result or not same_shape(other.shape, use.node.outputs[0].shape):
            return NoMatch("a user sees its shape", use.node.name)
    return rewriter.op("Where", masks[0], *node.inputs[1:])


POSITION_RULES = (and_with_truth, where_of_broadcast_truth)
