"""Sizes for a model's free dimensions: the pass that binds them, and the check that none is left."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence

from graphopt.errors import UnsupportedError, UsageError
from graphopt.ir import Model, SymbolicDim
from graphopt.target import SizeRange
from graphopt.transform import Pass, Pipeline

Dims = Mapping[str, "int | Sequence[int]"]


def bind_sizes(model: Model, sizes: Mapping[str, int]) -> Model:
    """A copy of `model` with dimensions bound; the weights are shared."""
    return Pipeline(binding_passes(model, {}, sizes)).run(model.clone())[0]


def binding_passes(model: Model, shapes: Mapping[str, Sequence[int | str]], dims: Dims) -> list[Pass]:
    """The bind-dims pass for the shapes and sizes given, if any."""
    sizes: dict[str, int] = {k: v for k, v in dims.items() if isinstance(v, int)}
    for name, given in dims.items():
        if not isinstance(given, (int, SizeRange)):
            raise UsageError(
                "GO701", "several sizes (buckets) are for compile", where=f"dims {name}", found=given
            )
    by_name = {v.name or "": v for v in model.graph.inputs}
    for name, shape in shapes.items():
        value = by_name.get(name)
        if value is None:
            raise UsageError(
                "GO701", f"--shape names no input {name!r}", expected=", ".join(repr(n) for n in by_name)
            )
        if value.shape is None or len(value.shape) != len(shape):
            raise UsageError(
                "GO701",
                "the shape has another rank than the input",
                where=f"--shape {name}",
                found=list(shape),
                expected=None if value.shape is None else str(value.shape),
            )
        for axis, (size, dim) in enumerate(zip(shape, value.shape.dims, strict=True)):
            if isinstance(size, int) and isinstance(dim, SymbolicDim):
                sizes[f"{name}.{axis}"] = size
            elif isinstance(size, int) and size != dim:
                raise UsageError(
                    "GO701", f"dimension {axis} is fixed", where=f"--shape {name}", found=size, expected=dim
                )
    if not sizes:
        return []
    find = importlib.import_module("graphopt.passes").find
    return [find("bind-dims")(dims=tuple(f"{k}={v}" for k, v in sizes.items()))]


def require_static(model: Model) -> None:
    """Raise UnsupportedError (GO204) naming the dimensions that are free, if any."""
    free: dict[str, list[str]] = {}
    for value in model.graph.inputs:
        for axis, dim in enumerate(value.shape.dims if value.shape is not None else ()):
            if not isinstance(dim, int):
                free.setdefault(str(dim.value), []).append(f"{value.name}.{axis}")
    if free:
        listed = ", ".join(f"{name} ({', '.join(places)})" for name, places in free.items())
        raise UnsupportedError(
            "GO204",
            f"the target needs fixed shapes, but these dimensions are free: {listed}",
            next_step="Bind them: " + " ".join(f"--dim {name}=8" for name in free),
            details={"free_dims": free},
        )
    for value in model.graph.inputs:
        if value.shape is None:
            raise UnsupportedError(
                "GO204",
                "the input has no declared shape",
                where=f"input {value.name!r}",
                next_step="Export the model with a shape for this input.",
            )
