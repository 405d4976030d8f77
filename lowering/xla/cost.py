"""Costs laid back on the nodes: the compiler's estimated cycles per instruction, by named scope.

The TPU compiler writes its own estimate of cycles on each instruction of the scheduled module. A
fusion's cycles are shared out among the nodes whose instructions it holds, in proportion to their
work; loops count their trip count; of a conditional the dearer branch counts. Copies that the
compiler added belong to the node that they serve. Totals add up: what serves no node is its own row.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from graphopt.ir import Model
from graphopt.ir.provenance import origins
from graphopt.lowering.xla.emit import SCOPE, scope_names

_HEADER = re.compile(r"^(ENTRY\s+)?%?([\w.\-]+)\s*\(.*\)\s*->.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT\s+)?%?([\w.\-]+)\s*=\s*(.*)$")
_SHAPE = re.compile(r"([a-z]\w*)\[([\d,]*)\]")
_OPCODE = re.compile(r"(?:^|\s)([a-z][a-z0-9\-]*)\(")
_OP_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CALLED = re.compile(r"(?:calls|body|condition|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_OPERANDS = re.compile(r"%([\w.\-]+)")
_CONTRACTING = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")

UNATTRIBUTED = -1


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One HLO instruction, as far as costs need it."""

    name: str
    opcode: str
    elements: int
    dims: tuple[int, ...]
    operands: tuple[str, ...]
    node: int
    cycles: int
    trips: int
    called: tuple[str, ...]
    branches: tuple[str, ...]
    contracting: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class NodeCost:
    """What one node of the optimised model costs on the target, by the compiler's estimate."""

    node: str
    op_type: str
    origins: tuple[str, ...]
    cycles: float
    share: float


@dataclasses.dataclass(frozen=True)
class CompiledCost:
    """Cycles of one compiled module, by node, dearest first; `unattributed` belongs to no node."""

    total_cycles: float
    unattributed_cycles: float
    nodes: tuple[NodeCost, ...]

    def to_json(self) -> dict[str, Any]:
        """The costs as a JSON-ready dict."""
        return {
            "total_cycles": round(self.total_cycles),
            "unattributed_cycles": round(self.unattributed_cycles, 1),
            "nodes": [
                {
                    "node": n.node,
                    "op_type": n.op_type,
                    "origins": list(n.origins),
                    "cycles": round(n.cycles, 1),
                    "share": round(n.share, 6),
                }
                for n in self.nodes
            ],
        }


def combined(costs: Sequence[CompiledCost]) -> CompiledCost:
    """The cost of programs that run one after another."""
    total = sum(c.total_cycles for c in costs)
    rows = (dataclasses.replace(n, share=n.cycles / total if total else 0.0) for c in costs for n in c.nodes)
    return CompiledCost(
        total,
        sum(c.unattributed_cycles for c in costs),
        tuple(sorted(rows, key=lambda n: (-n.cycles, n.node))),
    )


def node_costs(hlo: str, model: Model) -> CompiledCost:
    """The cycles of the module `hlo`, which was compiled from `model`, per node."""
    by_index = {int(SCOPE.match(name).group(1)): node for name, node in scope_names(model).items()}  # type: ignore[union-attr]
    cycles = cycles_by_scope(hlo)
    total = sum(cycles.values())
    rows = [
        NodeCost(node.name or "", node.op_type, origins(node), spent, spent / total if total else 0.0)
        for index, spent in cycles.items()
        if index != UNATTRIBUTED and (node := by_index.get(index)) is not None
    ]
    rows.sort(key=lambda row: (-row.cycles, row.node))
    unattributed = sum((spent for index, spent in cycles.items() if index not in by_index), 0.0)
    return CompiledCost(total, unattributed, tuple(rows))


def cycles_by_scope(hlo: str) -> dict[int, float]:
    """Estimated cycles by scope number (:data:`UNATTRIBUTED` for none), over the whole schedule."""
    computations, entry = parse_module(hlo)
    totals: dict[int, float] = defaultdict(float)
    if entry is not None:
        for node, cycles in _computation_cycles(entry, computations, {}).items():
            totals[node] += cycles
    return dict(totals)


def _computation_cycles(
    name: str, computations: dict[str, list[Instruction]], memo: dict[str, dict[int, float]]
) -> dict[int, float]:
    if name in memo:
        return memo[name]
    memo[name] = {}  # HLO has no recursion; this only guards against a malformed text
    totals: dict[int, float] = defaultdict(float)
    for item in _with_owners(computations.get(name, [])):
        if item.opcode == "while":
            for called in item.called:
                for node, cycles in _computation_cycles(called, computations, memo).items():
                    totals[_inherit(node, item)] += cycles * item.trips
        elif item.opcode == "conditional":
            branches = [_computation_cycles(b, computations, memo) for b in (*item.branches, *item.called)]
            dearest = max(branches, key=lambda b: sum(b.values()), default={})
            for node, cycles in dearest.items():
                totals[_inherit(node, item)] += cycles
        elif item.opcode in ("call", "async-start") and not item.cycles:
            for called in item.called:
                for node, cycles in _computation_cycles(called, computations, memo).items():
                    totals[_inherit(node, item)] += cycles
        elif item.cycles:
            for node, part in _shares(item, computations).items():
                totals[node] += item.cycles * part
    memo[name] = dict(totals)
    return memo[name]


def _with_owners(items: list[Instruction]) -> list[Instruction]:
    """The instructions, those that no node emitted given to the node that they serve.

    The compiler adds copies into other layouts and the like. They serve the first user downstream
    that belongs to a node, or, at the end of the program, the node upstream.
    """
    scopes = {item.name: item.node for item in items}
    for item in reversed(items):  # users stand after what they use: one sweep reaches any depth
        if scopes[item.name] != UNATTRIBUTED:
            for operand in item.operands:
                if scopes.get(operand) == UNATTRIBUTED:
                    scopes[operand] = scopes[item.name]
    for item in items:
        if scopes[item.name] == UNATTRIBUTED:
            above = (scopes.get(o, UNATTRIBUTED) for o in item.operands)
            scopes[item.name] = next((s for s in above if s != UNATTRIBUTED), UNATTRIBUTED)
    return [dataclasses.replace(item, node=scopes[item.name]) for item in items]


def _inherit(node: int, caller: Instruction) -> int:
    return caller.node if node == UNATTRIBUTED else node


def _shares(item: Instruction, computations: dict[str, list[Instruction]]) -> dict[int, float]:
    """How the cycles of one instruction are divided among nodes; the parts sum to one."""
    if item.opcode != "fusion" or not item.called:
        return {item.node: 1.0}
    work: dict[int, float] = defaultdict(float)
    for called in item.called:
        _add_work(called, computations, work, depth=0)
    work.pop(UNATTRIBUTED, None)  # converts and constants that came with the others
    total = sum(work.values())
    if not total:
        return {item.node: 1.0}
    return {node: part / total for node, part in work.items()}


def _add_work(
    name: str, computations: dict[str, list[Instruction]], work: dict[int, float], depth: int
) -> None:
    shapes = {i.name: i for i in computations.get(name, [])}
    for item in shapes.values():
        if item.opcode in ("parameter", "constant", "bitcast", "get-tuple-element", "tuple"):
            continue
        if item.opcode == "fusion" and item.called and depth < 8:
            for called in item.called:
                _add_work(called, computations, work, depth + 1)
            continue
        work[item.node] += _work(item, shapes)


def _work(item: Instruction, shapes: dict[str, Instruction]) -> float:
    """Elements touched; for contractions the multiply-adds, over the width of a matrix unit's row."""
    operands = [shapes[o] for o in item.operands if o in shapes]
    if item.opcode == "dot" and operands:
        k = math.prod(operands[0].dims[d] for d in item.contracting if d < len(operands[0].dims))
        return max(item.elements * k / 128, item.elements)
    if item.opcode == "convolution" and len(operands) > 1:
        kernel = math.prod(operands[1].dims) or 1
        return max(item.elements * kernel / max(operands[1].dims[-1:] or (1,)) / 128, item.elements)
    if item.opcode in ("reduce", "reduce-window") and operands:
        return float(max(operands[0].elements, item.elements))
    return float(item.elements)


def parse_module(hlo: str) -> tuple[dict[str, list[Instruction]], str | None]:
    """The computations of an HLO text by name, and the entry's name."""
    computations: dict[str, list[Instruction]] = {}
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


def _parse_instruction(line: str) -> Instruction | None:
    match = _INSTRUCTION.match(line)
    if match is None:
        return None
    name, rest = match.groups()
    opcode = _OPCODE.search(rest)
    if opcode is None:
        return None
    result, _, tail = rest.partition(opcode.group(0))
    shapes = [tuple(int(d) for d in dims.split(",") if d) for _, dims in _SHAPE.findall(result)]
    arguments = tail[: _closing(tail)]
    attributes = tail[len(arguments) :]
    scope = _OP_NAME.search(attributes)
    numbers = SCOPE.findall(scope.group(1)) if scope else []
    cycles = _CYCLES.search(attributes)
    trips = _TRIPS.search(attributes)
    branches = _BRANCHES.search(attributes)
    contracting = _CONTRACTING.search(attributes)
    return Instruction(
        name=name,
        opcode=opcode.group(1),
        elements=max((math.prod(s) for s in shapes), default=0),
        dims=shapes[0] if shapes else (),
        operands=tuple(_OPERANDS.findall(arguments)),
        node=int(numbers[-1]) if numbers else UNATTRIBUTED,
        cycles=int(cycles.group(1)) if cycles else 0,
        trips=int(trips.group(1)) if trips else 1,
        called=tuple(_CALLED.findall(attributes)),
        branches=tuple(re.findall(r"%?([\w.\-]+)", branches.group(1))) if branches else (),
        contracting=tuple(int(d) for d in contracting.group(1).split(",") if d) if contracting else (),
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
