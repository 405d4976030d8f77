"""Find every node that a parser refuses, where it stops at the first.

TensorRT's parser looks at all nodes at once for operators that it does not know, but at types, attributes
and shapes only while it builds the network, and ends there at the first that it cannot build.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

MOST, SECONDS = 20, 30.0
"""After so many, or so long, the list is long enough: each takes another parse."""

Refusals = list[dict[str, Any]]


def every_refusal(folder: Path, first: Refusals, parse: Callable[[Path], Refusals]) -> Refusals:
    """`first`, and what is refused when the nodes in it are replaced by inputs, and so on.

    Args:
        folder: has ``model.onnx``; a changed copy is written beside it, next to its weights.
        parse: what the parser refuses of a file, nothing if it takes it.
    """
    found = list(first)
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    types = {info.name: info for info in [*model.graph.value_info, *model.graph.output]}
    refused = first
    started = time.monotonic()
    while refused and len(found) < MOST and time.monotonic() - started < SECONDS:
        if not _cut(model.graph, {str(error.get("node")) for error in refused}, types):
            break
        path = folder / "rest.onnx"
        onnx.save(model, path)
        refused = parse(path)
        found += refused
    return found


def _cut(graph: onnx.GraphProto, names: set[str], types: dict[str, onnx.ValueInfoProto]) -> bool:
    """Make the results of the nodes called `names` inputs of the graph; False where that cannot be done."""
    nodes = [node for node in graph.node if node.name in names]
    results = [name for node in nodes for name in node.output if name]
    if len(nodes) < len(names) or not all(name in types for name in results):
        return False
    kept = [node for node in graph.node if node.name not in names]
    outputs = [info for info in graph.output if info.name not in results]
    del graph.node[:], graph.output[:]
    graph.node.extend(kept)
    graph.output.extend(outputs)
    graph.input.extend(types[name] for name in results)
    return bool(outputs)
