"""What values an input may take, found from how the graph uses it.

An input is followed through operators that move its values without changing them. Where it arrives
tells what it is: an index into a table, a shape, a mask, a count.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from graphopt.ir import Node, Value
from graphopt.ir.query import attribute, constant, scalar

Role = Literal["mask", "positive", "zeros", "ones", "arange", "huge", "reshape", "small", "scale", "false"]


@dataclasses.dataclass
class Use:
    """What is known about the values of one input.

    Attributes:
        below: exclusive upper bound of an index, None without one.
        at_least: inclusive lower bound.
        role: a special meaning, see :data:`Role`.
        value: one constant that fits (a count, a size), None without one.
    """

    below: int | None = None
    at_least: int = 0
    role: Role | None = None
    value: int | None = None

    def bound(self, below: int | None, shift: int) -> None:
        """Require ``0 <= x + shift < below``; a bound that nothing satisfies is no index bound."""
        if below is None:
            return
        low, high = max(0, -shift), below - shift
        if high > low:
            self.below = high if self.below is None else min(self.below, high)
            self.at_least = max(self.at_least, low)


_MOVES = frozenset(
    {"Cast", "Concat", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile"}
    | {"Transpose", "Unsqueeze"}
)
"""Operators whose results are the values of their first operand (all of them, for Concat)."""

_ROLES: dict[tuple[str, int], Role] = {
    ("BatchNormalization", 4): "positive",
    ("Log", 0): "positive",
    ("Sqrt", 0): "positive",
    ("Div", 1): "positive",
    ("Mod", 1): "positive",
    ("Reciprocal", 0): "positive",
    ("QuantizeLinear", 1): "scale",
    ("DequantizeLinear", 1): "scale",
    ("Dropout", 2): "false",
    ("Where", 0): "mask",
    ("Reshape", 1): "reshape",
    ("Expand", 1): "ones",
    ("Tile", 1): "ones",
    ("Resize", 2): "ones",
    ("Upsample", 1): "ones",
    ("Pad", 1): "zeros",
    ("Slice", 1): "zeros",
    ("Slice", 2): "huge",
    ("Slice", 3): "arange",
    ("Slice", 4): "ones",
    ("Unsqueeze", 1): "arange",
    ("Squeeze", 1): "arange",
    ("CumSum", 1): "zeros",
    ("Trilu", 1): "zeros",
    ("BitShift", 1): "small",
    ("Pow", 1): "small",
    **{(f"Reduce{kind}", 1): "arange" for kind in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2")},
}

_VALUES: dict[tuple[str, int], int] = {
    ("ConstantOfShape", 0): 2,
    ("Loop", 0): 3,
    ("NonMaxSuppression", 2): 3,
    ("OneHot", 1): 5,
    ("Range", 0): 0,
    ("Range", 1): 4,
    ("Range", 2): 1,
    ("TopK", 1): 1,
}

Sizes = Mapping[str, int]


def find_use(value: Value, sizes: Sizes) -> Use:
    """Everything that the graph's uses of input `value` say about its values.

    Args:
        value: an input of the main graph.
        sizes: the size that each symbolic dimension will have.
    """
    use = Use()
    queue: list[tuple[Value, int]] = [(value, 0)]
    seen = {value}
    while queue:
        current, shift = queue.pop()
        for consumer, index in current.uses():
            _learn(use, consumer, index, shift, sizes)
            for result, moved in _moved(consumer, index, shift):
                if result not in seen:
                    seen.add(result)
                    queue.append((result, moved))
    return use


def _moved(node: Node, index: int, shift: int) -> list[tuple[Value, int]]:
    """The results of `node` that hold the values of its operand `index`, and what was added to them."""
    if node.domain:
        return []
    if node.op_type in _MOVES and (index == 0 or node.op_type == "Concat"):
        return [(value, shift) for value in node.outputs]
    if node.op_type == "Where" and index > 0:
        return [(node.outputs[0], shift)]
    if node.op_type in ("Add", "Sub") and (node.op_type == "Add" or index == 0):
        other = scalar(node.inputs[1 - index])
        if isinstance(other, int) and not isinstance(other, bool):
            return [(node.outputs[0], shift + (other if node.op_type == "Add" else -other))]
    return []


def _learn(use: Use, node: Node, index: int, shift: int, sizes: Sizes) -> None:
    key = (node.op_type, index)
    bound = _INDICES.get(key)
    if bound is not None:
        for below in bound(node, sizes):
            use.bound(below, shift)
    elif _is_mask(node, index):
        use.role = use.role or "mask"
    elif node.domain:
        return
    elif key in _ROLES:
        use.role = use.role or _ROLES[key]
    elif key in _VALUES:
        use.value = _VALUES[key]
    elif node.op_type == "Resize" and index == 3:
        use.value = 8
    elif node.op_type == "ReverseSequence" and index == 1:
        use.bound(_size(node.inputs[0], int(attribute(node, "time_axis", 0)), sizes), shift)
        use.at_least = max(use.at_least, 1)
    elif node.op_type in ("LSTM", "GRU", "RNN") and index == 4:
        length = _size(node.inputs[0], 1 if attribute(node, "layout", 0) else 0, sizes)
        use.bound(None if length is None else length + 1, shift)
        use.at_least = max(use.at_least, 1)


def _is_mask(node: Node, index: int) -> bool:
    """``1 - x`` and ``x == 0`` or ``x == 1`` are what attention masks go through."""
    if node.op_type == "Sub" and index == 1:
        array = constant(node.inputs[0], max_elements=1)
        return array is not None and bool(np.all(array == 1))
    if node.op_type == "Equal":
        array = constant(node.inputs[1 - index], max_elements=1)
        return array is not None and array.dtype.kind in "iu" and bool(np.all((array == 0) | (array == 1)))
    return False


def _size(value: Value | None, axis: int, sizes: Sizes) -> int | None:
    if value is None or value.shape is None or not -len(value.shape) <= axis < len(value.shape):
        return None
    dim = value.shape.dims[axis]
    return dim if isinstance(dim, int) else sizes.get(str(dim.value))


def _axis_of_data(node: Node, sizes: Sizes) -> list[int | None]:
    return [_size(node.inputs[0], int(attribute(node, "axis", 0)), sizes)]


def _leading_dims_of_data(node: Node, sizes: Sizes) -> list[int | None]:
    """Index tuples: every number is bounded by the smallest dimension that any of them could index."""
    indices = node.inputs[1]
    count = _size(indices, -1, sizes)
    first = int(attribute(node, "batch_dims", 0))
    return [_size(node.inputs[0], first + axis, sizes) for axis in range(min(count or 0, 32))]


def _one_hot_depth(node: Node, _: Sizes) -> list[int | None]:
    depth = scalar(node.inputs[1])
    return [5 if depth is None else int(depth)]


def _table(position: int) -> Callable[[Node, Sizes], list[int | None]]:
    def rows(node: Node, sizes: Sizes) -> list[int | None]:
        return [_size(node.inputs[position], 0, sizes) if position < len(node.inputs) else None]

    return rows


_INDICES: dict[tuple[str, int], Callable[[Node, Sizes], list[int | None]]] = {
    ("Gather", 1): _axis_of_data,
    ("GatherElements", 1): _axis_of_data,
    ("ScatterElements", 1): _axis_of_data,
    ("TensorScatter", 2): lambda node, sizes: [1],
    ("GatherND", 1): _leading_dims_of_data,
    ("ScatterND", 1): _leading_dims_of_data,
    ("OneHot", 0): _one_hot_depth,
    ("EmbedLayerNormalization", 0): _table(2),
    ("EmbedLayerNormalization", 1): _table(4),
    ("EmbedLayerNormalization", 8): _table(3),
}
"""Operands that are indices, with what bounds them."""
