"""Our lowering of exported models beside the same architectures written by hand in JAX, for TPUs.

    python benchmarks/tpu/compare.py FOLDER [--only bert,gpt2,resnet] [--layers 2] [--exporter dynamo]
                                     [--targets v5e,v6e] [--classes] [--json FILE] [--hlo FOLDER]

FOLDER holds what ``export.py`` made. Both sides are compiled by the same compiler in the same child
process setup, in bfloat16, with weights as arguments. Cycles are the compiler's own estimate, summed over
the schedule (loops times their trip count); HBM is arguments, results, temporaries and code. ``--classes``
says where they go, by class of instruction. What was written by hand is compiled once and kept in FOLDER.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax import export

import graphopt
from graphopt.lowering.xla.aot import compile_for_tpu
from graphopt.lowering.xla.cost import Instruction, cycles_by_scope, parse_module
from graphopt.target import Target

sys.path.insert(0, str(Path(__file__).parent))

SIZES = {"bert": (8, 128), "gpt2": (8, 128), "resnet": (8, 224)}
PRODUCTS = ("dot", "convolution")
MOVES = (
    "copy",
    "transpose",
    "reshape",
    "pad",
    "slice",
    "concatenate",
    "dynamic-slice",
    "dynamic-update-slice",
)


def by_hand(name: str, layers: int | None, target: str) -> tuple[dict[str, Any], str]:
    """Figures and HLO of the model written by hand."""
    module = importlib.import_module(name)
    arguments = module.weights(*([] if layers is None else [layers])), module.inputs(*SIZES[name])

    def model(weights: Any, inputs: dict[str, Any]) -> Any:
        return module.model(weights, **inputs)

    program = export.export(jax.jit(model), platforms=["tpu"])(*arguments)
    compiled = compile_for_tpu(bytes(program.serialize(vjp_order=0)), Target.parse(f"tpu:{target}"))
    figures = {"cycles": sum(cycles_by_scope(compiled.hlo).values()), "hbm": compiled.hbm_bytes}
    return {**figures, "flops": compiled.flops, "memory": compiled.memory}, compiled.hlo


def lowered(path: Path, target: str, **options: Any) -> tuple[dict[str, Any], str]:
    """Figures and HLO of our lowering."""
    executable = graphopt.compile(path, target=f"tpu:{target}", precision="bf16", **options)
    assert executable.cost is not None
    assert executable.memory is not None
    figures = {"cycles": executable.cost["total_cycles"], "hbm": executable.memory["hbm"]}
    hlo = executable.files["tpu.hlo.txt"].decode()
    return {**figures, "flops": executable.cost["flops"], "memory": executable.memory}, hlo


def classes(hlo: str) -> dict[str, tuple[float, int]]:
    """Cycles and number of instructions of the schedule, by class."""
    computations, entry = parse_module(hlo)
    totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])

    def walk(name: str, times: int) -> None:
        for item in computations.get(name, []):
            if item.opcode in ("while", "conditional", "call") and item.called:
                for called in (*item.called, *item.branches):
                    walk(called, times * item.trips)
            elif item.cycles:
                row = totals[class_of(item, computations)]
                row[0] += item.cycles * times
                row[1] += 1

    walk(entry or "", 1)
    return {name: (cycles, int(count)) for name, (cycles, count) in totals.items()}


def class_of(item: Instruction, computations: dict[str, list[Instruction]]) -> str:
    """The class of one instruction: what the dearest thing in it is."""
    held = {item.opcode} if item.opcode != "fusion" else _opcodes(item.called, computations)
    if held & set(PRODUCTS):
        return "product"
    if held & {"gather", "scatter"}:
        return "gather"
    if held & {"reduce", "reduce-window"}:
        return "reduce"
    moved = held - {"parameter", "constant", "bitcast", "convert", "broadcast", "tuple", "get-tuple-element"}
    if moved and all(op.startswith(MOVES) for op in moved):
        return "move"
    if held <= {"parameter", "constant", "bitcast", "convert", "fusion"}:
        return "convert"
    return "elementwise" if item.opcode == "fusion" else item.opcode


def _opcodes(names: tuple[str, ...], computations: dict[str, list[Instruction]]) -> set[str]:
    found: set[str] = set()
    for name in names:
        for item in computations.get(name, []):
            found |= _opcodes(item.called, computations) if item.opcode == "fusion" else {item.opcode}
    return found


def kept(path: Path, make: Callable[[], tuple[dict[str, Any], str]]) -> tuple[dict[str, Any], str]:
    """What `make` gives, from `path` if it was made before by this compiler from these sources."""
    sources = "".join(
        p.read_text() for p in sorted(Path(__file__).parent.glob("*.py")) if p.name != "compare.py"
    )
    sources += (Path(graphopt.__file__).parent / "lowering/xla/aot_worker.py").read_text()
    key = f"{importlib.metadata.version('libtpu')} {sources}"
    if path.exists():
        found = json.loads(path.read_text())
        if found["key"] == key:
            return found["figures"], found["hlo"]
    figures, hlo = make()
    path.write_text(json.dumps({"key": key, "figures": figures, "hlo": hlo}))
    return figures, hlo


def compare(arguments: argparse.Namespace, name: str, target: str) -> dict[str, Any]:
    """One row: both sides of one model for one device."""
    size = arguments.layers or "full"
    folder: Path = arguments.folder
    hand, hand_hlo = kept(
        folder / f"{name}-{size}-{target}.json", lambda: by_hand(name, arguments.layers, target)
    )
    started = time.monotonic()
    path = folder / f"{name}-{size}-{arguments.exporter}.onnx"
    ours, hlo = lowered(path, target, level=arguments.level)
    if arguments.hlo is not None:
        arguments.hlo.mkdir(parents=True, exist_ok=True)
        (arguments.hlo / f"{name}-{size}-{target}-hand.txt").write_text(hand_hlo)
        (arguments.hlo / f"{name}-{size}-{target}-ours.txt").write_text(hlo)
    return {
        "model": name,
        "layers": size,
        "target": target,
        "hand": {**hand, "classes": classes(hand_hlo)},
        "ours": {**ours, "classes": classes(hlo)},
        "cycles_ratio": ours["cycles"] / hand["cycles"],
        "hbm_ratio": ours["hbm"] / hand["hbm"],
        "seconds": time.monotonic() - started,
    }


def show(row: dict[str, Any], with_classes: bool) -> None:
    hand, ours = row["hand"], row["ours"]
    print(
        f"{row['model']:7} {row['layers']!s:5} {row['target']:4} "
        f"{hand['cycles']:12,.0f} {ours['cycles']:12,.0f} {row['cycles_ratio']:6.3f}   "
        f"{hand['hbm'] / 2**20:8.1f} {ours['hbm'] / 2**20:8.1f} {row['hbm_ratio']:6.3f} "
        f"{row['seconds']:6.1f}",
        flush=True,
    )
    if with_classes:
        for name in sorted({*hand["classes"], *ours["classes"]}):
            (a, n), (b, m) = (side["classes"].get(name, (0, 0)) for side in (hand, ours))
            print(f"      {name:16} {a:10,.0f} ({n:3}) {b:10,.0f} ({m:3})  {b - a:+10,.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default=",".join(SIZES), help="names of models, separated by commas")
    parser.add_argument("--layers", type=int, help="the models that were exported with so many layers")
    parser.add_argument("--exporter", default="dynamo")
    parser.add_argument("--targets", default="v5e,v6e")
    parser.add_argument("--level", type=int, default=2)
    parser.add_argument("--classes", action="store_true", help="cycles by class of instruction")
    parser.add_argument("--hlo", type=Path, help="write the compiled modules there")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(
        f"{'model':7} {'size':5} {'for':4} {'hand cycles':>12} {'ours':>12} {'ratio':>6}   "
        f"{'hand MiB':>8} {'ours':>8} {'ratio':>6}  {'s':>6}"
    )
    rows = []
    for name in arguments.only.split(","):
        for target in arguments.targets.split(","):
            rows.append(compare(arguments, name, target))
            show(rows[-1], arguments.classes)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
