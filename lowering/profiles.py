"""Optimisation profiles: the smallest, the likeliest and the largest shape of each input."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.errors import LoweringError, UsageError
from graphopt.ir import Model, SymbolicDim
from graphopt.ir.query import static_shape

Ranges = Mapping[str, tuple[int, int, int]]
"""Dimension name → its smallest, likeliest and largest size."""

Shapes = dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
"""Input name → its smallest, likeliest and largest shape."""


def input_profile(model: Model, ranges: Ranges, *, or_none: bool) -> Shapes:
    """The shapes of every input that has free dimensions.

    Args:
        or_none: whether a runtime can do without any range.

    Raises:
        LoweringError: GO204, a free dimension has no range.
        UsageError: GO701, a range is not in order.
    """
    found: Shapes = {}
    missing: dict[str, None] = {}
    for value in model.graph.inputs:
        if static_shape(value) is not None or value.is_initializer():
            continue
        if value.shape is None:
            missing.setdefault(f"all of {value.name!r}, whose rank is unknown")
            continue
        sizes = [_range_of(dim, ranges, missing) for dim in value.shape.dims]
        low, likely, high = (tuple(size[which] for size in sizes) for which in range(3))
        found[value.name or ""] = (low, likely, high)
    if missing:
        raise LoweringError(
            "GO204",
            "a TensorRT profile needs the range of every dynamic dimension",
            found=f"none for {', '.join(missing)}",
            next_step="Give each as --dim NAME=min:opt:max"
            + (", or none at all." if or_none else " (or as --dim NAME=SIZE, which fixes it)."),
            details={"free_dims": list(missing)},
        )
    return found


def _range_of(dim: int | SymbolicDim, ranges: Ranges, missing: dict[str, None]) -> tuple[int, int, int]:
    if isinstance(dim, int):
        return dim, dim, dim
    name = str(dim.value)
    if name not in ranges:
        missing.setdefault(name)
        return 0, 0, 0
    low, likely, high = ranges[name]
    if not 1 <= low <= likely <= high:
        raise UsageError(
            "GO701", "a range is min:opt:max", where=f"--dim {name}", found=f"{low}:{likely}:{high}"
        )
    return low, likely, high
