"""Ingest: from a model as it was written to the one form that passes and lowerings work on.

Local functions are inlined, constants become initializers of the main graph, every value and node
has a name of its own, the opset is at least :data:`graphopt.ir.opset.CANONICAL_OPSET`, shapes are
inferred and provenance is started. The interface (inputs, outputs, their names and types) stays.
"""

from __future__ import annotations

import onnx_ir.passes.common as common

from graphopt.ir import AttributeType, Graph, Model, Node, Value, provenance
from graphopt.ir.edit import Namer
from graphopt.ir.opset import upgrade
from graphopt.ir.query import is_op, walk_graphs
from graphopt.ir.shapes import infer_shapes

OVERRIDABLE_SINCE_IR_VERSION = 4
"""Up to IR version 3 every initializer had to be listed as an input; from 4 on, listing it means
that callers may override it."""


def normalize(model: Model) -> Model:
    """Bring `model` into canonical form in place and return it.

    Expects a model that :mod:`graphopt.ir.check` accepts.
    """
    if model.functions:
        common.InlinePass()(model)
    _hide_initializers_of_old_models(model)
    name_everything(model)
    provenance.start(model)
    lift_constants(model)
    upgrade(model)
    name_everything(model)
    provenance.start(model)
    return infer_shapes(model)


def _hide_initializers_of_old_models(model: Model) -> None:
    """Initializers of models before IR version 4 are constants, not inputs."""
    if model.ir_version is not None and model.ir_version < OVERRIDABLE_SINCE_IR_VERSION:
        for graph in walk_graphs(model.graph):
            constants = [v for v in graph.inputs if v.is_initializer()]
            for value in constants:
                graph.inputs.remove(value)
            if constants:
                model.ir_version = OVERRIDABLE_SINCE_IR_VERSION


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
                if value.name and value not in kept:
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
    import onnx_ir

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
    tensor.name = name
    constant = onnx_ir.Value(
        name=name, shape=tensor.shape, type=onnx_ir.TensorType(tensor.dtype), const_value=tensor
    )
    output.name = None
    main.register_initializer(constant)
    output.replace_all_uses_with(constant)
    assert node.graph is not None
    node.graph.remove(node, safe=True)
    return True
