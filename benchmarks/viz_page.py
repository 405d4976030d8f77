"""The HTML report at scale: time to build it, its size, time to the first drawing, frames while panning.

Run from the repository's root, with chromium installed: ``python benchmarks/viz_page.py``. Each model is an
irregular chain in nested scopes with skip connections; one of the reports compares it with a model that
lacks every tenth node. Frame times are those of a headless browser that draws without a GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper
from rich.console import Console
from rich.table import Table

import graphopt

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from viz.report_pages import browser, opened

OPS = ("Relu", "Neg", "Abs", "Exp", "Tanh", "Sqrt", "Sigmoid", "Softplus", "Sin", "Add")


def model(count: int, *, drop: int = 0, flat: bool = False) -> onnx.ModelProto:
    """`count` nodes, ten to a layer and ten layers to a stage; every `drop`-th is left out."""
    nodes, last, skip = [], "x", "x"
    for i in range(count):
        # Irregular, so that no repeated blocks are found, which would be drawn once.
        op = OPS[(i * i * 7 + i // 9) % 10]
        name = f"{op}_{i}" if flat else f"/stage.{i // 100}/layer.{i // 10}/{op}_{i}"
        if drop and i % drop == 5:
            continue
        inputs = [last, skip] if op == "Add" else [last]
        nodes.append(helper.make_node(op, inputs, [f"{name}_out"], name=name))
        last = f"{name}_out"
        skip = last if op == "Add" else skip
    io = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 64]) for name in ("x", last)]
    graph = helper.make_graph(nodes, "bench", io[:1], io[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def measure(chrome: Any, count: int, folder: Path, *, pair: bool, flat: bool) -> dict[str, Any]:
    paths = [folder / f"{count}{part}.onnx" for part in ("a", "b")]
    onnx.save(model(count, flat=flat), paths[0])
    onnx.save(model(count, drop=10, flat=flat), paths[1])
    html = folder / f"{count}.html"
    start = time.perf_counter()
    graphopt.visualize(paths[0], paths[1] if pair else None).save(html)
    row: dict[str, Any] = {
        "nodes": count,
        "report": ("before and after" if pair else "one model") + (", no scopes" if flat else ""),
        "build_s": round(time.perf_counter() - start, 2),
        "html_kib": round(html.stat().st_size / 1024),
    }
    with opened(chrome, html) as report:
        row["drawn_ms"] = round(report.page.evaluate("graphopt.drawnAfter()"))
        row["items"] = len(report.drawn())
        row |= frames(report, "folded")
        # As much as the page opens at a time, and seen whole: the most that it ever draws.
        report.press("e", "e", "e", "f")
        row["items_open"] = len(report.drawn())
        row |= frames(report, "open")
    return row


def frames(report: Any, what: str) -> dict[str, float]:
    times = sorted(report.page.evaluate("graphopt.pan(60)"))
    return {
        f"frame_ms_{what}": round(statistics.median(times), 1),
        f"frame_ms_{what}_p95": round(times[56], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="300,3000,10000,50000", help="nodes, with commas")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    rows = []
    console = Console()
    with tempfile.TemporaryDirectory() as folder, browser() as chrome:
        for count in map(int, options.sizes.split(",")):
            for pair, flat in ((False, False), (True, False), (False, True)):
                row = measure(chrome, count, Path(folder), pair=pair, flat=flat)
                console.print(row, soft_wrap=True)
                rows.append(row)
    table = Table(*rows[0], title="HTML reports")
    for row in rows:
        table.add_row(*map(str, row.values()))
    console.print(table)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
