"""Masks of attention: what is added to scores, in the form that the Attention operator takes.

The operator differs from ``Softmax(scores + mask)`` in the rows that the mask closes: where every key is
at -inf it gives zeros, not NaN, and ONNX Runtime takes the lowest finite number for -inf there. A mask
that may have such rows is changed so that both give the same.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from graphopt.ir import DataType, Node, SymbolicDim, Value
from graphopt.ir.query import constant, same_dim, scalar
from graphopt.passes._matching import attributes_of, limits, numpy_dtype, produced_by
from graphopt.transform import NoMatch, Rewriter

MAX_DEPTH = 12
MAX_CONSTANT_ELEMENTS = 1 << 22
Bounds = tuple[float, float]

_MOVES = frozenset(
    {
        *("Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Reshape", "Slice"),
        *("Squeeze", "Tile", "Transpose", "Unsqueeze"),
    }
)
"""Operators whose result holds numbers of their first input only."""


@dataclasses.dataclass(frozen=True)
class Step:
    """What is done to scores: `mask` is added, or, with a `fill`, they are kept where `mask` is `kept`."""

    mask: Value
    fill: Value | None = None
    kept: bool = True


def lowest(value: Value) -> float:
    """The lowest finite number of the type of `value`."""
    dtype = numpy_dtype(value)
    assert dtype is not None
    return float(limits(dtype).min)


def bounds(value: Value | None, depth: int = MAX_DEPTH) -> Bounds | None:
    """An interval that holds every number of a float `value`, infinities included; None if unknown.

    An unknown value may also be NaN; a known one is not.
    """
    if value is None or value.dtype is None:
        return None
    if value.dtype == DataType.BOOL:
        return 0.0, 1.0
    array = constant(value, max_elements=MAX_CONSTANT_ELEMENTS)
    if array is not None:
        if array.dtype.kind not in "fiuV" or array.size == 0:
            return None
        wide = array.astype(np.float64)
        return None if np.isnan(wide).any() else (float(wide.min()), float(wide.max()))
    node = value.producer()
    if node is None or node.domain or depth == 0:
        return None
    found = _of_node(node, depth - 1)
    dtype = numpy_dtype(value)
    if found is None or dtype is None or any(np.isnan(found)):
        return None
    if value.dtype in (DataType.FLOAT, DataType.FLOAT16, DataType.BFLOAT16):
        with np.errstate(over="ignore"):
            found = float(np.asarray(found[0]).astype(dtype)), float(np.asarray(found[1]).astype(dtype))
    return found


def _of_node(node: Node, depth: int) -> Bounds | None:
    if node.op_type in ("Sigmoid", "HardSigmoid", "Softmax"):
        return 0.0, 1.0
    if node.op_type in _MOVES:
        return bounds(node.inputs[0], depth)
    if node.op_type == "Cast":
        # A cast to a narrow type may wrap or overflow; from truth values it cannot.
        return bounds(node.inputs[0], depth)
    operands = node.inputs[1:] if node.op_type == "Where" else node.inputs
    if node.op_type not in ("Where", "Concat", "Add", "Sub", "Mul", "Neg", "Max", "Min"):
        return None
    known = [found for v in operands if (found := bounds(v, depth)) is not None]
    if len(known) != len(operands) or not known:
        return None
    if node.op_type in ("Where", "Concat"):
        return min(k[0] for k in known), max(k[1] for k in known)
    if node.op_type == "Neg":
        return -known[0][1], -known[0][0]
    if node.op_type in ("Max", "Min"):
        choose = max if node.op_type == "Max" else min
        return choose(k[0] for k in known), choose(k[1] for k in known)
    (a, b), (c, d) = known if len(known) == 2 else (known[0], known[0])
    if node.op_type == "Add":
        return a + c, b + d
    if node.op_type == "Sub":
        return a - d, b - c
    corners = [x * y for x in (a, b) for y in (c, d)]
    return (float("nan"), float("nan")) if any(np.isnan(corners)) else (min(corners), max(corners))


def every_row_is_open(mask: Value) -> bool:
    """Whether `mask` is a constant that leaves each query a key that is not closed."""
    array = constant(mask, max_elements=MAX_CONSTANT_ELEMENTS)
    if array is None or array.ndim == 0 or array.size == 0:
        return False
    if array.dtype == np.bool_:
        return bool(array.any(-1).all())
    return bool((array.astype(np.float64).max(-1) > lowest(mask) / 2).all())


def keeps_closed_rows(
    mask: Value, low: float | None, rewriter: Rewriter, *, least: bool, nan_rows: bool
) -> Value:
    """`mask` so changed that the Attention operator gives what ``Softmax(scores + mask)`` gives.

    The lowest finite number moves by its last bit, which scores added to it do not show. Rows that are
    -inf throughout become NaN, as Softmax makes them, if `nan_rows` is asked for.

    Args:
        low: a lower bound of the mask, or None if none is known.
        least: whether it may hold the lowest finite number.
    """
    if least:
        mask = _above_lowest(mask, rewriter)
    if nan_rows and (low is None or low < lowest(mask)):
        axes = rewriter.const(np.array([-1], np.int64), "axes")
        peak = rewriter.op("ReduceMax", mask, axes, keepdims=1)
        nothing = rewriter.op("Mul", peak, rewriter.const(np.zeros((), numpy_dtype(mask)), "zero"))
        mask = rewriter.op("Add", mask, nothing)
    return mask


def _above_lowest(mask: Value, rewriter: Rewriter) -> Value:
    """`mask` with the lowest finite number replaced by the next one, -inf kept."""
    swapped = _swapped(mask, rewriter, 4)
    if swapped is not None:
        return swapped
    dtype = numpy_dtype(mask)
    assert dtype is not None
    factor = np.asarray(1 - limits(dtype).eps, dtype)
    return rewriter.op("Mul", mask, rewriter.const(factor, "above_lowest"))


def _swapped(mask: Value, rewriter: Rewriter, depth: int) -> Value | None:
    """`mask` made anew with another constant where it is chosen from constants, else None."""
    least, number = lowest(mask), scalar(mask)
    dtype = numpy_dtype(mask)
    if dtype is None:
        return None
    if number is not None:
        if float(number) != least:
            return mask
        data = np.full(tuple(mask.shape.numpy()) if mask.shape else (), least, dtype)
        return rewriter.const(np.nextafter(data, dtype.type(0)), "above_lowest")
    chosen = produced_by(mask, "Where")
    if chosen is not None and depth:
        branches = [None if v is None else _swapped(v, rewriter, 0) for v in chosen.inputs[1:]]
        if None in branches:
            return None
        if branches == list(chosen.inputs[1:]):
            return mask
        return rewriter.op("Where", chosen.inputs[0], *branches, stem=chosen.name)
    scaled = produced_by(mask, "Mul")
    if scaled is not None and depth:
        for x, factor in (scaled.inputs, scaled.inputs[::-1]):
            if factor is None or scalar(factor) is None or bounds(x) != (0.0, 1.0):
                continue
            return rewriter.op("Mul", x, _swapped(factor, rewriter, 0), stem=scaled.name)
    moved = produced_by(mask, "Unsqueeze", "Expand", "Reshape", "Slice", "Identity")
    if moved is not None and depth and moved.inputs[0] is not None:
        inner = _swapped(moved.inputs[0], rewriter, depth - 1)
        if inner is not None:
            return rewriter.op(
                moved.op_type, inner, *moved.inputs[1:], stem=moved.name, **attributes_of(moved)
            )
    return None


def broadcasts_into(mask: Value, scores: Value) -> bool:
    """Whether `mask` broadcasts to the shape of `scores` without enlarging it.

    A size that is unknown along the last axis is 1 or that of the scores: were it another, the product of
    the weights and as many values as there are scores would fail.
    """
    if mask.shape is None or scores.shape is None or len(mask.shape) > len(scores.shape):
        return False
    own, others = mask.shape.dims, scores.shape.dims
    pairs = list(zip(reversed(own), reversed(others), strict=False))
    return all(
        d == 1 or same_dim(d, e) or (axis == 0 and isinstance(d, SymbolicDim))
        for axis, (d, e) in enumerate(pairs)
    )


def expanded(mask: Value, scores: Value, sources: Sequence[Value], rewriter: Rewriter) -> Value | NoMatch:
    """`mask` with the last two dimensions of `scores` in full: ONNX Runtime broadcasts the others only.

    Args:
        sources: values that exist where `mask` does; one that has a size is asked for it at run time.
    """
    assert mask.shape is not None
    assert scores.shape is not None
    wanted, own = scores.shape.dims[-2:], mask.shape.dims[-2:]
    if len(own) == 2 and all(same_dim(a, b) for a, b in zip(own, wanted, strict=True)):
        return mask
    if all(isinstance(dim, int) for dim in wanted):
        return rewriter.op("Expand", mask, rewriter.const(np.array(wanted, np.int64), "sizes"))
    sizes = []
    for dim in wanted:
        size = size_vector(dim, (mask, *sources), rewriter)
        if size is None:
            return NoMatch("no value shows the size that the mask must be expanded to", mask.name)
        sizes.append(size)
    return rewriter.op("Expand", mask, rewriter.op("Concat", *sizes, axis=0))


def size_vector(dim: int | SymbolicDim, sources: Sequence[Value], rewriter: Rewriter) -> Value | None:
    """`dim` as a vector of one element, read from the first of `sources` that has it."""
    if isinstance(dim, int):
        return rewriter.const(np.array([dim], np.int64), "size")
    for source in sources:
        if source.shape is None:
            continue
        for axis, other in enumerate(source.shape.dims):
            if same_dim(dim, other):
                return rewriter.op("Shape", source, start=axis, end=axis + 1)
    return None


def mask_of(steps: Sequence[Step], scores: Value, rewriter: Rewriter, *, zero_rows: bool) -> Value | None:
    """One mask for all steps, such that the operator gives what Softmax gives in every row."""
    steps = [step for step in steps if not _adds_nothing(step)]
    if len(steps) == 1:
        return _only_mask(steps[0], scores, rewriter, zero_rows=zero_rows)
    total: Value | None = None
    low: float | None = 0.0
    for step in steps:
        if step.fill is None:
            found = bounds(step.mask)
            low = None if low is None or found is None else low + found[0]
            total = step.mask if total is None else rewriter.op("Add", total, step.mask)
        else:
            fill = float(scalar(step.fill) or 0.0)
            low = None if low is None else min(low, fill)
            total = _chosen(step, total, fill, scores, rewriter)
    if total is None:
        return None
    least = low is None or low <= lowest(total)
    return keeps_closed_rows(total, low, rewriter, least=least, nan_rows=not zero_rows)


def _adds_nothing(step: Step) -> bool:
    zeros = constant(step.mask, max_elements=1 << 20) if step.fill is None else None
    return zeros is not None and not zeros.any()


def _only_mask(step: Step, scores: Value, rewriter: Rewriter, *, zero_rows: bool) -> Value | None:
    """The mask for one step: what is added, or the truth values that choose."""
    nan_rows = not zero_rows
    if step.fill is None:
        if every_row_is_open(step.mask):
            return step.mask
        found = bounds(step.mask)
        low = None if found is None else found[0]
        least = low is None or low <= lowest(step.mask)
        return keeps_closed_rows(step.mask, low, rewriter, least=least, nan_rows=nan_rows)
    fill = float(scalar(step.fill) or 0.0)
    allowed = step.mask if step.kept else rewriter.op("Not", step.mask)
    if step.kept and every_row_is_open(step.mask):
        return allowed
    if fill == -math.inf and zero_rows:
        return allowed
    if fill <= lowest(scores) and fill != -math.inf:
        dtype = numpy_dtype(scores)
        assert dtype is not None
        fill = float(np.nextafter(dtype.type(fill), dtype.type(0)))
    total = _chosen(step, None, fill, scores, rewriter)
    return keeps_closed_rows(total, fill, rewriter, least=False, nan_rows=nan_rows)


def _chosen(step: Step, total: Value | None, fill: float, scores: Value, rewriter: Rewriter) -> Value:
    """``Where(mask, total or 0, fill)``, the other way round if the step keeps what is false."""
    dtype = numpy_dtype(scores)
    kept = total if total is not None else rewriter.const(np.zeros((), dtype), "open")
    closed = rewriter.const(np.asarray(fill, dtype), "closed")
    return rewriter.op("Where", step.mask, *((kept, closed) if step.kept else (closed, kept)))
