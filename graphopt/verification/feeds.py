"""Inputs to verify with: generated from the model, or read from files."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 and the float8 types with numpy)
import numpy as np

from graphopt.errors import ModelError, UnsupportedError
from graphopt.ir import DataType, Model, TensorType, Value
from graphopt.ir.query import element_count
from graphopt.verification.feed_files import Feeds, load_feeds
from graphopt.verification.value_ranges import Use, find_use

__all__ = ["MAX_FEED_BYTES", "Feeds", "generate_feeds", "load_feeds"]

MAX_FEED_BYTES = 1 << 30
"""The most that is generated for one model, all inputs together."""

BATCH_SIZE, SEQUENCE_SIZE, IMAGE_SIZE = 2, 8, 32
_BATCH_NAME = re.compile(r"(n|b|bs|.*batch.*|.*_dim0)\Z", re.IGNORECASE)
_IMAGE_NAME = re.compile(r"(h|w|.*height.*|.*width.*)\Z", re.IGNORECASE)
_WORDS = ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel")


def generate_feeds(model: Model, *, dims: Mapping[str, int] | None = None, seed: int = 0) -> Feeds:
    """Plausible arrays for every input of `model` that has no default; the same for the same arguments.

    Floats are standard normal; integers respect what the graph does with them (indices stay inside
    their tables, masks are 0 and 1, shapes fit); booleans are random; strings are words.

    Args:
        model: in canonical form, with inferred shapes.
        dims: sizes of symbolic dimensions. Others get small ones: 2 for a batch, 32 for a side of an
            image, else 8. Sizes that the model ties to each other are for the caller to state.
        seed: chooses the values.

    Raises:
        UnsupportedError: GO202 for an input that is no tensor, GO204 for one of unknown rank.
        ModelError: GO108, the inputs would take more than :data:`MAX_FEED_BYTES`.
    """
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    sizes = dict(dims or {})
    shapes = {value.name or "": _shape(value, sizes) for value in inputs}
    total = sum(element_count(shapes[value.name or ""]) * _item_bytes(value) for value in inputs)
    if total > MAX_FEED_BYTES:
        raise ModelError(
            "GO108",
            "the inputs are too large to generate",
            found=f"{total} bytes",
            expected=f"at most {MAX_FEED_BYTES}",
            next_step="Bind dimensions to smaller sizes with --dim, or give --data.",
        )
    return {value.name or "": _array(value, shapes[value.name or ""], sizes, seed) for value in inputs}


def _item_bytes(value: Value) -> int:
    if value.dtype is None or value.dtype == DataType.STRING:
        return 8  # a pointer
    return value.dtype.numpy().itemsize


def _shape(value: Value, sizes: dict[str, int]) -> tuple[int, ...]:
    """The shape to feed; sizes chosen for new symbols are added to `sizes`."""
    if value.type is not None and not isinstance(value.type, TensorType):
        raise UnsupportedError(
            "GO202",
            "inputs that are no tensors cannot be generated",
            where=repr(value.name),
            found=value.type,
        )
    if value.shape is None or value.dtype is None:
        raise UnsupportedError(
            "GO204",
            "an input of unknown rank cannot be generated",
            where=repr(value.name),
            next_step="Give its shape with --shape, or data with --data.",
        )
    image = len(value.shape) >= 4 and value.dtype.is_floating_point()
    shape = []
    for axis, dim in enumerate(value.shape.dims):
        if isinstance(dim, int):
            shape.append(dim)
            continue
        name = str(dim.value)
        if name not in sizes:
            if _BATCH_NAME.match(name):
                sizes[name] = BATCH_SIZE
            elif (image and axis >= 2) or _IMAGE_NAME.match(name):
                sizes[name] = IMAGE_SIZE
            else:
                sizes[name] = SEQUENCE_SIZE
        shape.append(sizes[name])
    return tuple(shape)


def _array(value: Value, shape: tuple[int, ...], sizes: Mapping[str, int], seed: int) -> np.ndarray:
    assert value.dtype is not None
    # Each input has a generator of its own, so that adding an input does not change the others.
    random = np.random.default_rng([seed, zlib.crc32((value.name or "").encode())])
    use = find_use(value, sizes)
    if value.dtype == DataType.STRING:
        return random.choice(np.array(_WORDS, dtype=object), shape)
    dtype = value.dtype.numpy()
    # Token numbers are compared with 0 and 1 too: what indexes a table is no mask.
    if use.role is not None and not (use.role == "mask" and use.below is not None):
        return np.asarray(_SPECIAL[use.role](random, shape, value)).astype(dtype)
    if value.dtype == DataType.BOOL:
        return random.integers(0, 2, shape).astype(bool)
    if use.value is not None:
        return np.full(shape, use.value, dtype)
    if value.dtype.is_integer():
        return _integers(random, shape, value, use).astype(dtype)
    if dtype.kind == "c":
        return (random.standard_normal(shape) + 1j * random.standard_normal(shape)).astype(dtype)
    return random.standard_normal(shape).astype(dtype)


def _integers(random: np.random.Generator, shape: tuple[int, ...], value: Value, use: Use) -> np.ndarray:
    if use.below is not None:
        # A narrow type cannot hold the numbers of a large table.
        high = min(use.below, int(np.iinfo(_container(value)).max) + 1)
        return random.integers(min(use.at_least, high - 1), high, shape)
    if "mask" in (value.name or "").lower():
        return np.asarray(_mask(random, shape, value))
    if value.dtype in (DataType.UINT8, DataType.INT8):
        info = np.iinfo(_container(value))
        return random.integers(info.min, info.max, shape, endpoint=True)
    return random.integers(use.at_least, use.at_least + 6, shape)


def _container(value: Value) -> np.dtype[Any]:
    """The integer type that bounds `value`; sub-byte types are bounded by the type they are named for."""
    assert value.dtype is not None
    dtype = value.dtype.numpy()
    return dtype if dtype.kind in "iu" else np.dtype(np.int8)


Special = Callable[[np.random.Generator, tuple[int, ...], Value], Any]


def _mask(random: np.random.Generator, shape: tuple[int, ...], value: Value) -> Any:
    """Ones, then zeros along the last axis, at least one 1 in each row; booleans are just random."""
    if not shape or value.dtype == DataType.BOOL:
        return random.integers(0, 2, shape)
    lengths = random.integers(1, max(shape[-1], 1), (*shape[:-1], 1), endpoint=True)
    return np.arange(shape[-1]) < lengths


def _reshape(_: np.random.Generator, shape: tuple[int, ...], __: Value) -> Any:
    """``[1, …, 1, -1]`` fits any tensor."""
    target = np.ones(shape, np.int64)
    if target.ndim == 1 and target.size:
        target[-1] = -1
    return target


def _positive(random: np.random.Generator, shape: tuple[int, ...], value: Value) -> Any:
    if value.dtype is not None and value.dtype.is_integer():
        return random.integers(1, 8, shape)
    return np.abs(random.standard_normal(shape)) + 0.1


_SPECIAL: dict[str, Special] = {
    "mask": _mask,
    "positive": _positive,
    "zeros": lambda _, shape, __: np.zeros(shape),
    "ones": lambda _, shape, __: np.ones(shape),
    "arange": lambda _, shape, __: (
        np.broadcast_to(np.arange(shape[-1] if shape else 1), shape) if shape else np.zeros(shape)
    ),
    "huge": lambda _, shape, __: np.full(shape, 2**31 - 1, np.int64),
    "reshape": _reshape,
    "small": lambda random, shape, _: random.integers(0, 4, shape),
    "scale": lambda random, shape, _: random.uniform(0.01, 0.1, shape),
    "false": lambda _, shape, __: np.zeros(shape),
}
