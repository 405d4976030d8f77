"""fold-sequences: sequences that are taken apart where they were made become tensors."""

from __future__ import annotations

import dataclasses

import numpy as np

from graphopt.ir import Node
from graphopt.ir.query import attribute, constant, rank, scalar
from graphopt.passes._matching import produced_by
from graphopt.transform import NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

MAX_PARTS = 64
"""A Split into more parts would be larger than what it replaces."""


@rule("SequenceAt")
def part_of_split(node: Node, rewriter: Rewriter) -> Replacement:
    """SequenceAt(SplitToSequence(x, sizes), i) = Split(x, sizes)[i]."""
    made = produced_by(node.inputs[0], "SplitToSequence")
    if made is None or made.inputs[0] is None:
        return NoMatch("the sequence is not made by SplitToSequence")
    x, count = made.inputs[0], rank(made.inputs[0])
    axis = int(attribute(made, "axis", 0))
    if x.shape is None or count is None or not -count <= axis < count:
        return NoMatch("the rank is not known", x.name)
    sizes = _sizes(made, x.shape.dims[axis % count])
    if isinstance(sizes, NoMatch):
        return sizes
    position = _position(node, len(sizes))
    if position is None:
        return NoMatch("the position is not a constant within the sequence", node.name)
    if (len(made.inputs) < 2 or made.inputs[1] is None) and not attribute(made, "keepdims", 1):
        return rewriter.op("Gather", x, rewriter.const(np.int64(position), "position"), axis=axis)
    parts = rewriter.ops(
        "Split", x, rewriter.const(np.array(sizes, np.int64), "sizes"), outputs=len(sizes), axis=axis
    )
    return parts[position]


def _sizes(made: Node, dim: object) -> list[int] | NoMatch:
    """The sizes of the parts that SplitToSequence `made` cuts an axis of size `dim` into."""
    given = made.inputs[1] if len(made.inputs) > 1 else None
    split = None if given is None else constant(given)
    if given is not None and split is None:
        return NoMatch("the sizes of the parts are not constant", given.name)
    if split is not None and split.ndim == 1:
        sizes = [int(size) for size in split]
        if not isinstance(dim, int) or sum(sizes) != dim or any(size < 0 for size in sizes):
            return NoMatch("the sizes do not add up to a known dimension", made.name)
    else:
        size = 1 if split is None else int(split)
        if not isinstance(dim, int) or dim <= 0 or size <= 0:
            return NoMatch("the dimension that is split is not known", made.name)
        if -(-dim // size) > MAX_PARTS:
            return NoMatch("there are very many parts", made.name)
        sizes = [min(size, dim - start) for start in range(0, dim, size)]
    return sizes if 0 < len(sizes) <= MAX_PARTS else NoMatch("there are very many parts", made.name)


@rule("SequenceAt")
def element_of_construct(node: Node, _: Rewriter) -> Replacement:
    """SequenceAt(SequenceConstruct(a, b, …), i) is the i-th of a, b, …."""
    made = produced_by(node.inputs[0], "SequenceConstruct")
    if made is None:
        return NoMatch("the sequence is not made by SequenceConstruct")
    position = _position(node, len(made.inputs))
    element = made.inputs[position] if position is not None else None
    return element or NoMatch("the position is not a constant within the sequence", node.name)


@rule("ConcatFromSequence")
def concat_of_construct(node: Node, rewriter: Rewriter) -> Replacement:
    """ConcatFromSequence(SequenceConstruct(a, b, …)) = Concat(a, b, …), of unsqueezed ones for a new axis."""
    made = produced_by(node.inputs[0], "SequenceConstruct")
    if made is None:
        return NoMatch("the sequence is not made by SequenceConstruct")
    axis = int(attribute(node, "axis"))
    parts = list(made.inputs)
    if attribute(node, "new_axis", 0):
        axes = rewriter.const(np.array([axis], np.int64), "axes")
        parts = [rewriter.op("Unsqueeze", part, axes) for part in parts]
    return rewriter.op("Concat", *parts, axis=axis)


@rule("ConcatFromSequence")
def concat_of_split(node: Node, _: Rewriter) -> Replacement:
    """ConcatFromSequence(SplitToSequence(x)) = x, along the same axis."""
    made = produced_by(node.inputs[0], "SplitToSequence")
    if made is None or made.inputs[0] is None:
        return NoMatch("the sequence is not made by SplitToSequence")
    x, count = made.inputs[0], rank(made.inputs[0])
    whole = len(made.inputs) > 1 or bool(attribute(made, "keepdims", 1))
    if count is None or attribute(node, "new_axis", 0) or not whole:
        return NoMatch("the parts are not joined as they were", node.name)
    if (int(attribute(made, "axis", 0)) - int(attribute(node, "axis"))) % count:
        return NoMatch("the parts are joined along another axis", node.name)
    return x


@rule("SequenceLength")
def length_of_construct(node: Node, rewriter: Rewriter) -> Replacement:
    """SequenceLength(SequenceConstruct(a, b, …)) is the number of its elements."""
    made = produced_by(node.inputs[0], "SequenceConstruct")
    if made is None:
        return NoMatch("the sequence is not made by SequenceConstruct")
    return rewriter.const(np.int64(len(made.inputs)), "length")


def _position(node: Node, count: int) -> int | None:
    """The constant position that SequenceAt `node` takes of `count` elements, not negative."""
    found = scalar(node.inputs[1])
    if found is None or not -count <= int(found) < count:
        return None
    return int(found) % count


@dataclasses.dataclass(frozen=True)
class FoldSequences(RulePass):
    """Make tensors of sequences whose elements are known, as exporters write chunks and stacks.

    given:  float[N, 256] x; => y
    before: s = SplitToSequence<axis = -1>(x, 128); y = SequenceAt(s, 1)
    after:  a, y = Split<axis = -1>(x, [128, 128])

    The sizes of the parts and the positions are constant. Each SequenceAt gets a Split of its own, which
    eliminate-common-subexpressions joins.

    Spec: https://onnx.ai/onnx/operators/onnx__SplitToSequence.html (since version 11)
    """

    rules = (part_of_split, element_of_construct, concat_of_construct, concat_of_split, length_of_construct)
