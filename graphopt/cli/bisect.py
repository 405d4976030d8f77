"""graphopt bisect: which pass breaks a model, and which application of which rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from graphopt.cli import options, values
from graphopt.cli.output import Output
from graphopt.errors import EXIT_ACCURACY

if TYPE_CHECKING:
    from graphopt.verification import Bisection, Blame


def bisect(
    model: options.Source,
    *,
    target: options.OptionalTarget = None,
    data: options.Data = None,
    seed: options.Seed = 0,
    runtime_optimized: options.RuntimeOptimized = False,
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
    """Find the first pass that breaks a model, and the first bad application of a rule in it.

    A pass is bad if it changes results, leaves a model that is invalid or that ONNX Runtime does not
    run, or raises. The exit code is 4 if one is, 0 if all are sound.
    """
    output = Output(json, verbose, quiet)
    settings = values.pipeline_settings(level, shape, dim, constant, precision, keep_fp32)
    from graphopt import debugging
    from graphopt.cli.progress import Progress

    with Progress(output) as progress:
        progress.say("read the model")
        found = debugging.bisect(
            model,
            target,
            pipeline=pipeline,
            data=data,
            seed=seed,
            say=progress.say,
            runtime_optimized=runtime_optimized,
            **settings,
        )
    output.document("graphopt.bisect/1", {"model": model, **found.to_json()})
    show(output, found)
    if not found.ok:
        raise typer.Exit(EXIT_ACCURACY)


def show(output: Output, found: Bisection) -> None:
    """The verdict, and what is to blame."""
    if found.blame is None:
        sets = f"{len(found.feeds_list)} set{'s' if len(found.feeds_list) > 1 else ''} of inputs"
        output.line(f"all {found.passes} passes are sound on {sets}", "bold")
        return
    show_blame(output, found.blame)
    output.notes(
        [f"--rule-limit {found.blame.limit - 1} stops right before it, {found.blame.limit} after it"]
    )


def show_blame(output: Output, blame: Blame) -> None:
    """The pass, the rule, the node, and the neighbourhood before and after."""
    output.line(f"{blame.failure.kind}: {blame.failure.message}", "bold")
    output.facts(
        [
            ("pass", f"{blame.pass_name} (number {blame.pass_index + 1} of the pipeline)"),
            ("rule", blame.rule),
            ("node", None if blame.node is None else f"{blame.op_type} {blame.node!r}"),
            ("stands for", ", ".join(blame.origins) if blame.origins != (blame.node,) else None),
            ("application", f"{blame.application} of the pass" if blame.rule else None),
            ("rule limit", blame.limit),
        ]
    )
    for title, lines in (("before", blame.before), ("after", blame.after)):
        if lines:
            output.line()
            output.line(title)
            for line in lines:
                output.line(f"  {line}")
