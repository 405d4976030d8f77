"""eliminate-common-subexpressions: what is computed twice from the same values is computed once."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable

from graphopt.ir import Attr, AttributeType, DataType, Graph, Model, Node, Value
from graphopt.ir.edit import replace_value
from graphopt.ir.provenance import merge_origins
from graphopt.ir.query import constant_tensor, is_deterministic, is_op, rank, subgraphs
from graphopt.ir.text import tensor_digest
from graphopt.transform import Changes, Pass

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

Key = tuple[Hashable, ...]

# Operators that move elements: no pattern of arithmetic starts with them.
_NEVER_RAISED = frozenset(
    {"Cast", "Concat", "Expand", "Flatten", "Gather", "GatherND", "Pad", "Reshape", "Resize", "Slice"}
    | {"Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)

MAX_COMPARED_ELEMENTS = 16
"""Constants of at most so many elements are compared by their bits."""


@dataclasses.dataclass(frozen=True)
class EliminateCommonSubexpressions(Pass):
    """Compute equal expressions once: same operator, attributes and inputs.

    A node in a branch or body may use what an enclosing graph computed before, never the reverse.
    Random operators, operators of unknown domains and those with subgraphs are left alone.

    Before: ``a = Exp(x); b = Exp(x); y = Add(a, b)``
    After:  ``a = Exp(x); y = Add(a, a)``

    Attributes:
        by_value: take small constants with the same bits for the same in float arithmetic, too, not only
            where integers are calculated and elements moved. That finds more, but joins what two
            patterns (normalizations of one value) start with, so it comes after those are raised.
    """

    by_value: bool = False

    def run(self, model: Model) -> Changes:
        """Number the values of every graph in order, in scopes."""
        changes = Changes()
        _visit(model.graph, {}, changes, self.by_value)
        return changes


def _visit(graph: Graph, table: dict[Key, Node], changes: Changes, by_value: bool) -> None:
    added: list[Key] = []
    for node in list(graph):
        key = expression_key(node, by_value)
        if key is not None:
            earlier = table.get(key)
            if earlier is None:
                table[key] = node
                added.append(key)
            elif _merge(earlier, node):
                changes.counts[node.op_type] += 1
            continue
        for sub in subgraphs(node):
            _visit(sub, table, changes, by_value)
    for key in added:
        del table[key]


def expression_key(node: Node, by_value: bool = False) -> Key | None:
    """What two nodes have in common exactly if they compute the same, or None if nobody may say so."""
    domain = node.domain or ""
    if domain == _CONTRIB_DOMAIN:
        if any(word in node.op_type for word in _RANDOM_WORDS):
            return None
    elif domain not in _PURE_DOMAINS:
        return None
    if not is_deterministic(node):
        return None
    attributes = []
    for name in sorted(node.attributes):
        known = _attribute_key(node.attributes[name])
        if known is None:
            return None
        attributes.append((name, known))
    wanted = tuple(bool(value.name) for value in node.outputs)
    comparing = by_value or node.op_type in _NEVER_RAISED or not _is_float(node)
    operands = tuple(_operand_key(v) if comparing else v for v in node.inputs)
    return (domain, node.op_type, node.overload, operands, tuple(attributes), wanted)


def _is_float(node: Node) -> bool:
    """Whether `node` calculates with tensors of floats, as far as is known."""
    dtype = node.outputs[0].dtype if node.outputs else None
    if node.outputs and rank(node.outputs[0]) == 0:
        return False  # scales are calculated from sizes
    return dtype is None or not dtype.name.startswith(("INT", "UINT", "BOOL"))


def _operand_key(value: Value | None) -> Hashable:
    """`value` itself, or the bits of a small constant: exporters write a new one for every use."""
    tensor = constant_tensor(value)
    if tensor is None or tensor.size > MAX_COMPARED_ELEMENTS or tensor.dtype == DataType.STRING:
        return value
    return (tensor.dtype, tuple(tensor.shape.numpy()), tensor.numpy().tobytes())


def _attribute_key(attr: Attr) -> Hashable | None:
    if attr.is_ref():
        return None
    if attr.type == AttributeType.TENSOR:
        return tensor_digest(attr.as_tensor())
    if attr.type not in _COMPARED_BY_VALUE:
        return None
    # repr tells -0.0 from 0.0 and finds NaN equal to itself; 1 and 1.0 differ.
    return repr(attr.value)


def _merge(earlier: Node, later: Node) -> bool:
    """Let the users of `later` use `earlier`; False where that would only turn one copy into another."""
    if is_op(later, "Identity") and later.outputs[0].is_graph_output():
        return False
    pairs = list(zip(earlier.outputs, later.outputs, strict=True))
    for new, old in pairs:
        _redirect(old, new)
    merge_origins([earlier], [later])
    assert later.graph is not None
    later.graph.remove(later, safe=True)
    return True


def _redirect(old: Value, new: Value) -> None:
    if old.name or old.uses() or old.is_graph_output():
        replace_value(old, new)
