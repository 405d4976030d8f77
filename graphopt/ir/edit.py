"""Changes to the graph that keep its interface, its order and its provenance intact."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir

from graphopt.ir import Graph, Node, TensorProtocol, Value
from graphopt.ir.provenance import merge_origins
from graphopt.ir.query import subgraphs, walk_graphs


class Namer:
    """Gives names that no value and no node of one model has yet."""

    def __init__(self, graph: Graph) -> None:
        self._values: set[str] = set()
        self._nodes: set[str] = set()
        self._counts: dict[str, int] = {}
        for g in walk_graphs(graph):
            self._values.update(v.name for v in (*g.inputs, *g.initializers.values()) if v.name)
            for node in g:
                self._nodes.add(node.name or "")
                self._values.update(v.name for v in node.outputs if v.name)

    def value(self, stem: str) -> str:
        """A value name that is new to the model: `stem`, or `stem` with a number."""
        return self._new(stem, self._values)

    def node(self, stem: str) -> str:
        """A node name that is new to the model: `stem`, or `stem` with a number."""
        return self._new(stem, self._nodes)

    def _new(self, stem: str, taken: set[str]) -> str:
        name = stem or "v"
        while name in taken:
            self._counts[stem] = self._counts.get(stem, 0) + 1
            name = f"{stem}_{self._counts[stem]}"
        taken.add(name)
        return name


def add_initializer(graph: Graph, name: str, data: np.ndarray | TensorProtocol) -> Value:
    """Register a constant called `name`, which must be new to the model, in `graph`; return its value."""
    tensor = onnx_ir.tensor(data, name=name) if isinstance(data, np.ndarray) else data
    value = Value(
        name=name,
        shape=onnx_ir.Shape(tensor.shape.numpy()),
        type=onnx_ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def make_node(
    op_type: str,
    inputs: Sequence[Value | None],
    attributes: Mapping[str, Any] | None = None,
    *,
    name: str,
    output_names: Sequence[str],
    domain: str = "",
) -> Node:
    """A node that belongs to no graph yet. Attribute values are plain Python values."""
    return Node(
        domain,
        op_type,
        inputs,
        attributes=[_attribute(k, v) for k, v in (attributes or {}).items() if v is not None],
        outputs=[Value(name=n) for n in output_names],
        name=name,
    )


def _attribute(name: str, value: Any) -> onnx_ir.Attr:
    if isinstance(value, onnx_ir.Attr):
        return value if value.name == name else onnx_ir.Attr(name, value.type, value.value)
    if isinstance(value, (list, tuple)) and not value:
        return onnx_ir.AttrInt64s(name, ())
    return onnx_ir.convenience.convert_attribute(name, value)


def replace_value(old: Value, new: Value) -> None:
    """Make every user of `old`, graph outputs included, use `new`.

    A graph output keeps its name: `new` takes it over when it can, else an Identity carries it.
    Types and shapes that are known of `old` only are kept.
    """
    if new.type is None:
        new.type = old.type
    if new.shape is None:
        new.shape = old.shape
    if not old.is_graph_output():
        old.replace_all_uses_with(new)
        return
    graph = old.graph
    assert graph is not None
    positions = [i for i, value in enumerate(graph.outputs) if value is old]
    producer = new.producer()
    can_take_name = (
        producer is not None
        and producer.graph is graph
        and not new.is_graph_output()
        and not new.is_initializer()
        and not new.is_graph_input()
    )
    name = old.name
    if can_take_name:
        for position in positions:
            graph.outputs[position] = new
        old.replace_all_uses_with(new)
        old.name = None
        new.name = name
        return
    carrier = Node(
        "", "Identity", [new], outputs=[Value(type=old.type, shape=old.shape)], name=f"{name}/output"
    )
    anchor = old.producer()
    if anchor is not None:
        merge_origins([carrier], [anchor])
    graph.append(carrier)
    for position in positions:
        graph.outputs[position] = carrier.outputs[0]
    old.replace_all_uses_with(new)
    old.name = None
    carrier.outputs[0].name = name


def remove_dead(candidates: Iterable[Node]) -> list[Node]:
    """Remove those of `candidates` that nothing uses, and what then becomes unused above them.

    Returns the removed nodes. Their captured values lose those uses too.
    """
    removed: list[Node] = []
    work = list(candidates)
    while work:
        node = work.pop()
        if node.graph is None or any(v.uses() or v.is_graph_output() for v in node.outputs):
            continue
        above = [v.producer() for v in node.inputs if v is not None]
        above += [
            v.producer() for g in subgraphs(node) for n in _nodes_inside(g) for v in n.inputs if v is not None
        ]
        detach_subgraphs(node)
        node.graph.remove(node, safe=True)
        removed.append(node)
        work.extend(p for p in above if p is not None)
    return removed


def _nodes_inside(graph: Graph) -> Iterable[Node]:
    for inner in walk_graphs(graph):
        yield from inner


def detach_subgraphs(node: Node) -> None:
    """Release the outer values that the subgraphs of `node` use, so that they can be found unused."""
    for graph in subgraphs(node):
        for inner in walk_graphs(graph):
            for child in inner:
                for index in range(len(child.inputs)):
                    child.replace_input_with(index, None)


def remove_unused_initializers(graph: Graph) -> int:
    """Drop initializers of `graph` and its subgraphs that nothing uses; return how many.

    Initializers that are also graph inputs are the interface and stay.
    """
    count = 0
    for inner in walk_graphs(graph):
        for name, value in list(inner.initializers.items()):
            if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
                del inner.initializers[name]
                count += 1
    return count
