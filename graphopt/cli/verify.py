"""graphopt verify: whether a compiled model gives the answers of the original."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli import options, values
from graphopt.cli.output import Output
from graphopt.errors import EXIT_ACCURACY, UsageError

if TYPE_CHECKING:
    from graphopt.executable import Executable
    from graphopt.ir import Model

DEFAULT_RTOL, DEFAULT_ATOL = 1e-4, 1e-5


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
            "--atol", min=0.0, help="Tolerance relative to an output's largest magnitude.", show_default=False
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
    """Compare a model compiled for --target, or an artifact, with ONNX Runtime; exit with 4 if they differ.

    The reference runs with all of ONNX Runtime's own optimizations off.
    """
    output = Output(json, verbose, quiet)
    from graphopt import driver
    from graphopt.cli import feeds as feeding
    from graphopt.cli.progress import Progress

    sizes = {
        "shapes": values.shapes(shape),
        "dims": values.fixed_dims(dim),
        "constants": values.constants(constant),
    }
    is_artifact = Path(model).is_dir()
    if is_artifact and any(sizes.values()) and against is None:
        raise UsageError(
            "GO701", "an artifact's shapes and constants are fixed", where="--shape, --dim, --constant"
        )
    executable = feeding.open_executable(
        output,
        model,
        target=target,
        level=values.level(level),
        precision=precision,
        keep_fp32=keep_fp32,
        pipeline=pipeline,
        **sizes,
    )
    with Progress(output) as progress:
        progress.say("read the reference")
        source = against if against is not None else model
        reference = executable.model if is_artifact and against is None else driver.load(source)
        all_feeds = _all_feeds(reference, executable, data, runs, seed, sizes)
        found = []
        for index, feeds in enumerate(all_feeds):
            progress.say("compare", index, len(all_feeds))
            found.append(_compare(reference, executable, feeds, rtol, atol))
    ok = all(c.ok for c in found)
    output.document(
        "graphopt.verify/1",
        {
            "ok": ok,
            "target": str(executable.target),
            "reference": source if against is not None or not is_artifact else f"the model in {model}",
            "exactness": executable.manifest.get("exactness"),
            "runs": [c.to_json() for c in found],
            "notes": executable.notes,
        },
    )
    _show(output, found)
    output.line()
    verdict = "all outputs agree" if ok else "RESULTS DIFFER"
    output.line(f"{executable.target}: {verdict} in {len(found)} run{'s' if len(found) > 1 else ''}", "bold")
    output.notes(executable.notes)
    if not ok:
        raise typer.Exit(EXIT_ACCURACY)


def _all_feeds(
    reference: Model,
    executable: Executable,
    data: str | None,
    runs: int,
    seed: int,
    sizes: dict[str, dict[str, Any]],
) -> list[dict[str, Any]]:
    """Feeds for the reference, one dict for each run, constants of the compile included."""
    from graphopt.cli.feeds import verification

    constants = _constant_feeds(reference, sizes["constants"])
    if data is not None:
        loaded = verification().load_feeds(data, inputs=[spec["name"] for spec in executable.inputs])
        return [{**constants, **feeds} for feeds in loaded]
    dims = {**_sizes_of_shapes(reference, sizes["shapes"]), **sizes["dims"]}
    dims |= _sizes_of_shapes(reference, {s["name"]: s["shape"] or () for s in executable.inputs})
    return [
        {**verification().generate_feeds(reference, dims=dims, seed=seed + index), **constants}
        for index in range(runs)
    ]


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
        if value.name in constants and value.dtype is not None:
            array = np.asarray(constants[value.name]).astype(value.dtype.numpy())
            rank = len(value.shape) if value.shape is not None else array.ndim
            feeds[value.name] = array.reshape((1,) * rank) if array.ndim == 0 else array
    return feeds


def _compare(
    reference: Model, executable: Executable, feeds: dict[str, Any], rtol: float | None, atol: float | None
) -> Any:
    from graphopt.cli.feeds import verification
    from graphopt.transform import Exactness

    verification_ = verification()
    expected = verification_.run_reference(reference, feeds)
    names = {spec["name"] for spec in executable.inputs}
    actual = executable.run({name: array for name, array in feeds.items() if name in names})
    if rtol is not None or atol is not None:
        tolerance = verification_.Tolerance(
            DEFAULT_RTOL if rtol is None else rtol, DEFAULT_ATOL if atol is None else atol
        )
        return verification_.compare(expected, actual, tolerance)
    promised = Exactness(executable.manifest.get("exactness", "reassociates"))
    # Another backend takes sums in another order, whatever the passes promise.
    allowed = Exactness.REASSOCIATES if promised is Exactness.BIT_EXACT else promised
    used = executable.manifest.get("options", {}).get("precision")
    narrow = allowed is Exactness.LOSSY or used in ("tf32", "bf16", "fp16")
    return verification_.compare(
        expected, actual, Exactness.LOSSY if narrow else allowed, precision=used if narrow else None
    )


def _show(output: Output, found: list[Any]) -> None:
    rows = [
        (
            run + 1,
            o.name,
            o.dtype,
            f"{o.max_abs_error:.3g}",
            f"{o.max_rel_error:.3g}",
            f"{o.atol:.3g} + {o.rtol:.3g} x",
            "ok" if o.ok else f"DIFFERS: {o.problem}",
        )
        for run, comparison in enumerate(found)
        for o in comparison.outputs
    ]
    output.table([">run", "output", "type", ">max abs", ">max rel", ">allowed", "result"], rows)
