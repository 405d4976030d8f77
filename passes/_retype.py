"""Changing the element type of values inside a model, with as few Casts as that takes.

One value has at most one copy in the other type: Casts stand right after what they convert and are
shared, constants are converted without being read before they are written out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from graphopt.ir import DataType, Graph, Model, Node, TensorProtocol, TensorType, Value
from graphopt.ir.edit import Namer, make_node, remove_dead
from graphopt.ir.provenance import merge_origins
from graphopt.ir.query import constant_tensor, is_op, subgraphs

SMALL_INTEGERS = frozenset({DataType.BOOL, DataType.INT8, DataType.UINT8, DataType.INT16, DataType.UINT16})
Converter = Callable[[TensorProtocol, str], TensorProtocol]


class Retyper:
    """Gives values of the type `wide` the type `narrow` and keeps track of which have it.

    Args:
        convert: makes the narrow tensor, with the given name, of a wide constant.
    """

    def __init__(self, model: Model, wide: DataType, narrow: DataType, convert: Converter) -> None:
        self.model = model
        self.wide_type, self.narrow_type = wide, narrow
        self.retyped: set[Value] = set()
        self._namer = Namer(model.graph)
        self._convert = convert
        self._narrow: dict[Value, Value] = {}
        self._wide: dict[Value, Value] = {}
        self._left: dict[Value, None] = {}
        self._first: dict[Graph, Node] = {}

    def run(self, visit: Callable[[Node], None]) -> None:
        """Visit every node in graph order, those of a body before the node that holds it.

        `visit` retypes or restores the node. Outputs of every graph have their types back afterwards.
        """
        self._run(self.model.graph, visit)
        self.clean_up()

    def _run(self, graph: Graph, visit: Callable[[Node], None]) -> None:
        for node in list(graph):
            for body in subgraphs(node):
                self._run(body, visit)
            visit(node)
        self.restore_outputs(graph)

    def narrow(self, value: Value, user: Node) -> Value:
        """`value` in the narrow type: itself, a constant, what it was widened from, or a Cast.

        A Cast of a graph input stands for `user`, its first, as nothing else in the original does.
        """
        if value in self.retyped:
            return value
        if value not in self._narrow:
            self._narrow[value] = self._narrowed(value, user)
        return self._narrow[value]

    def wide(self, value: Value) -> Value:
        """`value` in the wide type: itself, or a Cast of what has become narrow."""
        if value not in self.retyped:
            return value
        if value not in self._wide:
            self._wide[value] = self._cast(value, self.wide_type, value.producer())
        return self._wide[value]

    def retype(self, node: Node, inputs: Iterable[int], outputs: Iterable[int]) -> None:
        """Make `node` read these inputs in the narrow type, and these outputs be of it."""
        for index in inputs:
            value = node.inputs[index]
            if value is not None:
                self._replace_input(node, index, self.narrow(value, node))
        for index in outputs:
            # A new type object: clones of the model share the old one.
            node.outputs[index].type = TensorType(self.narrow_type)
            self.retyped.add(node.outputs[index])

    def restore(self, node: Node, but: Iterable[int] = ()) -> None:
        """Make `node` read every input, except those at `but`, in the type that it had at first."""
        kept = set(but)
        for index, value in enumerate(node.inputs):
            if value is not None and index not in kept and value in self.retyped:
                self._replace_input(node, index, self.wide(value))

    def restore_outputs(self, graph: Graph) -> None:
        """Give the outputs of `graph` their types back; those of the main graph keep their names."""
        for index, value in enumerate(graph.outputs):
            if value not in self.retyped:
                continue
            widened = self.wide(value)
            graph.outputs[index] = widened
            if graph is self.model.graph and not value.is_graph_output():
                name = value.name
                value.name = self._namer.value(f"{name}/{self.narrow_type.name.lower()}")
                widened.name = name

    def clean_up(self) -> None:
        """Remove the constants and Casts that nothing uses any more."""
        remove_dead(p for v in self._left if (p := v.producer()) is not None)
        for value in self._left:
            graph = value.graph
            unused = not value.uses() and not value.is_graph_output()
            if unused and constant_tensor(value) is not None and graph is not None and value.name is not None:
                del graph.initializers[value.name]

    def _replace_input(self, node: Node, index: int, new: Value) -> None:
        old = node.inputs[index]
        if old is not None and old is not new:
            self._left[old] = None
            node.replace_input_with(index, new)

    def _narrowed(self, value: Value, user: Node) -> Value:
        tensor = constant_tensor(value)
        if tensor is not None:
            name = self._namer.value(f"{value.name}/{self.narrow_type.name.lower()}")
            converted = self._convert(tensor, name)
            new = Value(name=name, const_value=converted)
            new.dtype, new.shape = self.narrow_type, value.shape
            self.model.graph.register_initializer(new)
            return new
        source = value.producer()
        if is_op(source, "Cast") and source is not None:
            origin = source.inputs[0]
            if origin is not None and origin.dtype == self.narrow_type:
                return origin
            if origin is not None and self.narrow_type == DataType.INT32 and origin.dtype in SMALL_INTEGERS:
                return self._cast(origin, self.narrow_type, source)
        return self._cast(value, self.narrow_type, user)

    def _cast(self, value: Value, to: DataType, source: Node | None) -> Value:
        stem = f"{value.name}/{to.name.lower()}"
        node = make_node(
            "Cast",
            [value],
            {"to": int(to)},
            name=self._namer.node(stem),
            output_names=[self._namer.value(stem)],
        )
        node.outputs[0].dtype, node.outputs[0].shape = to, value.shape
        producer = value.producer()
        graph = producer.graph if producer is not None else value.graph
        assert graph is not None
        origin = producer if producer is not None else source
        if origin is not None:
            merge_origins([node], [origin])
        if producer is not None:
            graph.insert_after(producer, node)
        elif len(graph):
            graph.insert_before(self._first.setdefault(graph, graph[0]), node)
        else:
            graph.append(node)
        return node.outputs[0]
