"""raise-rotary-embedding: rotations of pairs of features by the token's position become RotaryEmbedding."""

from __future__ import annotations

import dataclasses

import numpy as np

from graphopt.ir import Node
from graphopt.ir.query import attribute, is_op, only_use, rank
from graphopt.passes._attention_layout import HEADS_FIRST, heads_last, merged
from graphopt.passes._matching import attributes_of, leaves_the_pattern, made_for
from graphopt.passes._rotary import cache, match_rotation, part_of
from graphopt.passes._upgrading import UpgradingPass
from graphopt.transform import Exactness, NoMatch, Rewriter, rule
from graphopt.transform.rule import Replacement

NEEDED_OPSET = 23
MAX_SOURCES = 64


@rule("Add")
def rotation(node: Node, rewriter: Rewriter) -> Replacement:
    """x * [c, c] + [-x₂, x₁] * [s, s] = RotaryEmbedding(x, c, s), for halves or neighbours x₁ and x₂."""
    found = match_rotation(node)
    if isinstance(found, NoMatch):
        return found
    if rewriter.opset < NEEDED_OPSET:
        return NoMatch(f"needs opset {NEEDED_OPSET}")
    outer = rewriter.model.graph
    sources = [*(outer.inputs[:MAX_SOURCES] if node.graph is outer else ()), found.x]
    cos, sin = (cache(value, found, sources, rewriter) for value in (found.cos, found.sin))
    if isinstance(cos, NoMatch) or isinstance(sin, NoMatch):
        return cos if isinstance(cos, NoMatch) else sin
    return rewriter.op("RotaryEmbedding", found.x, cos, sin, interleaved=int(found.interleaved))


@rule("Concat")
def part_of_a_head(node: Node, rewriter: Rewriter) -> Replacement:
    """Concat(RotaryEmbedding(x[..., :r]), x[..., r:]) = RotaryEmbedding(x, rotary_embedding_dim=r)."""
    count = rank(node.outputs[0])
    if count != 4 or len(node.inputs) != 2 or int(attribute(node, "axis", 0)) % 4 != 3:
        return NoMatch("not two parts of the last of four axes")
    rotary = made_for(node.inputs[0], node, "RotaryEmbedding")
    if isinstance(rotary, NoMatch):
        return rotary
    if attribute(rotary, "rotary_embedding_dim", 0) or attribute(rotary, "num_heads") is not None:
        return NoMatch("a part of the part is rotated", rotary.name)
    turned, rest = part_of(rotary.inputs[0]), part_of(node.inputs[1])
    if turned is None or rest is None or turned.x is not rest.x:
        return NoMatch("not two parts of one value", node.name)
    size = rest.x.shape.dims[-1] if rest.x.shape is not None else None
    whole = turned.start == 0 and turned.stop == rest.start and rest.stop == size
    if not whole or turned.step != 1 or rest.step != 1:
        return NoMatch("the parts are not the beginning and the rest", node.name)
    if (outside := leaves_the_pattern([rotary, turned.node, rest.node], node)) is not None:
        return NoMatch("a part is used elsewhere", outside.name)
    attributes = {**attributes_of(rotary), "rotary_embedding_dim": turned.stop}
    return rewriter.op("RotaryEmbedding", turned.x, *rotary.inputs[1:], stem=rotary.name, **attributes)


@rule("RotaryEmbedding")
def merged_heads(node: Node, rewriter: Rewriter) -> Replacement:
    """RotaryEmbedding(Transpose(x)) = Transpose(RotaryEmbedding(x)) on merged heads."""
    transposed = node.inputs[0]
    if transposed is None or attribute(node, "num_heads") is not None:
        return NoMatch("its heads are no axis", node.name)
    split = heads_last(transposed)
    if split is None or split.shape is None:
        return NoMatch("the heads are not moved forward", node.name)
    if only_use(transposed) is not node:
        return NoMatch("the input is used elsewhere", transposed.name)
    heads, size = split.shape.dims[2:]
    attributes = {**attributes_of(node), "num_heads": heads}
    flat = rewriter.op(
        "RotaryEmbedding", merged(split, rewriter), *node.inputs[1:], stem=node.name, **attributes
    )
    shape = rewriter.const(np.array([0, 0, heads, size], np.int64), "heads")
    return rewriter.op("Transpose", rewriter.op("Reshape", flat, shape), perm=HEADS_FIRST)


@dataclasses.dataclass(frozen=True)
class RaiseRotaryEmbedding(UpgradingPass):
    """Recognise rotary position embeddings of halves or neighbours, of whole heads or a part of them.

    given:  float[1, 2, 3, 4] x; float[3, 2] f; opset 23
    before: t = Concat<axis = -1>(Neg(Slice(x, [2], [4], [3])), Slice(x, [0], [2], [3]));
            e = Concat<axis = -1>(f, f); y = Add(Mul(x, Cos(e)), Mul(t, Sin(e)))
    after:  y = RotaryEmbedding(x, Unsqueeze(Cos(f), [0]), Unsqueeze(Sin(f), [0]))

    x is [batch, head, sequence, d], or heads moved forward from [batch, sequence, head * d]. The caches
    are one row for each position and provably hold each angle twice: the rest is computed once.

    Options:
        upgrade: raise the model's opset to 23, where RotaryEmbedding is, if there is one to raise.

    Spec: https://onnx.ai/onnx/operators/onnx__RotaryEmbedding.html (since version 23)
    """

    needed_opset = NEEDED_OPSET
    exactness = Exactness.REASSOCIATES
    rules = (rotation, part_of_a_head, merged_heads)

    @staticmethod
    def matches(node: Node) -> bool:
        """Whether a rotary embedding is written out here."""
        return is_op(node, "Add") and not isinstance(match_rotation(node), NoMatch)
