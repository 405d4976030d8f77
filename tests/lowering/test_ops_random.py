"""Random operators: distribution, range, type, and which draws are equal."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from checking import make_model, model_from, run_xla

from graphopt.errors import UnsupportedError

NUMBER = {
    np.dtype(np.float16): onnx.TensorProto.FLOAT16,
    np.dtype(np.float32): onnx.TensorProto.FLOAT,
    np.dtype(np.float64): onnx.TensorProto.DOUBLE,
    np.dtype(ml_dtypes.bfloat16): onnx.TensorProto.BFLOAT16,
}
MANY = [200, 300]


def draw(op: str, *inputs: np.ndarray, outputs: int = 1, opset: int = 22, **attributes: Any) -> np.ndarray:
    model, feeds = make_model(
        op, {f"x{i}": x for i, x in enumerate(inputs)}, outputs, opset=opset, **attributes
    )
    found: np.ndarray = run_xla(model, feeds)["y0"]
    return found


@pytest.mark.parametrize("dtype", NUMBER, ids=str)
@pytest.mark.parametrize("like", [False, True])
def test_normal(dtype: np.dtype, like: bool) -> None:
    more: dict[str, Any] = {"mean": 2.0, "scale": 3.0}
    if like:
        found = draw("RandomNormalLike", np.zeros(MANY, dtype), **more)
    else:
        found = draw("RandomNormal", shape=MANY, dtype=NUMBER[dtype], **more)
    assert found.dtype == dtype
    wide = found.astype(float)
    assert abs(wide.mean() - 2) < 0.05
    assert abs(wide.std() - 3) < 0.05
    assert abs((np.abs(wide - 2) < 3).mean() - 0.6827) < 0.01  # within a standard deviation


@pytest.mark.parametrize("dtype", NUMBER, ids=str)
@pytest.mark.parametrize("like", [False, True])
def test_uniform(dtype: np.dtype, like: bool) -> None:
    more: dict[str, Any] = {"low": -1.0, "high": 3.0}
    if like:
        found = draw("RandomUniformLike", np.zeros(MANY, np.int32), dtype=NUMBER[dtype], **more)
    else:
        found = draw("RandomUniform", shape=MANY, dtype=NUMBER[dtype], **more)
    assert found.dtype == dtype
    wide = found.astype(float)
    assert wide.min() >= -1
    assert wide.max() < 3
    assert abs(wide.mean() - 1) < 0.03
    assert abs(wide.var() - 16 / 12) < 0.03


@pytest.mark.parametrize("dtype", NUMBER, ids=str)
def test_bernoulli(dtype: np.dtype) -> None:
    p = np.array([0.0, 0.25, 0.75, 1.0]).astype(dtype)
    found = draw("Bernoulli", np.broadcast_to(p, (20000, 4)), dtype=onnx.TensorProto.INT8)
    assert found.dtype == np.int8
    np.testing.assert_allclose(found.mean(0), [0, 0.25, 0.75, 1], atol=0.02)
    assert draw("Bernoulli", p).dtype == dtype


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_multinomial(dtype: Any) -> None:
    p = np.array([[0.1, 0.2, 0.7], [0.5, 0.5, 0.0]])
    with np.errstate(divide="ignore"):
        logits = (np.log(p) + 3).astype(np.float32)
    number = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    found = draw("Multinomial", logits, sample_size=20000, dtype=number)
    assert found.dtype == dtype
    assert found.shape == (2, 20000)
    for row, wanted in zip(found, p, strict=True):
        np.testing.assert_allclose(np.bincount(row, minlength=3) / 20000, wanted, atol=0.02)


@pytest.mark.parametrize("dtype", NUMBER, ids=str)
@pytest.mark.parametrize("ratio", [None, 0.2, 0.0])
def test_dropout_in_training(dtype: np.dtype, ratio: float | None) -> None:
    inputs: dict[str, Any] = {
        "data": np.full(MANY, 2, dtype),
        "ratio": None if ratio is None else np.array(ratio, np.float32),
        "training_mode": np.array(True),
    }
    model, feeds = make_model("Dropout", inputs, 2, opset=22)
    found = run_xla(model, feeds)
    drop = 0.5 if ratio is None else ratio
    assert abs((~found["y1"]).mean() - drop) < 0.01
    np.testing.assert_array_equal(found["y0"] != 0, found["y1"])
    np.testing.assert_allclose(found["y0"][found["y1"]].astype(float), 2 / (1 - drop), rtol=4e-3)


def test_which_draws_are_equal() -> None:
    """Equal seeds draw the same, other seeds and nodes without one do not; every run draws the same."""
    model = model_from("""g () => (float[64] a, float[64] b, float[64] c, float[64] d, float[64] e) {
        a = RandomNormal <shape = [64], seed = 1.5> ()
        b = RandomNormal <shape = [64], seed = 1.5> ()
        c = RandomNormal <shape = [64], seed = 2.5> ()
        d = RandomNormal <shape = [64]> ()
        e = RandomNormal <shape = [64]> ()
    }""")
    found, again = run_xla(model, {}), run_xla(model, {})
    np.testing.assert_array_equal(found["a"], found["b"])
    different = [found[n] for n in "acde"]
    assert all((x != y).all() for i, x in enumerate(different) for y in different[:i])
    for name, value in found.items():
        np.testing.assert_array_equal(again[name], value)


def test_a_loop_does_not_draw_the_same_again_and_again() -> None:
    model = model_from("""g (float[4] x) => (float[4] y) {
        n = Constant <value = int64 {3}> ()
        y = Loop (n, , x) <body = body (int64 i, bool c, float[4] s) => (bool d, float[4] t) {
            d = Identity (c)
            r = RandomUniformLike (s)
            t = Add (s, r)
        }>
    }""")
    with pytest.raises(UnsupportedError, match="the same in every iteration"):
        run_xla(model, {"x": np.zeros(4, np.float32)})


def test_integers_cannot_be_drawn() -> None:
    with pytest.raises(UnsupportedError, match="floating-point"):
        draw("RandomNormalLike", np.zeros(3, np.int32))
