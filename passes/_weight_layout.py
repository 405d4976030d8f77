"""Changes of layout of constants: results that are promised now and made when somebody reads them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir

from graphopt.ir import DataType, LazyTensor, Node, Shape, TensorProtocol, Value
from graphopt.ir.evaluate import evaluate
from graphopt.ir.external import TransposedTensor
from graphopt.ir.query import attribute, constant, element_count, ints, is_op, static_shape
from graphopt.ir.shape_claims import slice_range

LAYOUT_OPS = frozenset(
    "Cast Concat Flatten Gather Identity Reshape Slice Split Squeeze Transpose Unsqueeze".split()
)
"""Operators that move, pick or retype numbers; none of them computes with them."""

Tensors = Sequence[TensorProtocol | None]


def promise(node: Node, tensors: Tensors, opset: int) -> list[TensorProtocol] | None:
    """The results of a layout change of constants, to be computed when they are read.

    None where the result could turn out to be another one, or none at all.
    """
    if node.op_type not in LAYOUT_OPS:
        return None
    made: list[TensorProtocol] = []
    for index, value in enumerate(node.outputs):
        shape, dtype = static_shape(value), value.dtype
        if shape is None or dtype is None or not _is_valid(node, tensors, shape, dtype):
            return None
        source = tensors[0]
        if _swaps_rows_and_columns(node, shape) and source is not None and dtype.bitwidth >= 8:
            made.append(TransposedTensor(source))
            continue
        made.append(_lazy(node, list(tensors), index, shape, dtype, opset))
    return made


def _swaps_rows_and_columns(node: Node, shape: tuple[int, ...]) -> bool:
    return is_op(node, "Transpose") and len(shape) == 2 and tuple(attribute(node, "perm", (1, 0))) == (1, 0)


def _lazy(
    node: Node, tensors: Tensors, index: int, shape: tuple[int, ...], dtype: DataType, opset: int
) -> TensorProtocol:
    # All parts of a Split are made at once, and together they are as large as what is split.
    size = sum(t.nbytes for t in tensors if t is not None) * 8

    def read() -> TensorProtocol:
        arrays = [None if t is None else t.numpy() for t in tensors]
        result = evaluate(node, arrays, opset=opset, max_bytes=size)[index]
        return onnx_ir.tensor(np.ascontiguousarray(result).reshape(shape), dtype=dtype)

    return LazyTensor(read, dtype=dtype, shape=Shape(shape))


def _is_valid(node: Node, tensors: Tensors, shape: tuple[int, ...], dtype: DataType) -> bool:
    """Whether the promise can be kept: nothing about the result depends on the numbers."""
    x = tensors[0]
    if x is None or min(element_count(shape), x.size) == 0:
        return False
    operand = tuple(x.shape.numpy())
    if node.op_type == "Cast":
        return operand == shape and _is_safe_cast(x.dtype, dtype)
    if x.dtype != dtype:
        return False
    if node.op_type == "Transpose":
        perm = attribute(node, "perm") or tuple(reversed(range(len(operand))))
        return sorted(perm) == list(range(len(operand))) and tuple(operand[p] for p in perm) == shape
    if node.op_type == "Concat":
        return _is_valid_concat(tensors, int(attribute(node, "axis")), shape)
    if node.op_type == "Split":
        axis = int(attribute(node, "axis", 0))
        parts = [static_shape(value) for value in node.outputs]
        return _cut(operand, axis) == _cut(shape, axis) and operand[axis] == sum(
            part[axis] if part is not None else -operand[axis] for part in parts
        )
    if node.op_type == "Slice":
        return _slice_shape(node, operand) == shape
    if node.op_type == "Gather":
        return _is_valid_gather(node, operand, shape)
    return element_count(operand) == element_count(shape)


def _cut(shape: tuple[int, ...], axis: int) -> tuple[int, ...] | None:
    """`shape` without `axis`, or None if it has no such axis."""
    if not -len(shape) <= axis < len(shape):
        return None
    axis %= len(shape)
    return (*shape[:axis], *shape[axis + 1 :])


def _is_valid_concat(tensors: Tensors, axis: int, shape: tuple[int, ...]) -> bool:
    parts = [tuple(t.shape.numpy()) for t in tensors if t is not None]
    rest = _cut(shape, axis)
    return (
        rest is not None
        and len(parts) == len(tensors)
        and all(len(p) == len(shape) and _cut(p, axis) == rest for p in parts)
        and sum(p[axis] for p in parts) == shape[axis]
    )


def _is_valid_gather(node: Node, operand: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    indices, axis = constant(node.inputs[1]), int(attribute(node, "axis", 0))
    if indices is None or not -len(operand) <= axis < len(operand):
        return False
    axis %= len(operand)
    size = operand[axis]
    return (
        bool(((indices >= -size) & (indices < size)).all())
        and (*operand[:axis], *indices.shape, *operand[axis + 1 :]) == shape
    )


def _slice_shape(node: Node, operand: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape of a Slice with constant bounds, or None if it has others or is not valid."""
    given = [None if v is None else ints(v) for v in node.inputs[1:]]
    starts, ends, axes, steps = [*given, None, None][:4]
    if (
        starts is None
        or ends is None
        or any(g is None and v is not None for g, v in zip(given, node.inputs[1:], strict=True))
    ):
        return None
    axes = tuple(range(len(starts))) if axes is None else axes
    steps = (1,) * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        return None
    shape = list(operand)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if not -len(shape) <= axis < len(shape):
            return None
        shape[axis] = len(slice_range(operand[axis], start, end, step))
    return tuple(shape)


def _is_safe_cast(source: DataType, target: DataType) -> bool:
    """Casts that are defined for every number: to floats of at least 16 bits, and between integers."""
    floats = {DataType.FLOAT16, DataType.BFLOAT16, DataType.FLOAT, DataType.DOUBLE}
    if target in floats:
        return source in floats or source.name.startswith(("INT", "UINT")) or source == DataType.BOOL
    return (
        target.name.startswith(("INT", "UINT"))
        and source.name.startswith(("INT", "UINT"))
        and (source.itemsize >= 1 and target.itemsize >= 1)
    )


def feeds_matrix_products(value: Value) -> bool:
    """Whether `value` is used, and only as the second operand of MatMul or Gemm."""
    uses = value.uses()
    return (
        0 < len(uses) <= MAX_PRODUCTS
        and not value.is_graph_output()
        and all(is_op(use.node, "MatMul", "Gemm") and use.idx == 1 for use in uses)
    )


MAX_PRODUCTS = 8
