"""Folding ``f * y + s``, one number per output channel, into the node that makes ``y``.

What Conv, ConvTranspose, Gemm and MatMul have in common: their result is linear in the weight, and an
axis of the weight is the channel axis of the result. Products are taken in float64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir

from graphopt.ir import LazyTensor, Node, Shape, Value
from graphopt.ir.query import attribute, constant, constant_tensor, rank, static_shape
from graphopt.passes._matching import attributes_of, is_float, limits, numbers
from graphopt.transform import NoMatch, Rewriter

SHARED_BYTES = 1 << 16
"""Weights up to this size may be copied for one of several users."""

LAZY_BYTES = 1 << 22
"""Weights above this size are scaled when they are read."""

PART_ELEMENTS = 1 << 18

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
    shape = static_shape(weight)
    if weight is None or constant_tensor(weight) is None or shape is None or not is_float(weight):
        return NoMatch("the weight is not a constant of a float type", weight.name if weight else None)
    bias = _scaled_bias(node, factor, shift)
    if isinstance(bias, NoMatch):
        return bias
    new_weight = weight
    if not np.all(factor == 1.0):
        scaled = scaled_weight(weight, _along_channels(node, shape, factor), rewriter)
        if isinstance(scaled, NoMatch):
            return scaled
        new_weight = scaled
    return _rebuilt(node, node.inputs[0], new_weight, bias, rewriter)


def absorb(
    node: Node, x: Value | None, factor: np.ndarray, shift: np.ndarray, rewriter: Rewriter
) -> Value | NoMatch:
    """``node(factor * x + shift)`` as one node like `node` on `x`, where no padding can be seen.

    Args:
        node: one of LINEAR with a constant weight; its bias, if any, must be constant where a shift is.
        factor, shift: float64 [input channels].
    """
    weight = node.inputs[1]
    shape = static_shape(weight)
    if weight is None or constant_tensor(weight) is None or shape is None or not is_float(weight):
        return NoMatch("the weight is not a constant of a float type", weight.name if weight else None)
    if input_channel_count(node) != factor.size:
        return NoMatch("the channels differ", node.name)
    if np.any(shift != 0.0) and _sees_its_border(node, shape):
        return NoMatch("the Conv pads with zeros what was shifted", node.name)
    bias: np.ndarray | NoMatch | Value | None
    if np.any(shift != 0.0):
        added = _sum_of_shifts(node, shift)
        bias = _scaled_bias(node, np.ones(added.size), added)
    else:
        bias = node.inputs[2] if len(node.inputs) > 2 else None
    if isinstance(bias, NoMatch):
        return bias
    scaled: Value | NoMatch = weight
    if not np.all(factor == 1.0):
        scaled = scaled_weight(weight, _along_input_channels(node, shape, factor), rewriter)
    if isinstance(scaled, NoMatch):
        return scaled
    return _rebuilt(node, x, scaled, bias, rewriter)


def input_channel_count(node: Node) -> int | None:
    """The number of input channels of a linear `node` with a constant weight, else None."""
    shape = static_shape(node.inputs[1]) if constant_tensor(node.inputs[1]) is not None else None
    if shape is None or len(shape) < 2:
        return None
    if node.op_type == "Conv":
        return shape[1] * int(attribute(node, "group", 1))
    if node.op_type == "ConvTranspose":
        return shape[0]
    if node.op_type == "MatMul":
        return shape[-2]
    return shape[1] if attribute(node, "transB", 0) else shape[0]


def input_channel_axis(node: Node) -> int | None:
    """The axis of the first operand of a linear `node` that runs over the input channels."""
    if node.op_type in ("Conv", "ConvTranspose"):
        return 1
    operand = rank(node.inputs[0])
    if operand is None:
        return None
    return 0 if attribute(node, "transA", 0) else operand - 1


def scaled_weight(weight: Value, table: np.ndarray, rewriter: Rewriter) -> Value | NoMatch:
    """The constant `weight` times `table` (float64, of its rank, broadcast to it), rounded once.

    A large weight is read in parts, now for its range and again when the product is read: the product
    is not kept. A large weight that is used elsewhere, too, is not copied.
    """
    tensor = constant_tensor(weight)
    if tensor is None:
        return NoMatch("the weight is not constant", weight.name)
    if tensor.nbytes > SHARED_BYTES and len(weight.uses()) > 1:
        return NoMatch("the weight is large and used elsewhere, too", weight.name)
    data = tensor.numpy()
    largest = 0.0
    for _, part in _products(data, table):
        if not np.all(np.isfinite(part)):
            return NoMatch("the folded weight overflows its type", weight.name)
        largest = max(largest, float(np.max(np.abs(part), initial=0)))
    if 0.0 < largest < float(limits(data.dtype).smallest_normal):
        return NoMatch("the folded weight underflows its type", weight.name)
    if tensor.nbytes <= LAZY_BYTES:
        return rewriter.const(_product(data, table), "weight")
    dtype, shape = tensor.dtype, Shape(data.shape)
    lazy = LazyTensor(
        lambda: onnx_ir.tensor(_product(tensor.numpy(), table), dtype=dtype), dtype=dtype, shape=shape
    )
    return rewriter.const(lazy, "weight")


def _products(data: np.ndarray, table: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Runs of rows of `data`, each times its part of `table`, in the type of `data`."""
    rows = max(1, PART_ELEMENTS // max(1, data[:1].size))
    for start in range(0, len(data), rows):
        part = slice(start, start + rows)
        factors = table[part] if len(table) > 1 else table
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            yield part, (data[part].astype(np.float64) * factors).astype(data.dtype)


def _product(data: np.ndarray, table: np.ndarray) -> np.ndarray:
    result = np.empty(data.shape, data.dtype)
    for part, product in _products(data, table):
        result[part] = product
    return result


def _sees_its_border(node: Node, shape: tuple[int, ...]) -> bool:
    """Whether some results of a convolution take less than the whole kernel's share of its input."""
    if node.op_type == "Conv":
        return any(attribute(node, "pads", ())) or attribute(node, "auto_pad", "NOTSET").startswith("SAME")
    if node.op_type != "ConvTranspose":
        return False
    moved = ("pads", "output_padding", "output_shape")
    return any(dim != 1 for dim in (*shape[2:], *attribute(node, "strides", ()))) or any(
        any(attribute(node, name, ())) for name in moved
    )


def _sum_of_shifts(node: Node, shift: np.ndarray) -> np.ndarray:
    """What a linear `node` makes of the input `shift`, one number for each input channel."""
    data = numbers(node.inputs[1])
    assert data is not None
    wide = data.astype(np.float64)
    if node.op_type == "Conv":
        table = _along_input_channels(node, data.shape, shift)
        return np.asarray((wide * table).sum(axis=tuple(range(1, wide.ndim))))
    if node.op_type == "ConvTranspose":
        group = int(attribute(node, "group", 1))
        parts = wide.reshape(group, data.shape[0] // group, data.shape[1])
        return np.asarray(np.einsum("gc,gcm->gm", shift.reshape(group, -1), parts).reshape(-1))
    if attribute(node, "transB", 0):
        wide = wide.T
    return np.asarray(shift @ wide) * float(attribute(node, "alpha", 1.0))


def _rebuilt(
    node: Node, x: Value | None, weight: Value, bias: np.ndarray | Value | None, rewriter: Rewriter
) -> Value | NoMatch:
    attributes, op_type = attributes_of(node), node.op_type
    if op_type == "MatMul" and bias is not None:
        if rank(x) != 2 or rank(weight) != 2:
            return NoMatch("a MatMul of this rank has no bias", x.name if x is not None else None)
        op_type = "Gemm"
    if isinstance(bias, np.ndarray):
        dtype = weight.dtype.numpy() if weight.dtype is not None else np.dtype(np.float32)
        narrowed = _narrow(bias, dtype)
        if narrowed is None:
            return NoMatch("the folded bias overflows its type")
        bias = rewriter.const(narrowed, "bias")
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


def _along_input_channels(node: Node, shape: tuple[int, ...], factor: np.ndarray) -> np.ndarray:
    """`factor` shaped to multiply a weight of `shape`, on the weight's input channels."""
    if node.op_type == "Conv":
        # [C_out, C_in/group, *k]: row m reads the input channels of group m // (C_out / group).
        group = int(attribute(node, "group", 1))
        table = np.repeat(factor.reshape(group, shape[1]), shape[0] // group, axis=0)
        return table.reshape(*table.shape, *(1,) * (len(shape) - 2))
    if node.op_type == "ConvTranspose":
        return factor.reshape(-1, *(1,) * (len(shape) - 1))
    if node.op_type == "Gemm" and attribute(node, "transB", 0):
        return factor.reshape(1, -1)
    return factor.reshape(*(1,) * (len(shape) - 2), -1, 1)


def _narrow(array: np.ndarray, dtype: np.dtype) -> np.ndarray | None:
    """`array` in `dtype`, or None if a number is not finite there."""
    with np.errstate(over="ignore", invalid="ignore"):
        narrowed = array.astype(dtype)
    return narrowed if np.all(np.isfinite(narrowed)) else None
