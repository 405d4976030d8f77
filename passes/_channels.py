"""Folding ``f * y + s``, one number per output channel, into the node that makes ``y``.

What Conv, ConvTranspose, Gemm and MatMul have in common: their result is linear in the weight, and an
axis of the weight is the channel axis of the result. Products are taken in float64 and rounded once.
"""

from __future__ import annotations

import numpy as np

from graphopt.ir import Node, Value
from graphopt.ir.query import attribute, constant, constant_tensor, rank, static_shape
from graphopt.passes._matching import attributes_of, is_float, numbers
from graphopt.transform import NoMatch, Rewriter

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def channel_count(node: Node) -> int | None:
    """The number of output channels of a linear `node` with a constant weight, else None."""
    shape = static_shape(node.inputs[1]) if constant_tensor(node.inputs[1]) is not None else None
    if shape is None or len(shape) < 2:
        return None
    if node.op_type == "Conv":
        return shape[0]
    if node.op_type == "ConvTranspose":
        return shape[1] * int(attribute(node, "group", 1))
    if node.op_type == "MatMul":
        return shape[1] if len(shape) == 2 else None
    return shape[0] if attribute(node, "transB", 0) else shape[1]


def channel_axis(node: Node) -> int | None:
    """The channel axis of the result of a linear `node`: 1, and the last one after a MatMul."""
    if node.op_type != "MatMul":
        return 1
    result = rank(node.outputs[0])
    return None if result is None or result < 2 else result - 1


def channel_vector(value: Value | None, result_rank: int, axis: int, channels: int) -> np.ndarray | None:
    """A constant as one float64 number per channel, or None if it varies along another axis.

    Args:
        value: broadcast against a result of rank `result_rank` whose axis `axis` has `channels` entries.
    """
    array = constant(value, max_elements=max(channels, 1))
    if array is None or array.ndim > result_rank:
        return None
    shape = (1,) * (result_rank - array.ndim) + array.shape
    if any(dim != 1 for i, dim in enumerate(shape) if i != axis) or shape[axis] not in (1, channels):
        return None
    return np.broadcast_to(array.astype(np.float64).reshape(-1), (channels,))


def rescale(node: Node, factor: np.ndarray, shift: np.ndarray, rewriter: Rewriter) -> Value | NoMatch:
    """``factor * node(x) + shift`` as one node like `node` with another weight and bias.

    Args:
        node: one of LINEAR with a constant weight; its bias, if any, must be constant too.
        factor, shift: float64 [channels].
    """
    weight = node.inputs[1]
    data = numbers(weight)
    if weight is None or data is None or not is_float(weight):
        return NoMatch("the weight is not a constant of a float type", weight.name if weight else None)
    bias = _scaled_bias(node, factor, shift)
    if isinstance(bias, NoMatch):
        return bias
    new_weight = weight
    if not np.all(factor == 1.0):
        product = data.astype(np.float64) * _along_channels(node, data.shape, factor)
        narrowed = _narrow(product, data.dtype)
        if narrowed is None:
            return NoMatch("the folded weight overflows its type", weight.name)
        new_weight = rewriter.const(narrowed.reshape(data.shape), "weight")
    if bias is None:
        new_bias = None
    else:
        narrowed = _narrow(bias, data.dtype)
        if narrowed is None:
            return NoMatch("the folded bias overflows its type")
        new_bias = rewriter.const(narrowed, "bias")
    return _rebuilt(node, new_weight, new_bias, rewriter)


def _rebuilt(node: Node, weight: Value, bias: Value | None, rewriter: Rewriter) -> Value | NoMatch:
    x, attributes = node.inputs[0], attributes_of(node)
    op_type = node.op_type
    if op_type == "MatMul" and bias is not None:
        if rank(x) != 2:
            return NoMatch("a MatMul of this rank has no bias", x.name if x is not None else None)
        op_type = "Gemm"
    elif op_type == "Gemm":
        attributes.pop("beta", None)
    return rewriter.op(op_type, x, weight, bias, stem=node.name, **attributes)


def _scaled_bias(node: Node, factor: np.ndarray, shift: np.ndarray) -> np.ndarray | NoMatch | None:
    """``factor * bias + shift`` in float64, or None where there is no bias and nothing to add."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return shift if np.any(shift != 0.0) else None
    if node.op_type == "Gemm":
        old = channel_vector(value, 2, 1, factor.size)
        scale = float(attribute(node, "beta", 1.0))
    else:
        old, scale = channel_vector(value, 1, 0, factor.size), 1.0
    if old is None:
        return NoMatch("the bias is not one constant per channel", value.name)
    return np.asarray(old * scale * factor + shift)


def _along_channels(node: Node, shape: tuple[int, ...], factor: np.ndarray) -> np.ndarray:
    """`factor` shaped to multiply a weight of `shape`, on the weight's output channels."""
    if node.op_type == "Conv":
        return factor.reshape(-1, *(1,) * (len(shape) - 1))
    if node.op_type == "ConvTranspose":
        # [C_in, C_out/group, *k]: input channel i belongs to group i // (C_in / group).
        group = int(attribute(node, "group", 1))
        table = np.repeat(factor.reshape(group, shape[1]), shape[0] // group, axis=0)
        return table.reshape(*table.shape, *(1,) * (len(shape) - 2))
    if node.op_type == "Gemm" and attribute(node, "transB", 0):
        return factor.reshape(-1, 1)
    return factor.reshape(1, -1)


def _narrow(array: np.ndarray, dtype: np.dtype) -> np.ndarray | None:
    """`array` in `dtype`, or None if a number is not finite there."""
    with np.errstate(over="ignore", invalid="ignore"):
        narrowed = array.astype(dtype)
    return narrowed if np.all(np.isfinite(narrowed)) else None
