"""Shapes and numbers that operators are tried on: small shapes with zeros and ones, and the numeric edges."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

FLOATS = (np.float32, np.float16, np.float64, ml_dtypes.bfloat16)
SIGNED = (np.int8, np.int16, np.int32, np.int64)
UNSIGNED = (np.uint8, np.uint16, np.uint32, np.uint64)
INTEGERS = SIGNED + UNSIGNED
NUMBERS = FLOATS + INTEGERS

FLOAT_EDGES = (
    np.nan,
    np.inf,
    -np.inf,
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    1.5,
    2.5,
    -2.5,
    3e4,
    -3e4,
    1e-4,
    88.0,
    -88.0,
)

Draw = Any


def dims(low: int = 0, high: int = 4) -> st.SearchStrategy[int]:
    """A dimension; zero and one are as likely as any."""
    return st.integers(low, high)


def shapes(least: int = 0, most: int = 4, low: int = 0, high: int = 4) -> st.SearchStrategy[tuple[int, ...]]:
    """A shape of `least` to `most` axes."""
    return st.lists(dims(low, high), min_size=least, max_size=most).map(tuple)


def numbers(
    draw: Draw, shape: tuple[int, ...], dtype: Any, *, edges: bool = True, scale: float = 3.0
) -> np.ndarray:
    """Random numbers of which, if asked, about one in three is an edge of the type."""
    generator = np.random.default_rng(draw(st.integers(0, 2**20)))
    dtype = np.dtype(dtype)
    if dtype == np.bool_:
        return generator.integers(0, 2, shape).astype(bool)
    edgy = edges and draw(st.booleans())
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        plain = generator.integers(0 if dtype.kind == "u" else -9, 10, shape).astype(dtype)
        special = np.array([info.min, info.max, 0, 1, info.max - 1, info.min + 1, 2], dtype)
    else:
        plain = np.asarray(generator.standard_normal(shape) * scale).astype(dtype)
        special = np.array(FLOAT_EDGES).astype(dtype)
    if not edgy:
        return np.asarray(plain)
    picked = special[generator.integers(0, len(special), shape)]
    return np.asarray(np.where(generator.uniform(size=shape) < 0.35, picked, plain))


def finite(draw: Draw, shape: tuple[int, ...], dtype: Any = np.float32, scale: float = 1.0) -> np.ndarray:
    """Random numbers without edges."""
    return numbers(draw, shape, dtype, edges=False, scale=scale)


def broadcastable(draw: Draw, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that broadcasts to `shape`: leading axes left out, others one."""
    kept = shape[draw(st.integers(0, len(shape))) :]
    return tuple(1 if draw(st.booleans()) else d for d in kept)


def axis_of(draw: Draw, rank: int) -> int:
    """An axis, negative half of the time."""
    return int(draw(st.integers(-rank, rank - 1)))


def axes_of(draw: Draw, rank: int, least: int = 0) -> list[int]:
    """Some axes in any order, some of them negative."""
    chosen = draw(st.permutations(range(rank)))[: draw(st.integers(min(least, rank), rank))]
    return [a - rank if draw(st.booleans()) else a for a in chosen]


def maybe(draw: Draw, value: Any) -> Any:
    """`value`, or None."""
    return value if draw(st.booleans()) else None


def some(draw: Draw, **attributes: Any) -> dict[str, Any]:
    """Some of the attributes; those that are None are never given."""
    return {k: v for k, v in attributes.items() if v is not None and draw(st.booleans())}
