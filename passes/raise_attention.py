"""raise-attention: scaled dot-product attention written out becomes Attention."""

from __future__ import annotations

import dataclasses

import numpy as np

from graphopt.ir import Model, Node, Value
from graphopt.ir.query import attribute, same_shape
from graphopt.passes._attention import build_attention, match_attention
from graphopt.passes._attention_layout import HEADS_FIRST, heads_last, merged, repeated_heads
from graphopt.passes._matching import attributes_of, made_for, produced_by
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


@rule("Attention")
def grouped(node: Node, rewriter: Rewriter) -> Replacement:
    """Attention(q, each head of k n times, each of v n times) = Attention(q, k, v): heads in groups."""
    if not _is_plain(node):
        return NoMatch("it has a cache, or its scores are used", node.name)
    if attribute(node, "kv_num_heads") is not None:
        return NoMatch("its heads are not an axis", node.name)
    key, value = repeated_heads(node.inputs[1]), repeated_heads(node.inputs[2])
    if key is None or value is None:
        return NoMatch("the heads of key and value are not repeated", node.name)
    if key[1] != value[1]:
        return NoMatch("the heads of key and value are not repeated as often", node.name)
    return rewriter.op("Attention", node.inputs[0], key[0], value[0], *node.inputs[3:], **attributes_of(node))


@rule("Transpose")
def merged_heads(node: Node, rewriter: Rewriter) -> Replacement:
    """Transpose(Attention(Transpose(q), Transpose(k), Transpose(v))) = Attention(q, k, v) on merged heads."""
    found = made_for(node.inputs[0], node, "Attention")
    if isinstance(found, NoMatch):
        return found
    if tuple(attribute(node, "perm") or ()) != HEADS_FIRST:
        return NoMatch("its heads are not moved behind the sequence", node.name)
    if not _is_plain(found) or attribute(found, "q_num_heads") is not None:
        return NoMatch("it has a cache, or its scores are used", found.name)
    split = [heads_last(value) for value in found.inputs[:3]]
    if any(value is None for value in split):
        return NoMatch("query, key and value do not all come with their heads moved forward", found.name)
    query, key, value = (v for v in split if v is not None)
    heads, kv_heads = _dim(query, 2), _dim(key, 2)
    flat = rewriter.op(
        "Attention",
        *(merged(v, rewriter) for v in (query, key, value)),
        *found.inputs[3:],
        stem=found.name,
        **attributes_of(found),
        q_num_heads=heads,
        kv_num_heads=kv_heads,
    )
    shape = rewriter.const(np.array([0, 0, heads, _dim(value, 3)], np.int64), "heads")
    return rewriter.op("Reshape", flat, shape)


@rule("Reshape")
def heads_kept_merged(node: Node, rewriter: Rewriter) -> Replacement:
    """Reshape(Reshape(Attention(q, k, v), heads split off), merged) = Attention(q, k, v)."""
    inner = produced_by(node.inputs[0], "Reshape")
    flat = None if inner is None else inner.inputs[0]
    if produced_by(flat, "Attention") is None or flat is None:
        return NoMatch("no Attention whose heads are split off", node.name)
    if not same_shape(flat.shape, node.outputs[0].shape):
        return NoMatch("the heads are not merged again", node.name)
    return flat


def _is_plain(node: Node) -> bool:
    """Whether `node` has no cache and nobody looks at more than its result."""
    cached = any(v is not None for v in node.inputs[4:])
    return not cached and not any(v.uses() or v.is_graph_output() for v in node.outputs[1:])


def _dim(value: Value, axis: int) -> int:
    assert value.shape is not None
    dim = value.shape.dims[axis]
    assert isinstance(dim, int)
    return dim


@dataclasses.dataclass(frozen=True)
class RaiseAttention(RulePass):
    """Recognise attention that is written out in products and Softmax.

    before: s = MatMul(q, Transpose<perm = [0, 1, 3, 2]>(k));  w = Softmax(Add(Mul(s, c), mask))
            y = MatMul(w, v)
    after:  y = Attention<scale = c>(q, k, v, mask)

    Where heads are split off [batch, sequence, hidden] by Reshape and Transpose, and merged again, the
    operator takes and gives that form; heads of k and v that are repeated for groups of q's are not.
    Softmax is over the last axis, nothing in between is used elsewhere, and batch and head sizes are known
    to be equal. Masks stay what they are, except where they may close all keys of a query: there the
    operator and Softmax differ, and the mask is changed so that they do not.

    Options:
        upgrade: raise the model's opset to 23, where Attention is, if there is one to raise.

    Spec: https://onnx.ai/onnx/operators/onnx__Attention.html (since version 23)
    """

    upgrade: bool = False

    exactness = Exactness.REASSOCIATES
    rules = (attention, grouped, merged_heads, heads_kept_merged)

    def run(self, model: Model) -> Changes:
        """Apply the rules, after an upgrade of the opset if that is wanted and of use."""
        if self.upgrade:
            upgrade_for(model, NEEDED_OPSET, lambda n: not isinstance(match_attention(n), NoMatch))
        return apply_rules(model, self.rules)
