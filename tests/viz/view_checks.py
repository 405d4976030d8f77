"""What holds of every view: the schema, every number in range, steps that lead from one graph to the next."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from graphopt.ir import Model
from graphopt.viz.page import to_json
from graphopt.viz.sight import hidden_constant

STATES = {"same", "changed", "fused", "removed", "added"}
REQUIRED = {
    "schema": str,
    "title": str,
    "generator": str,
    "facts": list,
    "strings": list,
    "values": list,
    "nodes": list,
    "groups": list,
    "subgraphs": list,
    "steps": list,
    "diff": dict,
    "heat": list,
    "inputs": list,
    "outputs": list,
}


def check(view: Mapping[str, Any]) -> list[set[int]]:
    """Assert that `view` is a proper ``graphopt.view/1``; give what is alive after each step."""
    assert view["schema"] == "graphopt.view/1"
    assert set(view) - {"roofline"} == set(REQUIRED)
    assert all(isinstance(view[name], kind) for name, kind in REQUIRED.items())
    assert json.loads(to_json(view)) == json.loads(json.dumps(view)), "what the page carries is the view"
    strings = view["strings"]
    assert all(isinstance(s, str) for s in strings) and len(set(strings)) == len(strings)
    _check_values(view)
    _check_groups(view)
    _check_nodes(view)
    return _check_steps(view)


def _within(number: Any, rows: list[Any]) -> bool:
    return isinstance(number, int) and 0 <= number < len(rows)


def _check_values(view: Mapping[str, Any]) -> None:
    strings, values = view["strings"], view["values"]
    for row in values:
        assert set(row) - {"stats"} == {"n", "t", "d", "b", "k"}
        assert _within(row["n"], strings) and (row["t"] is None or _within(row["t"], strings))
        assert row["d"] is None or all(isinstance(d, (int, str)) for d in row["d"])
        assert row["b"] is None or row["b"] >= 0
        assert row["k"] in ("in", "out", "inout", "init", "act")
        stats = row.get("stats")
        if stats is not None:
            assert row["k"] in ("init", "out", "inout") and stats["n"] >= 0
            counted = stats.get("of", stats["n"])
            if stats.get("hist"):
                assert sum(count for *_, count in stats["hist"]) == counted - stats["nonfinite"]
    assert all(_within(v, values) for v in [*view["inputs"], *view["outputs"]])


def _check_groups(view: Mapping[str, Any]) -> None:
    groups = view["groups"]
    assert groups[0]["k"] == "root" and groups[0]["p"] == -1
    for number, row in enumerate(groups[1:], 1):
        assert 0 <= row["p"] < number, "a parent stands before what is in it"
        assert row["k"] in ("scope", "body", "repeat") and _within(row["n"], view["strings"])
        if row["k"] == "repeat":
            copies = [i for i, g in enumerate(groups) if g.get("tmpl") == row["tmpl"]]
            assert len(copies) == row["x"] and copies[0] == row["tmpl"]
            assert {groups[i]["p"] for i in copies} == {row["p"]}


def _check_nodes(view: Mapping[str, Any]) -> None:
    strings, values = view["strings"], view["values"]
    first = {view["nodes"][n]["key"] for n in view["steps"][0]["add"]}
    for row in view["nodes"]:
        assert all(_within(row[name], strings) for name in ("n", "o", "m"))
        assert all(v == -1 or _within(v, values) for v in [*row["in"], *row["out"]])
        assert all(_within(k, strings) and _within(v, strings) for k, v in row.get("a", ()))
        assert all(len(strings[v]) <= 200 for _, v in row.get("a", ()))
        assert _within(row["g"], view["groups"])
        assert set(row["f"]) <= first, "origins are nodes of the first step"
        assert "sub" not in row or _within(row["sub"], view["subgraphs"])
        assert "doc" not in row or row["doc"].startswith("https://")
    for row in view["subgraphs"]:
        assert view["groups"][row["g"]]["k"] == "body" and _within(row["n"], strings)
        assert any(node["key"] == row["node"] for node in view["nodes"])


def _check_steps(view: Mapping[str, Any]) -> list[set[int]]:
    nodes = view["nodes"]
    alive: set[int] = set()
    found = []
    for number, step in enumerate(view["steps"]):
        added, deleted = set(step["add"]), set(step["del"])
        assert len(added) == len(step["add"]) and len(deleted) == len(step["del"])
        assert deleted <= alive and not added & alive
        assert number == 0 or step["changed"] or not (added or deleted)
        alive = (alive - deleted) | added
        keys = [nodes[n]["key"] for n in alive]
        assert len(set(keys)) == len(keys), "one node a key"
        makers = [v for n in alive for v in nodes[n]["out"] if v >= 0]
        assert len(set(makers)) == len(makers), "one maker a value"
        # Whoever reads a value reads the version that is made: a dangling edge would not be drawn.
        known = {*makers, *view["inputs"]} | {v for s in view["subgraphs"] for v in s["in"]}
        for n in alive:
            for v in nodes[n]["in"]:
                assert v < 0 or v in known or view["values"][v]["k"] == "init", view["values"][v]
        found.append(set(alive))
    assert {n for step in view["steps"] for n in step["add"]} == set(range(len(nodes)))
    _check_pairs(view, found)
    for one in view["heat"]:
        assert {"id", "label", "unit", "kind", "step", "v"} <= set(one)
        assert {n for n, _ in one["v"]} <= found[one["step"]]
        kind = str if one["kind"] == "category" else (int, float)
        assert all(isinstance(value, kind) for _, value in one["v"])
    return found


def _check_pairs(view: Mapping[str, Any], alive: list[set[int]]) -> None:
    if len(alive) < 2:
        assert view["diff"]["pairs"] == []
        return
    first, last = ({view["nodes"][n]["key"] for n in alive[i]} for i in (0, -1))
    pairs = view["diff"]["pairs"]
    assert {state for *_, state in pairs} <= STATES
    assert {a for _, a, _ in pairs if a >= 0} == last, "every node of the last step is told of"
    assert {b for b, _, _ in pairs if b >= 0} <= first
    gone = {b for b, _, state in pairs if state == "removed"}
    assert not gone & {b for b, a, _ in pairs if a >= 0}, "removed, or something stands for it"
    for before, after, state in pairs:
        assert (before == -1) == (state == "added") and (after == -1) == (state == "removed")


def names(view: Mapping[str, Any], alive: set[int]) -> dict[str, str]:
    """Operators by name of what is alive."""
    strings = view["strings"]
    return {strings[view["nodes"][n]["n"]]: strings[view["nodes"][n]["o"]] for n in alive}


def same_graph(view: Mapping[str, Any], alive: set[int], model: Model) -> None:
    """Assert that `alive` is exactly `model`: its nodes, operands and results by name."""
    strings, values = view["strings"], view["values"]

    def text(number: int) -> str | None:
        return None if number < 0 else strings[values[number]["n"]]

    shown = {
        (strings[row["n"]], strings[row["o"]], tuple(map(text, row["in"])), tuple(map(text, row["out"])))
        for row in (view["nodes"][n] for n in alive)
    }
    real = {
        (
            node.name,
            node.op_type,
            tuple(None if v is None else v.name for v in node.inputs),
            tuple(v.name or None for v in node.outputs),
        )
        for node in model.graph.all_nodes()
        if not hidden_constant(node)
    }
    assert shown == real
