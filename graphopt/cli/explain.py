"""graphopt explain: whether a rule applies at a node, or which predicate failed on which value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from graphopt.cli import options, values
from graphopt.cli.output import Output

if TYPE_CHECKING:
    from graphopt.transform.explain import Attempt, Explanation, Facts

MAX_SHOWN = 5
MAX_ROWS = 40


def explain(
    subject: Annotated[str, typer.Argument(metavar="RULE_OR_PASS", help="What to explain.")],
    model: options.Source,
    *,
    node: Annotated[
        str | None,
        typer.Option(
            "--node",
            metavar="NAME",
            help="A node, by its name, an output of it, or the name it had in the file; default: all.",
            show_default=False,
        ),
    ] = None,
    target: options.OptionalTarget = None,
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
    """Show whether a rule, or the rules of a pass, apply; else the nearest miss.

    The pipeline runs up to the pass. A miss names the predicate that failed and the value it failed on.
    """
    output = Output(json, verbose, quiet)
    settings = values.pipeline_settings(level, shape, dim, constant, precision, keep_fp32)
    from graphopt import debugging
    from graphopt.cli.progress import Progress

    with Progress(output) as progress:
        progress.say("run the pipeline")
        found = debugging.explain(model, subject, node, target, pipeline=pipeline, **settings)
    output.document("graphopt.explain/1", {"model": model, **found.to_json()})
    output.notes(found.notes)
    if node is None:
        _show_all(output, found)
    else:
        _show_node(output, found, node)


def _show_node(output: Output, found: Explanation, node: str) -> None:
    if found.attempts:
        applied = [attempt for attempt in found.attempts if attempt.applied]
        for attempt in (applied or found.attempts)[:MAX_SHOWN]:
            _show_attempt(output, attempt)
        hidden = len(found.attempts) - min(len(applied or found.attempts), MAX_SHOWN)
        if hidden:
            output.notes([f"{hidden} further attempts were made around this node: --json lists them"])
        return
    if found.removed_by is not None:
        output.line(f"{node}: not there any more, {found.removed_by} took it away", "bold")
        return
    _show_untried(output, found, node)


def _show_untried(output: Output, found: Explanation, node: str) -> None:
    """The node is there, but no rule looked at it."""
    for visit in found.visits:
        name = f"{visit.record.name} (pass {visit.index + 1})"
        if visit.present and not visit.left:
            output.line(f"{name} took {node} away", "bold")
        elif visit.present != visit.left:
            output.line(f"{name} changed {node}", "bold")
        else:
            output.line(f"{name} left {node} alone", "bold")
        for mark, lines in (("-", visit.present), ("+", visit.left if visit.left != visit.present else ())):
            for line in lines[:MAX_SHOWN]:
                output.line(f"  {mark} {line}")
        kinds = {line.split(" = ", 1)[-1].split("(")[0].split("<")[0] for line in visit.present}
        for reason, count in visit.record.declined.items():
            if reason.split(":")[0] in kinds:
                output.line(f"  left alone, among all nodes of this kind: {reason} ({count} times)")
    rules = "no rule starts at its operator, and none came across it"
    output.notes([rules if found.visits else f"{found.subject} did not run"])


def _show_attempt(output: Output, attempt: Attempt) -> None:
    place = f"{attempt.rule} at {attempt.op_type} {attempt.node!r} in {attempt.pass_name}"
    output.line(f"{place}: {'applied' if attempt.applied else 'does not apply'}", "bold")
    if attempt.miss is None:
        for line in attempt.removed:
            output.line(f"  - {line}")
        for line in attempt.added:
            output.line(f"  + {line}")
        return
    output.line(f"  {attempt.line}")
    output.line(f"  failed: {attempt.miss.reason}")
    if attempt.miss.value is not None:
        _show_facts(output, "on", attempt.miss.value)
    for name, facts in attempt.miss.looked_at:
        if attempt.miss.value is None or facts.name != attempt.miss.value.name:
            _show_facts(output, f"{name} was", facts)
    for other in attempt.other_misses:
        on = f" ({other.value.name})" if other.value is not None else ""
        output.line(f"  also tried, and failed earlier: {other.reason}{on}")


def _show_facts(output: Output, label: str, facts: Facts) -> None:
    made = f", made by {facts.made_by}" if facts.made_by else ""
    number = f" = {facts.constant}" if facts.constant else ""
    output.line(f"  {label} {facts.name}: {facts.text}{number}{made}")
    if facts.users:
        more = f", and {facts.more_users} more" if facts.more_users else ""
        output.line(f"    used by {', '.join(facts.users)}{more}")


def _show_all(output: Output, found: Explanation) -> None:
    from graphopt.transform.explain import nearest_of_each, reasons

    applied = [attempt for attempt in found.attempts if attempt.applied]
    missed = [attempt for attempt in found.attempts if not attempt.applied]
    output.line(f"{found.subject}: applied at {len(applied)} nodes, not at {len(missed)}", "bold")
    if applied:
        rows = [(a.rule, f"{a.op_type} {a.node}", len(a.removed), len(a.added)) for a in applied[:MAX_ROWS]]
        output.table(["rule", "node", ">removed", ">added"], rows, title="applied")
    if missed:
        why = [(rule, n, reason) for (rule, reason), n in reasons(missed).most_common(MAX_ROWS)]
        output.table(["rule", ">times", "reason"], why, title="did not apply")
        output.line()
        output.line("nearest misses")
        for attempt in nearest_of_each(missed)[:MAX_SHOWN]:
            _show_attempt(output, attempt)
        output.notes(["--node NAME shows one of them"])
    for visit in found.visits:
        if not found.attempts:
            output.line(f"{visit.record.name} (pass {visit.index + 1}) has no rules; as a whole:")
            for name, count in visit.record.counts.items():
                output.line(f"  {name}: {count}")
            for reason, count in visit.record.declined.items():
                output.line(f"  left alone: {reason} ({count} times)")
