"""Which operators work in any order of their axes, and what changes in them with the order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphopt.ir import Attr, AttributeType, Node, Value
from graphopt.ir.query import attribute, constant, constant_tensor, element_count, ints, rank, static_shape
from graphopt.passes.push_transposes import REDUCTIONS, UNARY, VARIADIC

MakeConstant = Callable[[np.ndarray, str], Value]

MAX_CONSTANT_ELEMENTS = 1 << 20
_AXIS_DEFAULTS = {
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax", "LpNormalization", "TopK"), -1),
    **dict.fromkeys(("ArgMax", "ArgMin", "Split"), 0),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), 1),
    "Concat": 0,
}
_WITH_AXES_INPUT = {"Pad": 3, "Slice": 3, **dict.fromkeys(REDUCTIONS, 1)}


def data_inputs(node: Node) -> list[Value] | None:
    """The operands of `node` whose axes are those of its outputs; None if their order matters to it.

    Constants and single numbers are not listed: :func:`reorder` takes care of them.
    """
    if node.domain or any(v is None for v in node.inputs[:1]) or not node.inputs:
        return None
    count = rank(node.outputs[0])
    if count is None or any(rank(v) != count for v in node.outputs if v.name):
        return None
    if node.op_type in VARIADIC or node.op_type == "Concat":
        return _operands(node, count)
    x = node.inputs[0]
    if x is None or rank(x) != count or constant_tensor(x) is not None or not _is_reorderable(node, count):
        return None
    return [x]


def _operands(node: Node, count: int) -> list[Value] | None:
    found: list[Value] = []
    for value in node.inputs:
        if value is None:
            return None
        tensor = constant_tensor(value)
        if tensor is not None:
            if tensor.size > MAX_CONSTANT_ELEMENTS or len(tensor.shape) > count:
                return None
        elif rank(value) == count:
            found.append(value)
        elif not _is_single(value):
            return None
    return found or None


def _is_single(value: Value) -> bool:
    shape = static_shape(value)
    return shape is not None and element_count(shape) == 1


def _is_reorderable(node: Node, count: int) -> bool:
    op_type = node.op_type
    if op_type in UNARY:
        return True
    if op_type in ("QuantizeLinear", "DequantizeLinear"):
        return not attribute(node, "block_size", 0) and all((rank(v) or 0) <= 1 for v in node.inputs[1:] if v)
    if op_type in ("ArgMax", "ArgMin"):
        return bool(attribute(node, "keepdims", 1))
    if op_type in _AXIS_DEFAULTS:
        return True
    if op_type in REDUCTIONS:
        given = node.inputs[1] if len(node.inputs) > 1 else None
        return bool(attribute(node, "keepdims", 1)) and (given is None or ints(given) is not None)
    if op_type in ("Pad", "Slice"):
        return all(
            v is None or i in (2,) or ints(v) is not None for i, v in enumerate(node.inputs) if i
        ) and (op_type == "Pad" or ints(node.inputs[2]) is not None)
    if op_type in ("Expand", "Tile"):
        target = ints(node.inputs[1])
        return target is not None and len(target) == count
    return False


def reorder(node: Node, perm: Sequence[int], make_constant: MakeConstant) -> None:
    """Let `node` do on x' what it did on ``x = Transpose(x', perm)``, whose axis i is axis perm[i] of x'."""
    op_type = node.op_type
    if op_type in VARIADIC:
        for index, value in enumerate(node.inputs):
            array = constant(value, max_elements=MAX_CONSTANT_ELEMENTS)
            if array is not None and array.size > 1:
                node.replace_input_with(index, make_constant(_turned(array, perm), "turned"))
    elif op_type in _AXIS_DEFAULTS:
        axis = int(attribute(node, "axis", _AXIS_DEFAULTS[op_type]))
        node.attributes["axis"] = Attr("axis", AttributeType.INT, int(perm[axis]))
        if op_type == "Concat":
            for index, value in enumerate(node.inputs):
                array = constant(value, max_elements=MAX_CONSTANT_ELEMENTS)
                if array is not None:
                    node.replace_input_with(index, make_constant(_turned(array, perm), "turned"))
    elif op_type in _WITH_AXES_INPUT:
        _reorder_axes(node, perm, make_constant)
    elif op_type in ("Expand", "Tile"):
        target = ints(node.inputs[1]) or ()
        turned = [0] * len(perm)
        for position, number in zip(perm, target, strict=True):
            turned[position] = number
        node.replace_input_with(1, make_constant(np.array(turned, np.int64), "target"))


def _turned(array: np.ndarray, perm: Sequence[int]) -> np.ndarray:
    full = array.reshape((1,) * (len(perm) - array.ndim) + array.shape)
    return np.ascontiguousarray(full.transpose(np.argsort(perm)))


def _reorder_axes(node: Node, perm: Sequence[int], make_constant: MakeConstant) -> None:
    position = _WITH_AXES_INPUT[node.op_type]
    given = node.inputs[position] if len(node.inputs) > position else None
    axes = ints(given) if given is not None else None
    if axes is None:
        if node.op_type in REDUCTIONS:
            return  # over all axes, or none
        axes = tuple(range(len(ints(node.inputs[1]) or ()) // (2 if node.op_type == "Pad" else 1)))
    dtype = np.int64 if given is None or given.dtype is None else given.dtype.numpy()
    if given is None and node.op_type == "Slice" and node.inputs[1] is not None and node.inputs[1].dtype:
        dtype = node.inputs[1].dtype.numpy()
    moved = make_constant(np.array([perm[a] for a in axes], dtype), "axes")
    while len(node.inputs) <= position:
        node.resize_inputs(len(node.inputs) + 1)
    node.replace_input_with(position, moved)
