"""ONNX Runtime's matrix products and convolutions with something fused to them.

Spec: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md , a heading for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.lowering.xla.emit import Context
from graphopt.lowering.xla.ops import lowers
from graphopt.lowering.xla.ops.activation import (
    elu,
    hard_sigmoid,
    hard_swish,
    leaky_relu,
    selu,
    softplus,
    softsign,
    tanh_gelu,
    thresholded_relu,
)
from graphopt.lowering.xla.ops.conv import Ints, conv, conv_transpose
from graphopt.lowering.xla.ops.matmul import accumulator, gemm

Array = Any
DOMAIN = "com.microsoft"
KERNEL_SHAPE = ("kernel_shape",)  # the kernel's shape says the same

ACTIVATIONS: dict[str, tuple[Callable[..., Array], tuple[str, ...]]] = {
    "Relu": (lambda x: jnp.maximum(x, 0), ()),
    "Tanh": (jnp.tanh, ()),
    "Sigmoid": (lax.logistic, ()),
    "LeakyRelu": (leaky_relu, ("alpha",)),
    "Clip": (lambda x, min, max: jnp.minimum(jnp.maximum(x, min), max), ("min", "max")),
    "HardSigmoid": (hard_sigmoid, ("alpha", "beta")),
    "HardSwish": (hard_swish, ()),
    "Elu": (elu, ("alpha",)),
    "Selu": (selu, ("alpha", "gamma")),
    "Softplus": (softplus, ()),
    "Softsign": (softsign, ()),
    "ThresholdedRelu": (thresholded_relu, ("alpha",)),
}
"""The activations that are fused, with the names of their parameters in the order of activation_params."""

CONV_ACTIVATIONS = ("", "Relu", "Tanh", "Sigmoid", "LeakyRelu", "Clip", "HardSigmoid", "HardSwish")


def _activated(ctx: Context, x: Array, name: str, given: Sequence[float] | dict[str, float]) -> Array:
    """`name` applied to `x`; parameters come in order or by name, and those not given have their defaults."""
    if not name:
        return x
    if name not in ACTIVATIONS:
        raise ctx.unsupported("this fused activation is not known", found=name)
    function, names = ACTIVATIONS[name]
    if not isinstance(given, dict):
        if len(given) != len(names):
            raise ctx.unsupported(f"{name} takes {len(names)} activation_params", found=f"{len(given)}")
        given = dict(zip(names, given, strict=True))
    return function(x, **{key: given[key] for key in names if key in given})


@lowers("FusedConv", since=(1,), domain=DOMAIN, ignores=KERNEL_SHAPE)
def fused_conv(
    ctx: Context,
    x: Array,
    w: Array,
    b: Array | None,
    z: Array | None,
    *,
    activation: str = "",
    activation_params: tuple[float, ...] = (),
    auto_pad: str = "NOTSET",
    dilations: Ints = None,
    group: int = 1,
    pads: Ints = None,
    strides: Ints = None,
) -> Array:
    """activation(Conv(x, w, b) + z)."""
    if activation not in CONV_ACTIVATIONS:
        raise ctx.unsupported("this fused activation is not known", found=activation)
    wide = accumulator(x.dtype)
    y = conv(
        ctx, x, w, b, auto_pad=auto_pad, dilations=dilations, group=group, pads=pads, strides=strides
    ).astype(wide)  # fmt: skip
    if z is not None:
        y = y + z.astype(wide)
    return _activated(ctx, y, activation, activation_params).astype(x.dtype)


@lowers("NhwcFusedConv", since=(1,), domain=DOMAIN, ignores=KERNEL_SHAPE)
def nhwc_fused_conv(
    ctx: Context, x: Array, w: Array, b: Array | None, z: Array | None, *,
    activation: str = "", activation_params: tuple[float, ...] = (), auto_pad: str = "NOTSET",
    dilations: Ints = None, group: int = 1, pads: Ints = None, strides: Ints = None,
) -> Array:  # fmt: skip
    """:func:`fused_conv` of x: [N, *D, C] and z alike; the kernel stays [M, C/group, *K]."""
    y = fused_conv(
        ctx, jnp.moveaxis(x, -1, 1), w, b, None if z is None else jnp.moveaxis(z, -1, 1),
        activation=activation, activation_params=activation_params, auto_pad=auto_pad,
        dilations=dilations, group=group, pads=pads, strides=strides,
    )  # fmt: skip
    return jnp.moveaxis(y, 1, -1)


@lowers("NhwcConv", since=(1,), domain=DOMAIN, ignores=KERNEL_SHAPE)
def nhwc_conv(
    ctx: Context, x: Array, w: Array, b: Array | None, *,
    auto_pad: str = "NOTSET", dilations: Ints = None, group: int = 1, pads: Ints = None, strides: Ints = None,
) -> Array:  # fmt: skip
    """Conv of x: [N, *D, C]; the kernel stays [M, C/group, *K]."""
    y = conv(
        ctx, jnp.moveaxis(x, -1, 1), w, b,
        auto_pad=auto_pad, dilations=dilations, group=group, pads=pads, strides=strides,
    )  # fmt: skip
    return jnp.moveaxis(y, 1, -1)


@lowers(
    "ConvTransposeWithDynamicPads", since=(1,), domain=DOMAIN, static=("pads",), ignores=KERNEL_SHAPE
)  # fmt: skip
def conv_transpose_with_dynamic_pads(
    ctx: Context,
    x: Array,
    w: Array,
    pads: np.ndarray | None,
    b: Array | None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints = None,
    group: int = 1,
    output_padding: Ints = None,
    strides: Ints = None,
) -> Array:
    """ConvTranspose whose pads are an operand."""
    given = None if pads is None else tuple(int(p) for p in pads.reshape(-1))
    return conv_transpose(
        ctx, x, w, b, auto_pad=auto_pad, dilations=dilations, group=group,
        output_padding=output_padding, pads=given, strides=strides,
    )  # fmt: skip


@lowers("FusedMatMul", since=(1,), domain=DOMAIN)
def fused_matmul(
    ctx: Context,
    a: Array,
    b: Array,
    *,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    transBatchA: int = 0,
    transBatchB: int = 0,
) -> Array:
    """alpha * a' @ b', where ' transposes the matrices; transBatch* makes [i, *batch, k] [*batch, i, k]."""
    return _fused_product(ctx, a, b, alpha, (transA, transBatchA), (transB, transBatchB)).astype(a.dtype)


@lowers("TransposeMatMul", since=(1,), domain=DOMAIN)
def transpose_matmul(
    ctx: Context, a: Array, b: Array, *, alpha: float = 1.0, transA: int = 0, transB: int = 0
) -> Array:
    """:func:`fused_matmul` by its former name."""
    return _fused_product(ctx, a, b, alpha, (transA, 0), (transB, 0)).astype(a.dtype)


@lowers("FusedMatMulActivation", since=(1,), domain=DOMAIN, ignores=("activation_axis",))  # of Softmax only
def fused_matmul_activation(
    ctx: Context,
    a: Array,
    b: Array,
    *,
    activation: str,
    activation_alpha: float | None = None,
    activation_beta: float | None = None,
    activation_gamma: float | None = None,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    transBatchA: int = 0,
    transBatchB: int = 0,
) -> Array:
    """activation(alpha * a' @ b')."""
    y = _fused_product(ctx, a, b, alpha, (transA, transBatchA), (transB, transBatchB))
    given = _named(activation_alpha, activation_beta, activation_gamma)
    return _activated(ctx, y, activation, given).astype(a.dtype)


def _fused_product(
    ctx: Context, a: Array, b: Array, alpha: float, turn_a: tuple[int, int], turn_b: tuple[int, int]
) -> Array:
    wide = accumulator(a.dtype)
    y = jnp.matmul(
        _turned(a, *turn_a), _turned(b, *turn_b), precision=ctx.precision, preferred_element_type=wide
    )  # fmt: skip
    return y if alpha == 1.0 else y * jnp.asarray(alpha, wide)


def _turned(x: Array, transposed: int, batch_last: int) -> Array:
    """The operand as MatMul takes it; a vector stays as it is."""
    if x.ndim < 2:
        return x
    if batch_last:
        x = jnp.moveaxis(x, 0, -2)
    return jnp.swapaxes(x, -1, -2) if transposed else x


def _named(alpha: float | None, beta: float | None, gamma: float | None) -> dict[str, float]:
    given = {"alpha": alpha, "beta": beta, "gamma": gamma}
    return {name: value for name, value in given.items() if value is not None}


@lowers("FusedGemm", since=(1,), domain=DOMAIN)
def fused_gemm(
    ctx: Context,
    a: Array,
    b: Array,
    c: Array | None,
    *,
    activation: str = "",
    activation_alpha: float | None = None,
    activation_beta: float | None = None,
    activation_gamma: float | None = None,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Array:
    """activation(Gemm(a, b, c))."""
    y = gemm(ctx, a, b, c, alpha=alpha, beta=beta, transA=transA, transB=transB)
    given = _named(activation_alpha, activation_beta, activation_gamma)
    return _activated(ctx, y.astype(accumulator(a.dtype)), activation, given).astype(a.dtype)


@lowers("GemmFastGelu", since=(1,), domain=DOMAIN)
def gemm_fast_gelu(ctx: Context, x: Array, w: Array, bias: Array | None) -> Array:
    """FastGelu(x @ w + bias)."""
    wide = accumulator(x.dtype)
    y = jnp.matmul(x, w, precision=ctx.precision, preferred_element_type=wide)
    if bias is not None:
        y = y + bias.astype(wide)
    return tanh_gelu(y).astype(x.dtype)
