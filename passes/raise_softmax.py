"""raise-softmax: exponentials divided by their sum become Softmax, and its logarithm LogSoftmax."""

from __future__ import annotations

import dataclasses

import numpy as np

from graphopt.ir import Node, Value
from graphopt.ir.query import is_op, scalar
from graphopt.passes._matching import is_float, leaves_the_pattern, produced_by, scalar_factor, split_constant
from graphopt.passes._moments import Moments, aligned, reduced_axes
from graphopt.transform import Exactness, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement


@rule("Div", "Mul")
def softmax(node: Node, rewriter: Rewriter) -> Replacement:
    """e / sum(e) = Softmax(x), for e = exp(x - max(x))."""
    numerator, denominator = node.inputs
    seen = Moments()
    if is_op(node, "Mul"):
        inverse = produced_by(denominator, "Reciprocal")
        if inverse is None:
            numerator, denominator = denominator, numerator
            inverse = produced_by(denominator, "Reciprocal")
        if inverse is None:
            return NoMatch("no reciprocal among the factors")
        seen.pattern.append(inverse)
        denominator = inverse.inputs[0]
    exponential = produced_by(numerator, "Exp")
    if exponential is None:
        return NoMatch("what is divided is no exponential")
    found = _sum_of(denominator, exponential, seen)
    if isinstance(found, NoMatch):
        return found
    if not aligned(denominator, found[0], (found[1],)):
        return NoMatch("the sum is not one number for each slice", node.name)
    return _raised("Softmax", node, *found, seen, rewriter)


@rule("Sub")
def log_softmax(node: Node, rewriter: Rewriter) -> Replacement:
    """d - log(sum(exp(d))) = LogSoftmax(x), for d = x - max(x)."""
    shifted, logarithm = node.inputs
    seen = Moments()
    log = seen.through_views(logarithm)
    if log is None or not is_op(log, "Log"):
        return NoMatch("no logarithm is subtracted")
    seen.pattern.append(log)
    exponentials = shifted.consumers() if shifted is not None and len(shifted.uses()) == 2 else ()
    exponential = next((user for user in exponentials if is_op(user, "Exp")), None)
    if exponential is None:
        return NoMatch("it is not the logarithm of the sum of the exponentials of the same value")
    found = _sum_of(log.inputs[0], exponential, seen)
    if isinstance(found, NoMatch):
        return found
    if not aligned(logarithm, found[0], (found[1],)):
        return NoMatch("the logarithm is not one number for each slice", log.name)
    return _raised("LogSoftmax", node, *found, seen, rewriter)


def _sum_of(total: Value | None, exponential: Node, seen: Moments) -> tuple[Value, int] | NoMatch:
    """(x, axis) if `total` is the sum of `exponential`, which is ``exp(x - max(x))``, over one axis."""
    reduce = seen.through_views(total)
    if reduce is None or not is_op(reduce, "ReduceSum") or reduce.inputs[0] is not exponential.outputs[0]:
        return NoMatch("it is not divided by the sum of the same exponentials", exponential.name)
    axes = reduced_axes(reduce)
    difference = produced_by(exponential.inputs[0], "Sub")
    if axes is None or len(axes) != 1:
        return NoMatch("the sum is not over one known axis", reduce.name)
    if difference is None:
        # Without it the exponentials overflow where Softmax does not: another answer.
        return NoMatch("the largest value is not subtracted", exponential.name)
    x, largest = difference.inputs
    peak = seen.through_views(largest)
    if peak is not None and is_op(peak, "Max"):
        seen.pattern.append(peak)
        peak = seen.through_views(_at_least_minus_infinity(peak))
    if x is None or peak is None or not is_op(peak, "ReduceMax") or peak.inputs[0] is not x:
        return NoMatch("what is subtracted is not the largest of the same values", difference.name)
    if reduced_axes(peak) != axes or not aligned(largest, x, axes):
        return NoMatch("the largest value is of other axes than the sum", peak.name)
    seen.pattern += [reduce, exponential, difference, peak]
    return x, axes[0]


def _at_least_minus_infinity(node: Node) -> Value | None:
    """v of ``max(v, -inf)``, which is v."""
    operands = split_constant(node)
    if operands is None or scalar(operands[1]) != -np.inf:
        return None
    return operands[0] if scalar_factor(operands[1], operands[0]) is not None else None


def _raised(
    op_type: str, node: Node, x: Value, axis: int, seen: Moments, rewriter: Rewriter
) -> Value | NoMatch:
    if not is_float(x):
        return NoMatch("not of a float type", x.name)
    if (odd := seen.out_of_place(x, (axis,))) is not None:
        return NoMatch("a sum or largest value is not one number for each slice", odd.name)
    if (outside := leaves_the_pattern(seen.pattern, node)) is not None:
        return NoMatch("an intermediate value is used elsewhere", outside.name)
    if any(inner.graph is not node.graph for inner in seen.pattern):
        return NoMatch("the pattern spans two graphs", node.name)
    return rewriter.op(op_type, x, axis=axis - len(x.shape or ()))


@dataclasses.dataclass(frozen=True)
class RaiseSoftmax(RulePass):
    """Recognise Softmax and LogSoftmax that are written out in exponentials and sums.

    given:  float[N, 8] x
    before: e = Exp(Sub(x, ReduceMax(x, [-1]))); y = Div(e, ReduceSum(e, [-1]))
    after:  y = Softmax(x)

    The largest value must be subtracted, or the exponentials overflow where Softmax does not. Log(Softmax(x))
    stays: it is minus infinity where LogSoftmax is finite. ReduceMax and ReduceSum are over the same one
    axis, may be reshaped on the way, and nothing in between is used elsewhere.

    Spec: https://onnx.ai/onnx/operators/onnx__Softmax.html (since version 13)
    """

    exactness = Exactness.REASSOCIATES
    rules = (softmax, log_softmax)
