"""graphopt compile: a model for a target, and what it costs there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli import options, values
from graphopt.cli.costs import cost_facts, show_cost, transfers
from graphopt.cli.optimize import dumps
from graphopt.cli.output import Output, clean, duration, shape, size

if TYPE_CHECKING:
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
    dim: options.Dims,
    constant: options.Constants,
    precision: options.Precision = None,
    keep_fp32: options.KeepFp32 = None,
    data: options.Calibration = None,
    level: options.Level = 2,
    pipeline: options.PipelineText = None,
    strict: options.Strict = False,
    verify: options.Verify = None,
    dump: options.Dump = None,
    timeout: options.Timeout = None,
    no_cache: options.NoCache = False,
    no_save: Annotated[bool, typer.Option("--no-save", help="Compile and report, write nothing.")] = False,
    report: Annotated[bool, typer.Option("--report", help="Also show what every pass did.")] = False,
    json: options.Json = False,
    verbose: options.Verbose = 0,
    quiet: options.Quiet = False,
) -> None:
    """Compile a model for a target and write the artifact.

    For TPUs the vendor's compiler runs here, without the hardware, and the cycles that it estimates
    are laid on the model's nodes.
    """
    output = Output(json, verbose, quiet)
    from graphopt import artifact
    from graphopt.target import Target

    chosen = Target.parse(target)
    destination = None if no_save else Path(folder) if folder else values.default_folder(model, chosen)
    settings = {
        "level": values.level(level),
        "shapes": values.shapes(shape),
        "dims": values.dims(dim),
        "constants": values.constants(constant),
    }
    if destination is not None:
        artifact.check_output(destination)
    executable = build(
        output,
        model,
        target=chosen,
        precision=precision,
        keep_fp32=keep_fp32,
        data=data,
        pipeline=pipeline,
        strict=strict,
        verify=verify,
        instruments=dumps(dump),
        timeout=timeout,
        cache=not no_cache,
        save=destination,
        **settings,
    )
    output.document("graphopt.compile/1", executable.to_json())
    show(output, executable, destination)
    if report:
        from graphopt.cli.optimize import show_passes

        show_passes(output, executable.report)
    output.notes(executable.notes)
    remark = (executable.cache or {}).get("remark")
    output.notes([remark] if remark else [])


def build(output: Output, model: str, *, save: Path | None = None, **arguments: Any) -> Executable:
    """Compile `model` with progress shown; write it to `save`, if given."""
    from graphopt import driver
    from graphopt.cli.progress import Progress

    with Progress(output) as progress:
        executable = driver.compile(model, say=progress.say, tick=progress.tick, **arguments)
        if save is not None:
            progress.say("write the artifact")
            executable.save(save)
    return executable


def show(output: Output, executable: Executable, folder: Path | None) -> None:
    """What was made, on stdout."""
    report, seconds = executable.report, executable.seconds
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
            *cost_facts(executable.target, executable.cost, executable.memory),
            ("segments", transfers(executable.manifest.get("transfers"))),
        ]
    )
    show_cost(output, executable.cost, executable.memory)
    show_placement(output, executable.placement)
    if folder is not None:
        output.line()
        output.line(f"{clean(folder)}/")
        for path in sorted(folder.iterdir()):
            output.line(f"  {path.name:24} {size(path.stat().st_size)}")


def _signature(spec: dict[str, Any]) -> str:
    return f"{spec['name']} {str(spec['dtype']).lower()}{shape(spec['shape'])}"


def _times(seconds: dict[str, float], *, cached: bool) -> str:
    """The stages' times; of a compiler whose result was in the cache, so."""
    notes = {"compiler": " (from the compile cache)"} if cached else {}
    return ", ".join(f"{stage} {duration(spent)}{notes.get(stage, '')}" for stage, spent in seconds.items())


def _compiler(manifest: dict[str, Any]) -> str | None:
    found = manifest.get("compiler")
    return f"{found['name']} for {found['device_kind']}, {found['topology']}" if found else None


def show_placement(output: Output, placement: list[dict[str, Any]], *, listed: int = 0) -> None:
    """How many nodes run where by the prediction, and up to `listed` of those that fall back, and why."""
    if not placement:
        return
    from collections import Counter

    counts = Counter(
        f"{row['provider'].removesuffix('ExecutionProvider')} ({row['kind']})" for row in placement
    )
    output.facts([("placement", ", ".join(f"{n} on {where}" for where, n in counts.most_common()))])
    away = [row for row in placement if row["kind"] == "fallback"]
    if away and listed:
        output.table(
            ["node", "op", "runs on", "because"],
            [(r["node"], r["op"], r["provider"], r.get("reason", "")) for r in away[:listed]],
            title=f"{len(away)} nodes fall back",
        )
        if len(away) > listed:
            output.line(f"and {len(away) - listed} more (--json lists all)")
