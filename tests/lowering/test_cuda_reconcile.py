"""ONNX Runtime's own placement in the place of the predicted one: in plans, artifacts, and strict runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from checking import model_from
from cuda_double import assigned, why_impossible

import graphopt
from graphopt.cli import main
from graphopt.errors import PolicyError
from graphopt.lowering.cuda.ort import lower_ort, placement_notes, settle
from graphopt.lowering.cuda.placement import CPU, CUDA
from graphopt.lowering.cuda.reconcile import left_on_cpu
from graphopt.runtime import devices, ort_assignment, ort_child
from graphopt.runtime.devices import cuda_device_count
from graphopt.target import Target

TEXT_MODEL = '<ir_version: 9, opset_import: ["" : 18]> '
TEXT = "g (float[4] x) => (float[4] y) { a = Exp(x) b = Asin(a) y = Tanh(b) }"
TEXT_MODEL += TEXT
REASON = why_impossible()


def settled(nodes: dict[str, str], copies: int | None = 2) -> Any:
    plan = lower_ort(model_from(TEXT), Target.parse("cuda"))
    actual = {"nodes": nodes, "copies": copies, "engines": 0, "fallbacks": []}
    return settle(plan, actual, "ONNX Runtime on a planted device")


def test_agreement_is_said_and_changes_nothing() -> None:
    plan = settled({"Exp_0": CUDA, "Asin_1": CPU, "Tanh_2": CUDA})
    assert plan.summary.disagreements == 0
    assert plan.placement == lower_ort(model_from(TEXT), Target.parse("cuda")).placement
    assert plan.to_json()["placement_source"] == "ONNX Runtime on a planted device"
    (note,) = placement_notes(plan)
    assert note.startswith("1 nodes fall back to the CPU: Asin (1); 2 tensors")


def test_what_onnxruntime_decides_wins_and_the_difference_is_shown() -> None:
    plan = settled({"Exp_0": CPU, "Asin_1": CUDA, "Tanh_2": CUDA}, copies=7)
    rows = {p.node: p for p in plan.placement}
    assert (rows["Exp_0"].provider, rows["Exp_0"].kind, rows["Exp_0"].predicted) == (CPU, "fallback", CUDA)
    assert (rows["Asin_1"].provider, rows["Asin_1"].kind, rows["Asin_1"].predicted) == (
        CUDA,
        "accelerator",
        CPU,
    )
    assert rows["Tanh_2"].predicted is None
    assert (plan.summary.disagreements, plan.summary.copies) == (2, 7)
    assert plan.summary.fallback_ops == {"Exp": 1}
    assert "2 nodes elsewhere than predicted" in placement_notes(plan)[-1]


def test_what_was_fused_away_keeps_its_prediction() -> None:
    plan = settled({"Exp_0": CUDA}, copies=None)
    assert plan.summary.disagreements == 0
    assert plan.summary.copies == 2


def test_nodes_that_belong_on_the_cpu_are_no_fallback() -> None:
    rows = [
        {"node": name, "op": "Add", "provider": CUDA, "kind": kind}
        for name, kind in (
            ("a", "accelerator"),
            ("s", "shape"),
            ("f", "folded"),
            ("b", "fallback"),
            ("c", "accelerator"),
        )
    ]
    chosen = dict.fromkeys("asfb", CPU) | {"c": CUDA}
    assert [row["node"] for row in left_on_cpu(rows, chosen)] == ["a", "b"]


# --- with ONNX Runtime's CUDA provider, on a double of the CUDA libraries ----------------------------------


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose GPU can be asked where nodes go."""
    if REASON is not None:
        pytest.skip(f"no double of CUDA: {REASON}")
    monkeypatch.setattr(devices, "why_unusable", lambda provider: None)
    monkeypatch.setattr(devices, "gpu_names", lambda: ("double",))
    monkeypatch.setattr(
        ort_assignment, "observe", lambda model, plan, **_: (assigned([(model, plan)])[0], None)
    )


@pytest.mark.usefixtures("double")
def test_a_compile_beside_a_gpu_asks_onnxruntime(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> {TEXT}'), path)
    executable = graphopt.compile(path, "cuda")
    plan = executable.manifest["onnxruntime"]
    assert plan["placement_source"].endswith("on double")
    assert plan["summary"]["disagreements"] == 0
    assert plan["summary"]["copies"] == 2
    with pytest.raises(PolicyError, match="Asin"):
        graphopt.compile(path, "cuda", strict=True)


# --- without -----------------------------------------------------------------------------------------------


@pytest.mark.skipif(cuda_device_count() > 0, reason="describes a machine without a GPU")
@pytest.mark.parametrize("target", ["cuda", "tensorrt"])
def test_run_refuses_the_cpu_unless_it_is_accepted(tmp_path: Path, target: str) -> None:
    path, folder = tmp_path / "m.onnx", tmp_path / "artifact"
    onnx.save(onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> {TEXT}'), path)
    assert main(["compile", str(path), "-t", target, "-o", str(folder), "-q"]) == 0
    assert main(["run", str(folder), "--random", "-q"]) == PolicyError.exit_code
    assert main(["run", str(folder), "--random", "-q", "--no-strict"]) == 0
    assert main(["run", str(path), "--random", "-q", "-t", "cpu"]) == 0
    loaded = graphopt.load_artifact(folder)
    found = loaded.run({"x": np.full(4, -1.0, np.float32)})
    np.testing.assert_allclose(found["y"], np.tanh(np.arcsin(np.exp(-1.0))), rtol=1e-6)
    assert any("no NVIDIA GPU" in note for note in loaded.notes)


# --- when ONNX Runtime cannot be asked ---------------------------------------------------------------------


def test_a_child_that_fails_dies_or_hangs_leaves_the_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = lower_ort(model_from(TEXT), Target.parse("cpu")).to_json()
    found, problem = ort_assignment.observe(b"no model", plan)
    assert found is None
    assert "GO604" in (problem or "")
    found, problem = ort_assignment.observe(b"no model", plan, timeout_s=0.001)
    assert found is None
    assert "did not load the model in 0 s" in (problem or "")
    killed = "import os; os.kill(os.getpid(), 9)"
    run = subprocess.run
    monkeypatch.setattr(
        ort_child.subprocess, "run", lambda command, **how: run([sys.executable, "-c", killed], **how)
    )
    found, problem = ort_assignment.observe(b"no model", plan)
    assert found is None
    assert "ended its process with -9" in (problem or "")
    monkeypatch.setattr(devices, "why_unusable", lambda provider: None)
    monkeypatch.setattr(devices, "gpu_names", lambda: ("planted",))
    executable = graphopt.compile(TEXT_MODEL, "cuda")
    assert executable.manifest["onnxruntime"]["placement_source"].startswith("predicted")
    assert any("the placement is predicted: ONNX Runtime ended" in note for note in executable.notes)
