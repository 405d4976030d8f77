"""Convolutions against ONNX Runtime; against onnx.reference where it has no kernel."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from checking import check_op

RANDOM = np.random.default_rng(0)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def normal(*shape: int, dtype: object = np.float32) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(dtype)  # type: ignore[call-overload]


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("group", [1, 2])
def test_conv_in_every_dimension(rank: int, group: int) -> None:
    x, w = normal(2, 4, *(7, 6, 5)[:rank]), normal(6, 4 // group, *(3, 2, 1)[:rank])
    pads = [1, 0, 2][:rank] + [0, 1, 1][:rank]
    check_op("Conv", {"x": x, "w": w, "b": normal(6)}, group=group, pads=pads, **CLOSE)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("strides", [[1, 1], [2, 3]])
@pytest.mark.parametrize("dilations", [[1, 1], [2, 1]])
def test_conv_auto_pad(auto_pad: str, strides: list[int], dilations: list[int]) -> None:
    inputs = {"x": normal(1, 2, 9, 8), "w": normal(3, 2, 3, 2)}
    # ONNX Runtime has no dilation together with SAME.
    reference = "onnx" if dilations != [1, 1] else "onnxruntime"
    attributes = {"strides": strides, "dilations": dilations}
    check_op("Conv", inputs, auto_pad=auto_pad, reference=reference, **attributes, **CLOSE)


def test_conv_depthwise_strided_dilated_and_empty() -> None:
    w = normal(8, 1, 3, 3)
    for batch in (2, 0):
        check_op(
            "Conv",
            {"x": normal(batch, 4, 11, 10), "w": w, "b": normal(8)},
            constant=("w",),
            group=4,
            strides=[2, 1],
            dilations=[1, 2],
            kernel_shape=[3, 3],
            **CLOSE,
        )


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_conv_accumulates_in_float32(dtype: Any) -> None:
    x, w = normal(1, 64, 6, 6, dtype=dtype), normal(4, 64, 3, 3, dtype=dtype)
    found = check_op("Conv", {"x": x, "w": w}, opset=22, reference="onnx", rtol=0.1, atol=1.0)
    wide = check_op("Conv", {"x": x.astype(np.float32), "w": w.astype(np.float32)}, **CLOSE)
    unit = float(ml_dtypes.finfo(dtype).eps)
    np.testing.assert_allclose(found["y0"].astype(np.float32), wide["y0"], rtol=unit, atol=1e-4)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": [2, 3]},
        {"strides": [2, 2], "pads": [1, 0, 2, 1]},
        {"strides": [3, 2], "output_padding": [2, 1]},
        {"strides": [2, 2], "dilations": [2, 1], "pads": [1, 1, 1, 1]},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 1], "auto_pad": "SAME_LOWER"},
        {"strides": [3, 2], "output_shape": [10, 8]},
        {"strides": [3, 2], "output_shape": [10, 8], "auto_pad": "SAME_UPPER"},
        {"strides": [3, 3], "output_shape": [13, 12], "output_padding": [1, 1]},
        {"auto_pad": "VALID", "strides": [2, 2]},
    ],
)
@pytest.mark.parametrize("group", [1, 2])
def test_conv_transpose(attributes: dict[str, Any], group: int) -> None:
    inputs = {"x": normal(2, 4, 4, 4), "w": normal(4, 6 // group, 3, 2), "b": normal(6)}
    check_op("ConvTranspose", inputs, group=group, **attributes, **CLOSE)


def test_conv_transpose_in_one_and_three_dimensions() -> None:
    check_op("ConvTranspose", {"x": normal(1, 2, 5), "w": normal(2, 3, 4)}, strides=[3], **CLOSE)
    check_op(
        "ConvTranspose", {"x": normal(1, 2, 3, 2, 4), "w": normal(2, 3, 2, 3, 1)}, strides=[2, 1, 3], **CLOSE
    )


def test_conv_integer() -> None:
    x = RANDOM.integers(0, 255, (1, 2, 6, 5)).astype(np.uint8)
    w = RANDOM.integers(0, 255, (4, 1, 3, 2)).astype(np.uint8)
    check_op("ConvInteger", {"x": x, "w": w}, group=2)
    zeros = {"xz": np.array(7, np.uint8), "wz": np.array(130, np.uint8)}
    check_op("ConvInteger", {"x": x, "w": w, **zeros}, group=2, pads=[1, 0, 1, 1], strides=[2, 1])
    check_op("ConvInteger", {"x": x, "w": w, **zeros}, group=2, auto_pad="SAME_LOWER")


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_qlinear_conv(dtype: type, per_channel: bool) -> None:
    info = np.iinfo(dtype)
    inputs = {
        "x": RANDOM.integers(info.min, info.max, (1, 2, 6, 5)).astype(dtype),
        "xs": np.array(0.02, np.float32),
        "xz": np.array(5, dtype),
        "w": RANDOM.integers(-100, 100, (3, 2, 3, 3)).astype(np.int8),
        "ws": np.array([0.01, 0.02, 0.03], np.float32) if per_channel else np.array(0.02, np.float32),
        "wz": np.zeros(3 if per_channel else (), np.int8),
        "ys": np.array(0.7, np.float32),
        "yz": np.array(9, dtype),
        "b": RANDOM.integers(-500, 500, 3).astype(np.int32),
    }
    constant = tuple(k for k in inputs if k != "x")
    check_op("QLinearConv", inputs, constant=constant, pads=[1, 1, 1, 1], strides=[1, 2])


@pytest.mark.parametrize("offset_group", [1, 2])
def test_deform_conv(offset_group: int) -> None:
    inputs = {
        "x": normal(2, 4, 6, 5),
        "w": normal(6, 2, 3, 2),
        "offset": normal(2, offset_group * 12, 3, 6),
        "b": normal(6),
        "mask": normal(2, offset_group * 6, 3, 6),
    }
    check_op(
        "DeformConv",
        inputs,
        opset=19,
        group=2,
        offset_group=offset_group,
        strides=[2, 1],
        pads=[1, 1, 1, 1],
        reference="onnx",
        **CLOSE,
    )


@pytest.mark.parametrize("activation", ["none", "silu"])
@pytest.mark.parametrize("length", [1, 5])
def test_causal_conv_with_state(activation: str, length: int) -> None:
    inputs = {"x": normal(2, 3, length), "w": normal(3, 1, 4), "b": normal(3), "past": normal(2, 3, 3)}
    for past in (inputs["past"], None):
        check_op(
            "CausalConvWithState",
            {**inputs, "past": past},
            outputs=2,
            opset=27,
            activation=activation,
            reference="onnx",
            **CLOSE,
        )
