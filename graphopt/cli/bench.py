"""graphopt bench: latencies of models and artifacts, side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli import options, values
from graphopt.cli.output import Output, duration, size
from graphopt.errors import UsageError

if TYPE_CHECKING:
    from graphopt.bench import Series
    from graphopt.executable import Executable

DEFAULT_SECONDS = 5.0
MAX_CANDIDATES = 20


def bench(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL|ARTIFACT...", help="ONNX files and artifacts; the first is the base of ratios."
        ),
    ],
    *,
    target: Annotated[
        list[str],
        typer.Option(
            "--target",
            "-t",
            metavar="T",
            help="What models are compiled for [default: xla-cpu]; repeat it to compare targets.",
            default_factory=list,
            show_default=False,
        ),
    ],
    level: Annotated[
        list[int],
        typer.Option(
            "-O",
            metavar="LEVEL",
            help="Level of models [default: 2]; repeat it to compare levels (-O0 -O2).",
            default_factory=list,
            show_default=False,
        ),
    ],
    shape: options.Shapes,
    dim: options.Dims,
    constant: options.Constants,
    precision: options.Precision = None,
    data: options.Data = None,
    seed: options.Seed = 0,
    runs: Annotated[
        int | None, typer.Option("--runs", metavar="N", min=1, help="Rounds.", show_default=False)
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds", metavar="S", min=0.0, help="Time to measure for [default: 5].", show_default=False
        ),
    ] = None,
    warmup: Annotated[
        int, typer.Option("--warmup", metavar="N", min=1, help="Calls before the clock starts.")
    ] = 3,
    json: options.Json = False,
    verbose: options.Verbose = 0,
    quiet: options.Quiet = False,
) -> None:
    """Measure latencies of models and artifacts side by side.

    They take turns in one process. Ratios are to the first candidate, with a 95 % interval; above 1
    is faster. A model is measured once for each --target and -O given.
    """
    output = Output(json, verbose, quiet)
    from graphopt import bench as measuring
    from graphopt.cli import feeds as feeding
    from graphopt.cli.progress import Progress

    sizes = values.fixed_dims(dim)
    plans = _plans(models, target or ["xla-cpu"], [values.level(n) for n in level] or [2])
    common = {
        "shapes": values.shapes(shape),
        "dims": sizes,
        "constants": values.constants(constant),
        "precision": precision,
    }
    given = None if data is None else feeding.verification().load_feeds(data)[0]
    calls: dict[str, Callable[[], object]] = {}
    memory: dict[str, int | None] = {}
    notes: dict[str, list[str]] = {}
    for label, (source, arguments) in plans.items():
        executable = feeding.open_executable(output, source, **(common | arguments if arguments else {}))
        feeds = feeding.generated(executable, sizes, seed) if given is None else given
        calls[label] = _call(executable, feeds)
        with Progress(output) as progress:
            progress.say(f"first run of {label}")
            memory[label] = measuring.peak_growth_bytes(calls[label])
        notes[label] = executable.notes
    limit = DEFAULT_SECONDS if runs is None and seconds is None else seconds
    with Progress(output) as progress:
        progress.say("measure")
        series = measuring.interleave(
            calls, runs=runs, seconds=limit, warmup=warmup, seed=seed, progress=progress.advance
        )
    rows = [_row(series[0], item, memory[item.name], notes[item.name]) for item in series]
    output.document("graphopt.bench/1", {"candidates": rows, "confidence": 0.95, "seed": seed})
    _show(output, rows)


def _row(base: Series, item: Series, memory: int | None, notes: list[str]) -> dict[str, Any]:
    from graphopt.bench import ratio

    faster, low, high = ratio(base, item)
    return {
        **item.to_json(),
        "speedup": faster,
        "speedup_interval": [low, high],
        "peak_memory_bytes": memory,
        "notes": notes,
    }


def _plans(
    models: list[str], targets: list[str], levels: list[int]
) -> dict[str, tuple[str, dict[str, Any] | None]]:
    """What to measure by its label: artifacts as they are, models for each target and level."""
    plans: dict[str, tuple[str, dict[str, Any] | None]] = {}
    for source in dict.fromkeys(models):
        if values.is_artifact(source):
            plans[source] = (source, None)
            continue
        for target in dict.fromkeys(targets):
            for level in dict.fromkeys(levels):
                plans[f"{source} {target} -O{level}"] = (source, {"target": target, "level": level})
    if len(plans) > MAX_CANDIDATES:
        raise UsageError(
            "GO701", f"{len(plans)} candidates are too many", expected=f"at most {MAX_CANDIDATES}"
        )
    return plans


def _call(executable: Executable, feeds: dict[str, Any]) -> Callable[[], object]:
    names = {spec["name"] for spec in executable.inputs}
    wanted = {name: array for name, array in feeds.items() if name in names}
    return lambda: executable.run(wanted)


def _show(output: Output, rows: list[dict[str, Any]]) -> None:
    output.table(
        ["candidate", ">p50", ">p90", ">p99", ">calls/s", ">speedup", ">95 % interval", ">peak memory"],
        [
            (
                r["name"],
                duration(r["p50_s"]),
                duration(r["p90_s"]),
                duration(r["p99_s"]),
                f"{r['calls_per_s']:,.1f}" if r["calls_per_s"] else "?",
                f"{r['speedup']:.2f}x",
                "" if r is rows[0] else f"{r['speedup_interval'][0]:.2f} to {r['speedup_interval'][1]:.2f}",
                size(r["peak_memory_bytes"]),
            )
            for r in rows
        ],
    )
    output.line()
    output.line(
        f"{rows[0]['runs']} rounds in turns. Peak memory: what loading and the first run added, "
        "libraries that came with it included."
    )
    output.notes(f"{row['name']}: {note}" for row in rows for note in row["notes"])
