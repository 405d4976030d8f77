"""Executables: a lowered model that runs here, explains itself, and saves itself as an artifact."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from graphopt import artifact
from graphopt.errors import GraphoptError, LoweringError
from graphopt.ir import DataType, Model, SymbolicDim, Value
from graphopt.ir.io import read, save
from graphopt.ir.provenance import origins
from graphopt.target import Target
from graphopt.transform import Report
from graphopt.transform.pipeline import initializer_bytes

if TYPE_CHECKING:
    from graphopt.lowering.xla.aot import Compiled
    from graphopt.lowering.xla.export import Exported

PROBE_BYTES = 1 << 30
"""Larger models are not loaded once more just to see whether ONNX Runtime survives it."""

MAX_REASON = 240
"""Symbolic shapes can make an error message very long."""

Say = Callable[[str, int, int], None] | None


class Session(Protocol):
    """What runs an executable: ONNX Runtime or XLA."""

    def run(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The outputs by name."""


@dataclasses.dataclass
class Executable:
    """A compiled model.

    Attributes:
        target: what it was compiled for.
        model: the optimised graph.
        report: what the pipeline did, as a JSON-ready dict (schema ``graphopt.report/1``).
        cost: cycles per node by the target compiler's estimate, what bounds each, padding and advice, as
            a dict; None where no such compiler ran.
        memory: device memory in bytes by use (``hbm`` is their sum, ``peak`` the most in use at once, by
            the tensors in ``alive_at_peak``); None where no compiler ran.
        placement: what would not run on the target's accelerator, and why.
        notes: everything a user should know: what was not done, what runs elsewhere.
        manifest: the rest of what the artifact records.
        files: the target's own files by name.
        cache: whether the compile cache had it, and what is worth knowing about that; not saved.
    """

    target: Target
    model: Model
    report: dict[str, Any]
    manifest: dict[str, Any]
    cost: dict[str, Any] | None = None
    memory: dict[str, Any] | None = None
    placement: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    folder: Path | None = None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    cache: dict[str, Any] | None = None
    _session: Session | None = dataclasses.field(default=None, repr=False)
    _scratch: tempfile.TemporaryDirectory[str] | None = dataclasses.field(default=None, repr=False)

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """Name, dtype and shape of every input."""
        return [_spec(v) for v in self.model.graph.inputs]

    @property
    def outputs(self) -> list[dict[str, Any]]:
        """Name, dtype and shape of every output."""
        return [_spec(v) for v in self.model.graph.outputs]

    def run(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Run the model.

        Args:
            feeds: an array for each input, by name, of exactly the input's dtype.

        Returns:
            The outputs by name.

        Raises:
            FeedError: GO603, a feed is missing, unknown, or of another dtype or shape.
        """
        return self.session().run(feeds)

    def session(self, **options: Any) -> Session:
        """The session that :meth:`run` uses, made on first use. Its fallbacks are added to ``notes``."""
        if self._session is None or options:
            if self.target.is_xla:
                self._session = _xla_session(self)
            else:
                ort = importlib.import_module("graphopt.runtime.ort")
                session = ort.OrtSession(self.model_path_or_bytes(), self.manifest["onnxruntime"], **options)
                self.notes.extend(n for n in session.fallbacks if n not in self.notes)
                self._session = session
        return self._session

    def model_path_or_bytes(self) -> Any:
        """The optimised model as ONNX Runtime wants it: the artifact's file, or the model's bytes."""
        if self.folder is not None:
            return self.folder / artifact.MODEL
        if initializer_bytes(self.model) >= PROBE_BYTES:
            # More than one protobuf holds: a file with its weights beside it, kept as long as this is.
            if self._scratch is None:
                self._scratch = tempfile.TemporaryDirectory(prefix="graphopt-model-")
                save(
                    self.model, Path(self._scratch.name) / artifact.MODEL, external_data=True, declared=False
                )
            return Path(self._scratch.name) / artifact.MODEL
        import onnx_ir

        return onnx_ir.to_proto(self.model).SerializeToString(deterministic=True)

    def origin(self, name: str) -> tuple[str, ...]:
        """The nodes of the original model that the node called `name` stands for."""
        for node in self.model.graph.all_nodes():
            if node.name == name:
                return origins(node)
        raise KeyError(name)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the artifact to `folder` (replacing an older artifact there) and return its path."""
        files: dict[str, bytes | artifact.Writer] = {
            **self.files,
            "report.json": (json.dumps(self.report, indent=1, sort_keys=True) + "\n").encode(),
            artifact.MODEL: lambda scratch: save(
                self.model, scratch / artifact.MODEL, external_data=True, declared=False
            ),
        }
        manifest = {
            **self.manifest,
            "target": str(self.target),
            "inputs": self.inputs,
            "outputs": self.outputs,
            "cost": self.cost,
            "memory": self.memory,
            "placement": self.placement,
            "notes": self.notes,
        }
        self.folder = artifact.write_artifact(folder, manifest, files)
        return self.folder

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Executable:
        """The executable that was saved in `folder`. Raises ArtifactError if anything there changed."""
        manifest = artifact.read_artifact(folder)
        root = Path(folder)
        target = Target.parse(manifest["target"])
        executable = cls(
            target=target,
            model=read(root / artifact.MODEL),
            report=json.loads((root / "report.json").read_text(encoding="utf-8")),
            manifest={
                k: v
                for k, v in manifest.items()
                if k
                not in (
                    "schema",
                    "digest",
                    "files",
                    "target",
                    "inputs",
                    "outputs",
                    "cost",
                    "memory",
                    "placement",
                    "notes",
                )
            },
            cost=manifest.get("cost"),
            memory=manifest.get("memory"),
            placement=list(manifest.get("placement") or []),
            notes=list(manifest.get("notes") or []),
            files={
                name: (root / name).read_bytes() for name in manifest["files"] if name == artifact.PROGRAM
            },
            folder=root,
        )
        if target.kind == "tpu":
            executable.notes.append("there is no TPU here: it runs on XLA:CPU")
        return executable

    def to_json(self, *, times: bool = True) -> dict[str, Any]:
        """Everything but the model, JSON-ready (schema ``graphopt.executable/1``)."""
        return {
            "schema": "graphopt.executable/1",
            "target": str(self.target),
            **self.manifest,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "report": self.report,
            "cost": self.cost,
            "memory": self.memory,
            "placement": self.placement,
            "notes": self.notes,
            "artifact": None if self.folder is None else str(self.folder),
            **({"seconds": self.seconds, "cache": self.cache} if times else {}),
        }


def _spec(value: Value) -> dict[str, Any]:
    shape = (
        None if value.shape is None else [d if isinstance(d, int) else str(d.value) for d in value.shape.dims]
    )
    return {"name": value.name, "dtype": dtype_name(value), "shape": shape}


def dtype_name(value: Value) -> str:
    """numpy's name of a value's element type (``float32``, ``bfloat16``), or ``string``, or ``?``."""
    if value.dtype is None:
        return "?"
    return "string" if value.dtype == DataType.STRING else str(np.dtype(value.dtype.numpy()).name)


def versions(*packages: str) -> dict[str, str]:
    """The installed versions of `packages`, and graphopt's own."""
    import graphopt

    found = {"graphopt": graphopt.__version__}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


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
    elif initializer_bytes(model) < PROBE_BYTES:
        _probe(executable, session_options)
    return executable


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


def lower_xla(
    model: Model,
    target: Target,
    report: Report,
    pipeline: str,
    options: Mapping[str, Any],
    *,
    say: Say = None,
    compiler: Mapping[str, Any] | None = None,
) -> Executable:
    """The executable for ``xla-cpu`` and ``tpu``: StableHLO, and for TPUs the real executable.

    Args:
        compiler: how the TPU compiler is run: ``timeout_s``, ``cache``, ``tick`` and the like, as
            :func:`graphopt.lowering.xla.aot.compile_for_tpu` takes them.
    """
    support = importlib.import_module("graphopt.lowering.xla.support")
    support.require_support(model)
    executable = Executable(
        target=target,
        model=model,
        report=report.to_json(times=False),
        manifest={
            "versions": versions("onnx", "onnx-ir", "jax", "jaxlib", "libtpu"),
            "pipeline": pipeline,
            "options": dict(options),
            "exactness": report.exactness.value,
        },
        seconds={"passes": report.seconds},
    )
    if say is not None:
        say("trace the XLA program", 0, 0)
    exported = _export(executable, required=target.kind == "tpu")
    if exported is not None:
        executable.files[artifact.PROGRAM] = exported.data
        executable.files["program.stablehlo.mlir"] = exported.stablehlo.encode()
        if exported.hlo is not None:
            executable.files["program.hlo.txt"] = exported.hlo.encode()
    if target.kind == "tpu" and exported is not None:
        _compile_tpu(executable, exported, say, compiler or {})
    return executable


def _export(executable: Executable, *, required: bool) -> Exported | None:
    """The portable program; None, with a note, where it only exists per shape or per value."""
    export = importlib.import_module("graphopt.lowering.xla.export")

    started = time.perf_counter()
    model = executable.model
    try:
        exported: Exported
        precision = executable.manifest["options"]["precision"]
        exported, constraints = export.export_model(model, precision=precision)
    except GraphoptError as error:
        if required or not _needs_values(model, error):
            raise
        reason = str(error)
        executable.notes.append(
            "no portable program, it is compiled for each shape it meets: "
            + (reason if len(reason) <= MAX_REASON else f"{reason[:MAX_REASON]}…")
        )
        return None
    finally:
        executable.seconds["trace"] = time.perf_counter() - started
    if constraints:
        executable.notes.append(f"the portable program holds for {', '.join(constraints)}")
    return exported


def _needs_values(model: Model, error: GraphoptError) -> bool:
    """Whether a failed trace may succeed once shapes or values of inputs are known."""
    free = any(
        isinstance(d, SymbolicDim) for v in model.graph.inputs if v.shape is not None for d in v.shape.dims
    )
    unknown = any(v.shape is None for v in model.graph.inputs)
    return free or unknown or (isinstance(error, LoweringError) and bool(getattr(error, "inputs", None)))


def _compile_tpu(executable: Executable, exported: Exported, say: Say, settings: Mapping[str, Any]) -> None:
    aot = importlib.import_module("graphopt.lowering.xla.aot")
    report = importlib.import_module("graphopt.lowering.xla.report")
    if not aot.tpu_compiler_installed():
        executable.notes.append(
            "the TPU compiler (libtpu) is not installed: this artifact holds the portable program only, with "
            "no TPU executable and no cycles; pip install 'graphopt[tpu]' and compile again"
        )
        return
    if say is not None:
        say("compile with the TPU compiler", 0, 0)
    options = executable.manifest["options"]
    about = describe_compile(executable.model, executable.manifest["pipeline"], options)
    compiled: Compiled = aot.compile_for_tpu(exported.data, executable.target, about=about, **settings)
    executable.cost, executable.memory = report.compiled_report(
        compiled, executable.model, executable.target, options
    )
    executable.cache = {"hit": compiled.cached, "remark": compiled.remark}
    executable.manifest["compiler"] = {
        "name": compiled.compiler,
        "topology": compiled.topology,
        "device_kind": compiled.device_kind,
    }
    executable.seconds["compiler"] = compiled.seconds
    executable.files["tpu.executable"] = compiled.executable
    executable.files["tpu.hlo.txt"] = compiled.hlo.encode()
    note = "there is no TPU here: it runs on XLA:CPU"
    executable.notes.append(note)


def describe_compile(model: Model, pipeline: str, options: Mapping[str, Any]) -> dict[str, str]:
    """What is compiled, in words, for the explanations of the compile cache."""
    dims = ", ".join(f"{name}={size}" for name, size in options["dims"].items())
    return {
        "model": model.graph.name or "",
        "dims": dims,
        "precision": str(options["precision"]),
        "level": f"-O{options['level']}",
        "pipeline": pipeline,
    }


def _xla_session(executable: Executable) -> Session:
    runtime = importlib.import_module("graphopt.runtime.xla")
    feeds = importlib.import_module("graphopt.runtime.feeds")
    program = importlib.import_module("graphopt.lowering.xla.program")
    model = executable.model
    exported = executable.files.get(artifact.PROGRAM)
    precision = executable.manifest["options"]["precision"]

    static = all(isinstance(d, int) for s in executable.inputs for d in s["shape"] or ["?"])

    def program_for(shapes: Mapping[str, tuple[int, ...]], known: Mapping[str, np.ndarray]) -> Any:
        # A portable program with free dimensions would run too, but it takes no empty ones, and
        # traced for the shapes at hand the compiler sees their sizes.
        if exported is not None and static:
            return runtime.exported_call(exported)
        built = program.build_program(model, shapes, precision=precision, constants=known)
        return program.quiet(built.function)

    def weights() -> dict[str, np.ndarray]:
        return {
            n: v.const_value.numpy()
            for n, v in program.argument_weights(model).items()
            if v.const_value is not None
        }

    defaults = {
        v.name or "": v.const_value.numpy()
        for v in model.graph.inputs
        if v.is_initializer() and v.const_value is not None
    }
    specs = [
        feeds.FeedSpec(
            s["name"], s["dtype"], None if s["shape"] is None else tuple(s["shape"]), s["name"] in defaults
        )
        for s in executable.inputs
    ]
    session: Session = runtime.XlaSession(
        specs, [s["name"] for s in executable.outputs], weights, program_for, defaults=defaults
    )
    return session
