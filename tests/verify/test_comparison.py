"""Comparison: what counts as equal, and what is told about what is not."""

from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from graphopt.transform import Exactness
from graphopt.verification.comparison import Tolerance, compare, tolerance_for

EXACT, REASSOCIATES, LOSSY = Exactness.BIT_EXACT, Exactness.REASSOCIATES, Exactness.LOSSY


def ok(expected: Any, actual: Any, exactness: Exactness = REASSOCIATES, **options: Any) -> bool:
    return compare({"y": np.asarray(expected)}, {"y": np.asarray(actual)}, exactness, **options).ok


def test_bit_exact_allows_nothing_but_nan_equals_nan() -> None:
    x = np.array([1.0, np.nan, np.inf, -0.0], np.float32)
    assert ok(x, x.copy(), EXACT)
    assert not ok(
        x, np.array([np.nextafter(np.float32(1), np.float32(2)), np.nan, np.inf, 0], np.float32), EXACT
    )
    assert not ok(np.array([1e-45], np.float32), np.array([0], np.float32), EXACT)


def test_the_range_of_the_output_sets_what_a_sum_may_lose() -> None:
    # A cancelled sum: terms of 1000 that add up to about 0.
    assert ok(np.array([1000, 1e-6], np.float32), np.array([1000, 2e-3], np.float32))
    assert not ok(np.array([1000, 1e-6], np.float32), np.array([1000, 5e-2], np.float32))
    assert not ok(np.array([1, 1e-6], np.float32), np.array([1, 2e-3], np.float32))


@pytest.mark.parametrize(
    ("dtype", "error", "fits"),
    [
        (np.float64, 5e-10, True),
        (np.float64, 1e-7, False),
        (np.float32, 5e-5, True),
        (np.float32, 1e-3, False),
        (np.float16, 5e-3, True),
        (np.float16, 0.05, False),
        (ml_dtypes.bfloat16, 0.02, True),
        (ml_dtypes.bfloat16, 0.1, False),
    ],
)
def test_tolerance_follows_the_type(dtype: Any, error: float, fits: bool) -> None:
    assert ok(np.array([1.0], dtype), np.array([1.0 + error], dtype)) is fits


def test_lossy_results_are_held_to_the_narrow_type() -> None:
    x, y = np.array([1.0], np.float32), np.array([1.008], np.float32)
    assert not ok(x, y)
    assert ok(x, y, LOSSY, precision="fp16")
    assert not ok(x, y, LOSSY, precision="fp32")
    assert not ok(x, y + 0.05, LOSSY, precision="bf16")
    assert ok(x, y + 0.05, LOSSY, precision="fp8")


@pytest.mark.parametrize("narrow", ["tf32", "fp16", "bf16", "fp8"])
def test_lossy_is_never_tighter_than_reassociating(narrow: str) -> None:
    for dtype in ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn"):
        own, lossy = tolerance_for(dtype, REASSOCIATES), tolerance_for(dtype, LOSSY, narrow)
        assert lossy.rtol >= own.rtol
        assert lossy.atol_of_range >= own.atol_of_range


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        (np.array([1, 2]), np.array([1, 3])),
        (np.array([True]), np.array([False])),
        (np.array(["a"], object), np.array(["b"], object)),
        (np.array([2**63], np.uint64), np.array([2**63 + 1], np.uint64)),
    ],
)
def test_whole_numbers_booleans_and_strings_are_exact_even_when_lossy(expected: Any, actual: Any) -> None:
    assert ok(expected, expected.copy(), LOSSY)
    assert not ok(expected, actual, LOSSY)


@pytest.mark.parametrize(
    ("expected", "actual"),
    [([np.nan], [0.0]), ([0.0], [np.nan]), ([np.inf], [-np.inf]), ([np.inf], [3e38]), ([np.inf], [np.nan])],
)
def test_nan_and_infinities_must_stand_in_place(expected: list[float], actual: list[float]) -> None:
    result = compare(
        {"y": np.array(expected, np.float32)}, {"y": np.array(actual, np.float32)}, LOSSY, precision="fp8"
    )
    assert not result.ok
    assert result.outputs[0].nonfinite_mismatches == 1


def test_types_shapes_and_missing_outputs() -> None:
    y = np.zeros((2, 1), np.float32)
    for other in (y.astype(np.float64), y.reshape(1, 2), y.reshape(2)):
        assert not compare({"y": y}, {"y": other}).ok
    assert compare({"y": y}, {}).outputs[0].problem == "the output is missing"
    assert not compare({}, {"y": y}).ok
    assert compare({"y": y[:0]}, {"y": y[:0]}).ok


def test_sequences_compare_item_by_item() -> None:
    one, two = np.ones(1), np.zeros(2)
    assert compare({"q": [one, two]}, {"q": [one, two]}).ok
    assert not compare({"q": [one, two]}, {"q": [one]}).ok
    assert not compare({"q": [one]}, {"q": [one, two]}).ok
    assert not compare({"q": [one, two]}, {"q": [one, two + 1]}).ok


def test_numbers_by_hand() -> None:
    expected = np.array([[1.0, 2.0], [4.0, 8.0]])
    actual = np.array([[1.0, 2.5], [4.0, 7.0]])
    output = compare({"y": expected}, {"y": actual}, Tolerance(0.1, 0.0)).outputs[0]
    assert output.max_abs_error == 1.0
    assert output.max_rel_error == 0.25
    assert output.mean_abs_error == 0.375
    assert output.mismatches == 2
    assert output.worst_index == (0, 1)  # 0.5 over by 0.3; 1.0 over by 0.2
    assert (output.worst_expected, output.worst_actual) == (2.0, 2.5)


def test_complex_numbers_compare_by_magnitude() -> None:
    assert ok(np.array([1 + 1j], np.complex64), np.array([1 + 1.00001j], np.complex64))
    assert not ok(np.array([1 + 1j], np.complex64), np.array([1 - 1j], np.complex64))


def test_report_is_json_and_table() -> None:
    result = compare({"y": np.array([np.inf]), "n": np.array(1)}, {"y": np.array([np.nan]), "n": np.array(1)})
    text = json.dumps(result.to_json(), allow_nan=False)
    assert json.loads(text)["outputs"][0]["worst_expected"] == "inf"
    rows = result.table()
    assert [row[0] for row in rows] == ["output", "y", "n"]
    assert rows[2][-1] == "ok"
    assert result.worst is result.outputs[0]
