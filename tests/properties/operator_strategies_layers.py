"""Cases of the operators that models are made of: products, normalizations, recurrences, attention, quantization."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from operator_cases import OpCase
from operator_strategies_movement import Draw, case, ints
from operator_strategies_spatial import image
from operator_values import axis_of, broadcastable, dims, finite, numbers, shapes, some

PRODUCTS = (np.float32, np.float64, np.float16, np.int32, np.int64)


def scaled(*arguments: Any, **options: Any) -> OpCase:
    return OpCase(*arguments, scaled=True, **options)


@case("MatMul")
def matmul(draw: Draw) -> OpCase:
    dtype = draw(st.sampled_from(PRODUCTS))
    m, k, n = (draw(dims(0, 4)) for _ in range(3))
    batch = draw(shapes(0, 2, 1))
    a = (*broadcastable(draw, batch), m, k) if draw(st.integers(0, 4)) else (k,)
    b = (*broadcastable(draw, batch), k, n) if draw(st.integers(0, 4)) else (k,)
    return scaled("MatMul", {"a": finite(draw, a, dtype), "b": finite(draw, b, dtype)})


@case("Gemm")
def gemm(draw: Draw) -> OpCase:
    dtype = draw(st.sampled_from((np.float32, np.float64, np.float16)))
    m, k, n = (draw(dims(1, 4)) for _ in range(3))
    attributes = some(draw, alpha=0.3, beta=-1.5, transA=1, transB=1)
    a, b = ((k, m) if "transA" in attributes else (m, k)), ((n, k) if "transB" in attributes else (k, n))
    c = finite(draw, broadcastable(draw, (m, n)), dtype) if draw(st.booleans()) else None
    return scaled("Gemm", {"a": finite(draw, a, dtype), "b": finite(draw, b, dtype), "c": c}, attributes)


EQUATIONS = ("ij,jk->ik", "ij,jk", "bij,bjk->bik", "i,j->ij", "ii->i", "ii", "ij->ji", "ij->", "...ij,...jk->...ik", "bhid,bhjd->bhij", "ij,ij->i", "i,i,i->i", "ij , jk , kl -> il", "...ii->...i", "ba", "i...->...")  # fmt: skip


@case("Einsum")
def einsum(draw: Draw) -> OpCase:
    equation = draw(st.sampled_from(EQUATIONS))
    sizes = {letter: draw(dims(1, 3)) for letter in "abcdhijkl"}
    more = tuple(draw(dims(1, 3)) for _ in range(draw(st.integers(0, 2))))
    inputs = {}
    for i, term in enumerate(equation.replace(" ", "").split("->")[0].split(",")):
        before, dots, after = term.partition("...")
        shape = (*(sizes[c] for c in before), *(more if dots else ()), *(sizes[c] for c in after))
        inputs[f"x{i}"] = finite(draw, shape, np.float32)
    return scaled("Einsum", inputs, {"equation": equation})


@case("MatMulInteger")
def matmul_integer(draw: Draw) -> OpCase:
    kinds = [draw(st.sampled_from((np.uint8, np.int8))) for _ in range(2)]
    m, k, n = (draw(dims(1, 4)) for _ in range(3))
    a, b = numbers(draw, (*draw(shapes(0, 1, 1)), m, k), kinds[0]), numbers(draw, (k, n), kinds[1])
    column = draw(st.sampled_from(((), (n,))))
    zeros = (numbers(draw, (), kinds[0]), numbers(draw, column, kinds[1]))
    return OpCase(
        "MatMulInteger", {"a": a, "b": b, "az": zeros[0], "bz": zeros[1] if draw(st.booleans()) else None}
    )


@case("QLinearMatMul")
def qlinear_matmul(draw: Draw) -> OpCase:
    m, k, n = (draw(dims(1, 4)) for _ in range(3))
    kind = draw(st.sampled_from((np.uint8, np.int8)))
    column = draw(st.sampled_from(((), (n,))))

    def scale(shape: tuple[int, ...] = ()) -> np.ndarray:
        return np.abs(finite(draw, shape, scale=0.1)) + np.float32(0.0131)

    inputs = {
        "a": numbers(draw, (m, k), kind), "as": scale(), "az": numbers(draw, (), kind, edges=False), "b": numbers(draw, (k, n), kind),
        "bs": scale(column), "bz": numbers(draw, column, kind, edges=False), "ys": scale(), "yz": numbers(draw, (), kind, edges=False),
    }  # fmt: skip
    return OpCase("QLinearMatMul", inputs, steps=1)


def softmax(op_type: str) -> None:
    def draw_case(draw: Draw) -> OpCase:
        dtype = draw(st.sampled_from((np.float32, np.float64, np.float16)))
        x = finite(draw, draw(shapes(1, 4, 1)), dtype, scale=draw(st.sampled_from((1.0, 30.0))))
        return scaled(op_type, {"x": x}, some(draw, axis=axis_of(draw, x.ndim)))

    case(op_type)(draw_case)


for name in ("Softmax", "LogSoftmax", "Hardmax"):
    softmax(name)


@case("LayerNormalization")
def layer_normalization(draw: Draw) -> OpCase:
    x = finite(draw, draw(shapes(1, 4, 1)), draw(st.sampled_from((np.float32, np.float16))))
    axis = axis_of(draw, x.ndim)
    scale, b = (finite(draw, x.shape[axis:], x.dtype) for _ in range(2))
    attributes = {"axis": axis, **some(draw, epsilon=1e-2)}
    outputs = draw(st.integers(1, 3))
    return scaled(
        "LayerNormalization",
        {"x": x, "s": scale, "b": b if draw(st.booleans()) else None},
        attributes,
        outputs,
        opset=17,
    )


@case("RMSNormalization")
def rms_normalization(draw: Draw) -> OpCase:
    x = finite(draw, draw(shapes(1, 4, 1)), draw(st.sampled_from((np.float32, np.float16))))
    axis = axis_of(draw, x.ndim)
    return scaled(
        "RMSNormalization",
        {"x": x, "s": finite(draw, x.shape[axis:], x.dtype)},
        {"axis": axis, **some(draw, epsilon=1e-2)},
        opset=23,
    )


@case("GroupNormalization")
def group_normalization(draw: Draw) -> OpCase:
    groups, deep = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    x = finite(draw, image(draw, groups * deep, 2))
    scale, b = (finite(draw, (groups * deep,)) for _ in range(2))
    return scaled(
        "GroupNormalization", {"x": x, "s": scale, "b": b}, {"num_groups": groups, **some(draw, epsilon=1e-2)}
    )


@case("InstanceNormalization")
def instance_normalization(draw: Draw) -> OpCase:
    x = finite(draw, image(draw, 2, 2))
    return scaled(
        "InstanceNormalization",
        {"x": x, "s": finite(draw, (2,)), "b": finite(draw, (2,))},
        some(draw, epsilon=1e-2),
        opset=22,
    )


@case("BatchNormalization")
def batch_normalization(draw: Draw) -> OpCase:
    x = finite(draw, image(draw, 3, 3))
    scale, b, mean, var = (finite(draw, (3,)) for _ in range(4))
    training = draw(st.booleans())
    inputs = {"x": x, "s": scale, "b": b, "m": mean, "v": np.abs(var) + np.float32(0.1)}
    attributes = some(draw, epsilon=1e-2, momentum=0.7) | ({"training_mode": 1} if training else {})
    return scaled("BatchNormalization", inputs, attributes, 3 if training else 1, opset=15)


@case("LpNormalization")
def lp_normalization(draw: Draw) -> OpCase:
    x = finite(draw, draw(shapes(1, 4, 1)), draw(st.sampled_from((np.float32, np.float64))))
    return scaled(
        "LpNormalization",
        {"x": x},
        some(draw, axis=axis_of(draw, x.ndim), p=draw(st.integers(1, 2))),
        opset=22,
    )


@case("MeanVarianceNormalization")
def mean_variance_normalization(draw: Draw) -> OpCase:
    x = finite(draw, tuple(draw(dims(2, 4)) for _ in range(4)))
    return scaled(
        "MeanVarianceNormalization",
        {"x": x},
        some(draw, axes=draw(st.sampled_from(([0, 2, 3], [1], [-1, 0])))),
    )


@case("LRN")
def lrn(draw: Draw) -> OpCase:
    x = finite(draw, tuple(draw(dims(1, 4)) for _ in range(4)))
    return scaled(
        "LRN",
        {"x": x},
        {"size": draw(st.sampled_from((1, 3, 5))), **some(draw, alpha=0.2, beta=0.5, bias=2.0)},
    )


ACTIVATIONS = ("Sigmoid", "Tanh", "Relu", "Softsign", "HardSigmoid")


def recurrence(op_type: str, gates: int, functions: int) -> None:
    def draw_case(draw: Draw) -> OpCase:
        length, batch, width, hidden = (draw(dims(1, 3)) for _ in range(4))
        # Only the reference takes batches first, and of these only plain passes forward.
        layout = 0 if draw(st.integers(0, 3)) else 1
        direction = "forward" if layout else draw(st.sampled_from(("forward", "reverse", "bidirectional")))
        ways = 2 if direction == "bidirectional" else 1

        def given(*shape: int) -> np.ndarray | None:
            return finite(draw, shape) if draw(st.booleans()) else None

        def state() -> np.ndarray | None:
            return given(batch, ways, hidden) if layout else given(ways, batch, hidden)

        inputs: dict[str, Any] = {
            "x": finite(draw, (batch, length, width) if layout else (length, batch, width)),
            "w": finite(draw, (ways, gates * hidden, width)), "r": finite(draw, (ways, gates * hidden, hidden)),
            "b": given(ways, 2 * gates * hidden), "lens": None, "h": state(),
        }  # fmt: skip
        if draw(st.booleans()) and not layout:
            inputs["lens"] = np.array([draw(st.integers(1, length)) for _ in range(batch)], np.int32)
        attributes: dict[str, Any] = {"hidden_size": hidden, "direction": direction}
        attributes |= {"layout": 1} if layout else some(draw, clip=0.8)
        if not layout and draw(st.booleans()):
            attributes["activations"] = [draw(st.sampled_from(ACTIVATIONS)) for _ in range(functions * ways)]
        if op_type == "GRU":
            attributes |= some(draw, linear_before_reset=1)
        if op_type == "LSTM":
            inputs |= {"c": state(), "p": given(ways, 3 * hidden)}
            attributes |= {} if layout else some(draw, input_forget=1)
        return scaled(op_type, inputs, attributes, 3 if op_type == "LSTM" else 2, opset=22)

    case(op_type)(draw_case)


recurrence("RNN", 1, 1)
recurrence("GRU", 3, 2)
recurrence("LSTM", 4, 3)


@case("Attention")
def attention(draw: Draw) -> OpCase:
    batch, groups, shared, size, value_size = (
        2,
        draw(st.integers(1, 2)),
        draw(st.integers(1, 2)),
        draw(dims(1, 4)),
        draw(dims(1, 4)),
    )
    heads, length, keys = groups * shared, draw(dims(1, 3)), draw(dims(1, 4))
    attributes: dict[str, Any] = some(draw, is_causal=1, scale=0.4, softcap=0.7)
    past = draw(dims(1, 3)) if draw(st.booleans()) else 0
    flat = draw(st.booleans())

    def tokens(count: int, number: int, width: int) -> np.ndarray:
        return finite(draw, (batch, count, number * width) if flat else (batch, number, count, width))

    if flat:
        attributes |= {"q_num_heads": heads, "kv_num_heads": shared}
    total = keys + past
    mask = None
    if draw(st.booleans()):
        kind = draw(st.sampled_from((np.bool_, np.float32)))
        shape = draw(
            st.sampled_from(
                (
                    (length, total),
                    (1, length, total)[-2:],
                    (batch, 1, length, total),
                    (1, heads, length, total),
                )
            )
        )
        mask = numbers(draw, shape, kind, edges=False)
        if kind == np.bool_:
            mask[..., 0] = True
    inputs = {
        "q": tokens(length, heads, size), "k": tokens(keys, shared, size), "v": tokens(keys, shared, value_size), "mask": mask,
        "past_k": finite(draw, (batch, shared, past, size)) if past else None, "past_v": finite(draw, (batch, shared, past, value_size)) if past else None,
    }  # fmt: skip
    return scaled("Attention", inputs, attributes, 3 if past else 1, opset=23)


@case("RotaryEmbedding")
def rotary_embedding(draw: Draw) -> OpCase:
    heads, length, size = draw(dims(1, 3)), draw(dims(1, 3)), 2 * draw(dims(1, 4))
    flat = draw(st.booleans())
    x = finite(draw, (2, length, heads * size) if flat else (2, heads, length, size))
    attributes: dict[str, Any] = some(draw, interleaved=1)
    width = size
    if flat:
        attributes["num_heads"] = heads
    if size > 2 and draw(st.booleans()):
        width = attributes["rotary_embedding_dim"] = size - 2
    ids = (
        ints(*[[draw(st.integers(0, 4)) for _ in range(length)] for _ in range(2)])
        if draw(st.booleans())
        else None
    )
    cache = (5, width // 2) if ids is not None else (2, length, width // 2)
    return scaled(
        "RotaryEmbedding",
        {"x": x, "cos": finite(draw, cache), "sin": finite(draw, cache), "ids": ids},
        attributes,
        opset=23,
    )


QUANTIZED = (np.uint8, np.int8, np.uint16, np.int16, ml_dtypes.int4, ml_dtypes.uint4)


def parameters(draw: Draw, shape: tuple[int, ...]) -> tuple[tuple[int, ...], dict[str, Any]]:
    """The shape of scale and zero point for a tensor, by axis or by block."""
    form = draw(st.sampled_from(("tensor", "axis", "block")))
    if form == "tensor":
        return (), {}
    axis = axis_of(draw, len(shape))
    if form == "axis":
        return (shape[axis],), {"axis": axis}
    block = draw(st.integers(1, 3))
    blocks = list(shape)
    blocks[axis] = -(-shape[axis] // block)
    return tuple(blocks), {"axis": axis, "block_size": block}


@case("QuantizeLinear")
def quantize_linear(draw: Draw) -> OpCase:
    shape = draw(shapes(1, 3, 1))
    kind = draw(st.sampled_from(QUANTIZED))
    form, attributes = parameters(draw, shape)
    x = numbers(draw, shape, np.float32, scale=40.0)
    x = np.where(np.isnan(x), np.zeros_like(x), x)
    scale = np.abs(finite(draw, form)) + np.float32(0.3)
    zero = np.clip(finite(draw, form, scale=3.0), 0, 7).astype(kind) if draw(st.booleans()) else None
    if zero is None and draw(st.booleans()):
        import onnx

        attributes["output_dtype"] = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    return OpCase("QuantizeLinear", {"x": x, "s": scale, "z": zero}, attributes)


@case("DequantizeLinear")
def dequantize_linear(draw: Draw) -> OpCase:
    shape = draw(shapes(1, 3, 1))
    kind = draw(st.sampled_from((*QUANTIZED, np.int32)))
    form, attributes = parameters(draw, shape)
    small = kind in (ml_dtypes.int4, ml_dtypes.uint4)
    x = np.clip(finite(draw, shape, scale=4.0), 0, 7).astype(kind) if small else numbers(draw, shape, kind)
    zero = (
        np.clip(finite(draw, form, scale=3.0), 0, 7).astype(kind)
        if draw(st.booleans()) and kind != np.int32
        else None
    )
    return OpCase(
        "DequantizeLinear", {"x": x, "s": np.abs(finite(draw, form)) + np.float32(0.3), "z": zero}, attributes
    )


@case("DynamicQuantizeLinear")
def dynamic_quantize_linear(draw: Draw) -> OpCase:
    return OpCase("DynamicQuantizeLinear", {"x": finite(draw, draw(shapes(0, 3, 1)))}, {}, 3, steps=1)


def loss(op_type: str) -> None:
    def draw_case(draw: Draw) -> OpCase:
        n, c = draw(dims(1, 3)), draw(dims(1, 4))
        extra = draw(shapes(0, 2, 1, 3))
        generator = np.random.default_rng(draw(st.integers(0, 999)))
        target = generator.integers(0, c, (n, *extra)).astype(draw(st.sampled_from((np.int64, np.int32))))
        attributes: dict[str, Any] = some(
            draw,
            reduction=draw(st.sampled_from(("none", "mean", "sum"))),
            ignore_index=draw(st.integers(-1, c - 1)),
        )
        if (target == attributes.get("ignore_index", -5)).all():
            attributes.pop("ignore_index", None)  # a mean over nothing
        weight = np.abs(finite(draw, (c,))) + np.float32(0.1) if draw(st.booleans()) else None
        outputs = 2 if op_type == "SoftmaxCrossEntropyLoss" and draw(st.booleans()) else 1
        return scaled(
            op_type,
            {"x": finite(draw, (n, c, *extra)), "t": target, "w": weight},
            attributes,
            outputs,
            opset=13,
        )

    case(op_type)(draw_case)


loss("SoftmaxCrossEntropyLoss")
loss("NegativeLogLikelihoodLoss")


@case("Det")
def det(draw: Draw) -> OpCase:
    size = draw(dims(1, 4))
    return scaled("Det", {"x": finite(draw, (*draw(shapes(0, 2, 1)), size, size))}, opset=22)


@case("Dropout")
def dropout(draw: Draw) -> OpCase:
    x = numbers(draw, draw(shapes()), np.float32)
    return OpCase(
        "Dropout",
        {"x": x, "ratio": np.array(0.3, np.float32) if draw(st.booleans()) else None},
        {},
        draw(st.integers(1, 2)),
    )


def signal_window(op_type: str) -> None:
    def draw_case(draw: Draw) -> OpCase:
        inputs = {"size": np.array(draw(dims(1, 9)))}
        attributes = some(draw, periodic=draw(st.integers(0, 1)))
        return OpCase(op_type, inputs, attributes, constant=("size",), absolute=1e-6)  # cosines cancel

    case(op_type)(draw_case)


for name in ("HannWindow", "HammingWindow", "BlackmanWindow"):
    signal_window(name)


@case("DFT")
def dft(draw: Draw) -> OpCase:
    inverse, onesided = draw(st.integers(0, 1)), draw(st.integers(0, 1))
    parts = 1 if onesided and not inverse else 2
    shape = (*(draw(dims(1, 4)) for _ in range(draw(st.integers(1, 3)))), parts)
    axis = draw(st.integers(-len(shape), -2))
    onesided = 0 if inverse else onesided
    length = np.array(draw(st.integers(1, 6))) if draw(st.booleans()) else None
    inputs = {"x": finite(draw, shape), "n": length, "axis": np.array(axis)}
    return scaled("DFT", inputs, {"inverse": inverse, "onesided": onesided}, opset=20, constant=("n", "axis"))


@case("STFT")
def stft(draw: Draw) -> OpCase:
    length, frame, step = draw(dims(6, 12)), draw(dims(2, 6)), draw(dims(1, 4))
    window = np.abs(finite(draw, (frame,))) if draw(st.booleans()) else None
    inputs = {
        "x": finite(draw, (2, length, 1)),
        "step": np.array(step),
        "window": window,
        "frame": np.array(frame),
    }
    return scaled("STFT", inputs, {"onesided": draw(st.integers(0, 1))}, opset=17, constant=("step", "frame"))
