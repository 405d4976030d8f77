"""Linear quantization: per tensor, per axis and in blocks, to integers, float8 and float4.

Spec: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html and its neighbours.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.lowering.xla.dtypes import from_onnx, is_float
from graphopt.lowering.xla.emit import Context
from graphopt.lowering.xla.numerics import compute_dtype, integer_limits, widened
from graphopt.lowering.xla.ops import lowers
from graphopt.lowering.xla.ops.cast import converted

Array = Any


def _spread(parameter: Array, x: Array, axis: int, block_size: int) -> Array:
    """A scale or zero point in a shape that broadcasts against `x`: by tensor, by axis or by block."""
    if parameter.size == 1:
        return jnp.reshape(parameter, ())
    axis = axis % x.ndim
    if parameter.ndim == 1 and not block_size:
        shape = [1] * x.ndim
        shape[axis] = parameter.shape[0]
        return jnp.reshape(parameter, shape)
    if parameter.shape == x.shape:
        return parameter
    repeated = jnp.repeat(parameter, block_size, axis=axis)
    return lax.slice_in_dim(repeated, 0, x.shape[axis], axis=axis)


def _narrow_to(rounded: Array, dtype: np.dtype) -> Array:
    low, high = (jnp.asarray(float(limit), rounded.dtype) for limit in integer_limits(dtype))
    return jnp.minimum(jnp.maximum(rounded, low), high).astype(np.int32).astype(dtype)


def _round(x: Array) -> Array:
    return lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN)


def divided(x: Array, scale: Array) -> Array:
    """x / scale, rounded correctly, so that halves stay halves and round to even.

    XLA turns a division by a constant or by a broadcast scalar into a product with its reciprocal,
    which is off by a last digit. A scale that seems to depend on the element is left alone.
    """
    return x / jnp.where(jnp.isnan(x), jnp.ones((), x.dtype), scale)


@lowers("QuantizeLinear", since=(13, 19, 21, 23, 24, 25, 28))
def quantize_linear(
    ctx: Context,
    x: Array,
    y_scale: Array,
    y_zero_point: Array | None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> Array:
    """saturate(round(x / scale) + zero_point), rounding halves to even; float types round by conversion.

    The quotient is computed in the type of `precision`, else of the scale, and in float32 at least; an
    int32 scale is a float32 then.
    """
    if y_zero_point is not None:
        dtype = np.dtype(y_zero_point.dtype)
    else:
        dtype = from_onnx(output_dtype) if output_dtype else np.dtype(np.uint8)
    asked = from_onnx(precision) if precision else np.dtype(y_scale.dtype)
    wide = compute_dtype(asked) if is_float(asked) else np.dtype(np.float32)
    scale = _spread(y_scale.astype(wide), x, axis, block_size)
    quotient = divided(x.astype(wide), scale)
    zero = None if y_zero_point is None else _spread(y_zero_point, x, axis, block_size).astype(wide)
    if jnp.issubdtype(dtype, jnp.integer):
        rounded = _round(quotient)
        return _narrow_to(rounded if zero is None else rounded + zero, dtype)
    return converted(quotient if zero is None else quotient + zero, dtype, bool(saturate))


@lowers("DequantizeLinear", since=(13, 19, 21, 23, 24, 25, 28))
def dequantize_linear(
    x: Array,
    x_scale: Array,
    x_zero_point: Array | None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Array:
    """(x - zero_point) * scale, in the type of `output_dtype`, else of the scale."""
    dtype = from_onnx(output_dtype) if output_dtype else np.dtype(x_scale.dtype)
    wide = compute_dtype(dtype)
    integral = jnp.issubdtype(x.dtype, jnp.integer)
    shifted = x.astype(np.int32) if integral else widened(x).astype(wide)
    if x_zero_point is not None:
        shifted = shifted - _spread(x_zero_point, x, axis, block_size).astype(shifted.dtype)
    scale = _spread(x_scale.astype(wide), x, axis, block_size)
    return (shifted.astype(wide) * scale).astype(dtype)


@lowers("DynamicQuantizeLinear", since=(11,))
def dynamic_quantize_linear(x: Array) -> tuple[Array, Array, Array]:
    """x as uint8 with the scale and zero point that its range, widened to include 0, calls for."""
    zero = jnp.zeros((), x.dtype)
    low = jnp.minimum(jnp.min(x, initial=0), zero)
    high = jnp.maximum(jnp.max(x, initial=0), zero)
    scale = divided(high - low, jnp.asarray(255, x.dtype))
    scale = jnp.where(scale == 0, jnp.ones((), x.dtype), scale)  # all zeros: any scale will do
    offset = jnp.minimum(jnp.maximum(_round(divided(-low, scale)), 0), 255)
    y = _narrow_to(_round(divided(x, scale)) + offset, np.dtype(np.uint8))
    return y, scale, offset.astype(np.uint8)
