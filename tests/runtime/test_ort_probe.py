"""A model that ends ONNX Runtime ends a child process, not the caller's."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from graphopt.runtime import ort_child, ort_probe

PLAN = {
    "schema": "graphopt.ort-plan/1",
    "providers": [["CPUExecutionProvider", {}]],
    "session_options": {"graph_optimization_level": "ORT_ENABLE_ALL"},
}


def test_a_model_that_loads_is_fine() -> None:
    import onnx

    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Relu(x) }'
    assert ort_probe.probe(onnx.parser.parse_model(text).SerializeToString(), PLAN) is None


def test_an_error_is_left_to_whoever_runs_it() -> None:
    assert ort_probe.probe(b"no model", PLAN) is None


def test_a_crash_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\nkill -{int(signal.SIGSEGV)} $$\n")
    os.chmod(script, 0o755)
    monkeypatch.setattr(ort_child.sys, "executable", str(script))
    assert ort_probe.probe(b"", PLAN) == "crashed with SIGSEGV"


def test_a_hang_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    os.chmod(script, 0o755)
    monkeypatch.setattr(ort_child.sys, "executable", str(script))
    assert ort_probe.probe(b"", PLAN, timeout_s=0.5) == "did not finish in 0 s"
