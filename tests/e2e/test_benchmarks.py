"""The benchmark of the optimiser works on a sample, and calls a wrong answer and a changed interface wrong."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "samples" / "generated" / "mnist-cnn.onnx"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("optimizer")


def test_figures_of_a_sample(tmp_path: Path) -> None:
    shutil.copy(SAMPLE, tmp_path)
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    figures = tmp_path / "figures.json"
    script = [sys.executable, str(ROOT / "benchmarks" / "optimizer.py"), str(tmp_path), "--seconds", "0.01"]
    done = subprocess.run(
        [*script, "--json", str(figures)], capture_output=True, text=True, timeout=120, cwd=ROOT, check=False
    )
    assert done.returncode == 1, done.stderr  # for the one that is broken
    broken, good = json.loads(figures.read_text(encoding="utf-8"))["rows"]
    assert broken["model"] == "broken" and broken["failed"]
    assert good["sizes"] == 2
    for way in ("plain", "cpu"):
        found = good["ways"][way]
        assert found["wrong"] == []
        assert 0 < found["nodes"] <= good["nodes"]
        assert found["latency"]["ratio"] > 0 and found["seconds"] > 0
    assert "plain: models 2.000" in done.stdout and "wrong 1.000" in done.stdout


def test_what_is_wrong_is_found(tmp_path: Path, benchmark: ModuleType) -> None:
    raw, made = tmp_path / "raw.onnx", tmp_path / "made.onnx"
    text = '<ir_version: 8, opset_import: ["": 18]> g (float[N, 4] x) => (float[N, 4] y) { y = %s(x) }'
    onnx.save(onnx.parser.parse_model(text % "Relu"), raw)
    feeds = [{"x": np.full((2, 4), 1.5, np.float32)}]

    def wrong(model: str) -> list[str]:
        onnx.save(onnx.parser.parse_model(model), made)
        found: list[str] = benchmark.wrong(raw, made, feeds, benchmark.plan("ORT_ENABLE_ALL"))
        return found

    assert wrong(text % "Relu") == []
    assert wrong((text % "Relu").replace("N, 4] y", "2, 4] y")) == []
    assert wrong((text % "Relu").replace("N, 4] y", "M, 4] y")) == ["interface changed"]
    assert wrong((text % "Relu").replace("N, 4] x", "2, 4] x")) == ["interface changed"]
    assert len(wrong(text % "Exp")) == 2  # without and with ONNX Runtime's optimisations


def test_nodes_of_bodies_count(benchmark: ModuleType) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 18]> g (bool c, float[4] x) => (float[4] y) {
            y = If(c) <then_branch = a () => (float[4] p) { q = Relu(x) p = Exp(q) },
                       else_branch = b () => (float[4] r) { r = Neg(x) }>
        }"""
    )
    assert benchmark.count_nodes(model) == 4


def test_figures_of_reports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    report = importlib.import_module("report")
    row = report.measure(report.layered(60), tmp_path)
    assert row["nodes"] == 61 and row["nodes after"] < 61 and row["versions"] > 61
    assert (tmp_path / "model-61.html").stat().st_size >= row["page bytes"]
    assert "optimize, watched" in row["seconds"]
