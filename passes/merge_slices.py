"""merge-slices: one Slice in the place of several, and none where its operand has the part already."""

from __future__ import annotations

import dataclasses

from graphopt.ir import Node, Value
from graphopt.ir.query import attribute, only_use
from graphopt.passes._axes import (
    Bounds,
    axis_of,
    bounds_of,
    known_size,
    pads_by_axis,
    slice_bounds,
    sliced,
)
from graphopt.passes._matching import produced_by
from graphopt.transform import NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

LOWEST = -(1 << 63)

MAX_PARTS = 256
"""A Concat of more parts is not searched for the one that is wanted."""


@rule("Slice")
def slice_of_slice(node: Node, rewriter: Rewriter) -> Replacement:
    """Slice(Slice(x, a), b) = Slice(x, a then b), along the same axes or others."""
    inner = produced_by(node.inputs[0], "Slice")
    if inner is None:
        return NoMatch("the operand is no Slice")
    if node.inputs[0] is None or only_use(node.inputs[0]) is not node:
        return NoMatch("the inner Slice is used elsewhere, too: its parts may make up a Split", inner.name)
    first, second = slice_bounds(inner), slice_bounds(node)
    if isinstance(first, NoMatch):
        return first
    if isinstance(second, NoMatch):
        return second
    x = inner.inputs[0]
    if x is None:
        return NoMatch("the Slice has no operand", inner.name)
    merged = dict(first)
    for axis, bounds in second.items():
        both = compose(first[axis], bounds, known_size(x, axis)) if axis in first else bounds
        if both is None:
            return NoMatch("what is left depends on the size of the axis", x.name)
        merged[axis] = both
    return sliced(rewriter, x, merged)


def compose(first: Bounds, second: Bounds, size: int | None) -> Bounds | None:
    """The bounds that take at once what `second` takes of what `first` takes of an axis.

    None if they depend on the size of the axis, and that is not known.
    """
    if size is not None:
        taken = first.within(size)
        left = second.within(len(taken))
        if not left:
            return Bounds(0, 0)
        start, step = taken[left[0]], taken.step * left.step
        return bounds_of(range(start, start + step * len(left), step), size)
    if first.step != 1 or second.step != 1:
        return None
    if second.start == 0 and second.to_the_end:
        return first
    if first.start < 0 or second.start < 0:
        return None
    start = min(first.start + second.start, -LOWEST - 1)
    if second.to_the_end:
        return Bounds(start, first.end)
    if second.end >= 0 and first.end >= 0:
        return Bounds(start, min(first.end, first.start + second.end))
    if second.end < 0 and first.to_the_end:
        return Bounds(start, second.end)
    if second.end < 0 and first.end < 0:
        return Bounds(start, max(first.end + second.end, LOWEST))  # before the start in any case
    return None


@rule("Slice")
def slice_of_concat(node: Node, rewriter: Rewriter) -> Replacement:
    """Slice(Concat(…, x, …)) = Slice(x), or x, if nothing but a part of x is taken."""
    concat = produced_by(node.inputs[0], "Concat")
    if concat is None or len(concat.inputs) > MAX_PARTS:
        return NoMatch("the operand is no Concat of few parts")
    axis, bounds = axis_of(concat), slice_bounds(node)
    if isinstance(bounds, NoMatch):
        return bounds
    if axis is None or axis not in bounds:
        return NoMatch("another axis is joined than is sliced", concat.name)
    chosen = bounds[axis]
    if chosen.step < 1:
        return NoMatch("it goes backward", node.name)
    total = known_size(concat.outputs[0], axis)
    if total is not None:
        chosen = bounds_of(chosen.within(total), total)
    if chosen.start < 0 or chosen.end < 0 or chosen.start >= chosen.end:
        return NoMatch("where it begins and ends in the Concat is not known", node.name)
    part, begin = part_at(concat, axis, chosen.start)
    size = known_size(part, axis)
    if part is None or size is None or chosen.end > begin + size:
        return NoMatch("it takes of several parts", concat.name)
    others = {a: b for a, b in bounds.items() if a != axis}
    if chosen.start > begin or chosen.end < begin + size or chosen.step != 1:
        others[axis] = Bounds(chosen.start - begin, chosen.end - begin, chosen.step)
    return sliced(rewriter, part, others)


def part_at(concat: Node, axis: int, position: int) -> tuple[Value | None, int]:
    """(the operand of `concat` that has `position`, where it begins), by the known sizes before it."""
    begin = 0
    for part in concat.inputs:
        size = known_size(part, axis)
        if size is None:
            return None, begin
        if position < begin + size:
            return part, begin
        begin += size
    return None, begin


@rule("Slice")
def slice_of_shape(node: Node, rewriter: Rewriter) -> Replacement:
    """Slice(Shape(x), a, b) = Shape(x, start=a, end=b)."""
    shape, bounds = produced_by(node.inputs[0], "Shape"), slice_bounds(node)
    size = known_size(node.inputs[0], 0)
    if shape is None or isinstance(bounds, NoMatch) or size is None:
        return NoMatch("the operand is no Shape, or the bounds are not constant")
    taken = bounds[0].within(size)
    if not taken or taken.step != 1 or shape.inputs[0] is None or shape.inputs[0].shape is None:
        return NoMatch("it takes nothing, or in steps", node.name)
    before = range(len(shape.inputs[0].shape))[attribute(shape, "start", 0) :].start
    return rewriter.op("Shape", shape.inputs[0], start=before + taken.start, end=before + taken.stop)


@rule("Slice")
def slice_of_pad(node: Node, rewriter: Rewriter) -> Replacement:
    """Slice(Pad(x)) = Slice(x), or x, if nothing of the padding is taken."""
    pad = produced_by(node.inputs[0], "Pad")
    if pad is None:
        return NoMatch("the operand is no Pad")
    pads, bounds = pads_by_axis(pad), slice_bounds(node)
    x = pad.inputs[0]
    if pads is None or x is None:
        return NoMatch("the amounts of the Pad are not constant", pad.name)
    if isinstance(bounds, NoMatch):
        return bounds
    kept = {axis: b for axis, b in bounds.items() if axis not in pads}
    for axis, (begin, end) in pads.items():
        size = known_size(x, axis)
        if begin < 0 or end < 0 or size is None or axis not in bounds:
            return NoMatch("the Pad crops, or what of it is taken is not known", pad.name)
        taken = bounds[axis].within(size + begin + end)
        if not taken or min(taken) < begin or max(taken) >= begin + size:
            return NoMatch("padding is taken", pad.name)
        kept[axis] = bounds_of(range(taken.start - begin, taken.stop - begin, taken.step), size)
    return sliced(rewriter, x, kept)


@dataclasses.dataclass(frozen=True)
class MergeSlices(RulePass):
    """Merge Slices that follow each other, and take from the source what a Concat or Pad wrapped.

    Bounds are constant. Along an axis of unknown size they are merged where the result does not
    depend on the size; a Slice of a Concat or Pad must stay clear of the other parts.

    given:  float[N] x
    before: y = Slice(Slice(x, [2], [9]), [1], [3])
    after:  y = Slice(x, [3], [5], [0])

    Spec: https://onnx.ai/onnx/operators/onnx__Slice.html
    """

    rules = (slice_of_slice, slice_of_concat, slice_of_shape, slice_of_pad)
