"""bind-dims: symbolic dimensions of the inputs become numbers."""

from __future__ import annotations

import dataclasses
import re

from graphopt.errors import UsageError
from graphopt.ir import Model, Shape, SymbolicDim, Value, shapes
from graphopt.ir.bind import dimension_symbol
from graphopt.ir.query import walk_graphs
from graphopt.transform import Changes, Pass

BOUND_KEY = "graphopt.bound."
"""Prefix of the model's metadata entries that say which dimensions were bound, and to what."""


@dataclasses.dataclass(frozen=True)
class BindDims(Pass):
    """Give symbolic dimensions of the inputs a size, and infer every shape anew.

    A dimension is named as in the model (``batch``) or by input and axis (``pixels.0``); a
    dimension that stands in several inputs is bound in all of them.

    before: float[batch, 4] x; y = Relu(x)
    after:  float[8, 4] x; y = Relu(x)
    pass:   bind-dims{dims=batch=8}

    Attributes:
        dims: ``NAME=SIZE``; a colon in a name is written ``\\:``.
    """

    dims: tuple[str, ...] = ()

    def run(self, model: Model) -> Changes:
        """Bind, and infer. Raises UsageError (GO701) for an unknown name or a contradiction."""
        changes = Changes()
        sizes: dict[str, int] = {}
        axes: dict[Value, dict[int, int]] = {}
        for item in self.dims:
            name, size = _parse(item)
            symbol = _find(model, name, size, axes)
            if symbol is None:
                continue
            if sizes.setdefault(symbol, size) != size:
                raise _contradiction(name, size, sizes[symbol])
        _bind(model, sizes, axes, changes)
        if changes.modified:
            for symbol, size in sizes.items():
                model.metadata_props[BOUND_KEY + symbol] = str(size)
            shapes.infer_shapes(model)
        return changes


def _parse(item: str) -> tuple[str, int]:
    name, equals, text = item.rpartition("=")
    if not equals or not name.strip() or not re.fullmatch(r"\s*\d+\s*", text, re.ASCII):
        raise UsageError("GO701", "a dimension cannot be bound", found=repr(item), expected="NAME=SIZE")
    return name.strip(), int(text)


def _contradiction(name: str, wanted: int, known: int) -> UsageError:
    return UsageError(
        "GO701",
        f"the dimension {name!r} cannot have two sizes",
        found=f"{wanted}",
        expected=f"{known}, which it has already",
    )


def _find(model: Model, name: str, size: int, axes: dict[Value, dict[int, int]]) -> str | None:
    """The symbol that `name` means; None if there is nothing left to bind."""
    symbol = dimension_symbol(model, name)
    if symbol is not None:
        return symbol
    for candidate in (name, shapes.dim_name(name)):
        bound = model.metadata_props.get(BOUND_KEY + candidate)
        if bound is not None:
            if int(bound) != size:
                raise _contradiction(name, size, int(bound))
            return None
    owner, dot, axis = name.rpartition(".")
    value = next((v for v in model.graph.inputs if v.name == owner), None)
    shape = None if value is None else value.shape
    if dot and value is not None and shape is not None and axis.isdigit() and int(axis) < len(shape):
        dim = shape.dims[int(axis)]
        if isinstance(dim, SymbolicDim):
            axes.setdefault(value, {})[int(axis)] = size
        elif dim != size:
            raise _contradiction(name, size, dim)
        return None
    symbols = {
        str(dim.value): None
        for each in model.graph.inputs
        if each.shape is not None
        for dim in each.shape.dims
        if isinstance(dim, SymbolicDim) and dim.value is not None
    }
    raise UsageError(
        "GO701",
        f"the inputs have no symbolic dimension {name!r}",
        expected=", ".join(symbols) or "nothing: every dimension has a size",
        next_step="A dimension without a name is bound by input and axis, such as x.0=8.",
    )


def _bind(model: Model, sizes: dict[str, int], axes: dict[Value, dict[int, int]], changes: Changes) -> None:
    """Put the sizes in, in every shape: shapes that only a declaration gives are not inferred anew."""
    interface = set(model.graph.inputs)
    for graph in walk_graphs(model.graph):
        for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
            if value.shape is None:
                continue
            own = axes.get(value, {})
            dims = [
                sizes[dim.value] if isinstance(dim, SymbolicDim) and dim.value in sizes else own.get(i, dim)
                for i, dim in enumerate(value.shape.dims)
            ]
            if any(new is not old for new, old in zip(dims, value.shape.dims, strict=True)):
                value.shape = Shape(dims)
                if value in interface:
                    changes.counts["input"] += 1
