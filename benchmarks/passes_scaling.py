"""How the time of each cleaning pass grows from 1,000 to 10,000 nodes; linear is a ratio of 10.

`python benchmarks/passes_scaling.py [PASS…]` prints a row for each pass, and fails above 15.
"""

from __future__ import annotations

import gc
import sys
import time

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphopt.ir import Model
from graphopt.ir.io import load
from graphopt.passes import find
from graphopt.transform import Pass, Pipeline

LIMIT = 15.0
PASSES = (
    "bind-dims{dims=n=7}",
    "deduplicate-initializers",
    "eliminate-common-subexpressions",
    "eliminate-dead-nodes",
    "eliminate-identity",
    "eliminate-noops",
    "fold-constants",
    "fold-shapes",
    "infer-shapes",
    "inline-branches",
    "merge-casts",
    "merge-reshapes",
    "merge-transposes",
)


def chain(blocks: int) -> Model:
    """Blocks of ten nodes in which every pass finds something: towers, pairs, copies, constants."""
    nodes: list[onnx.NodeProto] = []
    weights = [
        numpy_helper.from_array(np.array([0], np.int64), "zero"),
        numpy_helper.from_array(np.array([4, 16], np.int64), "split"),
        numpy_helper.from_array(np.array([-1, 64], np.int64), "flat"),
    ]
    x = "x"
    for i in range(blocks):
        weights.append(numpy_helper.from_array(np.full(64, i % 7, np.float32), f"w{i}"))
        add = nodes.append
        add(helper.make_node("Shape", [x], [f"s{i}"]))
        add(helper.make_node("Gather", [f"s{i}", "zero"], [f"n{i}"]))
        add(helper.make_node("Concat", [f"n{i}", "split"], [f"t{i}"], axis=0))
        add(helper.make_node("Reshape", [x, f"t{i}"], [f"r{i}"]))
        add(helper.make_node("Transpose", [f"r{i}"], [f"p{i}"], perm=[0, 2, 1]))
        add(helper.make_node("Transpose", [f"p{i}"], [f"q{i}"], perm=[0, 2, 1]))
        add(helper.make_node("Reshape", [f"q{i}", "flat"], [f"f{i}"]))
        add(helper.make_node("Neg", [f"w{i}"], [f"v{i}"]))
        add(helper.make_node("Add", [f"f{i}", f"v{i}"], [f"x{i}"]))
        add(helper.make_node("Exp", [f"f{i}"], [f"dead{i}"]))
        x = f"x{i}"
    nodes.append(helper.make_node("Identity", [x], ["y"]))
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
        weights,
    )
    return load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


def seconds(pass_: Pass, model: Model, repeats: int) -> float:
    """Processor time, the best of several runs, each on a copy of its own."""
    best = float("inf")
    for _ in range(repeats):
        copy = model.clone()
        gc.collect()  # the copies before are not this pass's garbage
        started = time.process_time()
        pass_.run(copy)
        best = min(best, time.process_time() - started)
    return best


def main(names: list[str]) -> int:
    """Print the table; return 1 if any pass is worse than the limit."""
    small, large = chain(100), chain(1000)
    worst = 0.0
    for text in names or PASSES:
        (pass_,) = Pipeline(text).passes
        assert isinstance(pass_, find(type(pass_).pass_name()))
        quick, slow = seconds(pass_, small, 5), seconds(pass_, large, 3)
        worst = max(worst, slow / quick)
        print(f"{text:34} {quick * 1e3:9.1f} ms {slow * 1e3:9.1f} ms   x{slow / quick:.1f}")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
