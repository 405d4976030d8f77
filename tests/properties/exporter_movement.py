"""What only moves data, in the chains that exporters write and in odd relatives of them; einsums, loops, quantised pairs."""

from __future__ import annotations

import numpy as np
from exporter_graphs import Grower
from exporter_idioms import INT_MAX, INT_MIN, step, subgraph
from onnx import TensorProto, helper


def _slice(g: Grower, x: str, axis: int, start: int, end: int, stride: int = 1) -> str:
    axis = axis - g.arrays[x].ndim if g.chance(0.3) else axis
    return str(g.op("Slice", x, g.ints(start), g.ints(end), g.ints(axis), g.ints(stride)))


def _axis(g: Grower, x: str) -> int:
    return int(g.rng.integers(g.arrays[x].ndim))


@step
def slices_of_slices(g: Grower) -> None:
    x = g.value("wnb", minimum=1)
    for _ in range(g.pick(2, 2, 3)):
        stride = g.pick(1, 1, 1, 2, -1)
        start, end = g.pick((0, 2), (1, INT_MAX), (-2, INT_MAX), (0, -1), (1, 3), (2, 1))
        if stride < 0:
            start, end = g.pick((-1, INT_MIN), (INT_MAX, INT_MIN), (-1, 0))
        x = _slice(g, x, _axis(g, x), start, end, stride)


@step
def parts(g: Grower) -> None:
    """A tensor cut up and put together again, in order or not."""
    x = g.value("wn", minimum=1, full=True)
    axis = _axis(g, x)
    size = g.shape(x)[axis]
    g.need(2 <= size <= 12)
    cut = int(g.rng.integers(1, size))
    ends = ((0, cut), (cut, g.pick(size, INT_MAX)))
    if g.chance(0.4):
        pieces = [_slice(g, x, axis, *pair) for pair in ends]
    elif g.opset >= 13:
        pieces = g.op("Split", x, g.ints(cut, size - cut), outputs=2, axis=axis)
    else:
        pieces = g.op("Split", x, outputs=2, axis=axis, split=[cut, size - cut])
    if g.chance(0.3):
        pieces = [g.op("Relu" if g.arrays[x].dtype.kind == "f" else "Identity", p) for p in pieces]
    order = pieces if g.chance(0.7) else pieces[::-1]
    whole = g.op("Concat", *order, axis=axis if g.chance(0.7) else axis - g.arrays[x].ndim)
    if g.chance(0.4):
        whole = g.op("Concat", whole, g.pick(*pieces), axis=axis)
    if g.chance(0.5):
        _slice(g, whole, axis, *g.pick(*ends, (0, 1), (cut, size + 1)))


@step
def gathers(g: Grower) -> None:
    x = g.value("wnb", minimum=1, full=True)
    for _ in range(g.pick(1, 2)):
        g.need(g.arrays[x].ndim)
        axis = _axis(g, x)
        size = g.shape(x)[axis]
        g.need(size)
        indices = g.pick(
            0, -1, [0], [-1], list(range(size)), list(range(size))[::-1], [[0, size - 1]], [0, 0]
        )
        x = g.op("Gather", x, g.const(indices, g.pick(np.int64, np.int32)), axis=axis)


@step
def pads(g: Grower) -> None:
    x = g.value("f", minimum=1)
    rank = g.arrays[x].ndim
    for _ in range(2):
        amounts = g.rng.integers(-1 if g.chance(0.2) else 0, 3, 2 * rank)
        x = g.op("Pad", x, g.const(amounts, np.int64), g.const(np.float32(g.pick(0, 0, 1))), mode="constant")


@step
def expands(g: Grower) -> None:
    x = g.value("wn")
    shape = g.shape(x)
    lead = g.pick((), (1,), (2,))
    target = [*lead, *(g.pick(n, 1) if n != 1 else g.pick(1, 3) for n in shape)]
    y = g.op("Expand", x, g.ints(*target)) if target else x
    if g.chance(0.6):
        g.commute(
            g.pick("Add", "Mul"),
            y,
            g.pick(x, g.const(np.full(g.pick((), (1,), g.shape(y)), 2), g.arrays[x].dtype)),
        )
    elif g.arrays[y].ndim:
        g.op("Tile", y, g.ints(*(g.pick(1, 1, 2) for _ in g.shape(y))))


@step
def wheres(g: Grower) -> None:
    x = g.value("wn")
    other = g.const(np.full(g.pick((), g.shape(x)), 3), g.arrays[x].dtype)
    shape = g.pick((), (1,), g.shape(x), (1, *g.shape(x)))
    test = g.const(g.pick(np.ones(shape, bool), np.zeros(shape, bool), g.rng.random(shape) < 0.5))
    g.op("Where", test, *((x, other) if g.chance(0.5) else (other, x)))


@step
def clips(g: Grower) -> None:
    x = g.value("w")
    dtype = g.arrays[x].dtype
    for _ in range(g.pick(1, 2, 3)):
        low, high = g.pick((-1, 1), (0, 6), (0, np.inf), (-np.inf, 2), (2, 1))
        bound = lambda n: g.const(np.array(n, dtype))  # noqa: E731
        kind = g.pick("Clip", "Clip", "Relu", "Min", "Max")
        x = g.op("Clip", x, bound(low), bound(high)) if kind == "Clip" else (
            g.op("Relu", x) if kind == "Relu" else g.commute(kind, x, bound(high if kind == "Min" else low)))  # fmt: skip


@step
def depth_to_space(g: Grower) -> None:
    x = g.value("f", rank=4, full=True)
    _n, c, h, w = g.shape(x)
    if c % 4 == 0 or g.chance(0.5):
        x = g.op("Concat", x, x, x, x, axis=1) if c % 4 else x
        c = g.shape(x)[1]
        inner = g.pick([0, 2, 2, c // 4, h, w], [0, c // 4, 2, 2, h, w])
        perm = g.pick([0, 3, 4, 1, 5, 2], [0, 1, 4, 2, 5, 3], [0, 1, 4, 3, 5, 2])
        y = g.op("Transpose", g.op("Reshape", x, g.ints(*inner)), perm=perm)
        g.op("Reshape", y, g.ints(0, c // 4, h * 2, w * 2))
    else:
        g.need(h % 2 == 0 and w % 2 == 0)
        y = g.op("Reshape", x, g.ints(0, c, h // 2, 2, w // 2, 2))
        y = g.op("Transpose", y, perm=g.pick([0, 3, 5, 1, 2, 4], [0, 1, 3, 5, 2, 4]))
        g.op("Reshape", y, g.ints(0, c * 4, h // 2, w // 2))


@step
def einsums(g: Grower) -> None:
    x = g.value("f", rank=3, full=True)
    _a, b, c = g.shape(x)
    form = int(g.rng.integers(6))
    if form == 0:
        g.op("Einsum", x, g.normal(c, 3), equation="bij,jk->bik")
    elif form == 1:
        g.op("Einsum", x, x, equation=g.pick("bid,bjd->bij", "bid,bjd->bji", "bid,bid->bi", "bid,bid->b"))
    elif form == 2:
        g.op("Einsum", x, equation=g.pick("abc->cab", "abc->ac", "abc->", "abc->acb"))
    elif form == 3:
        g.op("Einsum", x, g.normal(c), equation=g.pick("abc,c->ab", "abc,c->abc", "abc, c -> cab"))
    elif form == 4:
        g.op("Einsum", x, g.normal(b, c, 2), equation="ihc,hcd->ihd")
    else:
        g.op("Einsum", x, g.normal(c, 2), equation=g.pick("...c,cd->...d", "abc,cd->abd", "abc,ed->abced"))


@step
def transposes_around(g: Grower) -> None:
    """Layout changes around an island of other operators."""
    x = g.value("f", rank=g.pick(3, 4), full=True)
    rank = g.arrays[x].ndim
    forth = list(
        g.pick([0, 2, 1], [2, 0, 1]) if rank == 3 else g.pick([0, 2, 3, 1], [0, 3, 1, 2], [0, 1, 3, 2])
    )
    y = g.op("Transpose", x, perm=forth)
    for _ in range(g.pick(1, 2, 3)):
        kind = g.pick("Relu", "Mul", "Concat", "Softmax", "ReduceMean", "Slice", "Pad", "MatMul", "Twice")
        if kind == "Mul":
            y = g.commute("Mul", y, g.normal(*g.pick((), (g.shape(y)[-1],), g.shape(y))))
        elif kind == "Concat":
            y = g.op("Concat", y, y, axis=_axis(g, y))
        elif kind == "Softmax":
            y = g.op("Softmax", y, axis=_axis(g, y))
        elif kind == "ReduceMean":
            y = g.reduce("ReduceMean", y, [_axis(g, y)], 1)
        elif kind == "Slice":
            y = _slice(g, y, _axis(g, y), 0, 2)
        elif kind == "Pad":
            y = g.op("Pad", y, g.ints(*[int(n) for n in g.rng.integers(0, 2, 2 * rank)]))
        elif kind == "MatMul":
            y = g.op("MatMul", y, g.normal(g.shape(y)[-1], 3))
        elif kind == "Twice":
            y = g.commute("Add", y, g.op("Sigmoid", y))
        else:
            y = g.op("Relu", y)
    back = [forth.index(i) for i in range(rank)]
    g.op("Transpose", y, perm=back if g.chance(0.8) else forth)


@step
def loops(g: Grower) -> None:
    """A loop of a known number of trips with something in it that no trip changes."""
    x = g.value("f", minimum=1, full=True)
    shape = [str(i) for i in range(g.arrays[x].ndim)]
    trips = g.pick(0, 1, 2, 3)
    nodes = [
        helper.make_node("Sigmoid", [x], ["fixed"]),
        helper.make_node(g.pick("Add", "Mul"), ["carried", "fixed"], ["next"]),
        helper.make_node("Identity", ["keep"], ["go_on"]),
    ]
    # With no turn at all the shape of what is stacked is the runtime's guess.
    scanned = trips > 0 and g.chance(0.5)
    body = subgraph(
        "body",
        nodes,
        [
            ("turn", TensorProto.INT64, []),
            ("keep", TensorProto.BOOL, []),
            ("carried", TensorProto.FLOAT, shape),
        ],
        [("go_on", TensorProto.BOOL, []), ("next", TensorProto.FLOAT, shape)]
        + ([("fixed", TensorProto.FLOAT, shape)] if scanned else []),
    )
    start = g.op("Relu", x)
    g.op(
        "Loop",
        g.const(np.int64(trips)),
        g.const(np.bool_(scanned or g.chance(0.9))),
        start,
        outputs=2 if scanned else 1,
        body=body,
    )


@step
def quantised(g: Grower) -> None:
    x = g.value("f", minimum=1)
    scale, zero = (
        g.const(np.float32(g.pick(0.1, 0.25))),
        g.const(np.array(g.pick(0, 3), g.pick(np.int8, np.uint8))),
    )
    y = g.op("DequantizeLinear", g.op("QuantizeLinear", x, scale, zero), scale, zero)
    move = g.pick("Relu", "Transpose", "Reshape", "none")
    if move == "Transpose":
        y = g.op("Transpose", y)
    elif move == "Reshape":
        y = g.op("Reshape", y, g.ints(-1))
    elif move == "Relu":
        y = g.op("Relu", y)
    again = g.const(np.float32(g.pick(0.1, 0.25)))
    g.op("DequantizeLinear", g.op("QuantizeLinear", y, again, zero), again, zero)


@step
def chains_of_numbers(g: Grower) -> None:
    x = g.value("wn")
    dtype = g.arrays[x].dtype
    for _ in range(g.pick(2, 3, 4)):
        kind = g.pick("Add", "Sub", "Mul", "Div") if dtype.kind == "f" else g.pick("Add", "Sub", "Mul")
        other = g.const(np.full(g.pick((), (1,)), g.pick(2, 3, 4)), dtype)
        x = g.op(kind, x, other) if g.chance(0.7) or kind == "Div" else g.op(kind, other, x)


@step
def casts_there_and_back(g: Grower) -> None:
    x = g.value("wnb")
    home = helper.np_dtype_to_tensor_dtype(g.arrays[x].dtype)
    away = g.pick(TensorProto.DOUBLE, TensorProto.FLOAT, TensorProto.INT64, TensorProto.FLOAT16)
    array = g.arrays[x]
    if away == TensorProto.INT64 and array.dtype.kind == "f":
        g.need(array.size and np.isfinite(array).all() and np.abs(array).max() < 1e3)
    g.op("Cast", g.op("Cast", x, to=away), to=home)


@step
def unsqueezes(g: Grower) -> None:
    x = g.value("wnb")
    axis = int(g.rng.integers(0, g.arrays[x].ndim + 1))
    y = g.axes_op("Unsqueeze", x, [axis], 13)
    y = g.op("Transpose", y) if g.chance(0.2) else y
    ones = [i for i, n in enumerate(g.shape(y)) if n == 1]
    g.need(ones)
    g.axes_op("Squeeze", y, [g.pick(*ones)], 13)
