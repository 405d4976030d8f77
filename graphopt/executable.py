"""Executables: a lowered model that runs here, explains itself, and saves itself as an artifact."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from graphopt import artifact
from graphopt.ir import DataType, Model, OptionalType, SequenceType, Value
from graphopt.ir.io import read, save
from graphopt.ir.provenance import origins
from graphopt.target import Target
from graphopt.transform.pipeline import initializer_bytes

if TYPE_CHECKING:
    from graphopt.lowering.xla.partition import Partition
    from graphopt.reporting import Recall
    from graphopt.runtime.buckets import Buckets
    from graphopt.verification import VerifyReport

ON_CPU = "there is no TPU here: it runs on XLA:CPU"
"""What is said of a program for TPUs where it is run."""

PROBE_BYTES = 1 << 30
"""Larger models are not loaded once more just to see whether ONNX Runtime survives it."""


class Session(Protocol):
    """What runs an executable: ONNX Runtime or XLA."""

    def run(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The outputs by name."""


class ReportDocument(dict[str, Any]):
    """A report as JSON-ready data, which writes itself as a page when it is called with a path."""

    make: Callable[..., str]

    def __call__(self, path: str | os.PathLike[str], **details: Any) -> None:
        """Write the HTML report to `path`.

        Args:
            details: what :meth:`Executable.page` takes.

        Raises:
            UsageError: GO701, the name does not end in ``.html``.
            OutputError: GO111, the file cannot be written.
        """
        importlib.import_module("graphopt.reporting").write_page(
            path, functools.partial(self.make, **details)
        )


@dataclasses.dataclass
class Executable:
    """A compiled model.

    Attributes:
        target: what it was compiled for.
        model: the optimised graph.
        report: what the pipeline did, as a JSON-ready dict (schema ``graphopt.report/1``); called with a
            path, it writes an HTML page that shows the graph pass by pass, cycles and placement on it.
            Of an executable that was loaded the page shows the model as it is.
        cost: cycles per node by the target compiler's estimate, what bounds each, padding and advice, as
            a dict; None where no such compiler ran.
        memory: device memory in bytes by use (``hbm`` is their sum, ``peak`` the most in use at once, by
            the tensors in ``alive_at_peak``); None where no compiler ran.
        kernels: what the target's compiler made, in the order in which it runs: each with its ``name``,
            ``kind``, the ``nodes`` of `model` that it computes and their ``origins``; empty where the
            compiler does not say.
        placement: what would not run on the target's accelerator, and why.
        notes: everything a user should know: what was not done, what runs elsewhere.
        manifest: the rest of what the artifact records. Under ``buckets`` the sizes that there are programs
            for, with the cost and memory of each; the attributes here are then those of the largest.
        files: the target's own files by name.
        cache: whether the compile cache had it, and what is worth knowing about that; not saved.
    """

    target: Target
    model: Model
    report: ReportDocument
    manifest: dict[str, Any]
    cost: dict[str, Any] | None = None
    memory: dict[str, Any] | None = None
    kernels: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    placement: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    folder: Path | None = None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    cache: dict[str, Any] | None = None
    recall: Recall | None = dataclasses.field(default=None, repr=False, compare=False)
    _session: Session | None = dataclasses.field(default=None, repr=False)
    _scratch: tempfile.TemporaryDirectory[str] | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.report.make = self.page

    def page(self, *, title: str | None = None, verification: VerifyReport | None = None) -> str:
        """The HTML report (see :attr:`report`).

        Args:
            title: the heading; the graph's name by default.
            verification: what :func:`graphopt.verify` found, for a map of numeric errors.
        """
        reporting = importlib.import_module("graphopt.reporting")
        options = self.manifest.get("options", {})
        known = reporting.measured(
            self.target,
            self.cost,
            self.placement,
            options.get("precision"),
            None if verification is None else verification.to_json(),
        )
        facts = [("target", str(self.target)), ("precision", options.get("precision", "fp32"))]
        facts += [("dimensions", ", ".join(f"{n}={v}" for n, v in options.get("dims", {}).items()))]
        recall = self.recall or functools.partial(reporting.as_it_is, self.model)
        text: str = reporting.page(
            recall, title=title, facts=[row for row in facts if row[1]], measured=known
        )
        return text

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
        """The session that :meth:`run` uses, made on first use. Its fallbacks are added to ``notes``.

        With ``strict=True`` (targets of ONNX Runtime) PolicyError, GO501, if a provider does not start, or
        ONNX Runtime puts a node on the CPU that belongs on the accelerator: all of them are listed.
        """
        if self._session is None or options:
            if self.target.kind == "tensorrt-rtx":
                self._session = self._engine_session()
            else:
                self._session = self._xla_session() if self.target.is_xla else self._ort_session(options)
        return self._session

    def _engine_session(self) -> Session:
        runtime = importlib.import_module("graphopt.runtime.tensorrt_rtx")
        runtime.require_device(self.target.capabilities)
        if self.folder is None:  # the provider reads the engine from a file beside the model
            if self._scratch is None:
                self._scratch = tempfile.TemporaryDirectory(prefix="graphopt-engine-")
            for name in (artifact.ENGINE, artifact.CONTEXT):
                (Path(self._scratch.name) / name).write_bytes(self.files[name])
        folder = self.folder or Path(self._scratch.name if self._scratch else "")
        return runtime.open_engine(folder / artifact.CONTEXT)  # type: ignore[no-any-return]

    def _ort_session(self, options: Mapping[str, Any]) -> Session:
        ort = importlib.import_module("graphopt.runtime.ort")
        strict = bool(options.get("strict")) and self.target.kind != "cpu"
        session = ort.OrtSession(
            self.model_path_or_bytes(), self.manifest["onnxruntime"], record_assignment=strict, **options
        )
        if strict:
            reconcile = importlib.import_module("graphopt.lowering.cuda.reconcile")
            away = reconcile.left_on_cpu(self.placement, session.assignment())
            importlib.import_module("graphopt.lowering.cuda.placement").refuse_fallbacks(away)
        self.notes.extend(n for n in session.fallbacks if n not in self.notes)
        return session  # type: ignore[no-any-return]

    def _xla_session(self) -> Session:
        xla = importlib.import_module("graphopt.xla_session")

        def note(cut: Partition) -> None:
            """What the first run found out about where the nodes run."""
            known = {row["node"] for row in self.placement}
            self.placement.extend(row.to_json() for row in cut.host if row.node not in known)
            self.manifest["transfers"] = cut.transfers()

        options = self.manifest["options"]
        programs = [(shapes, self.files[name]) for name, shapes in self._programs() if name in self.files]
        specs = xla.feed_specs(self.model, self.inputs)
        if self.target.kind == "xla-gpu":
            importlib.import_module("graphopt.runtime.xla").require_gpu()
        session: Session = xla.open_xla_session(
            self.model,
            specs=specs,
            precision=options["precision"],
            exported=lambda shapes: next((data for each, data in programs if each == shapes), None),
            partitioned=bool(self.placement),
            strict=bool(options.get("strict")),
            platform="cuda" if self.target.kind == "xla-gpu" else "cpu",
            on_partition=note,
        )
        if self.buckets is None:
            return session
        runtime = importlib.import_module("graphopt.runtime.buckets")
        return runtime.BucketSession(  # type: ignore[no-any-return]
            session.run, specs, self.buckets, xla.default_feeds(self.model)
        )

    @property
    def buckets(self) -> Buckets | None:
        """The sizes that there are programs for, and how others are padded; None without buckets."""
        data = self.manifest.get("buckets")
        if data is None:
            return None
        runtime = importlib.import_module("graphopt.runtime.buckets")
        return runtime.Buckets.from_json(data)  # type: ignore[no-any-return]

    def example_sizes(self) -> dict[str, int]:
        """Sizes that generated feeds must keep to: those of buckets, between two where that is allowed."""
        return {} if self.buckets is None else self.buckets.example()

    def _programs(self) -> list[tuple[str, dict[str, tuple[int, ...]]]]:
        """The portable programs of fixed shapes: the file, and the shapes of the inputs by name."""
        rows = (self.manifest.get("buckets") or {}).get("programs") or [{"prefix": "", "sizes": {}}]
        if any(spec["shape"] is None or "kind" in spec for spec in self.inputs):
            return []
        found = []
        for row in rows:
            shapes = {
                str(spec["name"]): tuple(row["sizes"].get(dim, dim) for dim in spec["shape"])
                for spec in self.inputs
            }
            if all(isinstance(dim, int) for shape in shapes.values() for dim in shape):
                found.append((str(row["prefix"]) + artifact.PROGRAM, shapes))
        return found

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
            "kernels": self.kernels,
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
            report=ReportDocument(json.loads((root / "report.json").read_text(encoding="utf-8"))),
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
                    "kernels",
                    "placement",
                    "notes",
                )
            },
            cost=manifest.get("cost"),
            memory=manifest.get("memory"),
            kernels=list(manifest.get("kernels") or []),
            placement=list(manifest.get("placement") or []),
            notes=list(manifest.get("notes") or []),
            files={
                name: (root / name).read_bytes()
                for name in manifest["files"]
                if name == artifact.PROGRAM
                or (name.startswith("bucket-") and name.endswith(f".{artifact.PROGRAM}"))
            },
            folder=root,
        )
        if target.kind == "tpu" and ON_CPU not in executable.notes:
            executable.notes.append(ON_CPU)
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
            "kernels": self.kernels,
            "placement": self.placement,
            "notes": self.notes,
            "artifact": None if self.folder is None else str(self.folder),
            **({"seconds": self.seconds, "cache": self.cache} if times else {}),
        }


def _spec(value: Value) -> dict[str, Any]:
    shape = (
        None if value.shape is None else [d if isinstance(d, int) else str(d.value) for d in value.shape.dims]
    )
    sequence, optional = isinstance(value.type, SequenceType), isinstance(value.type, OptionalType)
    kind = "sequence" if sequence else "optional" if optional else None
    return {
        "name": value.name,
        "dtype": dtype_name(value),
        "shape": shape,
        **({} if kind is None else {"kind": kind}),
    }


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
