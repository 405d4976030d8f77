"""graphopt prune: a model with fewer channels or heads, and what that costs in accuracy, measured."""

from __future__ import annotations

from typing import Annotated

import typer

from graphopt.cli import options, values
from graphopt.cli.output import Output
from graphopt.cli.quantize import compress


def prune(
    model: options.Source,
    *,
    out: Annotated[str, typer.Option("-o", "--output", metavar="OUT.onnx", help="Where to write.")],
    sparsity: Annotated[
        float, typer.Option("--sparsity", metavar="S", help="The share that goes, 0 to 1.")
    ] = 0.5,
    structured: Annotated[
        str, typer.Option("--structured", metavar="KIND", help="What goes: channels, or heads of attention.")
    ] = "channels",
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
    """Remove the channels or heads with the smallest weights, measure what that changes, and write the model.

    Sizes, latency and errors are reported as by `graphopt quantize`; nothing is written if the result
    is refused.
    """
    sizes = {"shapes": values.shapes(shape), "dims": values.fixed_dims(dim)}
    chosen = f"prune{{sparsity={sparsity} structured={structured}}}"
    output = Output(json, verbose, quiet)
    compress(output, model, out, chosen, data, max_error, values.level(level), seed, sizes)
