"""Heat: a number or a category for each node, and the roofline of a device.

Operations and bytes follow from shapes (:mod:`graphopt.analysis.cost`); cycles, placement and errors are
given by who measured them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from graphopt.analysis.cost import NodeCost, node_cost
from graphopt.ir import Model
from graphopt.target import Device, Target
from graphopt.viz.ledger import Step

FLOPS_NOTE = "from shapes; a multiply-add is two operations"
BYTES_NOTE = "operands and results, each read and written once, without fusion"
RATIO_NOTE = "operations for each byte read or written"


@dataclasses.dataclass
class Costs:
    """Operations and bytes of the nodes of one step, by version of the node.

    Attributes:
        free: how many nodes have a cost that depends on free dimensions.
    """

    flops: dict[int, int] = dataclasses.field(default_factory=dict)
    moved: dict[int, int] = dataclasses.field(default_factory=dict)
    free: int = 0


def node_costs(model: Model, step: Step) -> Costs:
    """What the nodes of `model`, which `step` describes, cost by their shapes."""
    found = Costs()
    for node in model.graph.all_nodes():
        version = step.alive.get(step.names.get(node.name or "", -1))
        if version is None:
            continue
        _count(found, version, node_cost(node))
    return found


def _count(found: Costs, version: int, cost: NodeCost) -> None:
    flops, moved = cost.flops, cost.moved_bytes
    if flops is not None and flops.number is not None:
        found.flops[version] = flops.number
    if moved is not None and moved.number is not None:
        found.moved[version] = moved.number
    if (flops is not None and flops.number is None) or (moved is not None and moved.number is None):
        found.free += 1


def cost_maps(costs: Mapping[int, Costs]) -> list[dict[str, Any]]:
    """The heat maps of operations, bytes and their ratio, for each step that has costs."""
    found = []
    for step, cost in sorted(costs.items()):
        free = f"; {cost.free} nodes depend on free dimensions" if cost.free else ""
        ratio = {
            v: float(f"{cost.flops[v] / moved:.4g}")
            for v, moved in cost.moved.items()
            if moved and v in cost.flops
        }
        for name, label, unit, values, note in (
            ("flops", "Operations", "FLOP", cost.flops, FLOPS_NOTE),
            ("bytes", "Bytes moved", "B", cost.moved, BYTES_NOTE),
            ("intensity", "Arithmetic intensity", "FLOP/B", ratio, RATIO_NOTE),
        ):
            if values:
                found.append(_map(name, label, unit, "number", step, values.items(), note + free))
    return found


def cycle_map(cost: Mapping[str, Any] | None, step: int, last: Step) -> list[dict[str, Any]]:
    """The heat map of cycles from an executable's cost."""
    rows = (cost or {}).get("nodes") or []
    values = {v: row["cycles"] for row in rows if (v := _version(last, row["node"])) is not None}
    note = str((cost or {}).get("source", "the target's compiler"))
    return [_map("cycles", "Cycles", "cycles", "number", step, values.items(), note)] if values else []


def placement_map(
    placement: Sequence[Mapping[str, Any]], target: Target, step: int, last: Step
) -> list[dict[str, Any]]:
    """The heat map of where nodes are predicted to run: every node has one where any is known to leave."""
    if not placement and not target.is_xla:
        return []
    device = "TPU" if target.kind == "tpu" else "XLA" if target.is_xla else None
    values = {} if device is None else dict.fromkeys(last.alive.values(), device)
    for row in placement:
        version = _version(last, row.get("node", ""))
        if version is not None:
            values[version] = _place(row)
    note = f"predicted for {target}"
    return [_map("placement", "Placement", "", "category", step, values.items(), note)] if values else []


def _place(row: Mapping[str, Any]) -> str:
    where = str(row.get("provider") or row.get("engine") or "host").removesuffix("ExecutionProvider")
    kind = row.get("kind")
    return where if kind in (None, "accelerator") else f"{where} ({kind})"


def error_map(
    report: Mapping[str, Any] | None, step: int, last: Step, makers: Mapping[str, int]
) -> list[Any]:
    """The heat map of the largest absolute error of each output, at the node that makes it.

    Args:
        report: what verification found, as it writes itself (schema ``graphopt.verify/1``).
        makers: the version of the node that makes each output, by the output's name.
    """
    worst: dict[int, float] = {}
    for run in (report or {}).get("runs") or []:
        for output in run.get("outputs") or []:
            version, error = makers.get(output.get("name")), output.get("max_abs_error")
            if version is not None and isinstance(error, (int, float)):
                worst[version] = max(worst.get(version, 0.0), float(error))
    note = f"largest absolute error against {(report or {}).get('engine', 'the reference')}"
    return [_map("error", "Numeric error", "absolute", "number", step, worst.items(), note)] if worst else []


def _version(last: Step, name: str) -> int | None:
    return last.alive.get(last.names.get(name, -1))


def _map(
    name: str, label: str, unit: str, kind: str, step: int, values: Iterable[tuple[int, Any]], note: str
) -> dict[str, Any]:
    rows = [[version, value] for version, value in values]
    return {"id": name, "label": label, "unit": unit, "kind": kind, "step": step, "v": rows, "note": note}


def roofline(device: Device | None, precision: str | None = None) -> dict[str, Any] | None:
    """Peak and bandwidth of one program's part of `device`."""
    if device is None:
        return None
    part = device.per_program()
    wanted = {"fp16": "bf16", "int8": "int8", "tf32": "tf32", "fp32": "fp32"}.get(precision or "", "bf16")
    kind = wanted if wanted in part.flops else "bf16"
    return {
        "device": f"{part.title} ({kind})",
        "flops": part.flops[kind],
        "bandwidth": part.hbm_bytes_per_s,
        "source": part.source,
    }
