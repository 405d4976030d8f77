"""inline-branches: If with a known condition, and Loop that runs never or once."""

from __future__ import annotations

import dataclasses
from collections import deque

import numpy as np
import onnx_ir

from graphopt.ir import Graph, Model, Node, TensorType, Value
from graphopt.ir.edit import Namer, add_initializer, make_node
from graphopt.ir.provenance import merge_origins
from graphopt.ir.query import attribute, constant, is_op, scalar, static_shape
from graphopt.passes._bodies import move_nodes, nodes_holding, replace_node
from graphopt.passes._equality import graph_key
from graphopt.transform import Changes, Pass


@dataclasses.dataclass(frozen=True)
class InlineBranches(Pass):
    """Put the branch that an If always takes, and the body of a Loop that runs once, in their place.

    A Loop that never runs is replaced by its initial values, and an If whose branches compute the same
    by one of them.

    given:  float[2] x
    before: y = If<then_branch = t () => (float[2] z) {z = Exp(x)},
            else_branch = e () => (float[2] z) {z = Log(x)}>(true)
    after:  y = Exp(x)

    Spec: https://onnx.ai/onnx/operators/onnx__If.html
    """

    def run(self, model: Model) -> Changes:
        """Visit every If and Loop once, and those that an inlined graph brings along."""
        changes = Changes()
        namer = Namer(model.graph)
        work = deque(nodes_holding(model.graph, "If", "Loop"))
        while work:
            node = work.popleft()
            if node.graph is None or (is_op(node, "If") and node.inputs[0] is None):
                continue  # it went with a branch that is never taken
            if is_op(node, "If"):
                reason = _inline_if(node, model, changes)
            else:
                reason = _inline_loop(node, model, namer, changes)
            if reason is not None:
                changes.declined[f"{node.op_type}: {reason}"] += 1
        return changes


def _inline_if(node: Node, model: Model, changes: Changes) -> str | None:
    condition = constant(node.inputs[0], max_elements=1)
    if condition is not None and condition.size == 1:
        branch: Graph = attribute(node, "then_branch" if condition.reshape(-1)[0] else "else_branch")
    else:
        branch = attribute(node, "then_branch")
        key = graph_key(branch)
        if key is None or key != graph_key(attribute(node, "else_branch")):
            return "the condition is not constant, and the branches differ"
    if len(branch.outputs) != len(node.outputs):
        return "the branch has another number of outputs"
    results = move_nodes(branch, node, model)
    replace_node(node, results)
    changes.counts["if"] += 1
    return None


def _trip_count(node: Node, body: Graph) -> int | None:
    """How often a Loop runs if that is known to be never or once, else None."""
    limit = node.inputs[0] if node.inputs else None
    condition = node.inputs[1] if len(node.inputs) > 1 else None
    count = None if limit is None else scalar(limit)
    if limit is not None and count is not None and count <= 0:
        return 0
    starts = True if condition is None else scalar(condition)
    if starts is not None and not starts:
        return 0
    if starts is None or (limit is not None and count is None):
        return None
    stop = body.outputs[0]
    producer = stop.producer()
    again = scalar(producer.inputs[0] if producer is not None and is_op(producer, "Identity") else stop)
    stops_at_once = again is not None and not again
    return 1 if count == 1 or stops_at_once else None


def _inline_loop(node: Node, model: Model, namer: Namer, changes: Changes) -> str | None:
    body: Graph = attribute(node, "body")
    start: list[Value] = [v for v in node.inputs[2:] if v is not None]
    carried = len(start)
    if (
        carried != len(node.inputs[2:])
        or len(body.inputs) != carried + 2
        or len(body.outputs) != len(node.outputs) + 1
    ):
        return "the body's inputs and outputs do not match"
    trips = _trip_count(node, body)
    if trips is None:
        return "it may run any number of times"
    if trips == 0:
        return _never(node, body, start, model, namer, changes)
    return _once(node, body, start, model, namer, changes)


def _never(
    node: Node, body: Graph, start: list[Value], model: Model, namer: Namer, changes: Changes
) -> str | None:
    empties: list[np.ndarray] = []
    for result in body.outputs[len(start) + 1 :]:
        shape = static_shape(result)
        if shape is None or result.dtype is None or result.dtype.name == "STRING":
            return "the shape of its stacked outputs is not known"
        empties.append(np.zeros((0, *shape), result.dtype.numpy()))
    stacked = [add_initializer(model.graph, namer.value(f"{node.name}/empty"), array) for array in empties]
    replace_node(node, [*start, *stacked])
    changes.counts["loop-never"] += 1
    return None


def _once(
    node: Node, body: Graph, start: list[Value], model: Model, namer: Namer, changes: Changes
) -> str | None:
    stacked_types = [value.type for value in body.outputs[len(start) + 1 :]]
    if any(not isinstance(type_, TensorType) for type_ in stacked_types):
        return "its stacked outputs are no tensors"
    actual = [
        add_initializer(model.graph, namer.value(f"{node.name}/iteration"), np.array(0, np.int64)),
        add_initializer(model.graph, namer.value(f"{node.name}/condition"), np.array(True)),
        *start,
    ]
    formal = list(body.inputs)
    meaning = dict(zip(formal, actual, strict=True))
    results = [meaning.get(value, value) for value in move_nodes(body, node, model)]
    for old, new in meaning.items():
        old.replace_all_uses_with(new)
    body.inputs.clear()
    assert node.graph is not None
    outputs = results[1 : len(start) + 1]
    if len(results) > len(start) + 1:
        axis = add_initializer(model.graph, namer.value(f"{node.name}/axis"), np.array([0], np.int64))
    for value in results[len(start) + 1 :]:
        name = namer.node(f"{node.name}/stack")
        stack = make_node("Unsqueeze", [value, axis], name=name, output_names=[namer.value(f"{name}:out")])
        stack.outputs[0].type = value.type
        if value.shape is not None:
            stack.outputs[0].shape = onnx_ir.Shape([1, *value.shape.dims])
        node.graph.insert_before(node, stack)
        merge_origins([stack], [node])
        outputs.append(stack.outputs[0])
    replace_node(node, outputs)
    for value in actual[:2]:
        if not value.uses() and not value.is_graph_output() and value.name is not None:
            del model.graph.initializers[value.name]
    changes.counts["loop-once"] += 1
    return None
