"""eliminate-noops: operators that give back what they got."""

from __future__ import annotations

import dataclasses

import numpy as np

from graphopt.ir import Node, Value
from graphopt.ir.query import (
    attribute,
    constant,
    element_count,
    ints,
    is_op,
    same_shape,
    static_shape,
)
from graphopt.passes._matching import attributes_of
from graphopt.passes._noop_arithmetic import ARITHMETIC_RULES
from graphopt.passes.merge_transposes import permutation
from graphopt.transform import NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

MAX_MASK_ELEMENTS = 1 << 16
"""A Dropout mask larger than this is not written out as a constant."""


def keeps_shape(node: Node, x: Value | None) -> bool:
    """Whether the first output of `node` provably has the shape of `x`."""
    return x is not None and same_shape(x.shape, node.outputs[0].shape)


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand")
def reshape_to_same_shape(node: Node, _: Rewriter) -> Replacement:
    """Reshape(x) = x, as Flatten, Squeeze, Unsqueeze and Expand, if the shape is that of x."""
    x = node.inputs[0]
    return x if x is not None and keeps_shape(node, x) else NoMatch("the shape may differ")


@rule("Transpose")
def transpose_of_unit_axes(node: Node, _: Rewriter) -> Replacement:
    """Transpose(x) = x if no axis moves but those of size 1, and the shape stays."""
    x, perm = node.inputs[0], permutation(node)
    if x is None or perm is None or x.shape is None:
        return NoMatch("the rank is not known")
    moved = [axis for axis in perm if x.shape.dims[axis] != 1]
    if perm == tuple(range(len(perm))) or (moved == sorted(moved) and keeps_shape(node, x)):
        return x
    return NoMatch("axes move")


@rule("Cast", "CastLike")
def cast_to_same_type(node: Node, _: Rewriter) -> Replacement:
    """Cast(x) = x if x has that type already."""
    x = node.inputs[0]
    if x is None or x.dtype is None or x.dtype != node.outputs[0].dtype:
        return NoMatch("the type changes")
    return x


@rule("CastLike")
def cast_like_known(node: Node, rewriter: Rewriter) -> Replacement:
    """CastLike(x, y) = Cast(x) to the type of y."""
    like = node.inputs[1]
    if like is None or like.dtype is None:
        return NoMatch("the type is not known")
    attributes = attributes_of(node) | {"to": int(like.dtype)}
    return rewriter.op("Cast", node.inputs[0], **attributes)


@rule("Pad")
def pad_by_nothing(node: Node, _: Rewriter) -> Replacement:
    """Pad(x, 0) = x."""
    pads = ints(node.inputs[1])
    if node.inputs[0] is None or pads is None or any(pads):
        return NoMatch("the pads are not known to be zero")
    return node.inputs[0]


@rule("Slice")
def slice_of_everything(node: Node, _: Rewriter) -> Replacement:
    """Slice(x) = x with steps of 1 and a result as large as x."""
    x = node.inputs[0]
    steps = ints(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] is not None else ()
    if steps is None or any(step != 1 for step in steps):
        return NoMatch("the steps are not known to be 1")
    return x if x is not None and keeps_shape(node, x) else NoMatch("a part may be cut off")


@rule("Tile")
def tile_once(node: Node, _: Rewriter) -> Replacement:
    """Tile(x, 1) = x."""
    repeats = ints(node.inputs[1])
    if node.inputs[0] is None or repeats is None or any(r != 1 for r in repeats):
        return NoMatch("the repeats are not known to be 1")
    return node.inputs[0]


@rule("Concat", "Sum", "Max", "Min", "Mean")
def of_one_operand(node: Node, _: Rewriter) -> Replacement:
    """Concat(x) = Sum(x) = Max(x) = Min(x) = Mean(x) = x."""
    if len(node.inputs) != 1 or node.inputs[0] is None:
        return NoMatch("there are several operands")
    return node.inputs[0]


@rule("Split")
def split_into_one(node: Node, _: Rewriter) -> Replacement:
    """Split(x) = x into one part."""
    x = node.inputs[0]
    if len(node.outputs) != 1 or x is None:
        return NoMatch("there are several parts")
    return x


@rule("Dropout")
def dropout_in_inference(node: Node, rewriter: Rewriter) -> Replacement:
    """Dropout(x) = x, and its mask is all true, unless it trains."""
    x = node.inputs[0]
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        training = constant(node.inputs[2], max_elements=1)
        if training is None or bool(training.reshape(-1)[0]):
            return NoMatch("it may train", node.inputs[2].name)
    if x is None:
        return NoMatch("the input is missing")
    if len(node.outputs) == 1:
        return x
    mask = node.outputs[1]
    if not mask.uses() and not mask.is_graph_output():
        return [x, None]
    shape = static_shape(x)
    if shape is None or element_count(shape) > MAX_MASK_ELEMENTS:
        return NoMatch("its mask is used, and no small constant", mask.name)
    return [x, rewriter.const(np.ones(shape, np.bool_), "mask")]


@rule("Resize")
def resize_by_one(node: Node, _: Rewriter) -> Replacement:
    """Resize(x) = x with all scales 1 or the sizes of x."""
    x = node.inputs[0]
    if x is None or attribute(node, "coordinate_transformation_mode") == "tf_crop_and_resize":
        return NoMatch("it crops")
    scales = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if scales is not None and scales.size:
        return x if (scales == 1).all() else NoMatch("a scale is not 1")
    sizes = ints(node.inputs[3]) if len(node.inputs) > 3 else None
    shape = static_shape(x)
    axes = attribute(node, "axes")
    if sizes is None or shape is None or attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        return NoMatch("the sizes are not known")
    chosen = range(len(shape)) if axes is None else axes
    if len(sizes) != len(chosen) or any(
        shape[axis] != size for axis, size in zip(chosen, sizes, strict=True)
    ):
        return NoMatch("the size changes")
    return x


@rule("ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceMean")
def reduce_over_nothing(node: Node, _: Rewriter) -> Replacement:
    """Reduce(x) = x over no axis, or for a maximum, minimum, product over axes of size 1 that stay."""
    x = node.inputs[0]
    given = node.inputs[1] if len(node.inputs) > 1 else None
    axes = () if given is None else ints(given)
    if x is None or axes is None:
        return NoMatch("the axes are not known")
    if not axes and attribute(node, "noop_with_empty_axes", 0):
        return x
    shape = x.shape
    if shape is None or not keeps_shape(node, x):
        return NoMatch("the shape changes")
    # A sum starts from zero, and 0 + -0.0 is 0.0: exact for integers only.
    if node.op_type in ("ReduceSum", "ReduceMean") and (
        x.dtype is None or not x.dtype.name.startswith(("INT", "UINT"))
    ):
        return NoMatch("a sum loses the sign of a zero", x.name)
    reduced = range(len(shape)) if not axes else [a % len(shape) for a in axes]
    if any(shape.dims[axis] != 1 for axis in reduced):
        return NoMatch("an axis has several elements")
    return x


@rule("Where")
def where_known(node: Node, _: Rewriter) -> Replacement:
    """Where(true, x, y) = x, Where(false, x, y) = y, Where(c, x, x) = x if nothing broadcasts it."""
    condition, x, y = node.inputs
    known = constant(condition)
    if x is y or (known is not None and known.all()):
        chosen = x
    elif known is not None and not known.any():
        chosen = y
    else:
        return NoMatch("the condition is not constant", condition.name if condition is not None else None)
    if chosen is None or not keeps_shape(node, chosen):
        return NoMatch("the others may broadcast it", node.outputs[0].name)
    return chosen


_ROUNDING = frozenset({"Ceil", "Floor", "Round"})


@rule("Abs", "Ceil", "Floor", "Relu", "Round", "Sign")
def idempotent(node: Node, _: Rewriter) -> Replacement:
    """f(f(x)) = f(x) for Abs, Relu and Sign, and for Ceil, Floor and Round of each other."""
    x = node.inputs[0]
    inner = None if x is None else x.producer()
    family = _ROUNDING if node.op_type in _ROUNDING else frozenset({node.op_type})
    if x is None or not is_op(inner, *family):
        return NoMatch("the operand is not of the same kind")
    return x


@rule("BitwiseNot", "Neg", "Not")
def involution(node: Node, _: Rewriter) -> Replacement:
    """f(f(x)) = x for Neg, Not and BitwiseNot."""
    x = node.inputs[0]
    inner = None if x is None else x.producer()
    if inner is None or not is_op(inner, node.op_type) or inner.inputs[0] is None:
        return NoMatch("the operand is not of the same kind")
    return inner.inputs[0]


@rule("AveragePool", "MaxPool")
def rounding_up_of_no_window(node: Node, rewriter: Rewriter) -> Replacement:
    """Pool<ceil_mode = 1>(x) = Pool(x) where rounding up makes no window that starts before the padding.

    Of such a window the versions of the specification, and shape inference and kernels of ONNX Runtime,
    hold different views.
    """
    if not attribute(node, "ceil_mode", 0):
        return NoMatch("it rounds down")
    if attribute(node, "auto_pad", "NOTSET") != "NOTSET":
        return NoMatch("the padding follows from the size")
    kernel = attribute(node, "kernel_shape")
    count = len(kernel)
    pads = attribute(node, "pads") or (0,) * (2 * count)
    strides, dilations = (attribute(node, name) or (1,) * count for name in ("strides", "dilations"))
    x = node.inputs[0]
    for axis in range(count):
        window = (kernel[axis] - 1) * dilations[axis] + 1
        if strides[axis] == 1 or window <= pads[axis + count] + 1:
            continue
        size = None if x is None or x.shape is None else x.shape.dims[axis + 2]
        if not isinstance(size, int):
            return NoMatch("the size is not known", None if x is None else x.name)
        room = size + pads[axis] + pads[axis + count] - window
        rest = room % strides[axis]
        if room < 0 or (rest and room - rest + strides[axis] < size + pads[axis]):
            return NoMatch("it makes a window", node.name)
    attributes = attributes_of(node) | {"ceil_mode": 0}
    return rewriter.ops(node.op_type, x, outputs=len(node.outputs), **attributes)


@dataclasses.dataclass(frozen=True)
class EliminateNoops(RulePass):
    """Remove operators that give back what they got, to the bit.

    What might change the sign of a zero (``x + 0.0``, a sum or mean over one element), the shape
    (broadcasting) or a NaN (a pooling window of one element, under ONNX Runtime) stays.

    given:  float[N, M] x
    before: y = Relu(Mul(Transpose<perm = [0, 1]>(x), 1.0))
    after:  y = Relu(x)
    """

    rules = (
        reshape_to_same_shape,
        transpose_of_unit_axes,
        cast_to_same_type,
        cast_like_known,
        pad_by_nothing,
        slice_of_everything,
        tile_once,
        of_one_operand,
        split_into_one,
        dropout_in_inference,
        resize_by_one,
        reduce_over_nothing,
        where_known,
        idempotent,
        involution,
        rounding_up_of_no_window,
        *ARITHMETIC_RULES,
    )
