"""Compile every sample for TPU v5e and CUDA, run and verify it here, and print what it became.

python samples/all_models.py [NAME …]
"""

from __future__ import annotations

import sys
from typing import Any

from catalogue import Sample, samples
from rich.console import Console
from rich.table import Table

import graphopt

COLUMNS = (
    "model",
    "nodes",
    "-O2",
    "passes",
    "verify -O0",
    "verify -O2",
    "v5e cycles",
    "v5e HBM",
    "CUDA nodes",
)


def main(names: list[str] | None = None) -> int:
    """Print the table; 0 when everything verified."""
    console = Console()
    table = Table(*COLUMNS, title="max |error| against ONNX Runtime, its optimisations off")
    failures = 0
    for sample in samples(names):
        with console.status(f"{sample.name} …"):
            row, good = measure(sample)
        table.add_row(*row)
        failures += not good
    console.print(table)
    return 1 if failures else 0


def measure(sample: Sample) -> tuple[list[str], bool]:
    """One row of the table, and whether both levels verified."""
    binding: dict[str, Any] = {"dims": sample.dims, "shapes": sample.shapes, "constants": sample.constants}
    feeds = [{k: v for k, v in sample.feeds().items() if k not in sample.constants}]
    tpu = graphopt.compile(sample.path, "tpu:v5e", **binding)
    cuda = graphopt.compile(sample.path, "cuda", **binding)
    checks = [
        graphopt.verify(tpu, against=sample.path, feeds=feeds, constants=sample.constants),
        graphopt.verify(
            graphopt.compile(sample.path, "xla-cpu", level=0, **binding),
            against=sample.path, feeds=feeds, constants=sample.constants,
        ),
        graphopt.verify(cuda, against=sample.path, feeds=feeds, constants=sample.constants),
    ]  # fmt: skip
    on_gpu = sum(1 for p in cuda.placement if p["provider"].startswith("CUDA"))
    return [
        sample.name,
        str(tpu.report["nodes_before"]),
        str(tpu.report["nodes_after"]),
        f"{tpu.seconds['passes']:.2f} s",
        f"{checks[1].max_abs_error:.1e}",
        f"{max(checks[0].max_abs_error, checks[2].max_abs_error):.1e}"
        + ("" if all(c.ok for c in checks) else " ✗"),
        f"{tpu.cost['total_cycles']:,}" if tpu.cost else "no libtpu",
        f"{tpu.memory['hbm'] / 2**20:.1f} MiB" if tpu.memory else "",
        f"{on_gpu}/{len(cuda.placement)}",
    ], all(c.ok for c in checks)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or None))
