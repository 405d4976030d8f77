"""Convolutions in NCHW, straight to XLA's general convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.lowering.xla.emit import Context
from graphopt.lowering.xla.numerics import biased
from graphopt.lowering.xla.ops import lowers
from graphopt.lowering.xla.ops.matmul import accumulator, requantize

Array = Any
Ints = tuple[int, ...] | None
Padding = list[tuple[Any, Any]]


def explicit_padding(
    spatial: Sequence[Any],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    auto_pad: str,
    pads: Ints,
) -> Padding:
    """(begin, end) of each spatial axis for a window of `kernel`, from auto_pad or pads.

    SAME makes ceil(size / stride) windows; the odd cell goes to the end (UPPER) or begin (LOWER).
    """
    rank = len(kernel)
    if auto_pad == "VALID":
        return [(0, 0)] * rank
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        padding = []
        for size, k, s, d in zip(spatial, kernel, strides, dilations, strict=True):
            extent = (k - 1) * d + 1
            if s == 1:
                total: Any = extent - 1  # whatever the size, so that it may be symbolic
            else:
                total = jax.core.max_dim((-(-size // s) - 1) * s + extent - size, 0)
            small, large = total // 2, total - total // 2
            padding.append((small, large) if auto_pad == "SAME_UPPER" else (large, small))
        return padding
    flat = tuple(pads) if pads is not None else (0,) * (2 * rank)
    return list(zip(flat[:rank], flat[rank:], strict=True))


def dimension_numbers(rank: int) -> tuple[str, str, str]:
    """NCHW for images, OIHW for kernels, with `rank` spatial axes."""
    letters = "".join(chr(ord("a") + i) for i in range(rank))
    return f"NC{letters}", f"OI{letters}", f"NC{letters}"


def _per_channel(b: Array, rank: int) -> Array:
    return b.reshape((1, -1) + (1,) * rank)


def _convolve(
    x: Array,
    w: Array,
    *,
    strides: Ints,
    dilations: Ints,
    auto_pad: str,
    pads: Ints,
    group: int,
    precision: Any,
    out_dtype: Any,
) -> Array:
    rank = x.ndim - 2
    strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
    return lax.conv_general_dilated(
        x,
        w,
        window_strides=strides,
        padding=explicit_padding(x.shape[2:], w.shape[2:], strides, dilations, auto_pad, pads),
        rhs_dilation=dilations,
        dimension_numbers=dimension_numbers(rank),
        feature_group_count=group,
        precision=precision,
        preferred_element_type=out_dtype,
    )


@lowers("Conv", since=(11, 22), ignores=("kernel_shape",))  # the kernel's shape says the same
def conv(
    ctx: Context,
    x: Array,
    w: Array,
    b: Array | None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints = None,
    group: int = 1,
    pads: Ints = None,
    strides: Ints = None,
) -> Array:
    """y[n, m] = b[m] + sum over its group's channels c of x[n, c] cross-correlated with w[m, c].

    Shapes: ``x: [N, C, *D]``, ``w: [M, C/group, *K]``, ``b: [M]``.
    Spec: https://onnx.ai/onnx/operators/onnx__Conv.html
    """
    y = _convolve(
        x, w, strides=strides, dilations=dilations, auto_pad=auto_pad, pads=pads, group=group,
        precision=ctx.precision, out_dtype=accumulator(x.dtype),
    )  # fmt: skip
    return y.astype(x.dtype) if b is None else biased(y, _per_channel(b, x.ndim - 2), x.dtype)


@lowers("ConvTranspose", since=(11, 22), ignores=("kernel_shape",))  # the kernel's shape says the same
def conv_transpose(
    ctx: Context,
    x: Array,
    w: Array,
    b: Array | None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints = None,
    group: int = 1,
    output_padding: Ints = None,
    output_shape: Ints = None,
    pads: Ints = None,
    strides: Ints = None,
) -> Array:
    """The gradient of Conv with respect to its input: a convolution of x spread out by the strides.

    Shapes: ``x: [N, C, *D]``, ``w: [C, M/group, *K]``, ``b: [M]``.
    Spec: https://onnx.ai/onnx/operators/onnx__ConvTranspose.html
    """
    rank = x.ndim - 2
    strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
    extra = output_padding or (0,) * rank
    kernel = w.shape[2:]
    cropped = _transposed_pads(x.shape[2:], kernel, strides, dilations, extra, auto_pad, pads, output_shape)
    padding = []
    for k, d, (begin, end), more in zip(kernel, dilations, cropped, extra, strict=True):
        reach = (k - 1) * d
        padding.append((reach - begin, reach - end + more))
    # [C, M/g, *K] -> [M, C/g, *K], flipped in space.
    w = w.reshape((group, w.shape[0] // group, *w.shape[1:]))
    w = jnp.swapaxes(w, 1, 2).reshape((-1, w.shape[1], *kernel))
    w = jnp.flip(w, tuple(range(2, 2 + rank)))
    y = lax.conv_general_dilated(
        x,
        w,
        window_strides=(1,) * rank,
        padding=padding,
        lhs_dilation=strides,
        rhs_dilation=dilations,
        dimension_numbers=dimension_numbers(rank),
        feature_group_count=group,
        precision=ctx.precision,
        preferred_element_type=accumulator(x.dtype),
    )
    return y.astype(x.dtype) if b is None else biased(y, _per_channel(b, rank), x.dtype)


def _transposed_pads(
    spatial: Sequence[Any],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    output_padding: Sequence[int],
    auto_pad: str,
    pads: Ints,
    output_shape: Ints,
) -> Padding:
    """How much of the full result is cut off at each side.

    SAME means an output of size * stride. An asked output larger than the full result gets its
    extra cells at the end (a negative cut).
    """
    rank = len(kernel)
    if output_shape is None and auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        return explicit_padding(spatial, kernel, strides, dilations, auto_pad, pads)
    wanted = (
        output_shape[-rank:]
        if output_shape is not None
        else [size * s for size, s in zip(spatial, strides, strict=True)]
    )
    result: Padding = []
    for size, k, s, d, more, out in zip(
        spatial, kernel, strides, dilations, output_padding, wanted, strict=True
    ):
        total = s * (size - 1) + more + (k - 1) * d + 1 - out
        if isinstance(total, int) and total < 0:
            result.append((0, total))
            continue
        half = total // 2
        result.append((half, total - half) if auto_pad == "SAME_UPPER" else (total - half, half))
    return result


@lowers("ConvInteger", since=(10,), ignores=("kernel_shape",))  # the kernel's shape says the same
def conv_integer(
    x: Array,
    w: Array,
    x_zero_point: Array | None,
    w_zero_point: Array | None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints = None,
    group: int = 1,
    pads: Ints = None,
    strides: Ints = None,
) -> Array:
    """Conv of (x - x_zero_point) and (w - w_zero_point) in int32; padding stands for the zero point.

    Spec: https://onnx.ai/onnx/operators/onnx__ConvInteger.html
    """
    return _convolve_integers(
        x, w, x_zero_point, w_zero_point,
        strides=strides, dilations=dilations, auto_pad=auto_pad, pads=pads, group=group,
    )  # fmt: skip


def _convolve_integers(
    x: Array, w: Array, x_zero_point: Array | None, w_zero_point: Array | None, **window: Any
) -> Array:
    x, w = x.astype(np.int32), w.astype(np.int32)
    if x_zero_point is not None:
        x = x - x_zero_point.astype(np.int32).reshape(())
    if w_zero_point is not None:
        zero = w_zero_point.astype(np.int32)
        w = w - (zero.reshape((-1,) + (1,) * (w.ndim - 1)) if zero.size > 1 else zero.reshape(()))
    return _convolve(x, w, precision=None, out_dtype=np.dtype(np.int32), **window)


@lowers("QLinearConv", since=(10,), ignores=("kernel_shape",))  # the kernel's shape says the same
def qlinear_conv(
    x: Array,
    x_scale: Array,
    x_zero_point: Array,
    w: Array,
    w_scale: Array,
    w_zero_point: Array,
    y_scale: Array,
    y_zero_point: Array,
    b: Array | None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints = None,
    group: int = 1,
    pads: Ints = None,
    strides: Ints = None,
) -> Array:
    """quantize(Conv(dequantize(x), dequantize(w)) + b), the sums in int32.

    b is int32 in units of x_scale * w_scale; w's scale and zero point may differ by output channel.
    Spec: https://onnx.ai/onnx/operators/onnx__QLinearConv.html
    """
    y = _convolve_integers(
        x, w, x_zero_point, w_zero_point,
        strides=strides, dilations=dilations, auto_pad=auto_pad, pads=pads, group=group,
    )  # fmt: skip
    rank = x.ndim - 2
    if b is not None:
        y = y + _per_channel(b, rank)
    scale = _per_channel(x_scale.reshape(()) * w_scale.reshape(-1) / y_scale.reshape(()), rank)
    return requantize(y.astype(np.float32) * scale, y_zero_point.reshape(()))


@lowers("CausalConvWithState", since=(27,))
def causal_conv_with_state(
    ctx: Context,
    input: Array,
    weight: Array,
    bias: Array | None,
    past_state: Array | None,
    *,
    activation: str = "none",
) -> tuple[Array, Array]:
    """Each channel convolved with its own kernel over the past, which is returned for the next call.

    Shapes: ``input: [B, C, T]``, ``weight: [C, 1, K]``, states ``[B, C, K - 1]``.
    Spec: https://onnx.ai/onnx/operators/onnx__CausalConvWithState.html
    """
    channels, size = weight.shape[0], weight.shape[-1]
    if past_state is None:
        past_state = jnp.zeros((input.shape[0], channels, size - 1), input.dtype)
    full = jnp.concatenate((past_state.astype(input.dtype), input), 2)
    y = _convolve(
        full, weight, strides=None, dilations=None, auto_pad="VALID", pads=None, group=channels,
        precision=ctx.precision, out_dtype=accumulator(input.dtype),
    )  # fmt: skip
    if bias is not None:
        y = y + _per_channel(bias.astype(y.dtype), 1)
    if activation in ("silu", "swish"):
        y = jax.nn.silu(y)
    return y.astype(input.dtype), full[..., full.shape[2] - size + 1 :].astype(past_state.dtype)


@lowers("DeformConv", since=(19, 22), ignores=("kernel_shape",))  # the kernel's shape says the same
def deform_conv(
    ctx: Context,
    x: Array,
    w: Array,
    offset: Array,
    b: Array | None,
    mask: Array | None,
    *,
    dilations: Ints = None,
    group: int = 1,
    offset_group: int = 1,
    pads: Ints = None,
    strides: Ints = None,
) -> Array:
    """Conv whose taps are moved by learned offsets, read bilinearly, and weighted by the mask.

    Shapes: ``x: [N, C, H, W]``, ``w: [M, C/group, kh, kw]``, ``offset: [N, offset_group * kh * kw * 2,
    oh, ow]`` (row, then column), ``mask: [N, offset_group * kh * kw, oh, ow]``.
    Spec: https://onnx.ai/onnx/operators/onnx__DeformConv.html
    """
    if x.ndim != 4:
        raise ctx.unsupported("only images of two axes", found=f"{x.ndim - 2} axes")
    strides, dilations, pads = strides or (1, 1), dilations or (1, 1), pads or (0, 0, 0, 0)
    wide, (kh, kw), (oh, ow) = accumulator(x.dtype), w.shape[2:], offset.shape[2:]
    n, channels = x.shape[:2]
    moved = offset.astype(wide).reshape((n, offset_group, kh * kw, 2, oh, ow))

    def grid(axis: int, kernel: int, out: int) -> Array:
        taps = np.arange(kernel) * dilations[axis] - pads[axis]
        return jnp.asarray(taps[:, None] + np.arange(out)[None, :] * strides[axis], wide)

    rows = jnp.broadcast_to(grid(0, kh, oh)[:, None, :, None], (kh, kw, oh, ow)).reshape((kh * kw, oh, ow))
    columns = jnp.broadcast_to(grid(1, kw, ow)[None, :, None, :], (kh, kw, oh, ow)).reshape((kh * kw, oh, ow))
    images = x.astype(wide).reshape((n, offset_group, channels // offset_group, *x.shape[2:]))
    read = jax.vmap(jax.vmap(_read_bilinear))
    taps = read(images, rows + moved[:, :, :, 0], columns + moved[:, :, :, 1])  # [n, og, c, k, oh, ow]
    if mask is not None:
        taps = taps * mask.astype(wide).reshape((n, offset_group, 1, kh * kw, oh, ow))
    taps = taps.reshape((n, group, channels // group, kh * kw, oh, ow))
    kernels = w.astype(wide).reshape((group, w.shape[0] // group, channels // group, kh * kw))
    y = jnp.einsum("ngckhw,gmck->ngmhw", taps, kernels, precision=ctx.precision)
    y = y.reshape((n, w.shape[0], oh, ow))
    if b is not None:
        y = y + _per_channel(b.astype(wide), 2)
    return y.astype(x.dtype)


def _read_bilinear(image: Array, row: Array, column: Array) -> Array:
    """``image: [C, H, W]`` at fractional positions, zero outside: [C, *positions]."""
    height, width = image.shape[1:]
    top, left = jnp.floor(row), jnp.floor(column)
    total: Array = jnp.zeros((), image.dtype)
    for down in (0, 1):
        for right in (0, 1):
            r, c = top + down, left + right
            inside = (r >= 0) & (r <= height - 1) & (c >= 0) & (c <= width - 1)
            weight = (1 - jnp.abs(row - r)) * (1 - jnp.abs(column - c))
            rows = jnp.clip(r, 0, height - 1).astype(np.int32)
            columns = jnp.clip(c, 0, width - 1).astype(np.int32)
            total = total + image[:, rows, columns] * jnp.where(inside, weight, jnp.zeros_like(weight))
    return total
