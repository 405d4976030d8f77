"""Other forms: Mermaid text for small graphs, graphs and node data for Model Explorer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from checking import model_from

import graphopt
from graphopt.errors import UsageError
from graphopt.viz import visualize
from graphopt.viz.mermaid import MAX_NODES, to_mermaid
from graphopt.viz.model_explorer import to_model_explorer

ROOT = Path(__file__).resolve().parents[2]
MNIST = ROOT / "samples" / "generated" / "mnist-cnn.onnx"
BERT = ROOT / "samples" / "generated" / "bert-tiny.onnx"

SMALL = "agraph (float[N,2] x) => (float[N,2] y) <float[2] w = {1.0, 2.0}> { [a] t = Add (x, w) [r] y = Relu (t) }"


def test_mermaid_text() -> None:
    text = to_mermaid(visualize(model_from(SMALL)).view)
    assert text.splitlines() == [
        "flowchart TD",
        '  i0(["x f32[N,2]"])',
        '  n0["Add"]',
        '  n1["Relu"]',
        '  i0 -->|"f32[N,2]"| n0',
        '  n0 -->|"f32[N,2]"| n1',
        '  o3(["y f32[N,2]"])',
        "  n1 --> o3",
    ]


def test_mermaid_outlines_what_changed() -> None:
    after = graphopt.optimize(MNIST, "cuda").model
    text = to_mermaid(visualize(MNIST, after).view)
    assert ":::changed" in text and "classDef changed" in text and "classDef added" not in text


def test_mermaid_names_are_data() -> None:
    model = model_from(SMALL)
    model.graph.inputs[0].name = 'x"])\n  click n0 call alert(1)\n%%{init: {}}%%<script>'
    text = to_mermaid(visualize(model).view)
    assert len(text.splitlines()) == 8, "no name ends its line"
    line = text.splitlines()[1]
    assert re.fullmatch(r'  i0\(\["[^"<>%(){}]*"\]\)', line), line


def test_a_graph_too_large_for_mermaid_is_refused_with_advice(tmp_path: Path) -> None:
    assert len(list(graphopt.load(BERT).graph)) > MAX_NODES
    with pytest.raises(UsageError, match=r"report\.html"):
        visualize(BERT).save(tmp_path / "b.mmd")
    assert not (tmp_path / "b.mmd").exists()


def explorer(path: Path, after: Any = None) -> dict[str, Any]:
    """The graph collection, after a trip through JSON."""
    return dict(json.loads(json.dumps(to_model_explorer(visualize(path, after).view))))


def test_model_explorer_graphs_are_whole() -> None:
    after = graphopt.optimize(BERT, "cuda").model
    found = explorer(BERT, after)
    assert [graph["id"] for graph in found["graphs"]] == ["before", "after"]
    for graph, model in zip(found["graphs"], (graphopt.load(BERT), after), strict=True):
        ids = {node["id"] for node in graph["nodes"]}
        assert len(ids) == len(graph["nodes"])
        real = [node for node in graph["nodes"] if node["id"].isdigit()]
        assert len(real) == len(list(model.graph.all_nodes()))
        for node in graph["nodes"]:
            assert set(node) <= {
                "id", "label", "namespace", "attrs", "incomingEdges", "inputsMetadata", "outputsMetadata", "config",
            }  # fmt: skip
            assert all(isinstance(a["key"], str) and isinstance(a["value"], str) for a in node["attrs"])
            for edge in node["incomingEdges"]:
                assert edge["sourceNodeId"] in ids
                assert all(isinstance(part, str) for part in edge.values())
        fed = {node["id"] for node in graph["nodes"] if node["incomingEdges"]}
        assert {n["id"] for n in graph["nodes"] if n["label"] == "Output"} <= fed
    spaces = {node["namespace"] for node in found["graphs"][0]["nodes"]}
    assert "encoder/layer.0/attention/self" in spaces


def test_model_explorer_node_data_name_nodes_of_their_graph() -> None:
    found = explorer(MNIST, graphopt.optimize(MNIST, "cuda").model)
    assert "Operations (FLOP)" in found["nodeData"] or "Bytes moved (B)" in found["nodeData"]
    graphs = {graph["id"]: {node["id"] for node in graph["nodes"]} for graph in found["graphs"]}
    for sets in found["nodeData"].values():
        for name, data in sets.items():
            assert set(data["results"]) <= graphs[name]
            assert all(isinstance(row["value"], (int, float)) for row in data["results"].values())
            assert [stop["stop"] for stop in data["gradient"]] == [0, 0.5, 1]


def test_a_slash_in_a_name_makes_no_namespace() -> None:
    model = model_from(SMALL)
    for node in model.graph:
        node.metadata_props["pkg.torch.onnx.name_scopes"] = "['a/b', 'n']"
    (graph,) = to_model_explorer(visualize(model).view)["graphs"]
    assert all(node["namespace"].count("/") == 0 for node in graph["nodes"])


def test_saving_every_form(tmp_path: Path) -> None:
    picture = visualize(MNIST)
    for suffix in ("html", "svg", "mmd", "json"):
        picture.save(tmp_path / f"m.{suffix}")
    assert (tmp_path / "m.html").read_text().startswith("<!doctype html>")
    assert json.loads((tmp_path / "m.json").read_text())["graphs"][0]["nodes"]
    assert (tmp_path / "m.mmd").read_text().startswith("flowchart")
