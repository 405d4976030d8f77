"""Rounding that a model blows up is told from a wrong answer."""

from __future__ import annotations

import numpy as np
from checking import model_from

from graphopt.transform import Exactness
from graphopt.verification import Tolerance, verify

# A large sum before a steep activation: z = 3000·Σx - 24010 is about -10, and known to about 1e-3 only.
STEEP = """g (float[8] x) => (float[8] y) <float gain = {3000.0}, float shift = {24010.0}, int64[1] axis = {0}> {
    total = ReduceSum(x, axis)
    scaled = Mul(total, gain)
    z = Sub(scaled, shift)
    each = Mul(z, x)
    y = Sigmoid(each)
}"""
TIGHT = Tolerance(1e-4, 1e-5)  # that of float32, without the measured noise
FLAT = "g (float[8] x) => (float[8] y) { y = Tanh(x) }"
X = np.linspace(0.99, 1.01, 8, dtype=np.float32)


def report(model: str, result: np.ndarray) -> bool:
    return verify(
        lambda _: {"y": result},
        model_from(model),
        feeds_list=[{"x": X}],
        exactness=Exactness.REASSOCIATES,
        isolate=False,
    ).ok


def steep(scale: float = 1.0) -> np.ndarray:
    x = X.astype(np.float64) * scale
    return (1 / (1 + np.exp(-(3000 * x.sum() - 24010) * x))).astype(np.float32)


def test_rounding_that_is_blown_up_is_allowed() -> None:
    (plain,) = verify(
        lambda _: {"y": steep()}, model_from(STEEP), feeds_list=[{"x": X}], exactness=TIGHT, isolate=False
    ).runs
    assert not plain.ok, "the example is too tame to show anything"
    assert report(STEEP, steep())


def test_a_wrong_answer_stays_wrong() -> None:
    assert not report(STEEP, steep(1 + 1e-4))
    assert not report(FLAT, (np.tanh(X) * 1.001).astype(np.float32))
    assert not report(FLAT, np.tanh(X) + np.float32(2e-4))


def test_a_well_conditioned_model_gets_no_more_room() -> None:
    assert report(FLAT, np.tanh(X).astype(np.float32))
    assert not report(FLAT, (np.tanh(X) * (1 + 3e-3)).astype(np.float32))
