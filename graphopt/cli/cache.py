"""graphopt cache: what the compile cache holds, why the last lookup missed, and how to empty it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from graphopt.cli import options
from graphopt.cli.output import Output, size
from graphopt.errors import UsageError

ACTIONS = ("info", "clear", "explain")
SHOWN = 12


def cache(
    action: Annotated[str, typer.Argument(metavar="info|clear|explain", help="What to do.")] = "info",
    *,
    json: options.Json = False,
    verbose: options.Verbose = 0,
    quiet: options.Quiet = False,
) -> None:
    """Show, empty or explain the compile cache.

    What the TPU compiler makes is kept by the content of the program, its target and the compiler's
    version, in GRAPHOPT_CACHE_DIR (default: graphopt in XDG_CACHE_HOME or ~/.cache), up to
    GRAPHOPT_CACHE_LIMIT (default: 2G). `explain` says why the last lookup missed.
    """
    output = Output(json, verbose, quiet)
    from graphopt.cache import Cache

    store = Cache.default()
    if action == "info":
        _info(output, store.info())
    elif action == "clear":
        cleared = store.clear()
        output.document("graphopt.cache/1", {"action": "clear", "folder": str(store.folder), **cleared})
        output.line(f"removed {cleared['entries']} entries, {size(cleared['bytes'])}, from {store.folder}")
    elif action == "explain":
        _explain(output, *store.explain(), str(store.folder))
    else:
        raise UsageError(
            "GO701", "unknown action", where="graphopt cache", found=repr(action), expected=ACTIONS
        )


def _info(output: Output, found: dict[str, Any]) -> None:
    output.document("graphopt.cache/1", {"action": "info", **found})
    output.facts(
        [
            ("folder", found["folder"]),
            ("entries", found["entries"]),
            ("size", f"{size(found['bytes'])} of {size(found['limit_bytes'])}"),
            ("targets", ", ".join(f"{t} {n}" for t, n in found["by_target"].items()) or None),
            ("compilers", ", ".join(found["compilers"]) or None),
        ]
    )


def _explain(output: Output, last: dict[str, Any] | None, missed: dict[str, Any] | None, folder: str) -> None:
    reasons = explanation(last)
    if last is not None and last.get("hit") and missed is not None:
        headline, *rest = explanation(missed)
        reasons = [*reasons, headline.replace("the last lookup missed", "the last one that missed"), *rest]
    output.document(
        "graphopt.cache/1",
        {"action": "explain", "folder": folder, "last": last, "last_miss": missed, "reasons": reasons},
    )
    for line in reasons:
        output.line(line if line.startswith("the last") else f"  - {line}")


def explanation(last: dict[str, Any] | None) -> list[str]:
    """The last lookup in words: a headline, then each difference from the nearest entry."""
    if last is None:
        return ["there was no lookup yet: compile for a TPU first"]
    asked = last.get("about") or {}
    name = " ".join(filter(None, (asked.get("model"), asked.get("dims")))) or "a program"
    what = f"{name} for {last['key'].get('target')}"
    if last.get("hit"):
        return [f"the last lookup hit: {what}"]
    if last.get("remark"):
        return [f"the last lookup missed: {what}", str(last["remark"])]
    nearest = last.get("nearest")
    if not nearest:
        return [f"the last lookup missed: {what}", "the cache was empty"]
    lines = [f"the last lookup missed: {what}; the nearest entry differs in"]
    for part, pair in nearest["differs"].items():
        if part == "program":
            lines += _program(asked, nearest.get("about") or {}, pair)
        else:
            lines.append(f"{part}: {pair['asked']} was asked for, it has {pair['nearest']}")
    return lines


def _program(asked: dict[str, str], nearest: dict[str, str], pair: dict[str, str]) -> list[str]:
    """What may have made another program: the words that came with it."""
    changed = [
        f"{key} {nearest.get(key) or 'none'} -> {asked.get(key) or 'none'}"
        for key in ("model", "dims", "precision", "level")
        if asked.get(key) != nearest.get(key)
    ]
    if asked.get("pipeline") != nearest.get("pipeline"):
        changed.append("other passes")
    digests = f"{str(pair['nearest'])[:SHOWN]} -> {str(pair['asked'])[:SHOWN]}"
    why = "; ".join(changed) or "the same model, dims and passes: the model's contents or graphopt changed"
    return [f"program: {why} (sha256 {digests})"]
