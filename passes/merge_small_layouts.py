"""merge-small-layouts: a short vector that is reordered several times is joined in the right order."""

from __future__ import annotations

import dataclasses

import numpy as np

from graphopt.ir import DataType, Node, Value
from graphopt.ir.query import attribute, constant, element_count, is_op, only_use, static_shape
from graphopt.passes._axes import slice_bounds
from graphopt.passes.merge_transposes import permutation
from graphopt.transform import NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

MAX_ELEMENTS = 64
MAX_DEPTH = 8
_RESHAPES = ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")


class _Trace:
    """Where the elements of a value come from: positions in `leaves`, laid end to end."""

    def __init__(self) -> None:
        self.leaves: list[Value] = []
        self.begins: list[int] = []
        self.size = 0
        self.moves = 0

    def follow(self, value: Value | None, depth: int = MAX_DEPTH) -> np.ndarray | None:
        """The positions of the elements of `value`, in its shape; None if its shape is not small."""
        shape = static_shape(value)
        if value is None or shape is None or element_count(shape) > MAX_ELEMENTS:
            return None
        node = value.producer()
        if node is not None and depth and (depth == MAX_DEPTH or only_use(value) is not None):
            found = self._through(node, shape, depth)
            if found is not None and found.shape == shape:
                self.moves += 1
                return found
        if len(shape) != 1:
            return None
        self.leaves.append(value)
        self.begins.append(self.size)
        self.size += shape[0]
        return np.arange(self.size - shape[0], self.size)

    def _through(self, node: Node, shape: tuple[int, ...], depth: int) -> np.ndarray | None:
        if is_op(node, "Concat"):
            parts = [self.follow(v, depth - 1) for v in node.inputs]
            known = [p for p in parts if p is not None]
            return np.concatenate(known, int(attribute(node, "axis"))) if len(known) == len(parts) else None
        if not is_op(node, "Gather", "Slice", "Transpose", *_RESHAPES):
            return None
        x = self.follow(node.inputs[0], depth - 1)
        if x is None:
            return None
        if is_op(node, *_RESHAPES):
            return x.reshape(shape)
        if is_op(node, "Transpose"):
            perm = permutation(node)
            return None if perm is None else x.transpose(perm)
        if is_op(node, "Gather"):
            indices, axis = constant(node.inputs[1], max_elements=MAX_ELEMENTS), attribute(node, "axis", 0)
            inside = indices is not None and (abs(indices + 0.5) < x.shape[axis]).all()
            return x.take(indices, axis) if inside and indices is not None else None
        bounds = slice_bounds(node)
        if not isinstance(bounds, dict):
            return None
        for axis, chosen in bounds.items():
            x = x.take(list(chosen.within(x.shape[axis])), axis)
        return x


@rule("Gather", "Reshape", "Slice")
def reordered_vector(node: Node, rewriter: Rewriter) -> Replacement:
    """Reshape(Transpose(Slice(Reshape(Concat(a, b, c, d))))) = Concat(d, c, b, a), as the four turn them."""
    output = node.outputs[0]
    shape = static_shape(output)
    if output.dtype not in (DataType.INT64, DataType.INT32) or shape is None or len(shape) != 1:
        return NoMatch("it makes no short vector of integers")
    trace = _Trace()
    positions = trace.follow(output)
    if positions is None or trace.moves < 3 or not positions.size:
        return NoMatch("fewer than three operators reorder it", node.name)
    parts = _parts(trace, [int(p) for p in positions], rewriter)
    if parts is None:
        return NoMatch("parts of a vector are taken apart", node.name)
    return parts[0] if len(parts) == 1 else rewriter.op("Concat", *parts, axis=0)


def _parts(trace: _Trace, positions: list[int], rewriter: Rewriter) -> list[Value] | None:
    """Whole leaves, and constants, that joined have the elements at `positions`."""
    parts: list[Value] = []
    numbers: list[np.ndarray] = []
    at = 0
    while at < len(positions):
        leaf, begin = _leaf_at(trace, positions[at])
        array = constant(leaf, max_elements=MAX_ELEMENTS)
        if array is not None:
            numbers.append(array[positions[at] - begin : positions[at] - begin + 1])
            at += 1
            if at < len(positions):
                continue
        if numbers:
            parts.append(rewriter.const(np.concatenate(numbers), "numbers"))
            numbers = []
        if array is not None:
            break
        (size,) = static_shape(leaf) or (0,)
        if positions[at : at + size] != list(range(begin, begin + size)):
            return None
        parts.append(leaf)
        at += size
    return parts


def _leaf_at(trace: _Trace, position: int) -> tuple[Value, int]:
    index = int(np.searchsorted(trace.begins, position, side="right")) - 1
    return trace.leaves[index], trace.begins[index]


@dataclasses.dataclass(frozen=True)
class MergeSmallLayouts(RulePass):
    """Join the parts of a short vector of integers in the order that several operators bring them into.

    That is what exporters make of the amounts of a Pad: reversed pairs, begins before ends.

    given:  int64[1] a; int64[1] b; int64[1] c; int64[1] d
    before: m = Reshape(Concat<axis = 0>(a, b, c, d), [-1, 2]); r = Slice(m, [-1], [-9], [0], [-1]);
            y = Reshape(Transpose(r), [-1])
    after:  y = Concat<axis = 0>(c, a, d, b)

    Spec: https://onnx.ai/onnx/operators/onnx__Pad.html
    """

    rules = (reordered_vector,)
