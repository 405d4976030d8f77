"""Blocks of networks written out as exporters write them: normalizations, activations, attention, rotary, softmax.

Each with the near misses of its own: another constant, another axis, another user, a mask that hides a whole row.
"""

from __future__ import annotations

import numpy as np
from exporter_graphs import Grower
from exporter_idioms import step
from onnx import TensorProto


def _other_user(g: Grower, *inner: str) -> None:
    """At times something else reads an inner value of the block."""
    if g.chance(0.15):
        g.op(g.pick("Neg", "Relu", "Abs"), g.pick(*inner))


def _inverse_root(g: Grower, x: str, variance: str) -> str:
    shifted = g.commute("Add", variance, g.scalar(x, g.pick(1e-6, 1e-5, 0.1)))
    form = g.pick(0, 1, 2)
    if form == 0:
        return str(g.op("Reciprocal", g.op("Sqrt", shifted)))
    if form == 1:
        return str(g.op("Div", g.scalar(x, g.pick(1.0, 1.0, 2.0)), g.op("Sqrt", shifted)))
    return str(g.op("Pow", shifted, g.scalar(x, g.pick(-0.5, -0.5, -1.0))))


@step
def rms_norm(g: Grower) -> None:
    x = g.value("w", minimum=1, full=True)
    wide = g.op("Cast", x, to=TensorProto.FLOAT) if g.arrays[x].dtype == np.float16 or g.chance(0.2) else x
    square = (
        g.op("Mul", wide, wide) if g.chance(0.4) else g.op("Pow", wide, g.scalar(wide, g.pick(2.0, 2.0, 3.0)))
    )
    mean = g.reduce("ReduceMean", square, g.pick([-1], [-1], [g.arrays[x].ndim - 1], [0]))
    y = g.commute("Mul", wide, _inverse_root(g, wide, mean))
    weight = g.const(g.rng.standard_normal(g.pick((g.shape(x)[-1],), (1,), ())), g.arrays[wide].dtype)
    if g.chance(0.3):  # as Gemma has it
        weight = g.commute("Add", weight, g.scalar(wide, 1.0))
    if g.arrays[x].dtype != g.arrays[wide].dtype and g.chance(0.5):
        y = g.op("CastLike", y, x) if g.opset >= 15 and g.chance(0.3) else g.op("Cast", y, to=_type_of(g, x))
        weight = g.const(g.rng.standard_normal(g.shape(x)[-1]), g.arrays[x].dtype)
    if g.chance(0.8):
        g.commute("Mul", y, weight)
    _other_user(g, square, mean)


def _type_of(g: Grower, x: str) -> int:
    return {"f": TensorProto.FLOAT, "e": TensorProto.FLOAT16, "d": TensorProto.DOUBLE}[g.arrays[x].dtype.char]


@step
def variance_of_squares(g: Grower) -> None:
    """A layer normalization as E[x²] - E[x]², and TensorFlow's moments."""
    x = g.value("f", minimum=2, full=True)
    axes = g.pick([-1], [-1], [-2, -1], [1])
    mean = g.reduce("ReduceMean", x, axes)
    if g.chance(0.5):
        second = g.reduce("ReduceMean", g.op("Mul", x, x), axes)
        variance = g.op("Sub", second, g.op("Mul", mean, mean))
    else:
        difference = g.op("Sub", *((x, mean) if g.chance(0.5) else (mean, x)))
        variance = g.reduce("ReduceMean", g.op("Mul", difference, difference), axes)
    gain = g.commute("Mul", _inverse_root(g, x, variance), g.normal(g.shape(x)[-1]))
    shift = g.op("Sub", g.normal(g.shape(x)[-1]), g.commute("Mul", mean, gain))
    g.commute("Add", g.commute("Mul", x, gain), shift)


@step
def group_norm(g: Grower) -> None:
    x = g.value("f", rank=4, full=True)
    n, c, h, w = g.shape(x)
    groups = g.pick(*[k for k in (1, 2, 3) if c % k == 0])
    y = g.op("Reshape", x, g.ints(0, groups, -1))
    scale = g.const(np.ones(groups) if g.chance(0.7) else g.rng.standard_normal(groups), np.float32)
    y = g.op(
        "InstanceNormalization", y, scale, g.const(np.zeros(groups), np.float32), epsilon=g.pick(1e-5, 1e-3)
    )
    y = g.op("Reshape", y, g.op("Shape", x) if g.chance(0.5) else g.ints(n if g.chance(0.1) else 0, c, h, w))
    if g.chance(0.8):
        y = g.commute("Mul", y, g.normal(*g.pick((c, 1, 1), (1, c, 1, 1), (w,), (1,))))
    if g.chance(0.8):
        g.commute("Add", y, g.normal(*g.pick((c, 1, 1), (1, c, 1, 1), (1,))))


@step
def gated(g: Grower) -> None:
    """Swish, QuickGelu, Mish, Softplus, HardSigmoid, and the sigmoid and tanh they are made of."""
    x = g.value("w")
    form = int(g.rng.integers(7))
    if form == 0:
        g.commute("Mul", x, g.op("Sigmoid", x if g.chance(0.5) else g.commute("Mul", x, g.scalar(x, 1.702))))
    elif form == 1:
        g.commute("Mul", x, g.op("Tanh", g.op("Softplus", g.value("w") if g.chance(0.1) else x)))
    elif form == 2:
        g.op("Log", g.commute("Add", g.op("Exp", x), g.scalar(x, g.pick(1.0, 1.0, 2.0))))
    elif form == 3:
        minus = g.op("Neg", x) if g.chance(0.5) else g.op("Mul", x, g.scalar(x, -1.0))
        below = g.commute("Add", g.op("Exp", minus), g.scalar(x, g.pick(1.0, 1.0, 2.0)))
        gate = g.op("Reciprocal", below) if g.chance(0.5) else g.op("Div", g.scalar(x, 1.0), below)
        g.commute("Mul", x, gate)
    elif form == 4:
        line = g.commute(
            "Add", g.commute("Mul", x, g.scalar(x, g.pick(1 / 6, 0.2, 0.0, -0.5))), g.scalar(x, 0.5)
        )
        zero, one = (g.const(np.array(n, g.arrays[x].dtype)) for n in (0, g.pick(1, 1, 2)))
        g.op("Clip", line, zero, one)
    elif form == 5:
        zero = g.const(np.zeros((), g.arrays[x].dtype))
        test = g.op(g.pick("Greater", "Less"), x, zero)
        slope = g.commute("Mul", x, g.scalar(x, g.pick(0.01, 0.25, -0.5, np.nan)))
        g.op("Where", test, *((x, slope) if g.chance(0.7) else (slope, x)))
    else:
        g.commute(
            "Mul", x, g.op("Relu", g.op("Min", g.commute("Add", x, g.scalar(x, 3.0)), g.scalar(x, 6.0)))
        )


@step
def soft_parts(g: Grower) -> None:
    """Softmax and its relatives from exponentials, sums and norms."""
    x = g.value("w", minimum=1, full=True)
    axis = int(g.rng.integers(-g.arrays[x].ndim, g.arrays[x].ndim))
    form = int(g.rng.integers(4))
    if form <= 1:
        peak = g.reduce("ReduceMax", x, [axis])
        raised = g.op("Exp", g.op("Sub", x, peak))
        total = g.reduce("ReduceSum", raised, [axis if g.chance(0.9) else -1])
        y = g.op("Div", raised, total)
        if form == 1:
            y = g.op("Log", y)
        _other_user(g, raised, total)
    elif form == 2:
        g.op("Log", g.reduce(g.pick("ReduceSum", "ReduceMean"), g.op("Exp", x), [axis], g.pick(0, 1)))
    else:
        square = g.op("Mul", x, x) if g.chance(0.5) else g.op("Pow", x, g.scalar(x, g.pick(2.0, 2.0, 4.0)))
        root = g.op("Sqrt", g.reduce("ReduceSum", square, [axis], g.pick(1, 1, 0)))
        floor = (
            g.op("Max", root, g.scalar(x, 1e-3)) if g.chance(0.5) else g.op("Add", root, g.scalar(x, 1e-3))
        )
        g.op("Div", x, floor)


@step
def grouped_attention(g: Grower) -> None:
    """Attention with shared heads, masks of every kind, and the scale wherever exporters put it."""
    x = g.value("f", rank=3, full=True)
    batch, length, width = g.shape(x)
    heads, size = g.pick((2, 2), (4, 2), (2, 4), (1, 4))
    shared = g.pick(heads, heads, 1)
    q, k, v = (_heads(g, x, width, n, size) for n in (heads, shared, shared))
    if shared != heads or g.chance(0.1):
        k, v = (_repeated(g, y, batch, shared, length, size, heads // shared) for y in (k, v))
    scale = g.pick(size**-0.5, size**-0.5, 0.3)
    where = g.pick("q", "k", "both", "scores", "none")
    if where in ("q", "both"):
        q = g.commute("Mul", q, g.scalar(x, scale if where == "q" else scale**0.5))
    if where in ("k", "both"):
        k = g.op("Div", k, g.scalar(x, (1 / scale) if where == "k" else scale**-0.5))
    scores = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2]))
    if where == "scores":
        scores = g.commute("Mul", scores, g.scalar(x, scale))
    allowed = (
        g.rng.random(
            g.pick((length, length), (1, 1, length, length), (1, 1, 1, length), (1, heads, 1, length))
        )
        < 0.7
    )
    mask = g.pick("add", "where", "none", "bias")
    if mask == "add":
        low = g.pick(-np.inf, float(np.finfo(np.float32).min), -1e4)
        scores = g.commute("Add", scores, g.const(np.where(allowed, 0, low), np.float32))
    elif mask == "where":
        low = g.const(np.float32(g.pick(-np.inf, float(np.finfo(np.float32).min), -1e4)))
        scores = g.op("Where", g.const(allowed), scores, low)
    elif mask == "bias":
        scores = g.commute("Add", scores, g.normal(*allowed.shape))
    weights = g.op("Softmax", scores, axis=g.pick(-1, -1, 3, 2))
    if g.chance(0.25):  # newer exporters guard rows that are hidden altogether
        weights = g.op("Where", g.op("IsNaN", weights), g.const(np.float32(0)), weights)
    y = g.op("MatMul", weights, v)
    if g.chance(0.8):
        y = g.op("Transpose", y, perm=[0, 2, 1, 3])
        y = g.op("Reshape", y, g.ints(0, 0, g.pick(-1, heads * size)))
        g.op("MatMul", y, g.normal(heads * size, width))
    _other_user(g, scores, weights)


def _heads(g: Grower, x: str, width: int, heads: int, size: int) -> str:
    y = g.op("MatMul", x, g.normal(width, heads * size))
    y = g.commute("Add", y, g.normal(heads * size)) if g.chance(0.5) else y
    y = g.op("Reshape", y, g.ints(0, g.pick(0, -1), heads, size))
    return str(g.op("Transpose", y, perm=[0, 2, 1, 3]))


def _repeated(g: Grower, y: str, batch: int, shared: int, length: int, size: int, times: int) -> str:
    lead = 1 if g.chance(0.3) else batch
    y = g.axes_op("Unsqueeze", y, [2], 13)
    y = g.op("Expand", y, g.ints(lead, shared, times, length, size))
    return str(g.op("Reshape", y, g.ints(0, shared * times, length, size)))


@step
def rotary(g: Grower) -> None:
    x = g.value("f", rank=3, full=True)
    _batch, length, width = g.shape(x)
    size = g.pick(2, 4)
    q = _heads(g, x, width, 2, size)
    angles = g.rng.random((1, 1, length, size // 2))
    angles = np.concatenate([angles, angles if g.chance(0.8) else angles * 2], -1)
    cos, sin = (g.const(f(angles), np.float32) for f in (np.cos, np.sin))
    halves = [
        g.op("Slice", q, g.ints(a), g.ints(b), g.ints(g.pick(3, -1)))
        for a, b in ((0, size // 2), (size // 2, g.pick(size, 2**63 - 1)))
    ]
    turned = g.op("Concat", g.op("Neg", halves[1]), halves[0], axis=g.pick(-1, 3))
    if g.chance(0.1):
        turned = g.op("Concat", halves[1], g.op("Neg", halves[0]), axis=-1)
    g.commute("Add", g.commute("Mul", q, cos), g.commute("Mul", turned, sin))
    _other_user(g, turned, halves[0])


@step
def scales_around_weights(g: Grower) -> None:
    """Affine arithmetic before and after a layer with weights, padding included."""
    x = g.value("f", rank=4, full=True)
    c = g.shape(x)[1]
    per_channel = lambda n: g.normal(*g.pick((n, 1, 1), (1, n, 1, 1), (1,), ()))  # noqa: E731
    y = g.commute(g.pick("Mul", "Add"), x, per_channel(c)) if g.chance(0.6) else x
    pads = g.pick([0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1])
    if g.chance(0.7):
        y = g.op("Conv", y, g.normal(4, c, 3, 3), pads=pads)
    else:
        y = g.op("ConvTranspose", y, g.normal(c, 4, 2, 2))
    for _ in range(g.pick(1, 2, 3)):
        kind = g.pick("Mul", "Add", "Sub", "Div")
        other = per_channel(4)
        y = g.op(kind, y, other) if kind == "Div" or g.chance(0.7) else g.op(kind, other, y)
    if g.chance(0.4):
        g.op(
            "BatchNormalization",
            y,
            g.normal(4),
            g.normal(4),
            g.normal(4),
            g.const(g.rng.random(4) + 0.1, np.float32),
        )
