"""Build the executable for ``tensorrt-rtx``: an engine for named GPUs, built where there is none."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from graphopt import artifact
from graphopt.executable import Executable, ReportDocument, versions
from graphopt.ir import Model
from graphopt.target import Target
from graphopt.transform import Report

if TYPE_CHECKING:
    from graphopt.lowering.tensorrt_rtx.build import Engine

Say = Callable[[str, int, int], None] | None


def lower_tensorrt_rtx(
    model: Model,
    target: Target,
    report: Report,
    pipeline: str,
    options: Mapping[str, Any],
    *,
    profiles: Mapping[str, tuple[int, int, int]],
    say: Say = None,
    compiler: Mapping[str, Any] | None = None,
) -> Executable:
    """The executable for ``tensorrt-rtx``: one engine for all compute capabilities that were named.

    Args:
        profiles: dimension name → its smallest, likeliest and largest size.
        compiler: how the builder is run: ``timeout_s``, ``cache``, ``tick`` and the like, as
            :func:`graphopt.lowering.tensorrt_rtx.build.build_engine` takes them.

    Raises:
        UnsupportedError: GO207, TensorRT-RTX is not installed.
        LoweringError: it does not take the model, or died on it.
    """
    build = importlib.import_module("graphopt.lowering.tensorrt_rtx.build")
    build.require_installed()
    about = {
        "model": model.graph.name or "",
        "dims": ", ".join(f"{name}={size}" for name, size in options["dims"].items()),
        "precision": str(options["precision"]),
        "level": f"-O{options['level']}",
        "pipeline": pipeline,
    }
    if say is not None:
        say("build the engine with TensorRT-RTX", 0, 0)
    engine: Engine = build.build_engine(
        model,
        target,
        ranges=profiles,
        tf32=options["precision"] == "tf32",
        about=about,
        say=say,
        **(compiler or {}),
    )
    executable = Executable(
        target=target,
        model=model,
        report=ReportDocument(report.to_json(times=False)),
        manifest={
            "versions": versions("onnx", "onnx-ir", "tensorrt_rtx"),
            "pipeline": pipeline,
            "options": dict(options),
            "exactness": report.exactness.value,
        },
        seconds={"passes": report.seconds, "compiler": engine.seconds},
        cache={"hit": engine.cached, "remark": engine.remark},
    )
    _describe(executable, engine)
    return executable


def _describe(executable: Executable, engine: Engine) -> None:
    """The engine's files, its layers laid on the nodes, and its memory."""
    layers = importlib.import_module("graphopt.lowering.tensorrt_rtx.layers")
    epcontext = importlib.import_module("graphopt.lowering.tensorrt_rtx.epcontext")
    model, target = executable.model, executable.target
    rows = layers.read_layers(engine.layers, model)
    executable.kernels = rows
    executable.files |= {
        artifact.ENGINE: engine.data,
        artifact.CONTEXT: epcontext.context_model(
            model,
            engine_file=artifact.ENGINE,
            model_file=artifact.MODEL,
            capabilities=target.capabilities,
            sdk_version=engine.compiler.partition(" ")[2],
        ),
    }
    executable.manifest["compiler"] = {
        "name": engine.compiler,
        "topology": None,
        "device_kind": "compute capability " + ", ".join(target.capabilities),
    }
    executable.manifest["engine"] = {
        "bytes": len(engine.data),
        "profile": {name: [list(shape) for shape in shapes] for name, shapes in engine.profile.items()},
        "nodes_without_layer": layers.without_layer(rows, model),
    }
    memory = engine.memory
    total = memory["weights"] + memory["activations"]
    executable.memory = {**memory, "hbm": total, "peak": total}
    if not rows:
        executable.notes.append(
            f"{engine.compiler} tells nothing about its layers: none can be laid on the nodes"
        )
    executable.notes.append(
        f"the engine runs on GPUs of compute capability {', '.join(target.capabilities)}; it was not run here"
    )
