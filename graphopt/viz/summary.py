"""What became of a graph in numbers: operators, states and groups, from a view of a pair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

STATES = ("same", "changed", "fused", "removed", "added")


def summary(view: Mapping[str, Any]) -> dict[str, Any]:
    """Operators before and after, how many nodes are in each state, and the tree of groups, JSON-ready.

    A node of the first step counts as removed if nothing stands for it; a node of the last as fused if
    it stands for several. Groups are listed where anything in them changed.
    """
    before, after = _ends(view)
    operators = {
        name: [counts.get(name, 0) for counts in (before, after)]
        for name in sorted({*before, *after}, key=lambda n: (-abs(after.get(n, 0) - before.get(n, 0)), n))
    }
    tallies = _tallies(view)
    total: Counter[str] = Counter()
    for tally in tallies.values():
        total.update(tally)
    return {
        "operators": operators,
        "states": {state: total.get(state, 0) for state in STATES},
        "fused_from": total.get("from", 0),
        "groups": _tree(view, tallies),
    }


def alive(view: Mapping[str, Any]) -> tuple[set[int], set[int]]:
    """The versions that are alive after the first step, and after the last."""
    now: set[int] = set()
    first: set[int] = set()
    for number, step in enumerate(view["steps"]):
        now = now.difference(step["del"]).union(step["add"])
        first = now if number == 0 else first
    return first, now


def _ends(view: Mapping[str, Any]) -> tuple[Counter[str], Counter[str]]:
    """Operators with their domain, and how many there are, first and last."""
    strings, nodes = view["strings"], view["nodes"]

    def name(number: int) -> str:
        domain = strings[nodes[number]["m"]]
        return f"{domain}.{strings[nodes[number]['o']]}" if domain else strings[nodes[number]["o"]]

    first, last = alive(view)
    return Counter(name(n) for n in first), Counter(name(n) for n in last)


def _tallies(view: Mapping[str, Any]) -> dict[int, Counter[str]]:
    """How many nodes of each group are in each state: the last step's, and those that were removed."""
    nodes = view["nodes"]
    first, last = alive(view)
    old = {nodes[n]["key"]: nodes[n]["g"] for n in first}
    new = {nodes[n]["key"]: nodes[n]["g"] for n in last}
    found: dict[int, Counter[str]] = {}
    states: dict[int, str] = {}
    origins: set[int] = set()
    for before, after, state in view["diff"]["pairs"]:
        if after < 0:
            found.setdefault(old[before], Counter())["removed"] += 1
            continue
        states[after] = state
        if state == "fused" and before not in origins:
            origins.add(before)
            found.setdefault(old[before], Counter())["from"] += 1
    for key, state in states.items():
        found.setdefault(new[key], Counter())[state] += 1
    return found


def _tree(view: Mapping[str, Any], tallies: Mapping[int, Counter[str]]) -> dict[str, Any]:
    """The groups as a tree; copies of a block that changed alike are one."""
    groups, strings = view["groups"], view["strings"]
    totals = [Counter(tallies.get(number, Counter())) for number in range(len(groups))]
    inner: list[list[int]] = [[] for _ in groups]
    for number in range(len(groups) - 1, 0, -1):  # a parent stands before what is in it
        totals[groups[number]["p"]].update(totals[number])
        inner[groups[number]["p"]].append(number)
    built: dict[int, dict[str, Any]] = {}
    for number in range(len(groups) - 1, -1, -1):
        children: dict[Any, dict[str, Any]] = {}
        for child in reversed(inner[number]):
            row = built.pop(child)
            if not any(row[state] for state in STATES[1:]):
                continue
            counts = tuple(row[state] for state in STATES)
            alike = children.setdefault((groups[child].get("tmpl", -1 - child), counts), row)
            if alike is not row:
                alike["copies"] = alike.get("copies", 1) + 1
        built[number] = {
            "name": strings[groups[number]["n"]],
            "kind": groups[number]["k"],
            **{state: totals[number].get(state, 0) for state in STATES},
            "groups": list(children.values()),
        }
    return built[0]
