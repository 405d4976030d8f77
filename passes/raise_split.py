"""raise-split: Slices that take an axis apart become one Split."""

from __future__ import annotations

import dataclasses

import numpy as np

from graphopt.ir import Graph, Model, Node, Value
from graphopt.ir.edit import Namer, add_initializer, make_node, remove_dead, replace_value
from graphopt.ir.provenance import merge_origins
from graphopt.ir.query import is_op, walk_graphs
from graphopt.ir.shapes import Inference
from graphopt.passes._axes import known_size, slice_bounds
from graphopt.transform import Changes, Pass

Parts = dict[tuple[int, int], list[Node]]
"""The Slices of one value along one axis, by the interval that they take."""


@dataclasses.dataclass(frozen=True)
class RaiseSplit(Pass):
    """Replace the Slices of a value that together are all of it, each element once, by one Split.

    given:  float[N, 8] x
    before: a = Slice(x, [0], [4], [1]); b = Slice(x, [4], [8], [1])
    after:  a, b = Split<axis = 1>(x, [4, 4])

    Bounds are constant, steps are 1, and the size of the axis is known.

    Spec: https://onnx.ai/onnx/operators/onnx__Split.html
    """

    def run(self, model: Model) -> Changes:
        """Collect the Slices of every value in one sweep, then replace those that fill an axis."""
        changes = Changes()
        graphs = [(graph, _slices(graph)) for graph in walk_graphs(model.graph)]
        if not any(groups for _, groups in graphs):
            return changes
        namer, inference = Namer(model.graph), Inference(model)
        for _, groups in graphs:
            for (x, axis), parts in groups.items():
                size = known_size(x, axis)
                if size is None or not _fills(parts, size):
                    changes.declined["Slice: the Slices of a value do not make it up"] += 1
                    continue
                _replace(x, axis, parts, model, namer, inference)
                changes.counts["split"] += 1
        return changes


def _slices(graph: Graph) -> dict[tuple[Value, int], Parts]:
    """The Slices along one axis in `graph`, by what they slice, where there are several."""
    found: dict[tuple[Value, int], Parts] = {}
    for node in graph:
        if not is_op(node, "Slice") or node.inputs[0] is None:
            continue
        bounds = slice_bounds(node)
        if not isinstance(bounds, dict) or len(bounds) != 1:
            continue
        ((axis, chosen),) = bounds.items()
        x = node.inputs[0]
        size = known_size(x, axis)
        if size is None or chosen.step != 1:
            continue
        taken = chosen.within(size)
        found.setdefault((x, axis), {}).setdefault((taken.start, taken.stop), []).append(node)
    return {key: parts for key, parts in found.items() if len(parts) > 1}


def _fills(parts: Parts, size: int) -> bool:
    """Whether the intervals follow each other from 0 to `size`."""
    position = 0
    for start, stop in sorted(parts):
        if start != position or stop <= start:
            return False
        position = stop
    return position == size


def _replace(x: Value, axis: int, parts: Parts, model: Model, namer: Namer, inference: Inference) -> None:
    intervals = sorted(parts)
    slices = [node for nodes in parts.values() for node in nodes]
    first = slices[0]  # they were collected in the order of the graph
    x = first.inputs[0] or x  # what they sliced may be a part of another Split by now
    name = namer.node(f"{first.name}/Split")
    lengths = np.array([stop - start for start, stop in intervals], np.int64)
    sizes = add_initializer(model.graph, namer.value(f"{name}/sizes"), lengths)
    names = [namer.value(f"{name}:{i}") for i in range(len(intervals))]
    split = make_node("Split", [x, sizes], {"axis": axis}, name=name, output_names=names)
    assert first.graph is not None
    first.graph.insert_before(first, split)
    inference.infer_node(split)
    for interval, output in zip(intervals, split.outputs, strict=True):
        for node in parts[interval]:
            replace_value(node.outputs[0], output)
    remove_dead(slices)
    merge_origins([split], slices)
