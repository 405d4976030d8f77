"""Graphs inside nodes: finding them, taking them apart, and putting copies of them elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir import Graph, Model, Node, Value
from graphopt.ir.edit import Namer, detach_subgraphs, replace_value
from graphopt.ir.provenance import merge_origins
from graphopt.ir.query import is_op, scalar, subgraphs, walk_graphs


def nodes_holding(graph: Graph, *op_types: str) -> list[Node]:
    """Every node of `op_types` in `graph` and the graphs nested in it, outer ones first."""
    found = []
    for node in graph:
        if is_op(node, *op_types):
            found.append(node)
        for sub in subgraphs(node):
            found.extend(nodes_holding(sub, *op_types))
    return found


def move_nodes(body: Graph, node: Node, model: Model) -> list[Value]:
    """Move the nodes of `body` before `node`; return what the outputs of `body` were."""
    results = list(body.outputs)
    body.outputs.clear()
    for name, value in list(body.initializers.items()):
        del body.initializers[name]
        model.graph.register_initializer(value)
    nodes = list(body)
    body.remove(nodes)
    assert node.graph is not None
    node.graph.insert_before(node, nodes)
    merge_origins(nodes, [node])
    return results


def replace_node(node: Node, results: Sequence[Value]) -> None:
    """Let `results` stand for the outputs of `node`, and remove it with its bodies."""
    for old, new in zip(node.outputs, results, strict=True):
        if old.uses() or old.is_graph_output():
            replace_value(old, new)
    detach_subgraphs(node)
    assert node.graph is not None
    node.graph.remove(node, safe=True)


def renamed_copy(body: Graph, namer: Namer) -> Graph:
    """A copy of `body` that uses the same outer values, and whose names are new to the model."""
    copy = body.clone(allow_outer_scope_values=True)
    for graph in walk_graphs(copy):
        for value in [*graph.inputs, *(v for n in graph for v in n.outputs)]:
            if value.name:
                value.name = namer.value(value.name)
        for name, value in list(graph.initializers.items()):
            if not value.is_graph_input():
                del graph.initializers[name]
                value.name = namer.value(name)
                graph.register_initializer(value)
        for node in graph:
            node.name = namer.node(node.name or node.op_type)
    return copy


def through_identities(value: Value | None) -> Value | None:
    """What `value` is a copy of."""
    while value is not None and is_op(value.producer(), "Identity"):
        producer = value.producer()
        assert producer is not None
        value = producer.inputs[0]
    return value


def goes_on(body: Graph) -> bool:
    """Whether the body of a Loop never asks to stop once it runs."""
    stop = through_identities(body.outputs[0])
    return stop is body.inputs[1] or scalar(stop) is True


def starts(loop: Node) -> bool:
    """Whether the condition of a Loop is true at first."""
    condition = loop.inputs[1] if len(loop.inputs) > 1 else None
    return condition is None or scalar(condition) is True
