"""Signal operators against ONNX Runtime; against onnx.reference where it has no kernel."""

from __future__ import annotations

import numpy as np
import pytest
from checking import check_op, make_model, run_xla

from graphopt.errors import UnsupportedError

RANDOM = np.random.default_rng(0)
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def normal(*shape: int, dtype: object = np.float32) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(dtype)  # type: ignore[call-overload]


@pytest.mark.parametrize("inverse", [0, 1])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("length", [None, 5, 12])
def test_dft(inverse: int, parts: int, length: int | None) -> None:
    inputs = {"x": normal(2, 9, parts), "n": None if length is None else np.array(length, np.int64)}
    constant = () if length is None else ("n",)
    check_op("DFT", inputs, constant=constant, inverse=inverse, axis=1, **CLOSE)


@pytest.mark.parametrize("size", [8, 9])
def test_one_sided_dft_and_back(size: int) -> None:
    x = normal(2, size, 3, 1)
    axis = {"x": x, "n": None, "axis": np.array(1, np.int64)}
    half = check_op("DFT", axis, opset=20, constant=("axis",), onesided=1, **CLOSE)["y0"]
    assert half.shape == (2, size // 2 + 1, 3, 2)
    inputs = {"x": half, "n": np.array(size, np.int64), "axis": np.array(-3, np.int64)}
    model, feeds = make_model("DFT", inputs, opset=20, constant=("n", "axis"), onesided=1, inverse=1)
    np.testing.assert_allclose(run_xla(model, feeds)["y0"], x, atol=1e-5)


def test_the_axis_of_complex_parts_is_refused() -> None:
    inputs = {"x": normal(2, 9, 2), "n": None, "axis": np.array(-1, np.int64)}
    model, feeds = make_model("DFT", inputs, opset=20, constant=("axis",))
    with pytest.raises(UnsupportedError, match="GO202"):
        run_xla(model, feeds)


@pytest.mark.parametrize("onesided", [0, 1])
@pytest.mark.parametrize("window", [True, False])
def test_stft(onesided: int, window: bool) -> None:
    inputs = {
        "x": normal(2, 37, 1),
        "step": np.array(5, np.int64),
        "window": normal(8) if window else None,
        "length": np.array(8, np.int64),
    }
    constant = ("step", "length")
    check_op("STFT", inputs, constant=constant, onesided=onesided, **CLOSE)


@pytest.mark.parametrize("op", ["HannWindow", "HammingWindow", "BlackmanWindow"])
@pytest.mark.parametrize("periodic", [0, 1])
def test_windows(op: str, periodic: int) -> None:
    check_op(op, {"n": np.array(9, np.int64)}, periodic=periodic, rtol=1e-5, atol=1e-6)


def test_windows_of_other_types() -> None:
    size = {"n": np.array(6, np.int64)}
    exact = check_op("HannWindow", size, output_datatype=11, rtol=1e-12, atol=1e-12)["y0"]
    model, feeds = make_model("HannWindow", size, output_datatype=10)
    # The reference computes in float16; here it is rounded once.
    np.testing.assert_array_equal(run_xla(model, feeds)["y0"], exact.astype(np.float16))


@pytest.mark.parametrize(("bins", "length", "low"), [(8, 64, 0.0), (40, 512, 20.0), (20, 64, 0.0)])
def test_mel_weight_matrix(bins: int, length: int, low: float) -> None:
    inputs = {
        "bins": np.array(bins, np.int64),
        "length": np.array(length, np.int64),
        "rate": np.array(16000, np.int64),
        "low": np.array(low, np.float32),
        "high": np.array(8000, np.float32),
    }
    check_op("MelWeightMatrix", inputs, constant=tuple(inputs), rtol=1e-5, atol=1e-6)
