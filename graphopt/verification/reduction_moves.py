"""The moves that make a failing model smaller. Each gives a new model, or None where it cannot be made.

No move promises that the model still fails, or even that it is valid: the caller tries it.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir

from graphopt.ir import (
    Attr,
    AttributeType,
    DataType,
    Graph,
    Model,
    Node,
    Shape,
    SymbolicDim,
    TensorType,
    Value,
)
from graphopt.ir.edit import detach_subgraphs, remove_dead, remove_unused_initializers
from graphopt.ir.query import captured_values, is_op, subgraphs
from graphopt.verification.feeds import Feeds

Observe = Callable[[list[str]], Mapping[str, np.ndarray]]
"""The arrays that the values of these names hold when the model runs; unknown ones are missing."""

MAX_SHAPE_ELEMENTS = 64
SEED_ABOVE_ELEMENTS = 8


def cut(
    model: Model, keep: Collection[str], feeds: Feeds, observe: Observe, *, static: bool
) -> tuple[Model, Feeds] | None:
    """Only the nodes of the main graph called `keep`: what others made for them becomes an input.

    Args:
        static: declare the new inputs with the shapes observed, instead of the symbolic ones they have.
    """
    result = model.clone()
    graph = result.graph
    kept = [node for node in graph if node.name in keep]
    inside = {inner for node in kept for inner in (node, *nested_nodes(node))}
    removed = [node for node in graph if node not in inside]
    boundary: dict[Value, None] = {}
    for node in kept:
        for value in (*node.inputs, *captured_values(node)):
            if value is not None and value.producer() is not None and value.producer() not in inside:
                boundary.setdefault(value)
    outputs = [
        value
        for node in kept
        for value in node.outputs
        if value.is_graph_output() or any(use.node not in inside for use in value.uses())
    ]
    if not outputs:
        return None
    arrays = observe([value.name or "" for value in boundary])
    if any(value.name not in arrays for value in boundary):
        return None
    graph.outputs.clear()
    new_feeds = dict(feeds)
    new_inputs = []
    for value in boundary:
        array = arrays[value.name or ""]
        new_inputs.append(_input_like(value, array, static))
        new_feeds[value.name or ""] = array
        value.name = None
        value.replace_all_uses_with(new_inputs[-1])
    for node in reversed(removed):
        detach_subgraphs(node)
        graph.remove(node, safe=True)
    graph.outputs.extend(dict.fromkeys(outputs))
    graph.inputs.extend(new_inputs)
    return _tidied(result, new_feeds)


def nested_nodes(node: Node) -> Iterator[Node]:
    """The nodes of the subgraphs of `node`, at any depth."""
    for graph in subgraphs(node):
        for inner in graph:
            yield inner
            yield from nested_nodes(inner)


def _input_like(value: Value, array: np.ndarray, static: bool) -> Value:
    dims = list(value.shape.dims) if value.shape is not None and not static else list(array.shape)
    chosen = [
        SymbolicDim(re.sub(r"\W+", "_", str(dim.value)))
        if isinstance(dim, SymbolicDim) and dim.value is not None
        else (dim if isinstance(dim, int) else size)
        for dim, size in zip(dims, array.shape, strict=True)
    ]
    type_ = value.type or TensorType(DataType.from_numpy(array.dtype))
    return Value(name=value.name, type=type_, shape=Shape(chosen))


def _tidied(model: Model, feeds: Feeds) -> tuple[Model, Feeds] | None:
    """Without inputs and initializers that nothing uses; None if no node is left."""
    graph = model.graph
    for value in list(graph.inputs):
        if not value.uses() and not value.is_graph_output():
            graph.inputs.remove(value)
            graph.initializers.pop(value.name or "", None)
    remove_unused_initializers(graph)
    if len(graph) == 0 or not graph.outputs:
        return None
    names = {value.name for value in graph.inputs}
    return model, {name: array for name, array in feeds.items() if name in names}


def with_outputs(model: Model, names: Collection[str], feeds: Feeds) -> tuple[Model, Feeds] | None:
    """Only the outputs called `names`, and what they need."""
    result = model.clone()
    graph = result.graph
    dropped = [value for value in graph.outputs if value.name not in names]
    kept = [value for value in graph.outputs if value.name in names]
    graph.outputs.clear()
    graph.outputs.extend(kept)
    remove_dead(p for value in dropped if (p := value.producer()) is not None)
    return _tidied(result, feeds)


def bypasses(model: Model) -> list[tuple[str, int, int]]:
    """The nodes that may be bypassed: (name, output, input of the same type), the last nodes first."""
    return [
        (node.name or "", out, position)
        for node in reversed(list(model.graph.all_nodes()))
        for out, result in enumerate(node.outputs)
        if result.uses() or result.is_graph_output()
        for position, operand in enumerate(node.inputs)
        if operand is not None and operand.dtype is not None and operand.dtype == result.dtype
    ]


def bypass(model: Model, name: str, out: int, position: int, feeds: Feeds) -> tuple[Model, Feeds] | None:
    """The users of one output of a node use one of its inputs instead."""
    result = model.clone()
    node = find(result, name)
    if node is None or node.graph is None:
        return None
    old, new = node.outputs[out], node.inputs[position]
    if new is None:
        return None
    graph = node.graph
    if old.is_graph_output():
        producer = new.producer()
        if producer is None or producer.graph is not graph or new.is_graph_output():
            return None
        assert isinstance(graph, Graph)
        for index, value in enumerate(graph.outputs):
            if value is old:
                graph.outputs[index] = new
    old.replace_all_uses_with(new)
    remove_dead([node])
    return _tidied(result, feeds)


def find(model: Model, name: str) -> Node | None:
    """The node called `name`, in whatever graph."""
    return next((node for node in model.graph.all_nodes() if node.name == name), None)


def branches(model: Model) -> list[tuple[str, str]]:
    """Each (If node of the main graph, name of a branch)."""
    return [(n.name or "", b) for n in model.graph if is_op(n, "If") for b in ("then_branch", "else_branch")]


def take_branch(model: Model, name: str, branch: str, feeds: Feeds) -> tuple[Model, Feeds] | None:
    """One branch of an If, in place of it."""
    result = model.clone()
    node = find(result, name)
    attr = None if node is None else node.attributes.get(branch)
    if node is None or attr is None or node.graph is not result.graph:
        return None
    inner = attr.as_graph()
    results = list(inner.outputs)
    nodes = list(inner)
    if any(value.producer() not in nodes for value in results):
        return None
    inner.outputs.clear()
    inner.remove(nodes)
    result.graph.insert_before(node, nodes)
    for old, new in zip(node.outputs, results, strict=True):
        for index, value in enumerate(result.graph.outputs):
            if value is old:
                result.graph.outputs[index] = new
        old.replace_all_uses_with(new)
    remove_dead([node])
    return _tidied(result, feeds)


def sizes(model: Model, feeds: Feeds) -> list[int]:
    """The sizes above 2 that axes of inputs and constants have, the largest first."""
    found = {size for array in feeds.values() for size in array.shape}
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            found.update(value.const_value.shape.numpy())
    return sorted((size for size in found if size > 2), reverse=True)


def shrink(
    model: Model, size: int, smaller: int, feeds: Feeds, *, numbers: bool
) -> tuple[Model, Feeds] | None:
    """Every axis of `size` becomes one of `smaller`.

    Args:
        numbers: constant integers (as in shapes and slices) and attributes that are `size` change, too.
    """
    result = model.clone()
    for value in result.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.dtype == DataType.STRING:
            continue
        is_index = tensor.dtype in (DataType.INT64, DataType.INT32)
        is_shape = numbers and is_index and tensor.size <= MAX_SHAPE_ELEMENTS
        if size not in tensor.shape.numpy() and not is_shape:
            continue
        array = _sliced(tensor.numpy(), size, smaller)
        if is_shape:
            array = np.where(array == size, np.asarray(smaller, array.dtype), array)
        _set_constant(value, array)
    for value in result.graph.inputs:
        if value.shape is not None:
            value.shape = Shape([smaller if dim == size else dim for dim in value.shape.dims])
    if numbers:
        for node in result.graph.all_nodes():
            for name, attr in list(node.attributes.items()):
                if attr.is_ref():
                    continue
                if attr.type == AttributeType.INT and attr.value == size:
                    node.attributes[name] = Attr(name, attr.type, smaller)
                elif attr.type == AttributeType.INTS and size in attr.value:
                    node.attributes[name] = Attr(
                        name, attr.type, tuple(smaller if i == size else i for i in attr.value)
                    )
    cropped = {name: _sliced(array, size, smaller) for name, array in feeds.items()}
    return result, {name: np.array(array, order="C") for name, array in cropped.items()}


def _sliced(array: np.ndarray, size: int, smaller: int) -> np.ndarray:
    return array[tuple(slice(smaller) if length == size else slice(None) for length in array.shape)]


def _set_constant(value: Value, array: np.ndarray) -> None:
    value.const_value = onnx_ir.tensor(np.array(array, order="C"), name=value.name)
    value.shape = Shape(array.shape)


def with_fixed_shapes(model: Model, feeds: Feeds) -> tuple[Model, Feeds] | None:
    """Every input has the shape of its feed."""
    result = model.clone()
    if all(isinstance(d, int) for v in result.graph.inputs if v.shape is not None for d in v.shape.dims):
        return None
    for value in result.graph.inputs:
        if value.name in feeds:
            value.shape = Shape(feeds[value.name].shape)
    return result, feeds


def weights(model: Model) -> list[str]:
    """The names of the floating-point constants whose data is worth replacing."""
    return [
        name
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
        and value.const_value.dtype.is_floating_point()
        and value.const_value.size > SEED_ABOVE_ELEMENTS
        and not value.is_graph_input()
    ]


def seeded(model: Model, names: Sequence[str], feeds: Feeds) -> tuple[Model, Feeds]:
    """The constants called `names` hold random numbers instead: standard normal, seeded with the name."""
    result = model.clone()
    for name in names:
        value = result.graph.initializers[name]
        tensor = value.const_value
        assert tensor is not None
        random = np.random.default_rng(zlib.crc32(name.encode()))
        numbers = random.standard_normal(tuple(tensor.shape.numpy())).astype(np.float32)
        _set_constant(value, numbers.round(2).astype(tensor.dtype.numpy()))
    return result, feeds
