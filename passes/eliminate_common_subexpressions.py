"""eliminate-common-subexpressions: what is computed twice from the same values is computed once."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable

from graphopt.ir import Attr, AttributeType, Graph, Model, Node, Value
from graphopt.ir.edit import replace_value
from graphopt.ir.provenance import merge_origins
from graphopt.ir.query import constant, is_deterministic, is_op, subgraphs
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

SMALL_CONSTANT_ELEMENTS = 16


@dataclasses.dataclass(frozen=True)
class EliminateCommonSubexpressions(Pass):
    """Compute equal expressions once: same operator, attributes and inputs.

    Constants of up to 16 elements are compared by their contents.
    A node in a branch or body may use what an enclosing graph computed before, never the reverse.
    Random operators, operators of unknown domains and those with subgraphs are left alone.

    Before: ``a = Exp(x); b = Exp(x); y = Add(a, b)``
    After:  ``a = Exp(x); y = Add(a, a)``
    """

    def run(self, model: Model) -> Changes:
        """Number the values of every graph in order, in scopes."""
        changes = Changes()
        _visit(model.graph, {}, changes)
        return changes


def _visit(graph: Graph, table: dict[Key, Node], changes: Changes) -> None:
    added: list[Key] = []
    for node in list(graph):
        key = expression_key(node)
        if key is not None:
            earlier = table.get(key)
            if earlier is None:
                table[key] = node
                added.append(key)
            elif _merge(earlier, node):
                changes.counts[node.op_type] += 1
            continue
        for sub in subgraphs(node):
            _visit(sub, table, changes)
    for key in added:
        del table[key]


def expression_key(node: Node) -> Key | None:
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
    inputs = tuple(_input_key(value) for value in node.inputs)
    return (domain, node.op_type, node.overload, inputs, tuple(attributes), wanted)


def _input_key(value: Value | None) -> Hashable:
    """`value` itself, or the contents of a small constant, of which a graph may hold several copies."""
    array = constant(value, max_elements=SMALL_CONSTANT_ELEMENTS)
    if value is None or array is None:
        return value
    return (value.dtype, array.shape, array.tobytes())


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
