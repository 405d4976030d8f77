"""eliminate-common-subexpressions: what is computed twice from the same values is computed once."""

from __future__ import annotations

import dataclasses

from graphopt.ir import Graph, Model, Node, Value
from graphopt.ir.edit import detach_subgraphs, replace_value
from graphopt.ir.provenance import merge_origins
from graphopt.ir.query import is_op, subgraphs
from graphopt.passes._equality import Key, expression_key
from graphopt.transform import Changes, Pass


@dataclasses.dataclass(frozen=True)
class EliminateCommonSubexpressions(Pass):
    """Compute equal expressions once: same operator, attributes and inputs.

    A node in a branch or body may use what an enclosing graph computed before, never the reverse.
    If, Loop and Scan are equal if their bodies compute the same from the same outer values.
    Random operators and operators of unknown domains are left alone.

    given:  float[N] x
    before: y = Add(Exp(x), Exp(x))
    after:  a = Exp(x); y = Add(a, a)

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
        for sub in subgraphs(node):
            _visit(sub, table, changes, by_value)
        key = expression_key(node, by_value=by_value)
        if key is not None:
            earlier = table.get(key)
            if earlier is None:
                table[key] = node
                added.append(key)
            elif _merge(earlier, node):
                changes.counts[node.op_type] += 1
    for key in added:
        del table[key]


def _merge(earlier: Node, later: Node) -> bool:
    """Let the users of `later` use `earlier`; False where that would only turn one copy into another."""
    if is_op(later, "Identity") and later.outputs[0].is_graph_output():
        return False
    pairs = list(zip(earlier.outputs, later.outputs, strict=True))
    for new, old in pairs:
        _redirect(old, new)
    merge_origins([earlier], [later])
    detach_subgraphs(later)
    assert later.graph is not None
    later.graph.remove(later, safe=True)
    return True


def _redirect(old: Value, new: Value) -> None:
    if old.name or old.uses() or old.is_graph_output():
        replace_value(old, new)
