"""shrink-masks: masks of attention stay as small as what they are made of."""

from __future__ import annotations

import dataclasses

from graphopt.ir import Node, Value
from graphopt.ir.query import constant, element_count, is_op, scalar, static_shape
from graphopt.passes._attention_masks import MAX_CONSTANT_ELEMENTS
from graphopt.passes._matching import attributes_of
from graphopt.transform import NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

MASK = 3
MAX_DEPTH = 8


@rule("Attention")
def broadcast_mask(node: Node, rewriter: Rewriter) -> Replacement:
    """Attention(q, k, v, Expand(m)) = Attention(q, k, v, m), through what keeps elements apart."""
    mask = node.inputs[MASK] if len(node.inputs) > MASK else None
    shape = static_shape(mask)
    if mask is None or shape is None or len(shape) < 2:
        return NoMatch("it has no mask of known shape")
    if any(v.uses() or v.is_graph_output() for v in node.outputs[3:]):
        return NoMatch("the scores are an output, too")
    found = _smaller(mask, MAX_DEPTH)
    small = static_shape(found)
    if found is mask or small is None or len(small) != len(shape) or small[-1] != shape[-1]:
        # The last axis is not broadcast: a shorter mask hides the keys that it leaves out.
        return NoMatch("the mask is not broadcast", mask.name)
    if element_count(small) >= element_count(shape):
        return NoMatch("the mask is not broadcast", mask.name)
    operands = list(node.inputs)
    operands[MASK] = _rebuilt(mask, MAX_DEPTH, rewriter)
    return list(rewriter.ops("Attention", *operands, outputs=len(node.outputs), **attributes_of(node)))


def _step(value: Value) -> tuple[Node, int] | None:
    """The node that makes `value` element by element of one operand, or of its repetition, and which."""
    node = value.producer()
    if node is None or node.domain:
        return None
    if node.op_type in ("Expand", "Cast", "Not", "Identity"):
        return node, 0
    if is_op(node, "Where") and scalar(node.inputs[1]) is not None and scalar(node.inputs[2]) is not None:
        return node, 0
    if is_op(node, "And"):
        for position in (0, 1):
            other = constant(node.inputs[1 - position], max_elements=MAX_CONSTANT_ELEMENTS)
            if other is not None and other.all():
                return node, position
    return None


def _smaller(value: Value, depth: int) -> Value:
    """The operand that decides the shape of `value` once nothing repeats it any more."""
    step = _step(value) if depth else None
    operand = None if step is None else step[0].inputs[step[1]]
    return value if operand is None else _smaller(operand, depth - 1)


def _rebuilt(value: Value, depth: int, rewriter: Rewriter) -> Value:
    """`value` made anew without the repetitions."""
    step = _step(value) if depth else None
    operand = None if step is None else step[0].inputs[step[1]]
    if step is None or operand is None:
        return value
    inner, node = _rebuilt(operand, depth - 1, rewriter), step[0]
    if node.op_type in ("Expand", "Identity", "And"):
        return inner
    others = node.inputs[1:]
    return rewriter.op(node.op_type, inner, *others, stem=node.name, **attributes_of(node))


@dataclasses.dataclass(frozen=True)
class ShrinkMasks(RulePass):
    """Let Attention broadcast its mask, where an Expand or a constant that hides nothing repeats it.

    given:  float[2, 1, 4, 8] x; bool[1, 1, 4, 4] mask; opset 23
    before: y = Attention(x, x, x, Expand(mask, [2, 1, 4, 4]))
    after:  y = Attention(x, x, x, mask)

    ONNX Runtime needs the last two axes in full; XLA reads a mask of [B, 1, 1, T] without making the other.
    Sizes are known; the last axis, which is not broadcast, keeps its size.

    Spec: https://onnx.ai/onnx/operators/onnx__Attention.html
    """

    rules = (broadcast_mask,)
