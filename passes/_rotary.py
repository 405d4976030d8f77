"""Rotary embeddings as they are written out: parts of the last axis, caches that hold each angle twice."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from graphopt.ir import DataType, Node, Value
from graphopt.ir.query import attribute, constant, ints, is_op, rank, same_dim
from graphopt.passes._attention_masks import size_vector
from graphopt.passes._matching import attributes_of, leaves_the_pattern, produced_by, scalar_factor
from graphopt.transform import NoMatch, Rewriter

MAX_CACHE_ELEMENTS = 1 << 22
MAX_DEPTH = 8
_ELEMENTWISE = ("Cos", "Sin", "Cast", "Neg", "Identity", "Sqrt", "Exp")


@dataclasses.dataclass(frozen=True)
class Part:
    """``x[..., start:stop:step]``, made by `node`."""

    x: Value
    start: int
    stop: int
    step: int
    node: Node


def part_of(value: Value | None) -> Part | None:
    """What `value` takes of a last axis of known size, by Slice or Split."""
    node = produced_by(value, "Slice", "Split")
    x = None if node is None else node.inputs[0]
    if node is None or value is None or x is None or x.shape is None or value.shape is None:
        return None
    count = len(x.shape)
    size = x.shape.dims[-1] if count else None
    if not isinstance(size, int):
        return None
    if is_op(node, "Split"):
        if int(attribute(node, "axis", 0)) % count != count - 1:
            return None
        sizes = [None if v.shape is None else v.shape.dims[-1] for v in node.outputs]
        index = node.outputs.index(value)
        known = [s for s in sizes if isinstance(s, int)]
        if len(known) != len(sizes):
            return None
        return Part(x, sum(known[:index]), sum(known[: index + 1]), 1, node)
    given = [ints(v) if v is not None else None for v in (*node.inputs[1:], None, None)]
    starts, ends, axes, steps = given[0], given[1], given[2], given[3]
    if len(node.inputs) > 4 and steps is None:
        return None
    step = 1 if steps is None else steps[0]
    one = starts is not None and ends is not None and axes is not None and len(axes) == len(starts) == 1
    if not one or starts is None or ends is None or axes is None or step < 1 or axes[0] % count != count - 1:
        return None
    start, stop, step = slice(starts[0], ends[0], step).indices(size)
    return Part(x, start, stop, step, node)


@dataclasses.dataclass(frozen=True)
class Rotation:
    """``x * cos + turned(x) * sin`` with pairs (i, i + D/2), or (2i, 2i + 1) if `interleaved`."""

    x: Value
    cos: Value
    sin: Value
    interleaved: bool


def match_rotation(node: Node) -> Rotation | NoMatch:
    """The rotation that `node`, an Add, is the last step of."""
    if not is_op(node, "Add"):
        return NoMatch("no sum")
    terms = [produced_by(value, "Mul") for value in node.inputs]
    if terms[0] is None or terms[1] is None:
        return NoMatch("not a sum of two products")
    reason = NoMatch("no factor is the other's, turned by a right angle", node.name)
    for plain, other in (terms, terms[::-1]):
        assert plain is not None
        assert other is not None
        for turned, sin in (other.inputs, other.inputs[::-1]):
            pattern = [plain, other]
            found = _turned(turned, pattern)
            if found is None or sin is None:
                continue
            x, interleaved = found
            if x not in plain.inputs or plain.inputs[0] is plain.inputs[1]:
                reason = NoMatch("the sum is not of one value and itself turned", node.name)
                continue
            cos = plain.inputs[1] if plain.inputs[0] is x else plain.inputs[0]
            if cos is None:
                continue
            if (outside := leaves_the_pattern(pattern, node)) is not None:
                return NoMatch("an intermediate value is used elsewhere", outside.name)
            if any(inner.graph is not node.graph for inner in pattern):
                return NoMatch("the pattern spans two graphs", node.name)
            return _checked(Rotation(x, cos, sin, interleaved))
    return reason


def _checked(found: Rotation) -> Rotation | NoMatch:
    x = found.x
    if x.dtype not in (DataType.FLOAT, DataType.FLOAT16, DataType.BFLOAT16):
        return NoMatch("RotaryEmbedding has no kernel for the input's precision", x.name)
    if x.shape is None or len(x.shape) != 4:
        return NoMatch("the input is not of four axes", x.name)
    return found


def _turned(value: Value | None, pattern: list[Node]) -> tuple[Value, bool] | None:
    """(x, whether pairs are neighbours) if `value` is x with each pair (a, b) made (-b, a)."""
    node = produced_by(value, "Concat", "Reshape")
    interleaved = is_op(node, "Reshape")
    concat = produced_by(node.inputs[0], "Concat") if node is not None and interleaved else node
    if node is None or value is None or concat is None or len(concat.inputs) != 2:
        return None
    count = rank(concat.outputs[0])
    if not count or int(attribute(concat, "axis", 0)) % count != count - 1:
        return None
    pattern += [concat, node] if interleaved else [node]
    parts = []
    for index, operand in enumerate(concat.inputs):
        if interleaved:
            operand = _without_last(operand, pattern)
        if index == 0:
            negated = produced_by(operand, "Neg")
            if negated is None:
                return None
            pattern.append(negated)
            operand = negated.inputs[0]
            if interleaved and part_of(operand) is None:
                operand = _without_last(operand, pattern)
        part = part_of(operand)
        if part is None:
            return None
        pattern.append(part.node)
        parts.append(part)
    second, first = parts
    x = first.x
    size = x.shape.dims[-1] if x.shape is not None else None
    if second.x is not x or not isinstance(size, int) or size % 2 or value.shape is None:
        return None
    if interleaved:
        fits = (first.start, second.start, first.step, second.step) == (0, 1, 2, 2)
        fits = fits and first.stop >= size - 1 and second.stop == size and value.shape.dims[-1] == size
        fits = fits and rank(value) == rank(x) == count - 1
    else:
        fits = (first.start, first.stop, second.start, second.stop) == (0, size // 2, size // 2, size)
        fits = fits and first.step == second.step == 1
    return (x, interleaved) if fits else None


def _without_last(value: Value | None, pattern: list[Node]) -> Value | None:
    """x if `value` is x with an axis of one put in at the end."""
    node = produced_by(value, "Unsqueeze", "Reshape")
    if node is None or value is None or node.inputs[0] is None:
        return None
    inner, outer = node.inputs[0].shape, value.shape
    if inner is None or outer is None or len(outer) != len(inner) + 1 or outer.dims[-1] != 1:
        return None
    if not all(same_dim(a, b) for a, b in zip(inner.dims, outer.dims, strict=False)):
        return None
    pattern.append(node)
    return node.inputs[0]


def halved(
    value: Value | None, interleaved: bool, rewriter: Rewriter, depth: int = MAX_DEPTH
) -> Value | None:
    """Every angle once, of a `value` that holds each twice along its last axis; else None."""
    if value is None or value.shape is None or depth == 0 or len(value.shape) == 0:
        return None
    size = value.shape.dims[-1]
    if not isinstance(size, int) or size % 2:
        return None
    array = constant(value, max_elements=MAX_CACHE_ELEMENTS)
    if array is not None:
        half = _half_of(array, interleaved)
        return None if half is None else rewriter.const(half, "half")
    node = value.producer()
    if node is None or node.domain:
        return None
    if is_op(node, *_ELEMENTWISE):
        inner = halved(node.inputs[0], interleaved, rewriter, depth - 1)
        return None if inner is None else _like(node, rewriter, inner)
    if is_op(node, "Mul", "Add", "Sub", "Div"):
        a, b = node.inputs
        if scalar_factor(b, a) is not None:
            inner = halved(a, interleaved, rewriter, depth - 1)
            return None if inner is None else _like(node, rewriter, inner, b)
        if scalar_factor(a, b) is not None:
            inner = halved(b, interleaved, rewriter, depth - 1)
            return None if inner is None else _like(node, rewriter, a, inner)
        return None
    if is_op(node, "Unsqueeze"):
        axes, count = ints(node.inputs[1]), len(value.shape)
        if axes is None or any(a % count == count - 1 for a in axes):
            return None
        inner = halved(node.inputs[0], interleaved, rewriter, depth - 1)
        return None if inner is None else _like(node, rewriter, inner, node.inputs[1])
    if is_op(node, "Gather", "Slice"):
        return _half_of_some(node, interleaved, rewriter, depth)
    return _twice(node, value, interleaved)


def _half_of(array: np.ndarray, interleaved: bool) -> np.ndarray | None:
    half = array.shape[-1] // 2
    pairs = (array[..., 0::2], array[..., 1::2])
    first, second = pairs if interleaved else (array[..., :half], array[..., half:])
    return np.ascontiguousarray(first) if np.array_equal(first, second) else None


def _half_of_some(node: Node, interleaved: bool, rewriter: Rewriter, depth: int) -> Value | None:
    """The same rows of a halved table."""
    table = node.inputs[0]
    count = rank(table)
    if not count or count < 2:
        return None
    if is_op(node, "Gather"):
        touched: Sequence[int] | None = [int(attribute(node, "axis", 0))]
    else:
        touched = ints(node.inputs[3]) if len(node.inputs) > 3 else None
    if touched is None or any(a % count == count - 1 for a in touched):
        return None
    inner = halved(table, interleaved, rewriter, depth - 1)
    return None if inner is None else _like(node, rewriter, inner, *node.inputs[1:])


def _twice(node: Node, value: Value, interleaved: bool) -> Value | None:
    """x if `node` puts x twice along the last axis, as a whole or element by element."""
    stacked = produced_by(node.inputs[0], "Concat") if interleaved and is_op(node, "Reshape") else node
    if stacked is None or not is_op(stacked, "Concat") or len(stacked.inputs) != 2:
        return None
    count = rank(stacked.outputs[0])
    first, second = stacked.inputs
    if first is None or first is not second or not count:
        return None
    if int(attribute(stacked, "axis", 0)) % count != count - 1:
        return None
    if not interleaved:
        return first
    single = _without_last(first, [])
    fits = single is not None and single.shape is not None and value.shape is not None
    if not fits or single is None or single.shape is None or value.shape is None:
        return None
    last, wide = single.shape.dims[-1], value.shape.dims[-1]
    same = rank(single) == rank(value) and isinstance(last, int) and wide == 2 * last
    return single if same else None


def _like(node: Node, rewriter: Rewriter, *inputs: Value | None) -> Value:
    return rewriter.op(node.op_type, *inputs, stem=node.name, **attributes_of(node))


def cache(value: Value, found: Rotation, sources: Sequence[Value], rewriter: Rewriter) -> Value | NoMatch:
    """Cosines or sines as [batch, sequence, D / 2], of what broadcasts to x [batch, head, sequence, D]."""
    assert found.x.shape is not None
    batch, _, sequence, size = found.x.shape.dims
    if not isinstance(size, int) or value.dtype != found.x.dtype or value.shape is None:
        return NoMatch("the size of a head is not known", found.x.name)
    dims = (1, 1, 1, *value.shape.dims)[-4:]
    fits = len(value.shape) <= 4 and dims[1] == 1 and same_dim(dims[2], sequence) and dims[3] == size
    if not fits or not (dims[0] == 1 or same_dim(dims[0], batch)):
        return NoMatch("a cache is not one row for each position", value.name)
    half = _three_axes(value, found.interleaved, rewriter)
    if isinstance(half, NoMatch):
        return half
    if same_dim(dims[0], batch):
        return half
    extent = size_vector(batch, sources, rewriter)
    if extent is None:
        return NoMatch("no value shows the batch size", found.x.name)
    ones = rewriter.const(np.array([1, 1], np.int64), "ones")
    if isinstance(batch, int):
        return rewriter.op("Expand", half, rewriter.const(np.array([batch, 1, 1], np.int64), "sizes"))
    return rewriter.op("Expand", half, rewriter.op("Concat", extent, ones, axis=0))


def _three_axes(value: Value, interleaved: bool, rewriter: Rewriter) -> Value | NoMatch:
    """Each angle of `value` [.., 1, S, D] once, as [.., S, D / 2] with three axes."""
    twice = NoMatch("a cache is not known to hold each angle twice", value.name)
    array = constant(value, max_elements=MAX_CACHE_ELEMENTS)
    if array is not None:
        once = _half_of(array, interleaved)
        return twice if once is None else rewriter.const(once.reshape(-1, *once.shape[-2:]), "half")
    unsqueeze = produced_by(value, "Unsqueeze")
    if unsqueeze is not None and ints(unsqueeze.inputs[1]) == (1,) and rank(value) == 4:
        half = halved(unsqueeze.inputs[0], interleaved, rewriter)
        return twice if half is None else half
    half = halved(value, interleaved, rewriter)
    count = rank(half)
    if half is None or count is None:
        return twice
    if count == 3:
        return half
    axes = rewriter.const(np.array([1 if count == 4 else 0], np.int64), "axes")
    return rewriter.op("Squeeze" if count == 4 else "Unsqueeze", half, axes)
