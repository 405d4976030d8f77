"""graphopt visualize: a model or an artifact as a page, a drawing, Mermaid text, or for Model Explorer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli import options, values
from graphopt.cli.output import Output, clean, size
from graphopt.errors import UsageError

if TYPE_CHECKING:
    from graphopt.ir import Model
    from graphopt.target import Device
    from graphopt.viz import Measured

MAX_VERIFICATION_BYTES = 64 << 20


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
    further: dict[str, Any] = {}
    if device is not None:
        further["device"] = find_device(device)
    if verification is not None:
        further["verification"] = read_verification(verification)
    with Progress(output) as progress:
        progress.say("read the model")
        subjects = open_subjects([path for path in (model, after) if path is not None], given)
        progress.say("draw")
        measured = subjects[-1].measured
        if further:
            measured = dataclasses.replace(measured or viz.Measured(), **further)
        heading = title if title is not None else _title(subjects)
        shown = tuple((subject.model, subject.invented) for subject in subjects)
        picture = viz.Visualization(shown, heading, measured)
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


@dataclasses.dataclass
class Subject:
    """A model or an artifact that is looked at.

    Attributes:
        invented: names that were made up for nodes without one.
        report: what the passes did, of an artifact.
        cost: cycles per node, of an artifact that has them.
        measured: what its executable knows of its nodes.
    """

    name: str
    model: Model
    invented: frozenset[str]
    report: dict[str, Any] | None = None
    cost: dict[str, Any] | None = None
    measured: Measured | None = None


Sizes = dict[str, dict[str, Any]]


def sizes(shape: list[str], dim: list[str], constant: list[str]) -> Sizes:
    """The sizes and constants that options give, for :func:`open_subjects`."""
    return {
        "shapes": values.shapes(shape),
        "dims": values.fixed_dims(dim),
        "constants": values.constants(constant),
    }


def open_subjects(paths: Sequence[str], given: Sizes) -> list[Subject]:
    """The models in `paths`, or those of the artifacts there, whose files are checked.

    Args:
        given: sizes and constants, which are bound in each model that has such dimensions or inputs.

    Raises:
        UsageError: GO701, nothing has a dimension or an input that is given.
    """
    subjects = [_open(path) for path in paths]
    known: set[tuple[str, str]] = set()
    for subject in subjects:
        free = _free(subject.model)
        known |= free
        chosen = {kind: {n: v for n, v in rows.items() if (kind, n) in free} for kind, rows in given.items()}
        if any(chosen.values()):
            from graphopt import driver

            driver.bind(subject.model, **chosen)
    for kind, rows in given.items():
        for name in rows:
            if (kind, name) not in known:
                names = sorted({n for k, n in known if k == kind})
                flag = f"--{kind.removesuffix('s')} {name}"
                raise UsageError(
                    "GO701", "nothing in the models has this name", where=flag, expected=", ".join(names)
                )
    return subjects


def _open(path: str) -> Subject:
    from graphopt import artifact, driver, reporting
    from graphopt.viz.view import prepared

    name = Path(path).name or path
    if not values.is_artifact(path):
        return Subject(name, *prepared(path))
    executable = driver.load_artifact(path)
    precision = executable.manifest.get("options", {}).get("precision")
    known = reporting.measured(executable.target, executable.cost, executable.placement, precision)
    model, invented = prepared(str(Path(path) / artifact.MODEL))
    return Subject(name, model, invented, dict(executable.report), executable.cost, known)


def _free(model: Model) -> set[tuple[str, str]]:
    """What can be bound in `model`, by kind and name."""
    found: set[tuple[str, str]] = set()
    for value in model.graph.inputs:
        found |= {("shapes", value.name or ""), ("constants", value.name or "")}
        for axis, dim in enumerate(value.shape.dims if value.shape is not None else ()):
            if not isinstance(dim, int):
                found |= {("dims", str(dim.value)), ("dims", f"{value.name}.{axis}")}
    return found


def find_device(name: str) -> Device:
    """The device called `name` in the device table. Raises UsageError (GO701) with the choices."""
    from graphopt.target import devices

    table = devices("tpu") | devices("gpu")
    if name not in table:
        raise UsageError(
            "GO701",
            "unknown device",
            where="--device",
            found=repr(name),
            expected=f"one of {', '.join(table)}",
        )
    return table[name]


def read_verification(path: str) -> dict[str, Any]:
    """What `graphopt verify --json` wrote to `path`. Raises UsageError (GO701) if it is something else."""
    import json

    expected = "the output of graphopt verify --json"
    try:
        if not Path(path).is_file() or Path(path).stat().st_size > MAX_VERIFICATION_BYTES:
            raise ValueError("no regular file, or too large")
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        runs = [output for run in found["runs"] for output in run["outputs"]]
        if found["schema"] != "graphopt.verify/1" or not all(isinstance(o["name"], str) for o in runs):
            raise ValueError("another schema")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(
            "GO701", "the verification cannot be read", where=path, found=str(error), expected=expected
        ) from error
    return dict(found)


def _title(subjects: list[Subject]) -> str:
    return " -> ".join(subject.name for subject in subjects)
