"""graphopt quantize: a smaller model, and what that costs in accuracy, measured."""

from __future__ import annotations

import importlib
from typing import Annotated, Any

import typer

from graphopt.cli import options, values
from graphopt.cli.optimize import show_passes
from graphopt.cli.output import Output, clean, size
from graphopt.errors import UsageError

MODES = {
    "dynamic": "quantize{{mode=dynamic {options}}}",
    "static": "quantize{{mode=static {options}}}",
    "weights": "quantize-weights{{{options}}}",
    "fp16": "narrow-float{{to=fp16 {options}}}",
}
"""The pass that each mode runs."""

WIDER = "ONNX Runtime's CPU provider computes most of float16 in float32: on a GPU the errors are larger"
GENERATED_RUNS = 3


def quantize(
    model: options.Source,
    *,
    out: options.RequiredOutput,
    mode: Annotated[
        str,
        typer.Option(
            "--mode",
            metavar="M",
            help="dynamic: MatMul and Gemm in 8 bits; static: also Conv, needs --data; "
            "weights: stored in few bits, computed in floats; fp16: computed in float16 where --data fits.",
        ),
    ] = "dynamic",
    with_options: Annotated[
        str,
        typer.Option(
            "--options",
            metavar="TEXT",
            help="Options of the pass, as in a pipeline: 'type=uint8 per-channel=false', 'bits=8 block=128'; "
            "`graphopt passes` lists them.",
        ),
    ] = "",
    data: options.Data = None,
    max_error: options.MaxError = None,
    shape: options.Shapes,
    dim: options.Dims,
    level: options.Level = 2,
    seed: options.Seed = 0,
    json: options.Json = False,
    verbose: options.Verbose = 0,
    quiet: options.Quiet = False,
) -> None:
    """Quantize a model, measure what that changes, and write it if that is allowed.

    The model is optimized at level -O first. Sizes, the latency under ONNX Runtime (one CPU thread) and
    the errors of all outputs on --data are reported; without --data they are measured on generated
    feeds. Nothing is written if the result is refused.
    """
    output = Output(json, verbose, quiet)
    if mode not in MODES:
        raise UsageError("GO701", "unknown mode", where="--mode", found=mode, expected=", ".join(MODES))
    if mode == "static" and data is None:
        raise UsageError("GO701", "static quantization needs --data", where="--mode static")
    compress(
        output,
        model,
        out,
        MODES[mode].format(options=with_options),
        data,
        max_error,
        values.level(level),
        seed,
        {"shapes": values.shapes(shape), "dims": values.fixed_dims(dim)},
    )


def compress(
    output: Output,
    model: str,
    out: str,
    chosen: str,
    data: str | None,
    max_error: float | None,
    level: int,
    seed: int,
    sizes: dict[str, Any],
) -> None:
    """Run the pass `chosen` after the passes of `level`, measure, refuse or write, and report."""
    destination = values.check_output_file(out, source=model)
    from graphopt import driver
    from graphopt.cli.progress import Progress
    from graphopt.passes.presets import FINISH, pipeline_text
    from graphopt.verification import generate_feeds

    changing = importlib.import_module("graphopt.verification.change")
    with Progress(output) as progress:
        progress.say("optimize the original")
        plain = driver.optimize(model, pipeline="", **sizes).model
        if data is None:
            feeds = [generate_feeds(plain, dims=sizes["dims"], seed=seed + i) for i in range(GENERATED_RUNS)]
        else:
            feeds = driver.calibration_feeds(data, plain)
        steps = [text for text in (pipeline_text(level), chosen, *FINISH) if text]
        result = driver.optimize(model, pipeline=",".join(steps), data=feeds, say=progress.say, **sizes)
        progress.say("measure both")
        change = changing.measure_change(plain, result.model, feeds)
        changing.refuse_beyond(change, max_error)
        progress.say("write the model")
        result.save(destination)
    report = result.report.to_json()
    output.document(
        "graphopt.compress/1",
        {
            "model": model,
            "output": str(destination),
            "pipeline": result.pipeline,
            "data": data,
            "max_error": max_error,
            "change": change,
            "report": report,
        },
    )
    report["passes"] = [row for row in report["passes"] if row["name"].startswith(chosen.partition("{")[0])]
    show_passes(output, report)
    _show_parts(output, [part for row in report["passes"] for part in row["details"]])
    _show(output, change)
    output.line(f"wrote {clean(destination)}")
    notes = [] if data else ["measured on generated feeds: --data with real inputs is the better test"]
    output.notes([*notes, WIDER] if chosen.startswith("narrow-float") else notes)


def _show_parts(output: Output, parts: list[dict[str, Any]]) -> None:
    """A row for each layer whose channels or heads went."""
    rows = [
        (
            row["layer"],
            row["unit"],
            row["before"],
            row["after"],
            size(row["bytes_before"]),
            size(row["bytes_after"]),
        )
        for row in parts
        if "layer" in row
    ]
    if rows:
        columns = ["layer", "of", ">before", ">after", ">bytes before", ">after"]
        output.table(columns, rows, title="what is left of each layer")


def _show(output: Output, change: dict[str, Any]) -> None:
    output.table(
        ["output", ">error", ">max abs", ">cosine", ">same top 1"],
        [
            (
                row["name"],
                f"{row['error']:.3g}",
                "" if row["max_abs_error"] is None else f"{row['max_abs_error']:.3g}",
                "" if row["cosine"] is None else f"{row['cosine']:.6f}",
                "" if row["top1_agreement"] is None else f"{row['top1_agreement']:.1%}",
            )
            for row in change["outputs"]
        ],
        title="change of the outputs (error: as a share of the largest magnitude)",
    )
    before, after, ratio = change["bytes_before"], change["bytes_after"], change["latency_ratio"]
    output.line()
    output.line(
        f"{size(before)} -> {size(after)} ({after / before:.1%}), latency "
        + ("not measurable" if ratio is None else f"{ratio:.2f} of the original")
    )
