"""Ingest: from a model as it was written to the one form that passes and lowerings work on.

Local functions are inlined, constants become initializers of the main graph, every value and node
has a name of its own, the opset is at least :data:`graphopt.ir.opset.CANONICAL_OPSET`, shapes are
inferred and provenance is started. The interface (inputs, outputs, their names and types) stays.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir
from onnx_ir import TypeProtocol
from onnx_ir.passes import common

from graphopt.errors import ModelError
from graphopt.ir import (
    Attr,
    AttributeType,
    Graph,
    Model,
    Node,
    OptionalType,
    Shape,
    Value,
    interface,
    provenance,
)
from graphopt.ir.edit import Namer
from graphopt.ir.operators import check_operators, type_text
from graphopt.ir.opset import CANONICAL_OPSET, upgrade
from graphopt.ir.query import is_op, walk_graphs
from graphopt.ir.shapes import infer_shapes

OVERRIDABLE_SINCE_IR_VERSION = 4
"""Up to IR version 3 every initializer had to be listed as an input; from 4 on, listing it means
that callers may override it."""
NODE_METADATA_SINCE_IR_VERSION = 10


def normalize(model: Model) -> Model:
    """Bring `model` into canonical form in place and return it.

    Expects a model that :func:`graphopt.ir.io.read` accepts.

    Raises:
        ModelError: GO105 if a function cannot be inlined, GO109 if the opset cannot be upgraded, GO110
            if a graph output is declared with another type than it has.
    """
    declared = [(v.name, v.type) for v in model.graph.outputs]
    interface.record(model)
    if model.functions:
        inline_functions(model)
    _hide_initializers_of_old_models(model)
    name_everything(model)
    provenance.start(model)
    lift_constants(model)
    upgrade(model)
    name_everything(model)
    provenance.start(model)
    infer_shapes(model)
    _check_output_types(model, declared)
    return model


def _check_output_types(model: Model, declared: Sequence[tuple[str | None, TypeProtocol | None]]) -> None:
    for value, (name, type_) in zip(model.graph.outputs, declared, strict=True):
        found, expected = type_text(value.type), type_text(type_)
        if isinstance(value.type, OptionalType) or isinstance(type_, OptionalType):
            continue  # a Loop may start from nothing and end with something
        if found is not None and expected is not None and found != expected:
            raise ModelError(
                "GO110",
                "the output is declared with another type than it has",
                where=f"output '{name}'",
                found=found,
                expected=expected,
                next_step="Insert a Cast, or export the model again.",
            )


def inline_functions(model: Model) -> None:
    """Inline the local functions of `model` in place, whatever default-domain opset each is written in.

    Raises ModelError GO105 if a call does not fit its function, GO109 if the opsets cannot be brought
    together.
    """
    _align_opsets(model)
    for function in model.functions.values():
        _copy_passed_values(function.graph)
    try:
        common.InlinePass()(model)
    # ValueError: arguments or opsets do not fit; PassError: recursion.
    except (ValueError, onnx_ir.passes.PassError) as error:
        reason = str(error.__cause__ or error).split("\n", 1)[0][:300]
        raise ModelError(
            "GO105", "a local function cannot be inlined", where="the graph", found=reason
        ) from error
    model.functions.clear()
    check_operators(model)


def _align_opsets(model: Model) -> None:
    """Bring the main graph and all functions to one default-domain opset, if they differ."""
    graphs = [model.graph, *(function.graph for function in model.functions.values())]
    opsets = {graph.opset_imports[""] for graph in graphs if "" in graph.opset_imports}
    if len(opsets) < 2:
        return
    for graph in graphs:
        upgrade(Model(graph, ir_version=model.ir_version or 0), max(CANONICAL_OPSET, *opsets))
    for function in model.functions.values():
        _constants_to_nodes(function.graph)


def _copy_passed_values(graph: Graph) -> None:
    """Give a function's outputs that it does not compute, or gives twice, an Identity of their own.

    Inlining renames the value behind an output, which may then be an input of the model.
    """
    seen: set[Value] = set()
    for index, value in enumerate(graph.outputs):
        if value.producer() is None or value in seen:
            copy = Node("", "Identity", [value], name=f"{value.name}/output{index}")
            copy.outputs[0].name = copy.name
            graph.append(copy)
            graph.outputs[index] = copy.outputs[0]
        seen.add(value)


def _constants_to_nodes(graph: Graph) -> None:
    """Functions hold no initializers: make those that an upgrade added Constant nodes."""
    for name, value in list(graph.initializers.items()):
        node = Node("", "Constant", [], attributes=[Attr("value", AttributeType.TENSOR, value.const_value)])
        del graph.initializers[name]
        value.replace_all_uses_with(node.outputs[0])
        node.outputs[0].name = name
        graph.insert_before(graph[0], node)


def _hide_initializers_of_old_models(model: Model) -> None:
    """Initializers of models before IR version 4 are constants, not inputs."""
    if model.ir_version is not None and model.ir_version < OVERRIDABLE_SINCE_IR_VERSION:
        for graph in walk_graphs(model.graph):
            constants = [v for v in graph.inputs if v.is_initializer()]
            for value in constants:
                graph.inputs.remove(value)
    # Nodes carry their provenance as metadata.
    model.ir_version = max(model.ir_version or 0, NODE_METADATA_SINCE_IR_VERSION)


def name_everything(model: Model) -> None:
    """Give every node and every value a name that is unique in the whole model.

    Names of graph inputs and outputs of the main graph stay; others stay where they are unique.
    """
    interface = {v.name for v in (*model.graph.inputs, *model.graph.outputs) if v.name}
    node_names: set[str] = set()
    value_names: set[str] = set(interface)
    kept = set(model.graph.inputs) | set(model.graph.outputs)
    counts: dict[str, int] = {}
    for graph in walk_graphs(model.graph):
        for value in (*graph.inputs, *list(graph.initializers.values())):
            if value not in kept:
                _rename(value, value_names, counts, "value", graph)
                kept.add(value)
        for node in graph:
            stem = node.name or node.op_type
            node.name = _unique(stem if node.name else f"{stem}_{len(node_names)}", node_names, counts)
            for index, value in enumerate(node.outputs):
                # An output that is left out has no name; one that is used must have one.
                if value not in kept and (value.name or value.uses()):
                    _rename(value, value_names, counts, f"{node.name}:{index}", graph)


def _rename(value: Value, taken: set[str], counts: dict[str, int], stem: str, graph: Graph) -> None:
    name = _unique(value.name or stem, taken, counts)
    if name == value.name:
        return
    value.name = name  # keeps the key of an initializer in step


def _unique(stem: str, taken: set[str], counts: dict[str, int]) -> str:
    name = stem
    while name in taken:
        counts[stem] = counts.get(stem, 1) + 1
        name = f"{stem}_{counts[stem]}"
    taken.add(name)
    return name


def lift_constants(model: Model) -> int:
    """Turn Constant nodes into initializers, and initializers of subgraphs into the main graph's.

    A constant that is itself a graph output stays a node. Returns the number of nodes lifted.
    """
    namer = Namer(model.graph)
    main = model.graph
    count = 0
    for graph in list(walk_graphs(main)):
        if graph is not main:
            for name, value in list(graph.initializers.items()):
                if not value.is_graph_input() and not value.is_graph_output():
                    del graph.initializers[name]
                    main.register_initializer(value)
        for node in list(graph):
            if is_op(node, "Constant") and _lift(node, main, namer):
                count += 1
    return count


def _lift(node: Node, main: Graph, namer: Namer) -> bool:
    import numpy as np

    output = node.outputs[0]
    if output.is_graph_output() or len(node.attributes) != 1:
        return False
    attr = next(iter(node.attributes.values()))
    if attr.is_ref():
        return False
    name = output.name or namer.value(node.name or "constant")
    if attr.type == AttributeType.TENSOR:
        tensor = attr.as_tensor()
    elif attr.type in (AttributeType.INT, AttributeType.INTS):
        tensor = onnx_ir.tensor(np.array(attr.value, dtype=np.int64), name=name)
    elif attr.type in (AttributeType.FLOAT, AttributeType.FLOATS):
        tensor = onnx_ir.tensor(np.array(attr.value, dtype=np.float32), name=name)
    else:
        return False
    # The tensor keeps its name: a model that this one was cloned from may share it.
    constant = onnx_ir.Value(
        name=name,
        shape=Shape(tensor.shape.numpy()),
        type=onnx_ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    output.name = None
    main.register_initializer(constant)
    output.replace_all_uses_with(constant)
    assert node.graph is not None
    node.graph.remove(node, safe=True)
    return True
