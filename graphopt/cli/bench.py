"""graphopt bench: latencies of models and artifacts, side by side."""

from __future__ import annotations

import dataclasses
import importlib
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
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


Callers = Annotated[
    int | None,
    typer.Option(
        "--callers",
        metavar="N",
        min=1,
        max=256,
        help="Also measure calls per second when N threads share each candidate.",
        show_default=False,
    ),
]


@dataclasses.dataclass
class Candidate:
    """What is measured.

    Attributes:
        source: a file or an artifact's folder.
        target: whose device it runs on.
        executable: None of an original model, which runs as it is.
        call: one run.
    """

    source: str
    target: str
    executable: Executable | None
    call: Callable[[], object]
    feeds: dict[str, Any]
    notes: list[str]


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
    original: Annotated[
        str | None,
        typer.Option(
            "--original",
            metavar="MODEL",
            help="Also run this model as it is, by ONNX Runtime with its own optimisations; it is the base.",
            show_default=False,
        ),
    ] = None,
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
    callers: Callers = None,
    no_memory: Annotated[
        bool, typer.Option("--no-memory", help="Do not measure peak memory, each in a process of its own.")
    ] = False,
    json: options.Json = False,
    verbose: options.Verbose = 0,
    quiet: options.Quiet = False,
) -> None:
    """Measure latencies of models and artifacts side by side.

    They take turns in one process. Ratios are to the first candidate, with a 95 % interval; above 1
    is faster. A model is measured once for each --target and -O given.
    """
    output = Output(json, verbose, quiet)
    plans = _plans(models, target or ["xla-cpu"], [values.level(n) for n in level] or [2])
    common = {
        "shapes": values.shapes(shape),
        "dims": values.fixed_dims(dim),
        "constants": values.constants(constant),
        "precision": precision,
    }
    candidates = _open(output, plans, common, original, data, seed)
    limit = DEFAULT_SECONDS if runs is None and seconds is None else seconds
    rounds = {"runs": runs, "seconds": limit, "warmup": warmup, "settle": 1, "seed": seed}
    rows = _measure(output, candidates, rounds, callers, memory=not no_memory)
    output.document(
        "graphopt.bench/1", {"candidates": rows, "confidence": 0.95, "seed": seed, "callers": callers}
    )
    _show(output, rows, callers)


def _measure(
    output: Output,
    candidates: dict[str, Candidate],
    rounds: dict[str, Any],
    callers: int | None,
    *,
    memory: bool,
) -> list[dict[str, Any]]:
    """A row of figures for each candidate; ratios are to the first."""
    from graphopt import bench as measuring
    from graphopt.cli.progress import Progress

    calls = {label: candidate.call for label, candidate in candidates.items()}
    peaks: dict[str, int | None] = {}
    rates: dict[str, list[float]] = {}
    with Progress(output) as progress:
        for label, candidate in candidates.items():
            progress.say(f"first run of {label}")
            candidate.call()
        if memory:
            peaks = _memory(candidates, progress.say)
        progress.say("measure")
        series = measuring.interleave(calls, progress=progress.advance, **rounds)
        if callers is not None:
            progress.say(f"measure with {callers} callers")
            seconds = rounds["seconds"] or DEFAULT_SECONDS
            rates = measuring.throughput(calls, callers=callers, seconds=seconds)
    return [
        {
            **_row(series[0], item),
            "peak_memory_bytes": peaks.get(item.name),
            "concurrent_calls_per_s": rates.get(item.name),
            "notes": candidates[item.name].notes,
        }
        for item in series
    ]


def _open(
    output: Output,
    plans: Mapping[str, tuple[str, dict[str, Any] | None]],
    common: dict[str, Any],
    original: str | None,
    data: str | None,
    seed: int,
) -> dict[str, Candidate]:
    """The candidates by label, ready to run on one set of feeds."""
    from graphopt.cli import feeds as feeding

    given = None if data is None else feeding.verification().load_feeds(data)[0]
    found: dict[str, Candidate] = {}
    for label, (source, arguments) in plans.items():
        executable = feeding.open_executable(output, source, **(common | arguments if arguments else {}))
        feeds = feeding.generated(executable, common["dims"], seed) if given is None else given
        names = {spec["name"] for spec in executable.inputs}
        wanted = {name: array for name, array in feeds.items() if name in names}
        found[label] = Candidate(
            source,
            str(executable.target),
            executable,
            _call(executable.run, wanted),
            wanted,
            executable.notes,
        )
    if original is None:
        return found
    first = next(iter(found.values()))
    session = open_original(original, first.target)
    fixed = importlib.import_module("graphopt.ir.bind").bind_constants(
        importlib.import_module("graphopt.ir.io").load(original), common["constants"]
    )
    feeds = {**(given or first.feeds), **fixed}
    wanted = {spec.name: feeds[spec.name] for spec in session.specs if spec.name in feeds}
    base = Candidate(original, first.target, None, _call(session.run, wanted), wanted, session.fallbacks)
    return {f"{original} (original)": base, **found}


def open_original(source: str, target: str) -> Any:
    """A session of ONNX Runtime that runs the file `source` as its users do, on the device of `target`."""
    providers = importlib.import_module("graphopt.lowering.cuda.placement").PROVIDERS
    wanted = providers.get(target.partition(":")[0], providers["cpu"])
    return importlib.import_module("graphopt.runtime.ort").OrtSession(source, list(wanted))


def _memory(candidates: Mapping[str, Candidate], say: Callable[[str], None]) -> dict[str, int | None]:
    from graphopt.cli.bench_memory import child_peak_bytes

    found: dict[str, int | None] = {}
    for label, candidate in candidates.items():
        say(f"memory of {label}")
        with tempfile.TemporaryDirectory(prefix="graphopt-bench-") as scratch:
            executable = candidate.executable
            folder = None if executable is None else executable.folder
            found[label] = child_peak_bytes(candidate, candidate.feeds, Path(scratch))
            if executable is not None:
                executable.folder = folder  # a copy for the child is no place of its own
    return found


def _row(base: Series, item: Series) -> dict[str, Any]:
    from graphopt.bench import ratio

    faster, low, high = ratio(base, item)
    return {**item.to_json(), "speedup": faster, "speedup_interval": [low, high]}


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


def _call(run: Callable[[dict[str, Any]], object], feeds: dict[str, Any]) -> Callable[[], object]:
    return lambda: run(feeds)


def _show(output: Output, rows: list[dict[str, Any]], callers: int | None) -> None:
    columns = ["candidate", ">p50", ">p90", ">p99", ">calls/s", ">speedup", ">95 % interval", ">peak memory"]
    output.table(
        [*columns, *([] if callers is None else [f">calls/s of {callers}"])],
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
                *([] if callers is None else [_rates(r["concurrent_calls_per_s"])]),
            )
            for r in rows
        ],
    )
    output.line()
    output.line(
        f"{rows[0]['runs']} rounds in turns. Peak memory: of a process that loads this and runs it, "
        "Python and libraries included."
    )
    output.notes(f"{row['name']}: {note}" for row in rows for note in row["notes"])


def _rates(rates: list[float]) -> str:
    """The middle of the turns, and their range."""
    ordered = sorted(rates)
    return f"{ordered[len(ordered) // 2]:,.1f} ({ordered[0]:,.1f} to {ordered[-1]:,.1f})"
