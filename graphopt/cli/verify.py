"""graphopt verify: whether a compiled model gives the answers of the original."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli import options, values
from graphopt.cli.output import Output
from graphopt.errors import EXIT_ACCURACY, UsageError

if TYPE_CHECKING:
    from graphopt.executable import Executable
    from graphopt.ir import Model

DEFAULT_RTOL, DEFAULT_ATOL_OF_RANGE = 1e-4, 1e-5
ROUNDING = 1e-6
ROUNDING_NOTE = (
    f"no error is above {ROUNDING:g}, the rounding of numbers near 1: an output that ends in a Sigmoid or "
    "Softmax is near 0 on generated feeds; --data with real inputs is the better test"
)
NARROW = frozenset({"tf32", "bf16", "fp16"})


def verify(
    model: options.SourceOrArtifact,
    *,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="MODEL",
            help="The reference; default: the model itself, for an artifact the model it holds.",
            show_default=False,
        ),
    ] = None,
    target: options.Target = "xla-cpu",
    data: options.Data = None,
    seed: options.Seed = 0,
    runs: Annotated[
        int, typer.Option("--runs", metavar="N", min=1, help="How many generated feeds to try.")
    ] = 3,
    rtol: Annotated[
        float | None,
        typer.Option(
            "--rtol",
            min=0.0,
            help="Relative tolerance; default: by type and by what was done.",
            show_default=False,
        ),
    ] = None,
    atol: Annotated[
        float | None,
        typer.Option(
            "--atol", min=0.0, help="Absolute tolerance; default: by the output's range.", show_default=False
        ),
    ] = None,
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
    """Compare results of a model or an artifact with ONNX Runtime.

    A model is compiled now, for --target. The reference runs with ONNX Runtime's own optimizations
    off. The exit code is 4 if results differ.
    """
    output = Output(json, verbose, quiet)
    from graphopt.cli import feeds as feeding
    from graphopt.cli.progress import Progress
    from graphopt.ir.io import load

    sizes: dict[str, dict[str, Any]] = {
        "shapes": values.shapes(shape),
        "dims": values.fixed_dims(dim),
        "constants": values.constants(constant),
    }
    is_artifact = values.is_artifact(model)
    if is_artifact and any(sizes.values()) and against is None:
        raise UsageError(
            "GO701", "an artifact's shapes and constants are fixed", where="--shape, --dim, --constant"
        )
    how = {"target": target, "level": values.level(level), "precision": precision, "keep_fp32": keep_fp32}
    executable = feeding.open_executable(output, model, pipeline=pipeline, **how, **sizes)
    with Progress(output) as progress:
        progress.say("read the reference")
        source = None if is_artifact and against is None else against or model
        reference = executable.model if source is None else load(source)
        all_feeds, origins = _all_feeds(reference, executable, data, runs, seed, sizes)
        progress.say("run both and compare")
        names = {spec["name"] for spec in executable.inputs}
        report = feeding.verification().verify(
            lambda feeds: executable.run({name: array for name, array in feeds.items() if name in names}),
            reference if source is None else source,
            feeds_list=all_feeds,
            **_allowed(executable, rtol, atol),
        )
    notes = [*([report.note] if report.note else []), *executable.notes]
    if not report.ok and data is None and _is_rounding(report):
        notes.append(ROUNDING_NOTE)
    _tell(output, report, origins, executable, f"the model in {model}" if source is None else source, notes)
    if not report.ok:
        raise typer.Exit(EXIT_ACCURACY)


def _tell(
    output: Output, report: Any, origins: list[str], executable: Executable, reference: str, notes: list[str]
) -> None:
    result = report.to_json()
    for run, origin in zip(result["runs"], origins, strict=True):
        run["inputs"] = origin
    output.document(
        "graphopt.verify/1",
        {**result, "target": str(executable.target), "reference": reference, "notes": notes},
    )
    _show(output, report, origins)
    output.line()
    verdict = "all outputs agree" if report.ok else "RESULTS DIFFER"
    output.line(f"{executable.target}: {verdict} with {report.engine} in {_runs(len(origins))}", "bold")
    output.notes(notes)


def _is_rounding(report: Any) -> bool:
    """Whether the outputs that differ do so by no more than what float32 rounds numbers near 1 by."""
    wrong = [o for run in report.runs for o in run.outputs if not o.ok]
    return all(o.dtype == "float32" and o.elements and 0 < o.max_abs_error <= ROUNDING for o in wrong)


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _all_feeds(
    reference: Model,
    executable: Executable,
    data: str | None,
    runs: int,
    seed: int,
    sizes: dict[str, dict[str, Any]],
) -> tuple[list[dict[str, Any]], list[str]]:
    """Feeds of the reference for each run, constants of the compile included, and where they are from."""
    from graphopt.cli.feeds import verification

    constants = _constant_feeds(reference, sizes["constants"])
    if data is not None:
        loaded = verification().load_feeds(data, inputs=[spec["name"] for spec in executable.inputs])
        return [{**constants, **feeds} for feeds in loaded], [f"{data} {n + 1}" for n in range(len(loaded))]
    dims = {**executable.example_sizes(), **_sizes_of_shapes(reference, sizes["shapes"]), **sizes["dims"]}
    dims |= _sizes_of_shapes(reference, {s["name"]: s["shape"] or () for s in executable.inputs})
    seeds = range(seed, seed + runs)
    made = [verification().generate_feeds(reference, dims=dims, seed=number) for number in seeds]
    return [{**feeds, **constants} for feeds in made], [f"seed {number}" for number in seeds]


def _sizes_of_shapes(model: Model, shapes: Mapping[str, Any]) -> dict[str, int]:
    """The sizes that `shapes` give to the free dimensions of the inputs of `model`, by their names."""
    found: dict[str, int] = {}
    for value in model.graph.inputs:
        dims = value.shape.dims if value.shape is not None else ()
        for dim, size in zip(dims, shapes.get(value.name or "", ()), strict=False):
            if not isinstance(dim, int) and isinstance(size, int):
                found[str(dim.value)] = size
    return found


def _constant_feeds(model: Model, constants: Mapping[str, Any]) -> dict[str, Any]:
    """What the reference, which has no inputs bound, must be fed for the inputs that were."""
    import numpy as np

    feeds = {}
    for value in model.graph.inputs:
        name = value.name or ""
        if name in constants and value.dtype is not None:
            array = np.asarray(constants[name]).astype(value.dtype.numpy())
            rank = len(value.shape) if value.shape is not None else array.ndim
            feeds[name] = array.reshape((1,) * rank) if array.ndim == 0 else array
    return feeds


def _allowed(executable: Executable, rtol: float | None, atol: float | None) -> dict[str, Any]:
    """What results are held to: the tolerances given, else what the passes and the precision promise."""
    from graphopt.cli.feeds import verification
    from graphopt.transform import Exactness

    if rtol is not None or atol is not None:
        tolerance = verification().Tolerance(
            DEFAULT_RTOL if rtol is None else rtol,
            atol_of_range=DEFAULT_ATOL_OF_RANGE if atol is None else 0.0,
            atol=atol or 0.0,
        )
        return {"exactness": tolerance}
    promised = Exactness(executable.manifest.get("exactness", "reassociates"))
    used = executable.manifest.get("options", {}).get("precision")
    if promised is Exactness.LOSSY or used in NARROW:
        return {"exactness": Exactness.LOSSY, "precision": used if used in NARROW else None}
    # Another backend takes sums in another order, whatever the passes promise.
    return {"exactness": Exactness.REASSOCIATES}


def _show(output: Output, report: Any, origins: list[str]) -> None:
    rows = [
        (
            origin,
            o.name,
            o.dtype,
            f"{o.max_abs_error:.3g}",
            f"{o.max_rel_error:.3g}",
            f"{o.atol:.3g} + {o.rtol:.3g} x",
            "ok" if o.ok else f"DIFFERS: {o.problem}",
        )
        for origin, comparison in zip(origins, report.runs, strict=True)
        for o in comparison.outputs
    ]
    output.table(["inputs", "output", "type", ">max abs", ">max rel", ">allowed", "result"], rows)
