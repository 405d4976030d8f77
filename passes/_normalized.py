"""Scales and biases of LayerNormalization: finding them behind it, and giving them its shape."""

from __future__ import annotations

import numpy as np

from graphopt.ir import Node, Value
from graphopt.ir.query import (
    SMALL_CONSTANT_ELEMENTS,
    attribute,
    constant,
    constant_tensor,
    element_count,
    is_op,
    only_use,
    rank,
)
from graphopt.passes._matching import made_for, produced_by
from graphopt.transform import NoMatch, Rewriter


def normalized_shape(x: Value, axes: tuple[int, ...]) -> tuple[int, ...] | None:
    """The dimensions of `x` at `axes`, if all are known and none is zero."""
    if x.shape is None:
        return None
    dims = [x.shape.dims[axis] for axis in axes]
    known = tuple(d for d in dims if isinstance(d, int) and d > 0)
    return known if len(known) == len(dims) else None


def moved_axes(x: Value, axes: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(the permutation that puts `axes` of `x` last, its inverse); the inverse is empty if they are there."""
    count = rank(x)
    assert count is not None
    moved = (*(i for i in range(count) if i not in axes), *axes)
    if moved == tuple(range(count)):
        return moved, ()
    return moved, tuple(int(i) for i in np.argsort(moved))


def layer_below(node: Node) -> tuple[Node, Value, Node | None] | NoMatch:
    """(the LayerNormalization, the other operand, the Transpose between or None) of a binary `node`."""
    for y, parameter in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
        user, transpose = node, produced_by(y, "Transpose")
        if transpose is not None:
            if isinstance(made_for(y, node, "Transpose"), NoMatch):
                continue
            y, user = transpose.inputs[0], transpose
        layer = produced_by(y, "LayerNormalization")
        if layer is None or y is None or parameter is None:
            continue
        if only_use(y) is not user or layer.graph is not node.graph or y is not layer.outputs[0]:
            return NoMatch("the normalized value is used elsewhere", y.name)
        if any(v.uses() or v.is_graph_output() for v in layer.outputs[1:]):
            return NoMatch("its statistics are used", y.name)
        return layer, parameter, transpose
    return NoMatch("no LayerNormalization there")


def fitted_parameter(
    parameter: Value, layer: Node, transpose: Node | None, rewriter: Rewriter, factor: float = 1.0
) -> Value | NoMatch:
    """``factor * parameter``, which meets the result of `layer` (transposed), in the normalized shape."""
    x = layer.inputs[0]
    x_rank = rank(x)
    if x is None or x_rank is None:
        return NoMatch("the rank is unknown")
    axis = int(attribute(layer, "axis", -1)) % x_rank
    shape = normalized_shape(x, tuple(range(axis, x_rank)))
    if shape is None or parameter.shape is None:
        return NoMatch("the shape of the parameter or of the normalized dimensions is unknown")
    own = tuple(parameter.shape.dims)
    if own == shape and factor == 1.0 and transpose is None:
        return parameter
    if constant_tensor(parameter) is None:
        return NoMatch("the parameter is not of the normalized shape", parameter.name)
    if len(own) > x_rank:
        return NoMatch("the parameter raises the rank", parameter.name)
    order = tuple(range(x_rank)) if transpose is None else _permutation(transpose, x_rank)
    # Entry i of the parameter, counted as the result's, belongs to entry order[i] of the layer's result.
    aligned = (1,) * (x_rank - len(own)) + own
    if any(dim != 1 for i, dim in enumerate(aligned) if order[i] < axis):
        return NoMatch("the parameter varies outside the normalized dimensions", parameter.name)
    data = constant(parameter)
    if data is None or any(
        dim not in (1, shape[order[i] - axis]) for i, dim in enumerate(aligned) if order[i] >= axis
    ):
        return NoMatch("the parameter does not fit the normalized dimensions", parameter.name)
    if element_count(shape) > SMALL_CONSTANT_ELEMENTS:
        return NoMatch("the normalized dimensions are very large")
    sizes = (1,) * (x_rank - data.ndim) + data.shape
    placed = data.reshape(sizes).transpose(np.argsort(order))
    placed = placed.reshape(placed.shape[axis:])
    if factor != 1.0:
        with np.errstate(over="ignore"):
            placed = (placed.astype(np.float64) * factor).astype(data.dtype)
        if not np.all(np.isfinite(placed)):
            return NoMatch("the scaled parameter is not finite in its type", parameter.name)
    return rewriter.const(np.ascontiguousarray(np.broadcast_to(placed, shape)), "parameter")


def _permutation(transpose: Node, count: int) -> tuple[int, ...]:
    given = attribute(transpose, "perm")
    return tuple(int(p) for p in given) if given is not None else tuple(reversed(range(count)))


def is_unscaled(layer: Node) -> bool:
    """Whether a LayerNormalization has a scale of ones and no bias."""
    scale = constant(layer.inputs[1])
    biased = len(layer.inputs) > 2 and layer.inputs[2] is not None
    return (
        is_op(layer, "LayerNormalization") and scale is not None and bool(np.all(scale == 1)) and not biased
    )
