"""raise-attention: scaled dot-product attention written out becomes Attention."""

from __future__ import annotations

import dataclasses

from graphopt.ir import Model, Node
from graphopt.passes._attention import build_attention, match_attention
from graphopt.passes._upgrading import upgrade_for
from graphopt.transform import Changes, Exactness, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement, apply_rules

NEEDED_OPSET = 23


@rule("MatMul")
def attention(node: Node, rewriter: Rewriter) -> Replacement:
    """Softmax(scale * q kᵀ + mask) v = Attention(q, k, v, mask, scale), on [batch, head, sequence, size]."""
    found = match_attention(node)
    if isinstance(found, NoMatch):
        return found
    if rewriter.opset < NEEDED_OPSET:
        return NoMatch(f"needs opset {NEEDED_OPSET}")
    inputs = rewriter.model.graph.inputs if node.graph is rewriter.model.graph else ()
    return build_attention(found, rewriter, list(inputs))


@dataclasses.dataclass(frozen=True)
class RaiseAttention(RulePass):
    """Recognise attention that is written out in products and Softmax.

    before: s = MatMul(q, Transpose<perm = [0, 1, 3, 2]>(k));  w = Softmax(Add(Mul(s, c), mask))
            y = MatMul(w, v)
    after:  y = Attention<scale = c>(q, k, v, mask)

    Softmax is over the last axis, nothing in between is used elsewhere, and batch and head sizes are known
    to be equal. Masks stay what they are, except where they may close all keys of a query: there the
    operator and Softmax differ, and the mask is changed so that they do not.

    Options:
        upgrade: raise the model's opset to 23, where Attention is, if there is one to raise.

    Spec: https://onnx.ai/onnx/operators/onnx__Attention.html (since version 23)
    """

    upgrade: bool = False

    exactness = Exactness.REASSOCIATES
    rules = (attention,)

    def run(self, model: Model) -> Changes:
        """Apply the rules, after an upgrade of the opset if that is wanted and of use."""
        if self.upgrade:
            upgrade_for(model, NEEDED_OPSET, lambda n: not isinstance(match_attention(n), NoMatch))
        return apply_rules(model, self.rules)
