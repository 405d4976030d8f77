"""What the first steps of the operators' histories ask of their nodes: opsets 1 to 7.

Opset 6 dropped ``consumed_inputs``, a hint for sharing memory; opset 7 replaced the attributes
``broadcast`` and ``axis`` by numpy's broadcasting, and the attribute ``is_test`` by the outputs in use.

Spec: https://github.com/onnx/onnx/blob/main/docs/Changelog.md
"""

from __future__ import annotations

import numpy as np

from graphopt.ir import DataType, Value
from graphopt.ir.opset_adapters import FLOAT, INT, INTS, STRING, adapts
from graphopt.ir.opset_draft import Draft

_FIRST_DEFAULTS = {
    "Selu": {"alpha": 1.6732, "gamma": 1.0507},  # opset 6 gave them more digits
}


def _drop_consumed_inputs(draft: Draft) -> None:
    """The hint which inputs may be overwritten is gone."""
    draft.take("consumed_inputs", INTS)
    for name, default in _FIRST_DEFAULTS.get(draft.op_type, {}).items():
        if name not in draft.attributes:
            draft.set(**{name: default})


for _name in """
    Abs Add BatchNormalization Ceil Clip Div Dropout Elu Exp Floor HardSigmoid InstanceNormalization LeakyRelu
    Log Max Mean Min Mul Neg PRelu Reciprocal Relu Selu Sigmoid Sqrt Sub Sum Tanh
""".split():
    adapts(_name, 6)(_drop_consumed_inputs)


# Broadcasting.


@adapts("Add", 7)
@adapts("And", 7)
@adapts("Div", 7)
@adapts("Equal", 7)
@adapts("Greater", 7)
@adapts("Less", 7)
@adapts("Mul", 7)
@adapts("Or", 7)
@adapts("Pow", 7)
@adapts("Sub", 7)
@adapts("Xor", 7)
def broadcast_7(draft: Draft) -> None:
    """B was laid against A's dimensions from `axis` on; now its last dimension meets A's last one.

    The axis -1, of which the specification says nothing, was written by exporters for the default: the last
    dimensions meet.
    """
    broadcast, axis = draft.take("broadcast", INT), draft.take("axis", INT)
    if not broadcast or axis is None or axis == -1:
        return
    left, right = draft.input(0), draft.input(1)
    ranks = rank_of(left), rank_of(right)
    if ranks[0] is not None and ranks[1] is not None:
        first = axis + ranks[0] if axis < 0 else axis
        # Without room behind it, B has one element only: it may have any rank up to A's.
        behind = max(ranks[0] - first - ranks[1], 0)
        if behind and ranks[1]:
            axes = range(ranks[1], ranks[1] + behind)
            draft.set_input(1, draft.emit("Unsqueeze", [right], {"axes": list(axes)}))
        return
    end = dynamic_rank(draft, left) if axis >= 0 else draft.int64s("zero", [0])
    room = draft.emit("Sub", [end, draft.int64s("axis", [axis])])
    room = draft.emit("Sub", [room, dynamic_rank(draft, right)])
    behind_a = draft.emit("Max", [room, draft.int64s("none", [0])], since=12)
    draft.set_input(1, append_ones(draft, right, behind_a))


@adapts("PRelu", 7)
def prelu_7(draft: Draft) -> None:
    """The slopes, one for each channel, get dimensions of 1 for what follows the channel."""
    data, slope = draft.input(0), draft.input(1)
    rank, slopes = rank_of(data), slope.shape if slope is not None else None
    if slopes is not None and (len(slopes) != 1 or slopes[0] == 1):
        return
    if rank is not None and slopes is not None:
        if rank > 2:
            draft.set_input(1, draft.emit("Unsqueeze", [slope], {"axes": list(range(1, rank - 1))}))
        return
    flat = draft.emit("Reshape", [slope, draft.int64s("flat", [-1])])
    room = draft.emit("Sub", [dynamic_rank(draft, data), draft.int64s("two", [2])])
    room = draft.emit("Max", [room, draft.int64s("none", [0])], since=12)
    draft.set_input(1, append_ones(draft, flat, room))


@adapts("Gemm", 7)
def gemm_7(draft: Draft) -> None:
    """C may always be broadcast."""
    draft.take("broadcast", INT)


def rank_of(value: Value | None) -> int | None:
    """The number of dimensions where it is declared, else None."""
    return None if value is None or value.shape is None else len(value.shape)


def dynamic_rank(draft: Draft, value: Value | None) -> Value:
    """The number of dimensions, computed: int64[1]."""
    return draft.emit("Shape", [draft.emit("Shape", [value])])


def append_ones(draft: Draft, value: Value | None, count: Value) -> Value:
    """`value` with `count` (int64[1]) dimensions of 1 behind its own."""
    one = draft.int64s("one", [1])
    ones = draft.emit("Expand", [one, count], since=8)
    shape = draft.emit("Concat", [draft.emit("Shape", [value]), ones], {"axis": 0})
    return draft.emit("Reshape", [value, shape])


# Training or inference.


@adapts("BatchNormalization", 7)
def batch_normalization_7(draft: Draft) -> None:
    """`is_test` became the number of outputs, and with opset 14 an attribute again.

    A node that trains (the default) but shows one output only would be taken for one that does not: it goes
    to opset 14 at once.
    """
    if draft.take("is_test", INT):
        draft.drop_unused_outputs(1)
    elif not any(value.name != "" for value in draft.outputs[1:]):
        spatial = draft.take("spatial", INT)
        if spatial == 0:
            raise draft.error(
                "training with spatial=0 has no equal", next_step="Export the model for inference."
            )
        draft.version = 14
        draft.set(training_mode=1)
        # A node that trains must list the statistics, too.
        names = [draft.plan.namer.value(draft.stem(name)) for name in ("running_mean", "running_var")]
        draft.outputs[1:] = [Value(name=name) for name in names]


@adapts("Dropout", 7)
def dropout_7(draft: Draft) -> None:
    """Training, the default of `is_test`, is an input from opset 12 on: the node goes there at once."""
    if draft.take("is_test", INT):
        return
    draft.drop_unused_outputs(1)  # the mask, which is boolean now
    ratio = draft.take("ratio", FLOAT)
    draft.version = 12
    draft.set_input(1, draft.constant("ratio", np.array(0.5 if ratio is None else ratio, np.float32)))
    draft.set_input(2, draft.constant("training_mode", np.array(True)))


@adapts("LSTM", 7)
@adapts("GRU", 7)
@adapts("RNN", 7)
def rnn_7(draft: Draft) -> None:
    """Whether the sequence is an output follows from its having a name."""
    draft.take("output_sequence", INT)


@adapts("GRU", 3)
def gru_3(draft: Draft) -> None:
    """The default of `direction` lost its misspelling."""
    if draft.text("direction", "forward") == "foward":
        draft.set(direction="forward")


# Attributes that became inputs, changed their type, or their name.


@adapts("Cast", 6)
def cast_6(draft: Draft) -> None:
    """`to` was the name of an element type."""
    name = draft.require("to", STRING).upper()
    if name not in DataType.__members__:
        raise draft.error("attribute 'to' names no element type", found=name[:40])
    draft.set(to=DataType[name].value)


@adapts("Concat", 4)
def concat_4(draft: Draft) -> None:
    """`axis` lost its default, 1."""
    if "axis" not in draft.attributes:
        draft.set(axis=1)


@adapts("GlobalLpPool", 2)
@adapts("LpPool", 2)
def lp_pool_2(draft: Draft) -> None:
    """`p` became an integer."""
    p = draft.take("p", FLOAT)
    if p is not None:
        if p != int(p):
            raise draft.error("attribute 'p' is no integer", found=p)
        draft.set(p=int(p))
    if draft.op_type == "LpPool" and "kernel_shape" not in draft.attributes:
        raise draft.error("attribute 'kernel_shape' is missing")


@adapts("Pad", 2)
def pad_2(draft: Draft) -> None:
    """`paddings` got the name `pads`."""
    draft.set(pads=draft.require("paddings", INTS))


@adapts("Reshape", 5)
def reshape_5(draft: Draft) -> None:
    """`shape` becomes an input."""
    draft.take("consumed_inputs", INTS)
    draft.set_input(1, draft.int64s("shape", draft.require("shape", INTS)))


@adapts("Split", 2)
def split_2(draft: Draft) -> None:
    """The sizes may no longer be an input; opset 13 has them as one again, to which such a node goes."""
    sizes = draft.input(1)
    if sizes is None:
        return
    draft.take("split", INTS)
    draft.version = 13
    draft.set_input(1, draft.emit("Cast", [sizes], {"to": DataType.INT64.value}))


@adapts("Tile", 6)
def tile_6(draft: Draft) -> None:
    """One axis and how often to repeat along it became the repeats of every axis."""
    data, tiles, axis = draft.inputs
    ones = draft.emit("Expand", [draft.int64s("one", [1]), dynamic_rank(draft, data)], since=8)
    single = draft.int64s("single", [1])

    def number(value: Value | None) -> Value:
        return draft.emit("Cast", [draft.emit("Reshape", [value, single])], {"to": DataType.INT64.value})

    repeats = draft.emit("ScatterElements", [ones, number(axis), number(tiles)], {"axis": 0}, since=11)
    draft.inputs = [data, repeats]


@adapts("Upsample", 7)
def upsample_7(draft: Draft) -> None:
    """The scales of height and width became those of all four axes, and bilinear the linear of two."""
    scales = [1.0, 1.0, draft.require("height_scale", FLOAT), draft.require("width_scale", FLOAT)]
    if draft.text("mode", "nearest") == "bilinear":
        draft.set(mode="linear")
    draft.set(scales=scales)
