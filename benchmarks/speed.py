"""The speed figures the project keeps: start-up, scaling of the optimiser, peak memory.

    python benchmarks/speed.py [--gib 2]

Prints each figure beside its bar and exits 1 if one is missed. Everything is measured in this one
run; the scaling is a ratio, so it holds on a busy machine too.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

HELP_S, SCALING, MEMORY = 0.4, 15.0, 1.3


def help_seconds(runs: int = 5) -> float:
    """The best of `runs` wall times of ``graphopt --help``."""
    script = Path(sys.executable).with_name("graphopt")
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        subprocess.run([str(script), "--help"], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    return min(times)


def chain(nodes: int) -> onnx.ModelProto:
    """A graph of about `nodes` nodes in blocks of eight: MatMul, Add, Relu, no-ops and shape arithmetic."""
    body, weights, value = [], [], "x"
    rng = np.random.RandomState(0)
    for block in range(nodes // 8):
        names = [f"b{block}_{i}" for i in range(8)]
        weights.append(onnx.numpy_helper.from_array(rng.rand(4, 4).astype(np.float32), f"w{block}"))
        weights.append(onnx.numpy_helper.from_array(rng.rand(4).astype(np.float32), f"c{block}"))
        body += [
            helper.make_node("MatMul", [value, f"w{block}"], [names[0]]),
            helper.make_node("Add", [names[0], f"c{block}"], [names[1]]),
            helper.make_node("Relu", [names[1]], [names[2]]),
            helper.make_node("Identity", [names[2]], [names[3]]),
            helper.make_node("Shape", [names[3]], [names[4]]),
            helper.make_node("Reshape", [names[3], names[4]], [names[5]]),
            helper.make_node("Transpose", [names[5]], [names[6]], perm=[1, 0]),
            helper.make_node("Transpose", [names[6]], [names[7]], perm=[1, 0]),
        ]
        value = names[7]
    graph = helper.make_graph(
        body,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["N", 4])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def optimize_seconds(nodes: int) -> float:
    """CPU seconds of ``graphopt.optimize`` at -O2."""
    import graphopt

    model = chain(nodes)
    started = time.process_time()
    graphopt.optimize(model)
    return time.process_time() - started


def peak_ratio(gib: float) -> float:
    """Peak resident memory of compiling `gib` GiB of weights to the portable program, over the weights."""
    with tempfile.TemporaryDirectory() as scratch:
        path = write_large(Path(scratch), gib)
        code = (
            "import graphopt, resource, json, sys\n"
            f"graphopt.compile({str(path)!r}, 'xla-cpu').save({str(Path(scratch) / 'out')!r})\n"
            "print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))"
        )
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        return float(json.loads(done.stdout)) / (gib * 2**30)


def write_large(folder: Path, gib: float) -> Path:
    """A model of MatMuls whose weights are `gib` GiB of external data."""
    width, count = 4096, max(1, int(gib * 2**30 / (4096 * 4096 * 4)))
    with (folder / "weights.bin").open("wb") as stream:
        for index in range(count):
            stream.write(np.random.default_rng(index).standard_normal(width * width, np.float32).tobytes())
    weights = []
    for index in range(count):
        tensor = TensorProto(name=f"w{index}", data_type=TensorProto.FLOAT, dims=[width, width])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (
            ("location", "weights.bin"),
            ("offset", index * width * width * 4),
            ("length", width * width * 4),
        ):
            tensor.external_data.add(key=key, value=str(value))
        weights.append(tensor)
    nodes = [helper.make_node("MatMul", [f"h{i}", f"w{i}"], [f"h{i + 1}"]) for i in range(count)]
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("h0", TensorProto.FLOAT, [8, width])],
        [helper.make_tensor_value_info(f"h{count}", TensorProto.FLOAT, [8, width])],
        weights,
    )
    path = folder / "large.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def main() -> int:
    """Measure everything; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=2.0, help="GiB of weights for the memory figure")
    gib = parser.parse_args().gib
    optimize_seconds(80)  # imports
    one, ten = optimize_seconds(1_000), optimize_seconds(10_000)
    rows = [
        ("graphopt --help, s", help_seconds(), HELP_S),
        ("optimize 10k nodes over 1k nodes, ratio", ten / one, SCALING),
        (f"peak memory over {gib:g} GiB of weights, ratio", peak_ratio(gib), MEMORY),
    ]
    for label, value, bar in rows:
        print(f"{label:48} {value:8.3f}   bar {bar:g}   {'ok' if value <= bar else 'MISSED'}")
    print(f"optimize -O2: 1k nodes {one:.2f} s CPU ({one:.2f} ms a node), 10k nodes {ten:.2f} s CPU")
    print(f"peak of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    return 0 if all(value <= bar for _, value, bar in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
