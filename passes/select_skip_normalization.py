"""select-skip-normalization: a residual sum and the normalization of it become one operator."""

from __future__ import annotations

import dataclasses

from graphopt.ir import Model, Node, Value
from graphopt.ir.query import attribute, constant_tensor, is_op, only_use, rank, same_shape, static_shape
from graphopt.passes._matching import produced_by
from graphopt.passes._onnxruntime import DOMAIN, is_contrib, select
from graphopt.transform import Changes, Exactness, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

SKIPPING = {
    "LayerNormalization": "SkipLayerNormalization",
    "RMSNormalization": "SkipSimplifiedLayerNormalization",
}
SUM = 3
"""The output that is the sum itself; the two before it are for training."""
MAX_USERS = 8
"""A residual is used by a normalization and the next residual, not by many more."""


@rule("Add")
def normalized_residual(node: Node, rewriter: Rewriter) -> Replacement:
    """x + r before LayerNormalization = the sum that SkipLayerNormalization(x, r) gives beside its result."""
    total = node.outputs[0]
    found = _normalization_of(total)
    if isinstance(found, NoMatch):
        return found
    a, b = node.inputs
    if a is None or b is None or rank(a) != 3 or not same_shape(a.shape, b.shape):
        return NoMatch("what is added is not two tensors [batch, sequence, hidden] of one shape", node.name)
    x, skip, bias = _with_bias(node, a, b)
    scale, shift = found.inputs[1], found.inputs[2] if len(found.inputs) > 2 else None
    simplified = is_op(found, "RMSNormalization")
    operands = [x, skip, scale, bias] if simplified else [x, skip, scale, shift, bias]
    while operands[-1] is None:
        operands.pop()
    made = rewriter.ops(
        SKIPPING[found.op_type],
        *operands,
        outputs=SUM + 1,
        domain=DOMAIN,
        stem=found.name,
        epsilon=float(attribute(found, "epsilon", 1e-5)),
    )
    return made[SUM]


@rule("LayerNormalization", "RMSNormalization")
def normalization_of_skip(node: Node, rewriter: Rewriter) -> Replacement:
    """LayerNormalization(the sum of SkipLayerNormalization(x, r)) = SkipLayerNormalization(x, r)."""
    total = node.inputs[0]
    skip = None if total is None else total.producer()
    if total is None or skip is None or not is_contrib(skip, SKIPPING[node.op_type]):
        return NoMatch("no sum of a normalization that was selected", node.name)
    same = skip.outputs[SUM] is total and skip.inputs[2] is node.inputs[1]
    shift = node.inputs[2] if len(node.inputs) > 2 else None
    given = skip.inputs[3] if len(skip.inputs) > 3 and is_op(node, "LayerNormalization") else None
    epsilon = float(attribute(node, "epsilon", 1e-5))
    if not same or shift is not given or epsilon != float(attribute(skip, "epsilon", 1e-12)):
        return NoMatch("the normalization that was selected is another one", node.name)
    return skip.outputs[0]


def _normalization_of(total: Value) -> Node | NoMatch:
    """The one normalization over the last axis of `total`, with constant weights."""
    if len(total.uses()) > MAX_USERS:
        return NoMatch("the sum has many users", total.name)
    found = [use.node for use in total.uses() if use.idx == 0 and use.node.op_type in SKIPPING]
    found = [node for node in found if is_op(node, *SKIPPING) and node.graph is total.producer().graph]  # type: ignore[union-attr]
    if len(found) != 1:
        return NoMatch("no normalization, or several, of the sum", total.name)
    (node,) = found
    if attribute(node, "axis", -1) not in (-1, 2) or attribute(node, "stash_type", 1) != 1:
        return NoMatch("it normalizes more than the last axis, or not in float32", node.name)
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        return NoMatch("its mean or deviation is used", node.name)
    hidden = None if total.shape is None or len(total.shape) != 3 else total.shape.dims[2]
    for weight in node.inputs[1:3]:
        if weight is None:
            continue
        if (
            constant_tensor(weight) is None
            or static_shape(weight) != (hidden,)
            or weight.dtype != total.dtype
        ):
            return NoMatch("a weight is no constant vector as long as the last axis", weight.name)
    return node


def _with_bias(node: Node, a: Value, b: Value) -> tuple[Value, Value, Value | None]:
    """The operands of the sum `node` with the constant vector that is added to one of them taken out."""
    for biased, rest in ((a, b), (b, a)):
        inner = produced_by(biased, "Add")
        if inner is None or inner.graph is not node.graph or only_use(biased) is not node:
            continue
        for value, bias in (inner.inputs, inner.inputs[::-1]):
            if value is None or bias is None or constant_tensor(bias) is None or rank(bias) != 1:
                continue
            if same_shape(value.shape, rest.shape) and static_shape(bias) == (_last(rest),):
                return value, rest, bias
    return a, b, None


def _last(value: Value) -> object:
    return None if value.shape is None else value.shape.dims[-1]


@dataclasses.dataclass(frozen=True)
class SelectSkipNormalization(RulePass):
    """Choose ONNX Runtime's SkipLayerNormalization for a residual sum that is normalized.

    given:  float[1, 4, 8] x; float[1, 4, 8] r;
            bias = float[8] 0.5; scale = float[8] 2.0; shift = float[8] 1.0
    before: y = LayerNormalization<epsilon = 0.5>(Add(Add(x, bias), r), scale, shift)
    after:  y = com.microsoft.SkipLayerNormalization<epsilon = 0.5>(x, r, scale, shift, bias)

    So for RMSNormalization, SkipSimplifiedLayerNormalization. The operands have three axes and one shape, the
    weights are constants as long as the last axis. Where the sum is used elsewhere, it is taken from there.
    On a CPU the operator is slower than its parts: `select-residual-sum` serves that.

    Options:
        provider: whose kernels are asked for, cpu or cuda.

    Spec: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.SkipLayerNormalization
    """

    provider: str = "cuda"

    exactness = Exactness.REASSOCIATES
    rules = (normalized_residual, normalization_of_skip)

    def run(self, model: Model) -> Changes:
        """Apply the rules where the provider has the kernel; leave out sums that nobody takes."""
        changes = select(model, self.rules, self.provider)
        for node in model.graph.all_nodes():
            unused = is_contrib(node, *SKIPPING.values()) and len(node.outputs) > 1
            if unused and not any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
                node.resize_outputs(1)
        return changes
