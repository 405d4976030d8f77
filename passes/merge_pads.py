"""merge-pads: one Pad in the place of two."""

from __future__ import annotations

import dataclasses

import numpy as np

from graphopt.ir import Node, Value
from graphopt.ir.query import attribute, constant, rank
from graphopt.passes._axes import pads_by_axis
from graphopt.passes._matching import attributes_of, produced_by
from graphopt.transform import NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement


@rule("Pad")
def pad_of_pad(node: Node, rewriter: Rewriter) -> Replacement:
    """Pad(Pad(x, p), q) = Pad(x, p + q), with one constant around, or both repeating the edge."""
    inner = produced_by(node.inputs[0], "Pad")
    if inner is None:
        return NoMatch("the operand is no Pad")
    mode = attribute(node, "mode", "constant")
    if mode not in ("constant", "edge") or attribute(inner, "mode", "constant") != mode:
        return NoMatch("they do not pad in the same way", inner.name)
    first, second = pads_by_axis(inner), pads_by_axis(node)
    count = rank(inner.inputs[0])
    if first is None or second is None or count is None:
        return NoMatch("the amounts are not constant", inner.name)
    if any(amount < 0 for pads in (first, second) for pair in pads.values() for amount in pair):
        return NoMatch("one of them crops", inner.name)
    if mode == "constant" and not _same_fill(inner, node):
        return NoMatch("they pad with different numbers, or with one that is not constant", inner.name)
    amounts = np.zeros((2, count), np.int64)
    for pads in (first, second):
        for axis, pair in pads.items():
            amounts[:, axis] += pair
    fill = _fill(node) or _fill(inner)
    pads_value = rewriter.const(amounts.reshape(-1), "pads")
    return rewriter.op("Pad", inner.inputs[0], pads_value, fill, **attributes_of(node))


def _fill(pad: Node) -> Value | None:
    return pad.inputs[2] if len(pad.inputs) > 2 else None


def _same_fill(a: Node, b: Node) -> bool:
    """Whether both pad with the same bits; without a number they pad with zero."""
    found: list[bytes | None] = []
    for pad in (a, b):
        value = _fill(pad)
        x = pad.inputs[0]
        if value is not None:
            array = constant(value, max_elements=1)
        else:
            array = None if x is None or x.dtype is None else np.zeros(1, x.dtype.numpy())
        found.append(None if array is None else array.tobytes())
    return found[0] is not None and found[0] == found[1]


@dataclasses.dataclass(frozen=True)
class MergePads(RulePass):
    """Add up the amounts of Pads that follow each other.

    given:  float[N, M] x
    before: y = Pad(Pad(x, [0, 1, 0, 1]), [2, 0, 0, 0])
    after:  y = Pad(x, [2, 1, 0, 1])

    Amounts are constant and not negative, and both pad with the same number or repeat the edge.

    Spec: https://onnx.ai/onnx/operators/onnx__Pad.html
    """

    rules = (pad_of_pad,)
