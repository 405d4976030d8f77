"""graphopt reduce: the smallest model that a pipeline breaks in the same way, as a reproducer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli import options, values
from graphopt.cli.bisect import show_blame
from graphopt.cli.output import Output, clean, duration
from graphopt.errors import OutputError


def reduce(
    model: options.Source,
    *,
    out: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FOLDER",
            help="Where to write the reproducer; default: MODEL.reproducer in the current folder.",
            show_default=False,
        ),
    ] = None,
    target: options.OptionalTarget = None,
    data: options.Data = None,
    seed: options.Seed = 0,
    runtime_optimized: options.RuntimeOptimized = False,
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="S", min=1.0, help="When to stop with what was reached.")
    ] = 60.0,
    shape: options.Shapes,
    dim: options.Dims,
    constant: options.Constants,
    precision: options.Precision = None,
    keep_fp32: options.KeepFp32 = None,
    level: options.Level = 2,
    pipeline: options.PipelineText = None,
    json: options.Json = False,
    verbose: options.Verbose = 0,
    quiet: options.Quiet = False,
) -> None:
    """Shrink a model that a pipeline breaks to a few nodes that it breaks in the same way.

    Writes a folder with the model, the feeds, and the one command that shows the failure. Exit code 2
    if nothing fails.
    """
    output = Output(json, verbose, quiet)
    settings = values.pipeline_settings(level, shape, dim, constant, precision, keep_fp32)
    folder = _check_folder(Path(out) if out is not None else Path(f"{Path(model).stem}.reproducer"))
    from graphopt import debugging
    from graphopt.cli.progress import Progress

    with Progress(output) as progress:
        progress.say("read the model")
        found = debugging.reduce(
            model,
            None,
            target,
            pipeline=pipeline,
            data=data,
            seed=seed,
            runtime_optimized=runtime_optimized,
            seconds=seconds,
            output=folder,
            say=progress.say,
            **settings,
        )
    line = (folder / "command.txt").read_text(encoding="utf-8").strip()
    body = found.to_json()
    output.document("graphopt.reduce/1", {"model": model, "output": str(folder), "command": line, **body})
    if found.blame is not None:
        show_blame(output, found.blame)
        output.line()
    took = f"{duration(found.seconds)}, {found.tries} models tried"
    output.line(f"{found.nodes_before} -> {found.nodes} nodes in {took}")
    output.line(f"wrote {clean(folder)}/; run in it: {line}")
    if not found.finished:
        output.notes(["it was stopped before everything was tried: --seconds gives it more time"])


def _check_folder(folder: Path) -> Path:
    """`folder`, if something can be written there: before work starts, not after."""
    if folder.exists() and not folder.is_dir():
        raise OutputError("GO111", "the output exists and is no folder", where=str(folder))
    if not folder.absolute().parent.is_dir():
        raise OutputError("GO111", "the output's folder does not exist", where=str(folder))
    return folder
