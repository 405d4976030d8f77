"""A view as a graph collection for Model Explorer, with the heat maps as node data.

The format is that of its adapters (``graph_builder.py`` and ``node_data_builder.py`` of
google-ai-edge/model-explorer): each step that is shown is a graph, nested graphs are layers of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

GRADIENT = [
    {"stop": 0, "bgColor": "#fff5eb"},
    {"stop": 0.5, "bgColor": "#fd8d3c"},
    {"stop": 1, "bgColor": "#a63603"},
]
MAX_TEXT = 1000


def to_model_explorer(view: Mapping[str, Any]) -> dict[str, Any]:
    """The graphs of the first and the last step of `view`, and a node data set for each heat map.

    The result is a graph collection (``label``, ``graphs``); beside it stands ``nodeData``: by the name of
    the heat map, by the graph's id, what Model Explorer reads as a node data file.
    """
    last = len(view["steps"]) - 1
    chosen = {0: _unique(view, 0)} if last == 0 else {0: "before", last: "after"}
    alive: dict[int, set[int]] = {}
    now: set[int] = set()
    for number, step in enumerate(view["steps"]):
        now = (now - set(step["del"])) | set(step["add"])
        if number in chosen:
            alive[number] = now
    graphs = [_graph(view, label, sorted(alive[number])) for number, label in chosen.items()]
    return {
        "label": str(view["title"])[:MAX_TEXT],
        "graphs": graphs,
        "graphSorting": "name_desc",
        "nodeData": _node_data(view, chosen),
    }


def _unique(view: Mapping[str, Any], step: int) -> str:
    return str(view["steps"][step]["label"])


def _graph(view: Mapping[str, Any], label: str, alive: Iterable[int]) -> dict[str, Any]:
    strings, values = view["strings"], view["values"]
    spaces = _namespaces(view)
    makers: dict[int, tuple[str, str]] = {}
    nodes = []
    for value in view["inputs"]:
        makers[value] = (f"input-{value}", "0")
        nodes.append(
            {
                "id": f"input-{value}",
                "label": "Input",
                "namespace": "",
                "attrs": [_attribute("name", strings[values[value]["n"]])],
                "incomingEdges": [],
                "outputsMetadata": [_metadata(view, "0", value)],
                "config": {"pinToGroupTop": True},
            }
        )
    rows = [(number, view["nodes"][number]) for number in alive]
    for number, node in rows:
        makers |= {v: (str(number), str(place)) for place, v in enumerate(node["out"]) if v >= 0}
    for number, node in rows:
        nodes.append(
            {
                "id": str(number),
                "label": _cut(strings[node["o"]]),
                "namespace": spaces[node["g"]],
                "attrs": [
                    _attribute("name", strings[node["n"]]),
                    *([_attribute("domain", strings[node["m"]])] if strings[node["m"]] else []),
                    *(_attribute(strings[k], strings[v]) for k, v in node.get("a", ())),
                ],
                "incomingEdges": _edges(node["in"], makers),
                "inputsMetadata": [
                    _metadata(view, str(place), v) for place, v in enumerate(node["in"]) if v >= 0
                ],
                "outputsMetadata": [
                    _metadata(view, str(place), v) for place, v in enumerate(node["out"]) if v >= 0
                ],
            }
        )
    nodes.extend(_output(view, v, makers) for v in list(makers) if values[v]["k"] in ("out", "inout"))
    return {"id": label, "nodes": nodes}


def _output(view: Mapping[str, Any], value: int, makers: Mapping[int, tuple[str, str]]) -> dict[str, Any]:
    return {
        "id": f"output-{value}",
        "label": "Output",
        "namespace": "",
        "attrs": [_attribute("name", view["strings"][view["values"][value]["n"]])],
        "incomingEdges": _edges([value], makers),
        "inputsMetadata": [_metadata(view, "0", value)],
        "outputsMetadata": [],
    }


def _edges(values: Iterable[int], makers: Mapping[int, tuple[str, str]]) -> list[dict[str, str]]:
    return [
        {
            "sourceNodeId": makers[v][0],
            "sourceNodeOutputId": makers[v][1],
            "targetNodeInputId": str(place),
        }
        for place, v in enumerate(values)
        if v in makers
    ]


def _metadata(view: Mapping[str, Any], number: str, value: int) -> dict[str, Any]:
    row = view["values"][value]
    attributes = [_attribute("__tensor_tag", view["strings"][row["n"]])]
    if row["t"] is not None:
        attributes.append(_attribute("dtype", view["strings"][row["t"]]))
    if row["d"] is not None:
        attributes.append(_attribute("shape", "x".join(str(d) for d in row["d"]) or "scalar"))
    if row["b"] is not None:
        attributes.append(_attribute("bytes", str(row["b"])))
    return {"id": number, "attrs": attributes}


def _namespaces(view: Mapping[str, Any]) -> list[str]:
    """The path of each group. A slash inside a name is no path: it is written as U+2215."""
    found: list[str] = []
    for group in view["groups"]:
        own = _cut(view["strings"][group["n"]]).replace("/", "\u2215").replace(";", ",")
        outer = found[group["p"]] if group["p"] >= 0 else ""
        found.append(own if not outer else f"{outer}/{own}")
    return found


def _node_data(view: Mapping[str, Any], chosen: Mapping[int, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in view["heat"]:
        if one["step"] in chosen:
            number = one["kind"] == "number"
            data: dict[str, Any] = {"results": {str(node): {"value": value} for node, value in one["v"]}}
            if number:
                data["gradient"] = GRADIENT
            name = f"{one['label']} ({one['unit']})" if one["unit"] else one["label"]
            found.setdefault(name, {})[chosen[one["step"]]] = data
    return found


def _attribute(key: str, value: str) -> dict[str, str]:
    return {"key": _cut(key), "value": _cut(value)}


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
