"""Elements of shape vectors that the inference package does not follow: fills, and choices by sign.

Exporters guard the target of an Expand: where it is -1, take 1. Which elements are -1 is decided
here, from what is read of a tensor's shape, which is never negative.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir import DataType, Node, Shape, SymbolicDim, Value
from graphopt.ir.query import attribute, is_op, same_dim, static_shape
from graphopt.ir.shape_context import MAX_FOLLOWED_ELEMENTS, MAX_RANK, BoundedContext

Dim = int | SymbolicDim

_CARRIERS = frozenset({"Cast", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Unsqueeze"})
_MONOTONE = frozenset({"Add", "Max", "Mul"})
"""Of operands that are not negative, their result is not negative."""


def follow_elements(node: Node, context: BoundedContext) -> None:
    """Record what a ConstantOfShape, a quotient or a decided Where is, and whose symbols are extents."""
    if (node.domain or "") != "" or not node.outputs:
        return
    output = node.outputs[0]
    if is_op(node, "ConstantOfShape"):
        _fill(node, output, context)
    if output.dtype != DataType.INT64:
        return
    if is_op(node, "Where"):
        _choose(node, output, context)
    elif is_op(node, "Div"):
        _divide(node, output, context)
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
    return node.op_type in _MONOTONE and all(_are_sizes(v, context) for v in node.inputs)


def _are_sizes(value: Value | None, context: BoundedContext) -> bool:
    """Whether no element of `value` can be negative."""
    numbers = [d for d in _elements(value, context) or () if isinstance(d, int)]
    return _has_extents(value, context) and not any(number < 0 for number in numbers)


def _has_extents(value: Value | None, context: BoundedContext) -> bool:
    """Whether no element of `value` is a symbol that may be negative."""
    dims = _elements(value, context)
    return dims is not None and (value in context.extents or all(isinstance(d, int) for d in dims))


def _elements(value: Value | None, context: BoundedContext) -> list[Dim] | None:
    return None if value is None else context.get_symbolic_value(value)


def _fill(node: Node, output: Value, context: BoundedContext) -> None:
    """ConstantOfShape(t) has the shape t, and where t is one number, that many equal elements."""
    target = _elements(node.inputs[0], context)
    if output.shape is None:
        certain = target is not None and _are_sizes(node.inputs[0], context)
        length = static_shape(node.inputs[0])
        if certain and target is not None:
            output.shape = Shape(target)
        elif length is not None and len(length) == 1 and length[0] <= MAX_RANK:
            output.shape = Shape([context.new_symbolic_dim() for _ in range(length[0])])
    if target is None:
        return
    fill = attribute(node, "value")
    if output.dtype != DataType.INT64 or len(target) != 1 or fill is None or fill.size != 1:
        return
    (count,) = target
    if isinstance(count, int) and 0 <= count <= MAX_FOLLOWED_ELEMENTS:
        context.set_symbolic_value(output, [int(fill.numpy().reshape(-1)[0])] * count)


def _divide(node: Node, output: Value, context: BoundedContext) -> None:
    """The quotient of a size by a positive number is rounded down, and never negative."""
    dividend, divisor = (_elements(v, context) for v in node.inputs)
    if dividend is None or divisor is None or not _are_sizes(node.inputs[0], context):
        return
    length = max(len(dividend), len(divisor))
    above, below = _spread(dividend, length), _spread(divisor, length)
    if above is None or below is None:
        return
    quotients: list[Dim] = []
    for a, b in zip(above, below, strict=True):
        if not isinstance(b, int) or b <= 0:
            return
        quotients.append(a // b)
    context.set_symbolic_value(output, quotients)
    context.extents.add(output)


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
