"""Check what a caller feeds against what a model takes, before any runtime sees it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  (registers bfloat16 and the float8 types with numpy)
import numpy as np

from graphopt.errors import FeedError


class FeedSpec(NamedTuple):
    """What one input takes.

    Attributes:
        name: the input's name.
        dtype: a numpy dtype name (``float32``, ``bfloat16``, ``bool``, …) or ``string``.
        shape: numbers and names of symbolic dimensions; None: any rank.
        optional: whether it may be left out (it has a default, or its type is optional).
        sequence: whether it is fed with a list of arrays.
        may_be_absent: whether its type is optional: without a default it may be None or left out.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None
    optional: bool = False
    sequence: bool = False
    may_be_absent: bool = False


def check_feeds(specs: Iterable[FeedSpec | tuple[Any, ...]], feeds: Mapping[str, Any]) -> dict[str, Any]:
    """`feeds` as arrays in the order of `specs`, or an error that lists everything wrong with them.

    Arrays are never converted: an int32 array for an int64 input is an error. Python numbers and lists
    have no dtype of their own and take the declared one, if it holds them without loss. A sequence is a
    list of arrays, an optional may be None.
    A symbolic dimension has one size in all inputs.

    Raises:
        FeedError: GO603.
    """
    wanted = [FeedSpec(*spec) for spec in specs]
    problems = _name_problems(wanted, feeds)
    sizes: dict[str, tuple[int, str]] = {}
    checked: dict[str, Any] = {}
    for spec in wanted:
        if spec.name not in feeds:
            continue
        try:
            checked[spec.name] = _checked(spec, feeds[spec.name], sizes)
        except _FeedProblem as problem:
            problems.append(f"{spec.name!r} {problem}")
    if len(problems) == 1:
        raise FeedError("GO603", problems[0])
    if problems:
        raise FeedError("GO603", f"{len(problems)} feeds do not fit:\n  " + "\n  ".join(problems))
    return checked


def _checked(spec: FeedSpec, value: Any, sizes: dict[str, tuple[int, str]]) -> Any:
    if value is None and spec.may_be_absent:
        return None
    if not spec.sequence:
        array = _as_array(spec, value)
        _check_shape(spec, array.shape, sizes)
        return array
    if not isinstance(value, (list, tuple)):
        raise _FeedProblem(f"is a sequence: found {type(value).__name__}, expected a list of arrays")
    items = []
    for index, item in enumerate(value):
        try:
            items.append(_as_array(spec, item))
            _check_shape(spec, items[-1].shape, {})  # the items' sizes are independent
        except _FeedProblem as problem:
            raise _FeedProblem(f"item {index} {problem}") from problem
    return items


class _FeedProblem(Exception):
    """One thing that is wrong with one feed."""


def _name_problems(specs: Sequence[FeedSpec], feeds: Mapping[str, Any]) -> list[str]:
    known = [spec.name for spec in specs]
    problems = []
    for name in feeds:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the inputs are {', '.join(map(repr, known))}"
            problems.append(f"{name!r} is not an input: {hint}")
    missing = [
        spec.name for spec in specs if not (spec.optional or spec.may_be_absent) and spec.name not in feeds
    ]
    return problems + [f"{name!r} is missing" for name in missing]


def _as_array(spec: FeedSpec, value: Any) -> np.ndarray:
    if spec.dtype == "string":
        return _as_strings(value)
    dtype = np.dtype(spec.dtype)
    if isinstance(value, (bool, int, float, complex, list, tuple)):
        return _from_python(value, dtype)
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _FeedProblem(f"cannot be read as an array: {error}") from error
    if array.dtype != dtype:
        found = array.dtype.str if array.dtype.name == dtype.name else array.dtype  # str shows the byte order
        raise _FeedProblem(f"has the wrong type: found {found}, expected {dtype}")
    return array


def _from_python(value: Any, dtype: np.dtype[Any]) -> np.ndarray:
    """A number or (nested) list in `dtype`; whole numbers may become floats, never the reverse."""
    try:
        natural = np.asarray(value)
    except (ValueError, OverflowError) as error:
        raise _FeedProblem(f"cannot be read as an array: {error}") from error
    if natural.size == 0:
        return natural.astype(dtype)
    source = natural.dtype.kind
    target = "f" if dtype.kind == "V" else dtype.kind  # ml_dtypes' floats are of kind V
    allowed = {"b": "b", "i": "iuf c", "u": "iuf c", "f": "f c", "c": "c"}.get(source, "")
    if target not in allowed:
        raise _FeedProblem(f"has the wrong type: found a Python {natural.dtype.name}, expected {dtype}")
    if target in "iu":
        info = np.iinfo(dtype)
        if int(natural.min()) < info.min or int(natural.max()) > info.max:
            raise _FeedProblem(f"is out of the range of {dtype}")
    with np.errstate(over="ignore"):
        array = natural.astype(dtype)
    if target == "f" and not np.array_equal(np.isfinite(natural), np.isfinite(array)):
        raise _FeedProblem(f"is out of the range of {dtype}")
    return array


def _as_strings(value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind == "U":
        return array.astype(object)
    if array.dtype != object or not all(isinstance(item, str) for item in array.reshape(-1)):
        raise _FeedProblem(f"has the wrong type: found {array.dtype}, expected strings")
    return array


def _check_shape(spec: FeedSpec, shape: tuple[int, ...], sizes: dict[str, tuple[int, str]]) -> None:
    """Compare with the declared shape; `sizes`: what each symbol is, and the input that said so."""
    if spec.shape is None:
        return
    declared = "[" + ", ".join(str(dim) for dim in spec.shape) + "]"
    if len(shape) != len(spec.shape):
        raise _FeedProblem(
            f"has the wrong rank: found {len(shape)} {list(shape)}, expected {len(spec.shape)} {declared}"
        )
    for axis, (found, dim) in enumerate(zip(shape, spec.shape, strict=True)):
        if isinstance(dim, int):
            if found != dim:
                raise _FeedProblem(
                    f"has the wrong shape: found {list(shape)}, expected {declared} (axis {axis})"
                )
            continue
        size, source = sizes.setdefault(dim, (found, spec.name))
        if size != found:
            raise _FeedProblem(
                f"has the wrong shape: found {dim}={found} on axis {axis}, expected {size} as in {source!r}"
            )
