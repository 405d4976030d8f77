"""Conversions between element types.

Spec: https://onnx.ai/onnx/operators/onnx__Cast.html and its neighbours.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax import lax

from graphopt.errors import LoweringError
from graphopt.lowering.xla.dtypes import from_onnx
from graphopt.lowering.xla.numerics import integer_limits
from graphopt.lowering.xla.ops import lowers

Array = Any

SATURATING = frozenset(
    np.dtype(t) for t in (jnp.float8_e4m3fn, jnp.float8_e4m3fnuz, jnp.float8_e5m2, jnp.float8_e5m2fnuz)
)
E8M0 = np.dtype(jnp.float8_e8m0fnu)
BOOL = np.dtype(np.bool_)
LEAST_BYTE = 127
"""The largest int8; the types of fewer bits end before it."""
WORD = 4
"""Bytes of the integers that floats are converted to on all devices."""


def converted(x: Array, dtype: np.dtype, saturate: bool = True, round_mode: str = "up") -> Array:
    """`x` as `dtype`.

    Floats are truncated toward zero to integers; what is out of range is undefined in ONNX, and here the
    low bits of the whole number, as ONNX Runtime and onnx.reference have it (of what 32 or 64 bits cannot
    hold either: the nearest that they can). To float8 they are rounded to nearest even; `saturate` clamps
    what float8 cannot hold, infinities included. Integers keep their low bits. Only zero is False.
    """
    if x.dtype == dtype:
        return x
    if dtype == BOOL:
        return x != jnp.zeros((), x.dtype)
    if dtype == E8M0:
        return _to_e8m0(x.astype(np.float32), saturate, round_mode)
    if dtype in SATURATING:
        x = x.astype(np.float32) if not jnp.issubdtype(x.dtype, jnp.floating) or x.dtype.itemsize == 1 else x
        if saturate:
            limit = jnp.asarray(float(ml_dtypes.finfo(dtype).max), x.dtype)
            x = jnp.maximum(jnp.minimum(x, limit), -limit)
    if not jnp.issubdtype(dtype, jnp.integer):
        return x.astype(dtype)
    if jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == BOOL:
        # The types of four bits and fewer are not converted to each other directly.
        return (x.astype(np.int32) if integer_limits(dtype)[1] < LEAST_BYTE else x).astype(dtype)
    if dtype.itemsize < WORD:
        return x.astype(np.int32).astype(dtype)
    if jnp.issubdtype(dtype, jnp.unsignedinteger):
        return jnp.where(x < 0, x.astype(f"int{8 * dtype.itemsize}").astype(dtype), x.astype(dtype))
    return x.astype(dtype)


def _to_e8m0(x: Array, saturate: bool, round_mode: str) -> Array:
    """The power of two next to each float32 (which holds the exponent's eight bits already)."""
    bits = lax.bitcast_convert_type(x, np.uint32)
    exponent = jnp.bitwise_and(bits >> 23, jnp.uint32(0xFF))
    fraction = jnp.bitwise_and(bits, jnp.uint32(0x7FFFFF))
    half = jnp.uint32(1 << 22)
    rounds_up = {
        "up": fraction > 0,
        "down": jnp.zeros(x.shape, bool),
        # Halves go up; below the normal numbers exactly 2**-127 is a half that is itself a result.
        "nearest": (fraction > half) | ((fraction == half) & (exponent > 0)),
    }
    if round_mode not in rounds_up:
        raise LoweringError("GO202", "an unknown rounding mode", found=round_mode)
    rounded = exponent + rounds_up[round_mode].astype(np.uint32)
    if saturate:
        rounded = jnp.where(jnp.isnan(x), jnp.uint32(0xFF), jnp.minimum(rounded, jnp.uint32(0xFE)))
    return lax.bitcast_convert_type(jnp.minimum(rounded, jnp.uint32(0xFF)).astype(np.uint8), E8M0)


@lowers("Cast", since=(13, 19, 21, 23, 24, 25, 28))
def cast(input: Array, *, to: int, saturate: int = 1, round_mode: str = "up") -> Array:
    """The operand in the element type `to`."""
    return converted(input, from_onnx(to), bool(saturate), round_mode)


@lowers("CastLike", since=(15, 19, 21, 23, 24, 25))
def cast_like(input: Array, target_type: Array, *, saturate: int = 1, round_mode: str = "up") -> Array:
    """The operand in the element type of `target_type`."""
    return converted(input, np.dtype(target_type.dtype), bool(saturate), round_mode)


@lowers("BitCast", since=(26,))
def bit_cast(input: Array, *, to: int) -> Array:
    """The operand's bits read as another type of the same width."""
    dtype = from_onnx(to)
    if input.dtype == BOOL:
        input = input.astype(np.uint8)
    if dtype == BOOL:
        return lax.bitcast_convert_type(input, np.uint8) != 0
    result = lax.bitcast_convert_type(input, dtype)
    if result.shape != input.shape:
        raise LoweringError("GO202", "BitCast needs types of one width", found=f"{input.dtype} to {dtype}")
    return result
