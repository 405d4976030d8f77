"""What a module compiled for a GPU costs there: kernels, the nodes that each computes, and a least time.

XLA:GPU writes no estimate of cycles. So each kernel is given its roofline: the time of its arithmetic at
the device's peak or of its bytes at the memory's speed, whichever is longer. That is a lower bound: it has
nothing in it for starting a kernel, and no kernel reaches either peak.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from graphopt.ir import Model, Node
from graphopt.ir.provenance import origins
from graphopt.lowering.xla.cost import shares, with_owners
from graphopt.lowering.xla.emit import SCOPE, scope_names
from graphopt.lowering.xla.hlo import UNATTRIBUTED, Computations, Instruction, parse_module
from graphopt.lowering.xla.report import memory_report
from graphopt.lowering.xla.trips import trip_count
from graphopt.lowering.xla.work import VIEWS, contractions, convolution_flops, hbm_bytes
from graphopt.target import Device, Target, device_of

if TYPE_CHECKING:
    from graphopt.lowering.xla.aot import Compiled

PRECISIONS: dict[str, str] = {
    "fp32": "float32: no TF32 in products",
    "tf32": "TF32: float32 products with 10 bits of the mantissa",
    "bf16": "bfloat16 operands, sums in float32",
    "fp16": "float16 operands, sums in float32",
}

_NOT_KERNELS = VIEWS | {"call", "iota"}
_FUSIONS = {"kLoop": "loop fusion", "kInput": "reduction fusion", "kCustom": "triton fusion"}
_CALLS = {"__cudnn$conv": "cudnn convolution", "__cublas$": "cublas product"}
_RATES = {"bf16": "bf16", "f16": "bf16", "s8": "int8", "u8": "int8", "s4": "int8", "u4": "int8"}


@dataclasses.dataclass
class Kernel:
    """One kernel of the schedule.

    Attributes:
        parts: its work by the number of the scope that it comes from, as weights.
        flops: operations of its contractions, by the peak that they are held against.
        bytes: what it reads from and writes to the device's memory.
        runs: how often it runs.
    """

    name: str
    kind: str
    parts: dict[int, float]
    flops: Counter[str]
    bytes: int
    runs: int

    def arithmetic_seconds(self, device: Device) -> float:
        """The least time of its contractions, once."""
        return sum(n / device.flops.get(rate, device.flops["fp32"]) for rate, n in self.flops.items())

    def seconds(self, device: Device) -> float:
        """The least time of all its runs."""
        return self.runs * max(self.arithmetic_seconds(device), self.bytes / device.hbm_bytes_per_s)

    def bound(self, device: Device) -> str:
        """``arithmetic`` or ``memory``, whichever takes longer."""
        memory = self.bytes / device.hbm_bytes_per_s
        return "arithmetic" if self.arithmetic_seconds(device) > memory else "memory"


def gpu_report(
    compiled: Compiled, model: Model, target: Target, options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """The cost, the memory and the kernels of a program compiled for a GPU, JSON-ready.

    Args:
        model: what it was compiled from: kernels are laid on its nodes.
        options: ``precision``, as it was asked for.
    """
    device = device_of(target)
    assert device is not None
    computations, entry = parse_module(compiled.hlo)
    by_index = {int(SCOPE.match(name).group(1)): node for name, node in scope_names(model).items()}  # type: ignore[union-attr]
    kernels = _walk(entry, computations, device, 1) if entry is not None else []
    rows = [_kernel_row(kernel, by_index, device) for kernel in kernels]
    nodes = _node_rows(kernels, by_index, device)
    total = sum(kernel.seconds(device) for kernel in kernels)
    flops: Counter[str] = Counter()
    for kernel in kernels:
        for rate, n in kernel.flops.items():
            flops[rate] += n * kernel.runs
    arithmetic = sum(n / device.flops.get(rate, device.flops["fp32"]) for rate, n in flops.items())
    moved = sum(kernel.bytes * kernel.runs for kernel in kernels)
    cost = {
        "kind": "roofline",
        "source": f"{compiled.compiler}; least time of each kernel at the peaks of {device.title}, "
        "nothing for starting it",
        "seconds": total,
        "least_seconds": {"arithmetic": arithmetic, "memory": moved / device.hbm_bytes_per_s},
        "bound": "arithmetic" if arithmetic > moved / device.hbm_bytes_per_s else "memory",
        "launches": sum(kernel.runs for kernel in kernels),
        "matrix_flops": sum(flops.values()),
        "hbm_bytes": moved,
        "nodes": nodes,
        "precision": PRECISIONS.get(options.get("precision") or "fp32"),
        "advice": [],
    }
    return cost, memory_report(compiled, computations, entry, model), rows


def combined_gpu(
    reports: Mapping[str, tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]],
) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """The same of programs that run one after another; ``segments`` holds those of each."""
    if len(reports) == 1:
        return next(iter(reports.values()))
    costs = {name: cost for name, (cost, _, _) in reports.items()}
    memories = {name: memory for name, (_, memory, _) in reports.items()}
    first = next(iter(costs.values()))
    summed = ("seconds", "launches", "matrix_flops", "hbm_bytes")
    total = sum(cost["seconds"] for cost in costs.values())
    rows = [
        {**row, "share": row["seconds"] / total if total else 0.0}
        for c in costs.values()
        for row in c["nodes"]
    ]
    least = {key: sum(c["least_seconds"][key] for c in costs.values()) for key in first["least_seconds"]}
    cost = {
        **{key: first[key] for key in ("kind", "source", "precision", "advice")},
        **{key: sum(c[key] for c in costs.values()) for key in summed},
        "least_seconds": least,
        "bound": max(least, key=lambda key: least[key]),
        "nodes": sorted(rows, key=lambda row: (-row["seconds"], row["node"])),
        "segments": costs,
    }
    kinds = ("argument", "output", "temp", "alias", "generated_code")
    memory: dict[str, Any] = {kind: sum(m[kind] for m in memories.values()) for kind in kinds}
    memory["temp"] = max(m["temp"] for m in memories.values())  # one program computes at a time
    used = memory["argument"] + memory["output"] + memory["temp"] + memory["generated_code"] - memory["alias"]
    memory |= {"hbm": used, "peak": used, "segments": memories}
    return cost, memory, [row for _, _, kernels in reports.values() for row in kernels]


def _walk(name: str, computations: Computations, device: Device, runs: int) -> list[Kernel]:
    """The kernels of a computation and of what it calls, in the order of the schedule."""
    found: list[Kernel] = []
    items = with_owners(computations.get(name, []))
    shapes = {item.name: item for item in items}
    for item in items:
        if item.opcode == "while":
            times = runs * (trip_count(item, shapes, computations) or 1)
            for called in item.called:
                found += _walk(called, computations, device, times)
        elif item.opcode == "conditional":
            branches = [_walk(b, computations, device, runs) for b in (*item.branches, *item.called)]
            found += max(branches, key=lambda b: sum(k.seconds(device) for k in b), default=[])
        elif item.opcode in ("call", "async-start") and item.called:
            for called in item.called:
                found += _walk(called, computations, device, runs)
        elif item.opcode not in _NOT_KERNELS and not item.opcode.endswith(("-done", "-update")):
            found.append(_kernel(item, shapes, computations, runs))
    return found


def _kernel(
    item: Instruction, shapes: dict[str, Instruction], computations: Computations, runs: int
) -> Kernel:
    flops: Counter[str] = Counter()
    inner = contractions(item, shapes, computations)
    for one in inner:
        # Operands of float32: six passes stand for the precision HIGHEST, one for what TF32 is allowed in.
        rate = _RATES.get(one.dtype) or ("fp8" if one.dtype.startswith("f8") else "fp32")
        flops["tf32" if one.dtype == "f32" and one.passes == 1 else rate] += one.flops
    target = item.attributes.get("custom_call_target", "").strip('"')
    if item.opcode == "custom-call":
        rate, n = _library_work(item, target, shapes)
        flops[rate] += n
    moved = hbm_bytes(item, shapes, computations)
    if item.opcode == "custom-call":  # (result, scratch)
        moved -= sum(s.padded_bytes for s in item.shapes[1:] if s.dtype == "u8")
    kind = item.opcode
    if item.opcode == "fusion":
        kind = _FUSIONS.get(item.attributes.get("kind", ""), "fusion")
        kind = "triton product" if inner and kind == "triton fusion" else kind
    elif item.opcode == "custom-call":
        kind = next((words for start, words in _CALLS.items() if target.startswith(start)), target)
    return Kernel(item.name, kind, shares(item, computations), +flops, max(moved, 0), runs)


def _library_work(item: Instruction, target: str, shapes: dict[str, Instruction]) -> tuple[str, int]:
    """The operations of a call of cuDNN or cuBLAS, and the peak that they are held against."""
    operands = [shapes[o].shapes[0] for o in item.operands if o in shapes and shapes[o].shapes]
    if len(operands) < 2 or not item.shapes:
        return "fp32", 0
    dtype = operands[0].dtype
    exact = "highest" in item.attributes.get("operand_precision", "")
    rate = _RATES.get(dtype) or ("fp32" if dtype != "f32" or exact else "tf32")
    if target.startswith("__cudnn$conv"):
        return rate, convolution_flops(item, operands, backward=target.endswith("BackwardInput"))
    if target.startswith("__cublas$"):
        left, right, result = operands[0].dims, operands[1].dims, item.shapes[0].dims
        batch = math.prod(result[:-2])
        if not math.prod(result) or len(left) != len(right):
            return rate, 0
        # |A| |B| / |C| is the square of what is contracted, times the batch.
        length = math.isqrt(math.prod(left) * math.prod(right) // (math.prod(result) * max(batch, 1)))
        return rate, 2 * math.prod(result) * length
    return rate, 0


def _kernel_row(kernel: Kernel, by_index: Mapping[int, Node], device: Device) -> dict[str, Any]:
    nodes = [by_index[index] for index in kernel.parts if index in by_index]
    return {
        "name": kernel.name,
        "kind": kernel.kind,
        "nodes": [node.name or "" for node in nodes],
        "origins": list(dict.fromkeys(o for node in nodes for o in origins(node))),
        "flops": sum(kernel.flops.values()),
        "bytes": kernel.bytes,
        "runs": kernel.runs,
        "seconds": kernel.seconds(device),
        "bound": kernel.bound(device),
    }


def _node_rows(kernels: list[Kernel], by_index: Mapping[int, Node], device: Device) -> list[dict[str, Any]]:
    """Each node's part of the kernels that compute it, dearest first."""
    spent: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
    names: dict[int, list[str]] = defaultdict(list)
    total = sum(kernel.seconds(device) for kernel in kernels)
    for kernel in kernels:
        whole = sum(kernel.parts.values()) or 1.0
        for index, weight in kernel.parts.items():
            spent[index][0] += kernel.seconds(device) * weight / whole
            spent[index][1] += kernel.bytes * kernel.runs * weight / whole
            names[index].append(kernel.name)
    rows = [
        {
            "node": by_index[index].name or "",
            "op_type": by_index[index].op_type,
            "origins": list(origins(by_index[index])),
            "seconds": seconds,
            "share": round(seconds / total, 6) if total else 0.0,
            "hbm_bytes": round(moved),
            "kernels": names[index],
        }
        for index, (seconds, moved) in spent.items()
        if index != UNATTRIBUTED and index in by_index
    ]
    return sorted(rows, key=lambda row: (-row["seconds"], row["node"]))
