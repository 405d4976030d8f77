"""eliminate-index-grids: no gathering by indices that only count through what they index."""

from __future__ import annotations

import dataclasses

import numpy as np

from graphopt.ir import Node, Shape, SymbolicDim, Value
from graphopt.ir.query import (
    attribute,
    constant,
    constant_tensor,
    element_count,
    ints,
    is_op,
    rank,
    same_dim,
    scalar,
    static_shape,
)
from graphopt.passes._axes import slice_bounds
from graphopt.passes._matching import produced_by
from graphopt.passes.merge_reshapes import unit_axes
from graphopt.transform import NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

MAX_DEPTH = 8
"""How many operators a ramp or a size is followed through."""

Dim = int | SymbolicDim


@dataclasses.dataclass(frozen=True)
class Ramp:
    """A value that counts 0, 1, 2, … `length` - 1 along its axis `axis`, the same along all others.

    Attributes:
        source: the vector that counts, if it is no constant.
    """

    axis: int
    length: Dim
    source: Value | None = None


def ramp(value: Value | None, depth: int = MAX_DEPTH) -> Ramp | None:
    """What `value` counts along, followed through Unsqueeze, Expand and Identity to a Range."""
    if value is None or value.shape is None or depth == 0:
        return None
    array = constant(value, max_elements=1 << 12)
    if array is not None:
        return _constant_ramp(array)
    node = value.producer()
    if node is None or not is_op(node, "Range", "Unsqueeze", "Expand", "Identity"):
        return None
    if is_op(node, "Range"):
        if scalar(node.inputs[0]) != 0 or scalar(node.inputs[2]) != 1:
            return None
        return Ramp(0, value.shape.dims[0], value)
    inner = ramp(node.inputs[0], depth - 1)
    source = node.inputs[0]
    if inner is None or source is None or source.shape is None:
        return None
    count = len(value.shape)
    if is_op(node, "Unsqueeze"):
        axes = ints(node.inputs[1])
        if axes is None:
            return None
        kept = [i for i in range(count) if i not in {a % count for a in axes}]
        return dataclasses.replace(inner, axis=kept[inner.axis])
    axis = inner.axis + count - len(source.shape)
    same = same_dim(value.shape.dims[axis], source.shape.dims[inner.axis])
    return dataclasses.replace(inner, axis=axis) if same else None


def _constant_ramp(array: np.ndarray) -> Ramp | None:
    if array.dtype.kind not in "iu" or array.ndim == 0 or not array.size:
        return None
    long = [axis for axis, size in enumerate(array.shape) if size > 1]
    if len(long) > 1:
        return None
    axis = long[0] if long else array.ndim - 1
    counts = bool((array.reshape(-1) == np.arange(array.size)).all())
    return Ramp(axis, array.size) if counts else None


def size_of(value: Value | None, depth: int = MAX_DEPTH) -> Dim | None:
    """The dimension that the single number `value` is read from, or the constant that it is."""
    number = scalar(value)
    if number is not None:
        return None if isinstance(number, float) else int(number)
    node = None if value is None else value.producer()
    if node is None or depth == 0:
        return None
    if is_op(node, "Squeeze", "Unsqueeze", "Reshape", "Identity"):
        return size_of(node.inputs[0], depth - 1)
    if is_op(node, "Slice"):
        return _sliced_size(node)
    if is_op(node, "Gather"):
        dims, index = _dims_of(node.inputs[0]), scalar(node.inputs[1])
        inside = dims is not None and index is not None and -len(dims) <= index < len(dims)
        return dims[int(index)] if inside and dims is not None and index is not None else None
    dims = _dims_of(value)
    return dims[0] if dims is not None and len(dims) == 1 else None


def _sliced_size(node: Node) -> Dim | None:
    dims, bounds = _dims_of(node.inputs[0]), slice_bounds(node)
    if dims is None or not isinstance(bounds, dict) or set(bounds) != {0}:
        return None
    taken = bounds[0].within(len(dims))
    return dims[taken[0]] if len(taken) == 1 else None


def _dims_of(value: Value | None) -> list[Dim] | None:
    shape = produced_by(value, "Shape")
    if shape is None or shape.inputs[0] is None or shape.inputs[0].shape is None:
        return None
    return list(shape.inputs[0].shape.dims[attribute(shape, "start", 0) : attribute(shape, "end")])


@rule("GatherND")
def gather_nd_of_grid(node: Node, rewriter: Rewriter) -> Replacement:
    """GatherND(x, [(i, j) for i for j]) = x, with axes of size 1 between, or the part that i and j reach."""
    x, indices = node.inputs
    if x is None or indices is None or x.shape is None or attribute(node, "batch_dims", 0):
        return NoMatch("the rank is not known, or there are batch axes")
    concat = produced_by(indices, "Concat")
    count = rank(indices)
    if concat is None or count is None or int(attribute(concat, "axis")) % count != count - 1:
        return NoMatch("the indices are not joined of one for each axis", indices.name)
    ramps = [ramp(part) for part in concat.inputs]
    if len(ramps) != len(x.shape) or any(part is None or part.shape is None for part in concat.inputs):
        return NoMatch("not every axis is indexed", concat.name)
    if any(
        part is not None and part.shape is not None and part.shape.dims[-1] != 1 for part in concat.inputs
    ):
        return NoMatch("a part of the indices is of several axes", concat.name)
    found = [r for r in ramps if r is not None]
    if len(found) != len(ramps):
        return NoMatch("an index does not just count", concat.name)
    return _read(x, found, node, rewriter)


@rule("GatherND")
def gather_nd_of_constant_grid(node: Node, rewriter: Rewriter) -> Replacement:
    """GatherND(x, all indices of x in order) = Reshape(x)."""
    x, indices = node.inputs
    shape, array = static_shape(x), constant(indices)
    output = static_shape(node.outputs[0])
    if shape is None or array is None or output is None or attribute(node, "batch_dims", 0):
        return NoMatch("the shape or the indices are not constant, or there are batch axes")
    if array.shape[-1] != len(shape) or element_count(shape) != element_count(output) or not array.size:
        return NoMatch("it takes more or fewer than all elements", node.name)
    sizes = np.array(shape)
    if (array < -sizes).any() or (array >= sizes).any():
        return NoMatch("an index is outside of its axis", node.name)
    flat = np.ravel_multi_index(tuple(np.moveaxis(array % sizes, -1, 0)), shape)
    if not (flat.reshape(-1) == np.arange(flat.size)).all():
        return NoMatch("the elements change their order", node.name)
    changed = unit_axes(Shape(shape), Shape(output))
    if changed is not None:
        return rewriter.op(changed[0], x, rewriter.const(np.array(changed[1], np.int64), "axes"))
    return rewriter.op("Reshape", x, rewriter.const(np.array(output, np.int64), "shape"))


@rule("Gather")
def gather_of_flat_grid(node: Node, rewriter: Rewriter) -> Replacement:
    """Gather(Reshape(x, [n * m, …]), i * m + j) = x, with axes of size 1 between, if i and j count.

    If j counts beyond m, the last row has no such element: i reaches it, so j does not.
    """
    flat = produced_by(node.inputs[0], "Reshape", "Flatten")
    add = produced_by(node.inputs[1], "Add")
    x = None if flat is None else flat.inputs[0]
    if flat is None or add is None or x is None or x.shape is None or len(x.shape) != 2:
        return NoMatch("it takes no sum as index of a flattened matrix")
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if int(attribute(node, "axis", 0)) != 0 or shape is None or any(d != 1 for d in shape.dims[1:]):
        return NoMatch("the matrix is flattened to another shape", flat.name)
    for minor, scaled in (add.inputs, reversed(add.inputs)):
        product = produced_by(scaled, "Mul")
        inner = ramp(minor)
        if product is None or inner is None:
            continue
        for major, stride in (product.inputs, reversed(product.inputs)):
            outer, size = ramp(major), size_of(stride)
            if outer is None or size is None or not same_dim(size, x.shape.dims[1]):
                continue
            if not same_dim(outer.length, x.shape.dims[0]):
                return NoMatch("the indices do not reach all of it", add.name)
            count = rank(node.inputs[1])
            shifts = [(count or 0) - (rank(v) or 0) for v in (major, minor)]
            if count is None:
                return NoMatch("the rank of the indices is not known", add.name)
            ramps = [
                dataclasses.replace(r, axis=r.axis + s) for r, s in zip((outer, inner), shifts, strict=True)
            ]
            return _read(x, ramps, node, rewriter)
    return NoMatch("the index does not just count", add.name)


def _read(x: Value, ramps: list[Ramp], node: Node, rewriter: Rewriter) -> Replacement:
    """x with the unit axes of the result of `node`, gathered where an axis may be longer than its ramp."""
    output = node.outputs[0].shape
    axes = [r.axis for r in ramps]
    if output is None or x.shape is None or axes != sorted(set(axes)):
        return NoMatch("the axes change their order", node.name)
    others = [i for i in range(len(output)) if i not in axes]
    if any(output.dims[i] != 1 for i in others):
        return NoMatch("the result repeats what it reads", node.name)
    if not all(same_dim(output.dims[r.axis], r.length) for r in ramps):
        return NoMatch("an index is repeated", node.name)
    for axis, found in enumerate(ramps):
        assert x.shape is not None
        if same_dim(found.length, x.shape.dims[axis]):
            continue
        if found.source is not None:
            indices = found.source
        else:
            assert isinstance(found.length, int)
            indices = rewriter.const(np.arange(found.length, dtype=np.int64), "indices")
        x = rewriter.op("Gather", x, indices, axis=axis or None)
    if not others:
        result = x
    else:
        result = rewriter.op("Unsqueeze", x, rewriter.const(np.array(others, np.int64), "axes"))
    result.shape = output
    return result


@rule("And")
def and_of_counting(node: Node, rewriter: Rewriter) -> Replacement:
    """And(GreaterOrEqual(Range, 0), x) = x, expanded to the shape of both."""
    for position, value in enumerate(node.inputs):
        comparison = produced_by(value, "GreaterOrEqual")
        other = node.inputs[1 - position]
        if comparison is None or other is None or constant_tensor(other) is not None:
            continue
        counted, bound = comparison.inputs
        number = scalar(bound)
        if ramp(counted) is None or number is None or number > 0 or rank(bound) != 0:
            continue
        result = rewriter.op("Expand", other, rewriter.op("Shape", counted))
        result.shape = node.outputs[0].shape
        return result
    return NoMatch("no operand says that what counts from zero is not negative")


@dataclasses.dataclass(frozen=True)
class EliminateIndexGrids(RulePass):
    """Read a tensor as it is where it is gathered by indices that count along each of its axes.

    That is how exporters write vmap and advanced indexing by aranges, in attention masks above all.

    given:  float[N, 2] x
    before: n = Shape<start = 0, end = 1>(x); s = Concat<axis = 0>(n, [2, 1]);
            i = Unsqueeze(Range(0, Squeeze(n), 1), [1, 2]); j = [[[0], [1]]];
            y = Exp(GatherND(x, Concat<axis = -1>(Expand(i, s), Expand(j, s))))
    after:  y = Exp(x)

    Along an axis whose size is not known to be what the index counts to, it is gathered by the vector
    that counts.

    Spec: https://onnx.ai/onnx/operators/onnx__GatherND.html
    """

    rules = (gather_nd_of_grid, gather_nd_of_constant_grid, gather_of_flat_grid, and_of_counting)
