"""Statistics of weights: right on small tensors, bounded on large ones, none where there are no numbers."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir
import pytest

from graphopt.ir import LazyTensor, StringTensor
from graphopt.viz import statistics as module
from graphopt.viz.statistics import BINS, MAX_TENSOR_BYTES, describe, rounded, statistics


def of(array: Any) -> dict[str, Any]:
    """The statistics of `array`."""
    found = describe(onnx_ir.tensor(np.asarray(array)))
    assert found is not None
    return found


def test_figures_are_those_of_numpy() -> None:
    data = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    data[:10] = 0
    found = of(data)
    wide = data.astype(np.float64)
    assert found["n"] == 1000 and found["zeros"] == 10 and found["nonfinite"] == 0
    assert (found["min"], found["max"]) == (wide.min(), wide.max())
    assert found["mean"] == pytest.approx(wide.mean()) and found["std"] == pytest.approx(wide.std())
    assert len(found["hist"]) == BINS and sum(c for *_, c in found["hist"]) == 1000
    assert found["hist"][0][0] == wide.min() and found["hist"][-1][1] == wide.max()
    assert "sampled" not in found and "shown" not in found


def test_small_tensors_are_shown_in_full() -> None:
    assert of([1.5, -2.0])["shown"] == "1.5, -2"
    assert of(np.array([-7, 2**63 - 1], np.int64))["shown"] == "-7, 9223372036854775807"
    assert of(np.array([True, False]))["shown"] == "1, 0"


def test_numbers_that_are_not_finite_are_counted_apart() -> None:
    found = of(np.array([math.nan, math.inf, -math.inf, *range(10)], np.float32))
    assert found["nonfinite"] == 3 and (found["min"], found["max"]) == (0.0, 9.0)
    assert sum(c for *_, c in found["hist"]) == 10
    alone = of(np.full(20, math.nan, np.float32))
    assert alone["nonfinite"] == 20 and "min" not in alone and "hist" not in alone


@pytest.mark.parametrize(
    "array",
    [
        np.full(50, 3.0, np.float32),
        np.array([-1.7e308, 1.7e308] * 10),
        np.array([1e16, 1e16 + 2] * 10),
        np.array([5e-324, 0.0] * 10),
        np.arange(20, dtype=np.uint64) + 2**63,
        np.arange(20).astype(ml_dtypes.bfloat16),
        np.arange(20).astype(ml_dtypes.float8_e4m3fn),
        np.arange(-8, 8).astype(ml_dtypes.int4),
        np.zeros((0, 3), np.float32),
    ],
    ids=lambda a: f"{a.dtype}-{a.size}",
)
def test_odd_tensors_give_finite_figures(array: np.ndarray) -> None:
    found = describe(onnx_ir.tensor(array))
    if array.size == 0:
        assert found is None
        return
    assert found is not None
    found = rounded(found)
    numbers = [v for v in found.values() if isinstance(v, float)] + [
        x for row in found.get("hist", []) for x in row
    ]
    assert all(math.isfinite(x) for x in numbers)


def test_what_holds_no_numbers_has_none() -> None:
    assert describe(StringTensor([b"a"], shape=onnx_ir.Shape([1]))) is None
    assert describe(onnx_ir.tensor(np.array([1j], np.complex64))) is None


class Watched:
    """A tensor that says how much of it is read."""

    def __init__(self, size: int) -> None:
        self.size, self.nbytes, self.dtype = size, 4 * size, onnx_ir.DataType.FLOAT
        self.shape = onnx_ir.Shape([size])
        self.read = 0

    def numpy(self) -> Any:
        tensor = self

        class Flat:
            size, dtype = tensor.size, np.dtype(np.float32)

            def reshape(self, *_: int) -> Flat:
                return self

            def __getitem__(self, part: slice) -> np.ndarray:
                tensor.read += 4 * (part.stop - part.start)
                return np.arange(part.start, part.stop, dtype=np.float32)

        return Flat()


def test_no_more_than_the_budgets_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    large = Watched(10_000_000)
    found = describe(large)
    assert found is not None and found["sampled"]
    assert large.read == MAX_TENSOR_BYTES
    assert found["min"] == 0 and found["max"] == 9_999_999, "the first and the last block are in it"
    monkeypatch.setattr(module, "MAX_TOTAL_BYTES", 3 * MAX_TENSOR_BYTES)
    many = [Watched(1_000_000) for _ in range(10)]
    assert len(statistics(enumerate(many))) == 3
    assert sum(t.read for t in many) == 3 * MAX_TENSOR_BYTES
    monkeypatch.setattr(module, "MAX_TENSORS", 2)
    assert len(statistics((i, onnx_ir.tensor(np.ones(4))) for i in range(5))) == 2


def test_a_large_tensor_that_must_be_made_as_a_whole_is_left_alone() -> None:
    def fail() -> Any:
        raise AssertionError("it was made")

    lazy = LazyTensor(fail, dtype=onnx_ir.DataType.FLOAT, shape=onnx_ir.Shape([1 << 20]))
    assert describe(lazy) is None
