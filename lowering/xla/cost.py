"""Costs laid back on the nodes: what each instruction of a compiled module costs, by named scope.

The TPU compiler writes its own estimate of cycles on each instruction of the scheduled module. A
fusion's cycles are shared out among the nodes whose instructions it holds, in proportion to their
work; loops count as often as they run; of a conditional the dearer branch counts. Copies that the
compiler added belong to the node that they serve. Cycles are shared in whole numbers, so that totals
add up exactly: what serves no node is its own row.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from typing import Any

from graphopt.ir import Model
from graphopt.ir.provenance import origins
from graphopt.lowering.xla.emit import SCOPE, scope_names
from graphopt.lowering.xla.hlo import HBM, UNATTRIBUTED, VMEM, Computations, Instruction, parse_module
from graphopt.lowering.xla.trips import trip_count
from graphopt.lowering.xla.work import MATRIX_UNIT, VIEWS, Contraction, contraction, contractions, hbm_bytes
from graphopt.target import Device

BOUND_SHARE = 0.5
"""A node is bound by its matrix unit or its memory if that alone takes this share of its cycles."""

FIXED_CYCLES = 2500
"""An instruction of fewer cycles does next to nothing but start: an empty one takes about 1,800."""

_LAYOUT = frozenset({"copy", "transpose"})
_FREE = frozenset({"broadcast", "iota"})  # within a fusion: operands of what counts
_RATES = {"s8": "int8", "u8": "int8", "s4": "int8", "u4": "int8", "s2": "int8", "u2": "int8"}


@dataclasses.dataclass
class Work:
    """What is spent, in sum.

    Attributes:
        cycles: by the compiler's estimate.
        flops: operations of contractions.
        occupied_flops: what the matrix units do for them, idle rows and passes counted, by their rate
            (bf16, int8, fp8).
        used_bytes, padded_bytes: of the tensors made, the numbers alone and with their tiles full.
        layout_cycles: of copies and transposes.
        fixed_cycles: of instructions that do little but start.
        float32_cycles: of contractions of float32 that take several passes.
        instructions, silent: how many run, and how many of them the compiler gives no cycles.
    """

    cycles: int = 0
    flops: int = 0
    occupied_flops: Counter[str] = dataclasses.field(default_factory=Counter)
    hbm_bytes: int = 0
    used_bytes: int = 0
    padded_bytes: int = 0
    layout_cycles: int = 0
    fixed_cycles: int = 0
    float32_cycles: int = 0
    instructions: int = 0
    silent: int = 0

    def add(self, other: Work, times: int = 1) -> None:
        """Add `other`, `times` times. Tensors of a loop's body are the same in each turn: they count once."""
        for field in dataclasses.fields(Work):
            if field.name == "occupied_flops":
                for rate, flops in other.occupied_flops.items():
                    self.occupied_flops[rate] += flops * times
            else:
                factor = 1 if field.name in ("used_bytes", "padded_bytes") else times
                added = getattr(self, field.name) + getattr(other, field.name) * factor
                setattr(self, field.name, added)

    def matrix_seconds(self, device: Device) -> float:
        """The least time its contractions take at the device's peak."""
        peak = device.flops
        return sum(n / peak.get(rate, peak["bf16"]) for rate, n in self.occupied_flops.items())

    def memory_seconds(self, device: Device) -> float:
        """The least time its bytes take at the device's bandwidth."""
        return self.hbm_bytes / device.hbm_bytes_per_s

    def bound(self, device: Device) -> str:
        """``MXU`` or ``HBM`` if that takes at least :data:`BOUND_SHARE` of the cycles, else ``vector``.

        Without a published clock, the larger of the two, or vector where there is neither.
        """
        return bound_by(self.matrix_seconds(device), self.memory_seconds(device), self.cycles, device)

    def mfu(self, device: Device) -> float | None:
        """Operations against what the peak in bfloat16 would do in its time; None without a clock."""
        seconds = self.seconds(device)
        return (
            None if seconds is None else (self.flops / (seconds * device.flops["bf16"]) if seconds else 0.0)
        )

    def seconds(self, device: Device) -> float | None:
        """The time of its cycles, or of its bytes if they take longer; None without a published clock.

        The schedule overlaps copies from HBM with work and gives them no cycles, but where the bytes
        need longer than the work the device waits for them.
        """
        if device.clock_hz is None:
            return None
        return max(self.cycles / device.clock_hz, self.memory_seconds(device))


def bound_by(matrix_seconds: float, memory_seconds: float, cycles: int, device: Device) -> str:
    """What bounds work of that many cycles, as :meth:`Work.bound` says it."""
    largest = max(matrix_seconds, memory_seconds)
    if not largest or (device.clock_hz is not None and largest < BOUND_SHARE * cycles / device.clock_hz):
        return "vector"
    return "MXU" if matrix_seconds > memory_seconds else "HBM"


@dataclasses.dataclass(frozen=True)
class NodeCost:
    """What one node of the optimised model costs on the target, by the compiler's estimate."""

    node: str
    op_type: str
    origins: tuple[str, ...]
    work: Work
    share: float

    @property
    def cycles(self) -> int:
        """Estimated cycles."""
        return self.work.cycles

    def to_json(self, device: Device | None) -> dict[str, Any]:
        """The node's row, JSON-ready."""
        work = self.work
        row: dict[str, Any] = {
            "node": self.node,
            "op_type": self.op_type,
            "origins": list(self.origins),
            "cycles": work.cycles,
            "share": round(self.share, 6),
            "flops": work.flops,
            "hbm_bytes": work.hbm_bytes,
            "padding": {"used_bytes": work.used_bytes, "padded_bytes": work.padded_bytes},
        }
        if device is not None:
            mfu = work.mfu(device)
            row["bound"] = work.bound(device)
            row["mfu"] = None if mfu is None else round(mfu, 6)
        return row


@dataclasses.dataclass(frozen=True)
class CompiledCost:
    """Costs of one compiled module, by node, dearest first; `unattributed` belongs to no node.

    Attributes:
        open_loops: loops whose trip count the compiler does not know; their bodies count once.
    """

    total: Work
    unattributed: Work
    nodes: tuple[NodeCost, ...]
    open_loops: int

    @property
    def total_cycles(self) -> int:
        """Cycles of the whole schedule."""
        return self.total.cycles


def node_costs(hlo: str, model: Model) -> CompiledCost:
    """The costs of the module `hlo`, which was compiled from `model`, per node."""
    computations, entry = parse_module(hlo)
    return costs_of(computations, entry, model)


def costs_of(computations: Computations, entry: str | None, model: Model) -> CompiledCost:
    """The costs of a module that is parsed already."""
    by_index = {int(SCOPE.match(name).group(1)): node for name, node in scope_names(model).items()}  # type: ignore[union-attr]
    spent = _computation_work(entry, computations, {}) if entry is not None else {}
    total, unattributed = Work(), Work()
    for index, work in spent.items():
        total.add(work)
        if index not in by_index:
            unattributed.add(work)
    rows = [
        NodeCost(
            node.name or "",
            node.op_type,
            origins(node),
            work,
            work.cycles / total.cycles if total.cycles else 0.0,
        )
        for index, work in spent.items()
        if (node := by_index.get(index)) is not None and (work.cycles or work.hbm_bytes)
    ]
    rows.sort(key=lambda row: (-row.cycles, -row.work.hbm_bytes, row.node))
    loops = sum(
        i.opcode == "while" and trip_count(i, {i.name: i for i in items}, computations) is None
        for items in computations.values()
        for i in items
    )
    return CompiledCost(total, unattributed, tuple(rows), loops)


def cycles_by_scope(hlo: str) -> dict[int, int]:
    """Estimated cycles by scope number (:data:`UNATTRIBUTED` for none), over the whole schedule."""
    computations, entry = parse_module(hlo)
    spent = _computation_work(entry, computations, {}) if entry is not None else {}
    return {node: work.cycles for node, work in spent.items() if work.cycles}


Spent = dict[int, Work]


def _computation_work(name: str, computations: Computations, memo: dict[str, Spent]) -> Spent:
    if name in memo:
        return memo[name]
    memo[name] = {}  # HLO has no recursion; this only guards against a malformed text
    totals: Spent = defaultdict(Work)
    items = with_owners(computations.get(name, []))
    shapes = {item.name: item for item in items}
    for item in items:
        if item.opcode == "while":
            item = dataclasses.replace(item, trips=trip_count(item, shapes, computations) or 1)
            for called in item.called:
                _merge(totals, _computation_work(called, computations, memo), item)
        elif item.opcode == "conditional":
            branches = [_computation_work(b, computations, memo) for b in (*item.branches, *item.called)]
            dearest = max(branches, key=lambda b: sum(w.cycles for w in b.values()), default={})
            _merge(totals, dearest, item)
        elif item.opcode in ("call", "async-start") and item.cycles is None:
            for called in item.called:
                _merge(totals, _computation_work(called, computations, memo), item)
        else:
            _spend(item, shapes, computations, totals)
    memo[name] = dict(totals)
    return memo[name]


def _merge(totals: Spent, inner: Spent, caller: Instruction) -> None:
    """Add a called computation's work; what has no node of its own there is its caller's."""
    for node, work in inner.items():
        totals[caller.node if node == UNATTRIBUTED else node].add(work, caller.trips or 1)


def _spend(item: Instruction, shapes: dict[str, Instruction], modules: Computations, totals: Spent) -> None:
    parts = shares(item, modules)
    moved = hbm_bytes(item, shapes, modules)
    found = contractions(item, shapes, modules)
    cycles = item.cycles or 0
    is_layout = item.opcode in _LAYOUT or (item.opcode == "fusion" and _only_moves(item, modules))
    for one in found:
        work = totals[item.node if one.node == UNATTRIBUTED else one.node]
        work.flops += one.flops
        work.occupied_flops[_rate(one)] += one.occupied_flops
    several = any(one.passes > 1 for one in found)
    for node, part in apportion(cycles, parts).items():
        work = totals[node]
        work.cycles += part
        work.layout_cycles += part if is_layout else 0
        work.fixed_cycles += part if cycles < FIXED_CYCLES else 0
        work.float32_cycles += part if several else 0
    for node, part in apportion(moved, parts).items():
        totals[node].hbm_bytes += part
    own = totals[item.node]
    if item.opcode == "parameter" or (
        item.opcode not in VIEWS and not item.opcode.endswith(("-start", "-done"))
    ):
        here = [s for s in item.shapes if s.space in (HBM, VMEM)]
        own.used_bytes += sum(s.used_bytes for s in here)
        own.padded_bytes += sum(s.padded_bytes for s in here)
        if item.opcode != "parameter":
            own.instructions += 1
            own.silent += item.cycles is None


def _rate(one: Contraction) -> str:
    return "fp8" if one.dtype.startswith("f8") else _RATES.get(one.dtype, "bf16")


def _only_moves(item: Instruction, modules: Computations) -> bool:
    """Whether a fusion only moves numbers to other places."""
    inside = {i.opcode for name in item.called for i in modules.get(name, [])}
    return bool(inside & _LAYOUT) and inside <= _LAYOUT | {"parameter", "bitcast", "reshape", "tuple"}


def apportion(total: int, weights: dict[int, float]) -> dict[int, int]:
    """`total` in whole parts that sum to it, in proportion to `weights` (largest remainders first)."""
    whole = sum(weights.values())
    if not whole or not total:
        return {next(iter(weights), UNATTRIBUTED): total} if total else {}
    exact = {key: total * weight / whole for key, weight in weights.items()}
    parts = {key: int(value) for key, value in exact.items()}
    missing = total - sum(parts.values())
    for key in sorted(exact, key=lambda k: (parts[k] - exact[k], k))[:missing]:
        parts[key] += 1
    return parts


def with_owners(items: list[Instruction]) -> list[Instruction]:
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


def shares(item: Instruction, computations: Computations) -> dict[int, float]:
    """How one instruction's cost is divided among nodes, by weight."""
    if item.opcode != "fusion" or not item.called:
        return {item.node: 1.0}
    work: dict[int, float] = defaultdict(float)
    for called in item.called:
        _add_work(called, computations, work, depth=0)
    work.pop(UNATTRIBUTED, None)  # converts and constants that came with the others
    return dict(work) if sum(work.values()) else {item.node: 1.0}


def _add_work(name: str, computations: Computations, work: dict[int, float], depth: int) -> None:
    shapes = {i.name: i for i in computations.get(name, [])}
    for item in shapes.values():
        if item.opcode in VIEWS or item.opcode in _FREE:
            continue
        if item.opcode == "fusion" and item.called and depth < 8:
            for called in item.called:
                _add_work(called, computations, work, depth + 1)
            continue
        work[item.node] += _work(item, shapes)


def _work(item: Instruction, shapes: dict[str, Instruction]) -> float:
    """Elements touched; for contractions, times what a matrix unit contracts at once, and its passes."""
    one = contraction(item, shapes)
    if one is not None:
        length = -(-one.flops // max(2 * item.elements, 1))
        return float(item.elements * one.passes * max(1, -(-length // MATRIX_UNIT)))
    operands = [shapes[o] for o in item.operands if o in shapes]
    if item.opcode in ("reduce", "reduce-window") and operands:
        return float(max(operands[0].elements, item.elements))
    return float(item.elements)
