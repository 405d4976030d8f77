"""simplify-masks: logic and arithmetic on masks, in fewer steps and to the same bit."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir

from graphopt.ir import DataType, Node, Value
from graphopt.ir.evaluate import EvaluationError, evaluate
from graphopt.ir.query import attribute, constant, is_op, rank, same_shape, scalar
from graphopt.passes._mask_positions import POSITION_RULES
from graphopt.passes._matching import made_for, produced_by, scalar_factor
from graphopt.transform import NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

_NEGATED = {
    "Less": "GreaterOrEqual",
    "Greater": "LessOrEqual",
    "LessOrEqual": "Greater",
    "GreaterOrEqual": "Less",
}
_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual")
_LOGIC = ("And", "Or", "Xor")
_UNARY = ("Cast", "Neg", "Not")


# What ONNX Runtime has kernels of Where and of ConstantOfShape for.
_CHOSEN = frozenset(
    {DataType.FLOAT, DataType.FLOAT16, DataType.DOUBLE, DataType.INT32, DataType.INT64, DataType.UINT8}
)
_FILLED = _CHOSEN | {DataType.BOOL, DataType.INT8, DataType.INT16, DataType.UINT16}


def _is_integer(value: Value | None) -> bool:
    return value is not None and value.dtype is not None and value.dtype.name.startswith(("INT", "UINT"))


@rule("Not")
def negated_comparison(node: Node, rewriter: Rewriter) -> Replacement:
    """Not(a < b) = a >= b, for integers, which have no NaN."""
    comparison = made_for(node.inputs[0], node, *_NEGATED)
    if isinstance(comparison, NoMatch):
        return comparison
    if not _is_integer(comparison.inputs[0]):
        return NoMatch("the operands may be NaN", comparison.name)
    return rewriter.op(_NEGATED[comparison.op_type], *comparison.inputs)


@rule("Not")
def not_zero(node: Node, rewriter: Rewriter) -> Replacement:
    """Not(x == 0) = Cast<bool>(x), NaN included: it is no zero and true."""
    equal = made_for(node.inputs[0], node, "Equal")
    if isinstance(equal, NoMatch):
        return equal
    for x, by in (equal.inputs, equal.inputs[::-1]):
        if scalar_factor(by, x) == 0 and x is not None and x.dtype != DataType.STRING:
            return rewriter.op("Cast", x, to=int(DataType.BOOL))
    return NoMatch("it is not compared with zero", equal.name)


@rule("And", "Or")
def same_operand(node: Node, _: Rewriter) -> Replacement:
    """And(a, a) = Or(a, a) = a, and And(a, And(a, b)) = And(a, b)."""
    a, b = node.inputs
    if a is None or b is None:
        return NoMatch("an operand is missing")
    if a is b:
        return a
    for outer, inner in ((a, b), (b, a)):
        same = produced_by(inner, node.op_type)
        if same is not None and outer in same.inputs and same_shape(inner.shape, node.outputs[0].shape):
            return inner
    return NoMatch("no operand occurs twice")


@rule("Or")
def less_or_equal(node: Node, rewriter: Rewriter) -> Replacement:
    """Or(a < b, a == b) = a <= b, and so for >: both are false of a NaN."""
    for first, second in (node.inputs, node.inputs[::-1]):
        strict, equal = made_for(first, node, "Less", "Greater"), made_for(second, node, "Equal")
        if isinstance(strict, NoMatch) or isinstance(equal, NoMatch):
            continue
        if {*strict.inputs} == {*equal.inputs} and len(strict.inputs) == 2:
            return rewriter.op(f"{strict.op_type}OrEqual", *strict.inputs)
    return NoMatch("it does not join a comparison and an Equal of the same two values")


@rule("Where")
def where_of_not(node: Node, rewriter: Rewriter) -> Replacement:
    """Where(Not(c), x, y) = Where(c, y, x)."""
    negation = produced_by(node.inputs[0], "Not")
    if negation is None:
        return NoMatch("the condition is not negated")
    return rewriter.op("Where", negation.inputs[0], node.inputs[2], node.inputs[1])


@rule("Where")
def where_of_truth_values(node: Node, rewriter: Rewriter) -> Replacement:
    """Where(c, true, false) = c and Where(c, false, true) = Not(c)."""
    condition, x, y = node.inputs
    values = scalar(x), scalar(y)
    if condition is None or values not in ((True, False), (False, True)) or not isinstance(values[0], bool):
        return NoMatch("it does not choose between true and false")
    if not same_shape(condition.shape, node.outputs[0].shape):
        return NoMatch("the choices may broadcast the condition", condition.name)
    return condition if values[0] else rewriter.op("Not", condition)


@rule("Where")
def where_of_where(node: Node, rewriter: Rewriter) -> Replacement:
    """Where(c, Where(c, a, b), d) = Where(c, a, d), and so in the other branch."""
    condition = node.inputs[0]
    operands = list(node.inputs)
    for position in (1, 2):
        inner = produced_by(operands[position], "Where")
        if inner is None or inner.inputs[0] is not condition:
            continue
        # What is dropped may not have been what gave the result its shape.
        if condition is None or not same_shape(condition.shape, node.outputs[0].shape):
            return NoMatch("the shape may come from what would be dropped", inner.name)
        operands[position] = inner.inputs[position]
        return rewriter.op("Where", *operands)
    return NoMatch("no branch chooses by the same condition")


def _choice(value: Value | None, user: Node) -> tuple[Value, np.ndarray, np.ndarray] | NoMatch:
    """(condition, what true is, what false is) of a mask of two numbers that `user` alone uses."""
    inner = made_for(value, user, "Cast", "Where")
    if isinstance(inner, NoMatch):
        return inner
    condition = inner.inputs[0]
    if condition is None or value is None or value.dtype is None or condition.dtype != DataType.BOOL:
        return NoMatch("no mask of two numbers", inner.name)
    if is_op(inner, "Cast"):
        if value.dtype == DataType.STRING or value.dtype.itemsize < 1:
            return NoMatch("no mask of two numbers", inner.name)
        dtype = value.dtype.numpy()
        return condition, np.ones((), dtype), np.zeros((), dtype)
    numbers = [constant(v, max_elements=1) for v in inner.inputs[1:]]
    ranks = [rank(v) for v in inner.inputs]
    if any(n is None or n.size != 1 for n in numbers) or ranks[0] is None:
        return NoMatch("it does not choose between two numbers", inner.name)
    if any(r is None or r > ranks[0] for r in ranks):
        return NoMatch("a number raises the rank of the condition", inner.name)
    x, y = (n.reshape(()) for n in numbers if n is not None)
    return condition, x, y


@rule(*_ELEMENTWISE, "Cast", "Neg")
def arithmetic_of_choice(node: Node, rewriter: Rewriter) -> Replacement:
    """f(Where(c, a, b), k) = Where(c, f(a, k), f(b, k)); Cast(c) chooses between 1 and 0."""
    found: Any = NoMatch("no mask of two numbers")
    position = 0
    for position in range(len(node.inputs)):
        other = node.inputs[1 - position] if len(node.inputs) == 2 else None
        found = _choice(node.inputs[position], node)
        if isinstance(found, NoMatch):
            continue
        if len(node.inputs) == 1 or scalar_factor(other, node.inputs[position]) is not None:
            break
        found = NoMatch("the other operand is no number", other.name if other is not None else None)
    if isinstance(found, NoMatch):
        return found
    condition, *numbers = found
    by = constant(node.inputs[1 - position]) if len(node.inputs) == 2 else None
    results = []
    for number in numbers:
        operands = [number] if by is None else [number, by.reshape(())]
        result = _computed(node, operands[::-1] if position == 1 else operands, rewriter)
        if isinstance(result, NoMatch):
            return result
        results.append(result)
    if results[0].dtype == np.bool_:
        if results[0] == results[1]:
            return NoMatch("it is the same for true and false")
        return condition if results[0] else rewriter.op("Not", condition)
    if node.outputs[0].dtype not in _CHOSEN:
        return NoMatch("not every runtime chooses between numbers of this type", node.outputs[0].name)
    return rewriter.op("Where", condition, *(rewriter.const(r, "choice") for r in results))


def _computed(node: Node, operands: list[np.ndarray], rewriter: Rewriter) -> np.ndarray | NoMatch:
    try:
        (result,) = evaluate(node, operands, opset=rewriter.opset, max_bytes=64)
    except EvaluationError as error:
        return NoMatch(str(error), node.name)
    dtype = node.outputs[0].dtype
    if dtype is None or result.dtype != dtype.numpy() or result.size != 1:
        return NoMatch("the result has another type than its output", node.name)
    return np.asarray(result).reshape(())


def _uniform(value: Value | None) -> tuple[np.ndarray, Value | None] | None:
    """(the number, the shape operand) of a value whose elements are all one number, else None."""
    number = constant(value, max_elements=1)
    if number is not None:
        return (number.reshape(()), None) if number.size == 1 else None
    filled = produced_by(value, "ConstantOfShape", "Expand")
    if filled is None:
        return None
    if is_op(filled, "Expand"):
        number = constant(filled.inputs[0], max_elements=1)
        same_rank = number is not None and number.size == 1 and number.ndim <= (rank(value) or 0)
        # Expand broadcasts both ways: only a target that is the result's shape can be used again.
        target = filled.inputs[1]
        length = None if target is None or target.shape is None else target.shape.dims[0]
        if number is None or not same_rank or length != rank(value):
            return None
        return number.reshape(()), target
    tensor = attribute(filled, "value")
    fill = np.zeros((), np.float32) if tensor is None else tensor.numpy().reshape(())
    return fill, filled.inputs[0]


@rule(*_ELEMENTWISE, *_LOGIC, *_UNARY)
def arithmetic_of_fill(node: Node, rewriter: Rewriter) -> Replacement:
    """f(Fill(a, shape), k) = Fill(f(a, k), shape), for a tensor of one number throughout."""
    operands = [_uniform(value) for value in node.inputs]
    known = [operand for operand in operands if operand is not None]
    if len(known) != len(operands) or all(shape is None for _, shape in known):
        return NoMatch("an operand is not one number throughout")
    for value, (_, shape) in zip(node.inputs, known, strict=True):
        if value is None or shape is None or not same_shape(value.shape, node.outputs[0].shape):
            continue
        result = _computed(node, [number for number, _ in known], rewriter)
        if isinstance(result, NoMatch):
            return result
        if node.outputs[0].dtype not in _FILLED:
            return NoMatch("not every runtime fills a tensor of this type", node.outputs[0].name)
        return rewriter.op("ConstantOfShape", shape, value=onnx_ir.tensor(result.reshape(1)))
    return NoMatch("no operand is known to have the shape of the result", node.outputs[0].name)


@rule("And", "Or", "Where")
def logic_of_fill(node: Node, _: Rewriter) -> Replacement:
    """And(Fill(true), m) = Or(Fill(false), m) = Where(Fill(true), m, y) = m, if m has the shape."""
    first = _uniform(node.inputs[0])
    if is_op(node, "Where"):
        chosen = None if first is None or first[1] is None else node.inputs[1 if first[0] else 2]
    else:
        chosen = None
        for value, other in (node.inputs, node.inputs[::-1]):
            filled = _uniform(value)
            if filled is not None and filled[1] is not None and bool(filled[0]) == is_op(node, "And"):
                chosen = other
    if chosen is None:
        return NoMatch("no operand is a neutral value throughout")
    if not same_shape(chosen.shape, node.outputs[0].shape):
        return NoMatch("the fill may broadcast the other operand", chosen.name)
    return chosen


@dataclasses.dataclass(frozen=True)
class SimplifyMasks(RulePass):
    """Compute masks in fewer steps: choices between numbers, negations, and tensors of one number.

    given:  bool[N] m
    before: y = Mul(Sub(1.0, Cast<to = 1>(m)), -1e9)
    after:  y = Where(m, -0.0, -1e9)

    What a mask of two numbers becomes by arithmetic with constants is computed for the two numbers, in
    the same type. Nothing is written out: a mask of dynamic shape stays one.

    Spec: https://onnx.ai/onnx/operators/onnx__Where.html
    """

    rules = (
        negated_comparison,
        not_zero,
        same_operand,
        less_or_equal,
        where_of_not,
        where_of_truth_values,
        where_of_where,
        arithmetic_of_choice,
        arithmetic_of_fill,
        logic_of_fill,
        *POSITION_RULES,
    )
