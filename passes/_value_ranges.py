"""Intervals that provably hold every number of an integer tensor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphopt.ir import DataType, Model, Node, Value
from graphopt.ir.query import attribute, constant, rank, static_shape, walk_graphs

Interval = tuple[int, int]
INT32: Interval = (-(1 << 31), (1 << 31) - 1)
INT64: Interval = (-(1 << 63), (1 << 63) - 1)
MAX_CONSTANT_ELEMENTS = 1 << 22

_OF_TYPE: dict[DataType, Interval] = {
    DataType.BOOL: (0, 1),
    DataType.INT8: (-128, 127),
    DataType.UINT8: (0, 255),
    DataType.INT16: (-(1 << 15), (1 << 15) - 1),
    DataType.UINT16: (0, (1 << 16) - 1),
    DataType.INT32: INT32,
}


def within(inner: Interval | None, outer: Interval) -> bool:
    """Whether `inner` is known and lies inside `outer`."""
    return inner is not None and outer[0] <= inner[0] and inner[1] <= outer[1]


def index_range(node: Node) -> Interval | None:
    """[-D, D - 1] for a node that indexes its first input along ``axis`` of static extent D."""
    found = rank(node.inputs[0])
    if found is None or found == 0 or node.inputs[0] is None or node.inputs[0].shape is None:
        return None
    extent = node.inputs[0].shape.dims[int(attribute(node, "axis", 0)) % found]
    return (-extent, extent - 1) if isinstance(extent, int) and within((-extent, extent), INT32) else None


class Ranges:
    """The intervals of all values of `model`, computed once in graph order."""

    def __init__(self, model: Model) -> None:
        self._known: dict[Value, Interval] = {}
        for graph in walk_graphs(model.graph):
            for node in graph:
                for value in node.outputs:
                    if value.dtype in _OF_TYPE:
                        self._known[value] = _OF_TYPE[value.dtype]
                if node.domain or not node.outputs:
                    continue
                found = self._of_node(node)
                if found is not None and within(found, INT64):
                    index = 1 if node.op_type == "TopK" else 0
                    self._known[node.outputs[index]] = found

    def fits(self, value: Value | None) -> bool:
        """Whether every number of `value` is proven to be an int32."""
        return within(self.of(value), INT32)

    def of(self, value: Value | None) -> Interval | None:
        """An interval that holds every number of `value`, or None."""
        if value is None:
            return None
        if value in self._known:
            return self._known[value]
        array = constant(value, max_elements=MAX_CONSTANT_ELEMENTS)
        if array is not None and array.dtype.kind in "iub":
            found = (int(array.min()), int(array.max())) if array.size else (0, 0)
            self._known[value] = found
            return found
        return _OF_TYPE.get(value.dtype) if value.dtype is not None else None

    def _of_node(self, node: Node) -> Interval | None:
        if node.op_type in _FIRST_OPERAND:
            return self.of(node.inputs[0])
        if node.op_type in ("Concat", "Where", "Max", "Min"):
            operands = [self.of(v) for v in (node.inputs[1:] if node.op_type == "Where" else node.inputs)]
            known = [o for o in operands if o is not None]
            if len(known) != len(operands) or not known:
                return None
            lows, highs = [k[0] for k in known], [k[1] for k in known]
            if node.op_type == "Max":
                return max(lows), max(highs)
            if node.op_type == "Min":
                return min(lows), min(highs)
            return min(lows), max(highs)
        handler = _TRANSFER.get(node.op_type)
        if handler is not None:
            return handler(node, self)
        combine = _BINARY.get(node.op_type)
        if combine is None or len(node.inputs) != 2:
            return None
        a, b = self.of(node.inputs[0]), self.of(node.inputs[1])
        return None if a is None or b is None else combine(a, b)


_FIRST_OPERAND = frozenset(
    {
        *("Expand", "Flatten", "Gather", "GatherElements", "Identity", "Reshape"),
        *("Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
    }
)


def _product(a: Interval, b: Interval) -> Interval:
    corners = [x * y for x in a for y in b]
    return min(corners), max(corners)


def _quotient(a: Interval, b: Interval) -> Interval | None:
    """Integer division truncates, so a positive divisor moves every number toward 0."""
    return (min(a[0], 0), max(a[1], 0)) if b[0] > 0 else None


_BINARY: dict[str, Callable[[Interval, Interval], Interval | None]] = {
    "Add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "Sub": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "Mul": _product,
    "Div": _quotient,
}


def _shape(node: Node, _: Ranges) -> Interval | None:
    dims = static_shape(node.inputs[0])
    if dims is None:
        return None
    if node.op_type == "Size":
        return (0, int(np.prod(dims, dtype=object)))
    return (min(dims, default=0), max(dims, default=0))


def _position(node: Node, _: Ranges) -> Interval | None:
    """A position along ``axis`` of the first input."""
    default = -1 if node.op_type == "TopK" else 0
    found, x = rank(node.inputs[0]), node.inputs[0]
    if found is None or found == 0 or x is None or x.shape is None:
        return None
    extent = x.shape.dims[int(attribute(node, "axis", default)) % found]
    return (0, max(extent - 1, 0)) if isinstance(extent, int) else None


def _non_zero(node: Node, _: Ranges) -> Interval | None:
    dims = static_shape(node.inputs[0])
    return None if dims is None else (0, max((d - 1 for d in dims), default=0))


def _cast(node: Node, ranges: Ranges) -> Interval | None:
    x, target = node.inputs[0], node.outputs[0].dtype
    if x is None or target not in (DataType.INT64, DataType.INT32):
        return None
    known = ranges.of(x)
    return known if within(known, INT32) else (INT32 if target == DataType.INT32 else None)


def _negated(node: Node, ranges: Ranges) -> Interval | None:
    known = ranges.of(node.inputs[0])
    return None if known is None else (-known[1], -known[0])


def _magnitude(node: Node, ranges: Ranges) -> Interval | None:
    known = ranges.of(node.inputs[0])
    return None if known is None else (0, max(abs(known[0]), abs(known[1])))


def _remainder(node: Node, ranges: Ranges) -> Interval | None:
    """Smaller than a positive divisor, and of its sign, or of the dividend's with ``fmod``."""
    divisor = ranges.of(node.inputs[1])
    if divisor is None or divisor[0] <= 0:
        return None
    return (1 - divisor[1] if attribute(node, "fmod", 0) else 0, divisor[1] - 1)


def _range(node: Node, ranges: Ranges) -> Interval | None:
    start, limit = ranges.of(node.inputs[0]), ranges.of(node.inputs[1])
    step = ranges.of(node.inputs[2])
    # The step is itself computed with once past the end.
    if start is None or limit is None or step is None or not within(step, INT32):
        return None
    reach = max(abs(step[0]), abs(step[1]))
    return min(start[0], limit[0]) - reach, max(start[1], limit[1]) + reach


def _clip(node: Node, ranges: Ranges) -> Interval | None:
    known = ranges.of(node.inputs[0])
    bounds = [ranges.of(v) for v in node.inputs[1:] if v is not None]
    if known is None or any(b is None for b in bounds):
        return None
    found = [known, *(b for b in bounds if b is not None)]
    return min(f[0] for f in found), max(f[1] for f in found)


_TRANSFER: dict[str, Callable[[Node, Ranges], Interval | None]] = {
    "Shape": _shape,
    "Size": _shape,
    "ArgMax": _position,
    "ArgMin": _position,
    "TopK": _position,
    "NonZero": _non_zero,
    "Cast": _cast,
    "Neg": _negated,
    "Abs": _magnitude,
    "Range": _range,
    "Clip": _clip,
    "Mod": _remainder,
}
