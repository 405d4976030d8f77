"""Binding inputs to values: an input that is always the same becomes a constant of the model."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import numpy as np

from graphopt.errors import UsageError
from graphopt.ir import DataType, Model, SymbolicDim, Value
from graphopt.ir.edit import Namer, add_initializer
from graphopt.ir.shapes import dim_name


def bind_constants(model: Model, constants: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Replace the inputs named in `constants` by constants, in place; return their arrays.

    Raises UsageError (GO701) for a name that is no input, or a value of another type or shape.
    """
    by_name = {v.name: v for v in model.graph.inputs}
    bound: dict[str, np.ndarray] = {}
    for name, given in constants.items():
        value = by_name.get(name)
        if value is None:
            near = difflib.get_close_matches(name, [str(n) for n in by_name], n=2)
            raise UsageError(
                "GO701",
                f"--constant names no input {name!r}",
                expected=" or ".join(repr(n) for n in near or by_name),
            )
        bound[name] = _as_array(value, given)
    namer = Namer(model.graph)
    for name, array in bound.items():
        value = by_name[name]
        model.graph.inputs.remove(value)
        constant = add_initializer(model.graph, namer.value(f"{name}/constant"), array)
        if value.is_graph_output():
            raise UsageError(
                "GO701", "an input that is also an output cannot be bound", where=f"input {name!r}"
            )
        value.replace_all_uses_with(constant)
        model.graph.initializers.pop(name, None)
    return bound


def dimension_symbol(model: Model, name: str) -> str | None:
    """The symbol that `name` means: a dimension of the inputs (``batch``), or an input's axis (``x.0``).

    None where there is no such dimension, or it has no symbol.
    """
    symbols = {
        dim.value
        for value in model.graph.inputs
        if value.shape is not None
        for dim in value.shape.dims
        if isinstance(dim, SymbolicDim)
    }
    for candidate in (name, dim_name(name)):
        if candidate in symbols:
            return candidate
    owner, dot, axis = name.rpartition(".")
    value = next((v for v in model.graph.inputs if v.name == owner), None)
    shape = None if value is None else value.shape
    if not dot or shape is None or not axis.isdigit() or int(axis) >= len(shape):
        return None
    dim = shape.dims[int(axis)]
    return dim.value if isinstance(dim, SymbolicDim) else None


def _as_array(value: Value, given: Any) -> np.ndarray:
    where = f"--constant {value.name}"
    if value.dtype is None or value.dtype == DataType.STRING:
        raise UsageError("GO701", "only numeric inputs can be bound", where=where)
    try:
        raw = np.asarray(given)
        array = raw.astype(value.dtype.numpy())
    except (TypeError, ValueError) as error:
        raise UsageError(
            "GO701", f"the value is no {value.dtype.name.lower()}", where=where, found=repr(given)
        ) from error
    if raw.dtype.kind in "iufb" and array.dtype.kind in "iu" and not np.array_equal(array, raw):
        raise UsageError(
            "GO701", f"the value does not fit {value.dtype.name.lower()}", where=where, found=repr(given)
        )
    if value.shape is None:
        return array
    shape = tuple(value.shape.dims)
    if array.ndim == 0 and all(d == 1 for d in shape):
        array = array.reshape((1,) * len(shape))
    fits = len(shape) == array.ndim and all(
        not isinstance(want, int) or want == have for want, have in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise UsageError(
            "GO701",
            "the value has another shape than the input",
            where=where,
            found=list(array.shape),
            expected=[d if isinstance(d, int) else str(d) for d in shape],
        )
    return array
