"""The ranges of values inside a model, as they are observed on feeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from checking import model_from

from graphopt.errors import ModelError
from graphopt.ir import DataType
from graphopt.transform import ValueRange
from graphopt.transform.calibration import observable
from graphopt.verification.observation import observe_ranges

MODEL = """g (float[N] x, float k) => (float[N] y) <float one = {1.0}> {
    a = Add(x, one) l = Log(a) z = Sub(a, a) m = Mul(a, k) y = Neg(m)
}"""
FEEDS = [
    {"x": np.array([-1, 0, 3], np.float32), "k": np.float32(2)},
    {"x": np.array([9.5], np.float32), "k": np.float32(-2), "other": np.zeros(3)},
]


@pytest.mark.parametrize("chunk_bytes", [1, 1 << 20])
def test_ranges_over_all_feeds(chunk_bytes: int) -> None:
    model = model_from(MODEL)
    names = observable(model, DataType.FLOAT)
    assert sorted(names) == ["a", "k", "l", "m", "x", "y", "z"]
    found = observe_ranges(model, names, FEEDS, chunk_bytes=chunk_bytes)
    assert found["x"] == ValueRange(-1, 9.5, 1)
    assert found["a"] == ValueRange(0, 10.5, 1)
    assert found["l"] == ValueRange(0, pytest.approx(math.log(10.5)), pytest.approx(math.log(4)), True)
    assert found["z"] == ValueRange(0, 0, math.inf) and found["z"].largest == 0
    assert found["m"] == ValueRange(-21, 8, 2) and found["y"] == ValueRange(-8, 21, 2)


def test_only_what_is_asked_for_and_has_numbers() -> None:
    model = model_from(MODEL)
    feeds = [{"x": np.zeros(0, np.float32), "k": np.float32(1)}]
    assert observe_ranges(model, ["a", "k"], feeds) == {"k": ValueRange(1, 1, 1)}
    nan = [{"x": np.full(2, np.nan, np.float32), "k": np.float32(1)}]
    assert "a" not in observe_ranges(model, ["a"], nan)


def test_feeds_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(ModelError, match="GO604"):
        observe_ranges(model_from(MODEL), ["a"], [{"x": np.zeros((2, 2), np.float32)}])
