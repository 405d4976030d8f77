"""What a step of an operator's history asks of its nodes: one adapter per (operator, version).

Steps that ask for nothing are listed in :data:`graphopt.ir.opset.COMPATIBLE`.

Spec: https://github.com/onnx/onnx/blob/main/docs/Changelog.md
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from graphopt.ir import Attr, AttributeType, DataType, Graph, TensorType, Value
from graphopt.ir.edit import make_node
from graphopt.ir.opset_draft import Draft
from graphopt.ir.query import constant, subgraphs

Adapter = Callable[[Draft], None]
ADAPTERS: dict[tuple[str, int], Adapter] = {}

MAX_SCALES = 64
FLOAT32_MAX = float(np.finfo(np.float32).max)
INT, INTS = AttributeType.INT, AttributeType.INTS
FLOAT, FLOATS, STRING = AttributeType.FLOAT, AttributeType.FLOATS, AttributeType.STRING

REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")


def adapts(op_type: str, version: int) -> Callable[[Adapter], Adapter]:
    """Register a function as the adapter of `op_type` for the step to `version`."""

    def register(adapter: Adapter) -> Adapter:
        if (op_type, version) in ADAPTERS:
            raise KeyError(f"two adapters for {op_type}-{version}")
        ADAPTERS[op_type, version] = adapter
        return adapter

    return register


def like(draft: Draft, suffix: str, number: float, model: Value | None) -> Value:
    """A scalar of the element type of `model`, by CastLike where that type is unknown."""
    dtype = draft.plan.element_type(model)
    if dtype is None:
        return draft.emit("CastLike", [draft.constant(suffix, np.array(number, np.float32)), model], since=15)
    if not dtype.is_floating_point():
        raise draft.error(f"attribute '{suffix}' needs a floating-point input", found=dtype)
    with np.errstate(over="ignore"):  # a bound beyond float16 bounds nothing, and becomes infinite
        return draft.constant(suffix, np.array(number, np.float32).astype(dtype.numpy()))


# Attributes that became inputs.


@adapts("Slice", 10)
def slice_10(draft: Draft) -> None:
    """`starts`, `ends` and `axes` become inputs; axes default to the first ones, now stated."""
    starts, ends = draft.require("starts", INTS), draft.require("ends", INTS)
    axes = draft.take("axes", INTS)
    axes = range(len(starts)) if axes is None else axes
    if not len(starts) == len(ends) == len(axes):
        raise draft.error("starts, ends and axes differ in length", found=(len(starts), len(ends), len(axes)))
    for index, (name, data) in enumerate((("starts", starts), ("ends", ends), ("axes", axes)), start=1):
        draft.set_input(index, draft.int64s(name, data))


@adapts("TopK", 10)
def top_k_10(draft: Draft) -> None:
    """`k` becomes input K, of shape [1]."""
    k = draft.require("k", INT)
    if k < 0:
        raise draft.error("attribute 'k' is negative", found=k)
    draft.set_input(1, draft.int64s("k", [k]))


@adapts("Clip", 11)
def clip_11(draft: Draft) -> None:
    """`min` and `max` become scalar inputs; the old defaults and the new ones are the type's range."""
    for index, name, default in ((1, "min", -FLOAT32_MAX), (2, "max", FLOAT32_MAX)):
        bound = draft.take(name, FLOAT)
        if bound is not None and bound != default:
            draft.set_input(index, like(draft, name, bound, draft.input(0)))


@adapts("Pad", 11)
def pad_11(draft: Draft) -> None:
    """`pads` and `value` become inputs."""
    draft.set_input(1, draft.int64s("pads", draft.require("pads", INTS)))
    value = draft.take("value", FLOAT) or 0.0
    if value != 0 or math.copysign(1.0, value) < 0:
        draft.set_input(2, like(draft, "value", value, draft.input(0)))


@adapts("Dropout", 12)
def dropout_12(draft: Draft) -> None:
    """`ratio` becomes an input; without input training_mode the node stays in inference mode."""
    ratio = draft.take("ratio", FLOAT)
    if ratio is not None:
        draft.set_input(1, draft.constant("ratio", np.array(ratio, np.float32)))


@adapts("Squeeze", 13)
@adapts("ReduceSum", 13)
def optional_axes(draft: Draft) -> None:
    """`axes` becomes an input; absent or empty still means all of them."""
    axes = draft.take("axes", INTS)
    if axes:
        draft.set_input(1, draft.int64s("axes", axes))


for _name in REDUCTIONS:
    adapts(f"Reduce{_name}", 18)(optional_axes)


@adapts("Unsqueeze", 13)
def unsqueeze_13(draft: Draft) -> None:
    """`axes` becomes an input."""
    draft.set_input(1, draft.int64s("axes", draft.require("axes", INTS)))


@adapts("Split", 13)
def split_13(draft: Draft) -> None:
    """`split` becomes an input."""
    sizes = draft.take("split", INTS)
    if sizes:
        draft.set_input(1, draft.int64s("split", sizes))


@adapts("Split", 18)
def split_18(draft: Draft) -> None:
    """Without sizes, the number of equal parts has to be stated."""
    if draft.input(1) is None:
        draft.set(num_outputs=len(draft.outputs))


@adapts("Upsample", 9)
def upsample_9(draft: Draft) -> None:
    """`scales` becomes an input."""
    draft.set_input(1, draft.constant("scales", np.array(draft.require("scales", FLOATS), np.float32)))


@adapts("DFT", 20)
def dft_20(draft: Draft) -> None:
    """`axis` becomes a scalar input, and its default moves from 1 to -2."""
    axis = draft.take("axis", INT)
    draft.set_input(2, draft.constant("axis", np.array(1 if axis is None else axis, np.int64)))


# Operators that were renamed, or whose attribute values were.


@adapts("Upsample", 10)
def upsample_10(draft: Draft) -> None:
    """Upsample is Resize-10 for scales of at least 1."""
    draft.op_type = "Resize"


@adapts("Scatter", 11)
def scatter_11(draft: Draft) -> None:
    """Scatter got the name ScatterElements."""
    draft.op_type = "ScatterElements"


@adapts("GridSample", 20)
def grid_sample_20(draft: Draft) -> None:
    """The modes lost the prefix that tied them to two dimensions."""
    mode = draft.take("mode", STRING)
    if mode is not None:
        draft.set(mode={"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode))


@adapts("RoiAlign", 16)
def roi_align_16(draft: Draft) -> None:
    """The new default shifts coordinates by half a pixel; before, there was no shift."""
    draft.set(coordinate_transformation_mode="output_half_pixel")


# Resize.


@adapts("Resize", 11)
def resize_11(draft: Draft) -> None:
    """Resize-10 is asymmetric; its nearest pixel is the floor when enlarging, the ceiling when shrinking.

    Which of the two is decided per axis, by its scale. Where scales go both ways, or are computed, the
    enlarging axes are resized first and the shrinking ones after them: no axis is resized twice.
    """
    data, scales = draft.input(0), draft.input(1)
    nearest_mode = "floor"
    if draft.text("mode", "nearest") == "nearest":
        factors = constant(scales, max_elements=MAX_SCALES)
        if factors is None:
            one = draft.constant("one", np.ones(1, np.float32))
            enlarging, scales = draft.emit("Max", [scales, one]), draft.emit("Min", [scales, one])
            data = _enlarge(draft, data, enlarging)
            nearest_mode = "ceil"
        elif (factors < 1).any():
            if (factors > 1).any():
                data = _enlarge(draft, data, draft.constant("scales_up", np.maximum(factors, 1)))
                scales = draft.constant("scales_down", np.minimum(factors, 1))
            nearest_mode = "ceil"
        draft.set(nearest_mode=nearest_mode)
    draft.set(coordinate_transformation_mode="asymmetric")
    draft.inputs = [data, None, scales]


def _enlarge(draft: Draft, data: Value | None, scales: Value) -> Value:
    attributes = {
        "mode": "nearest",
        "nearest_mode": "floor",
        "coordinate_transformation_mode": "asymmetric",
    }
    return draft.emit("Resize", [data, None, scales], attributes)


@adapts("Resize", 13)
def resize_13(draft: Draft) -> None:
    """Of `scales` and `sizes` one must be absent, not empty; tf_half_pixel_for_nn has gone.

    That mode looks half a pixel further than half_pixel does. For two ways of rounding, another way of
    rounding gives the same pixel: floor(x + 1/2) rounds half up, and half down of x + 1/2 is ceil(x).
    """
    if draft.input(3) is not None:
        sizes = constant(draft.input(3), max_elements=MAX_SCALES)
        if sizes is not None and sizes.size == 0:
            draft.inputs = draft.inputs[:3]
        else:
            draft.set_input(2, None)
    if draft.text("coordinate_transformation_mode", "half_pixel") != "tf_half_pixel_for_nn":
        return
    rounding = draft.text("nearest_mode", "round_prefer_floor")
    equal = {"floor": "round_prefer_ceil", "round_prefer_floor": "ceil"}.get(rounding)
    if equal is None or draft.text("mode", "nearest") != "nearest":
        raise draft.error("coordinate_transformation_mode 'tf_half_pixel_for_nn' has no equal in Resize-13")
    draft.set(coordinate_transformation_mode="half_pixel", nearest_mode=equal)


# Softmax and its kin over a matrix.


@adapts("Softmax", 13)
@adapts("LogSoftmax", 13)
@adapts("Hardmax", 13)
def softmax_13(draft: Draft) -> None:
    """The older operators work on all axes from `axis` on as one; the newer ones on one axis."""
    axis = draft.take("axis", INT)
    axis = 1 if axis is None else axis
    data = draft.input(0)
    single = only_wide_axis(data, axis)
    if single is not None:
        draft.set(axis=single)
        return
    matrix = draft.emit("Flatten", [data], {"axis": axis})
    result = draft.emit(draft.op_type, [matrix], {"axis": -1})
    # allowzero (since 14): a zero in the shape is a size, not a copy of the matrix's own dimension.
    draft.become("Reshape", [result, draft.emit("Shape", [data])], allowzero=1)


def only_wide_axis(value: Value | None, axis: int) -> int | None:
    """The one axis among `axis` and those after it that may be longer than 1, or None if not provable."""
    if axis == -1:
        return -1
    if value is None or value.shape is None or not -len(value.shape) <= axis < len(value.shape):
        return None
    axis %= len(value.shape)
    wide = [
        i for i, dim in enumerate(value.shape.dims) if i >= axis and not (isinstance(dim, int) and dim == 1)
    ]
    return None if len(wide) > 1 else (wide[0] if wide else axis)


# Normalisation.


def trains(draft: Draft) -> bool:
    """Whether a BatchNormalization before version 14 has the outputs that put it in training mode."""
    return any(value.name != "" for value in draft.outputs[1:])


@adapts("BatchNormalization", 9)
def batch_normalization_9(draft: Draft) -> None:
    """Statistics per position (spatial=0) become statistics per channel of the flattened input."""
    spatial = draft.take("spatial", INT)
    if spatial is None or spatial != 0:
        return
    if trains(draft):
        raise draft.error("training with spatial=0 has no equal", next_step="Export the model for inference.")
    data, *statistics = draft.inputs
    flat_shape = draft.int64s("flat", [-1])
    flat = [draft.emit("Flatten", [data], {"axis": 1})]
    flat += [draft.emit("Reshape", [value, flat_shape]) for value in statistics]
    result = draft.emit("BatchNormalization", flat, draft.attributes)
    draft.become("Reshape", [result, draft.emit("Shape", [data])], allowzero=1)
    del draft.outputs[1:]


@adapts("BatchNormalization", 14)
def batch_normalization_14(draft: Draft) -> None:
    """Training becomes an attribute; the saved statistics, for gradients only, are gone."""
    training = trains(draft)
    draft.drop_unused_outputs(3 if training else 1)
    if training:
        draft.set(training_mode=1)


@adapts("Dropout", 10)
def dropout_10(draft: Draft) -> None:
    """The mask becomes boolean; in inference mode it was never filled."""
    draft.drop_unused_outputs(1)


@adapts("GroupNormalization", 21)
def group_normalization_21(draft: Draft) -> None:
    """Scale and bias per group, with the input's own precision: instance normalisation of the groups."""
    groups = draft.require("num_groups", INT)
    if groups < 1:
        raise draft.error("attribute 'num_groups' must be positive", found=groups)
    data, scale, bias = draft.inputs
    grouped = draft.emit("Reshape", [data, draft.int64s("groups", [0, groups, -1])])
    result = draft.emit("InstanceNormalization", [grouped, scale, bias], draft.attributes)
    draft.become("Reshape", [result, draft.emit("Shape", [data])], allowzero=1)


# Operators that lost element types.


@adapts("QuantizeLinear", 19)
def quantize_linear_19(draft: Draft) -> None:
    """Input and scale must be of one type: an int32 input is converted to that of the scale, float."""
    data, scale = draft.input(0), draft.input(1)
    dtype = draft.plan.element_type(data)
    if dtype is None:
        draft.set_input(0, draft.emit("CastLike", [data, scale], since=15))
    elif dtype == DataType.INT32:
        draft.set_input(0, draft.emit("Cast", [data], {"to": DataType.FLOAT.value}))


@adapts("Erf", 13)
def erf_13(draft: Draft) -> None:
    """Integers are no longer taken: the error function is taken in double precision, and truncated."""
    dtype = draft.plan.element_type(draft.input(0))
    if dtype is not None and dtype.is_integer():
        double = draft.emit("Cast", draft.inputs, {"to": DataType.DOUBLE.value})
        draft.become("Cast", [draft.emit("Erf", [double])], to=dtype.value)


@adapts("ReduceLogSum", 28)
@adapts("ReduceLogSumExp", 28)
def reduce_log_28(draft: Draft) -> None:
    """Integers are no longer taken: the logarithm is taken in double precision, and truncated."""
    data, axes = draft.input(0), draft.input(1)
    dtype = draft.plan.element_type(data)
    if dtype not in (DataType.INT32, DataType.INT64, DataType.UINT32, DataType.UINT64):
        return
    double = {"to": DataType.DOUBLE.value}
    if draft.op_type == "ReduceLogSum":
        total = draft.emit("ReduceSum", [data, axes], draft.attributes)
        result = draft.emit("Log", [draft.emit("Cast", [total], double)])
    else:
        result = draft.emit(draft.op_type, [draft.emit("Cast", [data], double), axes], draft.attributes)
    draft.become("Cast", [result], to=dtype.value)


# Control flow.


@adapts("Scan", 9)
def scan_9(draft: Draft) -> None:
    """The batch axis has gone: a scan over the batch runs the old scan for each of its elements."""
    if draft.input(0) is not None:
        raise draft.error(
            "input 'sequence_lens' has no equal", next_step="Pad the sequences to one length instead."
        )
    scanned = draft.require("num_scan_inputs", INT)
    directions = draft.take("directions", INTS)
    actual = draft.inputs[1:]
    body = draft.attributes.get("body")
    if body is None or len(list(subgraphs(draft.node))) != 1 or not 0 < scanned <= len(actual):
        raise draft.error("the body or its inputs are malformed")
    namer = draft.plan.namer
    formal = [Value(name=namer.value(draft.stem("element")), type=_tensor_type(v)) for v in actual]
    inner = make_node(
        "Scan",
        formal,
        {"body": body, "num_scan_inputs": scanned, "scan_input_directions": directions},
        name=namer.node(draft.stem("Scan")),
        output_names=[namer.value(draft.stem("element_result")) for _ in draft.outputs],
    )
    inner.metadata_props.update(draft.origin.metadata_props)
    inner.doc_string = draft.origin.doc_string
    graph = Graph(formal, inner.outputs, nodes=[inner], name=namer.node(draft.stem("batch")))
    draft.become("Scan", actual, num_scan_inputs=len(actual), body=Attr("body", AttributeType.GRAPH, graph))


def _tensor_type(value: Value | None) -> TensorType | None:
    return None if value is None or value.dtype is None else TensorType(value.dtype)
