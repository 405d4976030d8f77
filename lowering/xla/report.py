"""What a compiled module costs on its device: per node, in sum, in memory, and in plain words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graphopt.ir import Model
from graphopt.lowering.xla import memory as memory_module
from graphopt.lowering.xla.advice import Figures, PaddedSize, advice
from graphopt.lowering.xla.cost import FIXED_CYCLES, CompiledCost, bound_by, costs_of
from graphopt.lowering.xla.emit import SCOPE, scope_names
from graphopt.lowering.xla.hlo import HBM, VMEM, Computations, Instruction, parse_module
from graphopt.lowering.xla.work import VIEWS, Contraction, contraction, hbm_bytes
from graphopt.target import Device, Target, device_of

if TYPE_CHECKING:
    from graphopt.lowering.xla.aot import Compiled

LISTED = 10

PRECISIONS: dict[str, str] = {
    "fp32": "HIGHEST: float32 products in 6 bfloat16 passes, relative error up to 2^-23",
    "tf32": "HIGH: float32 products in 3 bfloat16 passes, relative error up to 2^-14",
    "bf16": "DEFAULT: bfloat16 operands in 1 pass, relative error up to 2^-7, sums in float32",
    "fp16": "DEFAULT: float16 operands in 1 pass, sums in float32; the rounding of operands is not published",
}
"""What ``--precision`` means on a TPU; fp32 is the default. The errors are those of one product of float32
numbers, from how they are split into bfloat16 parts. Without HIGHEST a TPU multiplies float32 in one pass."""


def compiled_report(
    compiled: Compiled, model: Model, target: Target, options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The cost and the memory of a compiled program, JSON-ready.

    Args:
        model: what it was compiled from: costs are laid on its nodes.
        options: ``dims`` (sizes by name) and ``precision``, as they were asked for.
    """
    chip = device_of(target)
    device = None if chip is None else chip.per_program()
    computations, entry = parse_module(compiled.hlo)
    costs = costs_of(computations, entry, model)
    memory = memory_report(compiled, computations, entry, model)
    padded, wasted = padded_sizes(computations, entry, options.get("dims") or {})
    figures = _figures(costs, computations, entry, memory, device, padded)
    total = costs.total
    cost: dict[str, Any] = {
        "total_cycles": total.cycles,
        "unattributed_cycles": costs.unattributed.cycles,
        "nodes": [node.to_json(device) for node in costs.nodes],
        "flops": compiled.flops,
        "bytes_accessed": compiled.bytes_accessed,
        "source": f"{compiled.compiler}, estimated cycles of the scheduled module",
        "matrix_flops": total.flops,
        "hbm_bytes": total.hbm_bytes,
        "padding": {"used_bytes": total.used_bytes, "padded_bytes": total.padded_bytes, "tensors": wasted},
        "layout_cycles": total.layout_cycles,
        "precision": PRECISIONS.get(options.get("precision") or "fp32"),
        "advice": advice(figures),
    }
    if device is not None:
        seconds, mfu = total.seconds(device), total.mfu(device)
        cost |= {
            "seconds": seconds,
            "bound": total.bound(device),
            "mfu": mfu if mfu is None else round(mfu, 6),
        }
        cost["least_seconds"] = {"MXU": total.matrix_seconds(device), "HBM": total.memory_seconds(device)}
    return cost, memory


def combined(
    reports: Mapping[str, tuple[dict[str, Any], dict[str, Any]]], target: Target
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The cost and the memory of programs that run one after another; ``segments`` holds those of each.

    Only one program computes at a time, so temporaries do not add up; weights and results do.
    """
    if len(reports) == 1:
        return next(iter(reports.values()))
    costs = [cost for cost, _ in reports.values()]
    memories = [memory for _, memory in reports.values()]
    total = sum(c["total_cycles"] for c in costs)
    rows = [{**row, "share": row["cycles"] / total if total else 0.0} for c in costs for row in c["nodes"]]
    cost = {
        **{key: sum(c[key] for c in costs) for key in _SUMMED},
        "nodes": sorted(rows, key=lambda row: (-row["cycles"], row["node"])),
        "source": costs[0]["source"],
        "precision": costs[0]["precision"],
        "padding": _combined_padding(costs),
        "advice": list(dict.fromkeys(line for c in costs for line in c["advice"])),
        "segments": dict(zip(reports, costs, strict=True)),
    }
    chip = device_of(target)
    if chip is not None:
        cost |= _combined_rates(costs, total, chip.per_program())
    kinds = [
        k for k, v in memories[0].items() if isinstance(v, int) and k not in ("hbm", "peak", "peak_made")
    ]
    memory: dict[str, Any] = {kind: sum(m[kind] for m in memories) for kind in kinds}
    memory["temp"] = max(m["temp"] for m in memories)
    memory["hbm"] = memory["peak"] = (
        memory["argument"] + memory["output"] + memory["temp"] + memory["generated_code"] - memory["alias"]
    )
    memory["segments"] = dict(zip(reports, memories, strict=True))
    return cost, memory


def _combined_padding(costs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    rows = [row for c in costs for row in c["padding"]["tensors"]]
    rows.sort(key=lambda row: (row["used_bytes"] - row["padded_bytes"], row["tensor"]))
    sums = {key: sum(c["padding"][key] for c in costs) for key in ("used_bytes", "padded_bytes")}
    return {**sums, "tensors": rows[:LISTED]}


def _combined_rates(costs: Sequence[Mapping[str, Any]], cycles: int, device: Device) -> dict[str, Any]:
    """Time, bound and utilisation of programs that run one after another."""
    least = {unit: sum(c["least_seconds"][unit] for c in costs) for unit in ("MXU", "HBM")}
    found: dict[str, Any] = {
        "seconds": None,
        "bound": bound_by(least["MXU"], least["HBM"], cycles, device),
        "mfu": None,
        "least_seconds": least,
    }
    if all(c["seconds"] is not None for c in costs):
        seconds = sum(c["seconds"] for c in costs)
        flops = sum(c["matrix_flops"] for c in costs)
        found["seconds"] = seconds
        found["mfu"] = round(flops / (seconds * device.flops["bf16"]), 6) if seconds else 0.0
    return found


_SUMMED = (
    *("total_cycles", "unattributed_cycles", "flops", "bytes_accessed", "matrix_flops", "hbm_bytes"),
    "layout_cycles",
)


def memory_report(
    compiled: Compiled, computations: Computations, entry: str | None, model: Model
) -> dict[str, Any]:
    """Bytes by use as the compiler allots them, and what they hold at the peak, by the schedule.

    ``peak`` is what the compiler allots, in sum. ``peak_made`` is how much of its ``temp`` and ``output``
    the tensors that the schedule names take at once; the rest are gaps and the compiler's own buffers.
    """
    names = {int(SCOPE.match(s).group(1)): n.name or "" for s, n in scope_names(model).items()}  # type: ignore[union-attr]
    found = memory_module.peak(computations, entry)
    m = compiled.memory
    return {
        **m,
        "hbm": compiled.hbm_bytes,
        "peak": compiled.hbm_bytes,
        "peak_made": min(found.made_bytes, m["temp"] + m["output"]),
        "peak_at": found.at,
        "alive_at_peak": memory_module.describe(found, names),
    }


def padded_sizes(
    computations: Computations, entry: str | None, dims: Mapping[str, int]
) -> tuple[list[PaddedSize], list[dict[str, Any]]]:
    """The dimensions that tiles pad, and the tensors that waste most, JSON-ready.

    Args:
        dims: sizes that the user bound, by name: one that a single name has is called by it.
    """
    sizes = list(dims.values())
    names = {size: name for name, size in dims.items() if sizes.count(size) == 1}
    by_size: dict[tuple[int, int, bool], list[int]] = defaultdict(list)
    tensors: list[tuple[int, dict[str, Any]]] = []
    for item in _materialised(computations, entry):
        for shape in item.shapes:
            whole = shape.padded_bytes
            if shape.space not in (HBM, VMEM) or not shape.dims or whole <= shape.used_bytes:
                continue
            for dimension, size, padded in shape.padded_dims:
                rows = dimension != shape.minor_to_major[0]
                by_size[size, padded, rows].append(round(whole * (1 - size / padded)))
            row = {
                "tensor": item.name,
                "shape": str(shape),
                "used_bytes": shape.used_bytes,
                "padded_bytes": whole,
            }
            tensors.append((whole - shape.used_bytes, row))
    tensors.sort(key=lambda pair: (-pair[0], pair[1]["tensor"]))
    found = [
        PaddedSize(size, padded, rows, len(wasted), sum(wasted), names.get(size))
        for (size, padded, rows), wasted in by_size.items()
    ]
    return found, [row for _, row in tensors[:LISTED]]


def _materialised(computations: Computations, entry: str | None) -> list[Instruction]:
    """The instructions whose results lie in memory: of the entry and of what it calls, not within fusions."""
    found: list[Instruction] = []
    work, seen = [entry] if entry is not None else [], set()
    while work:
        name = work.pop()
        if name in seen:
            continue
        seen.add(name)
        for item in computations.get(name, []):
            if item.opcode in ("while", "conditional", "call"):
                work.extend((*item.called, *item.branches))
            elif item.opcode == "parameter":
                found += [item] if name == entry else []
            elif item.opcode not in VIEWS and not item.opcode.endswith(("-start", "-done")):
                found.append(item)
    return found


def _every_contraction(computations: Computations) -> list[Contraction]:
    """The contractions of every computation, those in loops and fusions included."""
    found: list[Contraction] = []
    for items in computations.values():
        inside = {i.name: i for i in items}
        found += [one for i in items if (one := contraction(i, inside)) is not None]
    return found


def _figures(
    costs: CompiledCost,
    computations: Computations,
    entry: str | None,
    memory: Mapping[str, Any],
    device: Device | None,
    padded: list[PaddedSize],
) -> Figures:
    total = costs.total
    items = {i.name: i for i in computations.get(entry or "", [])}
    float32 = arguments = silent_bytes = 0
    for item in items.values():
        moved = hbm_bytes(item, items, computations)
        if not moved:
            continue
        tensors = [*item.shapes[:1], *(s for o in item.operands if o in items for s in items[o].shapes[:1])]
        here = [s for s in tensors if s.space == HBM and s.dims]
        whole = sum(s.padded_bytes for s in here) or 1
        float32 += round(moved * sum(s.padded_bytes for s in here if s.dtype == "f32") / whole)
        given = (items[o] for o in item.operands if o in items and items[o].opcode == "parameter")
        arguments += round(
            moved * sum(s.padded_bytes for g in given for s in g.shapes if s.space == HBM) / whole
        )
        silent_bytes += moved if item.cycles is None and not item.opcode.endswith("-start") else 0
    clock = device.clock_hz if device else None
    return Figures(
        node_cycles=tuple(n.cycles for n in costs.nodes if n.cycles),
        total_cycles=total.cycles,
        bound=total.bound(device) if device else "vector",
        padded=tuple(padded),
        tensor_bytes=total.padded_bytes,
        hbm_bytes=total.hbm_bytes,
        float32_bytes=float32,
        argument_bytes=arguments,
        layout_cycles=total.layout_cycles,
        float32_cycles=total.float32_cycles,
        passes=max((c.passes for c in _every_contraction(computations)), default=1),
        fixed_cycles=total.fixed_cycles,
        fixed_below=FIXED_CYCLES,
        peak_bytes=memory["peak"],
        device_bytes=device.hbm_bytes if device else None,
        cycle_seconds=total.cycles / clock if clock else None,
        memory_seconds=total.memory_seconds(device) if device else 0.0,
        silent=total.silent,
        silent_bytes=silent_bytes,
        open_loops=costs.open_loops,
    )
