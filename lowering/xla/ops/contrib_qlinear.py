"""ONNX Runtime's operators from 8 bits to 8 bits: computed in float32 between dequantizing and quantizing.

Spec: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md , a heading for each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.lowering.xla import numerics
from graphopt.lowering.xla.emit import Context
from graphopt.lowering.xla.ops import lowers
from graphopt.lowering.xla.ops.conv import Ints, qlinear_conv
from graphopt.lowering.xla.ops.matmul import requantize
from graphopt.lowering.xla.ops.pool import average_pool
from graphopt.lowering.xla.ops.quantize import divided

Array = Any
DOMAIN = "com.microsoft"


def dequantized(x: Array, scale: Array, zero_point: Array | None) -> Array:
    """(x - zero_point) * scale in float32, all of one scale."""
    shifted = x.astype(np.int32)
    if zero_point is not None:
        shifted = shifted - zero_point.astype(np.int32).reshape(())
    return shifted.astype(np.float32) * scale.reshape(())


def quantized(y: Array, scale: Array, zero_point: Array | None, dtype: Any) -> Array:
    """saturate(round(y / scale) + zero_point) in `dtype`, halves to even."""
    zero = jnp.zeros((), dtype) if zero_point is None else zero_point.reshape(())
    return requantize(divided(y, scale.reshape(())), zero)


def _elementwise(combine: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    """The lowering of a function of two quantised operands."""

    def lowering(
        a: Array, a_scale: Array, a_zero_point: Array | None,
        b: Array, b_scale: Array, b_zero_point: Array | None,
        c_scale: Array, c_zero_point: Array | None,
    ) -> Array:  # fmt: skip
        y = combine(dequantized(a, a_scale, a_zero_point), dequantized(b, b_scale, b_zero_point))
        return quantized(y, c_scale, c_zero_point, a.dtype)

    return lowering


lowers("QLinearAdd", since=(1,), domain=DOMAIN)(_elementwise(jnp.add))
lowers("QLinearMul", since=(1,), domain=DOMAIN)(_elementwise(jnp.multiply))


@lowers("QLinearSigmoid", since=(1,), domain=DOMAIN)
def qlinear_sigmoid(
    x: Array, x_scale: Array, x_zero_point: Array | None, y_scale: Array, y_zero_point: Array | None
) -> Array:
    """1 / (1 + exp(-x))."""
    return quantized(lax.logistic(dequantized(x, x_scale, x_zero_point)), y_scale, y_zero_point, x.dtype)


@lowers("QLinearLeakyRelu", since=(1,), domain=DOMAIN)
def qlinear_leaky_relu(
    x: Array,
    x_scale: Array,
    x_zero_point: Array | None,
    y_scale: Array,
    y_zero_point: Array | None,
    *,
    alpha: float = 0.01,
) -> Array:
    """x, or alpha * x below zero."""
    y = dequantized(x, x_scale, x_zero_point)
    return quantized(jnp.where(y >= 0, y, alpha * y), y_scale, y_zero_point, x.dtype)


@lowers("QLinearSoftmax", since=(1,), domain=DOMAIN)
def qlinear_softmax(
    x: Array,
    x_scale: Array,
    x_zero_point: Array | None,
    y_scale: Array,
    y_zero_point: Array,
    *,
    axis: int = -1,
    opset: int,
) -> Array:
    """Softmax along `axis`; as of `opset` below 13 over all axes from it on."""
    y = dequantized(x, x_scale, x_zero_point)
    axis = axis % x.ndim
    if opset < 13:
        y = numerics.softmax(y.reshape((*x.shape[:axis], -1))).reshape(x.shape)
    else:
        y = numerics.softmax(y, axis)
    return quantized(y, y_scale, y_zero_point, x.dtype)


@lowers("QLinearGlobalAveragePool", since=(1,), domain=DOMAIN)
def qlinear_global_average_pool(
    x: Array,
    x_scale: Array,
    x_zero_point: Array,
    y_scale: Array,
    y_zero_point: Array,
    *,
    channels_last: int = 0,
) -> Array:
    """The mean over the spatial axes, which stay as ones; the sum is taken in integers."""
    axes = tuple(range(1, x.ndim - 1) if channels_last else range(2, x.ndim))
    total = jnp.sum(x.astype(np.int32) - x_zero_point.astype(np.int32).reshape(()), axes, keepdims=True)
    count = np.prod([x.shape[axis] for axis in axes], dtype=np.int64)
    scale = x_scale.reshape(()) / jnp.asarray(count, np.float32)
    return quantized(total.astype(np.float32) * scale, y_scale, y_zero_point, x.dtype)


@lowers("QLinearAveragePool", since=(1,), domain=DOMAIN)
def qlinear_average_pool(
    x: Array,
    x_scale: Array,
    x_zero_point: Array | None,
    y_scale: Array,
    y_zero_point: Array | None,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    channels_last: int = 0,
    count_include_pad: int = 0,
    kernel_shape: tuple[int, ...],
    pads: Ints = None,
    strides: Ints = None,
) -> Array:
    """AveragePool."""
    y = dequantized(x, x_scale, x_zero_point)
    y = average_pool(
        jnp.moveaxis(y, -1, 1) if channels_last else y,
        auto_pad=auto_pad, ceil_mode=ceil_mode, count_include_pad=count_include_pad,
        kernel_shape=kernel_shape, pads=pads, strides=strides,
    )  # fmt: skip
    y = quantized(y, y_scale, y_zero_point, x.dtype)
    return jnp.moveaxis(y, 1, -1) if channels_last else y


@lowers("QLinearReduceMean", since=(1,), domain=DOMAIN)
def qlinear_reduce_mean(
    data: Array,
    data_scale: Array,
    data_zero_point: Array | None,
    reduced_scale: Array,
    reduced_zero_point: Array | None,
    *,
    axes: tuple[int, ...],
    keepdims: int,
) -> Array:
    """The mean along `axes`."""
    y = jnp.mean(dequantized(data, data_scale, data_zero_point), tuple(axes), keepdims=bool(keepdims))
    return quantized(y, reduced_scale, reduced_zero_point, data.dtype)


@lowers("QLinearConcat", since=(1,), domain=DOMAIN)
def qlinear_concat(ctx: Context, y_scale: Array, y_zero_point: Array, *inputs: Array, axis: int) -> Array:
    """The operands, each given with its scale and zero point, one after the other."""
    if len(inputs) % 3:
        raise ctx.unsupported("operands without scale and zero point", found=f"{len(inputs)} inputs")
    parts = [
        quantized(dequantized(*inputs[i : i + 3]), y_scale, y_zero_point, y_zero_point.dtype)
        for i in range(0, len(inputs), 3)
    ]
    return jnp.concatenate(parts, axis)


@lowers("QLinearWhere", since=(1,), domain=DOMAIN)
def qlinear_where(
    condition: Array,
    x: Array,
    x_scale: Array,
    x_zero_point: Array,
    y: Array,
    y_scale: Array,
    y_zero_point: Array,
    z_scale: Array,
    z_zero_point: Array,
) -> Array:
    """x where the condition holds, else y."""
    real = jnp.where(condition, dequantized(x, x_scale, x_zero_point), dequantized(y, y_scale, y_zero_point))
    return quantized(real, z_scale, z_zero_point, x.dtype)


@lowers(
    "QLinearConv", since=(1,), domain=DOMAIN, ignores=("kernel_shape",)
)  # the kernel's shape says the same
def qlinear_conv_1(
    x: Array, x_scale: Array, x_zero_point: Array, w: Array, w_scale: Array, w_zero_point: Array,
    y_scale: Array, y_zero_point: Array, b: Array | None, *,
    auto_pad: str = "NOTSET", channels_last: int = 0, dilations: Ints = None, group: int = 1,
    pads: Ints = None, strides: Ints = None,
) -> Array:  # fmt: skip
    """The standard's QLinearConv, and if asked with the channels last in x and y (not in w)."""
    y = qlinear_conv(
        jnp.moveaxis(x, -1, 1) if channels_last else x,
        x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, b,
        auto_pad=auto_pad, dilations=dilations, group=group, pads=pads, strides=strides,
    )  # fmt: skip
    return jnp.moveaxis(y, 1, -1) if channels_last else y
