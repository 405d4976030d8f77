"""Compile every sample for TPU v5e and CUDA, run and verify it here, and print what it became.

python samples/all_models.py [--markdown] [NAME …]
"""

from __future__ import annotations

import sys
from typing import Any

from catalogue import Sample, samples
from rich import box
from rich.console import Console
from rich.table import Table

import graphopt

COLUMNS = "model|nodes|after -O2|passes|error -O0|error -O2|TPU v5e cycles|TPU v5e HBM|on CUDA".split("|")


def main(names: list[str] | None = None, markdown: bool = False) -> int:
    """Print the table; 0 when everything verified."""
    screen = Console(stderr=True)
    table = Table(*COLUMNS, box=box.MARKDOWN if markdown else box.ROUNDED)
    failures = 0
    for sample in samples(names):
        with screen.status(f"{sample.name} …"):
            row, good = measure(sample)
        table.add_row(*row)
        failures += not good
    Console(width=max(Console().width, 130)).print(table)
    if not markdown:
        print("error: the largest absolute one of any output, against ONNX Runtime without optimisations")
    return 1 if failures else 0


def measure(sample: Sample) -> tuple[list[str], bool]:
    """One row of the table, and whether both levels verified on every target."""
    binding: dict[str, Any] = {"dims": sample.dims, "shapes": sample.shapes, "constants": sample.constants}
    feeds = [{k: v for k, v in sample.feeds().items() if k not in sample.constants}]
    levels = {
        level: [graphopt.compile(sample.path, target, level, **binding) for target in targets]
        for level, targets in ((0, ("xla-cpu", "cuda")), (2, ("tpu:v5e", "cuda")))
    }
    checks = {
        level: [graphopt.verify(e, sample.path, feeds=feeds, constants=sample.constants) for e in executables]
        for level, executables in levels.items()
    }
    tpu, cuda = levels[2]
    good = all(c.ok for level in checks.values() for c in level)
    errors = [f"{max(c.max_abs_error for c in checks[level]):.1e}" for level in (0, 2)]
    on_gpu = sum(p["provider"].startswith("CUDA") for p in cuda.placement)
    nodes = [str(tpu.report[key]) for key in ("nodes_before", "nodes_after")]
    cost = [f"{tpu.cost['total_cycles']:,}", f"{tpu.memory['hbm'] / 2**20:.1f} MiB"] if tpu.cost else ["", ""]
    row = [sample.name + ("" if good else " ✗"), *nodes, f"{tpu.seconds['passes']:.2f} s", *errors, *cost]
    return [*row, f"{on_gpu} of {len(cuda.placement)}"], good


if __name__ == "__main__":
    flags = set(sys.argv[1:]) & {"--markdown"}
    sys.exit(main([a for a in sys.argv[1:] if a not in flags] or None, bool(flags)))
