"""Build the executable for ``cpu``, ``cuda`` and ``tensorrt``: optimised ONNX, providers, placement."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

from graphopt.executable import PROBE_BYTES, Executable, versions
from graphopt.ir import Model
from graphopt.target import Target
from graphopt.transform import Report
from graphopt.transform.pipeline import initializer_bytes


def lower_onnxruntime(
    model: Model,
    target: Target,
    report: Report,
    pipeline: str,
    options: Mapping[str, Any],
    *,
    strict: bool,
    profiles: Mapping[str, tuple[int, int, int]],
) -> Executable:
    """The executable for ``cpu``, ``cuda`` and ``tensorrt``: optimised ONNX, providers, placement.

    Raises PolicyError (GO501) under `strict` when a node would fall back to the CPU.
    """
    _lower_ir_version(model)
    ort = importlib.import_module("graphopt.lowering.cuda.ort")
    plan = ort.lower_ort(model, target, strict=strict, precision=options["precision"], profiles=profiles)
    described = plan.to_json()
    executable = Executable(
        target=target,
        model=model,
        report=report.to_json(times=False),
        manifest={
            "versions": versions("onnx", "onnx-ir", "onnxruntime-gpu", "onnxruntime"),
            "pipeline": pipeline,
            "options": dict(options),
            "exactness": report.exactness.value,
            "onnxruntime": {k: v for k, v in described.items() if k not in ("placement", "notes")},
        },
        placement=described.get("placement", []),
        notes=list(described.get("notes", [])),
        seconds={"passes": report.seconds},
    )
    session_options = executable.manifest["onnxruntime"]["session_options"]
    if options["level"] == 0:
        session_options["graph_optimization_level"] = "ORT_DISABLE_ALL"
    probe_session(executable)
    return executable


def with_session_choices(executable: Executable, choices: Mapping[str, Any]) -> Executable:
    """`executable` as it runs when `choices` are made about its session; the model is shared.

    Args:
        choices: by the names of :func:`graphopt.lowering.cuda.choices.session_axes`; others are left out.
    """
    choosing = importlib.import_module("graphopt.lowering.cuda.choices")
    plan = choosing.with_choices(executable.manifest["onnxruntime"], choices)
    made = dataclasses.replace(
        executable,
        manifest={**executable.manifest, "onnxruntime": plan},
        notes=list(executable.notes),
        folder=None,
        _session=None,
    )
    if plan["session_options"] != executable.manifest["onnxruntime"]["session_options"]:
        probe_session(made)
    return made


def probe_session(executable: Executable) -> None:
    """Turn ONNX Runtime's optimisers off if it does not survive them on this model."""
    settings = executable.manifest["onnxruntime"]["session_options"]
    off = settings["graph_optimization_level"] == "ORT_DISABLE_ALL"
    if not off and initializer_bytes(executable.model) < PROBE_BYTES:
        _probe(executable, settings)


def _lower_ir_version(model: Model) -> None:
    """Write the IR version that the model's opsets need, not a newer one that runtimes may refuse."""
    import onnx.helper

    imports = [
        onnx.helper.make_opsetid(d, v) for d, v in model.opset_imports.items() if d in ("", "ai.onnx.ml")
    ]
    needed = max(onnx.helper.find_min_ir_version_for(imports, ignore_unknown=True), 8)
    model.ir_version = min(model.ir_version or needed, needed)


def _probe(executable: Executable, session_options: dict[str, Any]) -> None:
    """Turn ONNX Runtime's optimisers off if it does not survive them on this model."""
    probe = importlib.import_module("graphopt.runtime.ort_probe").probe
    ended = probe(executable.model_path_or_bytes(), executable.manifest["onnxruntime"])
    if ended is not None:
        session_options["graph_optimization_level"] = "ORT_DISABLE_ALL"
        executable.notes.append(
            f"ONNX Runtime {ended} while it optimised this model: its own optimisations are turned off"
        )
