"""select-multi-head-attention: Attention becomes ONNX Runtime's MultiHeadAttention or GroupQueryAttention."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from graphopt.ir import Model, Node, SymbolicDim, Value
from graphopt.ir.query import attribute, rank, same_dim, static_shape
from graphopt.passes._attention_masks import bounds, every_row_is_open
from graphopt.passes._onnxruntime import DOMAIN, select
from graphopt.transform import Changes, Exactness, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

HEAD_MULTIPLE = 8
"""GroupQueryAttention checks that heads have a multiple of so many numbers."""


@rule("Attention")
def equal_heads(node: Node, rewriter: Rewriter) -> Replacement:
    """Attention(q, k, v, mask) = com.microsoft.MultiHeadAttention(q, k, v, attention_bias=mask)."""
    heads = attribute(node, "q_num_heads")
    refusal = _other_form(node)
    if refusal is not None:
        return refusal
    if heads != attribute(node, "kv_num_heads"):
        return NoMatch("heads come in groups", node.name)
    query, key, value = node.inputs[:3]
    assert query is not None
    assert key is not None
    assert value is not None
    causal = bool(attribute(node, "is_causal", 0))
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    if causal and (mask is not None or not same_dim(_dim(query, 1), _dim(key, 1))):
        return NoMatch("it is causal with a mask, or over keys of another number than queries", node.name)
    if mask is not None:
        refusal = _other_mask(mask, query, key, heads)
        if refusal is not None:
            return refusal
    return rewriter.op(
        "MultiHeadAttention",
        query,
        key,
        value,
        *(() if mask is None else (None, None, mask)),
        domain=DOMAIN,
        num_heads=heads,
        unidirectional=1 if causal else None,
        scale=attribute(node, "scale"),
    )


@rule("Attention")
def grouped_heads(node: Node, rewriter: Rewriter) -> Replacement:
    """Causal Attention whose heads share keys = com.microsoft.GroupQueryAttention(q, k, v, lengths)."""
    refusal = _other_form(node)
    if refusal is not None:
        return refusal
    heads, groups = attribute(node, "q_num_heads"), attribute(node, "kv_num_heads")
    query, key, _ = node.inputs[:3]
    shape = static_shape(query)
    if heads == groups:
        return NoMatch("every head has keys of its own", node.name)
    if not attribute(node, "is_causal", 0) or (len(node.inputs) > 3 and node.inputs[3] is not None):
        return NoMatch("it is not causal, or has a mask", node.name)
    if shape is None or (static_shape(key) or (0, 0))[1] != shape[1]:
        return NoMatch("batch and sequence are not known, or keys are more than queries", node.name)
    batch, sequence, hidden = shape
    if hidden % heads or (hidden // heads) % HEAD_MULTIPLE:
        return NoMatch(f"heads are no multiple of {HEAD_MULTIPLE} long", node.name)
    lengths = rewriter.const(np.full(batch, sequence - 1, np.int32), "lengths")
    total = rewriter.const(np.array(sequence, np.int32), "total")
    made = rewriter.ops(
        "GroupQueryAttention",
        *node.inputs[:3],
        None,
        None,
        lengths,
        total,
        outputs=3,
        domain=DOMAIN,
        num_heads=heads,
        kv_num_heads=groups,
        scale=attribute(node, "scale"),
    )
    return made[0]


def _other_form(node: Node) -> NoMatch | None:
    """What `node` does that neither operator does, or what is not known of it."""
    if attribute(node, "q_num_heads") is None or any(rank(v) != 3 for v in node.inputs[:3]):
        return NoMatch("heads are not merged into the last axis", node.name)
    if any(v is not None for v in node.inputs[4:]) or attribute(node, "softcap", 0.0):
        return NoMatch("it has a cache, or its scores are capped", node.name)
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        return NoMatch("its cache or its scores are used", node.name)
    query, key, value = node.inputs[:3]
    if query is None or key is None or value is None or query.dtype != key.dtype or key.dtype != value.dtype:
        return NoMatch("operands of several types", node.name)
    if not (same_dim(_dim(query, 0), _dim(key, 0)) and same_dim(_dim(key, 0), _dim(value, 0))):
        return NoMatch("operands are not known to be of one batch", node.name)
    sizes = [_dim(v, 2) for v in (query, key, value)]
    heads = [attribute(node, name) for name in ("q_num_heads", "kv_num_heads", "kv_num_heads")]
    if not all(isinstance(size, int) for size in sizes):
        return NoMatch("the size of a head is not known", node.name)
    if len({int(str(size)) // int(count) for size, count in zip(sizes, heads, strict=True)}) != 1:
        return NoMatch("heads of queries, keys and values differ in size", node.name)
    return None


def _other_mask(mask: Value, query: Value, key: Value, heads: int) -> NoMatch | None:
    """Why `mask` cannot be added to the scores as it is, or None."""
    if mask.dtype != query.dtype or mask.shape is None or len(mask.shape) != 4:
        return NoMatch("the mask is not an added one of four axes", mask.name)
    first, second, third, fourth = mask.shape.dims
    fits = (first == 1 or same_dim(first, _dim(query, 0))) and second in (1, heads)
    if not (fits and same_dim(third, _dim(query, 1)) and same_dim(fourth, _dim(key, 1))):
        return NoMatch("the mask does not span queries and keys", mask.name)
    if not every_row_is_open(mask):
        limits = bounds(mask)
        if limits is None or limits[0] == -math.inf:
            # The standard operator gives zeros where all keys are closed, this one NaN.
            return NoMatch("the mask may close all keys by -inf", mask.name)
    return None


def _dim(value: Value | None, axis: int) -> int | SymbolicDim:
    assert value is not None
    assert value.shape is not None
    return value.shape.dims[axis]


@dataclasses.dataclass(frozen=True)
class SelectMultiHeadAttention(RulePass):
    """Choose ONNX Runtime's MultiHeadAttention, or GroupQueryAttention, for Attention.

    given:  float[B, 4, 64] q; float[B, 6, 64] k; float[B, 6, 64] v; opset 23
    before: y = Attention<q_num_heads = 2, kv_num_heads = 2>(q, k, v)
    after:  y = com.microsoft.MultiHeadAttention<num_heads = 2>(q, k, v)

    Heads are merged into the last axis and of one known size, there is no cache, and scores are not capped. A
    mask is added, of four axes, and leaves every query a key. Where heads share keys, the operator is causal,
    the shape fixed and heads are a multiple of 8 long: what GroupQueryAttention's kernels check.

    Options:
        provider: whose kernels are asked for, cpu or cuda. CUDA's for heads that share keys are of 16-bit
            types.

    Spec: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MultiHeadAttention
    """

    provider: str = "cuda"

    exactness = Exactness.REASSOCIATES
    rules = (equal_heads, grouped_heads)

    def run(self, model: Model) -> Changes:
        """Apply the rules where the provider has the kernel."""
        return select(model, self.rules, self.provider)
