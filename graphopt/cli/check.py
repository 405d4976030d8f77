"""graphopt check: whether a model is sound, and what each target does not take, all of it at once."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli import options, values
from graphopt.cli.costs import transfers
from graphopt.cli.output import Output
from graphopt.errors import EXIT_MODEL, GraphoptError

if TYPE_CHECKING:
    from graphopt.ir import Model
    from graphopt.target import Target

MAX_LISTED = 200


def check(
    model: options.Source,
    *,
    target: Annotated[
        list[str],
        typer.Option(
            "--target",
            "-t",
            metavar="T",
            help="Also check what this target does not support; may be repeated.",
            default_factory=list,
            show_default=False,
        ),
    ],
    shape: options.Shapes,
    dim: options.Dims,
    constant: options.Constants,
    precision: options.Precision = None,
    level: options.Level = 2,
    strict: options.Strict = False,
    json: options.Json = False,
    verbose: options.Verbose = 0,
    quiet: options.Quiet = False,
) -> None:
    """Check that a model is valid and that targets support it.

    The exit code is 3 if one does not. All unsupported nodes are listed at once. For cuda and
    tensorrt it shows what falls back to the CPU, which is no error but under --strict.
    """
    output = Output(json, verbose, quiet)
    from graphopt import driver
    from graphopt.cli.progress import Progress
    from graphopt.ir.io import load
    from graphopt.target import Target

    chosen = [Target.parse(text) for text in target]
    settings: dict[str, Any] = {
        "level": values.level(level),
        "shapes": values.shapes(shape),
        "dims": values.dims(dim),
        "constants": values.constants(constant),
        "precision": precision,
    }
    fixed = {k: v for k, v in settings["dims"].items() if isinstance(v, int)}
    findings = []
    with Progress(output) as progress:
        progress.say("read the model")
        loaded = load(model)
        nodes = sum(1 for _ in loaded.graph.all_nodes())
        for each in chosen:
            result = driver.optimize(loaded, each, say=progress.say, **{**settings, "dims": fixed})
            progress.say(f"check for {each}")
            findings.append(_check_target(result.model, each, precision, strict))
    output.document(
        "graphopt.check/1",
        {"model": model, "ok": all(f["ok"] for f in findings), "nodes": nodes, "targets": findings},
    )
    output.line(f"{model}: a valid model, {nodes} nodes")
    for finding in findings:
        _show(output, finding)
    if not all(f["ok"] for f in findings):
        raise typer.Exit(EXIT_MODEL)


def _check_target(model: Model, target: Target, precision: str | None, strict: bool) -> dict[str, Any]:
    finding: dict[str, Any] = {
        "target": str(target),
        "ok": True,
        "complete": True,
        "unsupported": [],
        "placement": None,
        "notes": [],
    }
    if target.kind == "tensorrt-rtx":
        return _check_tensorrt_rtx(finding, model, target)
    if target.is_xla:
        return _check_xla(finding, model, target, precision, strict)
    placement = importlib.import_module("graphopt.lowering.cuda.placement")
    rows = placement.predict(model, target)
    summary = placement.summarize(model, rows).to_json()
    away = [r.to_json() for r in rows if r.kind == "fallback"]
    if target.kind != "cpu":
        kernels = importlib.import_module("graphopt.lowering.cuda.kernels")
        finding["notes"].append(f"by the kernels of ONNX Runtime {kernels.cuda_table_version()}")
    return {**finding, "ok": not (strict and away), "placement": summary, "fallbacks": away}


def _check_tensorrt_rtx(finding: dict[str, Any], model: Model, target: Target) -> dict[str, Any]:
    """What its own parser says; where it is not installed, what the table of its operators does."""
    build = importlib.import_module("graphopt.lowering.tensorrt_rtx.build")
    if not build.installed():
        table = importlib.import_module("graphopt.lowering.cuda.tensorrt")
        rows = table.unsupported(model)
        note = f"by a table, TensorRT-RTX itself is not installed: {build.INSTALL}"
        return {**finding, "ok": not rows, "complete": False, "unsupported": rows, "notes": [note]}
    try:
        build.check_parser(model, target)
    except GraphoptError as error:
        rows = (error.details or {}).get("unsupported")
        found = {"unsupported": rows} if rows else {"error": error.to_json()}
        return {**finding, "ok": False, **found}
    note = "the parser takes it whole; whether kernels exist for these GPUs shows when it is compiled"
    return {**finding, "notes": [note]}


def _check_xla(
    finding: dict[str, Any], model: Model, target: Target, precision: str | None, strict: bool
) -> dict[str, Any]:
    """Trace the whole program where the shapes are known: what looking at single nodes cannot tell."""
    free = sorted(
        {
            str(d.value)
            for v in model.graph.inputs
            for d in (v.shape.dims if v.shape is not None else ())
            if not isinstance(d, int)
        }
    )
    if target.is_ahead_of_time and (free or any(v.shape is None for v in model.graph.inputs)):
        flags = " ".join(f"--dim {name}=8" for name in free)
        why = f"bind the free dimensions to know more: {flags}" if free else "an input has no declared shape"
        finding |= {"complete": False, "notes": [why]}
    build = importlib.import_module("graphopt.build_xla")
    try:
        _, traced = build.trace_programs(model, target, precision)
    except GraphoptError as error:
        rows = (error.details or {}).get("unsupported")
        if rows:
            return {**finding, "ok": False, "unsupported": rows}
        if not finding["complete"]:
            return finding
        return {**finding, "ok": False, "error": error.to_json()}
    away = traced.placement
    return {
        **finding,
        "ok": not (strict and away),
        "fallbacks": away,
        "transfers": traced.manifest.get("transfers"),
        "notes": [*finding["notes"], *traced.notes],
    }


def _verdict(finding: dict[str, Any]) -> str:
    if not finding["ok"]:
        return "NOT SUPPORTED"
    return "supported" if finding["complete"] else "every operator is supported, the rest is not known yet"


def _show(output: Output, finding: dict[str, Any]) -> None:
    output.line()
    output.line(f"{finding['target']}: {_verdict(finding)}", "bold")
    rows = finding["unsupported"]
    if rows:
        output.table(
            ["node", "op", "because"],
            [
                (r["node"], (f"{r['domain']}." if r["domain"] else "") + r["op_type"], r["reason"])
                for r in rows[:MAX_LISTED]
            ],
            title=f"{len(rows)} unsupported nodes",
        )
        if len(rows) > MAX_LISTED:
            output.line(f"and {len(rows) - MAX_LISTED} more (--json lists all)")
    error = finding.get("error")
    if error:
        for key in ("message", "where", "found", "expected", "next_step"):
            if error[key]:
                output.line(
                    f"  {error['code'] + ' ' if key == 'message' else key.split('_')[0] + ': '}{error[key]}"
                )
    if finding["placement"] is not None:
        _show_placement(output, finding)
    _show_fallbacks(output, finding)
    for note in finding["notes"]:
        output.line(f"  {note}")


def _show_placement(output: Output, finding: dict[str, Any]) -> None:
    summary = finding["placement"]
    providers = (f"{n} {name.removesuffix('ExecutionProvider')}" for name, n in summary["providers"].items())
    kinds = (f"{n} {kind}" for kind, n in summary["nodes"].items() if n)
    output.facts(
        [
            ("  nodes", ", ".join(providers)),
            ("  kinds", ", ".join(kinds)),
            ("  copies", f"{summary['copies']} tensors between host and device in each run"),
            ("  engines", summary["engines"] or None),
        ]
    )


def _show_fallbacks(output: Output, finding: dict[str, Any]) -> None:
    away = finding.get("fallbacks") or []
    where = "run on the host" if finding["placement"] is None else "fall back to the CPU"
    if away:
        output.table(
            ["node", "op", "because"],
            [(r["node"], r["op"], r.get("reason", "")) for r in away[:MAX_LISTED]],
            title=f"{len(away)} nodes {where}",
        )
        moved = transfers(finding.get("transfers"))
        if moved:
            output.line(f"  {moved}")
