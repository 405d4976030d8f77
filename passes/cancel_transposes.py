"""cancel-transposes: islands of operators that work in any order of axes, turned as a whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from graphopt.ir import Attr, AttributeType, Graph, Model, Node, Shape, Value
from graphopt.ir.edit import Namer, add_initializer, make_node, remove_dead, replace_value
from graphopt.ir.provenance import merge_origins
from graphopt.ir.query import constant_tensor, element_count, is_op, rank, static_shape, walk_graphs
from graphopt.passes._layout import data_inputs, reorder
from graphopt.passes._matching import produced_by
from graphopt.passes.merge_transposes import permutation
from graphopt.transform import Changes, Exactness, Pass

Perm = tuple[int, ...]

MAX_ISLAND_NODES = 4096


@dataclasses.dataclass(frozen=True)
class CancelTransposes(Pass):
    """Turn all the operators between Transposes at once, where that leaves fewer Transposes.

    An island is what is connected to a Transpose by operators that work in any order of axes
    (elementwise, along an axis, Concat, Split, Pad, Slice, reductions that keep their axes). In the
    order of axes above the Transpose, the Transposes into the island go, those out of it are merged
    with it, and each other edge in or out takes a new one.

    given:  float[1, 4, 5, 6] x
    before: t = Transpose<perm = [0, 2, 3, 1]>(x); c = Add(Relu(t), Exp(t));
            y = Transpose<perm = [0, 3, 1, 2]>(c)
    after:  y = Add(Relu(x), Exp(x))

    Spec: https://onnx.ai/onnx/operators/onnx__Transpose.html
    """

    exactness = Exactness.REASSOCIATES

    def run(self, model: Model) -> Changes:
        """Grow an island from every Transpose once, and turn it if that pays."""
        changes = Changes()
        namer: Namer | None = None
        for graph in walk_graphs(model.graph):
            seen: set[tuple[Node, Perm]] = set()
            for node in [n for n in graph if is_op(n, "Transpose")]:
                perm = permutation(node)
                if node.graph is None or perm is None or perm == tuple(range(len(perm))):
                    continue
                island = _Island(graph, perm)
                if not island.grow(node, seen):
                    changes.declined["Transpose: what uses it depends on the order of axes, or was seen"] += 1
                    continue
                if not island.pays():
                    changes.declined["Transpose: as many would be needed around the island"] += 1
                    continue
                namer = namer or Namer(model.graph)
                island.turn(model, namer)
                changes.counts["island"] += 1
        return changes


class _Island:
    """Nodes and the values between them, connected to Transposes by `perm`."""

    def __init__(self, graph: Graph, perm: Perm) -> None:
        self.graph = graph
        self.perm = perm
        self.nodes: dict[Node, None] = {}
        self.inner: dict[Value, None] = {}  # made by nodes of the island
        self.above: dict[Value, Node] = {}  # made by Transposes with `perm`
        self.entering: dict[Value, None] = {}  # made elsewhere
        self.leaving: dict[Value, None] = {}  # used elsewhere, too
        self.below: dict[Node, None] = {}  # Transposes of inner values

    def grow(self, start: Node, seen: set[tuple[Node, Perm]]) -> bool:
        """Collect the island below `start`; False if there is none, or it was looked at before."""
        work = list(self._users(start.outputs[0]))
        found = False
        while work:
            node = work.pop()
            if (node, self.perm) in seen or len(self.nodes) >= MAX_ISLAND_NODES:
                continue
            operands = self._operands(node)
            if operands is None:
                continue
            found = True
            seen.add((node, self.perm))
            self.nodes[node] = None
            for value in operands:
                work.extend(self._enter(value))
            for value in node.outputs:
                self.inner[value] = None
                work.extend(self._users(value))
        for value in self.inner:
            if value.is_graph_output():
                self.leaving[value] = None
            for user in self._users(value, everywhere=True):
                if user not in self.nodes:
                    if is_op(user, "Transpose") and user.graph is self.graph and permutation(user):
                        self.below[user] = None
                    else:
                        self.leaving[value] = None
        self.entering = {v: None for v in self.entering if v not in self.inner}
        return found

    def _operands(self, node: Node) -> list[Value] | None:
        if node.graph is not self.graph or rank(node.outputs[0]) != len(self.perm):
            return None
        return data_inputs(node)

    def _users(self, value: Value, everywhere: bool = False) -> Iterator[Node]:
        return (n for n in value.consumers() if everywhere or n.graph is self.graph)

    def _enter(self, value: Value) -> Iterator[Node]:
        """Note where `value` comes from, and give its producer if that may join."""
        transpose = produced_by(value, "Transpose")
        if transpose is not None and permutation(transpose) == self.perm and transpose.graph is self.graph:
            self.above[value] = transpose
            yield from self._users(value)
            return
        producer = value.producer()
        if producer is not None and self._operands(producer) is not None:
            yield producer
        self.entering[value] = None

    def pays(self) -> bool:
        """Whether fewer Transposes are left, and they do not move more elements."""
        if any(transpose in self.below for transpose in self.above.values()):
            return False  # what leaves the island comes back in another order
        gone = [
            v
            for v in self.above
            if not v.is_graph_output() and all(u in self.nodes for u in self._users(v, everywhere=True))
        ]
        gone += [n.outputs[0] for n in self.below if self._composed(n) == tuple(range(len(self.perm)))]
        new = [*self.entering, *self.leaving]
        sizes = [static_shape(v) for v in (*gone, *new)]
        if all(s is not None for s in sizes):
            counts = [element_count(s) for s in sizes if s is not None]
            if sum(counts[: len(gone)]) < sum(counts[len(gone) :]):
                return False
        return len(gone) > len(new)

    def _composed(self, below: Node) -> Perm:
        return tuple(self.perm[i] for i in permutation(below) or ())

    def turn(self, model: Model, namer: Namer) -> None:
        """Put the island into the order of axes above its Transposes."""
        inverse = tuple(int(i) for i in np.argsort(self.perm))

        def make_constant(array: np.ndarray, stem: str) -> Value:
            return add_initializer(model.graph, namer.value(stem), array)

        turned = {v: t.inputs[0] for v, t in self.above.items()}
        for value in self.entering:
            turned[value] = self._transpose(value, inverse, namer)
        for node in self.nodes:
            reorder(node, self.perm, make_constant)
            for index, operand in enumerate(node.inputs):
                if operand in turned and constant_tensor(operand) is None:
                    node.replace_input_with(index, turned[operand])
        for value in self.inner:
            if value.shape is not None and len(value.shape) == len(self.perm):
                value.shape = Shape([value.shape.dims[i] for i in inverse])
        for value in self.leaving:
            self._leave(value, namer)
        for node in self.below:
            composed = self._composed(node)
            inner = node.inputs[0]
            assert inner is not None
            if composed != tuple(range(len(composed))):
                node.attributes["perm"] = Attr("perm", AttributeType.INTS, composed)
                continue
            origin = inner.producer()
            replace_value(node.outputs[0], inner)
            remove_dead([node])
            if origin is not None:
                merge_origins([origin], [node])
        remove_dead(self.above.values())

    def _leave(self, value: Value, namer: Namer) -> None:
        """Turn `value` back for those outside of the island that use it."""
        users = [u for u in value.uses() if u.node not in self.nodes and u.node not in self.below]
        positions = [i for i, v in enumerate(self.graph.outputs) if v is value]
        name = value.name
        if positions:
            value.name = namer.value(f"{name}/turned")
        back = self._transpose(value, self.perm, namer)
        for use in users:
            use.node.replace_input_with(use.idx, back)
        for position in positions:
            self.graph.outputs[position] = back
        if positions:
            back.name = name

    def _transpose(self, value: Value, perm: Perm, namer: Namer) -> Value:
        name = namer.node(f"{value.name}/Transpose")
        node = make_node("Transpose", [value], {"perm": perm}, name=name, output_names=[namer.value(name)])
        producer = value.producer()
        if producer is not None and producer.graph is self.graph:
            self.graph.insert_after(producer, node)
            merge_origins([node], [producer])
        else:
            self.graph.insert_before(self.graph[0], node)
        result = node.outputs[0]
        result.type = value.type
        if value.shape is not None:
            result.shape = Shape([value.shape.dims[i] for i in perm])
        return result
