"""Rarer operators and control flow for `exporter_graphs`."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from exporter_graphs import Grower
from exporter_idioms import step, subgraph
from onnx import TensorProto, helper

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


@step
def resize(g: Grower) -> None:
    x = g.value("f", rank=4, full=True)
    mode = g.pick("nearest", "linear", "cubic")
    how = g.pick("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    if g.chance(0.5):
        tail: tuple[Any, ...] = ("", np.array([1, 1, 2, g.pick(2, 0.5, 1.5)], np.float32))
    else:
        tail = ("", "", np.array([*g.shape(x)[:2], g.pick(1, 3, 7), g.pick(2, 6)]))
    g.op("Resize", x, *tail, mode=mode, coordinate_transformation_mode=how)


@step
def selection(g: Grower) -> None:
    x = g.value("f", minimum=1, full=True)
    axis = int(g.rng.integers(g.arrays[x].ndim))
    k = g.pick(1, g.shape(x)[axis], 2)
    kind = g.pick("TopK", "ArgMax", "ArgMin", "CumSum", "Trilu")
    if kind == "TopK":
        g.op("TopK", x, g.ints(k), outputs=2, axis=axis, largest=g.pick(0, 1))
    elif kind == "CumSum":
        g.op("CumSum", x, g.const(np.array(axis)), exclusive=g.pick(0, 1), reverse=g.pick(0, 1))
    elif kind == "Trilu":
        g.op("Trilu", x, upper=g.pick(0, 1))
    else:
        g.op(kind, x, axis=axis, keepdims=g.pick(0, 1))


@step
def indexing(g: Grower) -> None:
    x = g.value("wi", minimum=1, full=True)
    shape, rank = g.shape(x), g.arrays[x].ndim
    axis = int(g.rng.integers(rank))
    kind = g.pick("Gather", "GatherElements", "GatherND", "ScatterND", "ScatterElements", "Gather")
    if kind == "Gather":
        indices = g.rng.integers(-shape[axis], shape[axis], g.pick((), (1,), (2,), (1, 2), (0,)))
        g.op("Gather", x, np.asarray(indices, g.pick(np.int64, np.int32)), axis=g.pick(axis, axis - rank))
    elif kind in ("GatherElements", "ScatterElements"):
        sizes = [*shape]
        sizes[axis] = 1
        indices = np.asarray(g.rng.integers(-shape[axis], shape[axis], sizes))
        updates = [] if kind == "GatherElements" else [np.ones(sizes, g.arrays[x].dtype)]
        g.op(kind, x, indices, *updates, axis=axis)
    else:
        indices = np.array([[g.rng.integers(-d, d) for d in shape[:1]], [0]])[: g.pick(1, 2)]
        if kind == "GatherND":
            g.op("GatherND", x, indices)
        else:
            indices = indices[:1]
            g.op("ScatterND", x, indices, np.zeros((1, *shape[1:]), g.arrays[x].dtype))


@step
def one_hot(g: Grower) -> None:
    x = g.value("i")
    hot = g.op("OneHot", x, g.const(np.array(g.pick(1, 3))), np.array([0, 1], np.float32), axis=g.pick(-1, 0))
    if g.chance(0.5):
        g.op("NonZero", hot)


@step
def integers(g: Grower) -> None:
    x = g.value("n")
    kind = g.pick("Div", "Mod", "Mul", "Add", "Sub", "Abs", "Neg")
    number = [] if kind in ("Abs", "Neg") else [g.const(np.array(g.pick(1, 2, 3, -3)), g.arrays[x].dtype)]
    g.op(kind, x, *number)


@step
def logic(g: Grower) -> None:
    x = g.value("b")
    kind = g.pick("Not", "And", "Or", "Xor", "Where")
    if kind == "Not":
        g.op("Not", g.op("Not", x) if g.chance(0.4) else x)
    elif kind == "Where":
        g.op("Where", x, g.value("f"), g.const(np.float32(g.pick(0.0, -np.inf, 1.0))))
    else:
        g.op(kind, x, g.value("b") if g.chance(0.5) else g.const(np.array(g.pick(True, False))))


@step
def dynamic(g: Grower) -> None:
    kind = g.pick(
        "Range", "ConstantOfShape", "EyeLike", "Size", "Dropout", "Clip", "PRelu", "Einsum", "Range"
    )
    if kind == "Range":
        shape = g.op("Shape", g.value("fi", minimum=1))
        size = g.op("Gather", shape, g.const(np.array(0)))
        y = g.op("Range", g.const(np.array(0)), size, g.const(np.array(g.pick(1, 2))))
        g.op("Cast", y, to=FLOAT)
    elif kind == "ConstantOfShape":
        number = helper.make_tensor("v", FLOAT, [1], [g.pick(0.0, 1.0, -np.inf)])
        g.op("ConstantOfShape", g.op("Shape", g.value("fi")), value=number)
    elif kind == "Clip":
        low, high = (g.const(np.float32(g.pick(-1, 0, 0.5))) for _ in range(2))
        g.op(
            "Clip",
            g.op("Clip", g.value("f"), *g.pick((low,), ("", high), (low, high))),
            *g.pick((low, high), ("", high)),
        )
    elif kind == "PRelu":
        x = g.value("f", minimum=1)
        g.op("PRelu", x, g.normal(*g.pick((1,), g.shape(x)[-1:])))
    elif kind == "Einsum":
        x = g.value("f", rank=3)
        g.op("Einsum", x, x, equation=g.pick("bij,bkj->bik", "bij,bij->b", "bij,bij->bji"))
    else:
        x = g.value("f", rank=2 if kind == "EyeLike" else None)
        g.op(kind, x)


@step
def recurrent(g: Grower) -> None:
    x = g.value("f", rank=3, full=True)
    kind, ways, hidden = g.pick("LSTM", "GRU", "RNN"), g.pick(1, 2), g.pick(1, 3)
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    weights = [g.normal(ways, gates * hidden, g.shape(x)[-1]), g.normal(ways, gates * hidden, hidden)]
    bias = [g.normal(ways, 2 * gates * hidden)] if g.chance(0.5) else []
    extra = {"linear_before_reset": g.pick(0, 1)} if kind == "GRU" else {}
    direction = "bidirectional" if ways == 2 else g.pick("forward", "reverse")
    y = g.op(kind, x, *weights, *bias, outputs=2, hidden_size=hidden, direction=direction, **extra)[0]
    if ways == 1 and g.chance(0.5):
        g.axes_op("Squeeze", y, [1], 13)


@step
def normalisations(g: Grower) -> None:
    x = g.value("f", minimum=3, full=True)
    c = g.shape(x)[1]
    kind = g.pick("InstanceNormalization", "LRN", "LpNormalization", "BatchNormalization", "DepthToSpace")
    if kind == "InstanceNormalization":
        g.op(kind, x, g.normal(c), g.normal(c))
    elif kind == "LRN":
        g.op(kind, x, size=3)
    elif kind == "LpNormalization":
        g.op(kind, x, axis=-1, p=g.pick(1, 2))
    elif kind == "BatchNormalization":
        y = g.op(kind, x, *(g.normal(c) for _ in range(3)), g.const(g.rng.random(c) + 0.5, np.float32))
        g.op("Relu", y)
    else:
        g.op("SpaceToDepth", x, blocksize=2)


@step
def quantized(g: Grower) -> None:
    x = g.value("f")
    scale, zero = g.const(np.float32(g.pick(0.5, 0.25))), g.const(np.array(g.pick(0, 128), np.uint8))
    g.op("DequantizeLinear", g.op("QuantizeLinear", x, scale, zero), scale, zero)


def branch(g: Grower, label: str, x: str, deep: bool) -> onnx.GraphProto:
    """A branch over the captured `x`, with constants of its own and perhaps another If inside."""
    rank = g.arrays[x].ndim
    out, const = g.name("b"), g.name("b")
    kind = g.pick("Relu", "add", "captured", "chain", "If" if deep else "add")
    number = helper.make_tensor(const, FLOAT, [], [float(g.pick(0, 1, 2))])
    if kind == "Relu":
        nodes = [helper.make_node("Relu", [x], [out])]
    elif kind == "captured":
        nodes = [helper.make_node("Identity", [x], [out])]
    elif kind == "If":
        inner = [branch(g, f"{label}_{i}", x, False) for i in "te"]
        test = g.name("b")
        nodes = [
            helper.make_node("Constant", [], [test], value=helper.make_tensor("t", BOOL, [], [g.pick(0, 1)])),
            helper.make_node("If", [test], [out], then_branch=inner[0], else_branch=inner[1]),
        ]
    else:
        nodes = [
            helper.make_node("Constant", [], [const], value=number),
            helper.make_node("Add", [x, const], [out if kind == "add" else const + "s"]),
        ]
        if kind == "chain":
            nodes.append(helper.make_node("Relu", [const + "s"], [out]))
    return subgraph(label, nodes, [], [(out, FLOAT, [None] * rank)])


@step
def if_node(g: Grower) -> None:
    x = g.value("f")
    if g.chance(0.4):
        test = g.const(np.array(g.pick(True, False)))
    else:
        y = g.value("f", full=True)
        axes = list(range(g.arrays[y].ndim))
        total = g.reduce("ReduceSum", y, axes, 0) if axes else y
        test = g.op("Greater", total, g.const(np.float32(0)))
    g.op("If", test, then_branch=branch(g, "then", x, True), else_branch=branch(g, "else", x, True))


@step
def loop_node(g: Grower) -> None:
    """Sums over captured values; a constant or computed trip count; at times a condition."""
    x, extra = g.value("f"), g.value("f")
    g.need(fits(g, x, extra))
    n, c, s, s2, again, scanned = (g.name("l") for _ in range(6))
    test = g.pick("keep", "keep", "less")
    nodes = [
        helper.make_node(g.pick("Add", "Sub", "Max"), [s, extra], [s2]),
        helper.make_node("Relu", [s2], [scanned]),
    ]
    if test == "keep":
        nodes.append(helper.make_node("Identity", [c], [again]))
    else:
        nodes += [
            helper.make_node("Constant", [], [again + "k"], value=helper.make_tensor("k", INT64, [], [1])),
            helper.make_node("Less", [n, again + "k"], [again]),
        ]
    shape = [None] * g.arrays[x].ndim
    body = subgraph(
        "body", nodes, [(n, INT64, []), (c, BOOL, []), (s, FLOAT, shape)],
        [(again, BOOL, []), (s2, FLOAT, shape), (scanned, FLOAT, shape)],
    )  # fmt: skip
    # With no turn at all the shape of what is stacked is the runtime's guess.
    if g.chance(0.6):
        trips = g.const(np.array(g.pick(1, 1, 3)))
    else:
        trips = g.op("Gather", g.op("Shape", g.value("fi", minimum=1)), g.const(np.array(0)))
    g.op("Loop", trips, g.pick("", g.const(np.array(True))), x, outputs=2, body=body)


def fits(g: Grower, x: str, extra: str) -> bool:
    """Whether `extra` broadcasts into the shape of `x`."""
    try:
        return bool(np.broadcast_shapes(g.shape(x), g.shape(extra)) == g.shape(x))
    except ValueError:
        return False


@step
def scan_node(g: Grower) -> None:
    x = g.value("f", minimum=2, full=True)
    state, item, s2, out = (g.name("s") for _ in range(4))
    shape = [None] * (g.arrays[x].ndim - 1)
    extra = g.value("f", rank=0) if g.chance(0.3) else g.const(np.float32(0.5))
    nodes = [helper.make_node("Add", [state, item], [s2]), helper.make_node("Mul", [s2, extra], [out])]
    body = subgraph(
        "body",
        nodes,
        [(state, FLOAT, shape), (item, FLOAT, shape)],
        [(s2, FLOAT, shape), (out, FLOAT, shape)],
    )
    start = g.op("Gather", x, g.const(np.array(0)), axis=0)
    g.op("Scan", start, x, outputs=2, body=body, num_scan_inputs=1, scan_input_directions=[g.pick(0, 1)])
