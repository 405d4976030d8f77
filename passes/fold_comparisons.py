"""fold-comparisons: comparisons of sizes that hold, or fail, whatever the sizes are."""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from graphopt.ir import DataType, Model, Node, SymbolicDim, Value
from graphopt.ir.edit import Namer, add_initializer, remove_dead, replace_value
from graphopt.ir.query import constant_tensor, ints, is_op, rank, static_shape, walk_graphs
from graphopt.ir.shape_context import BoundedContext
from graphopt.ir.shapes import infer_afresh
from graphopt.transform import Changes, Pass

Dim = int | SymbolicDim

_INDEX_TYPES = frozenset({DataType.INT64, DataType.INT32})
_CARRIERS = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
_COMBINED = frozenset({"Add", "Concat", "Mul", "Sub"})
_NUMBER = re.compile(r"-?\d+")
_PRODUCT = re.compile(r"(\d+\*)?[A-Za-z_]\w*(\*\*\d+)?(\*[A-Za-z_]\w*(\*\*\d+)?)*")
"""A product of sizes with a coefficient that is not negative."""

MAX_CONSTANT = 1 << 20
MAX_COEFFICIENT = 1 << 31
"""Arithmetic with larger numbers may wrap round, at sizes that a tensor can have."""

MAX_ELEMENTS = 64
MAX_DEPTH = 32

# What each comparison is where the difference of its operands is known to be zero, positive or negative.
_WHERE_ZERO = {"Equal": True, "Less": False, "Greater": False, "LessOrEqual": True, "GreaterOrEqual": True}
_WHERE_POSITIVE = {
    "Equal": False,
    "Less": False,
    "Greater": True,
    "LessOrEqual": False,
    "GreaterOrEqual": True,
}
_WHERE_NEGATIVE = {
    "Equal": False,
    "Less": True,
    "Greater": False,
    "LessOrEqual": True,
    "GreaterOrEqual": False,
}


@dataclasses.dataclass(frozen=True)
class FoldComparisons(Pass):
    """Replace a comparison of sizes by its answer where every size gives the same.

    A size is never negative. What is compared must be arithmetic on shapes and constants.

    given:  float[N] x
    before: n = Gather(Shape(x), 0); y = Where(Greater(Add(n, 1), n), x, 0.0)
    after:  y = Where(true, x, 0.0)
    """

    def run(self, model: Model) -> Changes:
        """Infer shapes anew if there is a comparison to decide, and decide each once."""
        changes = Changes()
        found = [n for graph in walk_graphs(model.graph) for n in graph if _is_candidate(n)]
        if not found:
            return changes
        judge = _Judge(infer_afresh(model).context)
        namer = Namer(model.graph)
        decided = []
        for node in found:
            answer = judge.decide(node)
            if isinstance(answer, str):
                changes.declined[f"{node.op_type}: {answer}"] += 1
                continue
            name = namer.value(f"{node.outputs[0].name}/known")
            replace_value(node.outputs[0], add_initializer(model.graph, name, answer))
            changes.counts[node.op_type] += 1
            decided.append(node)
        remove_dead(decided)
        return changes


def _is_candidate(node: Node) -> bool:
    if not is_op(node, *_WHERE_ZERO) or any(v is None or v.dtype not in _INDEX_TYPES for v in node.inputs):
        return False
    return any(constant_tensor(v) is None for v in node.inputs)


class _Judge:
    """Decides comparisons by what shape inference followed."""

    def __init__(self, context: BoundedContext) -> None:
        self.context = context
        self.exact: dict[Value, bool] = {}

    def decide(self, node: Node) -> np.ndarray | str:
        """The answer, or why there is none."""
        shape = static_shape(node.outputs[0])
        if shape is None or len(shape) > 1 or (shape and shape[0] > MAX_ELEMENTS):
            return "its result is no short vector"
        columns = [self._elements(value) for value in node.inputs]
        a, b = columns
        if a is None or b is None:
            return "an operand is no arithmetic on shapes"
        count = shape[0] if shape else 1
        if any(len(column) not in (1, count) for column in (a, b)):
            return "an operand is no arithmetic on shapes"
        sizes = all(v in self.context.extents or ints(v) is not None for v in node.inputs)
        answers = []
        for index in range(count):
            answer = _compare(node.op_type, a[index % len(a)], b[index % len(b)], sizes)
            if answer is None:
                return "it depends on the sizes"
            answers.append(answer)
        return np.array(answers, np.bool_).reshape(shape)

    def _elements(self, value: Value | None) -> list[Dim] | None:
        known = ints(value)
        if known is not None:
            return list(known)
        if value is None or not self._is_exact(value, 0):
            return None
        found = self.context.get_symbolic_value(value)
        if found is None or not (found or rank(value)):
            return None
        numbers = (int(number) for dim in found for number in _NUMBER.findall(_text(dim)))
        return None if any(abs(number) > MAX_COEFFICIENT for number in numbers) else list(found)

    def _is_exact(self, value: Value, depth: int) -> bool:
        """Whether `value` is made of shapes and constants by operators that inference follows exactly."""
        if value in self.exact:
            return self.exact[value]
        node, answer = value.producer(), False
        if value.is_initializer():
            numbers = ints(value)
            answer = numbers is not None and all(abs(number) <= MAX_CONSTANT for number in numbers)
        elif node is not None and not node.domain and value.dtype in _INDEX_TYPES and depth < MAX_DEPTH:
            first = node.inputs[0] if node.inputs else None
            if node.op_type in ("Shape", "Size"):
                answer = True
            elif node.op_type in _COMBINED:
                answer = all(v is not None and self._is_exact(v, depth + 1) for v in node.inputs)
            elif node.op_type in _CARRIERS and first is not None:
                answer = self._is_exact(first, depth + 1)
            elif node.op_type in ("Gather", "Slice") and first is not None and rank(first) == 1:
                picks = all(v is None or ints(v) is not None for v in node.inputs[1:])
                answer = picks and self._is_exact(first, depth + 1)
        self.exact[value] = answer
        return answer


def _text(dim: Dim) -> str:
    return str(dim) if isinstance(dim, int) else dim.value or ""


def _compare(op_type: str, a: Dim, b: Dim, are_sizes: bool) -> bool | None:
    difference = _difference(a, b)
    if isinstance(difference, int):
        table = _WHERE_ZERO if difference == 0 else _WHERE_POSITIVE if difference > 0 else _WHERE_NEGATIVE
        return table[op_type]
    if not are_sizes:
        return None
    if _bounded_below(difference, 1):
        return _WHERE_POSITIVE[op_type]
    if _bounded_below(_difference(b, a), 1):
        return _WHERE_NEGATIVE[op_type]
    same = (_WHERE_ZERO[op_type], _WHERE_POSITIVE[op_type])
    if _bounded_below(difference, 0) and same[0] == same[1]:
        return same[0]
    same = (_WHERE_ZERO[op_type], _WHERE_NEGATIVE[op_type])
    return same[0] if _bounded_below(_difference(b, a), 0) and same[0] == same[1] else None


def _difference(a: Dim, b: Dim) -> int | SymbolicDim:
    difference: int | SymbolicDim = a - b
    if isinstance(difference, SymbolicDim) and (difference.value or "").lstrip("-").isdecimal():
        return int(difference.value or 0)
    return difference


def _bounded_below(polynomial: Dim, low: int) -> bool:
    """Whether a polynomial in sizes, which are not negative, is at least `low` by its coefficients."""
    if isinstance(polynomial, int):
        return polynomial >= low
    text = (polynomial.value or "").replace(" - ", " + -")
    least = 0
    for term in text.split(" + "):
        if _NUMBER.fullmatch(term):
            least += int(term)
        elif not _PRODUCT.fullmatch(term):
            return False
    return bool(text) and least >= low
