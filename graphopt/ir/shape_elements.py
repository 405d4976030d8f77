"""Elements of shape vectors that the inference package does not follow: fills, and choices by sign.

Exporters guard the target of an Expand: where it is -1, take 1. Which elements are -1 is decided
here, from what is read of a tensor's shape, which is never negative.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir import DataType, Node, SymbolicDim, Value
from graphopt.ir.query import attribute, is_op, same_dim
from graphopt.ir.shape_context import MAX_FOLLOWED_ELEMENTS, BoundedContext

Dim = int | SymbolicDim

_CARRIERS = frozenset({"Cast", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Unsqueeze"})
_MONOTONE = frozenset({"Add", "Max", "Mul"})
"""Of operands that are not negative, their result is not negative."""


def follow_elements(node: Node, context: BoundedContext) -> None:
    """Record the elements of a ConstantOfShape or a decided Where, and whose symbols are extents."""
    if (node.domain or "") != "" or not node.outputs or node.outputs[0].dtype != DataType.INT64:
        return
    output = node.outputs[0]
    if is_op(node, "ConstantOfShape"):
        _fill(node, output, context)
    elif is_op(node, "Where"):
        _choose(node, output, context)
    elif _makes_extents(node, context):
        context.extents.add(output)


def _makes_extents(node: Node, context: BoundedContext) -> bool:
    """Whether every symbol among the elements of the output stands for a size, which is never negative."""
    if node.op_type in ("Shape", "Size"):
        return True
    if node.op_type in _CARRIERS:
        return node.inputs[0] in context.extents
    if is_op(node, "Concat"):
        return all(_has_extents(v, context) for v in node.inputs)
    return node.op_type in _MONOTONE and all(
        _has_extents(v, context)
        and not any(isinstance(d, int) and d < 0 for d in _elements(v, context) or ())
        for v in node.inputs
    )


def _has_extents(value: Value | None, context: BoundedContext) -> bool:
    """Whether no element of `value` is a symbol that may be negative."""
    dims = _elements(value, context)
    return dims is not None and (value in context.extents or all(isinstance(d, int) for d in dims))


def _elements(value: Value | None, context: BoundedContext) -> list[Dim] | None:
    return None if value is None else context.get_symbolic_value(value)


def _fill(node: Node, output: Value, context: BoundedContext) -> None:
    """ConstantOfShape([n]) has n equal elements."""
    target = _elements(node.inputs[0], context)
    fill = attribute(node, "value")
    if target is None or len(target) != 1 or fill is None or fill.size != 1:
        return
    (count,) = target
    if isinstance(count, int) and 0 <= count <= MAX_FOLLOWED_ELEMENTS:
        context.set_symbolic_value(output, [int(fill.numpy().reshape(-1)[0])] * count)


def _choose(node: Node, output: Value, context: BoundedContext) -> None:
    """Where(Equal(a, b), x, y) is x or y where a and b are provably equal or unequal."""
    condition = None if node.inputs[0] is None else node.inputs[0].producer()
    if not is_op(condition, "Equal") or condition is None:
        return
    operands = [*condition.inputs, *node.inputs[1:]]
    vectors = [_elements(v, context) for v in operands]
    length = max((len(v) for v in vectors if v is not None), default=0)
    wide = [_spread(v, length) for v in vectors]
    if any(v is None for v in wide):
        return
    extents = [v in context.extents for v in operands]
    chosen: list[Dim] = []
    for a, b, x, y in zip(*(v or [] for v in wide), strict=True):
        if same_dim(x, y):
            chosen.append(x)
            continue
        equal = _equal(a, b, extents[0], extents[1])
        if equal is None:
            return
        chosen.append(x if equal else y)
    context.set_symbolic_value(output, chosen)
    if all(_has_extents(v, context) for v in node.inputs[1:]):
        context.extents.add(output)


def _spread(dims: Sequence[Dim] | None, length: int) -> list[Dim] | None:
    """`dims` broadcast to `length` elements, or None if they are unknown or of another length."""
    if dims is None or len(dims) not in (1, length):
        return None
    return list(dims) * (length if len(dims) == 1 else 1)


def _equal(a: Dim, b: Dim, a_is_extent: bool, b_is_extent: bool) -> bool | None:
    """Whether `a` and `b` are equal, or None where that depends on a size."""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    if same_dim(a, b):
        return True
    negative = (isinstance(b, int) and b < 0 and a_is_extent) or (
        isinstance(a, int) and a < 0 and b_is_extent
    )
    return False if negative else None
