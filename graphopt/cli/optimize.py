"""graphopt optimize: better ONNX, and what every pass did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphopt.cli import options, values
from graphopt.cli.output import Output, clean, duration, size
from graphopt.errors import UsageError

if TYPE_CHECKING:
    from graphopt.driver import Result

MAX_CHANGES = 6


def optimize(
    model: options.Source,
    *,
    out: options.OptionalOutput = None,
    target: options.OptionalTarget = None,
    shape: options.Shapes,
    dim: options.Dims,
    constant: options.Constants,
    precision: options.Precision = None,
    keep_fp32: options.KeepFp32 = None,
    data: options.Calibration = None,
    level: options.Level = 2,
    pipeline: options.PipelineText = None,
    verify: options.Verify = None,
    reproducer: options.Reproducers = None,
    rule_limit: options.RuleLimit = None,
    dump: options.Dump = None,
    list_declined: options.ListDeclined = False,
    report: options.Report = None,
    json: options.Json = False,
    verbose: options.Verbose = 0,
    quiet: options.Quiet = False,
) -> None:
    """Optimize a model and write it as ONNX."""
    output = Output(json, verbose, quiet)
    settings: dict[str, Any] = {
        "level": values.level(level),
        "shapes": values.shapes(shape),
        "dims": values.dims(dim),
        "constants": values.constants(constant),
    }
    destination = values.check_output_file(out, source=model) if out is not None else None
    if reproducer is not None and verify != "each":
        raise UsageError("GO701", "reproducers are written by --verify each", where="--reproducer")
    if reproducer is None and destination is not None:
        reproducer = f"{destination.with_suffix('')}.reproducers"
    if report:
        check_report(report)
    from graphopt import driver
    from graphopt.cli.progress import Progress

    with Progress(output) as progress:
        result = driver.optimize(
            model,
            target,
            pipeline=pipeline,
            verify=_verify_mode(verify),
            precision=precision,
            keep_fp32=keep_fp32,
            rule_limit=rule_limit,
            reproducers=reproducer if verify == "each" else None,
            data=data,
            instruments=[*dumps(dump), *timelines(report)],
            say=progress.say,
            **settings,
        )
        if destination is not None:
            progress.say("write the model")
            result.save(destination)
        if report:
            progress.say("write the report")
            result.report(report, title=values.heading(model))
    done = result.report.to_json()
    output.document(
        "graphopt.optimize/1",
        {
            "model": model,
            "output": None if destination is None else str(destination),
            "pipeline": result.pipeline,
            "report": done,
        },
    )
    show_passes(output, done, every=bool(verbose))
    if verbose:
        show_rules(output, done)
    if list_declined:
        show_declined(output, done)
    if report:
        output.line(f"wrote {clean(report)}")
    _show_end(output, result, done, None if destination is None else clean(destination))


def dumps(folder: str | None) -> list[Any]:
    """The instruments that ``--dump FOLDER`` asks for."""
    if folder is None:
        return []
    from graphopt.transform import Dump

    return [Dump(folder)]


def timelines(report: str | None) -> list[Any]:
    """The instruments that ``--report FILE`` asks for."""
    if not report:
        return []
    from graphopt.viz import Timeline

    return [Timeline()]


def check_report(report: str) -> None:
    """Raise UsageError or OutputError if no page can be written to `report`: before work starts."""
    from graphopt.reporting import check_page

    check_page(report)
    values.check_output_file(report)


def _verify_mode(text: str | None) -> Any:
    return text  # the driver checks it and names the choices


def _show_end(output: Output, result: Result, report: dict[str, Any], destination: str | None) -> None:
    output.line()
    output.line(
        f"{report['nodes_before']} -> {report['nodes_after']} nodes, {size(report['bytes_before'])} -> "
        f"{size(report['bytes_after'])} of weights in {duration(report['seconds'])}; {report['exactness']}"
    )
    if destination is None:
        output.notes(["nothing was written: name a file with -o"])
    else:
        output.line(f"wrote {destination}")


def show_passes(output: Output, report: dict[str, Any], *, every: bool = False) -> None:
    """A row for each pass that changed something (for `every` one on demand); times where there are any."""
    if not report["passes"]:
        output.line("no passes ran")
        return
    shown = [row for row in report["passes"] if every or row["modified"]]
    rows = [
        (
            row["name"],
            f"{row['seconds'] * 1e3:.1f}" if "seconds" in row else "",
            row["nodes_before"],
            row["nodes_after"],
            _changes(row),
        )
        for row in shown
    ]
    if rows:
        output.table(
            ["pass", ">ms", ">before", ">after", "changed"], rows, title="passes (nodes before and after)"
        )
    if len(shown) < len(report["passes"]):
        output.line(f"{len(report['passes']) - len(shown)} passes found nothing to change (-v lists them)")


def _changes(row: dict[str, Any]) -> str:
    if row["rolled_back"]:
        return f"UNDONE: {row['rolled_back']}"
    counts = sorted(row["counts"].items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{name} {count}" for name, count in counts[:MAX_CHANGES])
    return f"{shown}, and {len(counts) - MAX_CHANGES} other kinds" if len(counts) > MAX_CHANGES else shown


def show_rules(output: Output, report: dict[str, Any]) -> None:
    """How often each rule applied and declined, and the time it took, slowest first."""
    rows = [
        (
            row["name"],
            name,
            row["counts"].get(name, 0),
            sum(n for reason, n in row["declined"].items() if reason.startswith(f"{name}: ")),
            f"{seconds * 1e3:.2f}",
        )
        for row in report["passes"]
        for name, seconds in sorted(row["rule_seconds"].items(), key=lambda item: -item[1])
    ]
    if rows:
        output.table(["pass", "rule", ">applied", ">declined", ">ms"], rows, title="rules")


def show_declined(output: Output, report: dict[str, Any]) -> None:
    """What passes looked at and left alone, with the reasons."""
    rows = [
        (row["name"], count, reason) for row in report["passes"] for reason, count in row["declined"].items()
    ]
    if rows:
        output.table(["pass", ">times", "reason"], rows, title="left alone")
    else:
        output.line("no pass left anything alone that it looked at")
