"""Whether numbers that were observed fit into a narrower float type, and why not."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.ir import DataType, Node, Value
from graphopt.passes._matching import limits
from graphopt.passes._signature import TypedOperands
from graphopt.transform import ValueRange

ObservedValues = Mapping[Value, ValueRange]

DENOMINATOR = {"Div": 1}
"""Operands whose relative error is the result's, and which must not become 0."""


def misfit(
    node: Node, operands: TypedOperands, seen: ObservedValues, to: DataType, room: float
) -> str | None:
    """Why `node` cannot compute in `to` by what was seen of its operands and results, or None.

    Args:
        seen: the ranges of the values of the main graph; constants are not in it.
        room: how many times larger than seen numbers may get.
    """
    values = [(i, v) for i in operands.inputs if (v := node.inputs[i]) is not None and not v.is_initializer()]
    for index, value in [*values, *((-1, node.outputs[i]) for i in operands.outputs)]:
        found = seen.get(value)
        if found is None:
            return f"{value.name} was not observed (it is inside a body, or had no finite number)"
        reason = _misfit(value, found, to, room, index == DENOMINATOR.get(node.op_type))
        if reason is not None:
            return reason
    return None


def _misfit(value: Value, found: ValueRange, to: DataType, room: float, divides: bool) -> str | None:
    info = limits(to.numpy())
    largest, normal = float(info.max), float(info.tiny)
    kind = to.name.lower()
    if found.largest * room > largest:
        times = f" times {room:g} for room" if room != 1 else ""
        return f"{value.name} reaches {found.largest:.3g},{times} above the {largest:g} of {kind}"
    if 0 < found.largest < normal:
        return f"{value.name} stays below {found.largest:.3g}, where {kind} has few bits ({normal:.2g})"
    if divides and found.smallest < normal:
        return f"{value.name} divides and comes down to {found.smallest:.3g}, below {kind}'s {normal:.2g}"
    return None
