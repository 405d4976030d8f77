"""eliminate-expands: no Expand or Tile before an operator that broadcasts by itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir

from graphopt.ir import DataType, Node, Shape, Value
from graphopt.ir.query import attribute, constant, ints, only_use, rank, same_dim, same_shape
from graphopt.ir.shape_claims import broadcast_dims
from graphopt.passes._matching import attributes_of, produced_by
from graphopt.transform import NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

BROADCASTING = frozenset(
    {"Add", "Sub", "Mul", "Div", "Mod", "Pow", "Max", "Min", "Mean", "Sum", "Where", "And", "Or", "Xor"}
    | {"BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor"}
    | {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}
)
MAX_RESHAPES = 4

_INTEGERS = {DataType.INT8, DataType.INT16, DataType.INT32, DataType.INT64}
_UNSIGNED = {DataType.UINT8, DataType.UINT16, DataType.UINT32, DataType.UINT64}
_FLOATS = {DataType.FLOAT, DataType.FLOAT16, DataType.DOUBLE}
_EXPANDED_TYPES = frozenset({DataType.BOOL, *_INTEGERS, *_UNSIGNED, *_FLOATS})
"""The types that ONNX Runtime's CPU provider has Expand for; bfloat16 is not among them."""

UNARY = frozenset(
    {"Abs", "BitwiseNot", "Cast", "Ceil", "Cos", "Exp", "Floor", "Log", "Neg", "Not", "Reciprocal", "Relu"}
    | {"Round", "Sigmoid", "Sign", "Sin", "Sqrt", "Tanh"}
)


def broadcast(values: list[Value]) -> Shape | None:
    """The shape that `values` broadcast to, None where it is not certain."""
    shapes = [v.shape for v in values if v.shape is not None]
    if len(shapes) != len(values):
        return None
    count = max(len(s) for s in shapes)
    dims = [broadcast_dims([s.dims[i - count] for s in shapes if len(s) >= count - i]) for i in range(count)]
    return None if any(d is None for d in dims) else Shape([d for d in dims if d is not None])


def _unexpanded(value: Value | None, rewriter: Rewriter) -> Value | None:
    """What is expanded to `value` by an Expand, a ConstantOfShape, or a Tile along axes of size 1."""
    expand = produced_by(value, "Expand")
    if expand is not None:
        return expand.inputs[0]
    number = fill_of(value)
    if number is not None:
        return rewriter.const(number, "fill")
    tile = produced_by(value, "Tile")
    if tile is None or tile.inputs[0] is None or tile.inputs[0].shape is None:
        return None
    x, repeats = tile.inputs[0], ints(tile.inputs[1])
    assert x.shape is not None
    if repeats is None or any(r != 1 and d != 1 for r, d in zip(repeats, x.shape.dims, strict=True)):
        return None
    return x


def fill_of(value: Value | None) -> np.ndarray | None:
    """The number that every element of `value` is, if a ConstantOfShape made it, reshaped or not."""
    for _ in range(MAX_RESHAPES):
        reshaped = produced_by(value, "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Expand", "Identity")
        if reshaped is None:
            break
        value = reshaped.inputs[0]
    filled = produced_by(value, "ConstantOfShape")
    if filled is None:
        return None
    fill = attribute(filled, "value")
    return np.zeros((), np.float32) if fill is None else np.asarray(fill.numpy().reshape(()))


@rule(*sorted(BROADCASTING))
def broadcast_of_expand(node: Node, rewriter: Rewriter) -> Replacement:
    """f(Expand(x), y) = f(x, y) if y gives the result its shape, as for ConstantOfShape."""
    for position, value in enumerate(node.inputs):
        x = _unexpanded(value, rewriter)
        if x is None:
            continue
        operands = [*node.inputs[:position], x, *node.inputs[position + 1 :]]
        shape = broadcast([v for v in operands if v is not None])
        if same_shape(shape, node.outputs[0].shape):
            return rewriter.op(node.op_type, *operands, **attributes_of(node))
    return NoMatch("no operand is expanded, or it gives the result its shape")


@rule("MatMul")
def matmul_of_expand(node: Node, rewriter: Rewriter) -> Replacement:
    """MatMul(Expand(a), b) = MatMul(a, b) if only axes of the batch are expanded, and b has them."""
    for position, value in enumerate(node.inputs):
        x = _unexpanded(value, rewriter)
        if x is None or x.shape is None or value is None or value.shape is None or len(x.shape) < 2:
            continue
        if not all(same_dim(a, b) for a, b in zip(x.shape.dims[-2:], value.shape.dims[-2:], strict=True)):
            continue
        operands = [x if i == position else v for i, v in enumerate(node.inputs)]
        result = rewriter.op("MatMul", *operands)
        if same_shape(result.shape, node.outputs[0].shape):
            return result
    return NoMatch("no operand is expanded, or it gives the result its shape")


@rule(*sorted(UNARY))
def unary_of_expand(node: Node, rewriter: Rewriter) -> Replacement:
    """f(Expand(x, s)) = Expand(f(x), s): fewer elements are computed."""
    value = node.inputs[0]
    expand = produced_by(value, "Expand")
    if expand is None or value is None or not _moves_behind(expand, value, node):
        return NoMatch("the operand is not expanded for it alone, or Expand does not take the result")
    inner = rewriter.op(node.op_type, expand.inputs[0], *node.inputs[1:], **attributes_of(node))
    return _expanded(inner, expand, node, rewriter)


def _moves_behind(expand: Node, value: Value, node: Node) -> bool:
    """Whether `expand` makes `value` for `node` alone, as often as that runs, and takes its result, too."""
    return only_use(value) is node and expand.graph is node.graph and node.outputs[0].dtype in _EXPANDED_TYPES


def _expanded(x: Value, expand: Node, node: Node, rewriter: Rewriter) -> Value:
    """Expand(x) as `expand` does, known to have the shape of what `node` makes."""
    result = rewriter.op("Expand", x, expand.inputs[1])
    result.shape = node.outputs[0].shape
    return result


@rule(*sorted(BROADCASTING))
def broadcast_of_expands(node: Node, rewriter: Rewriter) -> Replacement:
    """f(Expand(x, s), y) = Expand(f(x, y), s) if fewer elements are computed so."""
    for position, value in enumerate(node.inputs):
        expand = produced_by(value, "Expand")
        if expand is None or value is None or not _moves_behind(expand, value, node):
            continue
        operands = [*node.inputs[:position], expand.inputs[0], *node.inputs[position + 1 :]]
        small = broadcast([v for v in operands if v is not None])
        if small is None or _may_be_larger(small, value.shape):
            continue
        inner = rewriter.op(node.op_type, *operands, **attributes_of(node))
        return _expanded(inner, expand, node, rewriter)
    return NoMatch("no operand is expanded for it alone, or the others are as large")


@rule("And")
def and_of_true(node: Node, rewriter: Rewriter) -> Replacement:
    """And(x, ConstantOfShape(s, true)) = Expand(x, s)."""
    for position, value in enumerate(node.inputs):
        number, other = fill_of(value), node.inputs[1 - position]
        if number is None or not bool(number) or value is None or other is None:
            continue
        direct = produced_by(value, "ConstantOfShape")
        target = direct.inputs[0] if direct is not None else rewriter.op("Shape", value)
        result = rewriter.op("Expand", other, target)
        result.shape = node.outputs[0].shape
        return result
    return NoMatch("no operand is all true")


@rule("Cast")
def cast_of_fill(node: Node, rewriter: Rewriter) -> Replacement:
    """Cast(ConstantOfShape(s, n)) = ConstantOfShape(s, Cast(n)), for integers and booleans."""
    filled, output = produced_by(node.inputs[0], "ConstantOfShape"), node.outputs[0]
    number = fill_of(node.inputs[0])
    if filled is None or number is None or output.dtype not in _PLAIN or number.dtype.kind not in "iub":
        return NoMatch("the operand is no fill of integers", node.name)
    assert output.dtype is not None
    tensor = onnx_ir.tensor(number.reshape(1).astype(output.dtype.numpy()), dtype=output.dtype)
    result = rewriter.op("ConstantOfShape", filled.inputs[0], value=tensor)
    result.shape = output.shape
    return result


_PLAIN = frozenset({DataType.BOOL, DataType.INT32, DataType.INT64, DataType.FLOAT, DataType.DOUBLE})


@rule(*sorted(BROADCASTING))
def broadcast_of_repeated_rows(node: Node, rewriter: Rewriter) -> Replacement:
    """f(Gather(w, Expand(i)), y) = f(Gather(w, i), y) if y gives the result its shape."""
    for position, value in enumerate(node.inputs):
        gather = produced_by(value, "Gather")
        if gather is None or value is None or only_use(value) is not node:
            continue
        indices = gather.inputs[1]
        x = _repeated(indices)
        if x is None or int(attribute(gather, "axis", 0)) != 0 or rank(x) != rank(indices):
            continue
        rows = rewriter.op("Gather", gather.inputs[0], x)
        operands = [rows if i == position else v for i, v in enumerate(node.inputs)]
        shape = broadcast([v for v in operands if v is not None])
        if same_shape(shape, node.outputs[0].shape):
            return rewriter.op(node.op_type, *operands, **attributes_of(node))
    return NoMatch("no operand is of repeated rows, or it gives the result its shape")


def _repeated(value: Value | None) -> Value | None:
    """What `value` repeats along axes of size 1, by Expand or Tile, as far as its shape tells."""
    repeating = produced_by(value, "Expand", "Tile")
    x = None if repeating is None else repeating.inputs[0]
    if (
        x is None
        or value is None
        or x.shape is None
        or value.shape is None
        or len(x.shape) != len(value.shape)
    ):
        return None
    pairs = zip(x.shape.dims, value.shape.dims, strict=True)
    return x if all(a == 1 or same_dim(a, b) for a, b in pairs) else None


def _may_be_larger(shape: Shape, other: Shape | None) -> bool:
    """Whether `shape` may have more elements than `other`: not if its axes are 1 or those of `other`."""
    if other is None or len(shape) > len(other):
        return True
    pairs = zip(reversed(shape.dims), reversed(other.dims), strict=False)
    return not all(a == 1 or same_dim(a, b) for a, b in pairs)


@rule("Expand")
def expand_of_expand(node: Node, rewriter: Rewriter) -> Replacement:
    """Expand(Expand(x, s), t) = Expand(x, t) if that has the shape of the result."""
    expand = produced_by(node.inputs[0], "Expand")
    if expand is None or expand.inputs[0] is None:
        return NoMatch("the operand is no Expand")
    target = target_shape(node.inputs[1])
    carrier = None if target is None else broadcast([expand.inputs[0], Value(shape=target)])
    if not same_shape(carrier, node.outputs[0].shape):
        return NoMatch("the first Expand gives the result its shape", expand.name)
    return _expanded(expand.inputs[0], node, node, rewriter)


def target_shape(target: Value | None) -> Shape | None:
    """The shape that a constant or a Shape asks for."""
    known = ints(target)
    if known is not None:
        return Shape(known) if all(d >= 0 for d in known) else None
    shape = produced_by(target, "Shape")
    if shape is None or shape.inputs[0] is None or shape.inputs[0].shape is None:
        return None
    start, end = attribute(shape, "start", 0), attribute(shape, "end")
    return Shape(shape.inputs[0].shape.dims[start:end])


@rule("Tile")
def tile_of_tile(node: Node, rewriter: Rewriter) -> Replacement:
    """Tile(Tile(x, r), s) = Tile(x, r * s)."""
    tile = produced_by(node.inputs[0], "Tile")
    if tile is None:
        return NoMatch("the operand is no Tile")
    first, second = constant(tile.inputs[1]), constant(node.inputs[1])
    if first is None or second is None or first.shape != second.shape:
        return NoMatch("the repeats are not constant", tile.name)
    return rewriter.op("Tile", tile.inputs[0], rewriter.const(first * second, "repeats"))


@dataclasses.dataclass(frozen=True)
class EliminateExpands(RulePass):
    """Drop an Expand (or a Tile of axes of size 1) whose user broadcasts, or move it behind the user.

    given:  float[1, 4] x; float[3, 4] z
    before: y = Add(Expand(x, [3, 4]), z)
    after:  y = Add(x, z)

    The shape of the result is proven to stay, symbolic dimensions included. An Expand moves only
    behind operators that then compute fewer elements.

    Spec: https://onnx.ai/onnx/operators/onnx__Expand.html
    """

    rules = (
        broadcast_of_expand,
        broadcast_of_expands,
        matmul_of_expand,
        unary_of_expand,
        and_of_true,
        cast_of_fill,
        broadcast_of_repeated_rows,
        expand_of_expand,
        tile_of_tile,
    )
