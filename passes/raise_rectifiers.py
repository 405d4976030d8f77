"""raise-rectifiers: choices and maxima of straight lines become Relu, LeakyRelu, ThresholdedRelu and Clip."""

from __future__ import annotations

import dataclasses

import numpy as np

from graphopt.ir import DataType, Node, Value
from graphopt.ir.query import constant, is_op, same_shape
from graphopt.passes._matching import (
    is_float,
    made_for,
    numpy_dtype,
    produced_by,
    scalar_factor,
    split_constant,
)
from graphopt.passes._products import factor_of
from graphopt.transform import Exactness, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

THRESHOLDED_TYPES = (DataType.FLOAT, DataType.FLOAT16)
"""ONNX Runtime has no kernel for ThresholdedRelu of float64, and bfloat16 is a type of it since 22 only."""


@rule("Max")
def leaky_relu_as_maximum(node: Node, rewriter: Rewriter) -> Replacement:
    """max(x, a x) = LeakyRelu(x, alpha=a), for 0 < a < 1."""
    if len(node.inputs) != 2:
        return NoMatch("not of two operands")
    for x, line in (node.inputs, node.inputs[::-1]):
        alpha = _slope(x, line, node)
        if x is None or alpha is None:
            continue
        if not alpha < 1:
            return NoMatch("the slope is not below 1", node.name)
        return _leaky(x, alpha, node, rewriter)
    return NoMatch("not of a value and a multiple of it")


@rule("Where")
def leaky_relu_as_choice(node: Node, rewriter: Rewriter) -> Replacement:
    """Where(x > 0, x, a x) = LeakyRelu(x, alpha=a), and with x < 0 the other way round."""
    condition, first, second = node.inputs
    test = _threshold(condition)
    if test is None or test[2] != 0:
        return NoMatch("the condition compares nothing with 0")
    x, above, _ = test
    if not above:
        first, second = second, first
    if first is not x:
        return NoMatch("the value above 0 is not the value itself", node.name)
    alpha = _slope(x, second, node)
    if alpha is None:
        return NoMatch("the value below 0 is not a positive multiple of its own", node.name)
    return _leaky(x, alpha, node, rewriter)


@rule("Where")
def thresholded_relu(node: Node, rewriter: Rewriter) -> Replacement:
    """Where(x > a, x, 0) = ThresholdedRelu(x, alpha=a)."""
    condition, x, zero = node.inputs
    test = produced_by(condition, "Greater")
    if test is None or x is None or test.inputs[0] is not x:
        # With Less the other way round a NaN would come through.
        return NoMatch("the condition is not that the value is greater")
    alpha = scalar_factor(test.inputs[1], x)
    if alpha is None or scalar_factor(zero, x) != 0:
        return NoMatch("not 0 below a constant", node.name)
    if x.dtype not in THRESHOLDED_TYPES or not same_shape(x.shape, node.outputs[0].shape):
        return NoMatch("not of float32 or float16, or of another shape", x.name)
    return rewriter.op("ThresholdedRelu", x, alpha=alpha)


@rule("PRelu")
def prelu_with_one_slope(node: Node, rewriter: Rewriter) -> Replacement:
    """PRelu(x, a) = LeakyRelu(x, alpha=a), for one number a."""
    x, slopes = node.inputs[0], constant(node.inputs[1])
    if x is None or slopes is None or not slopes.size or not np.all(slopes == slopes.flat[0]):
        return NoMatch("the slopes are not one constant")
    return _leaky(x, float(slopes.flat[0]), node, rewriter)


@rule("Max")
def relu(node: Node, rewriter: Rewriter) -> Replacement:
    """max(x, 0) = Relu(x)."""
    operands = split_constant(node)
    if operands is None or scalar_factor(operands[1], operands[0]) != 0 or not is_float(operands[0]):
        return NoMatch("not of a float and the number 0")
    return rewriter.op("Relu", operands[0])


@rule("Max", "Min")
def clip(node: Node, rewriter: Rewriter) -> Replacement:
    """min(max(x, l), h) = max(min(x, h), l) = min(Relu(x), h) = Clip(x, l, h), for l <= h."""
    outer = _limit(node)
    if outer is None:
        return NoMatch("not of a float and a finite number")
    value, bound = outer
    inner = made_for(value, node, *(("Max", "Relu") if is_op(node, "Min") else ("Min",)))
    if isinstance(inner, NoMatch):
        return inner
    under = (inner.inputs[0], 0.0) if is_op(inner, "Relu") else _limit(inner)
    x, other = under if under is not None else (None, 0.0)
    if x is None:
        return NoMatch("not between two finite numbers", inner.name)
    low, high = (other, bound) if is_op(node, "Min") else (bound, other)
    dtype = numpy_dtype(value)
    if not low <= high or dtype is None or numpy_dtype(x) != dtype:
        return NoMatch("the lower end is above the upper one", node.name)
    ends = [rewriter.const(np.asarray(end, dtype), name) for end, name in ((low, "low"), (high, "high"))]
    return rewriter.op("Clip", x, *ends)


def _limit(node: Node) -> tuple[Value, float] | None:
    """(x, c) of a maximum or minimum of x and a finite scalar c."""
    operands = split_constant(node)
    number = scalar_factor(operands[1], operands[0]) if operands is not None else None
    if operands is None or number is None or not np.isfinite(number) or not is_float(operands[0]):
        return None
    return operands[0], number


def _threshold(condition: Value | None) -> tuple[Value, bool, float] | None:
    """(x, whether it must be above, c) of a comparison of x with a scalar c."""
    test = produced_by(condition, "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
    if test is None or test.inputs[0] is None:
        return None
    number = scalar_factor(test.inputs[1], test.inputs[0])
    return None if number is None else (test.inputs[0], test.op_type.startswith("Greater"), number)


def _slope(x: Value | None, line: Value | None, user: Node) -> float | None:
    """a > 0 if `line`, which only `user` uses, is ``a * x``."""
    if x is None or line is None or line is x:
        return None
    found = factor_of(line, user)
    if not found.is_power_of(x, 1) or not 0 < found.coefficient < np.inf:
        return None
    return found.coefficient


def _leaky(x: Value, alpha: float, node: Node, rewriter: Rewriter) -> Value | NoMatch:
    if not is_float(x) or x.dtype == DataType.DOUBLE:
        return NoMatch("not of float32 or half precision", x.name)
    if not np.isfinite(alpha):
        return NoMatch("the slope is not finite", node.name)
    if not same_shape(x.shape, node.outputs[0].shape):
        return NoMatch("the result has not the shape of the input", x.name)
    return rewriter.op("LeakyRelu", x, alpha=alpha)


@dataclasses.dataclass(frozen=True)
class RaiseRectifiers(RulePass):
    """Recognise Relu, LeakyRelu, ThresholdedRelu and Clip in maxima, minima and choices.

    given:  float[N] x; float[N] z
    before: a = Min(Max(x, 0.0), 6.0); b = Where(Greater(z, 0.0), z, Mul(z, 0.1))
    after:  a = Clip(x, 0.0, 6.0); b = LeakyRelu<alpha = 0.1>(z)

    A maximum of zeros of both signs may be either. One finite end alone stays a maximum: ONNX Runtime's Clip
    without the other end makes the largest number of infinity. Slopes for each channel stay as they are:
    PRelu takes five times as long there as what it stands for.

    Spec: https://onnx.ai/onnx/operators/onnx__LeakyRelu.html, https://onnx.ai/onnx/operators/onnx__Clip.html
    """

    exactness = Exactness.REASSOCIATES
    rules = (
        clip,
        leaky_relu_as_maximum,
        leaky_relu_as_choice,
        thresholded_relu,
        prelu_with_one_slope,
        relu,
    )
