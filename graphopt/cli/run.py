"""graphopt run: run an artifact or a model on given or generated feeds."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from graphopt.cli import options, values
from graphopt.cli.output import Output, duration, shape

STATISTICS = ("min", "mean", "max")


def run(
    model: options.SourceOrArtifact,
    *,
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input",
            "-i",
            metavar="[NAME=]PATH",
            help="Feeds: name=x.npy, x.npy, x.npz or a folder of .npy files; may be repeated.",
            default_factory=list,
            show_default=False,
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            "-o", "--output", metavar="OUT.npz", help="Write the outputs there.", show_default=False
        ),
    ] = None,
    random: Annotated[bool, typer.Option("--random", help="Generate the feeds that are not given.")] = False,
    seed: options.Seed = 0,
    target: options.Target = "xla-cpu",
    shape: options.Shapes,
    dim: options.BucketDims,
    buckets: options.Buckets = "pad",
    constant: options.Constants,
    precision: options.Precision = None,
    level: options.Level = 2,
    strict: options.StrictRun = None,
    json: options.Json = False,
    verbose: options.Verbose = 0,
    quiet: options.Quiet = False,
) -> None:
    """Run an artifact or a model and show its outputs.

    A model is compiled now, for --target. What was compiled for cuda or tensorrt runs there or not at all,
    unless --no-strict accepts the CPU for what the GPU does not take.
    """
    output = Output(json, verbose, quiet)
    import time

    from graphopt.cli import feeds as feeding
    from graphopt.cli.progress import Progress

    sizes = values.bucket_dims(dim)
    arguments = {
        "target": target,
        "level": values.level(level),
        "shapes": values.shapes(shape),
        "dims": sizes,
        "buckets": buckets,
        "constants": values.constants(constant),
        "precision": precision,
        "strict": bool(strict),
    }
    destination = values.check_output_file(out) if out is not None else None
    executable = feeding.open_executable(output, model, **arguments)
    feeds = feeding.read_feeds(inputs, executable.inputs)
    if random:
        made = feeding.generated(executable, {k: v for k, v in sizes.items() if isinstance(v, int)}, seed)
        feeds = {**made, **feeds}
    with Progress(output) as progress:
        progress.say("run")
        started = time.perf_counter()
        on_gpu = executable.target.kind in ("cuda", "tensorrt")
        if (on_gpu if strict is None else strict) and not executable.target.is_xla:
            executable.session(strict=True)
        results = executable.run(feeds)
        seconds = time.perf_counter() - started
    rows = [describe(name, value) for name, value in results.items()]
    written = feeding.write_npz(destination, results) if destination is not None else []
    output.document(
        "graphopt.run/1",
        {
            "target": str(executable.target),
            "outputs": rows,
            "seconds": seconds,
            "written": None if destination is None else str(destination),
            "notes": [*executable.notes, *written],
        },
    )
    _show(output, rows)
    output.log(f"first run, compilation for these shapes included: {duration(seconds)}")
    if destination is not None:
        output.line(f"wrote {destination}")
    output.notes([*executable.notes, *written])


def _show(output: Output, rows: list[dict[str, Any]]) -> None:
    output.table(
        ["output", "type", "shape", ">min", ">mean", ">max", "beside numbers"],
        [
            (r["name"], r["dtype"], shape(r["shape"]), *(_number(r.get(k)) for k in STATISTICS), _odd(r))
            for r in rows
        ],
    )


def describe(name: str, value: Any) -> dict[str, Any]:
    """Type, shape and statistics of one output; minimum, mean and maximum are of its finite numbers."""
    import numpy as np

    if isinstance(value, list):
        return {"name": name, "dtype": "sequence", "shape": [len(value)]}
    array = np.asarray(value)
    row: dict[str, Any] = {"name": name, "dtype": array.dtype.name, "shape": list(array.shape)}
    if array.dtype == object or array.dtype.kind in "USc" or array.size == 0:
        return row
    numbers = array.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    if finite.size:
        row |= {"min": float(finite.min()), "mean": float(finite.mean()), "max": float(finite.max())}
    row |= {"nan": int(np.isnan(numbers).sum()), "inf": int(np.isinf(numbers).sum())}
    return row


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _odd(row: dict[str, Any]) -> str:
    return ", ".join(f"{row[kind]} {kind}" for kind in ("nan", "inf") if row.get(kind))
