"""What visualize and diff look at: models and artifacts, with sizes bound, and what is known of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.cli import values
from graphopt.errors import UsageError

if TYPE_CHECKING:
    from graphopt.ir import Model
    from graphopt.target import Device
    from graphopt.viz import Measured

MAX_VERIFICATION_BYTES = 64 << 20


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
            _bind(subject.model, chosen)
    for kind, rows in given.items():
        for name in rows:
            if (kind, name) not in known:
                names = sorted({n for k, n in known if k == kind})
                flag = f"--{kind.removesuffix('s')} {name}"
                raise UsageError(
                    "GO701", "nothing in the models has this name", where=flag, expected=", ".join(names)
                )
    return subjects


def _bind(model: Model, chosen: Sizes) -> None:
    """Bind sizes and constants in `model` in place, and infer its shapes."""
    from graphopt.ir.bind import bind_constants
    from graphopt.passes.bind_dims import BindDims

    bind_constants(model, chosen["constants"])
    for value in model.graph.inputs:
        given = chosen["shapes"].get(value.name or "")
        if given is not None and (value.shape is None or len(value.shape) != len(given)):
            raise UsageError(
                "GO701",
                "the shape has another rank than the input",
                where=f"--shape {value.name}",
                found=given,
                expected=value.shape,
            )
    by_axis = {
        f"{name}.{axis}": size
        for name, shape in chosen["shapes"].items()
        for axis, size in enumerate(shape)
        if isinstance(size, int)
    }
    BindDims(tuple(f"{name}={size}" for name, size in (chosen["dims"] | by_axis).items())).run(model)


def _open(path: str) -> Subject:
    from graphopt import artifact, driver, reporting
    from graphopt.viz.view import prepared

    name = values.heading(path)
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
