"""graphopt diff: what became of a model, for a terminal, a pull request, a program, or as a gate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli import options
from graphopt.cli.output import Output, bar, clean, short, size
from graphopt.cli.subjects import Subject, open_subjects, sizes
from graphopt.errors import EXIT_POLICY

if TYPE_CHECKING:
    from graphopt.ir import Model

TOP_OPERATORS = 20
MAX_TREE_ROWS = 40
MAX_DEPTH = 4
MAX_NAME = 60
UNITS: dict[str, Callable[[float], str]] = {
    "bytes": size,
    "moved": size,
    "nodes": lambda n: f"{n:,}",
    "cycles": lambda n: f"{n:,.0f}",
    "flops": short,
}
LABELS = {
    "nodes": "nodes",
    "bytes": "weights",
    "flops": "operations",
    "moved": "bytes moved",
    "cycles": "cycles",
}


def diff(
    before: Annotated[str, typer.Argument(metavar="A", help="A model or an artifact.")],
    after: Annotated[str, typer.Argument(metavar="B", help="What became of it: a model or an artifact.")],
    *,
    fail_on: Annotated[
        list[str],
        typer.Option(
            "--fail-on",
            metavar="GATE",
            help="Exit with code 5 if it holds: nodes>+5%, bytes>100M, cycles>+2%, flops>+0, Transpose>+0. "
            "Repeatable.",
            default_factory=list,
            show_default=False,
        ),
    ],
    shape: options.Shapes,
    dim: options.Dims,
    constant: options.Constants,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a pull request.")] = False,
    json: options.Json = False,
    verbose: options.Verbose = 0,
    quiet: options.Quiet = False,
) -> None:
    """Show what is different between two models or artifacts: operators, groups, costs.

    Nodes are matched by where they came from, then by tensor names, then by structure. Sizes are bound in
    both, so that operations have numbers. The exit code is 5 if a --fail-on gate holds.
    """
    output = Output(json, verbose, quiet)
    from graphopt.cli.progress import Progress
    from graphopt.viz.gates import judge, parse_gate

    gates = [parse_gate(text) for text in fail_on]
    given = sizes(shape, dim, constant)
    with Progress(output) as progress:
        progress.say("read the models")
        subjects = open_subjects([before, after], given)
        found = compare(*subjects)
        progress.say("judge")
        verdicts = judge(gates, found["metrics"], found["operators"])
    output.document(
        "graphopt.diff/1",
        {"before": before, "after": after, **found, "gates": verdicts, "ok": not _bad(verdicts)},
    )
    if not json:
        for line in _markdown(before, after, found, verdicts) if markdown else ():
            output.line(line)
        if not markdown:
            _show(output, found, verdicts)
    if _bad(verdicts):
        raise typer.Exit(EXIT_POLICY)


def compare(before: Subject, after: Subject) -> dict[str, Any]:
    """What `graphopt diff` says of two subjects, JSON-ready."""
    from graphopt.viz.summary import alive, summary
    from graphopt.viz.view import interface_changes, model_view

    models = before.model, after.model
    view = model_view((before.model, before.invented), (after.model, after.invented))
    counted = [len(part) for part in alive(view)]
    first, last = (_costs(model) for model in models)
    metrics = {
        "nodes": counted,
        "bytes": [view["steps"][0]["bytes"], view["steps"][-1]["bytes"]],
        "flops": [first[0], last[0]],
        "moved": [first[1], last[1]],
        "cycles": [(subject.cost or {}).get("total_cycles") for subject in (before, after)],
    }
    rows = [
        {
            key: row[key]
            for key in ("name", "nodes_before", "nodes_after", "bytes_before", "bytes_after", "counts")
        }
        for row in (after.report or {}).get("passes", ())
        if row["modified"] and not row["rolled_back"]
    ]
    return {
        "metrics": metrics,
        **summary(view),
        "interface": interface_changes(*models),
        "passes": rows,
    }


def _costs(model: Model) -> tuple[int | None, int | None]:
    """Operations and bytes moved, each None unless it is known of every node."""
    from graphopt.analysis.cost import model_cost

    cost = model_cost(model)
    moved = None if any(node.moved_bytes is None for node in cost.nodes) else cost.moved_bytes.number
    return None if cost.unknown else cost.flops.number, moved


def _bad(verdicts: list[dict[str, Any]]) -> bool:
    return any(verdict["failed"] for verdict in verdicts)


def _show(output: Output, found: dict[str, Any], verdicts: list[dict[str, Any]]) -> None:
    output.facts(
        [
            *((LABELS[name], _change(name, *found["metrics"][name])) for name in LABELS),
            ("matched", _states(found)),
            *(("interface", change) for change in found["interface"]),
        ]
    )
    rows = [
        (name, *counts, f"{counts[1] - counts[0]:+d}", _bars(*counts))
        for name, counts in _changed_operators(found)
    ]
    if rows:
        output.table(["op", ">before", ">after", ">change", ""], rows[:TOP_OPERATORS], title="operators")
        if len(rows) > TOP_OPERATORS:
            output.line(f"and {len(rows) - TOP_OPERATORS} more (--json lists all)")
    tree = list(_tree_rows(found["groups"]))
    if tree:
        output.table(
            ["group", ">same", ">changed", ">fused", ">removed", ">added"],
            tree[:MAX_TREE_ROWS],
            title="groups with changes",
        )
        if len(tree) > MAX_TREE_ROWS:
            output.line(f"and {len(tree) - MAX_TREE_ROWS} more (--json lists all)")
    _show_passes(output, found["passes"])
    if verdicts:
        output.line()
        for verdict in verdicts:
            output.line(_verdict(verdict), "bold red" if verdict["failed"] else "")


def _show_passes(output: Output, passes: list[dict[str, Any]]) -> None:
    """A bar for each pass: how many nodes it took away."""
    gone = [row["nodes_before"] - row["nodes_after"] for row in passes]
    most = max((abs(n) for n in gone), default=0) or 1
    rows = [
        (
            row["name"],
            row["nodes_before"],
            row["nodes_after"],
            f"{-n:+d}",
            bar(abs(n) / most),
        )
        for row, n in zip(passes, gone, strict=True)
    ]
    if rows:
        output.table(["pass", ">before", ">after", ">change", ""], rows, title="passes that made the second")


def _change(name: str, before: float | None, after: float | None) -> str | None:
    if before is None and after is None:
        return None
    shown = " -> ".join("?" if n is None else UNITS[name](n) for n in (before, after))
    return f"{shown}{_percent(before, after)}"


def _percent(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return ""
    if before == after:
        return " (the same)"
    return f" ({100 * (after - before) / before:+.1f} %)" if before else ""


def _states(found: dict[str, Any]) -> str:
    states = found["states"]
    parts = [f"{states[name]} {name}" for name in ("same", "changed")]
    parts.append(f"{states['fused']} fused from {found['fused_from']}")
    parts += [f"{states[name]} {name}" for name in ("removed", "added")]
    return ", ".join(parts)


def _changed_operators(found: dict[str, Any]) -> list[tuple[str, list[int]]]:
    return [(name, counts) for name, counts in found["operators"].items() if counts[0] != counts[1]]


def _bars(before: int, after: int) -> str:
    """The two counts as bars: what stayed, then what went or came."""
    most = max(before, after)
    width = 24
    kept = round(width * min(before, after) / most)
    return "#" * kept + ("-" if before > after else "+") * max(
        1, round(width * (most - min(before, after)) / most)
    )


def _tree_rows(top: dict[str, Any], depth: int = 0) -> Iterator[tuple[Any, ...]]:
    """The groups with changes, indented; a block that repeats once, with its count."""
    for group in top["groups"]:
        times = f" ×{group['copies']}" if group.get("copies", 1) > 1 else ""
        name = group["name"] if len(group["name"]) <= MAX_NAME else group["name"][: MAX_NAME - 1] + "…"
        yield (
            "  " * depth + name + times,
            *(group[state] or "" for state in ("same", "changed", "fused", "removed", "added")),
        )
        if depth + 1 < MAX_DEPTH:
            yield from _tree_rows(group, depth + 1)


def _verdict(verdict: dict[str, Any]) -> str:
    found = verdict["found"]
    shown = (
        f"{found:+.2f} %"
        if verdict["unit"] == "%"
        else f"{found:+,.0f}"
        if "+" in verdict["gate"]
        else f"{found:,.0f}"
    )
    return f"{'FAILED' if verdict['failed'] else 'ok    '}  {verdict['gate']}  found {shown}"


def _markdown(
    before: str, after: str, found: dict[str, Any], verdicts: list[dict[str, Any]]
) -> Iterator[str]:
    yield f"### {_cell(before)} → {_cell(after)}"
    yield ""
    yield "| | before | after | change |"
    yield "|---|---:|---:|---:|"
    for name, label in LABELS.items():
        old, new = found["metrics"][name]
        if old is not None or new is not None:
            shown = ["?" if n is None else UNITS[name](n) for n in (old, new)]
            yield f"| {label} | {shown[0]} | {shown[1]} | {_percent(old, new).strip(' ()')} |"
    yield ""
    yield f"Nodes: {_states(found)}."
    for change in found["interface"]:
        yield f"- **interface**: {_cell(change)}"
    changed = _changed_operators(found)
    if changed:
        yield ""
        yield f"<details><summary>{len(changed)} operators with another count</summary>"
        yield ""
        yield "| op | before | after | change |"
        yield "|---|---:|---:|---:|"
        for name, (old, new) in changed:
            yield f"| {_cell(name)} | {old} | {new} | {new - old:+d} |"
        yield ""
        yield "</details>"
    if found["passes"]:
        yield ""
        yield f"<details><summary>{len(found['passes'])} passes that changed something</summary>"
        yield ""
        yield "| pass | nodes before | after |"
        yield "|---|---:|---:|"
        for row in found["passes"]:
            yield f"| {_cell(row['name'])} | {row['nodes_before']} | {row['nodes_after']} |"
        yield ""
        yield "</details>"
    for verdict in verdicts:
        yield ""
        yield f"{'❌' if verdict['failed'] else '✅'} {_cell(_verdict(verdict))}"


def _cell(text: str) -> str:
    """`text` as Markdown shows it: code, or escaped where that cannot hold it."""
    shown = clean(text).replace("\n", " ").replace("\t", " ")
    shown = shown if len(shown) <= 200 else shown[:199] + "…"
    if "`" not in shown and "|" not in shown:
        return f"`{shown}`" if shown.strip() else ""
    return "".join(f"&#{ord(c)};" if c in "`|<>&*_[]\\~#" else c for c in shown)
