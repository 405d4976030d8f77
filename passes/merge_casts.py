"""merge-casts: no Cast by way of a type that keeps every value."""

from __future__ import annotations

import dataclasses
from typing import Any

import ml_dtypes
import numpy as np

from graphopt.ir import DataType, Node
from graphopt.ir.query import attribute, is_op
from graphopt.passes._matching import attributes_of, made_for, produced_by
from graphopt.transform import NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

_INTEGERS = frozenset(
    {
        DataType.INT8,
        DataType.INT16,
        DataType.INT32,
        DataType.INT64,
        DataType.UINT8,
        DataType.UINT16,
        DataType.UINT32,
        DataType.UINT64,
    }
)
_FLOATS = frozenset({DataType.FLOAT16, DataType.BFLOAT16, DataType.FLOAT, DataType.DOUBLE})


def _float_info(dtype: DataType) -> Any:
    return ml_dtypes.finfo(dtype.numpy())


def _float_range(dtype: DataType) -> tuple[int, int]:
    """(digits of the significand, largest exponent) of a float type, in bits."""
    info = _float_info(dtype)
    return int(info.nmant) + 1, int(info.maxexp)


def _integer_bits(dtype: DataType) -> int:
    return int(np.iinfo(dtype.numpy()).bits) - (np.iinfo(dtype.numpy()).min < 0)


def keeps_every_value(source: DataType, target: DataType) -> bool:
    """Whether each value of `source` has an equal in `target`."""
    if source == target:
        return True
    if source == DataType.BOOL:
        return target in _INTEGERS or target in _FLOATS
    if source in _INTEGERS and target in _INTEGERS:
        low, high = np.iinfo(source.numpy()), np.iinfo(target.numpy())
        return bool(high.min <= low.min and low.max <= high.max)
    if source in _INTEGERS and target in _FLOATS:
        digits, exponent = _float_range(target)
        # The lowest integer of b bits and a sign is a power of two, which b digits express.
        return _integer_bits(source) <= digits and _integer_bits(source) < exponent
    if source in _FLOATS and target in _FLOATS:
        (a, a_exponent), (b, b_exponent) = _float_range(source), _float_range(target)
        # Subnormals of the source must be numbers of the target, too.
        return a <= b and a_exponent <= b_exponent and _smallest(source) >= _smallest(target)
    return False


def _smallest(dtype: DataType) -> float:
    return float(_float_info(dtype).smallest_subnormal)


def may_skip(source: DataType, middle: DataType, target: DataType) -> str | None:
    """Why Cast(Cast(x: source, middle), target) is not Cast(x, target), or None if it is."""
    known = _INTEGERS | _FLOATS | {DataType.BOOL}
    if not {source, middle, target} <= known:
        return "strings and narrow types have rules of their own"
    if not keeps_every_value(source, middle):
        return "the type between does not keep every value"
    if target == source or DataType.BOOL in (source, target):
        return None
    if target in _FLOATS:
        return None  # both round the same number once
    if source in _FLOATS:
        return "what a float beyond the range of an integer becomes depends on the type it comes from"
    if middle in _FLOATS and not keeps_every_value(source, target):
        return "what a float beyond the range of an integer becomes is not defined"
    return None  # integers wrap


@rule("Cast")
def cast_of_cast(node: Node, rewriter: Rewriter) -> Replacement:
    """Cast(Cast(x, B), C) = Cast(x, C) if B has every value of the type of x, and x if C is its type."""
    middle = node.inputs[0]
    inner = None if middle is None else middle.producer()
    if inner is None or middle is None or not is_op(inner, "Cast"):
        return NoMatch("the operand is no Cast")
    x = inner.inputs[0]
    if x is None or x.dtype is None or middle.dtype is None:
        return NoMatch("the operand's type is not known", middle.name)
    target = DataType(attribute(node, "to"))
    reason = may_skip(x.dtype, middle.dtype, target)
    if reason is not None:
        return NoMatch(reason, middle.name)
    return x if target == x.dtype else rewriter.op("Cast", x, to=int(target))


_MOVES = (
    *("Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Reshape", "Slice", "Squeeze"),
    *("Tile", "Transpose", "Unsqueeze"),
)
_MOVED = frozenset(
    {DataType.FLOAT, DataType.FLOAT16, DataType.DOUBLE, DataType.INT32, DataType.INT64, DataType.BOOL}
)
"""Types that runtimes move like any other."""


@rule("Cast")
def cast_of_moved_cast(node: Node, rewriter: Rewriter) -> Replacement:
    """Cast(Reshape(Cast(x, B)), A) = Reshape(x), if x is of type A and B has every value of A."""
    move = made_for(node.inputs[0], node, *_MOVES)
    if isinstance(move, NoMatch):
        return move
    inner = produced_by(move.inputs[0], "Cast")
    x = None if inner is None else inner.inputs[0]
    if x is None or x.dtype is None or move.inputs[0] is None or move.inputs[0].dtype is None:
        return NoMatch("what is moved is not cast", move.name)
    if x.dtype != DataType(attribute(node, "to")) or x.dtype not in _MOVED:
        return NoMatch("it does not get its first type back", x.name)
    reason = may_skip(x.dtype, move.inputs[0].dtype, x.dtype)
    if reason is not None:
        return NoMatch(reason, move.inputs[0].name)
    return rewriter.op(move.op_type, x, *move.inputs[1:], stem=move.name, **attributes_of(move))


@rule("CastLike")
def cast_like(node: Node, rewriter: Rewriter) -> Replacement:
    """CastLike(x, y) = Cast(x, to the type of y)."""
    like = node.inputs[1]
    if node.inputs[0] is None or like is None or like.dtype is None:
        return NoMatch("the type to cast to is not known", like.name if like is not None else None)
    return rewriter.op("Cast", node.inputs[0], to=int(like.dtype), **attributes_of(node))


@dataclasses.dataclass(frozen=True)
class MergeCasts(RulePass):
    """Cast directly, or not at all, where the type in between keeps every value.

    What is cast to a wider type, moved and cast back is moved as it is; arithmetic in between stays.

    given:  int8[N] x
    before: y = Cast<to = 1>(Cast<to = 6>(x))
    after:  y = Cast<to = 1>(x)

    Spec: https://onnx.ai/onnx/operators/onnx__Cast.html
    """

    rules = (cast_of_cast, cast_of_moved_cast, cast_like)
