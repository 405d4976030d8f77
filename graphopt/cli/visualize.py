"""graphopt visualize: a model or an artifact as a page, a drawing, Mermaid text, or for Model Explorer."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli import options, values
from graphopt.cli.output import Output, clean, size
from graphopt.cli.subjects import Subject, find_device, open_subjects, read_verification, sizes

if TYPE_CHECKING:
    from graphopt.viz import Visualization


def visualize(
    model: options.SourceOrArtifact,
    *,
    after: Annotated[
        str | None,
        typer.Option(
            "--after",
            metavar="OTHER",
            help="A second model or artifact, shown beside the first: what changed.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="report.html (default MODEL.html), .svg, .mmd (Mermaid) or .json (Model Explorer).",
            show_default=False,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="D",
            help="Draw the roofline of this device: v5e, h100, …; default: the artifact's.",
            show_default=False,
        ),
    ] = None,
    verification: Annotated[
        str | None,
        typer.Option(
            "--verification",
            metavar="FILE",
            help="What `graphopt verify --json` printed: shows the numeric error of each output.",
            show_default=False,
        ),
    ] = None,
    title: Annotated[
        str | None, typer.Option("--title", help="The heading; default: the file's name.", show_default=False)
    ] = None,
    shape: options.Shapes,
    dim: options.Dims,
    constant: options.Constants,
    json: options.Json = False,
    verbose: options.Verbose = 0,
    quiet: options.Quiet = False,
) -> None:
    """Draw a model or an artifact, or two side by side, into one file that needs nothing else.

    The page opens from disk and loads nothing. Sizes are bound in every model that has them, so that
    costs have numbers. What the passes did one by one is in the pages that
    `graphopt optimize --report` and `graphopt compile --report` write.
    """
    output = Output(json, verbose, quiet)
    from graphopt import viz
    from graphopt.cli.progress import Progress

    destination = Path(out) if out is not None else Path(f"{values.file_stem(model)}.html")
    viz.check_suffix(destination)
    values.check_output_file(destination, source=model)
    given = sizes(shape, dim, constant)
    further: dict[str, Any] = {
        **({} if device is None else {"device": find_device(device)}),
        **({} if verification is None else {"verification": read_verification(verification)}),
    }
    with Progress(output) as progress:
        progress.say("read the model")
        subjects = open_subjects([path for path in (model, after) if path is not None], given)
        progress.say("draw")
        picture = _picture(subjects, title, further)
        picture.save(destination)
    written = destination.stat().st_size
    counts = [viz.shown_nodes(subject.model) for subject in subjects]
    output.document(
        "graphopt.visualize/1",
        {
            "model": model,
            "after": after,
            "output": str(destination),
            "format": destination.suffix.lower().removeprefix("."),
            "bytes": written,
            "nodes": counts,
        },
    )
    output.line(f"wrote {clean(destination)} ({size(written)}): {' -> '.join(map(str, counts))} nodes")


def _picture(subjects: list[Subject], title: str | None, further: dict[str, Any]) -> Visualization:
    """The picture of `subjects`, with what is known of the last one and what else was given."""
    from graphopt import viz

    measured = subjects[-1].measured
    if further:
        measured = dataclasses.replace(measured or viz.Measured(), **further)
    heading = title if title is not None else " -> ".join(subject.name for subject in subjects)
    return viz.Visualization(tuple((s.model, s.invented) for s in subjects), heading, measured)
