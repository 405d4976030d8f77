"""The invariants of a model in memory: what every pass may rely on and must leave behind."""

from __future__ import annotations

from graphopt.errors import InvariantError, ModelError
from graphopt.ir import AttributeType, Graph, Model, Node, Value
from graphopt.ir.operators import check_operators, check_types
from graphopt.ir.opset_draft import describe
from graphopt.ir.query import subgraphs, walk_graphs


def check_model(model: Model) -> None:
    """Check the invariants of a loaded model, in time linear in its size.

    Values are defined once, before they are used and where they can be seen; names are unique; there
    are no functions and no references to their parameters; initializers have data; nodes have the
    inputs, outputs and attributes of their operators; types agree.

    Raises:
        ModelError: GO105, GO106 or GO110.
    """
    if model.functions:
        raise _broken("the graph", "there are functions that are not inlined", found=len(model.functions))
    check_structure(model)
    _check_names(model)
    for value in model.graph.inputs:
        if value.type is None:
            raise _broken(f"input '{value.name}'", "the input has no type")
    check_operators(model)
    check_types(model)


def check_invariants(model: Model, after: str) -> None:
    """:func:`check_model` for a model that graphopt itself changed: what it finds is a bug in `after`.

    Raises:
        InvariantError: GO901.
    """
    try:
        check_model(model)
    except ModelError as error:
        raise InvariantError(
            "GO901",
            f"{after} left an invalid model: {error.message}",
            where=error.where,
            found=error.found,
            expected=error.expected,
            details={"cause": error.to_json()},
        ) from error


def check_structure(model: Model) -> None:
    """Check definitions and uses in `model`, its subgraphs and its functions; names do not matter.

    Raises:
        ModelError: GO105.
    """
    for kind, values in (("input", model.graph.inputs), ("output", model.graph.outputs)):
        names = [value.name for value in values]
        if not all(names) or len(set(names)) != len(names):
            raise _broken("the graph", f"an {kind} has no name, or two have one", found=str(names)[:200])
    _Scopes().enter(model.graph, "the graph", in_function=False)
    for function in model.functions.values():
        _Scopes().enter(function.graph, f"function '{function.name}'", in_function=True)


class _Scopes:
    """A walk over nested graphs that knows which values can be seen."""

    def __init__(self) -> None:
        self.visible: set[Value] = set()

    def enter(self, graph: Graph, where: str, *, in_function: bool) -> None:
        defined: list[Value] = []
        for value in graph.inputs:
            self._define(value, defined, where)
        for name, value in graph.initializers.items():
            if value.const_value is None:
                raise _broken(f"initializer '{name}'", "the initializer has no data")
            if value.name != name:
                raise _broken(
                    f"initializer '{name}'", "it is registered under another name", found=value.name
                )
            if not value.is_graph_input():
                self._define(value, defined, where)
        for node in graph:
            self._check_node(node, graph, in_function=in_function)
            for inner in subgraphs(node):
                self.enter(inner, describe(node), in_function=in_function)
            for value in node.outputs:
                self._define(value, defined, where)
        for value in graph.outputs:
            if value not in self.visible:
                raise _broken(where, f"nothing produces the output '{value.name}'")
        self.visible.difference_update(defined)

    def _define(self, value: Value, defined: list[Value], where: str) -> None:
        if value in self.visible:
            raise _broken(where, f"the value '{value.name}' is defined twice")
        self.visible.add(value)
        defined.append(value)

    def _check_node(self, node: Node, graph: Graph, *, in_function: bool) -> None:
        if node.graph is not graph:
            raise _broken(describe(node), "the node belongs to another graph")
        for index, value in enumerate(node.inputs):
            if value is not None and value not in self.visible:
                raise _broken(
                    describe(node),
                    f"input {index} is '{value.name}', which nothing defines before",
                    expected="a graph input, an initializer or an output of an earlier node",
                )
        for name, attr in node.attributes.items():
            if attr.is_ref() and not in_function:
                raise _broken(
                    describe(node),
                    f"attribute '{name}' refers to a function's parameter outside a function",
                    found=attr.ref_attr_name,
                )
            if not attr.is_ref() and attr.type == AttributeType.UNDEFINED:
                raise _broken(describe(node), f"attribute '{name}' has no type")


def _check_names(model: Model) -> None:
    """Every node and every value that is used has a name that nothing else has."""
    values: set[str] = set()
    nodes: set[str] = set()
    for graph in walk_graphs(model.graph):
        own = [*graph.inputs, *(v for v in graph.initializers.values() if not v.is_graph_input())]
        for node in graph:
            own.extend(v for v in node.outputs if v.name or v.uses() or v.is_graph_output())
            if not node.name or node.name in nodes:
                raise _broken(describe(node), "the node's name is missing or not unique", found=node.name)
            nodes.add(node.name)
        for value in own:
            if not value.name or value.name in values:
                raise _broken(f"value '{value.name}'", "its name is missing or not unique")
            values.add(value.name)


def _broken(where: str, message: str, *, found: object = None, expected: object = None) -> ModelError:
    return ModelError("GO105", message, where=where, found=found, expected=expected)
