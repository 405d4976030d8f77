"""ONNX Runtime's quantized operators against its own kernels."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir
import pytest
from checking import check_op, make_model, run_onnxruntime, run_xla

from graphopt.errors import UnsupportedError

RANDOM = np.random.default_rng(0)
DOMAIN = {"domain": "com.microsoft"}
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def normal(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(dtype)


def bytes_(*shape: int, dtype: Any = np.uint8) -> np.ndarray:
    info = np.iinfo(dtype)
    return RANDOM.integers(info.min, info.max + 1, shape).astype(dtype)


def f32(x: Any) -> np.ndarray:
    return np.array(x, np.float32)


def check_rounded(
    op_type: str, inputs: dict[str, Any], *, version: int | None = None, **attributes: Any
) -> None:
    """Equal to ONNX Runtime's result but for one step where the two round a near tie differently.

    `version` is the attribute that is called opset.
    """
    model, feeds = make_model(op_type, inputs, **DOMAIN, **attributes)
    if version is not None:
        model.graph[0].attributes["opset"] = onnx_ir.AttrInt64("opset", version)
    found, wanted = run_xla(model, feeds)["y0"], run_onnxruntime(model, feeds)["y0"]
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    difference = np.abs(found.astype(int) - wanted.astype(int))
    assert difference.max(initial=0) <= 1
    assert (difference == 0).mean() > 0.97


SIGNS = [np.uint8, np.int8]


@pytest.mark.parametrize("dtype", SIGNS)
@pytest.mark.parametrize("op_type", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize("shape", [(3, 1, 17), (1,), ()])
def test_binary(op_type: str, dtype: Any, shape: tuple[int, ...]) -> None:
    inputs = {
        "a": bytes_(3, 4, 17, dtype=dtype),
        "as": f32(0.03),
        "az": dtype(3),
        "b": bytes_(*shape, dtype=dtype),
        "bs": f32(0.07),
        "bz": dtype(7),
        "cs": f32(0.11),
        "cz": dtype(20),
    }
    check_rounded(op_type, inputs)
    # ONNX Runtime infers no type without zero points.
    zeros = run_xla(
        *make_model(op_type, {**inputs, "az": dtype(0), "bz": dtype(0), "cz": dtype(0)}, **DOMAIN)
    )
    absent = run_xla(*make_model(op_type, {**inputs, "az": None, "bz": None, "cz": None}, **DOMAIN))
    np.testing.assert_array_equal(absent["y0"], zeros["y0"])


@pytest.mark.parametrize("dtype", SIGNS)
@pytest.mark.parametrize(
    ("op_type", "attributes"), [("QLinearSigmoid", {}), ("QLinearLeakyRelu", {"alpha": 0.3})]
)
def test_unary(op_type: str, attributes: dict[str, Any], dtype: Any) -> None:
    inputs = {
        "x": bytes_(3, 40, dtype=dtype),
        "xs": f32(0.05),
        "xz": dtype(10),
        "ys": f32(0.02),
        "yz": dtype(3),
    }
    check_rounded(op_type, inputs, **attributes)


@pytest.mark.parametrize("dtype", SIGNS)
@pytest.mark.parametrize("opset", [9, 13])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax(opset: int, axis: int, dtype: Any) -> None:
    scale = 1 / 256
    zero = dtype(0 if dtype == np.uint8 else -128)
    inputs = {
        "x": bytes_(3, 4, 5, dtype=dtype),
        "xs": f32(0.02),
        "xz": dtype(2),
        "ys": f32(scale),
        "yz": zero,
    }
    check_rounded("QLinearSoftmax", inputs, version=opset, axis=axis)


@pytest.mark.parametrize("dtype", SIGNS)
@pytest.mark.parametrize("channels_last", [0, 1])
def test_pools(dtype: Any, channels_last: int) -> None:
    inputs = {
        "x": bytes_(2, 6, 7, 8, dtype=dtype),
        "xs": f32(0.05),
        "xz": dtype(10),
        "ys": f32(0.0437),
        "yz": dtype(3),
    }
    check_rounded("QLinearGlobalAveragePool", inputs, channels_last=channels_last)
    for options in (
        {},
        {"pads": [1, 0, 1, 1]},
        {"pads": [1, 0, 1, 1], "count_include_pad": 1},
        {"strides": [2, 2], "ceil_mode": 1},
        {"auto_pad": "SAME_UPPER"},
    ):
        check_rounded(
            "QLinearAveragePool", inputs, channels_last=channels_last, kernel_shape=[3, 2], **options
        )


@pytest.mark.parametrize("dtype", SIGNS)
def test_concat_and_where(dtype: Any) -> None:
    def operand(n: int, scale: float) -> dict[str, Any]:
        return {f"x{n}": bytes_(2, n, dtype=dtype), f"s{n}": f32(scale), f"z{n}": dtype(n)}

    constant = [f"{k}{n}" for n in (3, 4) for k in "sz"]
    inputs = {"ys": f32(0.05), "yz": dtype(9), **operand(3, 0.03), **operand(4, 0.08)}
    model, feeds = make_model("QLinearConcat", inputs, **DOMAIN, axis=1, constant=["ys", "yz", *constant])
    np.testing.assert_array_equal(run_xla(model, feeds)["y0"], run_onnxruntime(model, feeds)["y0"])
    inputs = {
        "c": RANDOM.integers(0, 2, (3, 1)).astype(bool), "x": bytes_(3, 20, dtype=dtype), "xs": f32(0.03), "xz": dtype(3),
        "y": bytes_(20, dtype=dtype), "ys": f32(0.05), "yz": dtype(5), "zs": f32(0.06), "zz": dtype(9),
    }  # fmt: skip
    model, feeds = make_model("QLinearWhere", inputs, **DOMAIN, constant=["xs", "xz", "ys", "yz", "zs", "zz"])
    np.testing.assert_array_equal(run_xla(model, feeds)["y0"], run_onnxruntime(model, feeds)["y0"])


@pytest.mark.parametrize("keepdims", [0, 1])
def test_reductions_are_their_definitions(keepdims: int) -> None:
    data, attributes = bytes_(2, 3, 4), {"axes": [1, -1], "keepdims": keepdims}
    inputs = {"data": data, "s": f32(0.05), "z": np.uint8(10), "rs": f32(0.02), "rz": np.uint8(30)}
    found = run_xla(*make_model("QLinearReduceMean", inputs, **DOMAIN, **attributes))["y0"]
    mean = ((data.astype(np.float32) - 10) * np.float32(0.05)).mean((1, 2), keepdims=bool(keepdims))
    assert np.abs(found.astype(int) - np.clip(np.round(mean / np.float32(0.02)) + 30, 0, 255)).max() <= 1
    total = run_xla(*make_model("ReduceSumInteger", {"data": data}, **DOMAIN, **attributes))["y0"]
    np.testing.assert_array_equal(total, data.sum((1, 2), keepdims=bool(keepdims), dtype=np.uint32))
    assert total.dtype == np.uint32


@pytest.mark.parametrize("channels_last", [0, 1])
def test_convolution(channels_last: int) -> None:
    x = bytes_(1, 4, 6, 5)
    inputs = {
        "x": np.moveaxis(x, 1, -1).copy() if channels_last else x, "xs": f32(0.03), "xz": np.uint8(100),
        "w": bytes_(6, 2, 3, 3, dtype=np.int8), "ws": RANDOM.uniform(0.01, 0.03, 6).astype(np.float32), "wz": np.zeros(6, np.int8),
        "ys": f32(0.2), "yz": np.uint8(120), "b": RANDOM.integers(-500, 500, 6).astype(np.int32),
    }  # fmt: skip
    constant = [k for k in inputs if k != "x"]
    check_rounded(
        "QLinearConv",
        inputs,
        channels_last=channels_last,
        group=2,
        pads=[1, 0, 1, 1],
        strides=[2, 1],
        constant=constant,
    )


@pytest.mark.parametrize("dtype", SIGNS)
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_dynamic_quantize_matmul(dtype: Any, columns: bool, bias: bool) -> None:
    shape = (5,) if columns else ()
    inputs = {
        "a": normal(2, 3, 8),
        "b": bytes_(8, 5, dtype=dtype),
        "bs": RANDOM.uniform(0.01, 0.1, shape).astype(np.float32),
        "bz": bytes_(*shape, dtype=dtype),
        "bias": normal(5) if bias else None,
    }
    check_op("DynamicQuantizeMatMul", inputs, **DOMAIN, **CLOSE, constant=["b"])
    check_op("DynamicQuantizeMatMul", {**inputs, "bz": None}, **DOMAIN, **CLOSE, constant=["b"])


@pytest.mark.parametrize("a_type", SIGNS)
@pytest.mark.parametrize("b_type", SIGNS)
@pytest.mark.parametrize("columns", [False, True])
def test_matmul_integer_to_float(a_type: Any, b_type: Any, columns: bool) -> None:
    shape = (5,) if columns else ()
    inputs = {
        "a": bytes_(2, 3, 8, dtype=a_type), "b": bytes_(8, 5, dtype=b_type), "as": f32(0.05), "bs": RANDOM.uniform(0.01, 0.1, shape).astype(np.float32),
        "az": a_type(3), "bz": bytes_(*shape, dtype=b_type), "bias": normal(5),
    }  # fmt: skip
    if a_type == np.uint8 or b_type == np.int8:  # the kernels there are
        check_op("MatMulIntegerToFloat", inputs, **DOMAIN, **CLOSE)
        check_op("MatMulIntegerToFloat", {**inputs, "az": None, "bz": None, "bias": None}, **DOMAIN, **CLOSE)


def test_integer_products() -> None:
    a, b = (RANDOM.integers(-3000, 3000, s).astype(np.int16) for s in ((3, 8), (8, 5)))
    found = run_xla(*make_model("MatMulInteger16", {"a": a, "b": b}, **DOMAIN))["y0"]
    np.testing.assert_array_equal(found, a.astype(np.int32) @ b.astype(np.int32))
    x, y = bytes_(3, 8), bytes_(8)
    inputs = {"a": x, "az": np.uint8(9), "b": y, "bz": None}
    np.testing.assert_array_equal(
        run_xla(*make_model("MulInteger", inputs, **DOMAIN))["y0"], (x.astype(np.int32) - 9) * y
    )


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("quantized", [False, True])
def test_qgemm(columns: bool, transposed: int, quantized: bool) -> None:
    shape = (5,) if columns else ()
    inputs = {
        "a": bytes_(3, 8), "as": f32(0.05), "az": np.uint8(100), "b": bytes_(8, 5, dtype=np.int8), "bs": RANDOM.uniform(0.01, 0.03, shape).astype(np.float32),
        "bz": np.zeros(shape, np.int8), "c": RANDOM.integers(-900, 900, 5).astype(np.int32),
        "ys": f32(0.2) if quantized else None, "yz": np.uint8(90) if quantized else None,
    }  # fmt: skip
    if transposed:
        inputs |= {"a": inputs["a"].T.copy(), "b": inputs["b"].T.copy()}
    attributes = {"alpha": 0.7, "transA": transposed, "transB": transposed}
    if quantized:
        check_rounded("QGemm", inputs, **attributes)
    else:
        check_op("QGemm", inputs, **DOMAIN, **CLOSE, **attributes)


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("cached", [False, True])
def test_qattention(columns: bool, causal: int, cached: bool) -> None:
    shape = (24,) if columns else ()
    inputs = {
        "input": bytes_(2, 4, 6), "weight": bytes_(6, 24, dtype=np.int8), "bias": normal(24), "is": f32(0.02),
        "ws": RANDOM.uniform(0.01, 0.03, shape).astype(np.float32), "mask": np.array([4, 2], np.int32), "iz": np.uint8(120),
        "wz": np.zeros(shape, np.int8), "past": normal(2, 2, 2, 3, 4) if cached else None,
    }  # fmt: skip
    check_op("QAttention", inputs, 2, **DOMAIN, **CLOSE, num_heads=2, unidirectional=causal)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_quantize_and_dequantize(dtype: Any, axis: int | None) -> None:
    x = 300 * normal(4, 4)
    x[0, :2] = [1e30, -1e30]
    shape, given = ((), {}) if axis is None else ((4,), {"axis": axis})
    scale = RANDOM.uniform(0.5, 1.5, shape).astype(np.float32)
    zero = bytes_(*shape, dtype=dtype)
    check_op("QuantizeLinear", {"x": x, "s": scale, "z": zero}, **DOMAIN, rtol=0, atol=0, **given)
    check_op("DequantizeLinear", {"x": bytes_(4, 4, dtype=dtype), "s": scale, "z": zero}, **DOMAIN, **given)


def packed(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Numbers as MatMulNBits stores them along the last axis, which is filled up with zeros."""
    count = 8 // bits
    rest = -numbers.shape[-1] % count
    numbers = np.pad(numbers, [(0, 0)] * (numbers.ndim - 1) + [(0, rest)])
    parts = numbers.reshape((*numbers.shape[:-1], -1, count)).astype(np.int64) << (np.arange(count) * bits)
    return parts.sum(-1).astype(np.uint8)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zero", [None, "packed", "float"])
@pytest.mark.parametrize(("k", "block"), [(64, 16), (40, 16), (40, 32)])
def test_matmul_n_bits(bits: int, zero: str | None, k: int, block: int) -> None:
    n, blocks = 6, -(-k // block)
    weights = RANDOM.integers(0, 1 << bits, (n, blocks, block))
    scales = RANDOM.uniform(0.1, 1, (n, blocks)).astype(np.float32)
    zeros = RANDOM.integers(0, 1 << bits, (n, blocks))
    given = {None: None, "packed": packed(zeros, bits), "float": zeros.astype(np.float32)}[zero]
    middle = np.full_like(zeros, 1 << (bits - 1)) if zero is None else zeros
    real = ((weights - middle[..., None]) * scales[..., None]).reshape(n, -1)[:, :k].astype(np.float32)
    a, bias = normal(2, 3, k), normal(n)
    inputs = {
        "a": a,
        "b": packed(weights, bits),
        "scales": scales,
        "zero_points": given,
        "g_idx": None,
        "bias": bias,
    }
    attributes = {"K": k, "N": n, "bits": bits, "block_size": block}
    found = run_xla(*make_model("MatMulNBits", inputs, **DOMAIN, **attributes))["y0"]
    np.testing.assert_allclose(found, a @ real.T + bias, rtol=1e-4, atol=1e-3)
    if zero != "float" or bits == 4:  # the kernels there are
        check_op(
            "MatMulNBits",
            inputs,
            **DOMAIN,
            rtol=1e-4,
            atol=1e-3,
            constant=["b", "scales", "zero_points"] if given is not None else ["b", "scales"],
            **attributes,
        )


def test_matmul_n_bits_forms_that_are_refused() -> None:
    inputs = {"a": normal(3, 32), "b": bytes_(6, 2, 8), "scales": normal(6, 2)}
    for more, attributes in (
        ({}, {"weight_prepacked": 1}),
        ({"z": None, "g": np.zeros(32, np.int32)}, {}),
        ({}, {"bits": 3}),
    ):
        with pytest.raises(UnsupportedError):
            run_xla(
                *make_model(
                    "MatMulNBits", {**inputs, **more}, **DOMAIN, K=32, N=6, block_size=16, **attributes
                )
            )


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("indices", [np.array([[0, 4], [2, -1]]), np.array(3), np.zeros((0,), np.int64)])
def test_gather_block_quantized_bytes(bits: int, zero: bool, indices: np.ndarray) -> None:
    table, zeros = RANDOM.integers(0, 1 << bits, (5, 32)), RANDOM.integers(0, 1 << bits, (5, 2))
    inputs = {
        "data": packed(table, bits),
        "indices": indices,
        "scales": normal(5, 2),
        "zeros": packed(zeros, bits) if zero else None,
    }
    constant = ["data", "scales", "zeros"] if zero else ["data", "scales"]
    check_op("GatherBlockQuantized", inputs, **DOMAIN, bits=bits, block_size=16, constant=constant)


@pytest.mark.parametrize("dtype", [ml_dtypes.int4, ml_dtypes.uint4])
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize(("taken", "blocked"), [(0, 2), (2, 0), (1, -1), (-1, 1)])
def test_gather_block_quantized(dtype: Any, zero: bool, taken: int, blocked: int) -> None:
    shape, blocks = [3, 4, 5], [3, 4, 5]
    shape[blocked], blocks[blocked] = 32, 2

    def numbers(*dims: int) -> np.ndarray:
        return RANDOM.integers(0, 8, dims).astype(np.int8).astype(dtype)

    inputs = {
        "data": numbers(*shape),
        "indices": np.array([[0, 2], [1, -1]]),
        "scales": normal(*blocks),
        "zeros": numbers(*blocks) if zero else None,
    }
    constant = ["data", "scales", "zeros"] if zero else ["data", "scales"]
    attributes = {"gather_axis": taken, "quantize_axis": blocked, "block_size": 16}
    check_op("GatherBlockQuantized", inputs, **DOMAIN, constant=constant, opset=21, **attributes)
