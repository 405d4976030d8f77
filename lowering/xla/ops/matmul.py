"""Matrix products: MatMul, Gemm, Einsum and their integer forms.

Every contraction states its precision, and narrow floats accumulate in float32.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.lowering.xla.dtypes import is_float
from graphopt.lowering.xla.emit import Context
from graphopt.lowering.xla.numerics import biased
from graphopt.lowering.xla.ops import lowers

Array = Any


def accumulator(dtype: np.dtype) -> np.dtype:
    """The type that sums of `dtype` are taken in: float32 for narrower floats, else `dtype`."""
    dtype = np.dtype(dtype)
    return np.dtype(np.float32) if is_float(dtype) and dtype.itemsize < 4 else dtype


@lowers("MatMul", since=(13,))
def matmul(ctx: Context, a: Array, b: Array) -> Array:
    """a @ b with numpy's rules for vectors and batches.

    Spec: https://onnx.ai/onnx/operators/onnx__MatMul.html
    """
    return jnp.matmul(
        a, b, precision=ctx.precision, preferred_element_type=accumulator(a.dtype)
    ).astype(a.dtype)  # fmt: skip


@lowers("Gemm", since=(13,))
def gemm(
    ctx: Context,
    a: Array,
    b: Array,
    c: Array | None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Array:
    """alpha * a' @ b' + beta * c, where ' transposes if asked and c broadcasts one way.

    Spec: https://onnx.ai/onnx/operators/onnx__Gemm.html
    """
    dtype, wide = a.dtype, accumulator(a.dtype)
    contracted = ((0 if transA else 1,), (1 if transB else 0,))
    y = lax.dot_general(a, b, (contracted, ((), ())), precision=ctx.precision, preferred_element_type=wide)
    y = _scaled(y, alpha)
    if c is None:
        return y.astype(dtype)
    return biased(y, c if beta == 1.0 else _scaled(c.astype(wide), beta), dtype)


def _scaled(x: Array, factor: float) -> Array:
    """x * factor; integers are scaled as doubles and cut back."""
    if factor == 1.0:
        return x
    if is_float(x.dtype):
        return x * jnp.asarray(factor, x.dtype)
    return (x.astype(np.float64) * jnp.asarray(factor, np.float64)).astype(x.dtype)


@lowers("Einsum", since=(12, 28))
def einsum(ctx: Context, *inputs: Array, equation: str) -> Array:
    """The Einstein sum; a missing right side keeps the letters that occur once, sorted.

    Spec: https://onnx.ai/onnx/operators/onnx__Einsum.html
    """
    dtype = inputs[0].dtype
    wide = accumulator(dtype)
    equation = equation.replace(" ", "")
    if wide != dtype and not _is_plain_contraction(equation):
        inputs = tuple(x.astype(wide) for x in inputs)
    y = jnp.einsum(equation, *inputs, precision=ctx.precision, preferred_element_type=wide)
    return y.astype(dtype)


def _is_plain_contraction(equation: str) -> bool:
    """Whether it is one contraction of two operands, which XLA accumulates in a wider type by itself.

    Other sums take several steps, whose intermediate results have to be wide as well.
    """
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow or len(terms) != 2 or "." in equation:
        return False
    a, b = (set(term) for term in terms)
    return len(a) == len(terms[0]) and len(b) == len(terms[1]) and (a ^ b) <= set(right)


@lowers("MatMulInteger", since=(10,))
def matmul_integer(a: Array, b: Array, a_zero_point: Array | None, b_zero_point: Array | None) -> Array:
    """(a - a_zero_point) @ (b - b_zero_point) in int32; zero points per tensor, row of a or column of b.

    Spec: https://onnx.ai/onnx/operators/onnx__MatMulInteger.html
    """
    return jnp.matmul(_centered(a, _per_row(a_zero_point)), _centered(b, b_zero_point))


@lowers("QLinearMatMul", since=(10, 21))
def qlinear_matmul(
    ctx: Context,
    a: Array,
    a_scale: Array,
    a_zero_point: Array,
    b: Array,
    b_scale: Array,
    b_zero_point: Array,
    y_scale: Array,
    y_zero_point: Array,
) -> Array:
    """quantize(dequantize(a) @ dequantize(b)), the product itself in int32 (with float8: float32).

    Spec: https://onnx.ai/onnx/operators/onnx__QLinearMatMul.html
    """
    wide = np.dtype(np.float32 if is_float(a.dtype) or is_float(b.dtype) else np.int32)
    product = jnp.matmul(
        _centered(a, _per_row(a_zero_point), wide),
        _centered(b, b_zero_point, wide),
        precision=ctx.precision,
    )
    scale = _per_row(a_scale.astype(np.float32)) * b_scale.astype(np.float32)
    scale = scale / _per_row(y_scale.astype(np.float32))
    return requantize(product.astype(np.float32) * scale, _per_row(y_zero_point))


def requantize(x: Array, zero_point: Array) -> Array:
    """saturate(round_half_even(x) + zero_point) in the type of `zero_point`; float8 only saturates."""
    dtype = zero_point.dtype
    if is_float(dtype):
        limit = float(jnp.finfo(dtype).max)
        return jnp.clip(x + zero_point.astype(x.dtype), -limit, limit).astype(dtype)
    info = jnp.iinfo(dtype)
    return jnp.clip(jnp.round(x) + zero_point.astype(x.dtype), info.min, info.max).astype(dtype)


def _centered(x: Array, zero_point: Array | None, dtype: Any = np.int32) -> Array:
    x = x.astype(dtype)
    return x if zero_point is None else x - zero_point.astype(dtype)


def _per_row(parameter: Array | None) -> Array | None:
    """A vector of one value for each row as a column; scalars and full-rank ones as they are."""
    if parameter is None or parameter.ndim != 1:
        return parameter
    return parameter if parameter.shape[0] == 1 else parameter[:, None]


@lowers("Det", since=(11, 22))
def det(x: Array) -> Array:
    """The determinant of each matrix: ``x: [*B, M, M]`` gives ``[*B]``.

    Spec: https://onnx.ai/onnx/operators/onnx__Det.html
    """
    return jnp.linalg.det(x.astype(accumulator(x.dtype))).astype(x.dtype)
