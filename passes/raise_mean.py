"""raise-mean: a sum divided by the number of its elements is ReduceMean."""

from __future__ import annotations

import dataclasses

from graphopt.ir import Node
from graphopt.ir.query import attribute, is_op
from graphopt.passes._matching import is_float, made_for, scalar_factor
from graphopt.passes._moments import counts_elements, reduced_axes
from graphopt.transform import Exactness, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement


@rule("Div", "Mul")
def mean(node: Node, rewriter: Rewriter) -> Replacement:
    """ReduceSum(x) / n = ReduceMean(x), for the number n of elements that are summed."""
    a, b = node.inputs
    value, number = (a, scalar_factor(b, a))
    if number is None and is_op(node, "Mul"):
        value, number = b, scalar_factor(a, b)
    if not number:
        return NoMatch("it is not divided by a scalar")
    reduce = made_for(value, node, "ReduceSum")
    if isinstance(reduce, NoMatch):
        return reduce
    x, axes = reduce.inputs[0], reduced_axes(reduce)
    if x is None or axes is None or not is_float(x):
        return NoMatch("the axes are not known, or the type is no float", reduce.name)
    if not counts_elements(number if is_op(node, "Mul") else 1 / number, x, axes):
        return NoMatch("the divisor is not the known number of summed elements", node.name)
    given = reduce.inputs[1] if len(reduce.inputs) > 1 else None
    return rewriter.op("ReduceMean", x, given, keepdims=attribute(reduce, "keepdims"))


@dataclasses.dataclass(frozen=True)
class RaiseMean(RulePass):
    """Recognise means that are written out as a sum and a division.

    given:  float[N, 768] x
    before: y = Div(ReduceSum(x, [-1]), 768.0)
    after:  y = ReduceMean(x, [-1])

    The reduced sizes are known and the divisor is their product, or its inverse rounded correctly.

    Spec: https://onnx.ai/onnx/operators/onnx__ReduceMean.html (axes as an input since version 18)
    """

    exactness = Exactness.REASSOCIATES
    rules = (mean,)
