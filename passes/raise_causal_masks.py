"""raise-causal-masks: a stored triangle of zeros becomes the attribute of Attention that means it."""

from __future__ import annotations

import dataclasses

import numpy as np

from graphopt.ir import Node, Value
from graphopt.ir.query import attribute, constant, static_shape
from graphopt.passes._attention_masks import MAX_CONSTANT_ELEMENTS, lowest
from graphopt.passes._matching import attributes_of
from graphopt.transform import Exactness, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

MASK = 3


@rule("Attention")
def causal_mask(node: Node, rewriter: Rewriter) -> Replacement:
    """Attention(q, k, v, triangle) = Attention<is_causal = 1>(q, k, v)."""
    mask = node.inputs[MASK] if len(node.inputs) > MASK else None
    if mask is None:
        return NoMatch("it has no mask")
    if any(v is not None for v in node.inputs[MASK + 1 :]):
        return NoMatch("it has a past, or lengths")
    if any(int(attribute(node, name, -1)) >= 0 for name in ("left_window_size", "right_window_size")):
        return NoMatch("it has a window")
    if any(v.uses() or v.is_graph_output() for v in node.outputs[3:]):
        return NoMatch("the masked scores are used")
    lengths = [_length(v) for v in node.inputs[:2]]
    array = constant(mask, max_elements=MAX_CONSTANT_ELEMENTS)
    if array is None or array.ndim < 2 or array.size == 0 or array.shape[-2:] != tuple(lengths):
        return NoMatch("the mask is no constant of the lengths of queries and keys", mask.name)
    if lengths[0] != lengths[1]:
        return NoMatch("there are not as many queries as keys")
    allowed = np.tril(np.ones(array.shape[-2:], np.bool_))
    if array.dtype == np.bool_:
        same = np.array_equal(array, np.broadcast_to(allowed, array.shape))
    else:
        wide = array.astype(np.float64)
        # Half the lowest number hides whatever score it is added to, as minus infinity does.
        closed = wide <= lowest(mask) / 2
        same = np.array_equal(closed, np.broadcast_to(~allowed, array.shape)) and not wide[~closed].any()
    if not same:
        return NoMatch("the mask is no triangle", mask.name)
    attributes = attributes_of(node) | {"is_causal": 1}
    return list(rewriter.ops("Attention", *node.inputs[:MASK], outputs=len(node.outputs), **attributes))


def _length(value: Value | None) -> int | None:
    shape = static_shape(value)
    return None if shape is None or len(shape) not in (3, 4) else shape[-2]


@dataclasses.dataclass(frozen=True)
class RaiseCausalMasks(RulePass):
    """Let Attention be causal by itself, where a constant mask shows each query the keys up to its own.

    given:  float[1, 1, 2, 4] x; opset 23
    before: y = Attention(x, x, x, [[[[0.0, -3.4028235e38], [0.0, 0.0]]]])
    after:  y = Attention<is_causal = 1>(x, x, x)

    Queries and keys are as many, so that no row is closed throughout. What is computed from positions
    needs no memory, and no second pass over the scores for rows that might be closed.

    Spec: https://onnx.ai/onnx/operators/onnx__Attention.html
    """

    exactness = Exactness.REASSOCIATES
    rules = (causal_mask,)
