"""Where an axis of the first operand of an operator goes, if all entries along it are treated alike.

Removing entries of such an axis from the operand removes the same entries from every result and
changes nothing else: no attribute and no other operand says how many there are.
"""

from __future__ import annotations

from graphopt.ir import Node, Value
from graphopt.ir.query import attribute, constant, ints, is_op, rank, static_shape

REDUCTIONS = frozenset(
    "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare".split()
)


def moved_axis(node: Node, axis: int) -> int | None:
    """The place in all results of `node` of the axis `axis` of its first operand; None if not known.

    The entries that are left are the same numbers when others are removed. A wrong answer would be a
    wrong model, so whatever is not listed here, or could not be read, is None.
    """
    size = rank(node.inputs[0])
    if size is None or node.domain:
        return None
    if is_op(node, "Transpose"):
        perm = [int(i) for i in attribute(node, "perm", range(size)[::-1])]
        return perm.index(axis)
    if is_op(node, "Softmax", "LogSoftmax"):
        return axis if int(attribute(node, "axis", -1)) % size != axis else None
    if is_op(node, "LayerNormalization", "RMSNormalization"):
        return _normalized(node, axis, size)
    if is_op(node, "RotaryEmbedding"):
        return axis if size == 4 and axis == 1 and not attribute(node, "num_heads", 0) else None
    if node.op_type in REDUCTIONS:
        return _reduced(node, axis, size)
    if is_op(node, "Unsqueeze"):
        return _unsqueezed(node, axis, size)
    if is_op(node, "Squeeze"):
        axes = _axes(node, 1, size)
        return None if axes is None or axis in axes else axis - sum(a < axis for a in axes)
    if is_op(node, "Split"):
        return axis if int(attribute(node, "axis", 0)) % size != axis else None
    if is_op(node, "Slice", "Pad"):
        return _off_axis(node, axis, size)
    if is_op(node, "Resize"):
        return _resized(node, axis, size)
    return _gathered(node, axis, size) if is_op(node, "Gather") else None


def _normalized(node: Node, axis: int, size: int) -> int | None:
    """Normalized behind `axis`, by scales and shifts that are the same all along it."""
    behind = int(attribute(node, "axis", -1)) % size
    ranks = [rank(v) for v in node.inputs[1:] if v is not None]
    return axis if axis < behind and all(r is not None and r <= size - behind for r in ranks) else None


def _axes(node: Node, index: int, size: int) -> set[int] | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    axes = ints(value)
    return None if axes is None else {a % size for a in axes}


def _reduced(node: Node, axis: int, size: int) -> int | None:
    axes = _axes(node, 1, size)
    if not axes or axis in axes:
        return None
    return axis if attribute(node, "keepdims", 1) else axis - sum(a < axis for a in axes)


def _unsqueezed(node: Node, axis: int, size: int) -> int | None:
    axes = ints(node.inputs[1])
    if axes is None:
        return None
    total = size + len(axes)
    new = {a % total for a in axes}
    return [i for i in range(total) if i not in new][axis]


def _off_axis(node: Node, axis: int, size: int) -> int | None:
    """Slice and Pad with an operand of axes: they must be known and be others than `axis`."""
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        axes = _axes(node, 3, size)
        return None if axes is None or axis in axes else axis
    if is_op(node, "Slice"):
        count = static_shape(node.inputs[1])
        return axis if count is not None and len(count) == 1 and axis >= count[0] else None
    pads = node.inputs[1]
    if static_shape(pads) != (2 * size,):
        return None
    return axis if _entry(pads, axis) == _entry(pads, axis + size) == 0 else None


def _entry(vector: Value | None, position: int) -> int | None:
    """The number at `position` of a vector that is constant there, if not everywhere."""
    if (entries := ints(vector)) is not None:
        return entries[position]
    concat = vector.producer() if vector is not None else None
    for part in concat.inputs if concat is not None and is_op(concat, "Concat") else ():
        count = static_shape(part)
        if count is None or len(count) != 1:
            return None
        if position < count[0]:
            entries = ints(part)
            return None if entries is None else entries[position]
        position -= count[0]
    return None


def _resized(node: Node, axis: int, size: int) -> int | None:
    """Resize by a factor of 1 along `axis`, which takes each entry from itself."""
    if attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return None
    axes = attribute(node, "axes", None)
    if axes is not None:
        return axis if axis not in {int(a) % size for a in axes} else None
    scales = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    return axis if scales is not None and scales.size == size and scales[axis] == 1 else None


def _gathered(node: Node, axis: int, size: int) -> int | None:
    along, indices = int(attribute(node, "axis", 0)) % size, rank(node.inputs[1])
    if along == axis or indices is None:
        return None
    return axis if axis < along else axis + indices - 1
