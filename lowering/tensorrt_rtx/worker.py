"""The child process that builds a TensorRT-RTX engine, or only lets the parser look at a model.

Run as ``python -m graphopt.lowering.tensorrt_rtx.worker FOLDER``: reads ``request.json`` and ``model.onnx``
there, writes ``result.json`` and, unless something was refused, ``engine.bin``. How far it is stands in
``progress.json``. It is a process of its own so that the builder's messages, memory and crashes stay in it.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from graphopt.lowering.tensorrt_rtx.refusals import every_refusal

PROGRESS_S = 0.1
LAYERS = "Layers:\n"
"""What the builder logs when it is done: one line for each layer of the engine, and its inputs and outputs.
The inspector of the API says the same, but of a deserialised engine, which takes a GPU."""

_MEMORY = re.compile(r"(Total Activation|Total Weights|Max Scratch) Memory: (\d+) bytes\Z")
_ACCUSED = re.compile(r"\(I\w+Layer (.+?): ")


def main(folder: Path) -> None:
    """Do what the request in `folder` says."""
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    _write(folder, _work(folder, request))


def _write(folder: Path, result: dict[str, Any]) -> None:
    half = folder / "result.half"
    half.write_text(json.dumps(result), encoding="utf-8")
    half.replace(folder / "result.json")


def _work(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    import tensorrt_rtx as trt

    logger = _logger(trt)
    # A library of another version than its Python part ends the process: say so first.
    builder = trt.Builder(logger)
    flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    network = builder.create_network(1 << int(flag))
    parser = trt.OnnxParser(network, logger)
    _say(folder, "parse", 0, 0)
    parsed = parser.parse_from_file(str(folder / "model.onnx"))
    result: dict[str, Any] = {"compiler": f"tensorrt_rtx {trt.__version__}"}
    refused = _parser_errors(parser)
    if not parsed or refused:

        def parse(path: Path) -> list[dict[str, Any]]:
            rest = builder.create_network(1 << int(flag))  # it must outlive its parser
            again = trt.OnnxParser(rest, logger)
            return [] if again.parse_from_file(str(path)) else _parser_errors(again)

        refused = refused or [{"code": "PARSER", "message": logger.last_error()}]
        # What is known is kept, should the parser die on what it is given next.
        _write(folder, {**result, "refused": refused})
        return {**result, "refused": every_refusal(folder, refused, parse)}
    unbound = [t.name for t in _inputs(network) if t.is_shape_tensor]
    if unbound:
        return {**result, "shape_inputs": unbound}
    if request["stage"] == "parse":
        return result
    config = _config(trt, builder, network, request)
    config.progress_monitor = _monitor(trt, folder)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        return {**result, "build_error": _build_error(logger.errors, network)}
    with (folder / "engine.bin").open("wb") as stream:
        stream.write(engine)
    return {**result, "layers": logger.layers, "memory": logger.memory, "network_layers": network.num_layers}


def _inputs(network: Any) -> list[Any]:
    return [network.get_input(i) for i in range(network.num_inputs)]


def _config(trt: Any, builder: Any, network: Any, request: dict[str, Any]) -> Any:
    """The builder's configuration: capabilities, profile, no TF32 unless asked for, layers told in full."""
    config = builder.create_builder_config()
    names = request["capabilities"]
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(getattr(trt.ComputeCapability, name.upper()), index)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if not request["tf32"]:
        config.clear_flag(trt.BuilderFlag.TF32)
    if request["profile"]:
        profile = builder.create_optimization_profile()
        for tensor in _inputs(network):
            if tensor.name in request["profile"]:
                profile.set_shape(tensor.name, *(tuple(shape) for shape in request["profile"][tensor.name]))
        config.add_optimization_profile(profile)
    return config


def _parser_errors(parser: Any) -> list[dict[str, Any]]:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return [
        {
            "code": error.code().name,
            "node": error.node_name(),
            "op_type": error.node_operator(),
            "message": error.desc(),
        }
        for error in errors
    ]


def _build_error(errors: list[str], network: Any) -> dict[str, Any]:
    """What the builder says, and the ONNX node behind the layer that it blames, if it blames one."""
    message = errors[0] if errors else "the builder gave no engine and no reason"
    by_name = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        by_name[layer.name] = layer.metadata
    accused = _ACCUSED.search(message)
    quoted = re.findall(r"'([^']+)'", message)
    names = [accused.group(1)] if accused else []
    # Of names that others begin with, the longest is meant.
    named = sorted((n for n in by_name if n and n in message), key=len, reverse=True)
    for name in [*names, *quoted, *named]:
        if by_name.get(name):
            return {"message": message, "metadata": by_name[name]}
    return {"message": message, "metadata": ""}


def _logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        """Keeps what matters of the builder's log."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.layers = ""
            self.memory: dict[str, int] = {}

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)
                os.write(2, f"{message}\n".encode(errors="replace"))
            elif message.startswith(LAYERS):
                self.layers = message.removeprefix(LAYERS)
            elif found := _MEMORY.match(message):
                self.memory[found.group(1)] = int(found.group(2))

        def last_error(self) -> str:
            return self.errors[-1] if self.errors else "the parser gave no reason"

    return Logger()


def _monitor(trt: Any, folder: Path) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Writes the phase that began last, and how far it is."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.told = 0.0

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = steps
            self._tell(phase, 0)

        def step_complete(self, phase: str, step: int) -> bool:
            self._tell(phase, step + 1)
            return True

        def phase_finish(self, phase: str) -> None:
            self.steps.pop(phase, None)

        def _tell(self, phase: str, step: int) -> None:
            now = time.monotonic()
            if now - self.told >= PROGRESS_S:
                self.told = now
                _say(folder, phase, step, self.steps.get(phase, 0))

    return Monitor()


def _say(folder: Path, phase: str, step: int, steps: int) -> None:
    half = folder / "progress.half"
    half.write_text(json.dumps({"phase": phase, "step": step, "steps": steps}), encoding="utf-8")
    half.replace(folder / "progress.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
