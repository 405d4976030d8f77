"""raise-matmul: Einsum becomes MatMul, Mul, ReduceSum and Transpose, which passes and runtimes know."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

import numpy as np

from graphopt.ir import DataType, Node, SymbolicDim, Value
from graphopt.ir.query import attribute, same_dim
from graphopt.transform import Exactness, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

Dim = int | SymbolicDim

_MULTIPLIED = frozenset(
    {DataType.FLOAT, DataType.FLOAT16, DataType.BFLOAT16, DataType.DOUBLE, DataType.INT32, DataType.INT64}
)


@dataclasses.dataclass(frozen=True)
class _Term:
    """A tensor and the label of each of its axes."""

    value: Value
    labels: str


@rule("Einsum")
def einsum(node: Node, rewriter: Rewriter) -> Replacement:
    """Einsum("bij,bjk->bik", x, y) = MatMul(x, y), with the axes brought into place before and after."""
    terms, wanted = _parsed(node) or ([], "")
    if not terms:
        return NoMatch("the equation has an ellipsis, a diagonal, or operands of unknown rank")
    if node.outputs[0].dtype not in _MULTIPLIED:
        return NoMatch("not every runtime multiplies matrices of this type", node.outputs[0].name)
    if len(terms) == 1:
        return _arranged(_summed(terms[0], wanted, rewriter), wanted, rewriter).value
    if len(terms) != 2:
        return NoMatch("it has more than two operands")
    extents = _extents(terms)
    if isinstance(extents, NoMatch):
        return extents
    a, b = (
        _summed(term, wanted + other.labels, rewriter) for term, other in zip(terms, terms[::-1], strict=True)
    )
    if all(label in wanted for label in a.labels if label in b.labels):
        return _product(a, b, wanted, rewriter)
    first = _matmul(a, b, wanted, extents, rewriter)
    if not isinstance(first, NoMatch):
        return first
    second = _matmul(b, a, wanted, extents, rewriter)
    return first if isinstance(second, NoMatch) else second


def _parsed(node: Node) -> tuple[list[_Term], str] | None:
    """The operands with their labels and the labels of the result, or None if that is not plain."""
    equation = "".join(str(attribute(node, "equation", "")).split())
    if "." in equation:
        return None
    left, arrow, right = equation.partition("->")
    groups = left.split(",")
    counts = Counter(label for group in groups for label in group)
    if not arrow:
        right = "".join(sorted(label for label, count in counts.items() if count == 1))
    if len(groups) != len(node.inputs) or len(set(right)) != len(right) or not set(right) <= set(counts):
        return None
    terms = []
    for value, labels in zip(node.inputs, groups, strict=True):
        if value is None or value.shape is None or len(value.shape) != len(labels):
            return None
        if len(set(labels)) != len(labels):
            return None
        terms.append(_Term(value, labels))
    return terms, right


def _extents(terms: list[_Term]) -> dict[str, Dim] | NoMatch:
    """The extent of each label; an axis of size 1 would broadcast, so sizes must agree provably."""
    found: dict[str, Dim] = {}
    for term in terms:
        assert term.value.shape is not None
        for label, dim in zip(term.labels, term.value.shape.dims, strict=True):
            if label in found and not same_dim(found[label], dim):
                return NoMatch(f"the sizes of {label!r} are not known to agree", term.value.name)
            found[label] = dim
    return found


def _summed(term: _Term, kept: str, rewriter: Rewriter) -> _Term:
    """`term` summed over the axes that are not among the labels `kept`."""
    axes = [i for i, label in enumerate(term.labels) if label not in kept]
    if not axes:
        return term
    where = rewriter.const(np.array(axes, np.int64), "axes")
    total = rewriter.op("ReduceSum", term.value, where, keepdims=0)
    return _Term(total, "".join(label for label in term.labels if label in kept))


def _arranged(term: _Term, order: str, rewriter: Rewriter) -> _Term:
    """`term` with its axes in `order`, a permutation of its labels."""
    if term.labels == order:
        return term
    perm = [term.labels.index(label) for label in order]
    return _Term(rewriter.op("Transpose", term.value, perm=perm), order)


def _product(a: _Term, b: _Term, wanted: str, rewriter: Rewriter) -> Value:
    """The product where nothing is summed: each operand gets axes of size 1 for what it lacks."""
    operands = []
    for term in (a, b):
        own = _arranged(term, "".join(label for label in wanted if label in term.labels), rewriter)
        # Axes before the first that the operand has come by themselves.
        start = wanted.index(own.labels[0]) if own.labels else len(wanted)
        missing = [i - start for i, label in enumerate(wanted) if label not in own.labels and i >= start]
        value = own.value
        if missing:
            value = rewriter.op("Unsqueeze", value, rewriter.const(np.array(missing, np.int64), "axes"))
        operands.append(value)
    return rewriter.op("Mul", *operands)


def _matmul(a: _Term, b: _Term, wanted: str, extents: dict[str, Dim], rewriter: Rewriter) -> Value | NoMatch:
    """[batch, rows, inner] @ [batch, inner, columns], with `a` on the left."""
    batch = "".join(label for label in wanted if label in a.labels and label in b.labels)
    rows = "".join(label for label in a.labels if label not in b.labels)
    columns = "".join(label for label in b.labels if label not in a.labels)
    inner = "".join(label for label in a.labels if label in b.labels and label not in wanted)
    if len(rows) > 1 and batch:
        return NoMatch("several axes would be rows of a product that has a batch", a.value.name)
    merged = [group for group in (inner, columns) if len(group) > 1]
    if any(not isinstance(extents[label], int) or extents[label] == 0 for group in merged for label in group):
        return NoMatch("axes of unknown size would be joined", b.value.name)
    left = _arranged(a, batch + rows + inner, rewriter).value
    right = _arranged(b, batch + inner + columns, rewriter).value
    if len(inner) > 1:
        left = _reshaped(left, [0] * len(batch + rows) + [_size(inner, extents)], rewriter)
    if merged or not columns:
        # A Reshape copies the leading axes; what is joined behind them has known sizes.
        if not merged:
            right = _with_axis(right, len(batch + inner), rewriter)
        elif len(inner) > 1:
            tail = [_size(columns, extents)] if len(columns) != 1 else [_one(extents[columns])]
            right = _reshaped(right, [*[0] * len(batch), _size(inner, extents), *tail], rewriter)
        else:
            right = _reshaped(right, [0] * len(batch + inner) + [_size(columns, extents)], rewriter)
    if not rows:
        left = _with_axis(left, len(batch), rewriter)
    product = rewriter.op("MatMul", left, right)
    lead = len(batch + rows) if rows else len(batch) + 1
    if len(columns) > 1:
        product = _reshaped(product, [*[0] * lead, *(_one(extents[label]) for label in columns)], rewriter)
    gone = [axis for axis, there in ((len(batch), rows), (lead, columns)) if not there]
    if gone:
        product = rewriter.op("Squeeze", product, rewriter.const(np.array(gone, np.int64), "axes"))
    return _arranged(_Term(product, batch + rows + columns), wanted, rewriter).value


def _size(labels: str, extents: dict[str, Dim]) -> int:
    return math.prod(_one(extents[label]) for label in labels)


def _one(dim: Dim) -> int:
    """A size as a Reshape target; the one that is unknown, if there is one, is found by the Reshape."""
    return dim if isinstance(dim, int) else -1


def _reshaped(value: Value, target: list[int], rewriter: Rewriter) -> Value:
    return rewriter.op("Reshape", value, rewriter.const(np.array(target, np.int64), "shape"))


def _with_axis(value: Value, axis: int, rewriter: Rewriter) -> Value:
    return rewriter.op("Unsqueeze", value, rewriter.const(np.array([axis], np.int64), "axes"))


@dataclasses.dataclass(frozen=True)
class RaiseMatmul(RulePass):
    """Write an Einsum of one or two operands as MatMul or Mul, with ReduceSum and Transpose.

    given:  float[2, 5, 3, 4] q; float[2, 6, 3, 4] k
    before: y = Einsum<equation = "bqhd,bkhd->bhqk">(q, k)
    after:  y = MatMul(Transpose<perm = [0, 2, 1, 3]>(q), Transpose<perm = [0, 2, 3, 1]>(k))

    The sizes of an axis that both operands have must agree provably, since one of 1 would broadcast.
    Several summed axes, or several that only the second operand has, are joined by a Reshape and must
    have known sizes. An ellipsis, a diagonal and more than two operands are left alone.

    Spec: https://onnx.ai/onnx/operators/onnx__Einsum.html
    """

    exactness = Exactness.REASSOCIATES
    rules = (einsum,)
