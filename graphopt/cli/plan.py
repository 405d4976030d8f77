"""graphopt plan: what a model would cost on several TPUs and at several sizes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from graphopt.cli import options, values
from graphopt.cli.costs import transfers
from graphopt.cli.output import Output, duration, size

if TYPE_CHECKING:
    from graphopt.planning import Row

DEFAULT = "v5e,v5p,v6e,v7x"
MOST_ADVICE = 6
MOST_HOST = 10


def plan(
    model: options.Source,
    *,
    targets: Annotated[
        str, typer.Option("--targets", "-t", metavar="T,…", help="TPUs to compare: v5e,v6e or v5p:4x4x4.")
    ] = DEFAULT,
    shape: options.Shapes,
    dim: Annotated[
        list[str],
        typer.Option(
            "--dim",
            metavar="NAME=SIZE,…",
            help="Size of a named dimension; several sizes (batch=1,8,32) make rows for each.",
            default_factory=list,
            show_default=False,
        ),
    ],
    constant: options.Constants,
    precision: options.Precision = None,
    keep_fp32: options.KeepFp32 = None,
    level: options.Level = 2,
    pipeline: options.PipelineText = None,
    jobs: options.Jobs = None,
    timeout: options.Timeout = None,
    no_cache: options.NoCache = False,
    json: options.Json = False,
    verbose: options.Verbose = 0,
    quiet: options.Quiet = False,
) -> None:
    """Compare what a model would cost on several TPUs and at several sizes.

    Each is compiled with the TPU compiler, some at once; nothing is written. What fails for one
    target is said in its row; the command fails only if nothing compiled.
    """
    output = Output(json, verbose, quiet)
    from graphopt import planning
    from graphopt.cli.progress import Progress

    with Progress(output) as progress:
        rows = planning.plan(
            model,
            [part.strip() for part in targets.split(",") if part.strip()],
            values.several_dims(dim),
            level=values.level(level),
            precision=precision,
            shapes=values.shapes(shape),
            constants=values.constants(constant),
            keep_fp32=keep_fp32,
            pipeline=pipeline,
            jobs=jobs,
            timeout=timeout,
            cache=not no_cache,
            say=progress.say,
        )
    output.document("graphopt.plan/1", {"model": model, "rows": [row.to_json() for row in rows]})
    _show(output, rows)
    if all(row.error for row in rows):
        raise typer.Exit(max(int((row.error or {}).get("exit_code") or 3) for row in rows))


def _show(output: Output, rows: list[Row]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row.dims))
    columns = [f">{name}" for name in names]
    columns += ["target", ">cycles", ">time", "bound", ">MFU", ">memory", ">of", "fits", ">items/s/chip"]
    shown = [row for row in rows if row.error is None]
    output.table(columns, [_cells(row, names) for row in rows])
    failed = [row for row in rows if row.error is not None]
    if failed:
        output.line()
        output.line("not compiled", "bold")
        for message, where in _grouped(failed).items():
            output.line(f"  {', '.join(where)}: {message}")
    _show_host(output, shown)
    output.notes(list(dict.fromkeys(note for row in shown for note in row.notes)))
    advice = _advice(shown)
    if advice:
        output.line()
        output.line("what the figures say", "bold")
        for line in advice:
            output.line(f"  - {line}")
    if shown:
        output.line()
        output.line("Times: cycles at the chip's clock, or bytes at its memory's speed, whichever is longer.")
        output.line("Items: first dimension of the first input, with a program on each core of a chip.")


def _show_host(output: Output, rows: list[Row]) -> None:
    """What of the model leaves the TPU, why, and what moves: once for each size that differs in it."""
    told: set[str] = set()
    for row in rows:
        moved = transfers(row.transfers)
        if not row.placement or moved is None or moved in told:
            continue
        told.add(moved)
        output.table(
            ["node", "op", "because"],
            [(r["node"], r["op"], r["reason"]) for r in row.placement[:MOST_HOST]],
            title=f"{_label(row)}: {len(row.placement)} nodes run on the host and are not in the figures",
        )
        if len(row.placement) > MOST_HOST:
            output.line(f"and {len(row.placement) - MOST_HOST} more (--json lists all)")
        output.line(moved)


def _cells(row: Row, names: list[str]) -> list[object]:
    dims: list[object] = [row.dims.get(name, "") for name in names]
    if row.cost is None:
        return [*dims, str(row.target), "not compiled", "", "", "", "", "", "", ""]
    data = row.to_json()
    return [
        *dims,
        str(row.target),
        f"{data['cycles']:,}",
        duration(data["seconds"]),
        data["bound"] or "",
        "" if data["mfu"] is None else f"{data['mfu']:.1%}",
        size(data["hbm_peak_bytes"]),
        size(data["hbm_device_bytes"]),
        {True: "yes", False: "no", None: "?"}[data["fits"]],
        "?" if row.items_per_second is None else f"{row.items_per_second:,.0f}",
    ]


def _label(row: Row) -> str:
    dims = " ".join(f"{name}={value}" for name, value in row.dims.items())
    return f"{row.target} {dims}".strip()


def _grouped(failed: list[Row]) -> dict[str, list[str]]:
    """Rows by what went wrong with them."""
    found: dict[str, list[str]] = {}
    for row in failed:
        error = row.error or {}
        text = f"{error.get('code')} {error.get('message')}"
        for key in ("found", "next_step"):
            if error.get(key):
                text += f"; {error[key]}"
        found.setdefault(text, []).append(_label(row))
    return found


def _advice(rows: list[Row]) -> list[str]:
    """Lines that hold for every row, then the first line of each row that has others, as far as it is new."""
    if not rows:
        return []
    lists = [list((row.cost or {}).get("advice", [])) for row in rows]
    found = [line for line in lists[0] if all(line in other for other in lists)]
    told = {_subject(line) for line in found}
    for row, lines in zip(rows, lists, strict=True):
        line = next((each for each in lines if _subject(each) not in told), None)
        if line is not None and len(found) < MOST_ADVICE:
            told.add(_subject(line))
            found.append(f"{_label(row)}: {line}")
    return found


def _subject(line: str) -> str:
    """What a line is about: its words without its numbers."""
    return re.sub(r"[\d.,%]+", "", line)
