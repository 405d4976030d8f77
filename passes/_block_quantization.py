"""Weights in 4 or 8 bits with a scale for each block of terms of a sum, and how they are packed.

Rows here are the output channels: a weight [K, N] of MatMul is looked at as N rows of K terms, cut into
blocks of ``block`` terms (the last one padded with zeros).
"""

from __future__ import annotations

import dataclasses

import numpy as np

ROWS_AT_ONCE_BYTES = 1 << 24
"""Rows are converted a part at a time, so that large weights take little more memory than their result."""


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How numbers are grouped and how many bits each gets."""

    bits: int
    size: int
    symmetric: bool

    @property
    def levels(self) -> int:
        """How many integers there are."""
        return 1 << self.bits

    @property
    def middle(self) -> int:
        """The unsigned integer that stands for 0 where zero points are not stored."""
        return self.levels >> 1

    def count(self, terms: int) -> int:
        """The number of blocks in a row."""
        return -(-terms // self.size)


@dataclasses.dataclass(frozen=True)
class RowScales:
    """Scales [rows, blocks] (float32) and zero points (unsigned integers) of a weight."""

    blocks: Blocks
    scale: np.ndarray
    zero_point: np.ndarray


def row_scales(weight: np.ndarray, by_rows: bool, blocks: Blocks) -> RowScales | None:
    """The scales of `weight`, [rows, terms] if `by_rows` else [terms, rows]; None if it is not finite.

    Symmetric blocks use all levels of the side with the largest magnitude: the scale has its sign.
    """
    rows, terms = weight.shape if by_rows else weight.shape[::-1]
    scale = np.empty((rows, blocks.count(terms)), np.float32)
    zero_point = np.full(scale.shape, blocks.middle, np.uint8)
    for part in _parts(rows, terms):
        grouped = _grouped(weight, by_rows, part, blocks)
        low, high = grouped.min(axis=2), grouped.max(axis=2)
        if not (np.all(np.isfinite(low)) and np.all(np.isfinite(high))):
            return None
        if blocks.symmetric:
            found = np.where(-low >= high, low, high).astype(np.float64) / -blocks.middle
            scale[part] = _usable(found)
        else:
            low, high = np.minimum(low, 0).astype(np.float64), np.maximum(high, 0).astype(np.float64)
            scale[part] = _usable((high - low) / (blocks.levels - 1))
            zero_point[part] = np.clip(np.rint(-low / scale[part]), 0, blocks.levels - 1)
    return RowScales(blocks, scale, zero_point)


def _usable(scale: np.ndarray) -> np.ndarray:
    return np.where(np.abs(scale) < np.finfo(np.float32).tiny, 1.0, scale).astype(np.float32)


def row_levels(weight: np.ndarray, by_rows: bool, by: RowScales) -> np.ndarray:
    """`weight` as unsigned integers [rows, blocks, size]; padding is the zero point."""
    rows, terms = weight.shape if by_rows else weight.shape[::-1]
    blocks = by.blocks
    levels = np.empty((rows, blocks.count(terms), blocks.size), np.uint8)
    for part in _parts(rows, terms):
        grouped = _grouped(weight, by_rows, part, blocks)
        found = np.rint(grouped / by.scale[part][..., None]) + by.zero_point[part][..., None]
        levels[part] = np.clip(found, 0, blocks.levels - 1)
    return levels


def _parts(rows: int, terms: int) -> list[slice]:
    step = max(1, ROWS_AT_ONCE_BYTES // max(4 * terms, 1))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _grouped(weight: np.ndarray, by_rows: bool, part: slice, blocks: Blocks) -> np.ndarray:
    """Some rows as float32 [rows, blocks, size]."""
    rows = weight[part] if by_rows else weight[:, part].T
    count = blocks.count(rows.shape[1])
    padded = np.zeros((rows.shape[0], count * blocks.size), np.float32)
    padded[:, : rows.shape[1]] = rows
    return padded.reshape(rows.shape[0], count, blocks.size)


def packed(levels: np.ndarray, bits: int) -> np.ndarray:
    """Unsigned integers as bytes along the last axis; two of 4 bits to a byte, the first one low."""
    if bits == 8:
        return levels
    if levels.shape[-1] % 2:
        levels = np.concatenate([levels, np.zeros((*levels.shape[:-1], 1), np.uint8)], axis=-1)
    return np.asarray(levels[..., 0::2] | (levels[..., 1::2] << 4))
