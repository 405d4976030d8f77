"""HBM over the schedule: which tensors are alive when, and the most that are alive at once.

The instructions of a scheduled module run in the order in which they stand. Arguments have their memory
for the whole run; a temporary has it from the instruction that makes it to the last that uses it, an
output to the end. Before an output is made its memory serves temporaries, so that the two are counted
together. What lies in the vector memory on the chip (space 1) takes no HBM.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from graphopt.lowering.xla.cost import with_owners
from graphopt.lowering.xla.hlo import HBM, Computations, Instruction, Shape

_FIRST = ("copy-done", "opt-barrier", "bitcast")
LISTED = 20
_MADE = ("temporary", "output")
_ELEMENTWISE = frozenset(
    "abs add and bitcast ceil clamp compare convert cosine divide erf exponential floor log logistic maximum "
    "minimum multiply negate not or power rsqrt select sign sine sqrt subtract tanh xor".split()
)
_KINDS = {"parameter": "argument", "constant": "constant"}  # constants are part of the program's code


@dataclasses.dataclass
class Buffer:
    """One piece of memory: who made it, how large it is, and from when to when it is needed."""

    name: str
    kind: str
    shape: Shape
    label: str
    node: int
    start: int
    end: int

    @property
    def bytes(self) -> int:
        """Its size in HBM; scalars lie in a small memory of their own."""
        return self.shape.padded_bytes if self.shape.space == HBM and self.shape.dims else 0


@dataclasses.dataclass(frozen=True)
class Peak:
    """The moment at which most HBM is in use.

    Attributes:
        made_bytes: of temporaries and outputs, for which the compiler allots ``temp`` and ``output``.
        alive: arguments, constants, outputs and temporaries alive then, largest first.
        at: the instruction that runs then.
    """

    made_bytes: int
    alive: tuple[Buffer, ...]
    at: str


def peak(computations: Computations, entry: str | None) -> Peak:
    """The peak of the entry computation, with those that it calls."""
    if entry is None:
        return Peak(0, (), "")
    items = computations.get(entry, [])
    buffers, extra = _buffers(with_owners(items), computations, 0)
    at, most = _busiest(buffers, extra, len(items))
    alive = [b for b in buffers if b.bytes and (b.kind not in _MADE or b.start <= at <= b.end)]
    alive.sort(key=lambda b: (-b.bytes, b.name))
    return Peak(most, tuple(alive), items[at].name if items else "")


def _busiest(buffers: list[Buffer], extra: dict[int, int], steps: int) -> tuple[int, int]:
    """The step with most bytes of temporaries and outputs alive, and how many those are."""
    change = [0] * (steps + 1)
    for buffer in buffers:
        if buffer.kind in _MADE:
            change[buffer.start] += buffer.bytes
            change[buffer.end + 1] -= buffer.bytes
    best, most, now = 0, 0, 0
    for step in range(steps):
        now += change[step]
        if now + extra.get(step, 0) > most:
            best, most = step, now + extra.get(step, 0)
    return best, most


Leaves = list[Buffer]


def _buffers(
    items: list[Instruction], computations: Computations, depth: int
) -> tuple[list[Buffer], dict[int, int]]:
    """Every buffer of one computation, and by step the bytes that a called computation needs besides."""
    made: list[Buffer] = []
    leaves: dict[str, Leaves] = {}
    extra: dict[int, int] = {}
    last = {operand: step for step, item in enumerate(items) for operand in item.operands}
    for step, item in enumerate(items):
        operands = [leaves[o] for o in item.operands if o in leaves]
        found = _aliases(item, operands)
        if found is None:
            reused = _in_place(item, operands, computations, last, step)
            found = []
            for shape in item.shapes:
                old = next((b for b in reused if b.shape.padded_bytes == shape.padded_bytes), None)
                if old is not None:
                    reused.remove(old)
                    found.append(old)
                    continue
                kind = _KINDS.get(item.opcode, "temporary")
                found.append(Buffer(item.name, kind, shape, item.label, item.node, step, step))
                made.append(found[-1])
        leaves[item.name] = found
        for buffer in (b for operand in operands for b in operand):
            buffer.end = max(buffer.end, step)
        if item.opcode in ("while", "conditional", "call") and depth < 16:
            bodies = [*item.called, *item.branches]
            extra[step] = max((_inner(b, computations, depth + 1) for b in bodies), default=0)
    for item in items:
        if item.root:
            for buffer in leaves[item.name]:
                if buffer.kind == "temporary":
                    buffer.kind, buffer.end = "output", len(items) - 1
    return made, extra


def _inner(name: str, computations: Computations, depth: int) -> int:
    """Bytes that a called computation needs beyond its arguments and its result, which its caller holds."""
    items = computations.get(name, [])
    buffers, extra = _buffers(items, computations, depth)
    return _busiest([b for b in buffers if b.kind == "temporary"], extra, len(items))[1]


def _aliases(item: Instruction, operands: list[Leaves]) -> Leaves | None:
    """The operand's buffers where an instruction makes none of its own."""
    if not operands:
        return None
    if item.opcode == "tuple":
        return [b for operand in operands for b in operand]
    if item.opcode == "get-tuple-element":
        return operands[0][item.index : item.index + 1] if len(item.shapes) == 1 else operands[0]
    if item.opcode in _FIRST:
        return operands[0][: len(item.shapes)]
    if item.opcode == "while":
        return operands[0]
    if item.opcode == "copy-start":
        target = Buffer(item.name, "temporary", item.shapes[0], item.label, item.node, 0, 0)
        return None if target.bytes else [target, *operands[0][:1]]
    if item.opcode in ("async-done", "async-update"):
        return operands[0]
    return None


def _in_place(
    item: Instruction,
    operands: list[Leaves],
    computations: Computations,
    last: dict[str, int],
    step: int,
) -> Leaves:
    """Temporaries that an instruction may write its result over: nobody needs them after it."""
    if item.opcode not in _ELEMENTWISE | {"fusion", "dynamic-update-slice", "scatter"}:
        return []
    found = []
    for index, (name, operand) in enumerate(zip(item.operands, operands, strict=False)):
        if last.get(name) != step or (item.opcode == "dynamic-update-slice" and index):
            continue
        if item.opcode == "fusion" and not _in_step(item, index, computations):
            continue
        found += [b for b in operand if b.kind == "temporary" and b.bytes]
    return found


def _in_step(fusion: Instruction, index: int, computations: Computations) -> bool:
    """Whether a fusion reads each number of an operand only for the number in its place, or updates it."""
    inside = computations.get(fusion.called[0], []) if fusion.called else []
    direct = {i.name for i in inside if i.opcode == "parameter" and i.index == index}
    reached = set(direct)  # what is made of the operand, number by number
    for item in inside:
        if not reached.intersection(item.operands):
            continue
        updated = item.opcode == "dynamic-update-slice" and item.operands[0] in reached
        if item.opcode in _ELEMENTWISE or item.opcode == "tuple" or updated:
            reached.add(item.name)
            if item.opcode == "bitcast" and direct.intersection(item.operands):
                direct.add(item.name)
        elif direct.intersection(item.operands):
            return False
    return bool(direct) and any(i.root and i.name in reached for i in inside)


def _argument(label: str) -> str:
    """The model's name in ``args[0][\\'fc.weight\\']``."""
    match = re.search(r"\[\\*'(.*?)\\*'\]$", label)
    return match.group(1) if match else label


def describe(found: Peak, names: dict[int, str]) -> list[dict[str, Any]]:
    """The largest tensors alive at the peak, JSON-ready.

    Args:
        names: of nodes, by scope number.
    """
    return [
        {
            "tensor": _argument(b.label) if b.kind == "argument" else b.name,
            "kind": b.kind,
            "node": names.get(b.node),
            "shape": str(b.shape),
            "bytes": b.bytes,
        }
        for b in found.alive[:LISTED]
    ]
