"""ONNX Runtime's products with quantized operands, and its own forms of quantizing.

Spec: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md , a heading for each.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from graphopt.lowering.xla.dtypes import is_float
from graphopt.lowering.xla.emit import Context
from graphopt.lowering.xla.ops import lowers
from graphopt.lowering.xla.ops.contrib_attention import MASK_FILTER_VALUE, self_attention
from graphopt.lowering.xla.ops.matmul import accumulator, requantize
from graphopt.lowering.xla.ops.quantize import (
    dequantize_linear,
    divided,
    dynamic_quantize_linear,
    quantize_linear,
)

Array = Any
DOMAIN = "com.microsoft"


@lowers("QuantizeLinear", since=(1,), domain=DOMAIN)
def quantize_linear_1(
    ctx: Context, x: Array, y_scale: Array, y_zero_point: Array | None, *, axis: int = 1
) -> Array:  # fmt: skip
    """saturate(round(x / scale) + zero_point), by tensor or by `axis`."""
    return quantize_linear(ctx, x, y_scale, y_zero_point, axis=axis)


@lowers("DequantizeLinear", since=(1,), domain=DOMAIN)
def dequantize_linear_1(x: Array, x_scale: Array, x_zero_point: Array | None, *, axis: int = 1) -> Array:
    """(x - zero_point) * scale, by tensor or by `axis`."""
    return dequantize_linear(x, x_scale, x_zero_point, axis=axis)


def _product(a: Array, b: Array, a_zero_point: Array | None, b_zero_point: Array | None) -> Array:
    """(a - a_zero_point) @ (b - b_zero_point) in int32; zero points by tensor, b's also by column."""
    a, b = a.astype(np.int32), b.astype(np.int32)
    if a_zero_point is not None:
        a = a - _by_column(a_zero_point).astype(np.int32)
    if b_zero_point is not None:
        b = b - _by_column(b_zero_point).astype(np.int32)
    return jnp.matmul(a, b)


def _by_column(parameter: Array) -> Array:
    """A parameter of one element as a scalar, one for each column as it is."""
    return parameter.reshape(()) if parameter.size == 1 else parameter


@lowers("DynamicQuantizeMatMul", since=(1,), domain=DOMAIN)
def dynamic_quantize_matmul(
    a: Array, b: Array, b_scale: Array, b_zero_point: Array | None, bias: Array | None
) -> Array:  # fmt: skip
    """a @ b + bias with a quantized to uint8 by its range, as DynamicQuantizeLinear does."""
    quantized, scale, zero = dynamic_quantize_linear(a)
    y = _product(quantized, b, zero, b_zero_point).astype(np.float32) * (scale * _by_column(b_scale))
    return y if bias is None else y + bias


@lowers("MatMulIntegerToFloat", since=(1,), domain=DOMAIN)
def matmul_integer_to_float(
    a: Array,
    b: Array,
    a_scale: Array,
    b_scale: Array,
    a_zero_point: Array | None,
    b_zero_point: Array | None,
    bias: Array | None,
) -> Array:
    """dequantize(a) @ dequantize(b) + bias, the product itself in int32."""
    dtype, wide = a_scale.dtype, np.float32
    scale = _by_column(a_scale).astype(wide) * _by_column(b_scale).astype(wide)
    y = _product(a, b, a_zero_point, b_zero_point).astype(wide) * scale
    return (y if bias is None else y + bias.astype(wide)).astype(dtype)


@lowers("MatMulInteger16", since=(1,), domain=DOMAIN)
def matmul_integer_16(a: Array, b: Array) -> Array:
    """a @ b in 32 bits: unsigned if both operands are."""
    unsigned = {a.dtype, b.dtype} == {np.dtype(np.uint16)}
    wide = np.dtype(np.uint32 if unsigned else np.int32)
    return jnp.matmul(a.astype(wide), b.astype(wide))


@lowers("MulInteger", since=(1,), domain=DOMAIN)
def mul_integer(a: Array, a_zero_point: Array | None, b: Array, b_zero_point: Array | None) -> Array:
    """(a - a_zero_point) * (b - b_zero_point) in int32."""
    a, b = a.astype(np.int32), b.astype(np.int32)
    if a_zero_point is not None:
        a = a - a_zero_point.astype(np.int32).reshape(())
    if b_zero_point is not None:
        b = b - b_zero_point.astype(np.int32).reshape(())
    return a * b


@lowers("ReduceSumInteger", since=(1,), domain=DOMAIN)
def reduce_sum_integer(data: Array, *, axes: tuple[int, ...], keepdims: int) -> Array:
    """The sum along `axes` in 32 bits of the same sign."""
    wide = np.uint32 if data.dtype == np.uint8 else np.int32
    return jnp.sum(data, tuple(axes), keepdims=bool(keepdims), dtype=wide)


@lowers("QGemm", since=(1,), domain=DOMAIN)
def qgemm(
    a: Array,
    a_scale: Array,
    a_zero_point: Array,
    b: Array,
    b_scale: Array,
    b_zero_point: Array,
    c: Array | None,
    y_scale: Array | None,
    y_zero_point: Array | None,
    *,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Array:
    """alpha * dequantize(a' @ b' + c), quantized if y's scale is given. b's parameters may differ by column.

    c is int32 in the units of the product.
    """
    a = a.astype(np.int32) - a_zero_point.astype(np.int32).reshape(())
    b = b.T if transB else b
    y = _product(a.T if transA else a, b, None, b_zero_point)
    if c is not None:
        y = y + c
    scale = a_scale.reshape(()) * _by_column(b_scale) * jnp.asarray(alpha, np.float32)
    if y_scale is None or y_zero_point is None:
        return y.astype(np.float32) * scale
    return requantize(y.astype(np.float32) * divided(scale, y_scale.reshape(())), y_zero_point.reshape(()))


@lowers("QAttention", since=(1,), domain=DOMAIN)
def qattention(
    ctx: Context,
    input: Array,
    weight: Array,
    bias: Array,
    input_scale: Array,
    weight_scale: Array,
    mask_index: Array | None,
    input_zero_point: Array | None,
    weight_zero_point: Array | None,
    past: Array | None,
    *,
    do_rotary: int = 0,
    mask_filter_value: float = MASK_FILTER_VALUE,
    num_heads: int,
    past_present_share_buffer: int = 0,
    scale: float = 0.0,
    unidirectional: int = 0,
) -> tuple[Array, ...]:
    """com.microsoft.Attention whose projection is an integer product; the rest is in float."""
    if do_rotary or past_present_share_buffer:
        raise ctx.unsupported("do_rotary and past_present_share_buffer")
    projected = matmul_integer_to_float(
        input, weight, input_scale, weight_scale, input_zero_point, weight_zero_point, bias
    )
    q, k, v = jnp.split(projected, 3, axis=-1)
    y, present = self_attention(
        ctx, q, k, v, mask_index, past, None,
        filter_value=mask_filter_value, num_heads=num_heads, scale=scale, unidirectional=unidirectional,
    )  # fmt: skip
    return (y,) if present is None else (y, present)


def unpacked(x: Array, bits: int) -> Array:
    """The numbers of `bits` bits in bytes along the last axis, the low ones first, as uint8."""
    if bits == 8:
        return x
    count = 8 // bits
    shifts = (np.arange(count) * bits).astype(np.uint8)
    parts = (x[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return parts.reshape((*x.shape[:-1], x.shape[-1] * count))


# accuracy_level allows a coarser left operand, which is never needed.
@lowers("MatMulNBits", since=(1,), domain=DOMAIN, ignores=("accuracy_level",))
def matmul_n_bits(
    ctx: Context,
    a: Array,
    b: Array,
    scales: Array,
    zero_points: Array | None,
    g_idx: Array | None,
    bias: Array | None,
    *,
    K: int,
    N: int,
    bits: int = 4,
    block_size: int,
    weight_prepacked: int = 0,
) -> Array:
    """a @ w' + bias for ``w: [N, K]`` = (b - zero_point) * scale, packed in blocks along K.

    Shapes: ``b: [N, blocks, block_size * bits / 8]``, ``scales: [N, blocks]``; zero points are packed alike,
    or of a's type and one for each block; without them they are ``2 ** (bits - 1)``.
    """
    if g_idx is not None or weight_prepacked or bits not in (2, 4, 8):
        raise ctx.unsupported("prepacked weights, group indices, or this width", found=f"{bits} bits")
    dtype, wide = a.dtype, accumulator(a.dtype)
    blocks = -(-K // block_size)
    w = unpacked(b.reshape((N, blocks, -1)), bits).astype(wide)
    if zero_points is None:
        w = w - jnp.asarray(1 << (bits - 1), wide)
    else:
        zero = zero_points.reshape((N, -1))
        if not is_float(zero.dtype):
            zero = unpacked(zero, bits)[:, :blocks]
        w = w - zero.astype(wide)[:, :, None]
    w = w * scales.reshape((N, blocks, 1)).astype(wide)
    w = w.reshape((N, blocks * block_size))[:, :K].astype(dtype)
    y = jnp.matmul(a, w.T, precision=ctx.precision, preferred_element_type=wide)
    return (y if bias is None else y + bias.astype(wide)).astype(dtype)


@lowers("GatherBlockQuantized", since=(1,), domain=DOMAIN)
def gather_block_quantized(
    ctx: Context,
    data: Array,
    indices: Array,
    scales: Array,
    zero_points: Array | None,
    *,
    bits: int = 4,
    block_size: int = 128,
    gather_axis: int = 0,
    quantize_axis: int = 1,
) -> Array:
    """(data - zero_point) * scale at `indices` along gather_axis, a scale for each block of quantize_axis.

    Bytes hold numbers of `bits` bits along the last axis, whose zero point is ``2 ** (bits - 1)`` by default.
    """
    packed = data.dtype == np.uint8
    taken, blocked = gather_axis % data.ndim, quantize_axis % data.ndim
    if taken == blocked or is_float(data.dtype) or (packed and bits not in (2, 4, 8)):
        raise ctx.unsupported("this form of quantized data", found=data.dtype)
    size = data.shape[taken]

    def gathered(x: Array) -> Array:
        return jnp.take(x, jnp.clip(indices, -size, size - 1), axis=taken, mode="wrap")

    numbers, factor = gathered(data), gathered(scales)
    zero = None if zero_points is None else gathered(zero_points)
    if packed:
        numbers = unpacked(numbers, bits)
        zero = None if zero is None else unpacked(zero, bits)
    axis = blocked if blocked < taken else blocked + indices.ndim - 1
    length = numbers.shape[axis]

    def spread(x: Array) -> Array:
        return jnp.take(x, np.arange(length) // block_size, axis=axis)

    wide = accumulator(scales.dtype)
    y = numbers.astype(np.int32)
    if zero is not None:
        y = y - spread(zero).astype(np.int32)
    elif packed:
        y = y - np.int32(1 << (bits - 1))
    y = y.astype(wide) * spread(factor).astype(wide)
    outside = (indices < -size) | (indices >= size)
    shape = (1,) * taken + indices.shape + (1,) * (data.ndim - 1 - taken)
    return jnp.where(outside.reshape(shape), jnp.zeros((), wide), y).astype(scales.dtype)
