"""eliminate-identity: Identity(x) = x."""

from __future__ import annotations

import dataclasses

from graphopt.ir import Node
from graphopt.transform import NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement


@rule("Identity")
def identity(node: Node, rewriter: Rewriter) -> Replacement:
    """Identity(x) = x."""
    x, output = node.inputs[0], node.outputs[0]
    if x is None:
        return NoMatch("the input is missing")
    if output.is_graph_output() and (
        x.is_graph_output() or x.is_graph_input() or x.is_initializer() or x.graph is not node.graph
    ):
        return NoMatch("it carries a value straight to a graph output", output.name)
    return x


@dataclasses.dataclass(frozen=True)
class EliminateIdentity(RulePass):
    """Remove Identity nodes, except those that carry an input or a weight straight to an output.

    given:  float[N] x
    before: y = Exp(Identity(x))
    after:  y = Exp(x)

    Spec: https://onnx.ai/onnx/operators/onnx__Identity.html
    """

    rules = (identity,)
