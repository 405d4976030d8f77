"""Slices, Splits and Concats as intervals along axes: shared by the passes that merge them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from graphopt.ir import Node, SymbolicDim, Value
from graphopt.ir.query import attribute, ints, rank
from graphopt.ir.shape_claims import slice_range
from graphopt.transform import NoMatch, Rewriter

TO_THE_END = (1 << 31) - 1
"""The specification's INT_MAX: from it on, a Slice goes to the end of an axis of any size."""


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What a Slice takes along one axis, as stated: bounds may be negative or beyond the axis."""

    start: int
    end: int
    step: int = 1

    @property
    def to_the_end(self) -> bool:
        """Whether no end is cut off an axis of any size."""
        return self.end >= TO_THE_END

    def within(self, size: int) -> range:
        """The indices that are taken of an axis of `size`."""
        return slice_range(size, self.start, self.end, self.step)


def bounds_of(indices: range, size: int) -> Bounds:
    """The bounds with which a Slice takes `indices` of an axis of `size`."""
    if not indices:
        return Bounds(0, 0)
    end = indices[-1] + (1 if indices.step > 0 else -1)
    # Going backward, an end of -1 would count from the end of the axis.
    return Bounds(indices[0], end if end >= 0 else -size - 1, indices.step)


def axis_size(value: Value | None, axis: int) -> int | SymbolicDim | None:
    """The size of `value` along `axis`, None if its rank is unknown."""
    if value is None or value.shape is None or not -len(value.shape) <= axis < len(value.shape):
        return None
    dim: int | SymbolicDim = value.shape.dims[axis]
    return dim


def known_size(value: Value | None, axis: int) -> int | None:
    """The size of `value` along `axis` if it is a number."""
    size = axis_size(value, axis)
    return size if isinstance(size, int) else None


def axis_of(node: Node, default: int = 0) -> int | None:
    """The attribute `axis` of `node`, counted from the front of its first operand; None if unknown."""
    count = rank(node.inputs[0]) if node.inputs else None
    axis = int(attribute(node, "axis", default))
    if count is None or not -count <= axis < count:
        return None
    return axis % count


def slice_bounds(node: Node) -> dict[int, Bounds] | NoMatch:
    """The bounds of a Slice by axis, if all of them are constant."""
    count = rank(node.inputs[0])
    given = [ints(v) if v is not None else None for v in (*node.inputs[1:5], None, None)][:4]
    starts, ends, axes, steps = given
    missing = [len(node.inputs) <= i or node.inputs[i] is None for i in (3, 4)]
    if count is None or starts is None or ends is None:
        return NoMatch("the bounds of the Slice are not constant", node.name)
    if missing[0]:
        axes = tuple(range(len(starts)))
    if missing[1]:
        steps = (1,) * len(starts)
    if axes is None or steps is None or not len(starts) == len(ends) == len(axes) == len(steps):
        return NoMatch("the axes or steps of the Slice are not constant", node.name)
    if 0 in steps or any(not -count <= axis < count for axis in axes):
        return NoMatch("the axes or steps of the Slice are not valid", node.name)
    found = {
        axis % count: Bounds(start, end, step)
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)
    }
    return found if len(found) == len(axes) else NoMatch("an axis is sliced twice", node.name)


def sliced(rewriter: Rewriter, x: Value, bounds: Mapping[int, Bounds]) -> Value:
    """Slice(x, bounds), or x itself if nothing is cut off."""
    axes = sorted(axis for axis, b in bounds.items() if not _is_everything(b, known_size(x, axis)))
    if not axes:
        return x
    columns = [
        ("starts", [bounds[a].start for a in axes]),
        ("ends", [bounds[a].end for a in axes]),
        ("axes", axes),
    ]
    if any(bounds[a].step != 1 for a in axes):
        columns.append(("steps", [bounds[a].step for a in axes]))
    return rewriter.op("Slice", x, *(rewriter.const(np.array(c, np.int64), stem) for stem, c in columns))


def _is_everything(bounds: Bounds, size: int | None) -> bool:
    if size is None:
        return bounds.start == 0 and bounds.to_the_end and bounds.step == 1
    return bounds.within(size) == range(size)


def pads_by_axis(pad: Node) -> dict[int, tuple[int, int]] | None:
    """(before, after) by axis, of the axes that a Pad changes; None if they are not constant."""
    count, amounts = rank(pad.inputs[0]), ints(pad.inputs[1])
    given = pad.inputs[3] if len(pad.inputs) > 3 else None
    axes = tuple(range(count or 0)) if given is None else ints(given)
    if count is None or amounts is None or axes is None or len(amounts) != 2 * len(axes):
        return None
    if any(not -count <= axis < count for axis in axes):
        return None
    pairs = zip(amounts[: len(axes)], amounts[len(axes) :], strict=True)
    by_axis = {axis % count: pair for axis, pair in zip(axes, pairs, strict=True)}
    return {axis: pair for axis, pair in by_axis.items() if any(pair)} if len(by_axis) == len(axes) else None


def split_sizes(node: Node) -> list[int] | None:
    """The sizes of the parts of a Split, if they are known and fill the axis."""
    axis = axis_of(node)
    if axis is None:
        return None
    size = known_size(node.inputs[0], axis)
    given = node.inputs[1] if len(node.inputs) > 1 else None
    if given is not None:
        stated = ints(given)
        sizes = None if stated is None else list(stated)
    elif size is None:
        return None
    else:
        chunk, last = -(-size // len(node.outputs)), len(node.outputs) - 1
        # The last part may be smaller; what becomes of parts behind the end is not defined.
        sizes = [*[chunk] * last, size - last * chunk]
    if sizes is None or len(sizes) != len(node.outputs) or any(s < 0 for s in sizes):
        return None
    return sizes if size is None or sum(sizes) == size else None


def offsets(sizes: Sequence[int]) -> list[int]:
    """Where each of consecutive parts of `sizes` begins, and where the last one ends."""
    found = [0]
    for size in sizes:
        found.append(found[-1] + size)
    return found
