"""What the numbers of a weight look like, from a bounded sample of them.

Of a large tensor evenly spaced blocks are read, so that a mapped file is touched in few places. Nothing
is read beyond :data:`MAX_TENSOR_BYTES` a tensor and :data:`MAX_TOTAL_BYTES` a view.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from graphopt.ir import LazyTensor

MAX_TENSOR_BYTES = 1 << 20
MAX_TOTAL_BYTES = 64 << 20
MAX_TENSORS = 2000
BLOCK_BYTES = 1 << 16
BINS = 24
SHOWN_ELEMENTS = 8


def statistics(tensors: Iterable[tuple[int, Any]]) -> dict[int, dict[str, Any]]:
    """The statistics of each of `tensors`, numbered, as far as the budgets reach: the largest first."""
    found: dict[int, dict[str, Any]] = {}
    room = MAX_TOTAL_BYTES
    ranked = sorted(tensors, key=lambda item: (-_nbytes(item[1]), item[0]))
    for number, tensor in ranked[:MAX_TENSORS]:
        cost = min(_nbytes(tensor), MAX_TENSOR_BYTES)
        if cost > room:
            continue
        described = describe(tensor)
        if described is not None:
            room -= cost
            found[number] = described
    return found


def describe(tensor: Any) -> dict[str, Any] | None:
    """Extremes, mean, deviation, zeros, non-finite numbers and histogram of `tensor`.

    None where it holds no numbers, or cannot be looked at without reading all of it.
    """
    sample = _sample(tensor)
    if sample is None or sample.size == 0:
        return None
    numbers = sample.astype(np.float64, copy=False)
    finite = numbers[np.isfinite(numbers)]
    row: dict[str, Any] = {
        "n": int(tensor.size),
        "zeros": int(np.count_nonzero(numbers == 0)),
        "nonfinite": int(numbers.size - finite.size),
    }
    if numbers.size < tensor.size:
        row["sampled"] = True
        row["of"] = int(numbers.size)
    if finite.size:
        with np.errstate(over="ignore", invalid="ignore"):
            mean, deviation = float(finite.mean()), float(finite.std())
        row |= {"min": float(finite.min()), "max": float(finite.max())}
        row |= {"mean": mean} if math.isfinite(mean) else {}
        row |= {"std": deviation} if math.isfinite(deviation) else {}
        if finite.size > SHOWN_ELEMENTS:
            row["hist"] = _histogram(finite)
    if tensor.size <= SHOWN_ELEMENTS:
        exact = sample.dtype.kind in "iu"
        shown = sample.reshape(-1).tolist() if exact else numbers.reshape(-1).tolist()
        row["shown"] = ", ".join(str(x) if exact else f"{x:.9g}" for x in shown)
    return row


def _histogram(finite: np.ndarray) -> list[list[float]]:
    """Bins of equal width; none where the numbers are too close or too far apart to have any."""
    low, high = float(finite.min()), float(finite.max())
    if low == high:
        return [[low, high, int(finite.size)]]
    if not math.isfinite(high - low):
        return []
    edges = np.linspace(low, high, BINS + 1)
    if not np.all(edges[:-1] < edges[1:]):
        return []
    counts, _ = np.histogram(finite, bins=edges)
    return [[float(a), float(b), int(c)] for a, b, c in zip(edges[:-1], edges[1:], counts, strict=True)]


def _sample(tensor: Any) -> np.ndarray | None:
    if tensor.dtype.name in ("STRING", "UNDEFINED", "COMPLEX64", "COMPLEX128"):
        return None
    small = _nbytes(tensor) <= MAX_TENSOR_BYTES
    if not small and (tensor.dtype.bitwidth < 8 or isinstance(tensor, LazyTensor)):
        return None  # these are unpacked or made as a whole
    flat = tensor.numpy().reshape(-1)
    if small:
        return np.asarray(flat)
    width = flat.dtype.itemsize
    length = max(1, BLOCK_BYTES // width)
    blocks = MAX_TENSOR_BYTES // BLOCK_BYTES
    starts = np.linspace(0, flat.size - length, blocks).astype(np.int64)
    return np.concatenate([flat[start : start + length] for start in starts.tolist()])


def _nbytes(tensor: Any) -> int:
    return int(tensor.size) * max(int(tensor.dtype.bitwidth), 1) // 8


def rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    """`row` with six digits for every number that is measured: what a reader can tell apart."""
    return {
        key: [[_short(a), _short(b), c] for a, b, c in value]
        if key == "hist"
        else _short(value)
        if isinstance(value, float)
        else value
        for key, value in row.items()
    }


def _short(value: float) -> float:
    return float(f"{value:.6g}")
