"""Runs one other ONNX optimiser on a model, in the Python that has it.

    python benchmarks/peers.py NAME IN.onnx OUT.onnx

Names: onnxsim, onnxslim, onnxoptimizer, onnxscript, ort (its own graph saved at its extended level).
Prints the CPU seconds as JSON. Alone in its file, so that it needs nothing of graphopt.
"""

from __future__ import annotations

import json
import sys
import time

import onnx


def onnxsim(source: str, target: str) -> None:
    import onnxsim as tool

    simplified, _ = tool.simplify(onnx.load(source))
    onnx.save(simplified, target)


def onnxslim(source: str, target: str) -> None:
    import onnxslim as tool

    onnx.save(tool.slim(onnx.load(source)), target)


def onnxoptimizer(source: str, target: str) -> None:
    import onnxoptimizer as tool

    onnx.save(tool.optimize(onnx.load(source), tool.get_fuse_and_elimination_passes()), target)


def onnxscript(source: str, target: str) -> None:
    import onnxscript.optimizer as tool

    onnx.save(tool.optimize(onnx.load(source)), target)


def ort(source: str, target: str) -> None:
    import onnxruntime as tool

    options = tool.SessionOptions()
    options.graph_optimization_level = tool.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = target
    options.log_severity_level = 4
    tool.InferenceSession(source, options, providers=["CPUExecutionProvider"])


PEERS = {each.__name__: each for each in (onnxsim, onnxslim, onnxoptimizer, onnxscript, ort)}


def main() -> None:
    name, source, target = sys.argv[1:]
    started = time.process_time()
    PEERS[name](source, target)
    print(json.dumps({"seconds": time.process_time() - started}))


if __name__ == "__main__":
    main()
