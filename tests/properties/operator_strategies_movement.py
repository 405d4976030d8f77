"""Cases of the operators that move, pick, count and reduce elements."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from operator_cases import OpCase
from operator_values import axes_of, axis_of, dims, finite, numbers, shapes, some

STRATEGIES: dict[str, st.SearchStrategy[OpCase]] = {}
Draw = Any
KINDS = (np.float32, np.float16, np.int64, np.int32, np.uint8, np.bool_)
EXTREME = (-(2**63), -(2**31), -5, -2, -1, 0, 1, 2, 3, 7, 2**31, 2**63 - 1)


def case(name: str) -> Callable[[Callable[[Draw], OpCase]], Callable[[Draw], OpCase]]:
    """Register the decorated function, which draws a case of operator `name`."""

    def register(function: Callable[[Draw], OpCase]) -> Callable[[Draw], OpCase]:
        STRATEGIES[name] = st.composite(function)()
        return function

    return register


def data(
    draw: Draw, least: int = 0, most: int = 4, kinds: tuple[Any, ...] = KINDS, low: int = 0
) -> np.ndarray:
    """An operand of any of the kinds."""
    return numbers(draw, draw(shapes(least, most, low)), draw(st.sampled_from(kinds)))


def ints(*values: Any) -> np.ndarray:
    return np.array(values, np.int64)


@case("Slice")
def slice_(draw: Draw) -> OpCase:
    x = data(draw, 1)
    axes = axes_of(draw, x.ndim, 1)
    starts, ends = ([draw(st.sampled_from(EXTREME)) for _ in axes] for _ in range(2))
    steps = [draw(st.sampled_from((1, 2, -1, -2, 3, 2**40, -(2**40)))) for _ in axes]
    inputs = {
        "x": x,
        "starts": ints(*starts),
        "ends": ints(*ends),
        "axes": ints(*axes),
        "steps": ints(*steps),
    }
    if draw(st.booleans()):
        inputs["steps"] = None
    return OpCase("Slice", inputs, constant=("starts", "ends", "axes", "steps"))


@case("Pad")
def pad(draw: Draw) -> OpCase:
    x = data(draw, 1, low=1, kinds=(np.float32, np.int64, np.bool_, np.int32))
    mode = draw(st.sampled_from(("constant", "reflect", "edge", "wrap")))
    axes = axes_of(draw, x.ndim, 1) if draw(st.booleans()) else None
    count = x.ndim if axes is None else len(axes)
    sizes = [x.shape[a] for a in (range(x.ndim) if axes is None else axes)]
    # Reflection needs as many elements as it shows; what wraps beyond one turn has no agreed answer.
    most = {"constant": 3, "edge": 3, "reflect": 0, "wrap": 0}[mode]
    pairs = []
    for size in sizes:
        limit = most or (size - 1 if mode == "reflect" else size)
        before = draw(st.integers(-(size // 2) if mode == "constant" else 0, limit))
        after = draw(st.integers(-(size // 2) if mode == "constant" else 0, limit))
        pairs.append((before, after))
    pads = ints(*[a for a, _ in pairs], *[b for _, b in pairs])
    value = numbers(draw, (), x.dtype) if mode == "constant" and draw(st.booleans()) else None
    inputs = {"x": x, "pads": pads, "value": value, "axes": None if axes is None else ints(*axes)}
    assert len(pads) == 2 * count
    return OpCase("Pad", inputs, {"mode": mode}, constant=("pads", "axes"))


@case("Concat")
def concat(draw: Draw) -> OpCase:
    first = data(draw, 1)
    axis = axis_of(draw, first.ndim)
    inputs = {"x0": first}
    for i in range(1, draw(st.integers(1, 4))):
        shape = list(first.shape)
        shape[axis] = draw(dims())
        inputs[f"x{i}"] = numbers(draw, tuple(shape), first.dtype)
    return OpCase("Concat", inputs, {"axis": axis})


@case("Split")
def split(draw: Draw) -> OpCase:
    x = data(draw, 1)
    axis = axis_of(draw, x.ndim)
    size = x.shape[axis]
    if draw(st.booleans()):
        parts = draw(st.integers(1, 4))
        cuts = sorted(draw(st.integers(0, size)) for _ in range(parts - 1))
        sizes = np.diff([0, *cuts, size])
        return OpCase("Split", {"x": x, "split": ints(*sizes)}, {"axis": axis}, parts, constant=("split",))
    parts = draw(st.integers(1, max(size, 1)))
    chunk = -(-size // parts)
    if chunk * (parts - 1) > size:  # the last part would be less than empty
        parts = 1
    return OpCase("Split", {"x": x}, {"axis": axis, "num_outputs": parts}, parts)


@case("Reshape")
def reshape(draw: Draw) -> OpCase:
    x = data(draw)
    shape = list(draw(st.permutations([*x.shape, 1]) if x.size else st.just(list(x.shape))))
    attributes = {}
    if x.size and draw(st.booleans()) and shape:
        shape[draw(st.integers(0, len(shape) - 1))] = -1
    elif x.shape and draw(st.booleans()):
        shape = [0, *x.shape[1:]]
        if 0 in x.shape:
            attributes = {"allowzero": 1}
            shape = list(x.shape)
    if 0 in shape and 0 in x.shape:
        attributes = {"allowzero": 1}
    return OpCase("Reshape", {"x": x, "shape": ints(*shape)}, attributes, constant=("shape",))


@case("Transpose")
def transpose(draw: Draw) -> OpCase:
    x = data(draw)
    return OpCase("Transpose", {"x": x}, some(draw, perm=list(draw(st.permutations(range(x.ndim)))) or None))


@case("Expand")
def expand(draw: Draw) -> OpCase:
    shape = draw(shapes())
    x = numbers(draw, tuple(1 if draw(st.booleans()) else d for d in shape), np.float32)
    target = [1 if draw(st.booleans()) and x.shape[i] == d else d for i, d in enumerate(shape)]
    extra = [draw(dims(0, 3))] if draw(st.booleans()) else []
    return OpCase("Expand", {"x": x, "shape": ints(*extra, *target)}, constant=("shape",))


@case("Tile")
def tile(draw: Draw) -> OpCase:
    x = data(draw, 1)
    return OpCase(
        "Tile", {"x": x, "repeats": ints(*[draw(dims(0, 3)) for _ in x.shape])}, constant=("repeats",)
    )


@case("Squeeze")
def squeeze(draw: Draw) -> OpCase:
    x = data(draw)
    ones = [a for a, d in enumerate(x.shape) if d == 1]
    axes = [a - x.ndim if draw(st.booleans()) else a for a in ones if draw(st.booleans())]
    given = ints(*axes) if draw(st.booleans()) else None
    return OpCase("Squeeze", {"x": x, "axes": given}, constant=("axes",))


@case("Unsqueeze")
def unsqueeze(draw: Draw) -> OpCase:
    x = data(draw, 0, 3)
    count = draw(st.integers(1, 2))
    places = draw(st.permutations(range(x.ndim + count)))[:count]
    axes = [a - x.ndim - count if draw(st.booleans()) else a for a in places]
    return OpCase("Unsqueeze", {"x": x, "axes": ints(*axes)}, constant=("axes",))


@case("Flatten")
def flatten(draw: Draw) -> OpCase:
    x = data(draw, 1)
    return OpCase("Flatten", {"x": x}, some(draw, axis=draw(st.integers(-x.ndim, x.ndim))))


def indices(draw: Draw, shape: tuple[int, ...], size: int) -> np.ndarray:
    """Indices into an axis of `size`, negative ones included."""
    generator = np.random.default_rng(draw(st.integers(0, 2**20)))
    dtype = draw(st.sampled_from((np.int64, np.int32)))
    return np.asarray(generator.integers(-size, size, shape) if size else np.zeros(shape)).astype(dtype)


@case("Gather")
def gather(draw: Draw) -> OpCase:
    x = data(draw, 1)
    axis = axis_of(draw, x.ndim)
    shape = draw(shapes(0, 2)) if x.shape[axis] else (0, draw(dims()))
    return OpCase("Gather", {"x": x, "i": indices(draw, shape, x.shape[axis])}, {"axis": axis})


@case("GatherElements")
def gather_elements(draw: Draw) -> OpCase:
    x = data(draw, 1)
    axis = axis_of(draw, x.ndim)
    shape = [draw(st.integers(0, d)) for d in x.shape]
    shape[axis] = draw(dims()) if x.shape[axis] else 0
    return OpCase("GatherElements", {"x": x, "i": indices(draw, tuple(shape), x.shape[axis])}, {"axis": axis})


def positions(draw: Draw, shape: tuple[int, ...], sizes: tuple[int, ...]) -> np.ndarray:
    """Index vectors [*shape, len(sizes)] into axes of `sizes`."""
    columns = [indices(draw, shape, size).astype(np.int64) for size in sizes]
    return np.stack(columns, -1) if columns else np.zeros((*shape, 0), np.int64)


@case("GatherND")
def gather_nd(draw: Draw) -> OpCase:
    x = data(draw, 1, low=1)
    batch = draw(st.integers(0, x.ndim - 1))
    depth = draw(st.integers(1, x.ndim - batch))
    shape = (*x.shape[:batch], *draw(shapes(0, 2, 1)))
    i = positions(draw, shape, x.shape[batch : batch + depth])
    return OpCase("GatherND", {"x": x, "i": i}, {"batch_dims": batch})


@case("ScatterElements")
def scatter_elements(draw: Draw) -> OpCase:
    x = data(draw, 1, low=1, kinds=(np.float32, np.int64, np.int32))
    axis = axis_of(draw, x.ndim)
    reduction = draw(st.sampled_from(("none", "add", "mul", "max", "min")))
    shape = [draw(st.integers(0, d)) for d in x.shape]
    i = indices(draw, tuple(shape), x.shape[axis])
    if reduction == "none":  # the order of what is written twice is not defined
        places = np.arange(shape[axis]).reshape([-1 if a == axis % x.ndim else 1 for a in range(x.ndim)])
        i = np.broadcast_to(places, shape).astype(np.int64) - draw(st.sampled_from((0, x.shape[axis])))
    updates = numbers(draw, tuple(shape), x.dtype, edges=reduction in ("none", "max", "min"))
    return OpCase(
        "ScatterElements", {"x": x, "i": i, "u": updates}, {"axis": axis, "reduction": reduction}, scaled=True
    )


@case("ScatterND")
def scatter_nd(draw: Draw) -> OpCase:
    x = data(draw, 1, 3, low=1, kinds=(np.float32, np.int64, np.int32))
    reduction = draw(st.sampled_from(("none", "add", "mul", "max", "min")))
    depth = draw(st.integers(1, x.ndim))
    count = draw(st.integers(0, 3))
    i = positions(draw, (count,), x.shape[:depth])
    if reduction == "none":
        i = np.unique(np.where(i < 0, i + np.array(x.shape[:depth]), i), axis=0)
        i = i - np.array(x.shape[:depth]) * draw(st.integers(0, 1))
    updates = numbers(draw, (len(i), *x.shape[depth:]), x.dtype, edges=reduction in ("none", "max", "min"))
    return OpCase("ScatterND", {"x": x, "i": i, "u": updates}, {"reduction": reduction}, scaled=True)


@case("TopK")
def top_k(draw: Draw) -> OpCase:
    kinds = (np.float32, np.int64, np.int32)
    x = numbers(draw, draw(shapes(1, 3, 1)), draw(st.sampled_from(kinds)), edges=False, scale=2.0)
    if draw(st.booleans()):
        x = np.trunc(x)  # ties: the lower index comes first
    axis = axis_of(draw, x.ndim)
    attributes = {"axis": axis, "largest": draw(st.integers(0, 1)), "sorted": 1}
    k = ints(draw(st.integers(0, x.shape[axis])))
    return OpCase("TopK", {"x": x, "k": k}, attributes, 2, constant=("k",))


def cumulative(op_type: str, opset: int) -> None:
    def draw_case(draw: Draw) -> OpCase:
        x = data(draw, 1, kinds=(np.float32, np.float64, np.int32, np.int64))
        axis = np.array(axis_of(draw, x.ndim), draw(st.sampled_from((np.int32, np.int64))))
        attributes = some(draw, exclusive=1, reverse=1)
        return OpCase(
            op_type, {"x": x, "axis": axis}, attributes, opset=opset, constant=("axis",), scaled=True
        )

    case(op_type)(draw_case)


cumulative("CumSum", 21)
cumulative("CumProd", 26)


def reduction(op_type: str, kinds: tuple[Any, ...], *, empty: bool = True, opset: int = 20) -> None:
    def draw_case(draw: Draw) -> OpCase:
        dtype = draw(st.sampled_from(kinds))
        shape = draw(shapes(0, 4, 0 if empty else 1))
        edges = op_type in ("ReduceMax", "ReduceMin", "ReduceSum")
        x = numbers(draw, shape, dtype, edges=edges)
        if np.dtype(dtype).kind in "iu" and op_type == "ReduceMean":
            x = np.abs(x)  # whether a negative quotient is cut or floored is not said
        if op_type == "ReduceLogSum":
            x = np.abs(x)
        axes = ints(*axes_of(draw, x.ndim)) if draw(st.booleans()) else None
        attributes = some(
            draw, keepdims=draw(st.integers(0, 1)), noop_with_empty_axes=draw(st.integers(0, 1))
        )
        return OpCase(
            op_type, {"x": x, "axes": axes}, attributes, opset=opset, constant=("axes",), scaled=True
        )

    case(op_type)(draw_case)


for name in "ReduceL1 ReduceL2 ReduceSum ReduceSumSquare ReduceProd".split():
    reduction(name, (np.float32, np.float64, np.int32, np.int64))
for name in ("ReduceLogSum", "ReduceLogSumExp"):
    reduction(name, (np.float32, np.float64))
reduction("ReduceMean", (np.float32, np.float64, np.float16, np.int32), empty=False)
for name in ("ReduceMax", "ReduceMin"):
    reduction(name, (np.float32, np.float64, np.int32, np.int64, np.int8, np.uint8, np.bool_))


def arg(op_type: str) -> None:
    def draw_case(draw: Draw) -> OpCase:
        dtype = draw(st.sampled_from((np.float32, np.float64, np.int32, np.int8)))
        x = numbers(draw, draw(shapes(1, 3, 1)), dtype, edges=False, scale=2.0)
        if draw(st.booleans()):
            x = np.trunc(x)
        attributes = some(
            draw,
            axis=axis_of(draw, x.ndim),
            keepdims=draw(st.integers(0, 1)),
            select_last_index=draw(st.integers(0, 1)),
        )
        return OpCase(op_type, {"x": x}, attributes)

    case(op_type)(draw_case)


arg("ArgMax")
arg("ArgMin")


@case("Trilu")
def trilu(draw: Draw) -> OpCase:
    x = data(draw, 2)
    k = np.array(draw(st.integers(-6, 6))) if draw(st.booleans()) else None
    return OpCase("Trilu", {"x": x, "k": k}, some(draw, upper=draw(st.integers(0, 1))))


def blocks(op_type: str) -> None:
    def draw_case(draw: Draw) -> OpCase:
        size = draw(st.integers(1, 3))
        n, c, h, w = (draw(dims(1, 3)) for _ in range(4))
        deep = op_type == "DepthToSpace"
        shape = (n, c * size * size, h, w) if deep else (n, c, h * size, w * size)
        attributes = {
            "blocksize": size,
            **(some(draw, mode=draw(st.sampled_from(("DCR", "CRD")))) if deep else {}),
        }
        return OpCase(op_type, {"x": numbers(draw, shape, np.float32)}, attributes)

    case(op_type)(draw_case)


blocks("DepthToSpace")
blocks("SpaceToDepth")


@case("OneHot")
def one_hot(draw: Draw) -> OpCase:
    depth = draw(st.integers(1, 5))
    generator = np.random.default_rng(draw(st.integers(0, 999)))
    shape = draw(shapes(0, 3))
    i = np.asarray(generator.integers(-depth - 2, depth + 2, shape)).astype(
        draw(st.sampled_from((np.int64, np.int32, np.float32)))
    )
    values = finite(draw, (2,), draw(st.sampled_from((np.float32, np.int64, np.int32))))
    attributes = some(draw, axis=axis_of(draw, len(shape) + 1))
    return OpCase(
        "OneHot", {"i": i, "depth": np.array(depth), "values": values}, attributes, constant=("depth",)
    )


@case("EyeLike")
def eye_like(draw: Draw) -> OpCase:
    x = numbers(draw, (draw(dims()), draw(dims())), draw(st.sampled_from((np.float32, np.int32, np.int64))))
    return OpCase(
        "EyeLike",
        {"x": x},
        some(draw, k=draw(st.integers(-5, 5)), dtype=draw(st.sampled_from((1, 6, 7, 11)))),
    )


@case("Range")
def range_(draw: Draw) -> OpCase:
    dtype = draw(st.sampled_from((np.float32, np.float64, np.int32, np.int64, np.int16)))
    step = draw(st.sampled_from((1, 2, 3, -1, -2, 5)))
    scale = draw(st.sampled_from((1, 0.1, 0.5))) if np.dtype(dtype).kind == "f" else 1
    values = (draw(st.integers(-8, 8)), draw(st.integers(-8, 8)), step)
    inputs = {k: np.array(v * scale, dtype) for k, v in zip(("start", "limit", "delta"), values, strict=True)}
    return OpCase("Range", inputs, scaled=True)


@case("ConstantOfShape")
def constant_of_shape(draw: Draw) -> OpCase:
    import onnx

    value = finite(draw, (1,), draw(st.sampled_from((np.float32, np.int64, np.uint8, np.float16))))
    return OpCase(
        "ConstantOfShape",
        {"shape": ints(*draw(shapes()))},
        some(draw, value=onnx.numpy_helper.from_array(value)),
    )


@case("ReverseSequence")
def reverse_sequence(draw: Draw) -> OpCase:
    x = data(draw, 2, 4, low=1)
    time = draw(st.integers(0, 1))
    lengths = [draw(st.integers(1, x.shape[time])) for _ in range(x.shape[1 - time])]
    attributes = {"time_axis": time, "batch_axis": 1 - time}
    return OpCase("ReverseSequence", {"x": x, "lens": ints(*lengths)}, attributes)


@case("CenterCropPad")
def center_crop_pad(draw: Draw) -> OpCase:
    x = data(draw, 1, low=1, kinds=(np.float32, np.int64))
    axes = axes_of(draw, x.ndim, 1) if draw(st.booleans()) else None
    shape = ints(*[draw(dims(1, 7)) for _ in (axes or x.shape)])
    return OpCase(
        "CenterCropPad", {"x": x, "shape": shape}, {} if axes is None else {"axes": axes}, constant=("shape",)
    )


@case("TensorScatter")
def tensor_scatter(draw: Draw) -> OpCase:
    shape = draw(shapes(3, 4, 1))
    axis = draw(st.integers(1, len(shape) - 1))
    mode = draw(st.sampled_from(("linear", "circular")))
    update = list(shape)
    update[axis] = draw(st.integers(1, shape[axis]))
    room = shape[axis] - update[axis] if mode == "linear" else shape[axis] - 1
    starts = ints(*[draw(st.integers(0, room)) for _ in range(shape[0])]) if draw(st.booleans()) else None
    inputs = {
        "past": numbers(draw, shape, np.float32),
        "update": numbers(draw, tuple(update), np.float32),
        "starts": starts,
    }
    return OpCase(
        "TensorScatter",
        inputs,
        {"axis": draw(st.sampled_from((axis, axis - len(shape)))), "mode": mode},
        opset=24,
    )


@case("Compress")
def compress(draw: Draw) -> OpCase:
    x = data(draw, 1, low=1)
    axis = axis_of(draw, x.ndim) if draw(st.booleans()) else None
    size = math.prod(x.shape) if axis is None else x.shape[axis]
    condition = numbers(draw, (draw(st.integers(0, size)),), np.bool_)
    return OpCase(
        "Compress", {"x": x, "c": condition}, {} if axis is None else {"axis": axis}, constant=("c",)
    )


@case("NonZero")
def non_zero(draw: Draw) -> OpCase:
    return OpCase("NonZero", {"x": data(draw, 1, kinds=(np.float32, np.int64, np.bool_))}, constant=("x",))
