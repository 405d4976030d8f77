"""merge-transposes: one Transpose in the place of several."""

from __future__ import annotations

import dataclasses

from graphopt.ir import Node
from graphopt.ir.query import attribute, is_op, rank
from graphopt.transform import NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement


def permutation(node: Node) -> tuple[int, ...] | None:
    """The permutation of a Transpose, the reversal that is the default included; None if not valid."""
    count = rank(node.inputs[0])
    perm = attribute(node, "perm")
    if perm is None:
        return None if count is None else tuple(reversed(range(count)))
    perm = tuple(int(p) for p in perm)
    if sorted(perm) != list(range(len(perm))) or (count is not None and count != len(perm)):
        return None
    return perm


@rule("Transpose")
def transpose_of_transpose(node: Node, rewriter: Rewriter) -> Replacement:
    """Transpose(Transpose(x, p), q) = Transpose(x, p[q]), and x if that is the identity."""
    middle = node.inputs[0]
    inner = None if middle is None else middle.producer()
    if inner is None or not is_op(inner, "Transpose"):
        return NoMatch("the operand is no Transpose")
    p, q = permutation(inner), permutation(node)
    x = inner.inputs[0]
    if p is None or q is None or x is None or len(p) != len(q):
        return NoMatch("the rank is not known", middle.name if middle is not None else None)
    composed = tuple(p[i] for i in q)
    if composed == tuple(range(len(composed))):
        return x
    return rewriter.op("Transpose", x, perm=composed)


@dataclasses.dataclass(frozen=True)
class MergeTransposes(RulePass):
    """Compose Transposes that follow each other, and drop those that cancel.

    given:  float[2, 3, 4] x
    before: y = Transpose<perm = [1, 2, 0]>(Transpose<perm = [1, 2, 0]>(x))
    after:  y = Transpose<perm = [2, 0, 1]>(x)

    Spec: https://onnx.ai/onnx/operators/onnx__Transpose.html
    """

    rules = (transpose_of_transpose,)
