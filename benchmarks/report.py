"""What the HTML report costs to make: time by stage and size of the page, by size of the graph.

    python benchmarks/report.py [--nodes 300,3000,10000,50000] [--flat] [--save FOLDER] [--json FILE]

The graphs are transformer layers of twenty nodes; with --flat their names have no scopes. Each is optimised
with a timeline that watches, and the page shows every pass. Times are CPU seconds of this process.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.viz import Timeline, run_view, to_html
from graphopt.viz.view import model_view, prepared

WIDTH = 64


def layered(nodes: int, *, scoped: bool = True) -> onnx.ModelProto:
    """About `nodes` nodes in layers of twenty: attention, a residual, two products with activations."""
    body: list[onnx.NodeProto] = []
    value = "x"
    for layer in range(max(1, nodes // 20)):

        def add(op: str, *operands: str, at: str = "", layer: int = layer, **attributes: Any) -> str:
            name = f"/encoder/layer.{layer}/{at}{op}" if scoped else op
            result = f"t{len(body)}"
            body.append(helper.make_node(op, operands, [result], name=f"{name}_{len(body)}", **attributes))
            return result

        query, key, heads = (
            add("Add", add("MatMul", value, w, at=f"attention/{w}/"), "bias", at=f"attention/{w}/")
            for w in ("query", "key", "value")
        )
        score = add("MatMul", query, add("Transpose", key, at="attention/", perm=[0, 2, 1]), at="attention/")
        mixed = add("MatMul", add("Softmax", score, at="attention/"), heads, at="attention/")
        residual = add("Add", add("MatMul", mixed, "query", at="attention/output/"), value)
        inner = add("Add", add("MatMul", residual, "key", at="mlp/"), "bias", at="mlp/")
        inner = add("Identity", add("Relu", inner, at="mlp/"), at="mlp/")
        inner = add(
            "Tanh", add("Add", add("MatMul", inner, "value", at="mlp/"), "bias", at="mlp/"), at="mlp/"
        )
        value = add("Add", inner, residual)
    body.append(helper.make_node("Identity", [value], ["y"], name="result"))
    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)
        for name, shape in (
            ("query", (WIDTH, WIDTH)),
            ("key", (WIDTH, WIDTH)),
            ("value", (WIDTH, WIDTH)),
            ("bias", (WIDTH,)),
        )
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 16, WIDTH]) for n in "xy"]
    graph = helper.make_graph(body, f"layers of {nodes}", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def measure(model: onnx.ModelProto, save: Path | None) -> dict[str, Any]:
    """CPU seconds and sizes for one model: a plain view, and the report of a pipeline run."""
    seconds: dict[str, float] = {}

    def timed(name: str, work: Any) -> Any:
        started = time.process_time()
        result = work()
        seconds[name] = round(time.process_time() - started, 3)
        return result

    given = timed("read and infer", lambda: prepared(model))
    view = timed("view", lambda: model_view(given))
    page = timed("page", lambda: to_html(view))
    bare = timed("optimize", lambda: graphopt.optimize(model, "cpu"))
    timeline = Timeline()
    result = timed("optimize, watched", lambda: graphopt.optimize(model, "cpu", instruments=[timeline]))
    run = timed("view of the run", lambda: run_view(timeline, result.model))
    report = timed("page of the run", lambda: to_html(run))
    if save is not None:
        (save / f"model-{len(view['nodes'])}.html").write_text(page, encoding="utf-8")
        (save / f"run-{len(view['nodes'])}.html").write_text(report, encoding="utf-8")
    return {
        "nodes": len(view["nodes"]),
        "nodes after": bare.report.nodes_after,
        "groups": len(view["groups"]),
        "versions": len(run["nodes"]),
        "page bytes": len(page),
        "report bytes": len(report),
        "seconds": seconds,
    }


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", default="300,3000,10000,50000")
    parser.add_argument("--flat", action="store_true", help="names without scopes")
    parser.add_argument("--save", type=Path, help="write the pages there")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    if options.save is not None:
        options.save.mkdir(parents=True, exist_ok=True)
    prepared(layered(20))  # imports are not what is measured
    rows = []
    for count in map(int, options.nodes.split(",")):
        row = measure(layered(count, scoped=not options.flat), options.save)
        rows.append(row)
        stages = ", ".join(f"{name} {spent:.2f}" for name, spent in row["seconds"].items())
        plain, run = row["page bytes"] / 1e6, row["report bytes"] / 1e6
        print(f"{row['nodes']} nodes: a page of {plain:.2f} MB, of the run {run:.2f} MB")
        print(f"  CPU seconds: {stages}", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
