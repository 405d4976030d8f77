"""graphopt compile: a model for a target, and what it costs there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli import options, values
from graphopt.cli.costs import cost_facts, show_buckets, show_cost, transfers
from graphopt.cli.kernels import kernel_facts, show_kernels
from graphopt.cli.optimize import check_report, dumps, show_passes, timelines
from graphopt.cli.output import Output, clean, duration, shape, size

CPU = "CPUExecutionProvider"
MOST_FALLBACKS = 20

if TYPE_CHECKING:
    from collections.abc import Mapping

    from graphopt.executable import Executable


def compile_model(
    model: options.Source,
    *,
    target: options.Target = "xla-cpu",
    folder: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FOLDER",
            help="Where to write; default MODEL.TARGET.",
            show_default=False,
        ),
    ] = None,
    shape: options.Shapes,
    dim: options.BucketDims,
    buckets: options.Buckets = "pad",
    constant: options.Constants,
    precision: options.Precision = None,
    keep_fp32: options.KeepFp32 = None,
    data: options.Calibration = None,
    level: options.Level = 2,
    pipeline: options.PipelineText = None,
    strict: options.Strict = False,
    verify: options.Verify = None,
    dump: options.Dump = None,
    jobs: options.Jobs = None,
    timeout: options.Timeout = None,
    no_cache: options.NoCache = False,
    no_save: Annotated[bool, typer.Option("--no-save", help="Compile and report, write nothing.")] = False,
    report: options.Report = None,
    json: options.Json = False,
    verbose: options.Verbose = 0,
    quiet: options.Quiet = False,
) -> None:
    """Compile a model for a target and write the artifact.

    For TPUs the vendor's compiler runs here, without the hardware, and the cycles that it estimates
    are laid on the model's nodes. For GPUs (tensorrt-rtx, xla-gpu) so are the kernels that are made.
    """
    output = Output(json, verbose, quiet)
    from graphopt import artifact
    from graphopt.target import Target

    chosen = Target.parse(target)
    destination = None if no_save else Path(folder) if folder else values.default_folder(model, chosen)
    settings = {
        "level": values.level(level),
        "shapes": values.shapes(shape),
        "dims": values.bucket_dims(dim),
        "buckets": buckets,
        "constants": values.constants(constant),
    }
    if destination is not None:
        artifact.check_output(destination)
    if report:
        check_report(report)
    executable = build(
        output,
        model,
        report=report,
        target=chosen,
        precision=precision,
        keep_fp32=keep_fp32,
        data=data,
        pipeline=pipeline,
        strict=strict,
        verify=verify,
        instruments=[*dumps(dump), *timelines(report)],
        jobs=jobs,
        timeout=timeout,
        cache=not no_cache,
        save=destination,
        **settings,
    )
    output.document("graphopt.compile/1", executable.to_json())
    show(output, executable, destination)
    if report is not None:
        show_passes(output, executable.report)
    if report:
        output.line(f"wrote {clean(report)}")
    output.notes(executable.notes)
    remark = (executable.cache or {}).get("remark")
    output.notes([remark] if remark else [])


def build(
    output: Output, model: str, *, save: Path | None = None, report: str | None = None, **arguments: Any
) -> Executable:
    """Compile `model` with progress shown; write it to `save` and its page to `report`, if given."""
    from graphopt import driver
    from graphopt.cli.progress import Progress

    with Progress(output) as progress:
        executable = driver.compile(model, say=progress.say, tick=progress.tick, **arguments)
        if save is not None:
            progress.say("write the artifact")
            executable.save(save)
        if report:
            progress.say("write the report")
            executable.report(report, title=values.heading(model))
    return executable


def show(output: Output, executable: Executable, folder: Path | None) -> None:
    """What was made, on stdout."""
    report, seconds = executable.report, executable.seconds
    rows = (executable.manifest.get("buckets") or {}).get("programs") or []
    output.facts(
        [
            ("target", executable.target),
            ("inputs", ", ".join(map(_signature, executable.inputs))),
            ("outputs", ", ".join(map(_signature, executable.outputs))),
            (
                "passes",
                f"{report['nodes_before']} -> {report['nodes_after']} nodes, "
                f"{size(report['bytes_before'])} -> {size(report['bytes_after'])} of weights, "
                f"{report['exactness']}",
            ),
            ("time", _times(seconds, cached=bool((executable.cache or {}).get("hit")))),
            ("compiler", _compiler(executable.manifest)),
            ("buckets", _buckets(executable)),
            *([] if rows else cost_facts(executable.target, executable.cost, executable.memory)),
            *kernel_facts(executable.kernels),
            ("segments", transfers(executable.manifest.get("transfers"))),
        ]
    )
    _show_kept(output, report)
    show_buckets(output, executable.target, rows)
    show_cost(output, executable.cost, executable.memory)
    if executable.cost is None:
        show_kernels(output, executable.kernels)
    show_placement(
        output, executable.placement, executable.manifest.get("onnxruntime"), listed=MOST_FALLBACKS
    )
    if folder is not None:
        output.line()
        output.line(f"{clean(folder)}/")
        paths = sorted(folder.iterdir())
        width = max(24, *(len(path.name) for path in paths))
        for path in paths:
            output.line(f"  {path.name:{width}} {size(path.stat().st_size)}")


def _buckets(executable: Executable) -> str | None:
    """The sizes that there are programs for, and what happens to others."""
    found = executable.buckets
    if found is None:
        return None
    sizes = " ".join(f"{name}={','.join(map(str, several))}" for name, several in found.sizes.items())
    exact = found.padding is None
    return f"{sizes}; " + (
        "feeds must have one of these sizes" if exact else "feeds are padded to the next size"
    )


def _show_kept(output: Output, report: dict[str, Any]) -> None:
    """The nodes that a narrower precision left in float32, and why."""
    kept = [row for record in report["passes"] for row in record["details"] if row.get("kept")]
    if not kept:
        return
    output.table(
        ["node", "op", "because"],
        [(row["node"], row["op"], row["reason"]) for row in kept[:MOST_FALLBACKS]],
        title=f"{len(kept)} nodes keep float32",
    )
    if len(kept) > MOST_FALLBACKS:
        output.line(f"and {len(kept) - MOST_FALLBACKS} more (--json lists all)")


def _signature(spec: dict[str, Any]) -> str:
    return f"{spec['name']} {str(spec['dtype']).lower()}{shape(spec['shape'])}"


def _times(seconds: dict[str, float], *, cached: bool) -> str:
    """The stages' times; of a compiler whose result was in the cache, so."""
    notes = {"compiler": " (from the compile cache)"} if cached else {}
    return ", ".join(f"{stage} {duration(spent)}{notes.get(stage, '')}" for stage, spent in seconds.items())


def _compiler(manifest: dict[str, Any]) -> str | None:
    found = manifest.get("compiler")
    if not found:
        return None
    return f"{found['name']} for " + ", ".join(filter(None, (found["device_kind"], found["topology"])))


def show_placement(
    output: Output,
    placement: list[dict[str, Any]],
    plan: Mapping[str, Any] | None = None,
    *,
    listed: int = 0,
) -> None:
    """How many nodes run where, what is copied, and up to `listed` of those that fall back, and why.

    Args:
        plan: ONNX Runtime's plan, which has the numbers.
    """
    if not placement:
        return
    from collections import Counter

    counts = Counter(
        f"{row['provider'].removesuffix('ExecutionProvider')} ({row['kind']})" for row in placement
    )
    summary = (plan or {}).get("summary") or {}
    on_gpu = any(row["provider"] not in (None, CPU) for row in placement)
    output.facts(
        [
            ("placement", ", ".join(f"{n} on {where}" for where, n in counts.most_common())),
            (
                "copies",
                f"{summary['copies']} between host and device in each run" if on_gpu and summary else None,
            ),
            ("engines", f"{summary['engines']} of TensorRT" if summary.get("engines") else None),
            ("known from", (plan or {}).get("placement_source") if on_gpu else None),
        ]
    )
    _list_nodes(output, [row for row in placement if row["kind"] == "fallback"], listed, "fall back")
    _list_nodes(output, [row for row in placement if row.get("predicted")], listed, "are not where predicted")


def _list_nodes(output: Output, rows: list[dict[str, Any]], listed: int, what: str) -> None:
    if rows and listed:
        output.table(
            ["node", "op", "runs on", "because"],
            [(r["node"], r["op"], r["provider"], r.get("reason", "")) for r in rows[:listed]],
            title=f"{len(rows)} nodes {what}",
        )
        if len(rows) > listed:
            output.line(f"and {len(rows) - listed} more (--json lists all)")
