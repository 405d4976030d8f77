"""Build the executable for ``xla-cpu`` and ``tpu``: StableHLO, and for TPUs the real executable."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graphopt import artifact
from graphopt.errors import GraphoptError, LoweringError, PolicyError
from graphopt.executable import Executable, versions
from graphopt.ir import Model, TensorType
from graphopt.target import Target
from graphopt.transform import Report

if TYPE_CHECKING:
    from graphopt.lowering.xla.aot import Compiled
    from graphopt.lowering.xla.export import Exported
    from graphopt.lowering.xla.partition import HostNode, Partition

MAX_REASON = 240
"""Symbolic shapes can make an error message very long."""

MAX_LISTED = 5

Say = Callable[[str, int, int], None] | None


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

    Nodes that XLA cannot express run on the host, in segments between those of XLA; ``placement``
    lists them.

    Args:
        compiler: how the TPU compiler is run: ``timeout_s``, ``cache``, ``tick`` and the like, as
            :func:`graphopt.lowering.xla.aot.compile_for_tpu` takes them.

    Raises:
        LoweringError: GO201, an operator that nothing here knows.
        PolicyError: GO501, nodes would run on the host and the option ``strict`` is set.
    """
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
    started = time.perf_counter()
    programs = _trace(executable)
    executable.seconds["trace"] = time.perf_counter() - started
    if executable.placement:
        executable.notes.append(_listed(executable.placement, "run on the host"))
    padded = [output for exported in programs.values() for output in exported.padded]
    if padded:
        executable.notes.append(
            f"as large as the data says, so the programs give them padded ({artifact.PADDED}) with the shape "
            f"that counts ({artifact.SHAPE}), and sessions cut them to it: {', '.join(padded[:MAX_LISTED])}"
            + (f" and {len(padded) - MAX_LISTED} more" if len(padded) > MAX_LISTED else "")
        )
    for name, exported in programs.items():
        prefix = "" if name == artifact.PROGRAM else f"{name}."
        executable.files[prefix + artifact.PROGRAM] = exported.data
        executable.files[f"{prefix}program.stablehlo.mlir"] = exported.stablehlo.encode()
        if exported.hlo is not None:
            executable.files[f"{prefix}program.hlo.txt"] = exported.hlo.encode()
    if target.kind == "tpu":
        _compile_tpu(executable, programs, say, compiler or {})
    return executable


def trace_programs(
    model: Model, target: Target, precision: str | None
) -> tuple[dict[str, Exported], Executable]:
    """The portable programs of `model`, one for each segment of XLA; nothing is compiled.

    Returns:
        The programs by name, and an executable of which only ``placement``, ``notes`` and the manifest's
        ``transfers`` are there.

    Raises:
        GraphoptError: as :func:`lower_xla` does while it traces.
    """
    manifest = {"options": {"precision": precision, "strict": False}}
    executable = Executable(target=target, model=model, report={}, manifest=manifest)
    return _trace(executable), executable


def _trace(executable: Executable) -> dict[str, Exported]:
    """The portable programs: one, or one for each segment; none where it takes shapes or values first."""
    export = importlib.import_module("graphopt.lowering.xla.export")
    partition = importlib.import_module("graphopt.lowering.xla.partition")
    model, options = executable.model, executable.manifest["options"]
    on_host = partition.structural_host_nodes(model)
    refused: GraphoptError | None = None
    if not on_host:
        try:
            exported, constraints = export.export_model(model, precision=options["precision"])
        except export.NotPortable as error:
            if executable.target.kind == "tpu":
                raise
            _note_refusal(executable, error)
            return {}
        except GraphoptError as error:
            refused = error
        else:
            if constraints:
                executable.notes.append(f"the portable program holds for {', '.join(constraints)}")
            return {artifact.PROGRAM: exported}
    if not _shapes_known(model):
        if executable.target.kind == "tpu" and refused is not None:
            raise refused
        _place(executable, partition.host_rows(partition.Region.main(model), on_host))
        if refused is not None:
            _note_refusal(executable, refused)
        return {}
    return _trace_segments(executable)


def _trace_segments(executable: Executable) -> dict[str, Exported]:
    """The portable program of each XLA segment, and a note of what runs on the host."""
    export = importlib.import_module("graphopt.lowering.xla.export")
    partition = importlib.import_module("graphopt.lowering.xla.partition")
    session = importlib.import_module("graphopt.xla_session")
    model, precision = executable.model, executable.manifest["options"]["precision"]
    shapes = {v.name or "": tuple(v.shape) for v in model.graph.inputs if v.shape is not None}
    try:
        cut: Partition = session.cut_for(model, shapes, {}, precision)
    except LoweringError as error:  # the value of an input must be known first
        if executable.target.kind == "tpu" or not getattr(error, "inputs", None):
            raise
        _note_refusal(executable, error)
        return {}
    _place(executable, cut.host)
    executable.manifest["transfers"] = cut.transfers()
    segments = list(cut.programs())
    if any(s.driven is not None for s in cut.segments):
        executable.notes.append(
            "the figures count each branch, and one turn of each loop, that the host drives"
        )
    if executable.target.kind == "tpu" and not segments:
        raise LoweringError(
            "GO201",
            "no node of the model can run on a TPU",
            found=_listed(executable.placement, "are for the host"),
            next_step="The targets cpu, cuda and tensorrt run it.",
        )
    try:
        return {
            f"segment{i}": export.export_program(
                partition.segment_program(part, segment, precision=precision)
            )
            for i, (part, segment) in enumerate(segments)
        }
    except export.NotPortable as error:
        if executable.target.kind == "tpu":
            raise
        _note_refusal(executable, error)
        return {}


def _place(executable: Executable, rows: Sequence[HostNode]) -> None:
    """Note the nodes that run on the host. Raises PolicyError (GO501) if that was not to be."""
    executable.placement = [row.to_json() for row in rows]
    if executable.placement and executable.manifest["options"].get("strict"):
        raise PolicyError(
            "GO501",
            _listed(executable.placement, "would run on the host, which strict mode refuses"),
            next_step="Without --strict they run there, between segments of XLA.",
            details={"placement": executable.placement},
        )


def _listed(placement: Sequence[Mapping[str, Any]], what: str) -> str:
    """The first nodes of a placement with their reasons, in a line."""
    shown = "; ".join(f"{row['op']} {row['node']!r}: {row['reason']}" for row in placement[:MAX_LISTED])
    more = f"; and {len(placement) - MAX_LISTED} more" if len(placement) > MAX_LISTED else ""
    return f"{len(placement)} node{'s' if len(placement) > 1 else ''} {what}: {shown}{more}"


def _note_refusal(executable: Executable, error: GraphoptError) -> None:
    """Say why there is no portable program."""
    reason = str(error)
    executable.notes.append(
        "no portable program, it is compiled for each shape it meets: "
        + (reason if len(reason) <= MAX_REASON else f"{reason[:MAX_REASON]}…")
    )


def _shapes_known(model: Model) -> bool:
    """Whether every input is a tensor of fixed shape."""
    return all(
        isinstance(v.type, TensorType) and v.shape is not None and all(isinstance(d, int) for d in v.shape)
        for v in model.graph.inputs
    )


def _compile_tpu(
    executable: Executable, programs: Mapping[str, Exported], say: Say, settings: Mapping[str, Any]
) -> None:
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
    parts: list[Compiled] = []
    reports = []
    for name, exported in programs.items():
        compiled: Compiled = aot.compile_for_tpu(exported.data, executable.target, about=about, **settings)
        prefix = "" if name == artifact.PROGRAM else f"{name}."
        executable.files[f"{prefix}tpu.executable"] = compiled.executable
        executable.files[f"{prefix}tpu.hlo.txt"] = compiled.hlo.encode()
        parts.append(compiled)
        reports.append(report.compiled_report(compiled, executable.model, executable.target, options))
    executable.cost, executable.memory = report.combined(
        dict(zip(programs, reports, strict=True)), executable.target
    )
    executable.cache = {
        "hit": all(c.cached for c in parts),
        "remark": next((c.remark for c in parts if c.remark), None),
    }
    executable.manifest["compiler"] = {
        "name": parts[0].compiler,
        "topology": parts[0].topology,
        "device_kind": parts[0].device_kind,
    }
    executable.seconds["compiler"] = sum(c.seconds for c in parts)
    executable.notes.append("there is no TPU here: it runs on XLA:CPU")


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
