"""Rules of eliminate-noops about numbers: neutral elements and bounds."""

from __future__ import annotations

import numpy as np

from graphopt.ir import Node, Value
from graphopt.ir.query import constant, element_count, is_op, rank, same_shape, static_shape
from graphopt.transform import NoMatch, Rewriter, rule
from graphopt.transform.rule import Replacement

MAX_ELEMENTS = 1 << 16


def _all_are(array: np.ndarray, number: int | float | bool) -> bool:
    return bool((array == number).all())


def _all_minus_zero(array: np.ndarray) -> bool:
    return _all_are(array, 0) and bool(np.signbit(array).all())


def _all_plus_zero(array: np.ndarray) -> bool:
    return _all_are(array, 0) and not bool(np.signbit(array).any())


def _is_integer(array: np.ndarray) -> bool:
    return array.dtype.kind in "iu"


def _is_neutral(op_type: str, array: np.ndarray, on_the_right: bool) -> bool:
    """Whether `op_type` with the constant `array` gives back its other operand, to the bit."""
    if op_type == "Add":
        # x + 0.0 makes 0.0 of -0.0; x + -0.0 is x.
        return _all_are(array, 0) if _is_integer(array) else _all_minus_zero(array)
    if op_type == "Sub":
        return on_the_right and (_all_are(array, 0) if _is_integer(array) else _all_plus_zero(array))
    if op_type == "Mul":
        return _all_are(array, 1)
    if op_type in ("Div", "Pow"):
        return on_the_right and _all_are(array, 1)
    if op_type == "And":
        return bool(array.all())
    if op_type in ("Or", "Xor"):
        return not array.any()
    if op_type in ("BitwiseOr", "BitwiseXor"):
        return _all_are(array, 0)
    if op_type == "BitShift":
        return on_the_right and _all_are(array, 0)
    # BitwiseAnd
    return _all_are(array, -1 if array.dtype.kind == "i" else np.iinfo(array.dtype).max)


def _cannot_broadcast(other: Value, by: Value, output: Value) -> bool:
    """Whether the result has the shape of `other`, with the constant `by` on the other side."""
    if same_shape(other.shape, output.shape):
        return True
    by_shape, count = static_shape(by), rank(other)
    return by_shape is not None and count is not None and len(by_shape) <= count and set(by_shape) <= {1}


@rule(
    *("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor"),
    *("BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitShift"),
)
def neutral_operand(node: Node, _: Rewriter) -> Replacement:
    """x + 0 = x - 0 = x * 1 = x / 1 = x ** 1 = x, as true and false to And, Or and Xor."""
    for position in (1, 0):
        by, other = node.inputs[position], node.inputs[1 - position]
        array = constant(by)
        if array is None or by is None or other is None or not array.size:
            continue
        if not _is_neutral(node.op_type, array, position == 1):
            continue
        if node.op_type == "Pow" and other.dtype != by.dtype:
            return NoMatch("base and exponent are of different types", by.name)
        if other.dtype != node.outputs[0].dtype or not _cannot_broadcast(other, by, node.outputs[0]):
            return NoMatch("the constant may broadcast the operand", by.name)
        return other
    return NoMatch("no operand is neutral")


@rule("And", "Or")
def absorbing_operand(node: Node, rewriter: Rewriter) -> Replacement:
    """And(x, false) = false and Or(x, true) = true, where the shape is known and small."""
    for by in node.inputs:
        array = constant(by)
        if array is None or not array.size:
            continue
        if array.any() if node.op_type == "And" else not array.all():
            continue
        shape = static_shape(node.outputs[0])
        if shape is None or element_count(shape) > MAX_ELEMENTS:
            return NoMatch("the result is no small constant", node.outputs[0].name)
        return rewriter.const(np.full(shape, node.op_type == "Or"), "known")
    return NoMatch("no operand is absorbing")


Bound = np.ndarray | None


def _bounds(clip: Node) -> tuple[Bound, Bound] | None:
    """(min, max) of a Clip, None for one that is absent; None if one is not constant or not a number."""
    found: list[Bound] = []
    for position in (1, 2):
        value = clip.inputs[position] if len(clip.inputs) > position else None
        array = None if value is None else constant(value, max_elements=1)
        if value is not None and (array is None or array.size != 1 or _has_nan(array)):
            return None
        found.append(None if array is None else array.reshape(()))
    return found[0], found[1]


def _has_nan(array: np.ndarray) -> bool:
    return array.dtype.kind not in "iub" and bool(np.isnan(array.astype(np.float64)).any())


@rule("Clip")
def clip_without_bounds(node: Node, _: Rewriter) -> Replacement:
    """Clip(x) = x without bounds, for integers: a float is kept from being infinite even so."""
    x = node.inputs[0]
    if any(value is not None for value in node.inputs[1:]) or x is None:
        return NoMatch("it has bounds")
    if x.dtype is None or not x.dtype.name.startswith(("INT", "UINT")):
        return NoMatch("it makes the largest number of an infinity", x.name)
    return x


@rule("Clip")
def clip_of_clip(node: Node, rewriter: Rewriter) -> Replacement:
    """Clip(Clip(x, a, b), c, d) = Clip(x, max(a, c), min(b, d)) if the ranges meet."""
    middle = node.inputs[0]
    inner = None if middle is None else middle.producer()
    if inner is None or not is_op(inner, "Clip"):
        return NoMatch("the operand is no Clip")
    first, second = _bounds(inner), _bounds(node)
    if first is None or second is None:
        return NoMatch("the bounds are not constant")
    if _differ_in_sign_of_zero(first[0], second[0]) or _differ_in_sign_of_zero(first[1], second[1]):
        return NoMatch("the bounds are zeros of different sign")
    low = _tighter(first[0], second[0], np.maximum)
    high = _tighter(first[1], second[1], np.minimum)
    if low is not None and high is not None and not low < high:
        return NoMatch("the ranges do not meet")
    return _clip(rewriter, inner.inputs[0], low, high)


@rule("Clip")
def clip_of_relu(node: Node, rewriter: Rewriter) -> Replacement:
    """Clip(Relu(x), a, b) = Clip(x, max(a, 0), b) if b is positive."""
    middle = node.inputs[0]
    inner = None if middle is None else middle.producer()
    if inner is None or middle is None or not is_op(inner, "Relu"):
        return NoMatch("the operand is no Relu")
    bounds = _bounds(node)
    if bounds is None or middle.dtype is None:
        return NoMatch("the bounds are not constant")
    zero = np.zeros((), middle.dtype.numpy())
    if _differ_in_sign_of_zero(bounds[0], zero):
        return NoMatch("the bounds are zeros of different sign")
    low = _tighter(bounds[0], zero, np.maximum)
    if bounds[1] is not None and not low < bounds[1]:
        return NoMatch("the ranges do not meet")
    return _clip(rewriter, inner.inputs[0], low, bounds[1])


@rule("Relu")
def relu_of_clip(node: Node, rewriter: Rewriter) -> Replacement:
    """Relu(Clip(x, a, b)) = Clip(x, max(a, 0), b) if b is positive."""
    middle = node.inputs[0]
    inner = None if middle is None else middle.producer()
    if inner is None or middle is None or middle.dtype is None or not is_op(inner, "Clip"):
        return NoMatch("the operand is no Clip")
    bounds = _bounds(inner)
    if bounds is None:
        return NoMatch("the bounds are not constant")
    zero = np.zeros((), middle.dtype.numpy())
    if _differ_in_sign_of_zero(bounds[0], zero):
        return NoMatch("the bounds are zeros of different sign")
    low = _tighter(bounds[0], zero, np.maximum)
    if bounds[1] is not None and not low < bounds[1]:
        return NoMatch("the ranges do not meet")
    if bounds[0] is not None and low == bounds[0]:
        return middle
    return _clip(rewriter, inner.inputs[0], low, bounds[1])


def _differ_in_sign_of_zero(a: Bound, b: Bound) -> bool:
    if a is None or b is None:
        return False
    return bool(a == 0 and b == 0 and np.signbit(a) != np.signbit(b))


def _tighter(a: Bound, b: Bound, choose: np.ufunc) -> Bound:
    if a is None or b is None:
        return b if a is None else a
    return np.asarray(choose(a, b), dtype=a.dtype)


def _clip(rewriter: Rewriter, x: Value | None, low: Bound, high: Bound) -> Value:
    return rewriter.op(
        "Clip",
        x,
        None if low is None else rewriter.const(low, "min"),
        None if high is None else rewriter.const(high, "max"),
    )


ARITHMETIC_RULES = (
    neutral_operand,
    absorbing_operand,
    clip_without_bounds,
    clip_of_clip,
    clip_of_relu,
    relu_of_clip,
)
