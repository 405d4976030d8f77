"""verify(): agreement is reported as such, a difference is found, named and written down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from graphopt.errors import AccuracyError
from graphopt.transform import Exactness
from graphopt.verification import run_reference, verify

MODEL = onnx.parser.parse_model(
    '<ir_version: 10, opset_import: ["" : 19]> '
    "g (float[N, 4] x) => (float[N, 4] y, float[N] s) <int64[1] axis = {1}> "
    "{ y = Exp(x) s = ReduceSum<keepdims = 0>(y, axis) }"
)


def itself(feeds: dict[str, np.ndarray]) -> dict[str, Any]:
    return dict(run_reference(MODEL, feeds, isolate=False))


def test_a_model_agrees_with_itself_to_the_bit() -> None:
    report = verify(itself, MODEL, runs=3, exactness=Exactness.BIT_EXACT)
    assert report.ok
    assert report.inputs == [f"generated with seed {i}" for i in range(3)]
    assert len(report.runs) == 3
    assert report.engine.startswith("ONNX Runtime")
    assert len(report.table()) == 1 + 3 * 2
    report.raise_if_different()
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["ok"] is True


def test_rounding_in_another_order_agrees_unless_bits_were_promised() -> None:
    def reordered(feeds: dict[str, np.ndarray]) -> dict[str, Any]:
        y = np.exp(feeds["x"].astype(np.float64)).astype(np.float32)
        return {"y": y, "s": (y[:, ::-1].sum(axis=1) * np.float32(1 + 2e-7)).astype(np.float32)}

    assert verify(reordered, MODEL, runs=2).ok
    assert not verify(reordered, MODEL, runs=2, exactness=Exactness.BIT_EXACT).ok


def test_one_wrong_number_in_one_run_is_found_and_named() -> None:
    calls = []

    def wrong(feeds: dict[str, np.ndarray]) -> dict[str, Any]:
        calls.append(feeds)
        outputs = itself(feeds)
        if len(calls) == 2:
            outputs["s"][1] *= 1.01
        return outputs

    given = [{"x": np.full((2, 4), i, np.float32)} for i in range(3)]
    report = verify(wrong, MODEL, feeds_list=given, isolate=False)
    assert [run.ok for run in report.runs] == [True, False, True]
    with pytest.raises(AccuracyError) as caught:
        report.raise_if_different()
    assert caught.value.code == "GO401"
    text = str(caught.value)
    assert "output 's'" in text
    assert "at [1]" in text
    assert "given, set 1" in text


def test_callers_cannot_change_the_reference_through_the_feeds() -> None:
    def spoils(feeds: dict[str, np.ndarray]) -> dict[str, Any]:
        outputs = itself(feeds)
        feeds.clear()
        return outputs

    assert verify(spoils, MODEL, runs=2).ok


def test_a_large_model_is_verified_by_path(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(MODEL, path)
    assert verify(itself, path, dims={"N": 5}).runs[0].outputs[0].shape == (5, 4)
