"""canonicalize-sums: the Sum of two values is an Add."""

from __future__ import annotations

import dataclasses

from graphopt.ir import Node
from graphopt.transform import NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement


@rule("Sum")
def sum_of_two(node: Node, rewriter: Rewriter) -> Replacement:
    """Sum(x, y) = x + y."""
    if len(node.inputs) != 2:
        return NoMatch("not of two operands")
    return rewriter.op("Add", *node.inputs)


@dataclasses.dataclass(frozen=True)
class CanonicalizeSums(RulePass):
    """Write the sum of two values as Add, which other passes know. It undoes select-residual-sum.

    given:  float[N] a; float[N] b
    before: y = Sum(a, b)
    after:  y = Add(a, b)
    """

    rules = (sum_of_two,)
