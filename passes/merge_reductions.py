"""merge-reductions: reductions of reductions, and the axes that they keep or drop."""

from __future__ import annotations

import dataclasses

import numpy as np

from graphopt.ir import Node, Value
from graphopt.ir.query import attribute, ints, rank
from graphopt.passes._matching import attributes_of, is_float, made_for
from graphopt.transform import Exactness, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

_NESTED = ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum")
_REDUCTIONS = (
    *_NESTED,
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"),
)


def _reduced_axes(node: Node) -> tuple[int, ...] | None:
    """The axes that `node` reduces, none negative, in order; None if they or the rank are unknown."""
    count = rank(node.inputs[0])
    given = node.inputs[1] if len(node.inputs) > 1 else None
    axes = () if given is None else ints(given)
    if count is None or axes is None or any(not -count <= axis < count for axis in axes):
        return None
    if not axes:
        return () if attribute(node, "noop_with_empty_axes", 0) else tuple(range(count))
    return tuple(sorted({axis % count for axis in axes}))


def _with_axes(
    node: Node, x: Value | None, axes: tuple[int, ...], keepdims: int, rewriter: Rewriter
) -> Value:
    where = rewriter.const(np.array(axes, np.int64), "axes")
    return rewriter.op(node.op_type, x, where, keepdims=None if keepdims else 0)


@rule(*_NESTED)
def reduction_of_reduction(node: Node, rewriter: Rewriter) -> Replacement:
    """ReduceSum(ReduceSum(x, a), b) = ReduceSum(x, a and b), and so for maximum, minimum, product, mean."""
    inner = made_for(node.inputs[0], node, node.op_type)
    if isinstance(inner, NoMatch):
        return inner
    first, second, count = _reduced_axes(inner), _reduced_axes(node), rank(inner.inputs[0])
    if not first or not second or count is None:
        return NoMatch("the axes are not known, or there are none")
    if node.op_type == "ReduceMean" and not is_float(node.inputs[0]):
        return NoMatch("a mean of integers is truncated", inner.name)
    keeps = bool(attribute(inner, "keepdims", 1))
    # Axes behind a reduction that drops its own count those that are left.
    left = [axis for axis in range(count) if keeps or axis not in first]
    both = tuple(sorted({*first, *(left[axis] for axis in second)}))
    keeps_last = bool(attribute(node, "keepdims", 1))
    # A full reduction that drops its axes drops those that the inner one kept, too.
    if keeps != keeps_last and (keeps_last or len(both) != count or len(second) != count):
        return NoMatch("one keeps its axes and the other drops them", inner.name)
    return _with_axes(node, inner.inputs[0], both, int(keeps_last), rewriter)


@rule("Squeeze")
def squeeze_of_reduction(node: Node, rewriter: Rewriter) -> Replacement:
    """Squeeze(Reduce<keepdims=1>(x, a), a) = Reduce<keepdims=0>(x, a)."""
    inner = made_for(node.inputs[0], node, *_REDUCTIONS)
    if isinstance(inner, NoMatch):
        return inner
    axes, count = _reduced_axes(inner), rank(inner.inputs[0])
    squeezed = ints(node.inputs[1]) if len(node.inputs) > 1 else None
    if not axes or count is None or squeezed is None:
        return NoMatch("the axes are not known, or there are none")
    if not attribute(inner, "keepdims", 1) or tuple(sorted(axis % count for axis in squeezed)) != axes:
        return NoMatch("it squeezes other axes than were reduced", inner.name)
    return _with_axes(inner, inner.inputs[0], axes, 0, rewriter)


@rule("Unsqueeze")
def unsqueeze_of_reduction(node: Node, rewriter: Rewriter) -> Replacement:
    """Unsqueeze(Reduce<keepdims=0>(x, a), a) = Reduce<keepdims=1>(x, a)."""
    inner = made_for(node.inputs[0], node, *_REDUCTIONS)
    if isinstance(inner, NoMatch):
        return inner
    axes, count, added = _reduced_axes(inner), rank(inner.inputs[0]), ints(node.inputs[1])
    if not axes or count is None or added is None:
        return NoMatch("the axes are not known, or there are none")
    result_rank = count - len(axes) + len(added)
    if attribute(inner, "keepdims", 1) or tuple(sorted(axis % result_rank for axis in added)) != axes:
        return NoMatch("it adds other axes than were reduced", inner.name)
    return _with_axes(inner, inner.inputs[0], axes, 1, rewriter)


@rule("Squeeze")
def squeeze_of_position(node: Node, rewriter: Rewriter) -> Replacement:
    """Squeeze(ArgMax<keepdims=1>(x)) = ArgMax<keepdims=0>(x) on the same axis."""
    inner = made_for(node.inputs[0], node, "ArgMax", "ArgMin")
    if isinstance(inner, NoMatch):
        return inner
    count, squeezed = rank(inner.inputs[0]), ints(node.inputs[1]) if len(node.inputs) > 1 else None
    axis = int(attribute(inner, "axis", 0))
    if count is None or squeezed is None or not attribute(inner, "keepdims", 1):
        return NoMatch("the axes are not known, or are dropped already")
    if [a % count for a in squeezed] != [axis % count]:
        return NoMatch("it squeezes other axes than were reduced", inner.name)
    return rewriter.op(inner.op_type, inner.inputs[0], **(attributes_of(inner) | {"keepdims": 0}))


@dataclasses.dataclass(frozen=True)
class MergeReductions(RulePass):
    """Reduce over several axes at once, and keep or drop them as what follows wants them.

    given:  float[N, 3, 4, 5] x
    before: y = Squeeze(ReduceSum(ReduceSum(x, [3]), [2]), [2, 3])
    after:  y = ReduceSum<keepdims = 0>(x, [2, 3])

    The inner reduction must have no other user.

    Spec: https://onnx.ai/onnx/operators/onnx__ReduceSum.html
    """

    exactness = Exactness.REASSOCIATES
    rules = (reduction_of_reduction, squeeze_of_reduction, unsqueeze_of_reduction, squeeze_of_position)
