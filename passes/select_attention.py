"""select-attention: self-attention with its three projections becomes ONNX Runtime's packed Attention."""

from __future__ import annotations

import dataclasses

import numpy as np

from graphopt.ir import Model, Node, Value
from graphopt.ir.query import attribute, constant_tensor, is_op, only_use, rank, same_dim, static_shape
from graphopt.passes._matching import numbers, split_constant
from graphopt.passes._onnxruntime import DOMAIN, select
from graphopt.transform import Changes, Exactness, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

MIN_HEAD_SIZE = 32
"""The kernel multiplies head by head: below this size one product for all heads is faster."""


@dataclasses.dataclass(frozen=True)
class _Projection:
    """``source @ weight + bias``."""

    source: Value
    weight: Value
    bias: Value | None


@rule("Attention")
def attention_with_projections(node: Node, rewriter: Rewriter) -> Replacement:
    """Attention(x Wq + bq, x Wk + bk, x Wv + bv) = com.microsoft.Attention(x, [Wq Wk Wv], [bq bk bv])."""
    heads = attribute(node, "q_num_heads")
    refusal = _other_form(node, heads)
    if refusal is not None:
        return refusal
    found = [_projection(value, node) for value in node.inputs[:3]]
    projections = [p for p in found if isinstance(p, _Projection)]
    if len(projections) < 3:
        return next(p for p in found if isinstance(p, NoMatch))
    source = projections[0].source
    if any(p.source is not source for p in projections):
        return NoMatch("query, key and value are not made of one value", source.name)
    sizes = [static_shape(p.weight) for p in projections]
    if len(set(sizes)) != 1 or sizes[0] is None or sizes[0][1] % heads or rank(source) != 3:
        return NoMatch("the projections are not of one size", source.name)
    if sizes[0][1] // heads < MIN_HEAD_SIZE:
        return NoMatch(f"heads are smaller than {MIN_HEAD_SIZE}", node.name)
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    causal = bool(attribute(node, "is_causal", 0))
    if mask is not None and (causal or not _fits(mask, source, heads)):
        return NoMatch("the mask is not an added one of four axes, as long as the sequence", mask.name)
    weight, bias = _packed(projections)
    return rewriter.op(
        "Attention",
        source,
        rewriter.const(weight, "weight"),
        rewriter.const(bias, "bias"),
        None,
        None,
        mask,
        domain=DOMAIN,
        num_heads=heads,
        unidirectional=1 if causal else None,
        scale=attribute(node, "scale"),
    )


def _other_form(node: Node, heads: int | None) -> NoMatch | None:
    """What `node` does that the packed operator does not."""
    if heads is None or heads != attribute(node, "kv_num_heads"):
        return NoMatch("heads are not merged into the last axis, or come in groups", node.name)
    if any(v is not None for v in node.inputs[4:]) or attribute(node, "softcap", 0.0):
        return NoMatch("it has a cache, or its scores are capped", node.name)
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        return NoMatch("its cache or its scores are used", node.name)
    return None


def _projection(value: Value | None, user: Node) -> _Projection | NoMatch:
    """`value`, made for `user` alone, as a product with a constant matrix and perhaps a constant bias."""
    node = None if value is None else value.producer()
    if value is None or node is None or node.graph is not user.graph or only_use(value) is not user:
        return NoMatch("an operand is not made for this alone", None if value is None else value.name)
    bias = None
    if is_op(node, "Add"):
        operands = split_constant(node)
        if operands is None or rank(operands[1]) != 1:
            return NoMatch("no constant vector is added to the projection", node.name)
        product, bias = operands
        above = product.producer()
        if above is None or above.graph is not user.graph or only_use(product) is not node:
            return NoMatch("the projection is used elsewhere", product.name)
        node = above
    source, weight = node.inputs[:2] if is_op(node, "MatMul") else (None, None)
    if source is None or weight is None or constant_tensor(weight) is None or rank(weight) != 2:
        return NoMatch("no product with a constant matrix", node.name)
    if only_use(weight) is not node:
        return NoMatch("the matrix is used elsewhere: it would be stored twice", weight.name)
    if bias is not None and static_shape(bias) != (static_shape(weight) or (0, 0))[1:]:
        return NoMatch("the bias is not as long as the projection", bias.name)
    return _Projection(source, weight, bias)


def _fits(mask: Value, source: Value, heads: int) -> bool:
    """Whether `mask` is of float and of [batch or 1, heads or 1, sequence, sequence]."""
    if mask.dtype != source.dtype or mask.shape is None or source.shape is None or len(mask.shape) != 4:
        return False
    batch, sequence, _ = source.shape.dims
    first, second, third, fourth = mask.shape.dims
    return (
        (first == 1 or same_dim(first, batch))
        and second in (1, heads)
        and same_dim(third, sequence)
        and same_dim(fourth, sequence)
    )


def _packed(projections: list[_Projection]) -> tuple[np.ndarray, np.ndarray]:
    """The matrices side by side, and the biases; where there is none, zeros."""
    weights = [numbers(p.weight) for p in projections]
    kept = [w for w in weights if w is not None]
    biases = [
        numbers(p.bias) if p.bias is not None else np.zeros(w.shape[1], w.dtype)
        for p, w in zip(projections, kept, strict=True)
    ]
    return np.concatenate(kept, axis=1), np.concatenate([b for b in biases if b is not None])


@dataclasses.dataclass(frozen=True)
class SelectAttention(RulePass):
    """Make one com.microsoft.Attention of self-attention and the projections before it.

    before: q = Add(MatMul(x, Wq), bq);  k = Add(MatMul(x, Wk), bk);  v = Add(MatMul(x, Wv), bv)
            y = Attention<q_num_heads = 8, kv_num_heads = 8>(q, k, v, mask)
    after:  y = com.microsoft.Attention<num_heads = 8>(x, Wqkv, bqkv, , , mask)

    Weights are constant, of one size and used here alone; there is no cache; the mask, if there is one, is
    added, of four axes, and spans the whole sequence twice.

    Options:
        provider: whose kernels are asked for, cpu or cuda.

    Spec: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.Attention
    """

    provider: str = "cpu"

    exactness = Exactness.REASSOCIATES
    rules = (attention_with_projections,)

    def run(self, model: Model) -> Changes:
        """Apply the rule where the provider has the kernel."""
        return select(model, self.rules, self.provider)
