"""What `exporter_graphs` grows graphs from: each function adds one idiom of an exporter, or an odd relative."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from exporter_graphs import Grower
from onnx import TensorProto, helper

STEPS: list[Callable[[Grower], None]] = []
INT_MAX, INT_MIN = 2**63 - 1, -(2**63)


def step(function: Callable[[Grower], None]) -> Callable[[Grower], None]:
    """Register an idiom."""
    STEPS.append(function)
    return function


@step
def elementwise(g: Grower) -> None:
    x = g.value("w")
    g.op(g.pick("Relu", "Neg", "Abs", "Sigmoid", "Tanh", "Identity", "Sqrt", "Exp", "Erf", "Softplus", "Elu",
                "LeakyRelu", "Reciprocal", "Floor", "Round", "Sign", "HardSigmoid", "Selu", "Cos"), x)  # fmt: skip


@step
def binary(g: Grower) -> None:
    x = g.value("wn")
    same = [v for v in g.values if g.arrays[v].dtype == g.arrays[x].dtype]
    g.op(g.pick("Add", "Sub", "Mul", "Max", "Min"), x, g.pick(*same))


@step
def with_constant(g: Grower) -> None:
    x = g.value("wn")
    dtype = g.arrays[x].dtype
    number = (
        g.pick(0, 1, 2, 3, -1)
        if dtype.kind in "iu"
        else g.pick(0.0, -0.0, 1.0, 0.5, -1.5, np.nan, np.inf, -np.inf)
    )
    if not np.isfinite(number) and g.chance(0.7):
        number = 2.0
    g.need(dtype.kind != "u" or number >= 0)
    shape = g.pick(
        (), (1,), (1,) * g.arrays[x].ndim, g.shape(x)[-1:], (1,) * (g.arrays[x].ndim + 1), g.shape(x)
    )
    kinds = (
        ["Add", "Sub", "Mul", "Max", "Min"]
        + (["Div"] if number else [])
        + (["Pow"] if number in (1, 2, 3) else [])
    )
    kind = g.pick(*kinds)
    pair = (x, g.const(np.full(shape, number), dtype))
    g.op(kind, *(pair if kind in ("Div", "Pow") or g.chance(0.6) else pair[::-1]))


@step
def casts(g: Grower) -> None:
    x = g.value("wnb")
    for _ in range(g.pick(1, 2, 3)):
        to = g.pick(TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.INT32,
                    TensorProto.BOOL, TensorProto.UINT8, TensorProto.INT8, TensorProto.FLOAT)  # fmt: skip
        kept = helper.tensor_dtype_to_np_dtype(to)
        array = g.arrays[x]
        if kept.kind in "iu":  # outside the range the result is undefined
            g.need(np.isfinite(array).all() and array.size)
            g.need(np.all(np.abs(array) < 100) and (kept.kind == "i" or np.all(array >= 0)))
        x = g.op("Cast", x, to=to)


@step
def gemm(g: Grower) -> None:
    x = g.value("f", rank=2, full=True)  # over no elements ONNX Runtime forgets beta
    trans_a, trans_b, n = g.pick(0, 0, 1), g.pick(0, 1), g.pick(1, 3, 4)
    m, k = g.shape(x)[::-1] if trans_a else g.shape(x)
    bias = g.pick(None, (), (1,), (n,), (1, n), (m, 1), (m, n))
    weight = g.normal(*((n, k) if trans_b else (k, n)))
    inputs = [x, weight] + ([g.normal(*bias)] if bias is not None else [])
    alpha, beta = g.pick(1.0, 1.0, 0.5), g.pick(1.0, 1.0, 2.0)
    y = g.op("Gemm", *inputs, transA=trans_a, transB=trans_b, alpha=alpha, beta=beta)
    if g.chance(0.5):
        batch_norm(g, y)
    elif g.chance(0.5):
        y = g.commute("Add", y, g.normal(*g.pick((n,), (1, n), (m, 1), (m, n))))
        if g.chance(0.5):
            g.op("Mul", y, g.normal(n))


def batch_norm(g: Grower, x: str) -> str:
    c = g.shape(x)[1]
    operands = [g.normal(c) for _ in range(3)] + [g.const(g.rng.random(c) + 0.5, np.float32)]
    return str(g.op("BatchNormalization", x, *operands, epsilon=g.pick(1e-5, 1e-3)))


@step
def matmul(g: Grower) -> None:
    x = g.value("f", minimum=1)
    k, n = g.shape(x)[-1], g.pick(1, 2, 5)
    y = g.op("MatMul", x, g.normal(*g.pick((k, n), (k, n), (k,), (2, k, n))))
    for _ in range(g.pick(0, 1, 2)):
        width = g.shape(y)[-1:] if g.shape(y) else ()
        y = g.commute(g.pick("Add", "Mul", "Sub", "Add"), y, g.normal(*g.pick((), width, (1, *width), (1,))))


@step
def convolution(g: Grower) -> None:
    x = g.value("f", minimum=3, full=True)
    shape = g.shape(x)
    spatial = len(shape) - 2
    if g.chance(0.4):
        pads = [0, 0] + [g.pick(0, 1, 2) for _ in range(spatial)]
        pads = pads + [g.pick(0, 0, 1) if i < 2 and g.chance(0.1) else p for i, p in enumerate(pads)]
        mode = g.pick("constant", "constant", "edge", "reflect")
        number = (
            [g.const(g.pick(0.0, 0.0, 1.0, -np.inf), np.float32)]
            if mode == "constant" and g.chance(0.5)
            else []
        )
        x = g.op("Pad", x, g.ints(*pads), *number, mode=mode)
        shape = g.shape(x)
    if g.chance(0.3):
        pool(g, x)
        return
    extra: dict[str, Any] = g.pick(
        {}, {"strides": [2] * spatial}, {"dilations": [2] * spatial}, {"group": shape[1]}
    )
    where = g.pick({}, {"pads": [1, 0] * spatial}, {"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"},
                   {"auto_pad": "VALID"}, {"pads": [1] * (2 * spatial)})  # fmt: skip
    group, kernel, out = extra.get("group", 1), [g.pick(1, 2, 3) for _ in range(spatial)], g.pick(1, 2, 3)
    transposed = g.chance(0.3)
    if transposed:
        weight = g.normal(shape[1], out, *kernel)
    else:
        weight = g.normal(out * group, shape[1] // group, *kernel)
    bias = [g.normal(out * group)] if g.chance(0.5) else []
    y = g.op("ConvTranspose" if transposed else "Conv", x, weight, *bias, **extra, **where)
    c = g.shape(y)[1]
    tail = g.pick("bn", "bn", "add", "mul", "affine", "none")
    ones = [1] * spatial
    if tail == "bn":
        batch_norm(g, y)
    elif tail != "none":
        kinds = {"add": ["Add"], "mul": ["Mul"], "affine": ["Mul", "Add"]}[tail]
        for kind in kinds:
            y = g.commute(kind, y, g.normal(*g.pick((c, *ones), (1, c, *ones), (), (1, 1, *ones))))
    if g.chance(0.3):
        y = g.op("GlobalAveragePool", y)
        g.op(g.pick("Flatten", "Identity", "Relu"), y)


@step
def pool(g: Grower, x: str | None = None) -> None:
    x = g.value("f", minimum=3, full=True) if x is None else x
    spatial = g.arrays[x].ndim - 2
    g.need(min(g.shape(x)[2:]) >= 3)  # a window larger than its input has no size that all agree on
    attributes: dict[str, Any] = {"kernel_shape": [g.pick(1, 2, 3) for _ in range(spatial)]}
    attributes |= g.pick({}, {"strides": [2] * spatial}, {"ceil_mode": 1, "strides": [2] * spatial})
    attributes |= g.pick({}, {"auto_pad": "SAME_UPPER"}, {"pads": [0, 0] * spatial})
    if g.chance(0.5):
        g.op("MaxPool", x, **attributes)
    else:
        g.op("AveragePool", x, **attributes, count_include_pad=g.pick(0, 1))


@step
def layer_norm(g: Grower) -> None:
    x = g.value("f", minimum=1, full=True)
    axes = [-1] if g.chance(0.8) or g.arrays[x].ndim < 2 else g.pick([-2, -1], [g.arrays[x].ndim - 1], [-2])
    width = g.shape(x)[-1]
    rms = g.chance(0.3)
    centred = x if rms else g.op("Sub", x, g.reduce("ReduceMean", x, axes))
    power = g.pick(2.0, 2.0, 2.0, 3.0)
    square = g.op("Mul", centred, centred) if g.chance(0.4) else g.op("Pow", centred, g.scalar(x, power))
    second = g.pick(axes, axes, axes, [-1])
    variance = g.reduce(g.pick("ReduceMean", "ReduceMean", "ReduceMean", "ReduceSum"), square, second)
    root = g.op("Sqrt", g.commute("Add", variance, g.scalar(x, g.pick(1e-5, 1e-12, 0.1))))
    if g.chance(0.6):
        y = g.op("Div", centred, root)
    elif g.chance(0.5):
        y = g.commute("Mul", centred, g.op("Reciprocal", root))
    else:
        y = g.commute("Mul", centred, g.op("Div", g.scalar(x, g.pick(1.0, 1.0, 2.0)), root))
    if g.chance(0.7):
        y = g.commute("Mul", y, g.normal(*g.pick((width,), (1, width), (), (1,))))
        if g.chance(0.8):
            g.commute("Add", y, g.normal(*g.pick((width,), (1, 1, width), (), (1,))))


@step
def gelu(g: Grower) -> None:
    x = g.value("f")
    half, one = g.scalar(x, g.pick(0.5, 0.5, 0.5, 0.51)), g.scalar(x, g.pick(1.0, 1.0, 1.0, 1.01))
    if g.chance(0.5):
        if g.chance(0.5):
            inner = g.op("Div", x, g.scalar(x, g.pick(np.sqrt(2), np.sqrt(2), 1.4)))
        else:
            inner = g.commute("Mul", x, g.scalar(x, np.sqrt(0.5)))
        gate = g.commute("Add", g.op("Erf", inner), one)
    else:
        cube = g.op("Pow", x, g.scalar(x, 3.0)) if g.chance(0.5) else g.commute("Mul", g.op("Mul", x, x), x)
        scaled = g.commute("Mul", cube, g.scalar(x, g.pick(0.044715, 0.044715, 0.05)))
        inner = g.commute("Mul", g.commute("Add", x, scaled), g.scalar(x, np.sqrt(2 / np.pi)))
        gate = g.commute("Add", g.op("Tanh", inner), one)
    order = g.pick(0, 1, 2)
    if order == 0:
        g.commute("Mul", g.commute("Mul", x, gate), half)
    elif order == 1:
        g.commute("Mul", g.commute("Mul", x, half), gate)
    else:
        g.commute("Mul", x, g.commute("Mul", gate, half))


@step
def hard_swish(g: Grower) -> None:
    x = g.value("f")
    shifted = g.commute("Add", x, g.scalar(x, g.pick(3.0, 3.0, 2.5)))
    low, high = g.const(np.float32(0)), g.const(np.float32(g.pick(6.0, 6.0, 5.0)))
    clipped = g.op("Clip", shifted, low, high) if g.chance(0.6) else g.op("Min", g.op("Relu", shifted), high)
    if g.chance(0.5):
        g.op("Div", g.commute("Mul", x, clipped), g.scalar(x, 6.0))
    else:
        g.commute("Mul", x, g.op("Div", clipped, g.scalar(x, 6.0)))


@step
def attention(g: Grower) -> None:
    x = g.value("f", rank=3, full=True)
    width, heads = g.shape(x)[-1], g.pick(1, 2)
    batch_one = g.pick(0, 0, -1)
    projected = []
    for _ in range(3):
        y = g.op("MatMul", x, g.normal(width, 4))
        y = g.commute("Add", y, g.normal(4)) if g.chance(0.5) else y
        y = g.op("Reshape", y, g.ints(batch_one, 0 if batch_one == 0 else g.shape(x)[1], heads, 4 // heads))
        projected.append(g.op("Transpose", y, perm=[0, 2, 1, 3]))
    q, k, v = projected
    scores = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2]))
    scores = g.op(g.pick("Div", "Mul"), scores, g.scalar(x, np.sqrt(4 / heads)))
    if g.chance(0.6):
        size = g.shape(x)[1]
        low = g.pick(-np.inf, -3.4e38, float(np.finfo(np.float32).min), -1e4)
        mask = np.triu(np.full((1, 1, size, size), 1.0), 1) > 0
        if g.chance(0.5):
            scores = g.op("Where", g.const(mask), g.const(np.float32(low)), scores)
        else:
            scores = g.op("Add", scores, g.const(np.where(mask, low, 0), np.float32))
    y = g.op("MatMul", g.op("Softmax", scores, axis=g.pick(-1, 3)), v)
    y = g.op("Transpose", y, perm=[0, 2, 1, 3])
    g.op("Reshape", y, g.ints(0, 0, -1))


@step
def mask_tower(g: Grower) -> None:
    x = g.value("inf", minimum=1)
    shape = g.op("Shape", x)
    if g.chance(0.5):
        filled = g.op(
            "ConstantOfShape",
            shape,
            value=helper.make_tensor("v", TensorProto.INT64, [1], [g.pick(0, 1, -1)]),
        )
        shape = g.op("Where", g.op("Equal", shape, g.const(np.array(-1))), filled, shape)
    zero = g.const(np.zeros((), g.arrays[x].dtype))
    test = g.op(g.pick("Equal", "Greater", "Less"), x, zero)
    test = g.op("Expand", test, shape) if g.chance(0.6) else test
    test = g.op("Not", test) if g.chance(0.3) else test
    mask = g.op("Cast", test, to=TensorProto.FLOAT)
    mask = g.commute(
        "Mul", g.op("Sub", g.const(np.float32(1)), mask), g.const(np.float32(g.pick(-1e4, -3e5)))
    )
    if g.chance(0.4):
        g.op("Tile", mask, g.ints(*[g.pick(1, 1, 2, 0 if g.chance(0.1) else 1) for _ in g.shape(mask)]))


@step
def slices(g: Grower) -> None:
    x = g.value("winb", minimum=1)
    for _ in range(g.pick(1, 2, 3)):
        rank = g.arrays[x].ndim
        axes = [int(a) for a in g.rng.permutation(rank)[: g.pick(1, 2)]]
        starts = [g.pick(0, 1, -1, -2, 5, INT_MIN, -100) for _ in axes]
        ends = [g.pick(INT_MAX, -1, 2, 1, 100, -100, INT_MIN, 2**31 - 1) for _ in axes]
        # Backward from INT_MAX means "to the end" to some runtimes, nothing to the specification.
        steps = [g.pick(1, 1, 2, -1, -2) if e < 2**31 - 1 else g.pick(1, 2) for e in ends]
        signed = [a - rank if g.chance(0.3) else a for a in axes]
        x = g.op("Slice", x, g.ints(*starts), g.ints(*ends), g.ints(*signed), g.ints(*steps))


@step
def split_uneven(g: Grower) -> None:
    x = g.value("win", minimum=1)
    axis = int(g.rng.integers(g.arrays[x].ndim))
    size = g.shape(x)[axis]
    first = int(g.rng.integers(0, size + 1))
    parts = [first, size - first]
    if g.opset < 13:
        outputs = g.op("Split", x, outputs=2, axis=axis, split=parts)
    elif g.opset >= 18 and g.chance(0.3):
        outputs = g.op("Split", x, outputs=2, axis=axis, num_outputs=2)
    else:
        outputs = g.op("Split", x, g.ints(*parts), outputs=2, axis=axis - g.arrays[x].ndim)
    if g.chance(0.5):
        g.op("Concat", *(outputs if g.chance(0.5) else outputs[::-1]), axis=axis)


@step
def reshapes(g: Grower) -> None:
    x = g.value("winb")
    for _ in range(g.pick(1, 2, 3, 4)):
        shape = g.shape(x)
        rank = len(shape)
        kind = g.pick("Reshape", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")
        if kind == "Reshape":
            total = int(np.prod(shape))
            first = g.pick(*[d for d in range(1, total + 1) if total % d == 0] or [0])
            target = g.pick(
                (first, -1), (-1,), (0, -1), (0, 0, -1), (-1, first), (1, *shape), shape, (0,) * rank, (-1, 1)
            )
            extra = {"allowzero": 1} if g.opset >= 14 and g.chance(0.2) else {}
            x = g.op("Reshape", x, g.ints(*target), **extra)
        elif kind == "Flatten":
            x = g.op("Flatten", x, axis=int(g.rng.integers(-rank, rank + 1)))
        elif kind == "Unsqueeze" and rank < 5:
            x = g.axes_op("Unsqueeze", x, [int(g.rng.integers(-rank - 1, rank + 1))], 13)
        elif kind == "Squeeze":
            ones = [i - rank if g.chance(0.5) else i for i, d in enumerate(shape) if d == 1]
            x = g.axes_op("Squeeze", x, ones[:1], 13) if ones and g.chance(0.7) else g.op("Squeeze", x)
        elif kind == "Transpose":
            perm = [int(i) for i in g.rng.permutation(rank)]
            x = g.op("Transpose", x, **({"perm": perm} if perm and g.chance(0.8) else {}))


@step
def reshape_by_shape(g: Grower) -> None:
    x = g.value("wi", minimum=2, full=True)
    shape = g.op("Shape", x)
    index = g.pick(0, 0, 1)
    if g.chance(0.5):
        first = g.axes_op("Unsqueeze", g.op("Gather", shape, g.const(np.array(index))), [0], 13)
    else:
        first = g.op("Slice", shape, g.ints(index), g.ints(index + 1), g.ints(0))
    if g.chance(0.3):
        first = g.op("Mul", first, g.ints(1))
    parts = [first, g.ints(-1)] if g.chance(0.7) else [g.ints(-1), first]
    y = g.op("Reshape", x, g.op("Concat", *parts, axis=0))
    if g.chance(0.4):
        g.op("Reshape", g.op("Relu", y) if g.arrays[y].dtype.kind == "f" else y, shape)


@step
def reduction(g: Grower) -> None:
    x = g.value("f", minimum=1)
    kind = g.pick("ReduceSum", "ReduceMean", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp", "ReduceProd")
    g.need(g.arrays[x].size or kind == "ReduceSum")
    g.reduce(kind, x, [int(g.rng.integers(-g.arrays[x].ndim, g.arrays[x].ndim))], g.pick(0, 1))


@step
def softmax(g: Grower) -> None:
    x = g.value("w", minimum=1, full=True)
    axis = {"axis": int(g.rng.integers(-g.arrays[x].ndim, g.arrays[x].ndim))} if g.chance(0.7) else {}
    g.op(g.pick("Softmax", "LogSoftmax"), x, **axis)


@step
def twins(g: Grower) -> None:
    """The same node again: a duplicate that common-subexpression elimination finds."""
    g.need(g.nodes)
    old = g.nodes[int(g.rng.integers(len(g.nodes)))]
    g.need(old.op_type not in ("Constant", "If", "Loop", "Scan"))
    attributes = {a.name: helper.get_attribute_value(a) for a in old.attribute}
    copy = g.op(old.op_type, *old.input, outputs=len(old.output), domain=old.domain, **attributes)
    first = copy if isinstance(copy, str) else copy[0]
    if g.arrays[first].dtype.kind == "f":
        g.op(g.pick("Add", "Sub"), first, old.output[0])


def subgraph(
    name: str, nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[Any]
) -> onnx.GraphProto:
    return helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(*i) for i in inputs],
        [helper.make_tensor_value_info(*o) for o in outputs],
    )
