"""Questions that passes and lowerings ask of the graph, answered from what is proven only.

Shapes come from inference, constants only from initializers that a caller cannot override.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from graphopt.ir import (
    AttributeType,
    DataType,
    Graph,
    Node,
    Shape,
    StringTensor,
    SymbolicDim,
    TensorProtocol,
    Value,
)

SMALL_CONSTANT_ELEMENTS = 1 << 16


def is_op(node: Node | None, *op_types: str, domain: str = "") -> bool:
    """Whether `node` is one of `op_types` in `domain`."""
    return node is not None and node.op_type in op_types and (node.domain or "") == domain


def constant_tensor(value: Value | None) -> TensorProtocol | None:
    """The tensor of `value` if it is an initializer that no caller can override, else None.

    A constant that a rule has made and that is in no graph yet counts, too: what is inferred of the
    nodes that read it hangs on its numbers.
    """
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    is_new = value.producer() is None and value.graph is None
    return value.const_value if is_new or value.is_initializer() else None


def constant(value: Value | None, *, max_elements: int = SMALL_CONSTANT_ELEMENTS) -> np.ndarray | None:
    """The numbers of a constant of at most `max_elements` elements, else None.

    Large weights are left on disk: pass ``max_elements`` only where the result is used up at once.
    """
    tensor = constant_tensor(value)
    if tensor is None or isinstance(tensor, StringTensor) or tensor.dtype == DataType.STRING:
        return None
    if tensor.size > max_elements:
        return None
    return tensor.numpy()


def scalar(value: Value | None) -> float | int | bool | None:
    """The Python number of a one-element constant of any rank, else None."""
    array = constant(value, max_elements=1)
    if array is None or array.size != 1:
        return None
    item = array.reshape(-1)[0]
    # ml_dtypes scalars (bfloat16, float8) are not Python numbers yet after item().
    number = item.item() if hasattr(item, "item") else item
    return number if isinstance(number, (bool, int, float)) else float(number)


def ints(value: Value | None) -> tuple[int, ...] | None:
    """A constant integer vector (or scalar) as a tuple, else None."""
    array = constant(value)
    if array is None or array.dtype.kind not in "iu":
        return None
    return tuple(int(x) for x in array.reshape(-1))


def attribute(node: Node, name: str, default: Any = None) -> Any:
    """The plain Python value of attribute `name`: int, float, str, tuple, tensor or graph."""
    attr = node.attributes.get(name)
    if attr is None or attr.is_ref():
        return default
    if attr.type == AttributeType.STRING:
        return attr.as_string()
    return attr.value


def rank(value: Value | None) -> int | None:
    """The rank of `value`, or None if unknown."""
    return None if value is None or value.shape is None else len(value.shape)


def static_shape(value: Value | None) -> tuple[int, ...] | None:
    """The shape of `value` if every dimension is a known integer, else None."""
    if value is None or value.shape is None:
        return None
    dims = value.shape.dims
    return tuple(d for d in dims if isinstance(d, int)) if all(isinstance(d, int) for d in dims) else None


def same_dim(a: int | SymbolicDim, b: int | SymbolicDim) -> bool:
    """Whether two dimensions are provably equal (the same number, or the same symbolic expression)."""
    if isinstance(a, int) or isinstance(b, int):
        return a == b if isinstance(a, int) and isinstance(b, int) else False
    return a.value is not None and a.value == b.value


def same_shape(a: Shape | None, b: Shape | None) -> bool:
    """Whether two shapes are known and provably equal, symbolic dimensions included."""
    if a is None or b is None or len(a) != len(b):
        return False
    return all(same_dim(x, y) for x, y in zip(a.dims, b.dims, strict=True))


def element_count(shape: Sequence[int]) -> int:
    """The number of elements of a static shape, as an unbounded Python integer."""
    total = 1
    for dim in shape:
        total *= dim
    return total


def only_use(value: Value) -> Node | None:
    """The one node that uses `value` once, or None if it is used more, not at all, or is an output.

    Uses inside subgraphs count like any other.
    """
    if value.is_graph_output():
        return None
    uses = value.uses()
    if len(uses) != 1:
        return None
    return next(iter(uses)).node


def subgraphs(node: Node) -> Iterator[Graph]:
    """The graphs held by the attributes of `node` (branches and bodies), not nested ones."""
    # The plain dict of the container: passes ask this of every node, and the container's own views are slow.
    for attr in node.attributes.data.values():
        if attr.type is AttributeType.GRAPH:
            if not attr.is_ref():
                yield attr.as_graph()
        elif attr.type is AttributeType.GRAPHS and not attr.is_ref():
            yield from attr.as_graphs()


def walk_graphs(graph: Graph) -> Iterator[Graph]:
    """`graph` and every graph nested in it, parents first."""
    yield graph
    for node in graph:
        for sub in subgraphs(node):
            yield from walk_graphs(sub)


def captured_values(node: Node) -> list[Value]:
    """The outer values that the subgraphs of `node` use, in order of first use."""
    return captured_by(subgraphs(node))


def captured_by(graphs: Iterable[Graph]) -> list[Value]:
    """The values of outer graphs that `graphs`, and those nested in them, use, in order of first use."""
    inner_graphs = [g for graph in graphs for g in walk_graphs(graph)]
    inner: set[Graph] = set(inner_graphs)
    found: dict[Value, None] = {}
    for graph in inner_graphs:
        uses = [v for n in graph for v in n.inputs if v is not None]
        for value in (*uses, *graph.outputs):
            producer = value.producer()
            owner = producer.graph if producer is not None else value.graph
            if owner not in inner:
                found.setdefault(value)
    return list(found)


RANDOM_OPS = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
)


def is_deterministic(node: Node) -> bool:
    """Whether running `node` twice gives the same result (subgraphs included)."""
    if (node.domain or "") == "" and node.op_type in RANDOM_OPS:
        return False
    if is_op(node, "Dropout") and len(node.inputs) > 2 and node.inputs[2] is not None:
        training = constant(node.inputs[2], max_elements=1)
        if training is None or bool(training.reshape(-1)[0]):
            return False
    return all(is_deterministic(inner) for sub in subgraphs(node) for inner in sub)
