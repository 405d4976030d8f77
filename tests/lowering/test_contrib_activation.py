"""ONNX Runtime's activations against its own kernels, or the standard operators that they stand for."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from checking import check_op, make_model, run_xla

from graphopt.errors import UnsupportedError

RANDOM = np.random.default_rng(0)
DOMAIN = {"domain": "com.microsoft"}
EDGES = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e30, -1e30, 5.0, -5.0, 1e-30], np.float32)


def normal(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(dtype)


def xla(op_type: str, inputs: dict[str, Any], **attributes: Any) -> np.ndarray:
    return run_xla(*make_model(op_type, inputs, opset=20, **attributes))["y0"]


@pytest.mark.parametrize("op_type", ["Gelu", "FastGelu", "QuickGelu"])
def test_gelus(op_type: str) -> None:
    check_op(op_type, {"x": 3 * normal(3, 4, 5)}, **DOMAIN)
    check_op(op_type, {"x": normal(0, 4)}, **DOMAIN)
    standard = {"Gelu": ("Gelu", {}), "FastGelu": ("Gelu", {"approximate": "tanh"})}.get(op_type)
    if standard:
        np.testing.assert_array_equal(
            xla(op_type, {"x": EDGES}, **DOMAIN), xla(standard[0], {"x": EDGES}, **standard[1])
        )


@pytest.mark.parametrize("alpha", [1.0, -0.5, 1.702])
def test_quick_gelu_alpha(alpha: float) -> None:
    check_op("QuickGelu", {"x": 3 * normal(3, 4, 5)}, **DOMAIN, alpha=alpha)


@pytest.mark.parametrize("op_type", ["BiasGelu", "FastGelu"])
def test_gelus_with_a_bias(op_type: str) -> None:
    check_op(op_type, {"x": normal(2, 3, 8), "bias": normal(8)}, **DOMAIN)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_floats_are_rounded_once(dtype: Any) -> None:
    x, bias = normal(4, 8, dtype=dtype), normal(8, dtype=dtype)
    wanted = xla("Gelu", {"x": x.astype(np.float32) + bias.astype(np.float32)}).astype(dtype)
    np.testing.assert_array_equal(xla("BiasGelu", {"a": x, "b": bias}, **DOMAIN), wanted)


def test_bias_split_gelu_and_bias_add() -> None:
    x, bias, skip = normal(2, 3, 8), normal(8), normal(2, 3, 8)
    left, right = np.split(x + bias, 2, -1)
    found = xla("BiasSplitGelu", {"x": x, "bias": bias}, **DOMAIN)
    np.testing.assert_allclose(found, left * xla("Gelu", {"x": right}), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(
        xla("BiasAdd", {"x": x, "bias": bias, "skip": skip}, **DOMAIN), x + bias + skip
    )


@pytest.mark.parametrize("scaled", [False, True])
def test_scaled_silu_rounds_every_step(scaled: bool) -> None:
    x = normal(4, 8, dtype=ml_dtypes.bfloat16)
    scale = np.array(0.7, np.float32) if scaled else None
    found = xla("ScaledSiLU", {"x": x, "scale": scale}, **DOMAIN, alpha=1.5)
    z = (
        (x.astype(np.float32) * np.float32(0.7 if scaled else 1.5))
        .astype(ml_dtypes.bfloat16)
        .astype(np.float32)
    )
    gate = (1 / (1 + np.exp(-z))).astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(found, (z * gate).astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("inner", [0, 1])
@pytest.mark.parametrize("axis", [3, -1, 2])
def test_bias_softmax_is_the_softmax_of_the_sum(inner: int, axis: int) -> None:
    data = normal(2, 3, 4, 5)
    bias = normal(2, 1, 1, 5) if inner else normal(1, 1, 4, 5)
    if axis == 2 and inner:
        bias = normal(2, 1, 4, 5)
    found = xla("BiasSoftmax", {"data": data, "bias": bias}, **DOMAIN, axis=axis, is_inner_broadcast=inner)
    rows = (data + bias).reshape((2, 3, 20) if axis == 2 else data.shape)
    exponentials = np.exp(rows - rows.max(-1, keepdims=True))
    np.testing.assert_allclose(
        found, (exponentials / exponentials.sum(-1, keepdims=True)).reshape(data.shape), rtol=1e-5
    )


def test_bias_dropout_is_an_addition() -> None:
    data, bias, residual = normal(2, 3, 4), normal(4), normal(2, 3, 4)
    inputs = {"data": data, "bias": bias, "residual": residual}
    found = run_xla(*make_model("BiasDropout", inputs, 2, **DOMAIN, seed=3))
    np.testing.assert_array_equal(found["y0"], data + bias + residual)
    assert found["y1"].all() and found["y1"].shape == data.shape
    training = {**inputs, "ratio": np.array(0.5, np.float32), "training": np.array(True)}
    with pytest.raises(UnsupportedError, match="random"):
        run_xla(*make_model("BiasDropout", training, 2, **DOMAIN))
