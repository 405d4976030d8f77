"""The optimiser on a folder of models: nodes, correctness, interface, time, and latency.

    python benchmarks/optimizer.py FOLDER [--only bert,resnet] [--seconds 2] [--json FILE]
                                   [--peers onnxsim,ort --peer-python PYTHON]

Beside ``X.onnx`` are its feeds: ``X.npz`` and, at a second size, ``X.2.npz``; without them they are
generated. ``plain`` is ``graphopt.optimize(model)``, ``cpu`` is what ``target="cpu"`` makes of it; peers
are measured in the same run. For each:

* nodes after / before, in subgraphs and functions too (``Constant`` nodes count, as everywhere);
* results against the raw model on ONNX Runtime without its optimisations, at both sizes, of the output
  without them and with all of them (it must survive being optimised again);
* the interface: names, order, types and shapes of inputs and outputs;
* CPU seconds of optimising;
* latency against the raw model, both under all of ONNX Runtime's optimisations (``cpu``: under the
  options that compile sets): thread CPU time, one thread, interleaved, the median of the rounds' ratios.

Each model runs in a child process with a time limit. Exits 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx

import graphopt
from graphopt.runtime.ort import PLAN_SCHEMA, OrtSession
from graphopt.verification import VerifyReport, generate_feeds, verify

OURS = ("plain", "cpu")
MIN_ROUNDS = 9
Feeds = Mapping[str, np.ndarray]


# --- one model, in the child ------------------------------------------------------------------------------


def count_nodes(model: onnx.ModelProto) -> int:
    """Nodes of the graph, of all bodies inside it, and of the model's functions."""

    def of(nodes: Sequence[onnx.NodeProto]) -> int:
        bodies = (g for n in nodes for a in n.attribute for g in (*a.graphs, a.g) if g.node)
        return len(nodes) + sum(of(body.node) for body in bodies)

    return of(model.graph.node) + sum(of(function.node) for function in model.functions)


def interface(model: onnx.ModelProto) -> tuple[list[Any], list[Any]]:
    """The inputs, in order, as they are declared, and of the outputs names, types and shapes.

    A size that an output's shape gives a name is None: an optimiser may find out what it is.
    """
    constant = {each.name for each in model.graph.initializer} if model.ir_version < 4 else set()
    inputs = [
        (each.name, each.type.SerializeToString(deterministic=True))
        for each in model.graph.input
        if each.name not in constant
    ]
    outputs = []
    for each in model.graph.output:
        tensor = each.type.tensor_type
        outputs.append((each.name, each.type.WhichOneof("value"), tensor.elem_type, [*map(_size, tensor.shape.dim)]))
    return inputs, outputs


def _size(dim: onnx.TensorShapeProto.Dimension) -> int | None:
    return dim.dim_value if dim.HasField("dim_value") else None


def same_interface(raw: onnx.ModelProto, made: onnx.ModelProto) -> bool:
    """Whether the inputs are the same, and the outputs but for sizes that became known."""
    (inputs, outputs), (new_inputs, new_outputs) = interface(raw), interface(made)
    if inputs != new_inputs or len(outputs) != len(new_outputs):
        return False
    for (*old, shape), (*new, new_shape) in zip(outputs, new_outputs, strict=True):
        known = all(a is None or a == b for a, b in zip(shape, new_shape, strict=False))
        if old != new or not known or (shape and len(shape) != len(new_shape)):
            return False
    return True


def plan(level: str) -> dict[str, Any]:
    """A plan for one thread of the CPU at one of ONNX Runtime's optimisation levels."""
    options = {"graph_optimization_level": level, "intra_op_num_threads": 1}
    return {"schema": PLAN_SCHEMA, "providers": [["CPUExecutionProvider", {}]], "session_options": options}


def feeds_of(path: Path) -> list[dict[str, np.ndarray]]:
    """The feeds beside the model, or generated ones."""
    files = [path.with_suffix(".npz"), path.with_suffix(".2.npz")]
    found = []
    for file in files:
        if file.is_file():
            with np.load(file) as arrays:
                found.append(dict(arrays))
    return found or [generate_feeds(graphopt.load(path), seed=seed) for seed in (0, 1)]


def optimize_ours(name: str, path: Path, output: Path) -> tuple[float, dict[str, Any]]:
    """Writes what graphopt makes of the model; gives its CPU seconds and the plan to run it by."""
    started = time.process_time()
    result = graphopt.optimize(path, target=None if name == "plain" else name)
    seconds = time.process_time() - started
    result.save(output)
    run_by = plan("ORT_ENABLE_ALL")
    if name != "plain":
        executable = graphopt.compile(path, name)
        output.write_bytes(executable.model_path_or_bytes())
        run_by = json.loads(json.dumps(executable.manifest["onnxruntime"]))
        run_by["session_options"]["intra_op_num_threads"] = 1
    return seconds, run_by


def optimize_peer(name: str, python: str, path: Path, output: Path) -> tuple[float, dict[str, Any]]:
    """As `optimize_ours`, by another optimiser."""
    script = [python, str(Path(__file__).with_name("peers.py")), name, str(path), str(output)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        raise RuntimeError(last)
    seconds = json.loads(done.stdout.strip().splitlines()[-1])["seconds"]
    return float(seconds), plan("ORT_ENABLE_ALL")


def problem_of(report: VerifyReport) -> str | None:
    """What the report finds wrong, in a few words."""
    for source, run in zip(report.inputs, report.runs, strict=True):
        if not run.ok and run.worst is not None:
            return f"{run.worst.name}: {run.worst.problem} ({source}, off by {run.worst.max_abs_error:.3g})"
    return None


def check(session: Callable[[Feeds], Mapping[str, Any]], path: Path, feeds: Sequence[Feeds]) -> str | None:
    """What differs from the raw model without ONNX Runtime's optimisations; None when nothing does."""
    return problem_of(verify(lambda one: session(one), path, feeds_list=feeds, isolate=False))


def wrong(path: Path, output: Path, feeds: Sequence[Feeds], run_by: Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with `output`."""
    found = []
    raw, made = onnx.load(path, load_external_data=False), onnx.load(output, load_external_data=False)
    if not same_interface(raw, made):
        found.append("interface changed")
    for label, way in (("", plan("ORT_DISABLE_ALL")), ("under all optimisations: ", run_by)):
        try:
            problem = check(OrtSession(output, way).run, path, feeds)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}".replace("\n", " ")[:300]
        if problem:
            found.append(label + problem)
    return found


def latencies(sessions: Mapping[str, Any], feeds: Feeds, seconds: float) -> dict[str, dict[str, float]]:
    """Each session's latency over the first's: the median of interleaved rounds, and the quartiles."""
    names = list(sessions)
    once = {name: _timed(sessions[name], feeds, 3) for name in names}  # warms up, too
    repeat = max(1, min(50, round(0.002 / max(once[names[0]], 1e-6))))
    times: dict[str, list[float]] = {name: [] for name in names}
    stop = time.perf_counter() + seconds
    round_ = 0
    while round_ < MIN_ROUNDS or time.perf_counter() < stop:
        for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
            times[name].append(_timed(sessions[name], feeds, repeat))
        round_ += 1
    result = {}
    for name in names:
        ratios = sorted(a / b for a, b in zip(times[name], times[names[0]], strict=True))
        result[name] = {
            "ratio": statistics.median(ratios),
            "low": ratios[len(ratios) // 4],
            "high": ratios[(3 * len(ratios)) // 4],
            "best": min(times[name]) / min(times[names[0]]),
            "ms": 1000 * statistics.median(times[name]),
            "rounds": round_,
        }
    return result


def _timed(session: Any, feeds: Feeds, repeat: int) -> float:
    """Seconds of this thread for one run, the mean of `repeat`."""
    started = time.thread_time()
    for _ in range(repeat):
        session.run(None, feeds)
    return (time.thread_time() - started) / repeat


def runtime_session(path: Path, way: Mapping[str, Any]) -> Any:
    """The bare session, without the checks of feeds that would be timed with it."""
    return OrtSession(path, way)._session


def measure(path: Path, names: Sequence[str], peer_python: str, seconds: float) -> dict[str, Any]:
    """All figures of one model."""
    feeds = feeds_of(path)
    raw_nodes = count_nodes(onnx.load(path, load_external_data=False))
    row: dict[str, Any] = {"model": path.stem, "nodes": raw_nodes, "sizes": len(feeds), "ways": {}}
    sessions = {"raw": runtime_session(path, plan("ORT_ENABLE_ALL"))}
    runtime = check(OrtSession(path, plan("ORT_ENABLE_ALL")).run, path, feeds)
    if runtime:
        row["runtime"] = runtime  # ONNX Runtime's optimisations change this model's answer by themselves
    graphopt.optimize(_tiny())  # imports are not what is measured
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            output = Path(folder) / f"{name}.onnx"
            way: dict[str, Any] = {"wrong": []}
            row["ways"][name] = way
            try:
                if name in OURS:
                    way["seconds"], run_by = optimize_ours(name, path, output)
                else:
                    way["seconds"], run_by = optimize_peer(name, peer_python, path, output)
                way["nodes"] = count_nodes(onnx.load(output, load_external_data=False))
                way["wrong"] += wrong(path, output, feeds, run_by)
                sessions[name] = runtime_session(output, run_by)
            except Exception as error:
                way["wrong"].append(f"failed: {type(error).__name__}: {error}".replace("\n", " ")[:400])
        if seconds > 0:
            for name, found in latencies(sessions, feeds[0], seconds).items():
                if name in row["ways"]:
                    row["ways"][name]["latency"] = found
                else:
                    row["raw_ms"] = found["ms"]
    return row


def _tiny() -> onnx.ModelProto:
    return onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18]> g (float[N] x) => (float[N] y) { y = Relu(x) }'
    )


# --- all models -------------------------------------------------------------------------------------------


def measure_all(paths: Sequence[Path], arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each model, from a child process each."""
    for path in paths:
        options = ["--one", "--seconds", str(arguments.seconds), "--peers", arguments.peers]
        script = [sys.executable, str(Path(__file__)), str(path), *options, "--peer-python", arguments.peer_python]
        try:
            done = subprocess.run(script, capture_output=True, text=True, timeout=arguments.timeout, check=False)
        except subprocess.TimeoutExpired:
            yield {"model": path.stem, "failed": f"not done in {arguments.timeout:g} s"}
            continue
        lines = done.stdout.strip().splitlines()
        if done.returncode or not lines:
            reason = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
            yield {"model": path.stem, "failed": reason[:300]}
            continue
        yield json.loads(lines[-1])


def geomean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(math.log(each) for each in values)) if values else math.nan


def cells(row: Mapping[str, Any], names: Sequence[str]) -> str:
    """One line of the table."""
    if "failed" in row:
        return f"{row['model']:34} FAILED: {row['failed']}"
    text = f"{row['model']:34} {row['nodes']:6}"
    for name in names:
        way = row["ways"][name]
        latency = way.get("latency")
        ratio = f"{way['nodes'] / max(row['nodes'], 1):6.2f}" if "nodes" in way else "     -"
        spread = f"{latency['ratio']:6.3f} [{latency['low']:.2f} {latency['high']:.2f}]" if latency else f"{'-':>18}"
        cost = 1000 * way["seconds"] / max(row["nodes"], 1) if "seconds" in way else math.nan
        text += f" | {ratio} {spread} {cost:6.2f} {'WRONG' if way['wrong'] else 'ok':5}"
    return text


def summary(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Geometric means over the models, and counts, for each way."""
    result = {}
    for name in names:
        ways = [(row, row["ways"][name]) for row in rows if "ways" in row]
        timed = [way["latency"]["ratio"] for _, way in ways if "latency" in way]
        result[name] = {
            "models": len(rows),
            "nodes": geomean([max(way["nodes"], 1) / row["nodes"] for row, way in ways if "nodes" in way]),
            "latency": geomean(timed),
            "slowest": max(timed, default=math.nan),
            "ms_per_node": 1000
            * sum(way.get("seconds", 0.0) for _, way in ways)
            / max(1, sum(row["nodes"] for row, way in ways if "seconds" in way)),
            "wrong": sum(bool(way["wrong"]) for _, way in ways) + sum("failed" in row for row in rows),
        }
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", help="beginnings of model names, separated by commas")
    parser.add_argument("--seconds", type=float, default=2.0, help="for the latency of one model; 0: none")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one model, all in all")
    parser.add_argument("--peers", default="", help="other optimisers to measure, separated by commas")
    parser.add_argument("--peer-python", default=sys.executable, help="the Python that has them")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    names = [*OURS, *(each for each in arguments.peers.split(",") if each)]
    if arguments.one:
        print(json.dumps(measure(arguments.folder, names, arguments.peer_python, arguments.seconds)))
        return 0
    beginnings = tuple((arguments.only or "").split(","))
    paths = [p for p in sorted(arguments.folder.glob("*.onnx")) if p.name.startswith(beginnings)]
    print(f"{'model':34} {'nodes':>6}" + "".join(f" | {n:>6} latency [quartiles] ms/node     " for n in names))
    rows = []
    for row in measure_all(paths, arguments):
        rows.append(row)
        print(cells(row, names), flush=True)
    total = summary(rows, names)
    for name, figures in total.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in figures.items()))
    for row in rows:
        for name, way in row.get("ways", {}).items():
            for each in way["wrong"]:
                print(f"WRONG {row['model']} {name}: {each}")
        if "runtime" in row:
            print(f"note: ONNX Runtime's own optimisations change {row['model']}: {row['runtime']}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows, "summary": total}, indent=1) + "\n")
    return 1 if not rows or any(total[name]["wrong"] for name in OURS) else 0


if __name__ == "__main__":
    sys.exit(main())
