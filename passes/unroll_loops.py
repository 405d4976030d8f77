"""unroll-loops: short loops with a known number of turns become what they do, turn by turn."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir

from graphopt.ir import Graph, Model, Node, TensorType, Value
from graphopt.ir.edit import Namer, add_initializer, make_node, remove_unused_initializers
from graphopt.ir.ingest import name_everything
from graphopt.ir.provenance import merge_origins
from graphopt.ir.query import attribute, is_deterministic, is_op, rank, scalar, walk_graphs
from graphopt.ir.shapes import infer_shapes
from graphopt.passes._bodies import goes_on, move_nodes, nodes_holding, renamed_copy, replace_node, starts
from graphopt.transform import Changes, Pass


@dataclasses.dataclass(frozen=True)
class UnrollLoops(Pass):
    """Put the turns of a Loop or Scan of known length one after the other, where that is short.

    The number of turns must be constant, nothing may stop the loop early, and the body must not
    draw random numbers.

    given:  float[2] x; float[2] w
    before: y = Loop<body = turn (int64 i, bool c, float[2] s) => (bool c, float[2] r) {r = Add(s, w)}>
                (2, true, x)
    after:  y = Add(Add(x, w), w)

    Attributes:
        max_nodes: how many nodes all turns of one loop may take together.

    Spec: https://onnx.ai/onnx/operators/onnx__Loop.html
    """

    max_nodes: int = 32

    def run(self, model: Model) -> Changes:
        """Unroll inner loops first, so that an outer one counts what they became."""
        changes = Changes()
        unroller = _Unroller(model, self.max_nodes)
        for node in reversed(nodes_holding(model.graph, "Loop", "Scan")):
            reason = unroller.unroll(node)
            if reason is None:
                changes.counts[node.op_type] += 1
            else:
                changes.declined[f"{node.op_type}: {reason}"] += 1
        if changes.modified:
            name_everything(model)
            remove_unused_initializers(model.graph)
            infer_shapes(model)
        return changes


class _Unroller:
    def __init__(self, model: Model, max_nodes: int) -> None:
        self.model = model
        self.max_nodes = max_nodes
        self.namer = Namer(model.graph)

    def unroll(self, node: Node) -> str | None:
        """Replace `node` by its turns, or say why not."""
        body: Graph = attribute(node, "body")
        is_loop = is_op(node, "Loop")
        if any(v is None for v in node.inputs[2 if is_loop else 0 :]):
            return "an input is missing"
        turns = _loop_turns(node, body) if is_loop else _scan_turns(node, body)
        if isinstance(turns, str):
            return turns
        size = sum(1 for graph in walk_graphs(body) for _ in graph)
        if turns * max(size, 1) > self.max_nodes:
            return "its turns take more than max-nodes together"
        if not is_deterministic(node):
            return "it is random"
        return self._loop(node, body, turns) if is_loop else self._scan(node, body, turns)

    def _loop(self, node: Node, body: Graph, turns: int) -> str | None:
        states: list[Value] = [v for v in node.inputs[2:] if v is not None]
        count = len(states)
        if any(not isinstance(v.type, TensorType) for v in body.outputs[count + 1 :]):
            return "its stacked outputs are no tensors"
        go = self._constant(node, "condition", np.array(True))
        stacks: list[list[Value]] = [[] for _ in body.outputs[count + 1 :]]
        for turn in range(turns):
            index = self._constant(node, "iteration", np.array(turn, np.int64))
            results = self._turn(node, body, [index, go, *states])
            states = results[1 : count + 1]
            for stack, value in zip(stacks, results[count + 1 :], strict=True):
                stack.append(value)
        replace_node(node, [*states, *(self._stack(node, stack, 0) for stack in stacks)])
        return None

    def _scan(self, node: Node, body: Graph, turns: int) -> str | None:
        scanned = int(attribute(node, "num_scan_inputs"))
        count = len(node.inputs) - scanned
        states: list[Value] = [v for v in node.inputs[:count] if v is not None]
        sources: list[Value] = [v for v in node.inputs[count:] if v is not None]
        results_count = len(body.outputs) - count
        axes = attribute(node, "scan_input_axes") or (0,) * scanned
        backward = attribute(node, "scan_input_directions") or (0,) * scanned
        output_axes = attribute(node, "scan_output_axes") or (0,) * results_count
        flipped = attribute(node, "scan_output_directions") or (0,) * results_count
        stacks: list[list[Value]] = [[] for _ in range(results_count)]
        for turn in range(turns):
            parts = [
                self._pick(node, source, turns - 1 - turn if back else turn, axis)
                for source, axis, back in zip(sources, axes, backward, strict=True)
            ]
            results = self._turn(node, body, [*states, *parts])
            states = results[:count]
            for stack, value in zip(stacks, results[count:], strict=True):
                stack.append(value)
        stacked = [
            self._stack(node, stack[::-1] if flip else stack, axis)
            for stack, axis, flip in zip(stacks, output_axes, flipped, strict=True)
        ]
        replace_node(node, [*states, *stacked])
        return None

    def _turn(self, node: Node, body: Graph, actual: Sequence[Value]) -> list[Value]:
        """Put a copy of `body` on the inputs `actual` before `node`; return its results."""
        copy = renamed_copy(body, self.namer)
        meaning = dict(zip(copy.inputs, actual, strict=True))
        results = [meaning.get(value, value) for value in move_nodes(copy, node, self.model)]
        for formal, value in meaning.items():
            formal.replace_all_uses_with(value)
        copy.inputs.clear()
        return results

    def _pick(self, node: Node, source: Value, index: int, axis: int) -> Value:
        position = self._constant(node, "position", np.array(index, np.int64))
        return self._add(node, "Gather", [source, position], source, {"axis": axis})

    def _stack(self, node: Node, values: Sequence[Value], axis: int) -> Value:
        where = self._constant(node, "axis", np.array([axis], np.int64))
        layers = [self._add(node, "Unsqueeze", [value, where], value) for value in values]
        if len(layers) == 1:
            return layers[0]
        return self._add(node, "Concat", layers, values[0], {"axis": axis})

    def _add(
        self,
        node: Node,
        op_type: str,
        inputs: Sequence[Value],
        like: Value,
        attributes: dict[str, int] | None = None,
    ) -> Value:
        name = self.namer.node(f"{node.name}/{op_type}")
        added = make_node(
            op_type, inputs, attributes, name=name, output_names=[self.namer.value(f"{name}:out")]
        )
        added.outputs[0].type = like.type
        assert node.graph is not None
        node.graph.insert_before(node, added)
        merge_origins([added], [node])
        return added.outputs[0]

    def _constant(self, node: Node, stem: str, array: np.ndarray) -> Value:
        return add_initializer(
            self.model.graph, self.namer.value(f"{node.name}/{stem}"), onnx_ir.tensor(array)
        )


def _loop_turns(node: Node, body: Graph) -> int | str:
    carried = len(node.inputs) - 2
    if len(body.inputs) != carried + 2 or len(body.outputs) != len(node.outputs) + 1:
        return "the body's inputs and outputs do not match"
    turns = scalar(node.inputs[0])
    if turns is None:
        return "the number of turns is not constant"
    if not starts(node) or not goes_on(body):
        return "it may stop early"
    return int(turns) if turns > 0 else "it never runs"


def _scan_turns(node: Node, body: Graph) -> int | str:
    scanned = int(attribute(node, "num_scan_inputs"))
    count = len(node.inputs) - scanned
    if count < 0 or len(body.inputs) != len(node.inputs) or len(body.outputs) != len(node.outputs):
        return "the body's inputs and outputs do not match"
    axes = attribute(node, "scan_input_axes") or (0,) * scanned
    lengths = set()
    for source, axis in zip(node.inputs[count:], axes, strict=True):
        found = rank(source)
        if source is None or source.shape is None or found is None or not -found <= axis < found:
            return "the length of what it scans is not known"
        lengths.add(source.shape.dims[axis])
    length = lengths.pop()
    if lengths or not isinstance(length, int):
        return "the length of what it scans is not known"
    return length if length > 0 else "it never runs"
