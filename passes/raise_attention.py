"""raise-attention: scaled dot-product attention written out becomes Attention."""

from __future__ import annotations

import dataclasses

import numpy as np

from graphopt.ir import Model, Node, Value
from graphopt.ir.query import attribute, is_op, same_dim, same_shape
from graphopt.passes._attention import build_attention, match_attention
from graphopt.passes._attention_layout import (
    HEADS_FIRST,
    flattened,
    heads_last,
    merged,
    near_softmax,
    repeated_heads,
    unflattened,
)
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


@rule("MatMul")
def flat_product(node: Node, rewriter: Rewriter) -> Replacement:
    """[b * h, m, k] [b * h, k, n] = [b, h, m, k] [b, h, k, n] as [b * h, m, n]."""
    left, right = unflattened(node.inputs[0]), unflattened(node.inputs[1])
    if left is None or right is None or left.shape is None or right.shape is None:
        return NoMatch("batch and heads are not put into one axis", node.name)
    if not all(same_dim(left.shape.dims[axis], right.shape.dims[axis]) for axis in (0, 1)):
        return NoMatch("batch and heads of the operands are not known to be equal", node.name)
    if not near_softmax(node):
        return NoMatch("no Softmax near", node.name)
    return flattened(rewriter.op("MatMul", left, right), rewriter)


@rule("Transpose")
def flat_transpose(node: Node, rewriter: Rewriter) -> Replacement:
    """Transpose(k as [b * h, n, k]) = Transpose(k [b, h, n, k]) as [b * h, k, n], on the way to Softmax."""
    source = unflattened(node.inputs[0])
    if source is None or tuple(attribute(node, "perm") or ()) != (0, 2, 1):
        return NoMatch("batch and heads are not put into one axis", node.name)
    if not near_softmax(node):
        return NoMatch("no Softmax near", node.name)
    return flattened(rewriter.op("Transpose", source, perm=(0, 1, 3, 2)), rewriter)


@rule("Mul", "Div", "Add", "Softmax")
def flat_scores(node: Node, rewriter: Rewriter) -> Replacement:
    """f(s as [b * h, m, n]) = f(s [b, h, m, n]) as [b * h, m, n], for what is done to scores."""
    for position, (value, other) in enumerate(_operands(node)):
        reshape = made_for(value, node, "Reshape")
        scores = None if isinstance(reshape, NoMatch) else unflattened(value)
        if scores is None or not near_softmax(node):
            continue
        if is_op(node, "Softmax"):
            if int(attribute(node, "axis", -1)) not in (-1, 2):
                return NoMatch("Softmax is not over the last axis", node.name)
            return flattened(rewriter.op("Softmax", scores, axis=-1), rewriter)
        lifted = _lifted(other, value, scores, rewriter)
        if lifted is None:
            return NoMatch("the other operand is not known to fit batch and heads", node.name)
        operands = (scores, lifted) if position == 0 else (lifted, scores)
        return flattened(rewriter.op(node.op_type, *operands), rewriter)
    return NoMatch("no scores with batch and heads in one axis", node.name)


def _operands(node: Node) -> list[tuple[Value | None, Value | None]]:
    """Each operand of `node` that may be scores, with the other one."""
    if len(node.inputs) < 2:
        return [(node.inputs[0], None)]
    first, second = node.inputs
    return [(first, second)] if is_op(node, "Div") else [(first, second), (second, first)]


def _lifted(other: Value | None, value: Value | None, scores: Value, rewriter: Rewriter) -> Value | None:
    """What goes with [batch * head, m, n] in the form that goes with [batch, head, m, n]."""
    if other is None or value is None or other.shape is None or value.shape is None or scores.shape is None:
        return None
    own, flat, dims = other.shape.dims, value.shape.dims, scores.shape.dims
    if len(own) > 3 or any(d not in (1, e) for d, e in zip(reversed(own), reversed(flat[1:]), strict=False)):
        return None
    if len(own) < 3 or own[0] == 1:
        return other
    sizes = [d if isinstance(d, int) else -1 for d in (*dims[:2], *own[1:])]
    if not same_dim(own[0], flat[0]) or sizes.count(-1) > 1:
        return None
    return rewriter.op("Reshape", other, rewriter.const(np.array(sizes, np.int64), "heads"))


FLAT = (flat_product, flat_transpose, flat_scores)
"""Rules that give batch and heads axes of their own again, at any opset."""


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
    if (
        flat is None
        or produced_by(flat, "Attention", "Add", "Mul", "Div", "Softmax", "MatMul", "Transpose") is None
    ):
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

    given:  float[B, 2, 8, 4] q; float[B, 2, 8, 4] k; float[B, 2, 8, 4] v; bool[8, 8] open;
            mask = Where(open, 0.0, -10000.0); opset 23
    before: s = Mul(MatMul(q, Transpose<perm = [0, 1, 3, 2]>(k)), 0.25); y = MatMul(Softmax(Add(s, mask)), v)
    after:  y = Attention<scale = 0.25>(q, k, v, mask)

    Where heads are split off [batch, sequence, hidden] by Reshape and Transpose, and merged again, the
    operator takes and gives that form; heads of k and v that are repeated for groups of q's are not.
    Softmax is over the last axis, nothing in between is used elsewhere, and batch and head sizes are known
    to be equal. Masks stay what they are, except where they may close all keys of a query: there the
    operator and Softmax differ, and the mask is changed so that they do not.

    Options:
        upgrade: raise the model's opset to 23, where Attention is, if there is one to raise.
        provider: cpu or cuda: whose kernels are not to be lost by that.

    Spec: https://onnx.ai/onnx/operators/onnx__Attention.html (since version 23)
    """

    upgrade: bool = False
    provider: str = "cpu"

    exactness = Exactness.REASSOCIATES
    rules = (attention, grouped, merged_heads, heads_kept_merged, *FLAT)

    def run(self, model: Model) -> Changes:
        """Apply the rules, after an upgrade of the opset if that is wanted and of use."""
        opset = model.opset_imports.get("", 1)
        if opset >= NEEDED_OPSET:
            return apply_rules(model, self.rules)
        if not self.upgrade:
            return apply_rules(model, (attention,))
        flat = apply_rules(model, (*FLAT, heads_kept_merged))
        upgrade_for(model, NEEDED_OPSET, lambda n: not isinstance(match_attention(n), NoMatch), self.provider)
        changes = apply_rules(model, self.rules)
        changes.counts.update(flat.counts)
        return changes
