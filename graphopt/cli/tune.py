"""graphopt tune: the fastest verified way to run a model on the device that is here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphopt.cli import options, values
from graphopt.cli.output import Output, clean, duration
from graphopt.errors import UsageError

if TYPE_CHECKING:
    from graphopt.bench import Trial
    from graphopt.tuning import Tuned

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
MOST_PRINTED = 60


def tune(
    model: options.Source,
    *,
    target: options.Target = "cpu",
    folder: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FOLDER",
            help="Where to write the winner; default MODEL.TARGET.",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        str, typer.Option("--budget", metavar="TIME", help="How long to search: 60s, 10m, 1h.")
    ] = "60s",
    data: options.Data = None,
    precision: Annotated[
        str,
        typer.Option(
            "--precision", metavar="P,…", help="Precisions that may be chosen: fp32,fp16; the first is first."
        ),
    ] = "fp32",
    keep_fp32: options.KeepFp32 = None,
    shape: options.Shapes,
    dim: options.Dims,
    constant: options.Constants,
    level: options.Level = 2,
    state: Annotated[
        str | None,
        typer.Option(
            "--state",
            metavar="FILE",
            help="What was measured, for a search that goes on later; default OUTPUT.tuning.json.",
            show_default=False,
        ),
    ] = None,
    seed: options.Seed = 0,
    json: options.Json = False,
    verbose: options.Verbose = 0,
    quiet: options.Quiet = False,
) -> None:
    """Search for the fastest way to run a model here, and write it.

    Tried are the passes, the precision, and the session's optimisations, threads and provider options, one
    at a time on top of the best so far. Every candidate is first compared with the original model; the exit
    code is 4 if none gives its results. Run it again to go on where the time was up.
    """
    output = Output(json, verbose, quiet)
    from graphopt import artifact
    from graphopt.cli.progress import Progress
    from graphopt.target import Target
    from graphopt.tuning import tune as search

    chosen = Target.parse(target)
    destination = Path(folder) if folder else values.default_folder(model, chosen)
    artifact.check_output(destination)
    record = values.check_output_file(state or f"{destination}.tuning.json")
    with Progress(output) as progress:
        progress.say("read the model")
        found = search(
            model,
            chosen,
            budget_s=seconds_of(budget),
            data=data,
            seed=seed,
            precisions=tuple(dict.fromkeys(p.strip() for p in precision.split(","))),
            level=values.level(level),
            state=record,
            shapes=values.shapes(shape),
            dims=values.fixed_dims(dim),
            constants=values.constants(constant),
            keep_fp32=keep_fp32,
            say=progress.say,
        )
        progress.say("write the artifact")
        found.executable.save(destination)
    output.document("graphopt.tune/1", {**found.to_json(), "model": model, "state": str(record)})
    _show(output, found)
    output.line()
    output.line(f"wrote {clean(destination)}")
    notes = list(found.executable.notes)
    if not found.complete:
        notes.append(f"the time was up: the same command goes on from {record}")
    if data is None:
        notes.append("checked and measured on generated feeds: --data with real inputs is the better test")
    output.notes(notes)


def seconds_of(text: str) -> float:
    """``60s``, ``1.5m`` or ``1h`` in seconds. Raises UsageError (GO701)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|)", text.strip())
    if match is None or float(match[1]) == 0:
        raise UsageError("GO701", "a time is written like 60s, 10m or 1h", where="--budget", found=repr(text))
    return float(match[1]) * _UNITS[match[2]]


def _show(output: Output, found: Tuned) -> None:
    from graphopt.tuning import describe

    output.table(
        ["candidate", "outcome", ">p50", ">speedup", ">95 % interval", ">rounds", "because"],
        [_row(trial, describe(trial.point, trial.against)) for trial in found.trials[:MOST_PRINTED]],
        title=f"{len(found.trials)} candidates, each against the best before it",
    )
    if len(found.trials) > MOST_PRINTED:
        output.line(f"and {len(found.trials) - MOST_PRINTED} more (--json lists all)")
    output.line()
    if not found.choices:
        output.line("Nothing was faster for sure than the starting point, which is kept.", "bold")
        return
    low, high = found.interval
    output.line(
        f"{found.speedup:.2f}x as fast as the starting point ({low:.2f} to {high:.2f}): "
        f"{describe(found.choices)}",
        "bold",
    )


def _row(trial: Trial, label: str) -> tuple[str, ...]:
    interval = trial.interval
    return (
        label,
        trial.outcome,
        "" if trial.p50_s is None else duration(trial.p50_s),
        "" if trial.speedup is None else f"{trial.speedup:.2f}x",
        "" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}",
        str(trial.rounds or ""),
        trial.reason or "",
    )
