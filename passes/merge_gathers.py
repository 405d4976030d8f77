"""merge-gathers: one Gather in the place of several, a Slice, or the element itself."""

from __future__ import annotations

import dataclasses

import numpy as np

from graphopt.ir import Node, Value
from graphopt.ir.query import constant, ints, rank, same_dim, scalar
from graphopt.passes._axes import Bounds, axis_of, axis_size, known_size, slice_bounds, sliced
from graphopt.passes._matching import produced_by
from graphopt.passes.merge_slices import MAX_PARTS, part_at
from graphopt.transform import NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement


def _position(node: Node, size: int | None) -> int | NoMatch:
    """The one index that `node` takes, from the front if the `size` of the axis is known."""
    index = scalar(node.inputs[1])
    if index is None:
        return NoMatch("the index is no single constant", node.name)
    position = int(index)
    if size is None:
        return position
    if not -size <= position < size:
        return NoMatch("the index is outside of the axis", node.name)
    return position % size


def _taken(node: Node, part: Value, axis: int, index: int, rewriter: Rewriter) -> Value:
    """What `node` takes, but at `index` of `part`."""
    given = node.inputs[1]
    assert given is not None
    shape = (1,) * (rank(given) or 0)
    number = np.full(shape, index, np.int64)
    return rewriter.op("Gather", part, rewriter.const(number, "index"), axis=axis or None)


@rule("Gather")
def gather_of_concat(node: Node, rewriter: Rewriter) -> Replacement:
    """Gather(Concat(…, x, …), i) = Gather(x, j), if element i of the Concat is element j of x."""
    concat, axis = produced_by(node.inputs[0], "Concat"), axis_of(node)
    if concat is None or len(concat.inputs) > MAX_PARTS:
        return NoMatch("the operand is no Concat of few parts")
    if axis is None or axis_of(concat) != axis:
        return NoMatch("it is joined along another axis", concat.name)
    position = _position(node, known_size(node.inputs[0], axis))
    if isinstance(position, NoMatch):
        return position
    if position < 0:
        return NoMatch("it counts from an end that is not known", node.name)
    part, begin = part_at(concat, axis, position)
    if part is None:
        return NoMatch("the sizes of the parts before it are not known", concat.name)
    return _taken(node, part, axis, position - begin, rewriter)


@rule("Gather")
def gather_of_slice(node: Node, rewriter: Rewriter) -> Replacement:
    """Gather(Slice(x, a, b), i) = Gather(x, a + i), along one axis."""
    inner, axis = produced_by(node.inputs[0], "Slice"), axis_of(node)
    if inner is None or axis is None or inner.inputs[0] is None:
        return NoMatch("the operand is no Slice")
    bounds = slice_bounds(inner)
    if isinstance(bounds, NoMatch):
        return bounds
    if set(bounds) != {axis}:
        return NoMatch("other axes are sliced, too", inner.name)
    chosen, size = bounds[axis], known_size(inner.inputs[0], axis)
    position = _position(node, known_size(node.inputs[0], axis))
    if isinstance(position, NoMatch):
        return position
    if size is not None:
        index = chosen.within(size)[position]
    elif position >= 0 and chosen.start >= 0 and chosen.step > 0:
        index = chosen.start + position * chosen.step
    elif position < 0 and chosen.to_the_end and chosen.step == 1:
        index = position
    else:
        return NoMatch("which element it is depends on the size of the axis", inner.name)
    return _taken(node, inner.inputs[0], axis, index, rewriter)


@rule("Gather")
def gather_of_unsqueeze(node: Node, rewriter: Rewriter) -> Replacement:
    """Gather(Unsqueeze(x, axis), 0) = x for a scalar 0, and Unsqueeze(x, axis) for [0]."""
    inner, axis = produced_by(node.inputs[0], "Unsqueeze"), axis_of(node)
    if inner is None or axis is None or inner.inputs[0] is None:
        return NoMatch("the operand is no Unsqueeze")
    count, given, index = rank(node.inputs[0]), ints(inner.inputs[1]), scalar(node.inputs[1])
    if given is None or count is None:
        return NoMatch("the axes are not constant", inner.name)
    axes = {a % count for a in given}
    dimensions = rank(node.inputs[1])
    if axis not in axes or dimensions not in (0, 1) or index not in (0, -1):
        return NoMatch("it takes no single element of an axis of size 1", node.name)
    if dimensions == 1:
        return node.inputs[0] if node.inputs[0] is not None else NoMatch("no operand")
    others = sorted(a - (a > axis) for a in axes if a != axis)
    if not others:
        return inner.inputs[0]
    return rewriter.op("Unsqueeze", inner.inputs[0], rewriter.const(np.array(others, np.int64), "axes"))


@rule("Gather")
def gather_of_gather(node: Node, rewriter: Rewriter) -> Replacement:
    """Gather(Gather(x, i), j) = Gather(x, i[j]) for constant i and j, along one axis."""
    inner, axis = produced_by(node.inputs[0], "Gather"), axis_of(node)
    if inner is None or axis is None or axis_of(inner) != axis:
        return NoMatch("the operand is no Gather along that axis")
    first, second = constant(inner.inputs[1]), constant(node.inputs[1])
    if first is None or second is None or first.ndim != 1:
        return NoMatch("the indices are not constant, or no vector", inner.name)
    if second.size and not (-len(first) <= second.min() and second.max() < len(first)):
        return NoMatch("an index is outside of the axis", node.name)
    picked = np.asarray(first[second], first.dtype)
    return rewriter.op("Gather", inner.inputs[0], rewriter.const(picked, "indices"), axis=axis or None)


@rule("Gather")
def gather_of_neighbours(node: Node, rewriter: Rewriter) -> Replacement:
    """Gather(x, [a, a + 1, …, b]) = Slice(x, a, b + 1), and x if that is all of it."""
    axis, indices, x = axis_of(node), constant(node.inputs[1]), node.inputs[0]
    if axis is None or indices is None or indices.ndim != 1 or not indices.size or x is None:
        return NoMatch("the indices are no constant vector")
    size = known_size(x, axis)
    if size is None:
        return NoMatch("the size of the axis is not known", x.name)
    first = int(indices[0]) + (size if indices[0] < 0 else 0)
    steady = indices.size == 1 or bool((np.diff(indices.astype(np.int64)) == 1).all())
    if not steady or first < 0 or first + indices.size > size:
        return NoMatch("the indices are no neighbours inside the axis", node.name)
    if indices[0] < 0 <= indices[-1]:
        return NoMatch("the indices go around the end of the axis", node.name)
    return sliced(rewriter, x, {axis: Bounds(first, first + int(indices.size))})


@rule("Gather")
def gather_of_expand(node: Node, rewriter: Rewriter) -> Replacement:
    """Gather(Expand(x), i) = Gather(x, i) if x is not expanded along any other axis than i's."""
    inner, axis = produced_by(node.inputs[0], "Expand"), axis_of(node)
    x = None if inner is None else inner.inputs[0]
    if inner is None or axis is None or x is None or rank(x) != rank(node.inputs[0]):
        return NoMatch("the operand is no Expand to the same rank")
    if scalar(node.inputs[1]) is None or axis_size(x, axis) != 1:
        return NoMatch("it takes no single element of an expanded axis", node.name)
    assert x.shape is not None
    assert inner.outputs[0].shape is not None
    pairs = zip(x.shape.dims, inner.outputs[0].shape.dims, strict=True)
    if any(i != axis and not same_dim(a, b) for i, (a, b) in enumerate(pairs)):
        return NoMatch("another axis is expanded, too", inner.name)
    return _taken(node, x, axis, 0, rewriter)


@dataclasses.dataclass(frozen=True)
class MergeGathers(RulePass):
    """Gather from the source, by one set of indices, and as a Slice where the indices are neighbours.

    given:  float[4, N] x; float[2, N] z
    before: y = Gather(Concat<axis = 0>(x, z), 1)
    after:  y = Gather(x, 1)

    Indices are constant and inside of their axis.

    Spec: https://onnx.ai/onnx/operators/onnx__Gather.html
    """

    rules = (
        gather_of_concat,
        gather_of_slice,
        gather_of_unsqueeze,
        gather_of_gather,
        gather_of_expand,
        gather_of_neighbours,
    )
