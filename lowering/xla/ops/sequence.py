"""Sequences and optionals. They exist at compile time only: Python lists, and None.

Items travel as they are, so that what is known stays known.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from graphopt.ir import Graph
from graphopt.lowering.xla.emit import (
    Context,
    Operand,
    StaticOperandRequired,
    as_array,
    describe,
    graph_inputs_behind,
)
from graphopt.lowering.xla.ops import lowers

Array = Any
MAX_ITEMS = 4096


def _items(ctx: Context, index: int = 0) -> list[Operand]:
    operand = ctx.operand(index)
    if not isinstance(operand, list):
        raise ctx.unsupported("the sequence is not built inside the model")
    return operand


def _position(ctx: Context, position: np.ndarray | None, length: int, default: int) -> int:
    """A known index, counted from the end if negative. Raises UnsupportedError out of range."""
    index = default if position is None else int(position.reshape(-1)[0])
    found = index + length if index < 0 else index
    if not 0 <= found <= length:
        raise ctx.unsupported("the position is outside the sequence", found=index, expected=f"< {length}")
    return found


def _numpy_all(items: list[Operand]) -> bool:
    return bool(items) and all(isinstance(x, np.ndarray) and x.dtype != object for x in items)


@lowers("SequenceConstruct", since=(11,))
def sequence_construct(ctx: Context, *inputs: Array) -> list[Operand]:
    """The sequence of the inputs.

    Spec: https://onnx.ai/onnx/operators/onnx__SequenceConstruct.html
    """
    return [ctx.operand(i) for i in range(len(inputs))]


@lowers("SequenceEmpty", since=(11,), ignores=("dtype",))  # an empty list is the same of any type
def sequence_empty() -> list[Operand]:
    """The empty sequence.

    Spec: https://onnx.ai/onnx/operators/onnx__SequenceEmpty.html
    """
    return []


@lowers("SequenceLength", since=(11,))
def sequence_length(ctx: Context, input_sequence: list[Array]) -> np.ndarray:
    """The number of items.

    Spec: https://onnx.ai/onnx/operators/onnx__SequenceLength.html
    """
    return np.array(len(_items(ctx)), np.int64)


@lowers("SequenceAt", since=(11,))
def sequence_at(ctx: Context, input_sequence: list[Array], position: Array) -> Operand:
    """The item at position. A computed position needs items of one shape.

    Spec: https://onnx.ai/onnx/operators/onnx__SequenceAt.html
    """
    items, known = _items(ctx), ctx.known(1)
    if known is not None:
        index = _position(ctx, known, len(items), 0)
        if index == len(items):
            raise ctx.unsupported("the position is outside the sequence", found=index)
        return items[index]
    if len({(tuple(x.shape), str(x.dtype)) for x in items}) != 1:
        raise StaticOperandRequired(
            "a computed position in a sequence whose items differ in shape or type",
            inputs=graph_inputs_behind(ctx.node.inputs[1], ctx.emitter.model.graph),
            where=describe(ctx.node),
        )
    place = jnp.reshape(position, ()).astype(np.int64)
    place = jnp.where(place < 0, place + len(items), place)
    return jnp.take(jnp.stack([as_array(x) for x in items]), place, axis=0, mode="clip")


@lowers("SequenceInsert", since=(11,), static=("position",))
def sequence_insert(
    ctx: Context, input_sequence: list[Array], tensor: Array, position: np.ndarray | None
) -> list[Operand]:
    """The sequence with tensor inserted before position (default: at the end).

    Spec: https://onnx.ai/onnx/operators/onnx__SequenceInsert.html
    """
    items = _items(ctx)
    index = _position(ctx, position, len(items), len(items))
    return [*items[:index], ctx.operand(1), *items[index:]]


@lowers("SequenceErase", since=(11,), static=("position",))
def sequence_erase(ctx: Context, input_sequence: list[Array], position: np.ndarray | None) -> list[Operand]:
    """The sequence without the item at position (default: the last).

    Spec: https://onnx.ai/onnx/operators/onnx__SequenceErase.html
    """
    items = _items(ctx)
    index = _position(ctx, position, len(items), len(items) - 1)
    return [*items[:index], *items[index + 1 :]]


@lowers("SplitToSequence", since=(11, 24), static=("split",))
def split_to_sequence(
    ctx: Context, input: Array, split: np.ndarray | None, *, axis: int = 0, keepdims: int = 1
) -> list[Operand]:
    """Pieces of input along axis: of the sizes in split, of one size, or of one (keepdims: as an axis).

    Spec: https://onnx.ai/onnx/operators/onnx__SplitToSequence.html
    """
    operand = ctx.operand(0)
    x = operand if isinstance(operand, np.ndarray) and operand.dtype != object else input
    axis, size = axis % x.ndim, int(x.shape[axis])
    if split is None:
        sizes = [1] * _budgeted(ctx, size)
    elif split.ndim == 0:
        step = int(split)
        if step <= 0:
            raise ctx.unsupported("a piece must have a positive size", found=step)
        _budgeted(ctx, -(-size // step))
        sizes = [min(step, size - begin) for begin in range(0, size, step)]
    else:
        sizes = [int(n) for n in split]
    if sum(sizes) != size or min(sizes, default=0) < 0:
        raise ctx.unsupported("split does not add up to the axis", found=sum(sizes), expected=size)
    pieces, begin = [], 0
    for length in sizes:
        pieces.append(x[(slice(None),) * axis + (slice(begin, begin + length),)])
        begin += length
    return [p.squeeze(axis) for p in pieces] if split is None and not keepdims else pieces


def _budgeted(ctx: Context, count: int) -> int:
    if count > MAX_ITEMS:
        raise ctx.unsupported("the sequence has too many items", found=count, expected=f"at most {MAX_ITEMS}")
    return count


@lowers("ConcatFromSequence", since=(11,))
def concat_from_sequence(
    ctx: Context, input_sequence: list[Array], *, axis: int, new_axis: int = 0
) -> Operand:
    """The items joined along axis, or stacked along a new one.

    Spec: https://onnx.ai/onnx/operators/onnx__ConcatFromSequence.html
    """
    items = _items(ctx)
    if _numpy_all(items):
        return np.stack(items, axis) if new_axis else np.concatenate(items, axis)
    arrays = [as_array(x) for x in items]
    return jnp.stack(arrays, axis) if new_axis else jnp.concatenate(arrays, axis)


@lowers("SequenceMap", since=(17,))
def sequence_map(
    ctx: Context, input_sequence: list[Array], *additional_inputs: Any, body: Graph
) -> tuple[list[Operand], ...]:
    """Body applied to each item; additional sequences are walked along, tensors are the same for all.

    Spec: https://onnx.ai/onnx/operators/onnx__SequenceMap.html
    """
    items = _items(ctx)
    others = [ctx.operand(1 + i) for i in range(len(additional_inputs))]
    results: list[list[Operand]] = [[] for _ in body.outputs]
    for index, item in enumerate(items):
        ctx.charge_unrolled(body)
        extra = [other[index] if isinstance(other, list) else other for other in others]
        for sequence, output in zip(results, ctx.subgraph(body, [item, *extra]), strict=True):
            sequence.append(output)
    return tuple(results)


@lowers("Optional", since=(15, 28), ignores=("type",))  # an absent value is None, whatever its type
def optional(ctx: Context, input: Operand) -> tuple[Operand]:
    """The input, or nothing.

    Spec: https://onnx.ai/onnx/operators/onnx__Optional.html
    """
    return (ctx.operand(0),)


@lowers("OptionalHasElement", since=(18, 28))
def optional_has_element(ctx: Context, input: Operand) -> np.ndarray:
    """Whether there is a value.

    Spec: https://onnx.ai/onnx/operators/onnx__OptionalHasElement.html
    """
    return np.array(ctx.operand(0) is not None)


@lowers("OptionalGetElement", since=(18, 28))
def optional_get_element(ctx: Context, input: Operand) -> tuple[Operand]:
    """The value, which must be there.

    Spec: https://onnx.ai/onnx/operators/onnx__OptionalGetElement.html
    """
    operand = ctx.operand(0)
    if operand is None:
        raise ctx.unsupported("the optional has no value")
    return (operand,)
