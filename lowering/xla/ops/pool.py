"""Pooling: windows reduced by XLA's reduce-window, with the edge rules of ONNX."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.lowering.xla.dtypes import is_float
from graphopt.lowering.xla.emit import Context
from graphopt.lowering.xla.ops import lowers
from graphopt.lowering.xla.ops.conv import Ints, Padding, explicit_padding
from graphopt.lowering.xla.ops.matmul import accumulator

Array = Any


class _Window:
    """A pooling window over the spatial axes of an NCHW array.

    Attributes:
        padding: the asked (begin, end) padding of each spatial axis.
        overhang: how far the last window of each axis reaches beyond it (under ceil_mode).
    """

    def __init__(
        self,
        spatial: Sequence[Any],
        kernel: Sequence[int],
        strides: Ints,
        dilations: Ints,
        auto_pad: str,
        pads: Ints,
        ceil_mode: int,
    ) -> None:
        rank = len(kernel)
        self.kernel = tuple(kernel)
        self.strides, self.dilations = strides or (1,) * rank, dilations or (1,) * rank
        self.padding = explicit_padding(spatial, kernel, self.strides, self.dilations, auto_pad, pads)
        ceil = bool(ceil_mode) and auto_pad == "NOTSET"
        self.overhang = [
            _overhang(size, k, s, d, pad) if ceil else 0
            for size, k, s, d, pad in zip(
                spatial, self.kernel, self.strides, self.dilations, self.padding, strict=True
            )
        ]

    def full_padding(self) -> Padding:
        """The padding that makes every window complete."""
        return [(a, b + more) for (a, b), more in zip(self.padding, self.overhang, strict=True)]

    def reduce(self, operands: Any, initial: Any, combine: Any) -> Any:
        """Reduce the windows of `operands` (NCHW) by `combine`."""
        return lax.reduce_window(
            operands,
            initial,
            combine,
            (1, 1, *self.kernel),
            (1, 1, *self.strides),
            [(0, 0), (0, 0), *self.full_padding()],
            window_dilation=(1, 1, *self.dilations),
        )

    def counts(self, spatial: Sequence[Any], *, include_padding: bool, dtype: Any) -> Array:
        """How many cells each window counts, asked padding included or not, overhang never."""
        total: Array = jnp.ones((), dtype)
        zero, one = np.zeros((), dtype), np.ones((), dtype)
        for size, k, s, d, pad, more in zip(
            spatial, self.kernel, self.strides, self.dilations, self.padding, self.overhang, strict=True
        ):
            cells = jnp.ones((size,), dtype)
            cells = lax.pad(cells, one if include_padding else zero, [(*pad, 0)])
            line = lax.reduce_window(cells, zero, lax.add, (k,), (s,), [(0, more)], window_dilation=(d,))
            total = total[..., None] * line
        return total


def _overhang(size: Any, kernel: int, stride: int, dilation: int, pad: tuple[Any, Any]) -> Any:
    """What ceil_mode adds to the end: windows that start inside the input or its begin padding."""
    extent = (kernel - 1) * dilation + 1
    padded = size + pad[0] + pad[1]
    last = -((extent - padded) // stride)  # index of the last window, rounded up
    if isinstance(size, int) and last * stride >= size + pad[0]:
        last -= 1
    return jax.core.max_dim(last * stride + extent - padded, 0)


@lowers("MaxPool", since=(12, 22))
def max_pool(
    ctx: Context,
    x: Array,
    *,
    kernel_shape: tuple[int, ...],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints = None,
    pads: Ints = None,
    storage_order: int = 0,
    strides: Ints = None,
) -> tuple[Array, ...]:
    """The maximum of each window, and if asked its flat position in x.

    Positions count over all of x; storage_order 1 counts the spatial axes first axis fastest.
    Spec: https://onnx.ai/onnx/operators/onnx__MaxPool.html
    """
    window = _Window(x.shape[2:], kernel_shape, strides, dilations, auto_pad, pads, ceil_mode)
    if is_float(x.dtype):
        lowest = np.array(-np.inf, x.dtype)
    else:
        lowest = np.array(jnp.iinfo(x.dtype).min, x.dtype)
    if not ctx.wants(1):
        return (window.reduce(x, lowest, lax.max),)
    size = math.prod(x.shape)
    kind = np.int32 if size < 2**31 else np.int64
    positions = lax.iota(kind, size).reshape(x.shape)

    def later(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        first = (a[0] > b[0]) | ((a[0] == b[0]) & (a[1] <= b[1]))
        return jnp.where(first, a[0], b[0]), jnp.where(first, a[1], b[1])

    nowhere = np.array(np.iinfo(kind).max, kind)
    y, indices = window.reduce((x, positions), (lowest, nowhere), later)
    if storage_order:
        indices = _first_axis_fastest(indices, x.shape)
    return y, indices.astype(np.int64)


def _first_axis_fastest(indices: Array, shape: Sequence[int]) -> Array:
    spatial = shape[2:]
    area = math.prod(spatial)
    inside = indices % area
    flat = (indices // area) * area
    for axis in range(len(spatial)):
        after, before = math.prod(spatial[axis + 1 :]), math.prod(spatial[:axis])
        flat = flat + ((inside // after) % spatial[axis]) * before
    return flat


@lowers("AveragePool", since=(11, 19, 22))
def average_pool(
    x: Array,
    *,
    kernel_shape: tuple[int, ...],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Ints = None,
    pads: Ints = None,
    strides: Ints = None,
) -> Array:
    """The mean of each window; padding counts if asked, what ceil_mode adds beyond it never does.

    Spec: https://onnx.ai/onnx/operators/onnx__AveragePool.html
    """
    window = _Window(x.shape[2:], kernel_shape, strides, dilations, auto_pad, pads, ceil_mode)
    wide = accumulator(x.dtype)
    total = window.reduce(x.astype(wide), np.zeros((), wide), lax.add)
    counts = window.counts(x.shape[2:], include_padding=bool(count_include_pad), dtype=wide)
    return (total / counts).astype(x.dtype)


@lowers("LpPool", since=(18, 22))
def lp_pool(
    x: Array,
    *,
    kernel_shape: tuple[int, ...],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints = None,
    p: int = 2,
    pads: Ints = None,
    strides: Ints = None,
) -> Array:
    """(sum of |x|^p over each window)^(1/p).

    Spec: https://onnx.ai/onnx/operators/onnx__LpPool.html
    """
    window = _Window(x.shape[2:], kernel_shape, strides, dilations, auto_pad, pads, ceil_mode)
    wide = accumulator(x.dtype)
    powers = lax.integer_pow(jnp.abs(x.astype(wide)), p)
    return _root(window.reduce(powers, np.zeros((), wide), lax.add), p).astype(x.dtype)


def _root(x: Array, p: int) -> Array:
    return x if p == 1 else jnp.sqrt(x) if p == 2 else jnp.power(x, jnp.asarray(1 / p, x.dtype))


@lowers("GlobalAveragePool", since=(1, 22))
def global_average_pool(x: Array) -> Array:
    """The mean over the spatial axes, which stay as ones.

    Spec: https://onnx.ai/onnx/operators/onnx__GlobalAveragePool.html
    """
    axes = tuple(range(2, x.ndim))
    return jnp.mean(x.astype(accumulator(x.dtype)), axes, keepdims=True).astype(x.dtype)


@lowers("GlobalMaxPool", since=(1, 22))
def global_max_pool(x: Array) -> Array:
    """The maximum over the spatial axes, which stay as ones.

    Spec: https://onnx.ai/onnx/operators/onnx__GlobalMaxPool.html
    """
    return jnp.max(x, tuple(range(2, x.ndim)), keepdims=True)


@lowers("GlobalLpPool", since=(2, 22))
def global_lp_pool(x: Array, *, p: int = 2) -> Array:
    """(sum of |x|^p over the spatial axes)^(1/p); the axes stay as ones.

    Spec: https://onnx.ai/onnx/operators/onnx__GlobalLpPool.html
    """
    powers = lax.integer_pow(jnp.abs(x.astype(accumulator(x.dtype))), p)
    return _root(jnp.sum(powers, tuple(range(2, x.ndim)), keepdims=True), p).astype(x.dtype)


@lowers("MaxUnpool", since=(11, 22), static=("output_shape",))
def max_unpool(
    x: Array,
    i: Array,
    output_shape: np.ndarray | None,
    *,
    kernel_shape: tuple[int, ...],
    pads: Ints = None,
    strides: Ints = None,
) -> Array:
    """Zeros with x put at the flat positions i, which count in the shape MaxPool came from.

    That shape is (size - 1) * stride + kernel - pads; an asked output_shape may be larger at the end.
    Spec: https://onnx.ai/onnx/operators/onnx__MaxUnpool.html
    """
    rank = len(kernel_shape)
    strides, pads = strides or (1,) * rank, pads or (0,) * (2 * rank)
    inferred = [
        (size - 1) * s + k - pads[axis] - pads[axis + rank]
        for axis, (size, s, k) in enumerate(zip(x.shape[2:], strides, kernel_shape, strict=True))
    ]
    shape = (*x.shape[:2], *inferred)
    flat = jnp.zeros((math.prod(shape),), x.dtype)
    flat = flat.at[i.reshape(-1)].set(x.reshape(-1), mode="drop", wrap_negative_indices=False)
    y = flat.reshape(shape)
    if output_shape is None:
        return y
    wanted = [int(d) for d in output_shape]
    return lax.pad(y, np.zeros((), x.dtype), [(0, w - d, 0) for w, d in zip(wanted, shape, strict=True)])
