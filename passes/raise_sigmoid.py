"""raise-sigmoid: functions made of exponentials become Sigmoid, Mish, Softplus and Softsign."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from graphopt.ir import DataType, Node, Value
from graphopt.ir.query import is_op
from graphopt.passes._matching import (
    is_activation_type,
    is_float,
    limits,
    made_for,
    numpy_dtype,
    produced_by,
    scalar_factor,
    split_constant,
)
from graphopt.passes._quotients import quotient
from graphopt.transform import Exactness, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

MISH_OPSET = 18
MAGNIFYING = ("Log", "Reciprocal", "Div", "Pow", "Sqrt")
"""What makes much of a sigmoid's last digits: runtimes give small ones with an absolute error only."""


@rule("Reciprocal", "Div", "Mul")
def sigmoid(node: Node, rewriter: Rewriter) -> Replacement:
    """a / (1 + exp(-x)) = a * Sigmoid(x)."""
    product = quotient(node)
    if product is None:
        return NoMatch("not a quotient")
    below = [v for v, power in product.powers.items() if power == -1 and is_op(v.producer(), "Add")]
    argument: Value | NoMatch = NoMatch("no sum below")
    for total in below:
        argument = _argument(total, node, rewriter)
        if not isinstance(argument, NoMatch):
            break
    if isinstance(argument, NoMatch):
        return argument
    rest = {v: power for v, power in product.powers.items() if v is not total}
    if any(power != 1 for power in rest.values()) or len(rest) > 1:
        return NoMatch("there are several other factors", node.name)
    if not is_float(total) or any(user.op_type in MAGNIFYING for user in node.outputs[0].consumers()):
        return NoMatch("its users need the digits of small results", node.outputs[0].name)
    y = rewriter.op("Sigmoid", argument)
    if product.coefficient != 1.0:
        number = np.asarray(product.coefficient, numpy_dtype(total))
        y = rewriter.op("Mul", y, rewriter.const(number, "factor"))
    for factor in rest:
        y = rewriter.op("Mul", factor, y)
    return y


def _argument(total: Value, root: Node, rewriter: Rewriter) -> Value | NoMatch:
    """x of ``1 + exp(-x)`` that serves `root` alone."""
    sum_ = total.producer()
    operands = split_constant(sum_) if sum_ is not None else None
    if sum_ is None or operands is None or scalar_factor(operands[1], operands[0]) != 1.0:
        return NoMatch("what is below is not 1 and something", total.name)
    if len(total.uses()) != 1 or total.is_graph_output() or sum_.graph is not root.graph:
        return NoMatch("the sum is used elsewhere", total.name)
    exponential = made_for(operands[0], sum_, "Exp")
    if isinstance(exponential, NoMatch):
        return exponential
    below = made_for(exponential.inputs[0], exponential, "Neg", "Mul")
    if isinstance(below, NoMatch):
        return NoMatch("the exponent is not a negative of its own", exponential.name)
    if is_op(below, "Neg"):
        x = below.inputs[0]
        return x if x is not None else NoMatch("the input is missing")
    scaled = split_constant(below)
    slope = scalar_factor(scaled[1], scaled[0]) if scaled is not None else None
    dtype = numpy_dtype(total)
    if scaled is None or slope is None or not slope < 0 or dtype is None:
        return NoMatch("the exponent is not a negative multiple", below.name)
    if slope == -1:
        return scaled[0]
    return rewriter.op("Mul", scaled[0], rewriter.const(np.asarray(-slope, dtype), "slope"))


@rule("Mul")
def mish(node: Node, rewriter: Rewriter) -> Replacement:
    """x * tanh(softplus(x)) = Mish(x)."""
    if rewriter.opset < MISH_OPSET:
        return NoMatch(f"needs opset {MISH_OPSET}")
    for x, gate in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
        tanh = produced_by(gate, "Tanh")
        if tanh is None or x is None:
            continue
        softplus = made_for(tanh.inputs[0], tanh, "Softplus")
        if isinstance(made_for(gate, node, "Tanh"), NoMatch) or isinstance(softplus, NoMatch):
            return NoMatch("no softplus of its own under tanh", tanh.name)
        if softplus.inputs[0] is not x:
            return NoMatch("the gate is of another value", tanh.name)
        if x.dtype not in (DataType.FLOAT, DataType.FLOAT16):
            return NoMatch("not float32 or float16", x.name)
        return rewriter.op("Mish", x)
    return NoMatch("no tanh among the factors")


@rule("Where")
def softplus(node: Node, _: Rewriter) -> Replacement:
    """Where(x > t, x, Softplus(x)) = Softplus(x), if Softplus(t) is t in this precision."""
    condition, large, small = node.inputs
    smooth, test = produced_by(small, "Softplus"), produced_by(condition, "Greater", "GreaterOrEqual")
    if smooth is None or test is None or large is None or small is None:
        return NoMatch("not a choice between a value and its softplus")
    if smooth.inputs[0] is not large or test.inputs[0] is not large:
        return NoMatch("the test or the softplus is of another value", node.name)
    threshold, dtype = scalar_factor(test.inputs[1], large), numpy_dtype(large)
    if threshold is None or dtype is None or not is_float(large):
        return NoMatch("the threshold is not a scalar, or the type no float", test.name)
    if not threshold > 0 or math.exp(-threshold) > threshold * float(limits(dtype).eps):
        return NoMatch("softplus differs from its argument at the threshold", test.name)
    return small


@rule("Div")
def softsign(node: Node, rewriter: Rewriter) -> Replacement:
    """x / (1 + |x|) = Softsign(x)."""
    x, total = node.inputs
    sum_ = made_for(total, node, "Add")
    operands = split_constant(sum_) if not isinstance(sum_, NoMatch) else None
    if isinstance(sum_, NoMatch) or operands is None or scalar_factor(operands[1], operands[0]) != 1.0:
        return NoMatch("it is not divided by 1 and something of its own")
    magnitude = made_for(operands[0], sum_, "Abs")
    if isinstance(magnitude, NoMatch) or magnitude.inputs[0] is not x or x is None:
        return NoMatch("what is added is not the magnitude of the same value", sum_.name)
    if not is_activation_type(x, rewriter.opset):
        return NoMatch("not of a type that Softsign takes", x.name)
    return rewriter.op("Softsign", x)


@dataclasses.dataclass(frozen=True)
class RaiseSigmoid(RulePass):
    """Recognise Sigmoid, Mish, Softplus and Softsign that are written out.

    given:  float[N] x
    before: y = Div(x, Add(Exp(Neg(x)), 1.0))
    after:  y = Mul(x, Sigmoid(x))

    Swish stays ``x * Sigmoid(x)``: ONNX Runtime has no kernel for Swish and takes 1.5 times as long, and to
    XLA both are the same. ``log(1 + exp(x))`` stays as well: it is infinite where Softplus is not.

    Spec: https://onnx.ai/onnx/operators/onnx__Sigmoid.html, https://onnx.ai/onnx/operators/onnx__Mish.html
    """

    exactness = Exactness.REASSOCIATES
    rules = (sigmoid, mish, softplus, softsign)
