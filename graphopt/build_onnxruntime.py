"""Build the executable for ``cpu``, ``cuda`` and ``tensorrt``: optimised ONNX, providers, placement."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

from graphopt.executable import PROBE_BYTES, Executable, ReportDocument, versions
from graphopt.ir import Model
from graphopt.platforms import onnxruntime_version
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
    device = None if target.kind == "cpu" else _device(ort, target)
    plan = ort.lower_ort(
        model, target, strict=strict and device is None, precision=options["precision"], profiles=profiles
    )
    notes = list(plan.notes)
    if device is not None:
        plan, why_not = _settled(ort, model, plan, device)
        notes += [] if why_not is None else [why_not]
        if strict:
            importlib.import_module("graphopt.lowering.cuda.placement").check_strict(plan.placement)
    described = plan.to_json()
    executable = Executable(
        target=target,
        model=model,
        report=ReportDocument(report.to_json(times=False)),
        manifest={
            "versions": versions("onnx", "onnx-ir", "onnxruntime-gpu", "onnxruntime"),
            "pipeline": pipeline,
            "options": dict(options),
            "exactness": report.exactness.value,
            "onnxruntime": {k: v for k, v in described.items() if k not in ("placement", "notes")},
        },
        placement=described.get("placement", []),
        notes=[*notes, *ort.placement_notes(plan)],
        seconds={"passes": report.seconds},
    )
    session_options = executable.manifest["onnxruntime"]["session_options"]
    if options["level"] == 0:
        session_options["graph_optimization_level"] = "ORT_DISABLE_ALL"
    probe_session(executable)
    return executable


def _device(ort: Any, target: Target) -> str | None:
    """The device of `target`, if it is here and can be used."""
    devices = importlib.import_module("graphopt.runtime.devices")
    provider = importlib.import_module("graphopt.lowering.cuda.placement").PROVIDERS[target.kind][0]
    return None if devices.why_unusable(provider) else ", ".join(devices.gpu_names())


def _settled(ort: Any, model: Model, plan: Any, device: str) -> tuple[Any, str | None]:
    """`plan` with ONNX Runtime's own placement; or as it is, with why ONNX Runtime could not be asked."""
    if initializer_bytes(model) >= PROBE_BYTES:
        return plan, "the placement is predicted: the model is too large to be loaded twice"
    import onnx_ir

    data = onnx_ir.to_proto(model).SerializeToString(deterministic=True)
    found, problem = importlib.import_module("graphopt.runtime.ort_assignment").observe(
        data, plan.to_json(nodes=False)
    )
    if found is None:
        return plan, f"the placement is predicted: {problem}"
    if found["fallbacks"]:
        return plan, f"the placement is predicted: {'; '.join(found['fallbacks'])}"
    version = ".".join(map(str, onnxruntime_version()))
    return ort.settle(plan, found, f"ONNX Runtime {version} on {device}"), None


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
