"""ONNX Runtime's fused normalizations against its own kernels, or standard operators where it has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checking import check_op, make_model, run_xla

from graphopt.errors import UnsupportedError

RANDOM = np.random.default_rng(0)
DOMAIN = {"domain": "com.microsoft"}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def normal(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(dtype)


SUM_ONLY = ["y", "", "", "total"]


@pytest.mark.parametrize("skip", [(2, 3, 8), (1, 3, 8), (3, 8)])
@pytest.mark.parametrize("beta", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_skip_layer_normalization(skip: tuple[int, ...], beta: bool, bias: bool) -> None:
    inputs = {
        "input": normal(2, 3, 8),
        "skip": normal(*skip),
        "gamma": normal(8),
        "beta": normal(8) if beta else None,
        "bias": normal(8) if bias else None,
    }
    check_op("SkipLayerNormalization", inputs, SUM_ONLY, **DOMAIN, **CLOSE, epsilon=1e-3)
    if skip == (2, 3, 8):
        del inputs["beta"]
        check_op("SkipSimplifiedLayerNormalization", inputs, SUM_ONLY, **DOMAIN, **CLOSE, epsilon=1e-3)


@pytest.mark.parametrize("op_type", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
def test_tokens_without_a_batch_and_narrow_floats(op_type: str) -> None:
    half = np.float16
    inputs = {"input": normal(5, 8), "skip": normal(5, 8), "gamma": normal(8)}
    check_op(op_type, inputs, **DOMAIN, **CLOSE)
    inputs = {k: v.astype(half) for k, v in inputs.items()}
    check_op(op_type, inputs, SUM_ONLY, **DOMAIN, rtol=2e-3, atol=2e-3)
    with pytest.raises(UnsupportedError, match="training"):
        run_xla(*make_model(op_type, inputs, 4, **DOMAIN))


@pytest.mark.parametrize("axis", [-1, 1, 0])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_simplified_layer_normalization_of_the_standard_domain(axis: int, dtype: Any) -> None:
    x = normal(2, 3, 8, dtype=dtype)
    close = {"rtol": 2e-3, "atol": 2e-3} if dtype == np.float16 else CLOSE
    scale = normal(*x.shape[axis:], dtype=dtype)
    outputs = 1 if dtype == np.float64 else 2  # the kernel saves a double factor, which the types forbid
    check_op(
        "SimplifiedLayerNormalization", {"x": x, "scale": scale}, outputs, **close, axis=axis, epsilon=1e-3
    )


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("positions", [None, (1, 3), (2, 3)])
def test_embed_layer_normalization(segments: bool, mask: bool, positions: tuple[int, int] | None) -> None:
    def ids(*shape: int, below: int = 7) -> np.ndarray:
        return RANDOM.integers(0, below, shape).astype(np.int32)

    inputs = {
        "ids": ids(2, 3), "segments": ids(2, 3, below=2) if segments else None, "word": normal(7, 8), "position": normal(9, 8),
        "segment": normal(2, 8) if segments else None, "gamma": normal(8), "beta": normal(8),
        "mask": ids(2, 3, below=2) if mask else None, "position_ids": ids(*positions) if positions else None,
    }  # fmt: skip
    check_op("EmbedLayerNormalization", inputs, 3, **DOMAIN, **CLOSE, epsilon=1e-3)


@pytest.mark.parametrize("channels_last", [0, 1])
@pytest.mark.parametrize("activation", [0, 1])
def test_group_norm_is_group_normalization(channels_last: int, activation: int) -> None:
    x, gamma, beta, bias = normal(2, 6, 3, 4), normal(6), normal(6), normal(6)

    def placed(a: np.ndarray) -> np.ndarray:
        return np.moveaxis(a, 1, -1) if channels_last else a

    def standard(a: np.ndarray) -> np.ndarray:
        inputs = {"x": a, "scale": gamma, "bias": beta}
        y = run_xla(*make_model("GroupNormalization", inputs, opset=21, num_groups=3, epsilon=1e-3))["y0"]
        return placed(y / (1 + np.exp(-y)) if activation else y)

    attributes = {"groups": 3, "activation": activation, "channels_last": channels_last, "epsilon": 1e-3}
    found = run_xla(
        *make_model("GroupNorm", {"x": placed(x), "gamma": gamma, "beta": beta}, **DOMAIN, **attributes)
    )["y0"]
    np.testing.assert_allclose(found, standard(x), **CLOSE)
    for skip in (normal(2, 6, 3, 4), normal(2, 6, 1, 1)):
        given = (
            placed(skip) if skip.shape == x.shape else skip.reshape((2, 1, 1, 6) if channels_last else (2, 6))
        )
        inputs = {"x": placed(x), "gamma": gamma, "beta": beta, "skip": given, "bias": bias}
        found = run_xla(*make_model("SkipGroupNorm", inputs, 2, **DOMAIN, **attributes))
        total = x + skip + bias.reshape(1, 6, 1, 1)
        np.testing.assert_allclose(found["y0"], standard(total), **CLOSE)
        np.testing.assert_allclose(found["y1"], placed(total), **CLOSE)
