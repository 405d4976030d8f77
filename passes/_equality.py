"""When two nodes, or two graphs, compute the same: keys that are equal exactly then."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from graphopt.ir import Attr, AttributeType, DataType, Graph, Node, Value
from graphopt.ir.query import constant_tensor, is_deterministic, rank
from graphopt.ir.text import tensor_digest

# Domains whose operators are known to be functions of their inputs and attributes.
_PURE_DOMAINS = frozenset({"", "ai.onnx.ml"})
# Whether a contrib operator draws random numbers shows in its name only.
_CONTRIB_DOMAIN = "com.microsoft"
_RANDOM_WORDS = ("Random", "Dropout", "Sampling", "Multinomial", "PyOp", "ATen")
_COMPARED_BY_VALUE = frozenset(
    {
        AttributeType.INT,
        AttributeType.INTS,
        AttributeType.FLOAT,
        AttributeType.FLOATS,
        AttributeType.STRING,
        AttributeType.STRINGS,
    }
)
# Operators that move elements: no pattern of arithmetic starts with them.
_NEVER_RAISED = frozenset(
    {"Cast", "Concat", "Expand", "Flatten", "Gather", "GatherND", "Pad", "Reshape", "Resize", "Slice"}
    | {"Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
MAX_BODY_NODES = 2000
"""Bodies of more nodes are not compared: each level of nesting compares what is inside again."""

MAX_DIGEST_BYTES = 1 << 12
"""Initializers inside bodies are compared by value up to this size."""

MAX_COMPARED_ELEMENTS = 16
"""Constants of at most so many elements are compared by their bits."""

Key = tuple[Hashable, ...]
Names = Mapping[Value, Hashable]


def expression_key(node: Node, names: Names | None = None, *, by_value: bool = False) -> Key | None:
    """What two nodes have in common exactly if they compute the same, or None if nobody may say so.

    Args:
        names: what stands for values of the graph around it that are to be equal by position.
        by_value: whether small constants with the same bits are the same for arithmetic on floats; for
            all other operators they are.
    """
    domain = node.domain or ""
    if domain == _CONTRIB_DOMAIN:
        if any(word in node.op_type for word in _RANDOM_WORDS):
            return None
    elif domain not in _PURE_DOMAINS:
        return None
    if not is_deterministic(node):
        return None
    known = names or {}
    attributes = []
    for name in sorted(node.attributes):
        attribute = _attribute_key(node.attributes[name], known)
        if attribute is None:
            return None
        attributes.append((name, attribute))
    wanted = tuple(bool(value.name) for value in node.outputs)
    comparing = by_value or node.op_type in _NEVER_RAISED or not _is_float(node)
    operands = tuple(_operand_key(v, known, comparing) for v in node.inputs)
    return (domain, node.op_type, node.overload, operands, tuple(attributes), wanted)


def _is_float(node: Node) -> bool:
    """Whether `node` calculates with tensors of floats, as far as is known."""
    dtype = node.outputs[0].dtype if node.outputs else None
    if node.outputs and rank(node.outputs[0]) == 0:
        return False  # scales are calculated from sizes
    return dtype is None or not dtype.name.startswith(("INT", "UINT", "BOOL"))


def _operand_key(value: Value | None, names: Names, by_value: bool) -> Hashable:
    """What stands for `value`, or the bits of a small constant: exporters write a new one for every use."""
    if value is None or value in names:
        return None if value is None else names[value]
    tensor = constant_tensor(value) if by_value else None
    if tensor is None or tensor.size > MAX_COMPARED_ELEMENTS or tensor.dtype == DataType.STRING:
        return value
    return (tensor.dtype, tuple(tensor.shape.numpy()), tensor.numpy().tobytes())


def graph_key(graph: Graph, names: Names | None = None) -> Key | None:
    """What two bodies have in common exactly if they compute the same from the same outer values."""
    known: dict[Value, Hashable] = dict(names or {})
    depth = len(known)
    for index, value in enumerate(graph.inputs):
        known[value] = ("input", depth, index)
    for value in graph.initializers.values():
        tensor = constant_tensor(value)
        if tensor is not None and tensor.nbytes <= MAX_DIGEST_BYTES:
            known[value] = ("constant", tensor_digest(tensor))
    keys: list[Key] = []
    for node in graph:
        key = expression_key(node, known)
        if key is None or len(keys) >= MAX_BODY_NODES:
            return None
        for index, value in enumerate(node.outputs):
            known[value] = ("node", depth, len(keys), index)
        keys.append(key)
    results = tuple((known.get(v, v), str(v.type)) for v in graph.outputs)
    inputs = tuple(str(v.type) for v in graph.inputs)
    return (inputs, tuple(keys), results)


def _attribute_key(attr: Attr, names: Names) -> Hashable | None:
    if attr.is_ref():
        return None
    if attr.type == AttributeType.GRAPH:
        return graph_key(attr.as_graph(), names)
    if attr.type == AttributeType.TENSOR:
        return tensor_digest(attr.as_tensor())
    if attr.type not in _COMPARED_BY_VALUE:
        return None
    # repr tells -0.0 from 0.0 and finds NaN equal to itself; 1 and 1.0 differ.
    return repr(attr.value)
