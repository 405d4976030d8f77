"""Operands of Attention: heads split off a hidden dimension, and heads that are repeated for groups."""

from __future__ import annotations

import numpy as np

from graphopt.ir import Node, Value
from graphopt.ir.query import attribute, ints, is_op, only_use, rank, same_dim
from graphopt.passes._matching import produced_by
from graphopt.transform import Rewriter

MAX_STEPS = 8
_SCORE_STEPS = ("Add", "Div", "MatMul", "Mul", "Reshape", "Softmax", "Tanh", "Where")

HEADS_FIRST = (0, 2, 1, 3)
"""[batch, sequence, head, size] as [batch, head, sequence, size], and back."""


def heads_last(value: Value | None) -> Value | None:
    """The value [batch, sequence, head, size] whose heads are moved forward to make `value`."""
    transpose = produced_by(value, "Transpose")
    if transpose is None or tuple(attribute(transpose, "perm") or ()) != HEADS_FIRST:
        return None
    source = transpose.inputs[0]
    if source is None or rank(source) != 4 or source.shape is None:
        return None
    return source if all(isinstance(d, int) and d > 0 for d in source.shape.dims[2:]) else None


def merged(split: Value, rewriter: Rewriter) -> Value:
    """[batch, sequence, head, size] as [batch, sequence, head * size]; what was split is taken as it was."""
    assert split.shape is not None
    batch, sequence, heads, size = split.shape.dims
    assert isinstance(heads, int)
    assert isinstance(size, int)
    reshape = produced_by(split, "Reshape")
    source = None if reshape is None else reshape.inputs[0]
    if source is not None and source.shape is not None and len(source.shape) == 3:
        first, second, hidden = source.shape.dims
        if same_dim(first, batch) and same_dim(second, sequence) and hidden == heads * size:
            return source
    return rewriter.op("Reshape", split, rewriter.const(np.array([0, 0, heads * size], np.int64), "merged"))


def repeated_heads(value: Value | None) -> tuple[Value, int] | None:
    """(x, n) if `value` is x [batch, head, sequence, size] with each head n times in a row."""
    reshape = produced_by(value, "Reshape")
    copies = None if reshape is None else produced_by(reshape.inputs[0], "Expand", "Tile", "Concat")
    if value is None or value.shape is None or copies is None or len(copies.outputs) != 1:
        return None
    single = _one_copy(copies)
    source = None if single is None else _without_axis(single)
    wide = copies.outputs[0].shape
    if single is None or source is None or single.shape is None or source.shape is None or wide is None:
        return None
    times, heads = wide.dims[2], single.shape.dims[1]
    if not isinstance(times, int) or not isinstance(heads, int) or times < 1:
        return None
    kept = all(same_dim(wide.dims[axis], single.shape.dims[axis]) for axis in (0, 1, 3, 4))
    dims = value.shape.dims
    flat = len(dims) == 4 and dims[1] == heads * times
    if not kept or not flat or any(not same_dim(dims[a], source.shape.dims[a]) for a in (0, 2, 3)):
        return None
    return source, times


def _one_copy(copies: Node) -> Value | None:
    """What Expand, Tile or Concat puts several times along axis 2 of five, given that nothing else grows."""
    single = copies.inputs[0]
    if single is None or single.shape is None or len(single.shape) != 5 or single.shape.dims[2] != 1:
        return None
    if is_op(copies, "Concat"):
        along = int(attribute(copies, "axis", 0)) % 5 == 2
        return single if along and all(v is single for v in copies.inputs) else None
    if is_op(copies, "Tile"):
        repeats = ints(copies.inputs[1])
        return single if repeats is not None and [*repeats[:2], *repeats[3:]] == [1, 1, 1, 1] else None
    return single


def _without_axis(single: Value) -> Value | None:
    """x if `single` is x with an axis of one put in as axis 2."""
    node = produced_by(single, "Unsqueeze", "Reshape")
    source = None if node is None else node.inputs[0]
    if node is None or source is None or source.shape is None or single.shape is None or rank(source) != 4:
        return None
    dims = [d for axis, d in enumerate(single.shape.dims) if axis != 2]
    return source if all(same_dim(a, b) for a, b in zip(dims, source.shape.dims, strict=True)) else None


def unflattened(value: Value | None) -> Value | None:
    """x [batch, head, m, n] if `value` is x as [batch * head, m, n], with m and n known and not 0."""
    reshape = produced_by(value, "Reshape")
    source = None if reshape is None else reshape.inputs[0]
    if value is None or value.shape is None or source is None or source.shape is None:
        return None
    own, dims = value.shape.dims, source.shape.dims
    if len(own) != 3 or len(dims) != 4 or own[1:] != dims[2:]:
        return None
    return source if all(isinstance(d, int) and d > 0 for d in own[1:]) else None


def flattened(value: Value, rewriter: Rewriter) -> Value:
    """[batch, head, m, n] as [batch * head, m, n], with m and n known and not 0."""
    assert value.shape is not None
    shape = [-1, *(d for d in value.shape.dims[2:] if isinstance(d, int))]
    return rewriter.op("Reshape", value, rewriter.const(np.array(shape, np.int64), "flat"))


def near_softmax(node: Node) -> bool:
    """Whether `node` is on the way from scores to their Softmax, or takes its weights."""
    value = node.outputs[0]
    for _ in range(MAX_STEPS):
        user = only_use(value)
        if user is None or not is_op(user, *_SCORE_STEPS):
            break
        if is_op(user, "Softmax"):
            return True
        value = user.outputs[0]
    above = node
    for _ in range(3):
        producer = above.inputs[0].producer() if above.inputs and above.inputs[0] is not None else None
        if is_op(above, "Softmax"):
            return True
        if producer is None:
            return False
        above = producer
    return is_op(above, "Softmax")
