"""Scaled dot-product attention as it is written out: ``Softmax(scale * q kᵀ + mask) v``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from graphopt.ir import DataType, Node, Value
from graphopt.ir.query import attribute, is_op, rank, same_dim, scalar
from graphopt.passes._attention_masks import (
    Step,
    bounds,
    broadcasts_into,
    every_row_is_open,
    expanded,
    lowest,
    mask_of,
)
from graphopt.passes._matching import made_for, produced_by, scalar_factor
from graphopt.transform import NoMatch, Rewriter

MAX_STEPS = 8
"""Scores pass through no more nodes than this between their product and Softmax."""

ABSORBING = -1e30
"""A float32 at most this large swallows any score that is added to it, as long as scores stay below 1e22."""

INPUTS = 64


@dataclasses.dataclass(frozen=True)
class AttentionMatch:
    """``Softmax(scale * q kᵀ + steps) v`` over the last two axes.

    Attributes:
        key: k, to be reshaped to `key_shape` and transposed by `permutation` where these are not None.
        steps: masks, innermost first.
        softcap: c of ``c * tanh(scores / c)``, done before the steps, or 0.
        zero_rows: rows that are NaN after Softmax become zeros.
    """

    query: Value
    key: Value
    key_shape: tuple[int, ...] | None
    permutation: tuple[int, ...] | None
    value: Value
    scale: float
    softcap: float
    steps: tuple[Step, ...]
    scores: Value
    zero_rows: bool


def match_attention(node: Node) -> AttentionMatch | NoMatch:
    """The attention whose last product is `node`."""
    if not is_op(node, "MatMul"):
        return NoMatch("no product")
    weights, value = node.inputs
    if weights is None or value is None:
        return NoMatch("an operand is missing")
    softmax, zero_rows = _softmax(weights, node)
    if isinstance(softmax, NoMatch):
        return softmax
    found = rank(weights)
    if found is None or int(attribute(softmax, "axis", -1)) not in (-1, found - 1):
        return NoMatch("Softmax is not over the last axis", softmax.name)
    if found != 4 or rank(value) != 4:
        return NoMatch("not of rank 4", weights.name)
    walked = _walk(softmax.inputs[0], softmax, MAX_STEPS)
    if isinstance(walked, NoMatch):
        return walked
    product, scale, softcap, steps = walked
    query, scale = _unscaled(product.inputs[0], product, scale)
    turned, scale = _unscaled(product.inputs[1], product, scale)
    untransposed = _untransposed(turned)
    if isinstance(untransposed, NoMatch) or query is None:
        return untransposed if isinstance(untransposed, NoMatch) else NoMatch("an operand is missing")
    key, scale = _unscaled(untransposed.value, untransposed.user, scale)
    match = AttentionMatch(
        query,
        key or untransposed.value,
        untransposed.shape,
        untransposed.permutation,
        value,
        scale,
        softcap,
        tuple(steps),
        product.outputs[0],
        zero_rows,
    )
    problem = _problem(match, turned)
    return match if problem is None else problem


@dataclasses.dataclass(frozen=True)
class _Key:
    """k, reshaped to `shape` and then transposed by `permutation` where these are not None.

    `user` is the node that takes `value` now.
    """

    value: Value
    user: Node
    shape: tuple[int, ...] | None = None
    permutation: tuple[int, ...] | None = None


def _untransposed(turned: Value | None) -> _Key | NoMatch:
    """The k of kᵀ."""
    transpose = produced_by(turned, "Transpose")
    reshape = produced_by(turned, "Reshape")
    flat = produced_by(reshape.inputs[0], "Transpose") if reshape is not None else None
    if turned is not None and flat is not None and tuple(attribute(flat, "perm") or ()) == (0, 2, 1):
        found = _unflattened(turned, flat)
        if found is not None:
            return found
    if transpose is None or transpose.inputs[0] is None:
        return NoMatch("the key is not transposed", turned.name if turned is not None else None)
    perm = attribute(transpose, "perm")
    if perm is None or len(perm) != 4:
        return NoMatch("the key's permutation is not of four axes", transpose.name)
    swapped = (perm[0], perm[1], perm[3], perm[2])
    return _Key(transpose.inputs[0], transpose, None, None if swapped == (0, 1, 2, 3) else swapped)


def _unflattened(turned: Value, flat: Node) -> _Key | None:
    """k where an exporter swapped its last two axes with batch and heads merged into one."""
    source = flat.inputs[0]
    if source is None or source.shape is None or turned.shape is None or len(turned.shape) != 4:
        return None
    batch, heads, size, length = turned.shape.dims
    dims = source.shape.dims
    if len(dims) != 3 or not same_dim(dims[1], length) or not same_dim(dims[2], size):
        return None
    outer, wanted = produced_by(source, "Reshape"), (batch, heads, length, size)
    above = outer.inputs[0] if outer is not None else None
    if outer is not None and above is not None and above.shape is not None:
        same = len(above.shape) == 4
        if same and all(same_dim(a, b) for a, b in zip(above.shape.dims, wanted, strict=True)):
            return _Key(above, outer)
    shape = tuple(d if isinstance(d, int) else -1 for d in wanted)
    if shape.count(-1) > 1 or 0 in shape:
        return None
    return _Key(above, outer, shape) if outer is not None and above is not None else _Key(source, flat, shape)


def _softmax(weights: Value, node: Node) -> tuple[Node | NoMatch, bool]:
    """(the Softmax that makes `weights` for `node`, whether its NaNs are replaced by zeros)."""
    guard = made_for(weights, node, "Where")
    if isinstance(guard, NoMatch):
        return made_for(weights, node, "Softmax"), False
    test, zero, plain = guard.inputs
    is_nan = made_for(test, guard, "IsNaN")
    if isinstance(is_nan, NoMatch) or plain is None or is_nan.inputs[0] is not plain:
        return NoMatch("the weights are chosen by something else than IsNaN", guard.name), False
    if scalar(zero) != 0:
        return NoMatch("NaN is replaced by something else than 0", guard.name), False
    softmax = plain.producer()
    if not is_op(softmax, "Softmax") or softmax is None or softmax.graph is not node.graph:
        return NoMatch("no Softmax there", plain.name), False
    if plain.is_graph_output() or any(use.node not in (guard, is_nan) for use in plain.uses()):
        return NoMatch("the weights are used elsewhere", plain.name), False
    return softmax, True


def _walk(value: Value | None, user: Node, budget: int) -> tuple[Node, float, float, list[Step]] | NoMatch:
    """(the product q kᵀ, its scale, its softcap, the steps from there to `value`)."""
    node = made_for(value, user, "MatMul", "Mul", "Div", "Add", "Where")
    if isinstance(node, NoMatch):
        return node
    if node.op_type == "MatMul":
        return node, 1.0, 0.0, []
    if budget == 0:
        return NoMatch("too much is done to the scores", node.name)
    if node.op_type in ("Mul", "Div"):
        return _scaled(node, user, budget)
    candidates = [(0, 1), (1, 0)] if node.op_type == "Add" else [(1, 2), (2, 1)]
    problem = NoMatch("no product under the mask", node.name)
    for inner_index, other_index in candidates:
        inner, other = node.inputs[inner_index], node.inputs[other_index]
        found = _walk(inner, node, budget - 1)
        if isinstance(found, NoMatch) or other is None or inner is None:
            problem = found if isinstance(found, NoMatch) and inner_index == candidates[0][0] else problem
            continue
        mask = other if node.op_type == "Add" else node.inputs[0]
        if mask is None or not broadcasts_into(mask, found[0].outputs[0]):
            return NoMatch("the mask is not known to fit the scores", mask.name if mask is not None else None)
        step = Step(mask) if node.op_type == "Add" else Step(mask, other, inner_index == 1)
        return found[0], found[1], found[2], [*found[3], step]
    return problem


def _scaled(node: Node, user: Node, budget: int) -> tuple[Node, float, float, list[Step]] | NoMatch:
    """What :func:`_walk` says of ``c * scores`` or ``c * tanh(scores)``."""
    inner, factor = _unscaled(node.outputs[0], user, 1.0)
    if inner is None or inner is node.outputs[0]:
        return NoMatch("the scores are multiplied by something else than a number", node.name)
    capped = made_for(inner, node, "Tanh")
    cap = factor if not isinstance(capped, NoMatch) else 0.0
    found = (
        _walk(inner, node, budget - 1)
        if isinstance(capped, NoMatch)
        else _walk(capped.inputs[0], capped, budget - 1)
    )
    if isinstance(found, NoMatch):
        return found
    if found[2] or found[3] or cap < 0:
        return NoMatch("the scores are scaled after a mask or a cap", node.name)
    return found[0], found[1] * factor, cap, []


def _unscaled(value: Value | None, user: Node, scale: float) -> tuple[Value | None, float]:
    """(x, scale * c) of ``c * x`` or ``x / c`` made for `user` alone; else `value` as it is."""
    node = made_for(value, user, "Mul", "Div")
    if isinstance(node, NoMatch) or len(node.inputs) != 2:
        return value, scale
    a, b = node.inputs
    number = scalar_factor(b, a)
    if number is not None and node.op_type == "Div":
        return (a, scale / number) if number != 0 else (value, scale)
    if number is not None:
        return a, scale * number
    number = scalar_factor(a, b) if node.op_type == "Mul" else None
    return (b, scale * number) if number is not None else (value, scale)


def _problem(match: AttentionMatch, turned: Value | None) -> NoMatch | None:
    """Why Attention would not give the same, if it would not."""
    if match.scores.dtype not in (DataType.FLOAT, DataType.FLOAT16, DataType.BFLOAT16):
        return NoMatch("Attention scales in float32, which is not the scores' precision", match.scores.name)
    if not 0 < match.scale < math.inf or np.float32(match.scale) == 0:
        return NoMatch("the scale is not a positive number", match.scores.name)
    shapes = [match.query.shape, turned.shape if turned is not None else None, match.value.shape]
    if any(shape is None or len(shape) != 4 for shape in shapes):
        return NoMatch("not of rank 4", match.scores.name)
    dims = [shape.dims for shape in shapes if shape is not None]
    if any(not same_dim(d[axis], dims[0][axis]) for d in dims[1:] for axis in (0, 1)):
        return NoMatch("batch and heads of query, key and value are not known to be equal", match.query.name)
    if not same_dim(dims[1][3], dims[2][2]):
        return NoMatch("there are not known to be as many keys as values", match.value.name)
    if any(0 in d for d in dims):
        return NoMatch("there are no elements", match.query.name)
    for step in match.steps:
        if step.fill is None:
            continue
        fill = scalar(step.fill)
        if fill is None or not fill <= ABSORBING or match.scores.dtype != DataType.FLOAT:
            return NoMatch("masked scores are not replaced by a number below -1e30", step.fill.name)
    if match.scores.dtype != DataType.FLOAT and any(not _plain(step) for step in match.steps):
        return NoMatch("a mask may close rows, which half precision shows", match.scores.name)
    return None


def _plain(step: Step) -> bool:
    """Whether the mask that is added is known to be far from the lowest number."""
    found = bounds(step.mask)
    return every_row_is_open(step.mask) or (found is not None and found[0] > lowest(step.mask) / 2)


def build_attention(
    match: AttentionMatch, rewriter: Rewriter, graph_inputs: Sequence[Value]
) -> Value | NoMatch:
    """The Attention operator on operands of four axes."""
    key = match.key
    if match.key_shape is not None:
        key = rewriter.op("Reshape", key, rewriter.const(np.array(match.key_shape, np.int64), "shape"))
    if match.permutation is not None:
        key = rewriter.op("Transpose", key, perm=match.permutation)
    mask = mask_of(match.steps, match.scores, rewriter, zero_rows=match.zero_rows)
    if mask is not None:
        sources = [*graph_inputs[:INPUTS], match.query, key]
        full = expanded(mask, match.scores, sources, rewriter)
        if isinstance(full, NoMatch):
            return full
        mask = full
    return rewriter.op(
        "Attention",
        match.query,
        key,
        match.value,
        mask,
        scale=_explicit_scale(match),
        softcap=match.softcap or None,
    )


def _explicit_scale(match: AttentionMatch) -> float | None:
    """The scale, or None where it is 1 / sqrt(head size) as the operator has it by itself."""
    assert match.query.shape is not None
    size = match.query.shape.dims[-1]
    if isinstance(size, int) and abs(match.scale * math.sqrt(size) - 1) < 1e-6:
        return None
    return match.scale
