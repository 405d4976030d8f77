"""Mapping float numbers to small integers: ``q = round(x / scale) + zero point``, saturated.

Scales are float32 and positive; zero is always exact, so that padding with it stays so. Spec: the
operator QuantizeLinear, https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html
"""

from __future__ import annotations

import dataclasses

import numpy as np

from graphopt.ir import DataType, LazyTensor, Shape, TensorProtocol, Value, tensor
from graphopt.ir.query import constant_tensor
from graphopt.passes._matching import numbers

LEAST_SCALE = float(np.finfo(np.float32).tiny)


@dataclasses.dataclass(frozen=True)
class Grid:
    """The integers ``low`` … ``high`` of an ONNX type that numbers are mapped to."""

    dtype: DataType
    low: int
    high: int

    @property
    def is_signed(self) -> bool:
        """Whether 0 is in the middle, so that a zero point of 0 is natural."""
        return self.low < 0


def grid(kind: str, *, reduce_range: bool = False) -> Grid:
    """The grid of weights or activations of type ``int8`` or ``uint8``.

    Signed grids are symmetric. `reduce_range` leaves out a bit: processors without VNNI add pairs of
    products of 8 by 8 bits in 16, which overflow otherwise.
    """
    if kind == "int8":
        return Grid(DataType.INT8, -64, 64) if reduce_range else Grid(DataType.INT8, -127, 127)
    return Grid(DataType.UINT8, 0, 127 if reduce_range else 255)


@dataclasses.dataclass(frozen=True)
class Affine:
    """Scales (float32) and zero points (integers), scalars or one for each entry of `axis`."""

    scale: np.ndarray
    zero_point: np.ndarray
    grid: Grid
    axis: int | None = None

    @property
    def is_symmetric(self) -> bool:
        """Whether every zero point is 0."""
        return not np.any(self.zero_point)

    def apply(self, array: np.ndarray) -> np.ndarray:
        """`array` as integers of the grid's type."""
        scale, zero_point = self._along(self.scale, array.ndim), self._along(self.zero_point, array.ndim)
        levels = np.rint(array / scale) + zero_point
        return np.asarray(np.clip(levels, self.grid.low, self.grid.high), self.grid.dtype.numpy())

    def _along(self, numbers_: np.ndarray, rank: int) -> np.ndarray:
        if self.axis is None:
            return numbers_
        shape = [1] * rank
        shape[self.axis] = -1
        return numbers_.reshape(shape)


def affine(low: np.ndarray, high: np.ndarray, to: Grid, axis: int | None = None) -> Affine:
    """Scales and zero points for numbers between `low` and `high` (and 0)."""
    low = np.minimum(np.asarray(low, np.float64), 0.0)
    high = np.maximum(np.asarray(high, np.float64), 0.0)
    if to.is_signed:
        scale = np.maximum(-low, high) / to.high
    else:
        scale = (high - low) / (to.high - to.low)
    # Nothing but zeros, or numbers so small that the scale would not be a normal number.
    scale = np.where(scale < LEAST_SCALE, 1.0, scale).astype(np.float32)
    zero_point = np.zeros_like(scale) if to.is_signed else np.rint(to.low - low / scale)
    return Affine(np.asarray(scale), np.asarray(np.clip(zero_point, to.low, to.high), np.int32), to, axis)


def weight_affine(weight: Value, to: Grid, axis: int | None) -> Affine | None:
    """Scales for the constant `weight`, one for each entry of `axis` or one for all; None if not finite."""
    array = numbers(weight)
    if array is None or array.size == 0:
        return None
    others = None if axis is None else tuple(i for i in range(array.ndim) if i != axis)
    low, high = array.min(axis=others), array.max(axis=others)
    if not (np.all(np.isfinite(low)) and np.all(np.isfinite(high))):
        return None
    return affine(low, high, to, axis)


def integers(weight: Value, by: Affine, name: str, *, transposed: bool = False) -> TensorProtocol:
    """The constant `weight` as integers, made when it is written; `transposed` swaps its two axes.

    `by.axis` counts before the swap.
    """
    source = constant_tensor(weight)
    assert source is not None
    dims = source.shape.numpy()

    def make() -> TensorProtocol:
        levels = by.apply(source.numpy())
        return tensor(np.ascontiguousarray(levels.T) if transposed else levels, name=name)

    shape = Shape(dims[::-1] if transposed else dims)
    return LazyTensor(make, dtype=by.grid.dtype, shape=shape, name=name)
