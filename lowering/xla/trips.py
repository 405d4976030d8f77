"""How often a loop of a compiled module runs, where the module itself says so.

The compiler writes a trip count on loops that it recognises. It does not recognise a 64-bit counter,
which it has split into two halves of 32 bits by then. So the loop's scalars are followed here: from
their initial constants through the body, as long as they depend on nothing else.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping

from graphopt.lowering.xla.hlo import Computations, Instruction, Shape, bits_of

MAX_TRIPS = 1 << 16
"""Loops of more turns are not followed."""

Number = int | None  # None: not known
Values = tuple[Number, ...]

_SAME = frozenset(
    {"copy", "bitcast", "convert", "bitcast-convert", "reshape", "broadcast", "copy-done", "opt-barrier"}
)
_BINARY: dict[str, Callable[[int, int], int]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "minimum": min,
    "maximum": max,
}
_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "LT": operator.lt,
    "LE": operator.le,
    "GT": operator.gt,
    "GE": operator.ge,
    "EQ": operator.eq,
    "NE": operator.ne,
}


def trip_count(loop: Instruction, items: Mapping[str, Instruction], modules: Computations) -> int | None:
    """The turns of a ``while``: as the compiler says, or as its counters tell; None if neither does.

    Args:
        items: the instructions of the computation that holds it, by name.
    """
    if loop.trips is not None:
        return loop.trips
    names = [loop.attributes.get(key, "").lstrip("%") for key in ("condition", "body")]
    if not all(name in modules for name in names) or not loop.operands:
        return None
    state = _initial(loop.operands[0], items)
    condition, body = (_relevant(modules[name]) for name in names)
    for turn in range(MAX_TRIPS):
        goes_on = _run(condition, state, modules)[0:1]
        if not goes_on or goes_on[0] is None:
            return None
        if not goes_on[0]:
            return turn
        following = _run(body, state, modules)
        if following == state:
            return None
        state = following
    return None


def _initial(name: str, items: Mapping[str, Instruction]) -> Values:
    """The loop's initial values, as far as they are constants."""
    source = items.get(name)
    if source is None:
        return ()
    if source.opcode != "tuple":
        return tuple(None for _ in source.shapes)
    return tuple(_constant(operand, items) for operand in source.operands)


def _constant(name: str, items: Mapping[str, Instruction], depth: int = 0) -> Number:
    item = items.get(name)
    if item is None or depth > 16:
        return None
    if item.opcode == "constant":
        return _literal(item)
    if item.opcode in _SAME and item.operands:
        return _constant(item.operands[0], items, depth + 1)
    if item.opcode == "copy-start" and item.operands:
        return _constant(item.operands[0], items, depth + 1)
    return None


def _literal(item: Instruction) -> Number:
    if item.dims:
        return None
    text = item.literal.strip()
    if text in ("true", "false"):
        return int(text == "true")
    try:
        return int(text)
    except ValueError:
        return None


def _relevant(items: list[Instruction]) -> list[Instruction]:
    """Without what makes tensors: those are followed as unknown anyway."""
    return [i for i in items if i.root or len(i.shapes) > 1 or not i.dims]


def _run(items: list[Instruction], arguments: Values, modules: Computations) -> Values:
    """The values of the root, for the values of the one tuple that is its parameter."""
    found: dict[str, Values] = {}
    for item in items:
        found[item.name] = _evaluate(item, found, arguments, modules)
        if item.root:
            return found[item.name]
    return ()


def _evaluate(
    item: Instruction, found: Mapping[str, Values], arguments: Values, modules: Computations
) -> Values:
    unknown: Values = tuple(None for _ in item.shapes)
    operands = [found.get(o, (None,)) for o in item.operands]
    firsts = [o[0] if o else None for o in operands]
    if item.opcode == "parameter":
        return arguments
    if item.opcode == "tuple":
        return tuple(firsts)
    if item.opcode == "get-tuple-element":
        return (operands[0][item.index],) if operands and item.index < len(operands[0]) else unknown
    if item.dims or len(item.shapes) != 1:
        return unknown
    if item.opcode == "fusion" and item.called:
        return _fusion(modules.get(item.called[0], []), firsts, modules) or unknown
    return (_scalar(item, firsts),)


def _fusion(items: list[Instruction], arguments: list[Number], modules: Computations) -> Values:
    found: dict[str, Values] = {}
    for item in items:
        if item.opcode == "parameter":
            found[item.name] = (arguments[item.index],) if item.index < len(arguments) else (None,)
        else:
            found[item.name] = _evaluate(item, found, (), modules)
        if item.root:
            return found[item.name]
    return ()


def _scalar(item: Instruction, operands: list[Number]) -> Number:
    if item.opcode == "constant":
        return _literal(item)
    if item.opcode == "select" and len(operands) == 3 and operands[0] is not None:
        return operands[1] if operands[0] else operands[2]
    known = [o for o in operands if o is not None]
    if len(known) != len(operands) or not known:
        return None
    if item.opcode in _SAME:
        return _wrapped(known[0], item.shapes[0])
    if item.opcode == "not":
        return int(not known[0]) if item.shapes[0].dtype == "pred" else _wrapped(~known[0], item.shapes[0])
    if len(known) == 2 and item.opcode in _BINARY:
        return _wrapped(_BINARY[item.opcode](*known), item.shapes[0])
    if len(known) == 2 and item.opcode == "compare" and item.attributes.get("direction") in _COMPARE:
        return int(_COMPARE[item.attributes["direction"]](*known))
    return None


def _wrapped(value: int, shape: Shape) -> Number:
    """`value` as an integer of the shape's type holds it; None for types that are no integers."""
    if shape.dtype == "pred":
        return int(bool(value))
    if shape.dtype[:1] not in ("s", "u"):
        return None
    bits = bits_of(shape.dtype)
    value &= (1 << bits) - 1
    return value - (1 << bits) if shape.dtype[0] == "s" and value >> (bits - 1) else value
