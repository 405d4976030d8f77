"""merge-concats: Concats joined to one, and undone where their parts are taken apart again."""

from __future__ import annotations

import dataclasses

from graphopt.ir import Node, Value
from graphopt.ir.query import only_use, same_dim
from graphopt.passes._axes import Bounds, axis_of, axis_size, known_size, slice_bounds, sliced, split_sizes
from graphopt.passes._matching import produced_by
from graphopt.transform import NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

MAX_PARTS = 256
"""Concats of more parts stay as they are."""


@rule("Concat")
def concat_of_concat(node: Node, rewriter: Rewriter) -> Replacement:
    """Concat(a, Concat(b, c), d) = Concat(a, b, c, d), along one axis."""
    axis = axis_of(node)
    if axis is None or len(node.inputs) > MAX_PARTS:
        return NoMatch("the rank is not known, or there are many parts")
    parts: list[Value | None] = []
    for value in node.inputs:
        inner = produced_by(value, "Concat")
        # A Concat that others use stays: copied into every one that follows, parts would grow quadratically.
        joins = inner is not None and axis_of(inner) == axis and inner.graph is node.graph
        if inner is not None and joins and value is not None and only_use(value) is node:
            parts.extend(inner.inputs)
        else:
            parts.append(value)
    if len(parts) == len(node.inputs):
        return NoMatch("no operand is a Concat on that axis for it alone")
    return rewriter.op("Concat", *parts, axis=axis)


@rule("Concat")
def concat_of_split(node: Node, rewriter: Rewriter) -> Replacement:
    """Concat(a, *Split(x), b) = Concat(a, x, b), and x if that is all, along one axis."""
    axis = axis_of(node)
    if axis is None:
        return NoMatch("the rank is not known")
    parts: list[Value | None] = []
    position = 0
    while position < len(node.inputs):
        value = node.inputs[position]
        split = produced_by(value, "Split")
        taken = node.inputs[position : position + len(split.outputs)] if split is not None else ()
        if split is not None and tuple(taken) == tuple(split.outputs) and axis_of(split) == axis:
            parts.append(split.inputs[0])
            position += len(split.outputs)
        else:
            parts.append(value)
            position += 1
    if len(parts) == len(node.inputs):
        return NoMatch("no operands are all the parts of a Split on that axis")
    return parts[0] if len(parts) == 1 and parts[0] else rewriter.op("Concat", *parts, axis=axis)


@rule("Concat")
def concat_of_slices(node: Node, rewriter: Rewriter) -> Replacement:
    """Concat(Slice(x, a, b), Slice(x, b, c)) = Slice(x, a, c), and x if that is all of it."""
    axis = axis_of(node)
    if axis is None or len(node.inputs) > MAX_PARTS:
        return NoMatch("the rank is not known, or there are many parts")
    parts: list[Value | None] = []
    for run, piece in _runs(node, axis):
        if piece is None or len(run) == 1:
            parts.extend(run)
            continue
        x, bounds = piece
        joined = sliced(rewriter, x, {axis: bounds})
        if joined is not x and not any(v is not None and only_use(v) is node for v in run):
            return NoMatch("the Slices are used elsewhere, too", node.name)
        parts.append(joined)
    if len(parts) == len(node.inputs):
        return NoMatch("no operands are adjoining Slices of one value")
    return parts[0] if len(parts) == 1 and parts[0] else rewriter.op("Concat", *parts, axis=axis)


_Piece = tuple[Value, Bounds]


def _runs(node: Node, axis: int) -> list[tuple[list[Value | None], _Piece | None]]:
    """The operands of `node`, those together that take one stretch of one value along `axis`."""
    runs: list[tuple[list[Value | None], _Piece | None]] = []
    for value in node.inputs:
        piece = _piece(value, axis)
        before = runs[-1][1] if runs else None
        if piece is not None and before is not None and piece[0] is before[0]:
            joined = _joined(before[1], piece[1], known_size(piece[0], axis))
            if joined is not None:
                runs[-1] = ([*runs[-1][0], value], (piece[0], joined))
                continue
        runs.append(([value], piece))
    return runs


def _piece(value: Value | None, axis: int) -> _Piece | None:
    """(x, bounds) if `value` is a Slice of x along `axis` alone, in steps of 1."""
    producer = produced_by(value, "Slice")
    bounds = slice_bounds(producer) if producer is not None else None
    if producer is None or producer.inputs[0] is None or not isinstance(bounds, dict):
        return None
    chosen = bounds.get(axis)
    return (producer.inputs[0], chosen) if len(bounds) == 1 and chosen and chosen.step == 1 else None


def _joined(a: Bounds, b: Bounds, size: int | None) -> Bounds | None:
    """The bounds that take what `a` and then `b` take, if that adjoins."""
    if size is not None:
        first, second = a.within(size), b.within(size)
        adjoin = first and second and first.stop == second.start
        return Bounds(first.start, second.stop) if adjoin else None
    # Bounds of one sign keep their order on an axis of any size.
    first_ordered = a.start == 0 or (a.start <= a.end and (a.start < 0) == (a.end < 0))
    second_ordered = b.to_the_end or (b.start <= b.end and (b.start < 0) == (b.end < 0))
    return Bounds(a.start, b.end) if a.end == b.start and first_ordered and second_ordered else None


@rule("Concat")
def concat_of_nothing(node: Node, rewriter: Rewriter) -> Replacement:
    """Concat(a, empty, b) = Concat(a, b)."""
    axis = axis_of(node)
    if axis is None:
        return NoMatch("the rank is not known")
    parts = [v for v in node.inputs if axis_size(v, axis) != 0]
    if len(parts) == len(node.inputs) or not parts:
        return NoMatch("no operand is empty, or all are")
    return parts[0] if len(parts) == 1 and parts[0] else rewriter.op("Concat", *parts, axis=axis)


@rule("Split")
def split_of_concat(node: Node, rewriter: Rewriter) -> Replacement:
    """Split(Concat(a, b, c)) = a, b, c, or some of them joined, if it cuts where they meet."""
    concat = produced_by(node.inputs[0], "Concat")
    if concat is None:
        return NoMatch("the operand is no Concat")
    axis = axis_of(node)
    if axis is None or axis_of(concat) != axis or len(concat.inputs) > MAX_PARTS:
        return NoMatch("it is joined along another axis, or of many parts", concat.name)
    sizes = [axis_size(v, axis) for v in concat.inputs]
    wanted = [axis_size(v, axis) for v in node.outputs]
    if len(sizes) == len(wanted) and all(
        a is not None and b is not None and same_dim(a, b) for a, b in zip(sizes, wanted, strict=True)
    ):
        return list(concat.inputs)
    if node.inputs[0] is None or only_use(node.inputs[0]) is not node:
        return NoMatch("parts would be joined that stay joined for others, too", concat.name)
    results: list[Value | None] = []
    position = 0
    for value in split_sizes(node) or ():
        group: list[Value | None] = []
        length = 0
        while length < value and position < len(sizes):
            size = sizes[position]
            if not isinstance(size, int):
                return NoMatch("the size of a part is not known", concat.name)
            length += size
            group.append(concat.inputs[position])
            position += 1
        if length != value or not group:
            return NoMatch("it cuts through a part", concat.name)
        results.append(group[0] if len(group) == 1 else rewriter.op("Concat", *group, axis=axis))
    return results if results else NoMatch("the sizes are not known", node.name)


@rule("Split")
def split_with_one_part_used(node: Node, rewriter: Rewriter) -> Replacement:
    """Split(x) of which one part is used = Slice(x)."""
    used = [i for i, v in enumerate(node.outputs) if v.uses() or v.is_graph_output()]
    axis, sizes, x = axis_of(node), split_sizes(node), node.inputs[0]
    if len(used) != 1 or x is None:
        return NoMatch("several parts are used")
    if axis is None or sizes is None:
        return NoMatch("the sizes are not known", node.name)
    begin = sum(sizes[: used[0]])
    bounds = Bounds(begin, begin + sizes[used[0]])
    results: list[Value | None] = [None] * len(node.outputs)
    results[used[0]] = sliced(rewriter, x, {axis: bounds})
    return results


@dataclasses.dataclass(frozen=True)
class MergeConcats(RulePass):
    """Join Concats, and cancel Concat with the Split or the Slices that it undoes or that undo it.

    given:  float[4, N] x; float[2, N] z; float[3, N] w
    before: a, b = Split(x, [2, 2]); y = Concat<axis = 0>(a, b, Concat<axis = 0>(z, w))
    after:  y = Concat<axis = 0>(x, z, w)

    Spec: https://onnx.ai/onnx/operators/onnx__Concat.html
    """

    rules = (
        concat_of_concat,
        concat_of_split,
        concat_of_slices,
        concat_of_nothing,
        split_of_concat,
        split_with_one_part_used,
    )
