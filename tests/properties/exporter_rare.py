"""Steps over what is rare: old operator forms, edge numbers, strings, sequences, absent optional operands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from exporter_graphs import FILLS, Grower, Rejected, failed_in_onnxruntime, memory_filled, session
from exporter_idioms import INT_MAX, INT_MIN
from onnx import TensorProto, helper

RARE: list[Callable[[Grower], None]] = []


def rare(function: Callable[[Grower], None]) -> Callable[[Grower], None]:
    """Register a step."""
    RARE.append(function)
    return function


def block(g: Grower, nodes: list[onnx.NodeProto], outputs: list[str]) -> None:
    """Add several nodes at once, of whose values only `outputs` are tensors."""
    made = {o for n in nodes for o in n.output}
    used = [n for n in dict.fromkeys(i for n in nodes for i in n.input) if n and n not in made]
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(g.arrays[n].dtype), g.shape(n))
        for n in used
    ]
    graph = helper.make_graph(nodes, "block", infos, [onnx.ValueInfoProto(name=n) for n in outputs])
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", g.opset), helper.make_opsetid("com.microsoft", 1)],
        ir_version=8,
    )
    try:
        with memory_filled(FILLS[0]):
            arrays = session(model, False).run(outputs, {n: g.arrays[n] for n in used})
    except Exception as error:
        if not failed_in_onnxruntime(error):
            raise
        raise Rejected from error
    g.need(all(isinstance(a, np.ndarray) and a.size < 3000 for a in arrays))
    g.arrays |= dict(zip(outputs, arrays, strict=True))
    g.values += outputs
    g.nodes.extend(nodes)


def node(g: Grower, kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, outputs, name=g.pick("", f"n_{kind}", g.name("n")), **attributes)


@rare
def constant_forms(g: Grower) -> None:
    """Constant by every attribute that it may have."""
    g.need(g.opset >= 12)
    form = g.pick(
        {"value_float": 0.5}, {"value_int": 2}, {"value_floats": [1.0, -2.0]}, {"value_ints": [1, 2, 3]},
        {"value_floats": [0.0]}, {"value_ints": [1]},
    )  # fmt: skip
    name = g.name("c")
    block(g, [node(g, "Constant", [], [name], **form)], [name])
    fits = [v for v in g.values if g.arrays[v].dtype == g.arrays[name].dtype]
    g.commute(g.pick("Add", "Mul", "Sub"), name, g.pick(*fits))


@rare
def sparse_constant(g: Grower) -> None:
    g.need(g.opset >= 11 and g.chance(0.3))
    name = g.name("c")
    values = helper.make_tensor(name, TensorProto.FLOAT, [2], [1.5, -2.0])
    where = helper.make_tensor(name + "i", TensorProto.INT64, [2], [0, 2])
    sparse = helper.make_sparse_tensor(values, where, [4])
    block(g, [node(g, "Constant", [], [name], sparse_value=sparse)], [name])
    g.commute("Add", name, g.value("f"))


@rare
def absent_operands(g: Grower) -> None:
    """Optional operands left out in the middle and at the end."""
    x = g.value("f", minimum=1)
    rank = g.arrays[x].ndim
    bound = lambda n: g.const(np.float32(n))  # noqa: E731
    kind = g.pick("Clip", "Slice", "Pad", "Reduce", "Dropout", "Resize", "ends", "Gemm", "Squeeze")
    if kind == "Clip":
        g.op("Clip", x, *g.pick((), ("", ""), ("", bound(1)), (bound(0), ""), (bound(-1),)))
    elif kind == "Slice":
        g.op(
            "Slice",
            x,
            g.ints(*[0] * rank),
            g.ints(*[g.pick(1, 2, INT_MAX)] * rank),
            "",
            g.ints(*[g.pick(1, 2)] * rank),
        )
    elif kind == "Pad":
        if g.opset >= 18:
            axis = int(g.rng.integers(-rank, rank))
            g.op("Pad", x, g.ints(1, g.pick(0, 2)), g.pick("", bound(2)), g.ints(axis), mode="constant")
        else:
            g.op("Pad", x, g.ints(*[1] * (2 * rank)), "")
    elif kind == "Reduce":
        name = g.pick("ReduceSum", "ReduceMean", "ReduceMax", "ReduceL1")
        g.need(g.arrays[x].size)
        extra = g.pick({}, {"noop_with_empty_axes": 1}, {"keepdims": 0})
        if g.opset >= 18 or (name == "ReduceSum" and g.opset >= 13):
            g.op(name, x, *g.pick((), ("",), (g.const(np.zeros(0, np.int64)),)), **extra)
        else:
            g.op(name, x, keepdims=g.pick(0, 1))
    elif kind == "Dropout":
        g.op("Dropout", x, *g.pick(("",), ("", g.const(np.array(False))), (bound(0.3), g.const(np.array(False)))),
             outputs=g.pick(1, 2))  # fmt: skip
    elif kind == "Resize":
        g.need(rank == 4)
        g.op("Resize", x, "", g.const(np.array([1, 1, 2, 2], np.float32)), *g.pick((), ("",)))
    elif kind == "Gemm":
        g.need(rank == 2)
        g.op("Gemm", x, g.normal(g.shape(x)[1], 2), *g.pick((), ("",)), alpha=g.pick(1.0, 0.5))
    elif kind == "Squeeze":
        g.op("Squeeze", x, *g.pick((), ("",)))
    else:
        g.op("Clip", g.op("Clip", x, bound(-2), ""), "", bound(2))


@rare
def absent_results(g: Grower) -> None:
    """Optional results left out in the middle, in front and at the end."""
    kind = g.pick("LSTM", "GRU", "MaxPool", "Dropout", "Split", "LayerNormalization", "BatchNormalization")
    if kind in ("LSTM", "GRU"):
        x = g.value("f", rank=3, full=True)
        gates, hidden = (4 if kind == "LSTM" else 3), 2
        w, r = g.normal(1, gates * hidden, g.shape(x)[2]), g.normal(1, gates * hidden, hidden)
        start = g.normal(1, g.shape(x)[1], hidden)
        tail = ["", "", start] if g.chance(0.5) else []
        outs = [g.name() if g.chance(0.5) else "" for _ in range(3 if kind == "LSTM" else 2)]
        outs[-1] = outs[-1] or g.name()
        block(g, [node(g, kind, [x, w, r, *tail], outs, hidden_size=hidden)], [o for o in outs if o])
    elif kind == "MaxPool":
        x = g.value("f", minimum=3, full=True)
        outs = [g.name(), g.name()]  # without the first, ONNX Runtime crashes
        block(
            g, [node(g, kind, [x], outs, kernel_shape=[1] * (g.arrays[x].ndim - 2))], [o for o in outs if o]
        )
    elif kind == "Dropout":
        # Before, no text says what the mask holds where nothing is dropped: ONNX Runtime fills it with
        # False, the reference implementation with True.
        g.need(g.opset >= 12)
        x = g.value("f")
        outs = g.pick([g.name(), g.name()], [g.name(), ""])
        block(g, [node(g, kind, [x], outs)], [o for o in outs if o])
    elif kind == "LayerNormalization":
        g.need(g.opset >= 17)
        x = g.value("f", minimum=1, full=True)
        outs = g.pick([g.name(), g.name()], [g.name(), "", g.name()], [g.name()])
        scale = g.normal(g.shape(x)[-1])
        bias = g.pick([], [""], [g.normal(g.shape(x)[-1])])
        block(g, [node(g, kind, [x, scale, *bias], outs, epsilon=g.pick(1e-5, 0.1))], [o for o in outs if o])
    elif kind == "Split":
        x = g.value("f", minimum=1)
        size = g.shape(x)[0]
        first = int(g.rng.integers(0, size + 1))
        outs = [g.name(), g.name()]  # ONNX Runtime crashes where one has no name
        inputs, extra = (
            ([x, g.ints(first, size - first)], {})
            if g.opset >= 13
            else ([x], {"split": [first, size - first]})
        )
        block(g, [node(g, "Split", inputs, outs, axis=0, **extra)], [o for o in outs if o])
    else:
        g.need(g.opset >= 15)
        x = g.value("f", minimum=2, full=True)
        c = g.shape(x)[1]
        stats = [g.normal(c), g.normal(c), g.normal(c), g.const(g.rng.random(c) + 0.5, np.float32)]
        train = g.pick(0, 1)
        outs = [g.name(), *g.pick([], [g.name(), g.name()])] if train else [g.name()]
        block(g, [node(g, kind, [x, *stats], outs, training_mode=train, momentum=0.5)], outs)


@rare
def old_forms(g: Grower) -> None:
    """Operators as opsets below 13 wrote them."""
    g.need(g.opset < 13)
    x = g.value("f", minimum=1, full=True)
    rank, shape = g.arrays[x].ndim, g.shape(x)
    axis = int(g.rng.integers(rank))
    kind = g.pick("Slice", "Clip", "Pad", "Dropout", "TopK", "Softmax", "Hardmax", "Upsample", "Split", "Squeeze",
                  "Gemm", "BatchNormalization", "Scatter", "Cast", "Reduce", "Flatten", "Resize", "Sum")  # fmt: skip
    if kind == "Slice":
        extra = {"axes": [axis]} if g.chance(0.8) else {}
        count = 1 if extra else rank
        g.op("Slice", x, starts=[g.pick(0, 1, -1)] * count, ends=[g.pick(1, 2, INT_MAX, -1)] * count, **extra)
    elif kind == "Clip":
        g.op("Clip", x, **g.pick({}, {"min": 0.0}, {"max": 1.0}, {"min": -1.0, "max": 1.0}))
    elif kind == "Pad":
        g.op("Pad", x, pads=[int(n) for n in g.rng.integers(0, 3, 2 * rank)], **g.pick({}, {"value": 1.5}))
    elif kind == "Dropout":
        g.op("Dropout", x, ratio=0.25)
    elif kind == "TopK":
        if g.opset < 10:
            g.op("TopK", x, k=1, axis=axis, outputs=2)
        else:
            g.op("TopK", x, g.ints(1), axis=axis, outputs=2)
    elif kind in ("Softmax", "Hardmax"):
        g.op(g.pick(kind, "LogSoftmax"), x, **g.pick({}, {"axis": axis}))
    elif kind == "Upsample":
        g.need(rank == 4)
        if g.opset >= 9:
            g.op("Upsample", x, g.const(np.array([1, 1, 2, 2], np.float32)), mode=g.pick("nearest", "linear"))
        else:
            g.op("Upsample", x, scales=[1.0, 1.0, 2.0, 2.0], mode=g.pick("nearest", "linear"))
    elif kind == "Resize":
        g.need(rank == 4 and g.opset == 10)
        g.op(
            "Resize",
            x,
            g.const(np.array([1, 1, 2, g.pick(2, 0.5)], np.float32)),
            mode=g.pick("nearest", "linear"),
        )
    elif kind == "Split":
        first = int(g.rng.integers(0, shape[axis] + 1))
        g.op("Split", x, outputs=2, axis=axis, split=[first, shape[axis] - first])
    elif kind == "Squeeze":
        y = g.op("Unsqueeze", x, axes=[axis])
        g.op("Squeeze", g.op("Relu", y), **g.pick({"axes": [axis]}, {}))
    elif kind == "Gemm":
        g.need(rank == 2)
        g.op(
            "Gemm", x, g.normal(shape[1], 3), g.normal(*g.pick((3,), (1,), (1, 3), ())), beta=g.pick(1.0, 0.5)
        )
    elif kind == "BatchNormalization":
        g.need(rank >= 2)
        c = shape[1]
        g.op(kind, x, g.normal(c), g.normal(c), g.normal(c), g.const(g.rng.random(c) + 0.5, np.float32))
    elif kind == "Scatter":
        index = np.zeros([1 if i == axis else n for i, n in enumerate(shape)], np.int64)
        g.op(g.pick("Scatter", "ScatterElements"), x, index, np.ones(index.shape, np.float32), axis=axis)
    elif kind == "Cast":
        g.op("Cast", g.op("Cast", x, to=TensorProto.DOUBLE), to=TensorProto.FLOAT)
    elif kind == "Reduce":
        g.op(
            g.pick("ReduceSum", "ReduceMean", "ReduceMin", "ReduceProd"),
            x,
            axes=[axis],
            keepdims=g.pick(0, 1),
        )
    elif kind == "Flatten":
        g.op("Flatten", x, axis=axis)
    else:
        g.op(g.pick("Sum", "Max", "Mean", "Min"), x, x, g.normal(shape[-1]))


FLOAT_EDGES = {
    "e": (65504.0, -65504.0, 6e-8, 6e-5, np.inf, -0.0, np.nan, 2049.0),
    "f": (3.4e38, -3.4e38, 1e-45, 1.2e-38, np.inf, -np.inf, -0.0, np.nan, 16777217.0),
    "d": (1.7e308, 5e-324, -np.inf, -0.0, np.nan, 1e39, 1e-46),
}


def loosely(g: Grower, kind: str, *inputs: str, **attributes: Any) -> str:
    """Add a node whatever the size of its numbers."""
    result = g.name()
    block(g, [node(g, kind, list(inputs), [result], **attributes)], [result])
    return result


@rare
def edge_floats(g: Grower) -> None:
    """Overflow, underflow, signed zeros, infinities and NaNs met by constants of every kind."""
    x = g.value("w")
    dtype = g.arrays[x].dtype
    for _ in range(g.pick(1, 2, 3)):
        number = g.pick(*FLOAT_EDGES[dtype.char])
        other = g.const(np.full(g.pick((), (1,), g.shape(x)[-1:]), number), dtype)
        kind = g.pick("Add", "Mul", "Sub", "Div", "Max", "Min", "Pow", "Where", "Greater")
        if kind == "Where":
            test = g.op("Less", x, g.const(np.zeros((), dtype)))
            x = loosely(g, "Where", test, *((x, other) if g.chance(0.5) else (other, x)))
        elif kind == "Greater":
            g.op(g.pick("Greater", "Less", "Equal"), x, other)
        else:
            g.need(kind != "Pow" or g.opset >= 12)
            x = loosely(g, kind, *((x, other) if g.chance(0.6) or kind == "Pow" else (other, x)))
    g.op(g.pick("Relu", "Neg", "Abs", "Identity", "Sign", "Tanh"), x)


INT_EDGES = {
    8: (INT_MAX, INT_MIN, INT_MIN + 1),
    4: (2**31 - 1, -(2**31)),
    2: (2**15 - 1, -(2**15)),
    1: (127, -128),
}


@rare
def edge_integers(g: Grower) -> None:
    """Wrap-around, shifts, masks and small unsigned types."""
    x = g.value("in")
    if g.chance(0.5):
        array = g.arrays[x]
        to = g.pick(np.int8, np.uint8, np.int16, np.uint16, np.uint32, np.uint64, np.int32)
        g.need(array.size and (array >= 0).all() and (array < 100).all())
        x = g.op("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(to)))
    dtype = g.arrays[x].dtype
    for _ in range(g.pick(1, 2, 3)):
        if dtype.kind == "u":
            number = g.pick(np.iinfo(dtype).max, 1, 0, 3)
        else:
            number = g.pick(*INT_EDGES[dtype.itemsize], -1, 0, 1)
        other = g.const(np.full(g.pick((), (1,)), number), dtype)
        kind = g.pick("Add", "Mul", "Sub", "Max", "Min", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitShift", "Equal",
                      "Less")  # fmt: skip
        if kind == "BitShift":
            g.need(dtype.kind == "u")
            x = g.op(
                "BitShift", x, g.const(np.array(g.pick(0, 1, 3), dtype)), direction=g.pick("LEFT", "RIGHT")
            )
        elif kind in ("Equal", "Less"):
            g.op(kind, x, other)
        else:
            x = g.commute(kind, x, other)
    if g.chance(0.4):
        g.op("Cast", x, to=g.pick(TensorProto.FLOAT, TensorProto.BOOL, TensorProto.DOUBLE))


@rare
def narrow_floats(g: Grower) -> None:
    """bfloat16 and the float8 types, which only a few operators take."""
    x = g.value("f", full=True)
    types = [TensorProto.BFLOAT16, TensorProto.FLOAT16]
    if g.opset >= 19:
        types += [TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2]
    g.need(np.isfinite(g.arrays[x]).all() and np.abs(g.arrays[x]).max() < 200)
    to = g.pick(*types)
    low, moved, back = g.name(), g.name(), g.name()
    middle = g.pick("Identity", "Reshape", "Cast", "Transpose", "Shape")
    nodes = [node(g, "Cast", [x], [low], to=to)]
    if middle == "Reshape":
        nodes.append(node(g, "Reshape", [low, g.ints(-1)], [moved]))
    elif middle == "Cast":
        nodes.append(node(g, "Cast", [low], [moved], to=g.pick(*types)))
    else:
        nodes.append(node(g, middle, [low], [moved]))
    block(g, [*nodes, node(g, "Cast", [moved], [back], to=TensorProto.FLOAT)], [back])


@rare
def empty_dimensions(g: Grower) -> None:
    """Tensors without elements, and what fills, joins and reduces them."""
    x = g.value("winb", minimum=1)
    axis = int(g.rng.integers(g.arrays[x].ndim))
    none = g.op("Slice", x, g.ints(0), g.ints(0), g.ints(axis)) if g.shape(x)[axis] else x
    kind = g.pick("Concat", "ReduceSum", "Shape", "Expand", "Tile", "Gather", "Transpose", "Pad", "NonZero", "MatMul",
                  "ReduceMax", "Where", "Cast", "Reshape")  # fmt: skip
    if kind == "Concat":
        g.op("Concat", *((none, x) if g.chance(0.5) else (x, none)), axis=axis)
    elif kind in ("ReduceSum", "ReduceMax"):
        g.reduce(kind, none, [axis], g.pick(0, 1))
    elif kind == "Shape":
        g.op("ConstantOfShape", g.op("Shape", none))
    elif kind == "Expand":
        g.op("Expand", g.op("Slice", x, g.ints(0), g.ints(1), g.ints(axis)),
             g.ints(*[0 if i == axis else 1 for i in range(g.arrays[x].ndim)]))  # fmt: skip
    elif kind == "Tile":
        g.op("Tile", x, g.ints(*[0 if i == axis else 1 for i in range(g.arrays[x].ndim)]))
    elif kind == "Gather":
        g.op("Gather", x, np.zeros(g.pick((0,), (2, 0)), np.int64), axis=axis)
    elif kind == "Transpose":
        g.op("Transpose", none)
    elif kind == "Pad":
        rank = g.arrays[x].ndim
        g.op("Pad", none, g.ints(*[1 if i == axis else 0 for i in range(rank)] * 2))
    elif kind == "NonZero":
        g.op("NonZero", none)
    elif kind == "MatMul":
        y = g.value("f", minimum=2)
        last = g.op("Slice", y, g.ints(0), g.ints(0), g.ints(-1))
        g.op("MatMul", last, np.zeros((0, 3), np.float32))
    elif kind == "Where":
        g.op("Where", g.op("Equal", none, none), none, none)
    elif kind == "Cast":
        g.op("Cast", none, to=g.pick(TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL))
    else:
        g.op(
            "Reshape",
            none,
            g.ints(*g.pick((0, -1), (-1,), (3, 0), (0, 2))),
            **({"allowzero": 1} if g.opset >= 14 and g.chance(0.4) else {}),
        )


@rare
def strings(g: Grower) -> None:
    """Tensors of text: compared, moved, converted."""
    words = np.array(g.pick(["a", "b", ""], ["1.5", "-2", "3"], [["x", "y"], ["x", ""]]), object)
    name = g.name("w")
    g.initializers.append(
        helper.make_tensor(name, TensorProto.STRING, words.shape, [w.encode() for w in words.reshape(-1)])
    )
    g.arrays[name] = words
    kind = g.pick(
        "Equal", "Gather", "Cast", "Reshape", "Where", "Concat", "Slice", "Transpose", "Unsqueeze", "Tile"
    )
    if kind == "Equal":
        g.op("Equal", name, name)
    elif kind == "Gather":
        g.op("Gather", name, g.const(np.array(g.pick(0, -1))))
    elif kind == "Cast":
        g.need(words[0] == "1.5" if words.ndim == 1 else False)
        g.op("Cast", name, to=g.pick(TensorProto.FLOAT, TensorProto.DOUBLE))
    elif kind == "Reshape":
        g.op("Reshape", g.op("Reshape", name, g.ints(-1)), g.ints(1, -1))
    elif kind == "Where":
        g.op("Where", g.const(np.array(True)), name, name)
    elif kind == "Concat":
        g.op("Concat", name, name, axis=0)
    elif kind == "Slice":
        g.op("Slice", g.op("Identity", name), g.ints(0), g.ints(2))
    elif kind == "Tile":
        g.op("Tile", name, g.ints(*[1] * words.ndim))
    elif kind == "Transpose":
        g.op("Transpose", g.op("Transpose", name))
    else:
        y = g.axes_op("Unsqueeze", name, [0], 13)
        g.axes_op("Squeeze", y, [0], 13)


@rare
def numbers_as_text(g: Grower) -> None:
    x = g.value("in", full=True)
    text = g.op("Cast", x, to=TensorProto.STRING)
    g.op("Cast", text, to=g.pick(TensorProto.FLOAT, TensorProto.INT64))


@rare
def sequences(g: Grower) -> None:
    """Sequences made, changed, read and joined."""
    g.need(g.opset >= 11)
    x = g.value("wi", minimum=1)
    seq, result = g.name("q"), g.name()
    kind = g.pick("at", "join", "length", "insert", "erase", "split", "empty")
    at = g.const(np.array(g.pick(0, 1, -1)))
    axis = int(g.rng.integers(g.arrays[x].ndim))
    build = [node(g, "SequenceConstruct", [x, x], [seq])]
    if kind == "at":
        build.append(node(g, "SequenceAt", [seq, at], [result]))
    elif kind == "join":
        build.append(node(g, "ConcatFromSequence", [seq], [result], axis=axis, new_axis=g.pick(0, 1)))
    elif kind == "length":
        build.append(node(g, "SequenceLength", [seq], [result]))
    elif kind in ("insert", "erase"):
        more = g.name("q")
        change = (
            ("SequenceInsert", [seq, x, *g.pick([], [at])])
            if kind == "insert"
            else ("SequenceErase", [seq, *g.pick([], [at])])
        )
        build.append(node(g, *change, [more]))
        build.append(
            node(
                g, *g.pick(("SequenceLength", [more]), ("SequenceAt", [more, g.const(np.array(0))])), [result]
            )
        )
    elif kind == "split":
        g.need(g.shape(x)[axis])
        build = [
            node(
                g,
                "SplitToSequence",
                [x, *g.pick([], [g.const(np.array(1))])],
                [seq],
                axis=axis,
                keepdims=g.pick(0, 1),
            ),
            node(
                g, *g.pick(("SequenceAt", [seq, g.const(np.array(0))]), ("SequenceLength", [seq])), [result]
            ),
        ]
    else:
        build = [node(g, "SequenceEmpty", [], [seq]), node(g, "SequenceLength", [seq], [result])]
    block(g, build, [result])


@rare
def optionals(g: Grower) -> None:
    g.need(g.opset >= 18)
    x = g.value("f")
    held, has, got = g.name("p"), g.name(), g.name()
    block(
        g,
        [
            node(g, "Optional", [x], [held]),
            node(g, "OptionalHasElement", [held], [has]),
            node(g, "OptionalGetElement", [held], [got]),
        ],
        [has, got],
    )


@rare
def random_numbers(g: Grower) -> None:
    """Random operators of which only what is certain is looked at; two alike are still two."""
    x = g.value("f", minimum=1)
    first, second, result = g.name("r"), g.name("r"), g.name()
    like = g.pick("RandomNormalLike", "RandomUniformLike")
    kind = g.pick("shape", "nothing", "two", "dropout")
    if kind == "shape":
        block(g, [node(g, like, [x], [first]), node(g, "Shape", [first], [result])], [result])
    elif kind == "nothing":
        make = node(
            g, g.pick("RandomNormal", "RandomUniform"), [], [first], shape=[2, 3], **g.pick({}, {"seed": 3.0})
        )
        block(
            g,
            [
                make,
                node(g, "Mul", [first, g.const(np.float32(0))], [second]),
                node(g, "Abs", [second], [result]),
            ],
            [result],
        )
    elif kind == "two":
        g.need(g.arrays[x].size > 3 and g.opset >= 13)
        same, number, total = g.name("r"), g.name("r"), g.name("r")
        build = [node(g, like, [x], [first]), node(g, like, [x], [second]), node(g, "Equal", [first, second], [same]),
                 node(g, "Cast", [same], [number], to=TensorProto.INT64),
                 node(g, "ReduceSum", [number], [total], keepdims=0),
                 node(g, "Less", [total, g.op("Size", x)], [result])]  # fmt: skip
        block(g, build, [result])
    else:
        g.need(g.opset >= 13)
        y = g.op("Dropout", x, g.const(np.float32(0.0)), g.const(np.array(True)))
        g.op("Relu", y)


@rare
def direct_normalizations(g: Grower) -> None:
    """Newer operators written directly, in all their forms."""
    x = g.value("f", minimum=1, full=True)
    rank, shape = g.arrays[x].ndim, g.shape(x)
    axis = int(g.rng.integers(-rank, rank))
    kinds = [("LayerNormalization", 17), ("Gelu", 20), ("GroupNormalization", 21), ("RMSNormalization", 23), ("Swish", 24),
             ("HardSwish", 14), ("Mish", 18), ("Celu", 12), ("ThresholdedRelu", 10), ("MeanVarianceNormalization", 9),
             ("LpNormalization", 1), ("Shrink", 9), ("Softsign", 1)]  # fmt: skip
    kind = g.pick(*[k for k, since in kinds if g.opset >= since])
    tail = tuple(shape[axis % rank :])
    if kind == "LayerNormalization":
        g.op(
            kind,
            x,
            g.normal(*g.pick(tail, tail, tail[-1:])),
            *g.pick((), (g.normal(*tail),)),
            axis=axis,
            epsilon=g.pick(1e-5, 0.1),
        )
    elif kind == "RMSNormalization":
        g.op(kind, x, g.normal(*g.pick(tail, tail[-1:], (1,))), axis=axis, epsilon=g.pick(1e-5, 0.1))
    elif kind == "GroupNormalization":
        g.need(rank >= 3)
        c = shape[1]
        groups = g.pick(*[k for k in (1, 2, 3) if c % k == 0])
        n = c if g.opset >= 21 else groups
        g.op(kind, x, g.normal(n), g.normal(n), num_groups=groups)
    elif kind == "Gelu":
        y = g.op(kind, x, approximate=g.pick("none", "tanh"))
        g.op("Mul", y, g.const(np.float32(2)))
    elif kind == "Swish":
        g.op(kind, x, **g.pick({}, {"alpha": 1.702}))
    elif kind == "MeanVarianceNormalization":
        g.op(kind, x, axes=[axis % rank])
    else:
        g.op(kind, x)


@rare
def direct_attention(g: Grower) -> None:
    g.need(g.opset >= 23)
    x = g.value("f", rank=3, full=True)
    batch, length, width = g.shape(x)
    heads, size = 2, 2
    q, k, v = (g.op("MatMul", x, g.normal(width, heads * size)) for _ in range(3))
    mask = g.pick((), (g.const(g.rng.random((length, length)) < 0.8),), (g.normal(length, length),))
    extra = g.pick({}, {"is_causal": 1}, {"scale": 0.3}, {"softcap": 2.0})
    if g.chance(0.6):
        g.op("Attention", q, k, v, *mask, q_num_heads=heads, kv_num_heads=heads, **extra)
    else:
        split = [
            g.op("Transpose", g.op("Reshape", y, g.ints(0, 0, heads, size)), perm=[0, 2, 1, 3])
            for y in (q, k, v)
        ]
        y = g.op("Attention", *split, *mask, **extra)
        g.op("Reshape", g.op("Transpose", y, perm=[0, 2, 1, 3]), g.ints(0, 0, -1))
    if g.chance(0.5):
        angles = g.rng.random((batch, length, size // 2))
        cos, sin = (g.const(f(angles), np.float32) for f in (np.cos, np.sin))
        g.op("RotaryEmbedding", q, cos, sin, num_heads=heads, interleaved=g.pick(0, 1))


@rare
def quantised_operators(g: Grower) -> None:
    """Whole quantised layers, blocked and 4-bit weights, dynamic quantisation."""
    x = g.value("f", minimum=2, full=True)
    g.need(g.opset >= 11)
    k = g.shape(x)[-1]
    kind = g.pick("dynamic", "weight", "blocked", "int4", "qlinear", "channel", "integer")
    if kind == "dynamic":
        y, s, z = g.op("DynamicQuantizeLinear", x, outputs=3)
        if g.chance(0.5):
            g.op("DequantizeLinear", y, s, z)
        else:
            w = g.const(g.rng.integers(-9, 9, (k, 3)), np.int8)
            g.op(
                "Mul",
                g.op("Cast", g.op("MatMulInteger", y, w, z), to=TensorProto.FLOAT),
                g.op("Mul", s, g.const(np.float32(0.1))),
            )
    elif kind == "integer":
        w = g.const(g.rng.integers(0, 9, (k, 3)), np.uint8)
        q = g.op("QuantizeLinear", x, g.const(np.float32(0.1)), g.const(np.array(128, np.uint8)))
        g.op(
            "MatMulInteger", q, w, g.const(np.array(128, np.uint8)), g.const(np.array(g.pick(0, 4), np.uint8))
        )
    elif kind == "weight":
        g.need(g.opset >= 13)  # ONNX Runtime computes with 8-bit activations instead, from here on
        w = g.const(g.rng.integers(-9, 9, (k, 3)), np.int8)
        d = g.op("DequantizeLinear", w, g.const(np.float32(0.1)), g.const(np.array(0, np.int8)))
        g.op("MatMul", x, g.op("Identity", d) if g.chance(0.2) else d)
    elif kind == "channel":
        g.need(g.opset >= 13)
        w = g.const(g.rng.integers(-9, 9, (3, k)), np.int8)
        d = g.op(
            "DequantizeLinear",
            w,
            g.const(g.rng.random(3) + 0.1, np.float32),
            g.const(np.zeros(3, np.int8)),
            axis=0,
        )
        g.op("MatMul", x, g.op("Transpose", d))
    elif kind == "blocked":
        g.need(g.opset >= 21 and k % 2 == 0)
        w = g.const(g.rng.integers(-9, 9, (k, 3)), np.int8)
        d = g.op(
            "DequantizeLinear", w, g.const(g.rng.random((k // 2, 3)) + 0.1, np.float32), block_size=2, axis=0
        )
        g.op("MatMul", x, d)
    elif kind == "int4":
        g.need(g.opset >= 21)
        name, d = g.name("c"), g.name()
        value = helper.make_tensor(name, TensorProto.INT4, [k, 4], g.rng.integers(-8, 8, k * 4).tolist())
        make = node(g, "Constant", [], [name], value=value)
        block(g, [make, node(g, "DequantizeLinear", [name, g.const(np.float32(0.1))], [d])], [d])
        g.op("MatMul", x, d)
    else:
        q = g.op("QuantizeLinear", x, g.const(np.float32(0.1)), g.const(np.array(0, np.int8)))
        s, z = g.const(np.float32(0.1)), g.const(np.array(0, np.int8))
        w = g.const(g.rng.integers(-9, 9, (k, 3)), np.int8)
        y = g.op("QLinearMatMul", q, s, z, w, s, z, g.const(np.float32(0.5)), z)
        g.op("DequantizeLinear", y, g.const(np.float32(0.5)), z)


@rare
def contributed(g: Grower) -> None:
    """Operators of ONNX Runtime's own domain, which a model may come with."""
    x = g.value("f", minimum=1, full=True)
    kind = g.pick(
        "Gelu", "FusedMatMul", "BiasGelu", "QuickGelu", "SkipLayerNormalization", "FastGelu", "Inverse"
    )
    n = g.shape(x)[-1]
    if kind == "FusedMatMul":
        g.op(kind, x, g.normal(n, 3), domain="com.microsoft", alpha=0.5)
    elif kind in ("BiasGelu", "FastGelu"):
        g.op(kind, x, g.normal(n), domain="com.microsoft")
    elif kind == "SkipLayerNormalization":
        g.need(g.arrays[x].ndim == 3)
        g.op(kind, x, x, g.normal(n), g.normal(n), domain="com.microsoft", epsilon=1e-5)
    else:
        g.op(kind, x, domain="com.microsoft")


@rare
def shape_forms(g: Grower) -> None:
    """Parts of shapes by attributes, through arithmetic and back, and as answers of their own."""
    x = g.value("wn", minimum=1)
    rank = g.arrays[x].ndim
    if g.opset >= 15 and g.chance(0.6):
        part = g.op("Shape", x, start=g.pick(0, 1, -1, -9), **g.pick({}, {"end": g.pick(1, -1, 9, rank)}))
    else:
        part = g.op("Shape", x)
    g.need(g.arrays[part].size)
    for _ in range(g.pick(1, 2, 3)):
        kind = g.pick(
            "Add",
            "Mul",
            "Div",
            "Sub",
            "Max",
            "Min",
            "Cast",
            "Mod",
            "Concat",
            "Gather",
            "Slice",
            "ReduceProd",
            "Neg",
            "Where",
        )
        number = g.const(np.full(g.pick((), (1,)), g.pick(1, 2, 3, -1)), np.int64)
        if kind == "Cast":
            part = g.op(
                "Cast",
                g.op("Cast", part, to=g.pick(TensorProto.FLOAT, TensorProto.INT32)),
                to=TensorProto.INT64,
            )
        elif kind == "Concat":
            g.need(g.arrays[part].ndim == 1)
            part = g.op("Concat", part, g.ints(1), axis=0)
        elif kind == "Gather":
            g.need(g.arrays[part].ndim == 1 and g.arrays[part].size)
            part = g.op("Gather", part, g.const(np.array(g.pick(0, -1, [0], [0, -1]))), axis=0)
        elif kind == "Slice":
            g.need(g.arrays[part].ndim == 1)
            part = g.op("Slice", part, g.ints(0), g.ints(g.pick(1, -1, INT_MAX)))
        elif kind == "ReduceProd":
            part = g.reduce("ReduceProd", part, [0], g.pick(0, 1)) if g.arrays[part].ndim else part
        elif kind == "Neg":
            part = g.op("Abs", g.op("Neg", part))
        elif kind == "Where":
            part = g.op("Where", g.op("Greater", part, number), part, number)
        else:
            part = g.op(kind, part, number)
    array = g.arrays[part]
    if array.ndim == 1 and array.size and (array > 0).all() and np.prod(array) < 500:
        g.op("ConstantOfShape", part)
    elif array.ndim == 0 and 0 < array < 50:
        g.op("Range", g.const(np.array(0)), part, g.const(np.array(1)))
