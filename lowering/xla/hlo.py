"""Compiled modules as data: the text of a scheduled HLO module, its shapes with layouts, its instructions.

The text is what ``compiled.as_text()`` prints. Of a shape such as ``f32[21,197]{1,0:T(8,128)S(1)}`` the
part in braces is the layout: dimensions from the one that varies fastest, tiles that each is padded to,
and the memory space (0 or absent is the device's main memory, 1 the vector memory on the chip).
"""

from __future__ import annotations

import dataclasses
import math
import re

from graphopt.lowering.xla.emit import SCOPE

UNATTRIBUTED = -1
HBM, VMEM = 0, 1

_HEADER = re.compile(r"^(ENTRY\s+)?%?([\w.\-]+)\s*\(.*\)\s*->.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s*(ROOT\s+)?%?([\w.\-]+)\s*=\s*(.*)$")
_SHAPE = re.compile(r"([a-z]\w*)\[([^\]]*)\](?:\{([^{}]*)\})?")
_OPCODE = re.compile(r"(?:^|\s)([a-z][a-z0-9\-]*)\(")
_OP_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CALLED = re.compile(r"(?:calls|body|condition|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_OPERANDS = re.compile(r"%([\w.\-]+)")
_TILES = re.compile(r"T((?:\([\d,*]*\))+)")
_SPACE = re.compile(r"S\((\d+)\)")
_BITS = re.compile(r"[a-z]+(\d+)")
_LITERAL = 32
_ATTRIBUTE = re.compile(r"(?:^|[\s,])(\w+)=(\{[^{}]*\}|[^\s,{}]+)")


@dataclasses.dataclass(frozen=True)
class Shape:
    """One tensor of a compiled module: element type, sizes, and how it lies in memory.

    Attributes:
        minor_to_major: dimensions from the one whose neighbours are neighbours in memory.
        tiles: what the most minor dimensions are padded to, outer tile first, (rows, columns).
        space: 0 for the device's memory, 1 for the vector memory, others for semaphores and the host.
    """

    dtype: str
    dims: tuple[int, ...]
    minor_to_major: tuple[int, ...] = ()
    tiles: tuple[tuple[int, ...], ...] = ()
    space: int = HBM

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.dims)

    @property
    def used_bytes(self) -> int:
        """Bytes of the numbers themselves."""
        return _bytes(self.elements, self.dtype)

    @property
    def padded_bytes(self) -> int:
        """Bytes that it takes in memory, where its tiles are full."""
        sizes = [self.dims[d] for d in reversed(self.minor_to_major)] or list(self.dims)
        if not self.elements:
            return 0
        for tile in self.tiles:
            sizes = _tiled(sizes, tile)
        return _bytes(math.prod(sizes), self.dtype)

    @property
    def padded_dims(self) -> tuple[tuple[int, int, int], ...]:
        """(dimension, size, size in memory) of each dimension that is padded by the outer tile."""
        if not self.tiles or not self.elements:
            return ()
        pairs = zip(self.minor_to_major, reversed(self.tiles[0]), strict=False)
        return tuple((d, self.dims[d], _up(self.dims[d], t)) for d, t in pairs if self.dims[d] % t)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One HLO instruction, as far as costs and memory need it.

    Attributes:
        shapes: the leaves of the result, in order.
        node: the number of the scope that it was emitted under (:data:`UNATTRIBUTED` for none).
        cycles: the compiler's estimate; None where it made none.
        trips: of a loop, how often its body runs, where the compiler says so.
        called: the computations it calls, of a while its body and condition.
        attributes: the rest, by name, as text: ``dim_labels``, ``window``, ``feature_group_count``, …
        label: the ``op_name`` it carries, for a parameter its name.
        index: of a parameter or of a tuple's element.
        literal: of a scalar constant, its text.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    node: int
    cycles: int | None
    trips: int | None
    called: tuple[str, ...]
    branches: tuple[str, ...]
    attributes: dict[str, str]
    label: str
    root: bool
    index: int
    literal: str = ""

    @property
    def elements(self) -> int:
        """Numbers in the largest part of the result."""
        return max((s.elements for s in self.shapes), default=0)

    @property
    def dims(self) -> tuple[int, ...]:
        """Sizes of the first part of the result."""
        return self.shapes[0].dims if self.shapes else ()


Computations = dict[str, list[Instruction]]


def parse_module(hlo: str) -> tuple[Computations, str | None]:
    """The computations of an HLO text by name, and the entry's name."""
    computations: Computations = {}
    entry = None
    current: list[Instruction] | None = None
    for line in hlo.splitlines():
        header = _HEADER.match(line)
        if header is not None:
            current = computations.setdefault(header.group(2), [])
            entry = header.group(2) if header.group(1) else entry
        elif line.startswith("}"):
            current = None
        elif current is not None:
            instruction = _parse_instruction(line)
            if instruction is not None:
                current.append(instruction)
    return computations, entry


def parse_shapes(text: str) -> tuple[Shape, ...]:
    """The shapes that stand in `text`, those of a tuple in order."""
    return tuple(_shape(*match.groups()) for match in _SHAPE.finditer(text))


def _shape(dtype: str, dims: str, layout: str | None) -> Shape:
    sizes = tuple(int(d) for d in re.findall(r"\d+", dims))  # a bounded dimension is written <=5
    order, _, rest = (layout or "").partition(":")
    minor_to_major = tuple(int(d) for d in re.findall(r"\d+", order))
    tiles = _TILES.search(rest)
    space = _SPACE.search(rest)
    return Shape(
        dtype,
        sizes,
        minor_to_major if len(minor_to_major) == len(sizes) else tuple(reversed(range(len(sizes)))),
        tuple(_tile(t) for t in re.findall(r"\(([^)]*)\)", tiles.group(1))) if tiles else (),
        int(space.group(1)) if space else HBM,
    )


def _tile(text: str) -> tuple[int, ...]:
    return tuple(int(t) if t.isdigit() and int(t) else 1 for t in text.split(","))


def _tiled(sizes: list[int], tile: tuple[int, ...]) -> list[int]:
    """Sizes with the most minor ones split into tiles: [21, 197] by (8, 128) is [3, 2, 8, 128]."""
    padded = [1] * max(0, len(tile) - len(sizes)) + sizes
    kept, minor = padded[: len(padded) - len(tile)], padded[len(padded) - len(tile) :]
    return [*kept, *(-(-s // t) for s, t in zip(minor, tile, strict=True)), *tile]


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def bits_of(dtype: str) -> int:
    """Bits of one element: of ``f32``, ``bf16``, ``s4``, ``pred`` (8), ``f8e4m3fn``; 0 of a token."""
    if dtype == "pred":
        return 8
    match = _BITS.match(dtype)
    return int(match.group(1)) if match else 0


def _bytes(elements: int, dtype: str) -> int:
    return (elements * bits_of(dtype) + 7) // 8


def _parse_instruction(line: str) -> Instruction | None:
    match = _INSTRUCTION.match(line)
    if match is None:
        return None
    root, name, rest = match.groups()
    opcode = _OPCODE.search(rest)
    if opcode is None:
        return None
    result, _, tail = rest.partition(opcode.group(0))
    arguments = tail[: _closing(tail)]
    attributes = tail[len(arguments) :]
    scope = _OP_NAME.search(attributes)
    numbers = SCOPE.findall(scope.group(1)) if scope else []
    cycles = _CYCLES.search(attributes)
    trips = _TRIPS.search(attributes)
    branches = _BRANCHES.search(attributes)
    plain = attributes.partition(" metadata=")[0].partition(" backend_config=")[0]
    found = dict(_ATTRIBUTE.findall(plain))
    index = found.get("index") or (arguments if opcode.group(1) == "parameter" else "")
    return Instruction(
        name=name,
        opcode=opcode.group(1),
        shapes=parse_shapes(result),
        operands=tuple(_OPERANDS.findall(arguments)),
        node=int(numbers[-1]) if numbers else UNATTRIBUTED,
        cycles=int(cycles.group(1)) if cycles else None,
        trips=int(trips.group(1)) if trips else None,
        called=tuple(_CALLED.findall(attributes)),
        branches=tuple(re.findall(r"%?([\w.\-]+)", branches.group(1))) if branches else (),
        attributes=found,
        label=scope.group(1) if scope else "",
        root=root is not None,
        index=int(index) if index.isdigit() else 0,
        literal=arguments if opcode.group(1) == "constant" and len(arguments) <= _LITERAL else "",
    )


def _closing(text: str) -> int:
    """The position of the parenthesis that closes the operand list."""
    depth = 1
    for position, character in enumerate(text):
        if character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
            if depth == 0:
                return position
    return len(text)
