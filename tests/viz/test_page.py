"""The page: self-contained, under a policy that forbids everything else, and safe whatever names hold."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from checking import model_from
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import graphopt
from graphopt.errors import InvariantError, UsageError
from graphopt.ir import Model
from graphopt.transform import Changes, Exactness, Pass, Pipeline
from graphopt.viz import frame, page, visualize
from graphopt.viz.page import COMPRESS_FROM, policy, to_html, to_json

ROOT = Path(__file__).resolve().parents[2]
BERT = ROOT / "samples" / "generated" / "bert-tiny.onnx"

HOSTILE = [
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onload='alert(1)",
    "<!--<script>",
    "]]>",
    "a\u202egnp.exe\u2066b\u200f",
    "\u2028 \u2029",
    "../../etc/passwd",
    "a\\b\\c",
    "${alert(1)}`",
    "\x00\x01\x1b[31m",
    "x" * 10_000,
    "&lt;b&gt;",
]


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the text of each script and style."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, dict[str, str | None], str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.cdata_elem is not None:
            self.texts.append((*self.found[-1], data))


def parsed(text: str) -> Elements:
    """The elements of `text`."""
    found = Elements()
    found.feed(text)
    found.close()
    return found


def carried(text: str) -> dict[str, Any]:
    """The view that a page carries."""
    for tag, attributes, data in parsed(text).texts:
        if tag == "script" and attributes.get("id") == "view":
            return dict(json.loads(data))
        if tag == "script" and attributes.get("id") == "view-gz":
            return dict(json.loads(gzip.decompress(base64.b64decode(data))))
    raise AssertionError("no view")


def hostile_model() -> Any:
    """A model whose every name is hostile."""
    names = [f"{name}{i}" for i, name in enumerate(HOSTILE)]
    nodes = [helper.make_node("Relu", [a], [b], name=f"{a}/node", domain="") for a, b in pairwise(names)]
    nodes.append(
        helper.make_node("Odd", [names[-1]], ["y"], name="<svg/onload=alert(1)>", domain="<b>", a="</script>")
    )
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["<i>N"]) for n in (names[0], "y")]
    graph = helper.make_graph(nodes, "</title><script>alert(2)</script>", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("<b>", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="</script>")


def test_the_page_holds_its_parts_and_nothing_from_elsewhere() -> None:
    text = visualize(BERT).html()
    found = parsed(text)
    assert [tag for tag, _ in found.found].count("script") == 2
    tags = {tag for tag, _ in found.found}
    assert tags == {"html", "head", "meta", "title", "style", "body", "div", "noscript", "script"}
    assert not any(
        name in ("src", "href", "srcset") or name.startswith("on") for _, a in found.found for name in a
    )
    assert re.sub(r"<(script|style)>.*?</\1>", "", text, flags=re.DOTALL).isascii()
    assert carried(text) == json.loads(json.dumps(visualize(BERT).view))


def test_the_policy_allows_this_script_and_this_style_only() -> None:
    text = visualize(BERT).html()
    found = parsed(text)
    (content,) = [a["content"] for tag, a in found.found if a.get("http-equiv") == "Content-Security-Policy"]
    assert content is not None
    rules = dict(rule.strip().split(" ", 1) for rule in html.unescape(content).split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    assert set(rules) == {"default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"}
    for kind, rule in (("script", "script-src"), ("style", "style-src")):
        (body,) = re.findall(f"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"


def test_the_same_model_gives_the_same_bytes() -> None:
    assert visualize(BERT).html() == visualize(BERT).html()


def test_names_are_data() -> None:
    model = hostile_model()
    text = visualize(model).html()
    found = parsed(text)
    assert [tag for tag, _ in found.found].count("script") == 2, "no name opens or ends an element"
    assert "img" not in {tag for tag, _ in found.found} and "svg" not in {tag for tag, _ in found.found}
    names = set(carried(text)["strings"])
    assert {f"{name}{i}/node" for i, name in enumerate(HOSTILE[:-1])} <= names
    assert {"<b>", "</script>", "<svg/onload=alert(1)>"} <= names
    assert re.sub(r"<(script|style)>.*?</\1>", "", text, flags=re.DOTALL).isascii()


def test_a_run_on_hostile_names_writes_a_safe_page(tmp_path: Path) -> None:
    model = hostile_model()
    del model.graph.node[-1]
    model.graph.node[-1].output[0] = "y"
    del model.opset_import[1:]
    result = graphopt.optimize(model)
    result.report(tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert [tag for tag, _ in parsed(text).found].count("script") == 2
    assert carried(text)["steps"][0]["label"] == "original"


def test_large_views_are_compressed() -> None:
    view = visualize(BERT).view
    view = {**view, "strings": [*view["strings"], *(f"{i:08}" for i in range(COMPRESS_FROM // 10))]}
    text = to_html(view)
    assert len(to_json(view)) > COMPRESS_FROM
    assert 'id="view-gz"' in text and 'id="view"' not in text
    assert carried(text) == json.loads(json.dumps(view))
    assert to_html(view) == text


def test_a_bundle_that_could_end_its_element_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "report.js").write_text("let a = '</ScRipt>'")
    (tmp_path / "static" / "report.css").write_text("")
    monkeypatch.setattr(page.resources, "files", lambda _: tmp_path)
    page.bundle.cache_clear()
    try:
        with pytest.raises(InvariantError, match=r"report\.js"):
            page.bundle()
        (tmp_path / "static" / "report.js").unlink()
        with pytest.raises(InvariantError, match="missing"):
            page.bundle()
    finally:
        page.bundle.cache_clear()


def test_policy_names_no_host() -> None:
    assert not re.search(r"https?:|unsafe|\*", policy("a", "b"))


def test_results_write_their_report(tmp_path: Path) -> None:
    result = graphopt.optimize(BERT, "cpu")
    assert result.report.nodes_after < result.report.nodes_before, "the attribute is what it was"
    result.report(tmp_path / "again.html")
    watched = graphopt.optimize(BERT, "cpu", instruments=[graphopt.viz.Timeline()])
    watched.report(tmp_path / "watched.html")
    again, seen = (carried((tmp_path / f"{n}.html").read_text()) for n in ("again", "watched"))
    for view in (again, seen):
        for step in view["steps"]:
            step.pop("seconds", None)
    assert again == seen, "the second run is the first"
    with pytest.raises(UsageError, match="GO701"):
        result.report(tmp_path / "report.svg")


def test_a_source_that_changed_meanwhile_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(BERT.read_bytes())
    result = graphopt.optimize(path)
    path.write_bytes((BERT.parent / "gpt-tiny.onnx").read_bytes())
    with pytest.raises(UsageError, match="changed since"):
        result.report(tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_a_report_of_a_pipeline_alone_says_how_to_get_a_page(tmp_path: Path) -> None:
    _, report = graphopt.Pipeline("eliminate-identity").run(graphopt.load(BERT))
    with pytest.raises(UsageError, match="Timeline"):
        report(tmp_path / "r.html")


def test_executables_write_their_report(tmp_path: Path) -> None:
    source = ROOT / "samples" / "generated" / "mnist-cnn.onnx"
    executable = graphopt.compile(source, "cuda")
    assert executable.report["schema"] == "graphopt.report/1" and json.loads(json.dumps(executable.report))
    executable.report(tmp_path / "live.html")
    view = carried((tmp_path / "live.html").read_text())
    assert len(view["steps"]) > 10 and {"placement", "flops"} <= {h["id"] for h in view["heat"]} | {"flops"}
    executable.save(tmp_path / "artifact")
    loaded = graphopt.load_artifact(tmp_path / "artifact")
    loaded.report(tmp_path / "loaded.html")
    view = carried((tmp_path / "loaded.html").read_text())
    assert len(view["steps"]) == 1
    assert ["target", "cuda"] in view["facts"]


def test_notebooks_get_a_frame_or_a_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = visualize(model_from("agraph (float[2] x) => (float[2] y) { [r] y = Relu (x) }"))
    shown = picture._repr_html_()
    (element,) = parsed(shown).found
    assert element[0] == "iframe" and "allow-same-origin" not in (element[1]["sandbox"] or "")
    assert element[1]["srcdoc"] == picture.html()
    assert frame('"><script>').count("<script>") == 0
    monkeypatch.setattr("graphopt.viz.MAX_INLINE_NODES", 0)
    assert picture.svg() in picture._repr_html_()


@dataclasses.dataclass(frozen=True)
class NegateEverything(Pass):
    """A pass that is wrong: every Relu becomes a Neg."""

    exactness = Exactness.BIT_EXACT

    def run(self, model: Model) -> Changes:
        changes = Changes()
        for node in model.graph:
            if node.op_type == "Relu":
                node.op_type = "Neg"
                changes.count("negated")
        return changes


@pytest.mark.parametrize("watched", [True, False])
def test_a_pass_that_verification_undid_is_told_of(tmp_path: Path, watched: bool) -> None:
    model = model_from("agraph (float[2] x) => (float[2] y) { [i] a = Identity (x) [r] y = Relu (a) }")
    steps = Pipeline([*Pipeline("eliminate-identity"), NegateEverything()])
    instruments = [graphopt.viz.Timeline()] if watched else []
    result = graphopt.optimize(model, pipeline=steps, verify="each", instruments=instruments)
    result.report(tmp_path / "r.html")
    view = carried((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert [step["changed"] for step in view["steps"]] == [True, True, False]
    assert view["steps"][2]["notes"][0].startswith("undone, it changes results")
    assert [node.op_type for node in result.model.graph] == ["Relu"]


def test_a_run_that_a_limit_stopped_is_recalled_as_far_as_it_went(tmp_path: Path) -> None:
    result = graphopt.optimize(BERT, "cpu", rule_limit=20)
    result.report(tmp_path / "r.html")
    view = carried((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert len(view["steps"]) == 1 + len(result.report.passes)
    assert view["steps"][-1]["nodes"] == result.report.nodes_after


@given(st.lists(st.text(st.characters(codec=None), max_size=40), max_size=8))
@settings(max_examples=60, deadline=None)
def test_any_text_is_carried_as_it_is(names: list[str]) -> None:
    text = to_json({"strings": names})
    assert text.isascii() and not set("<>&") & set(text)
    assert json.loads(text) == {"strings": names}
