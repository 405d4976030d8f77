"""select-attention: self-attention with its three projections becomes ONNX Runtime's packed Attention."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from graphopt.ir import Model, Node, Value
from graphopt.ir.query import attribute, constant_tensor, is_op, only_use, rank, same_dim, static_shape
from graphopt.passes._attention_masks import bounds, every_row_is_open
from graphopt.passes._matching import numbers, numpy_dtype, split_constant
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
    projections = _split(node) or _separate(node)
    if isinstance(projections, NoMatch):
        return projections
    source = projections[0].source
    size = sum((static_shape(p.weight) or (0, 0))[1] for p in projections)
    if rank(source) != 3 or size % (3 * heads):
        return NoMatch("heads do not divide the projections", source.name)
    if size // (3 * heads) < MIN_HEAD_SIZE:
        return NoMatch(f"heads are smaller than {MIN_HEAD_SIZE}", node.name)
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    causal = bool(attribute(node, "is_causal", 0))
    if mask is not None and (causal or not _fits(mask, source, heads)):
        return NoMatch("the mask is not an added one of four axes, as long as the sequence", mask.name)
    if mask is not None and not every_row_is_open(mask):
        limits = bounds(mask)
        if limits is None or limits[0] == -math.inf:
            # The standard operator gives zeros where all keys are closed, this one NaN.
            return NoMatch("the mask may close all keys by -inf", mask.name)
    return rewriter.op(
        "Attention",
        source,
        *_packed(projections, rewriter),
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


def _split(node: Node) -> list[_Projection] | None:
    """The one projection that is split in three for `node` alone, or None."""
    first = node.inputs[0]
    split = None if first is None else first.producer()
    if split is None or not is_op(split, "Split") or split.graph is not node.graph:
        return None
    if tuple(split.outputs) != tuple(node.inputs[:3]) or any(only_use(v) is not node for v in split.outputs):
        return None
    sizes = [None if v.shape is None else v.shape.dims[-1] for v in split.outputs]
    if (
        int(attribute(split, "axis", 0)) not in (-1, 2)
        or len(set(sizes)) != 1
        or not isinstance(sizes[0], int)
    ):
        return None
    found = _projection(split.inputs[0], split)
    return None if isinstance(found, NoMatch) else [found]


def _separate(node: Node) -> list[_Projection] | NoMatch:
    """Three projections of one value, for `node` alone."""
    found = [_projection(value, node) for value in node.inputs[:3]]
    projections = [p for p in found if isinstance(p, _Projection)]
    if len(projections) < 3:
        return next(p for p in found if isinstance(p, NoMatch))
    source = projections[0].source
    if any(p.source is not source for p in projections):
        return NoMatch("query, key and value are not made of one value", source.name)
    if len({static_shape(p.weight) for p in projections}) != 1:
        return NoMatch("the projections are not of one size", source.name)
    for p in projections:
        if len(p.weight.uses()) != 1:
            return NoMatch("the matrix is used elsewhere: it would be stored twice", p.weight.name)
    return projections


def _packed(projections: list[_Projection], rewriter: Rewriter) -> tuple[Value, Value]:
    """The matrices side by side, and the biases; where there is none, zeros."""
    if len(projections) == 1 and projections[0].bias is not None:
        return projections[0].weight, projections[0].bias
    biases = [numbers(p.bias) if p.bias is not None else _zeros(p.weight) for p in projections]
    bias = rewriter.const(np.concatenate([b for b in biases if b is not None]), "bias")
    if len(projections) == 1:
        return projections[0].weight, bias
    weights = [numbers(p.weight) for p in projections]
    return rewriter.const(np.concatenate([w for w in weights if w is not None], axis=1), "weight"), bias


def _zeros(weight: Value) -> np.ndarray:
    """A bias that adds nothing to a product with `weight`."""
    shape, dtype = static_shape(weight), numpy_dtype(weight)
    assert shape is not None
    assert dtype is not None
    return np.zeros(shape[1], dtype)


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


@dataclasses.dataclass(frozen=True)
class SelectAttention(RulePass):
    """Make one com.microsoft.Attention of self-attention and the projections before it.

    given:  float[1, 4, 64] x; opset 23
    before: q = Add(MatMul(x, float[64, 64] 0.5), float[64] 1.0);
            k = Add(MatMul(x, float[64, 64] 0.5), float[64] 1.0);
            v = Add(MatMul(x, float[64, 64] 0.5), float[64] 1.0);
            y = Attention<q_num_heads = 2, kv_num_heads = 2>(q, k, v)
    after:  y = com.microsoft.Attention<num_heads = 2>(x, float[64, 192] 0.5, float[192] 1.0)

    Weights are constant, of one size and used here alone; heads have at least 32 numbers; there is no
    cache; the mask, if there is one, is added, of four axes, and spans the whole sequence twice.

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
