"""Build the executable for ``xla-cpu``, ``xla-gpu`` and ``tpu``: StableHLO, and the devices' executables."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graphopt import artifact
from graphopt.errors import GraphoptError, LoweringError, PolicyError
from graphopt.executable import ON_CPU, Executable, ReportDocument, versions
from graphopt.ir import Model, TensorType
from graphopt.parallel import Tick, run_all
from graphopt.target import Target
from graphopt.transform import Report

if TYPE_CHECKING:
    from graphopt.lowering.xla.aot import Compiled
    from graphopt.lowering.xla.export import Exported
    from graphopt.lowering.xla.partition import HostNode, Partition

MAX_REASON = 240
"""Symbolic shapes can make an error message very long."""

MAX_LISTED = 5

_COMPILERS = {"tpu": "libtpu", "xla-gpu": "jax-cuda13-plugin"}

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
    """The executable for ``xla-cpu``, ``xla-gpu`` and ``tpu``: StableHLO, and the devices' own executables.

    Nodes that XLA cannot express run on the host, in segments between those of XLA; ``placement``
    lists them.

    Args:
        compiler: how the device's compiler is run: ``timeout_s``, ``cache``, ``tick`` and the like, as
            :func:`graphopt.lowering.xla.aot.compile_program` takes them.

    Raises:
        LoweringError: GO201, an operator that nothing here knows.
        PolicyError: GO501, nodes would run on the host and the option ``strict`` is set.
    """
    executable = begin(model, target, report, pipeline, options)
    if say is not None:
        say("trace the XLA program", 0, 0)
    programs = trace(executable)
    compile_ahead([(executable, programs)], say, compiler or {})
    return executable


def begin(
    model: Model, target: Target, report: Report, pipeline: str, options: Mapping[str, Any]
) -> Executable:
    """An executable with nothing built yet."""
    return Executable(
        target=target,
        model=model,
        report=ReportDocument(report.to_json(times=False)),
        manifest={
            "versions": versions("onnx", "onnx-ir", "jax", "jaxlib", _COMPILERS.get(target.kind, "jaxlib")),
            "pipeline": pipeline,
            "options": dict(options),
            "exactness": report.exactness.value,
        },
        seconds={"passes": report.seconds},
    )


def trace(executable: Executable) -> dict[str, Exported]:
    """Make the portable programs, by name, and put them into the executable's files."""
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
    return programs


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
    executable = Executable(target=target, model=model, report=ReportDocument(), manifest=manifest)
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
            if executable.target.is_ahead_of_time:
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
        if executable.target.is_ahead_of_time and refused is not None:
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
        if executable.target.is_ahead_of_time or not getattr(error, "inputs", None):
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
    if executable.target.is_ahead_of_time and not segments:
        raise LoweringError(
            "GO201",
            f"no node of the model can run on a {'TPU' if executable.target.kind == 'tpu' else 'GPU'} by XLA",
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
        if executable.target.is_ahead_of_time:
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


def compile_ahead(
    parts: Sequence[tuple[Executable, Mapping[str, Exported]]], say: Say, settings: Mapping[str, Any]
) -> None:
    """Compile the programs of some executables for the device that they are for, if it is not this machine.

    As many compilers run at once as `settings` says; the time that each executable notes is that of all.

    Args:
        settings: ``jobs`` (compilers at once; by default one for each processor), ``tick``, and what
            :func:`graphopt.lowering.xla.aot.compile_for_tpu` takes.
    """
    target = parts[0][0].target
    if not target.is_ahead_of_time:
        return
    aot = importlib.import_module("graphopt.lowering.xla.aot")
    if target.kind == "tpu" and not aot.tpu_compiler_installed():
        for executable, _ in parts:
            executable.notes.append(
                "the TPU compiler (libtpu) is not installed: this artifact holds the portable program only, "
                "with no TPU executable and no cycles; pip install 'graphopt[tpu]' and compile again"
            )
        return
    compile_one = aot.compile_for_tpu if target.kind == "tpu" else aot.compile_for_gpu
    stage = f"compile with {'the TPU compiler' if target.kind == 'tpu' else 'XLA:GPU'}"
    count = sum(len(programs) for _, programs in parts)
    if say is not None:
        say(stage, 0, count if count > 1 else 0)
    rest = {key: value for key, value in settings.items() if key not in ("jobs", "tick")}

    def piece(executable: Executable, exported: Exported) -> Callable[[Tick], Compiled]:
        about = describe_compile(
            executable.model, executable.manifest["pipeline"], executable.manifest["options"]
        )

        def compiled(tick: Tick) -> Compiled:
            try:
                found: Compiled = compile_one(exported.data, target, about=about, tick=tick, **rest)
            except GraphoptError as error:
                if len(parts) > 1:
                    error.where = ", ".join(filter(None, (error.where, about["dims"])))
                raise
            return found

        return compiled

    def finished(done: int, total: int) -> None:
        if say is not None:
            say(stage, min(done, total - 1), total)

    work = [piece(executable, each) for executable, programs in parts for each in programs.values()]
    started = time.perf_counter()
    compiled = iter(run_all(work, jobs=settings.get("jobs"), finished=finished, tick=settings.get("tick")))
    spent = time.perf_counter() - started
    for executable, programs in parts:
        _keep(executable, {name: next(compiled) for name in programs})
        executable.seconds["compiler"] = spent


def _keep(executable: Executable, compiled: Mapping[str, Compiled]) -> None:
    """Put what the device's compiler made into the executable, with its figures."""
    kind = "tpu" if executable.target.kind == "tpu" else "gpu"
    for name, part in compiled.items():
        prefix = "" if name == artifact.PROGRAM else f"{name}."
        executable.files[f"{prefix}{kind}.executable"] = part.executable
        executable.files[f"{prefix}{kind}.hlo.txt"] = part.hlo.encode()
    (_report_tpu if kind == "tpu" else _report_gpu)(executable, compiled)
    parts = list(compiled.values())
    executable.cache = {
        "hit": all(c.cached for c in parts),
        "remark": next((c.remark for c in parts if c.remark), None),
    }
    executable.manifest["compiler"] = {
        "name": parts[0].compiler,
        "topology": parts[0].topology,
        "device_kind": parts[0].device_kind,
    }


def _report_tpu(executable: Executable, compiled: Mapping[str, Compiled]) -> None:
    report = importlib.import_module("graphopt.lowering.xla.report")
    model, target, options = executable.model, executable.target, executable.manifest["options"]
    reports = {name: report.compiled_report(part, model, target, options) for name, part in compiled.items()}
    executable.cost, executable.memory = report.combined(reports, target)
    executable.notes.append(ON_CPU)


def _report_gpu(executable: Executable, compiled: Mapping[str, Compiled]) -> None:
    report = importlib.import_module("graphopt.lowering.xla.gpu_report")
    model, target, options = executable.model, executable.target, executable.manifest["options"]
    reports = {name: report.gpu_report(part, model, target, options) for name, part in compiled.items()}
    executable.cost, executable.memory, executable.kernels = report.combined_gpu(reports)
    executable.notes.append(
        f"compiled for {target.device} without one: no kernel was tuned by timing it, and it was not run here"
    )


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
