"""Reports in headless Chromium: they open, step, select, search, fold, export, and stay quiet and safe."""

from __future__ import annotations

import importlib
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.dom import minidom

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from viz.report_pages import ROOT, browser, opened, serious

import graphopt
from graphopt.viz.page import to_html

HOSTILE = [
    "</script><script>throw new Error('ran')</script>",
    '"><img src=x onerror=alert(1)>',
    "' onload='alert(1)",
    "<!--<script>",
    "a\u202egnp.exe\u2066b\u200f",
    "../../etc/passwd",
    "a\\b\\c",
    "${alert(1)}`{{7*7}}",
    "x" * 10_000,
    "&lt;b&gt;",
    "javascript:alert(1)",
    "日本語 😀",
]


@pytest.fixture(scope="module")
def chrome() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reports")


def fetched(name: str) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "samples"))
        one = importlib.import_module("catalogue").samples([name], fetch=False, folder=ROOT / "models")[0]
    sys.modules.pop("catalogue", None)
    if not one.path.exists():
        pytest.skip(f"REPORT OF {name} NOT TESTED: the model was not fetched; python samples/fetch_models.py")
    path: Path = one.path
    return path


@pytest.fixture(scope="module")
def bert(folder: Path) -> Path:
    path = folder / "bert.html"
    graphopt.optimize(ROOT / "samples" / "generated" / "bert-tiny.onnx", target="tpu:v5e").report(path)
    return path


def tensor(name: str, *dims: Any) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(dims))


def write(nodes: list[onnx.NodeProto], path: Path, inputs: Any, outputs: Any, weights: Any = ()) -> Path:
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(weights))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def big(path: Path, layers: int) -> Path:
    """Ten nodes in each of `layers` scopes, every tenth layer in an outer scope of its own."""
    nodes, last = [], "x"
    for i in range(layers):
        for op in ("Relu", "Neg", "Abs", "Exp", "Tanh", "Sqrt", "Sigmoid", "Identity", "Neg", "Relu"):
            name = f"/stage.{i // 10}/layer.{i}/{op}_{len(nodes)}"
            nodes.append(helper.make_node(op, [last], [f"{name}_out"], name=name))
            last = f"{name}_out"
    return write(nodes, path, [tensor("x", "N", 64)], [tensor(last, "N", 64)])


def screenshot(report: Any, folder: Path, name: str) -> None:
    path = folder / f"{name}.png"
    report.page.screenshot(path=path)
    assert path.stat().st_size > 10_000, "an empty page is smaller"


def test_opens_shows_both_sides_and_steps_through_every_pass(chrome: Any, bert: Path, folder: Path) -> None:
    with opened(chrome, bert) as report:
        screenshot(report, folder, "bert")
        page = report.page
        assert page.locator("canvas[data-side=before]").count() == 1
        assert page.locator("canvas[data-side=after]").count() == 1
        at = {item["key"]: (item["x"], item["y"]) for item in report.drawn() if item["kind"] == "node"}
        steps = [report.state()["step"]]
        labels = {page.locator(".step-name").inner_text()}
        while steps[-1] > 0:
            report.press("k")
            steps.append(report.state()["step"])
            labels.add(page.locator(".step-name").inner_text())
            here = {item["key"]: (item["x"], item["y"]) for item in report.drawn() if item["kind"] == "node"}
            for key in at.keys() & here.keys():
                assert here[key] == pytest.approx(at[key]), "what both steps have keeps its place"
            assert len(steps) < 200
        assert 5 <= len(labels) <= len(steps), "some passes run more than once"
        assert "original" in labels
        page.get_by_label("Only changes").uncheck()
        report.settle()
        report.press("j")
        assert report.state()["step"] == 1, "without the filter no step is passed over"
        page.locator("input[type=range]").focus()
        report.press("End")
        assert report.state()["step"] >= steps[0]


def test_a_step_says_what_it_did_and_why(chrome: Any, bert: Path) -> None:
    with opened(chrome, bert) as report:
        report.press("b")
        assert report.state()["base"] == "previous"
        told = 0
        while report.state()["step"] > 0:
            text = report.page.locator(".step").inner_text()
            told += "×" in text and bool(re.search(r"\d (ms|µs|s)\b", text)) and "node" in text
            report.press("k")
        assert told >= 3


def test_a_fused_node_lights_up_what_it_came_from_and_back(chrome: Any, bert: Path) -> None:
    with opened(chrome, bert) as report:
        page = report.page
        page.get_by_role("tab", name="Changes").click()
        report.settle()
        fused = page.locator(".section", has_text="Fused").locator(".node-link").first
        name = fused.get_attribute("title")
        fused.click()
        origins = report.links("origins")
        assert len(origins) >= 1
        assert set(origins) <= report.lit()
        page.locator("[data-list=origins] .node-link").first.click()
        assert name in report.links("heirs")
        assert name in report.lit()


def test_panes_move_and_select_together(chrome: Any, bert: Path) -> None:
    with opened(chrome, bert) as report:
        page = report.page
        both = {item["key"] for item in report.drawn("before")} & {item["key"] for item in report.drawn()}

        def apart() -> set[float]:
            before = {item["key"]: item for item in report.drawn("before")}
            after = {item["key"]: item for item in report.drawn("after")}
            return {
                round(after[key]["x"] - before[key]["x"], 3) for key in both if key in before and key in after
            }

        (gap,) = apart()
        page.mouse.move(300, 400)
        page.mouse.wheel(0, -400)
        page.mouse.down()
        page.mouse.move(360, 460, steps=4)
        page.mouse.up()
        report.settle()
        assert apart() == {gap}, "one pane was moved, the other went along"
        item = next(
            i
            for i in report.drawn("before")
            if i["kind"] == "node" and 80 < i["x"] < 400 and 100 < i["y"] < 600
        )
        report.click(item)
        assert page.locator(".panel .name").inner_text() == item["name"]


def test_groups_open_close_and_walk_by_keys(chrome: Any, bert: Path) -> None:
    with opened(chrome, bert) as report:
        page = report.page
        report.press("c")
        shown = len(report.drawn())
        group = next(item for item in report.drawn() if item["kind"] == "group" and not item["open"])
        report.click(group)
        assert (
            "Group" in page.locator(".kicker").inner_text() or "block" in page.locator(".kicker").inner_text()
        )
        report.press("Enter")
        assert len(report.drawn()) > shown
        report.press("Enter")
        assert len(report.drawn()) == shown
        report.click(
            next(item for item in report.drawn() if item["key"] == group["key"] and item["kind"] == "group"),
            2,
        )
        report.wait("graphopt.drawn('after').length > argument", shown)
        report.press("ArrowDown", "ArrowUp", "ArrowRight", "g", "f", "0", "e", "c", "]", "[", "Escape")
        assert report.state()["selected"] is None
        report.press("?")
        assert page.get_by_role("dialog").is_visible()
        assert page.get_by_role("dialog").locator("kbd").count() > 25
        report.press("Escape")
        assert page.get_by_role("dialog").count() == 0


def test_search_finds_and_opens_what_it_finds(chrome: Any, bert: Path) -> None:
    with opened(chrome, bert) as report:
        report.press("c", "/")
        report.page.keyboard.type("op:softmax")
        report.settle()
        assert report.state()["matches"] >= 1
        report.press("Enter")
        assert "Softmax" in report.page.locator(".node-op").inner_text()
        assert any(item["op"] == "Softmax" for side in ("before", "after") for item in report.drawn(side))
        report.press("Escape", "/")
        report.page.keyboard.type("no such thing")
        report.settle()
        assert report.page.locator(".hits").inner_text().startswith("none")


def test_a_link_opens_the_same_view(chrome: Any, bert: Path) -> None:
    with opened(chrome, bert) as report:
        report.press("2", "k", "k", "]")
        report.wait("location.hash.includes('sel=') && location.hash.includes('mode=overlay')")
        time.sleep(0.5)  # the address follows the camera with a delay
        fragment = report.page.evaluate("location.hash")
        before = (
            report.state(),
            report.page.evaluate("graphopt.camera()"),
            report.page.evaluate("graphopt.selected()"),
        )
    with opened(chrome, bert, fragment) as report:
        state, camera = report.state(), report.page.evaluate("graphopt.camera()")
        for name in ("mode", "step", "base"):
            assert state[name] == before[0][name]
        assert camera["zoom"] == pytest.approx(before[1]["zoom"], abs=1e-3)
        assert camera["x"] == pytest.approx(before[1]["x"], abs=1)
        assert report.page.evaluate("graphopt.selected()") == before[2] != ""


def test_heat_maps_charts_and_tables(chrome: Any, bert: Path) -> None:
    with opened(chrome, bert) as report:
        page = report.page
        page.get_by_role("tab", name="Charts").click()
        report.settle()
        assert page.locator(".bars tbody tr").count() > 5
        options = page.locator("#heat option").all_inner_texts()
        assert len(options) >= 3, options
        page.get_by_role("tab", name="Hot spots").click()
        report.settle()
        report.page.locator("#heat-panel").select_option(index=1)
        report.settle()
        assert page.locator(".legend .ramp-ticks").inner_text().strip()
        values = page.locator("table.top tbody tr").count()
        assert values > 3
        page.get_by_role("button", name="Operator", exact=True).click()
        report.settle()
        ops = page.locator("table.top tbody tr td:nth-child(2)").all_inner_texts()
        assert ops == sorted(ops)
        page.get_by_role("tab", name="Outline").click()
        report.settle()
        page.get_by_role("button", name="Table").click()
        report.settle()
        assert page.locator(".scroll tbody tr").count() > 20


def test_exports_what_is_seen(chrome: Any, bert: Path, folder: Path) -> None:
    with opened(chrome, bert, accept_downloads=True) as report:
        for form in ("svg", "png"):
            with report.page.expect_download() as caught:
                report.page.locator("select.export").select_option(form)
                report.settle()
            path = folder / caught.value.suggested_filename
            caught.value.save_as(path)
            assert path.suffix == f".{form}"
            if form == "png":
                assert path.read_bytes().startswith(b"\x89PNG")
            else:
                drawing = minidom.parse(str(path))
                texts = {t.firstChild.data for t in drawing.getElementsByTagName("text") if t.firstChild}
                assert any("input_ids" in text for text in texts)
                assert len(drawing.getElementsByTagName("rect")) > 20
        # Downloads of what the page made itself are no requests to a network.
        report.requests[:] = [url for url in report.requests if not url.startswith("blob:")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_violation_of_accessibility(chrome: Any, bert: Path, folder: Path, scheme: str) -> None:
    with opened(chrome, bert, color_scheme=scheme) as report:
        assert report.page.evaluate("document.documentElement.dataset.theme") == scheme
        found = []
        for tab in ("Details", "Outline", "Charts") if scheme == "light" else ():
            report.page.get_by_role("tab", name=tab).click()
            report.settle()
            found += serious(report)
        report.page.get_by_role("tab", name="Hot spots").click()
        report.settle()
        report.press("h")
        screenshot(report, folder, f"hot-{scheme}")
        found += serious(report)
        report.press("]", "?")
        found += serious(report)
        assert found == []


def test_the_tree_is_worked_by_keys(chrome: Any, bert: Path) -> None:
    with opened(chrome, bert) as report:
        page = report.page
        report.press("r")
        tree = page.get_by_role("tree")
        closed = tree.get_by_role("treeitem").count()
        tree.locator("[role=treeitem][aria-expanded=false]").first.focus()
        report.press("ArrowRight")
        report.wait("document.querySelectorAll('[role=treeitem]').length > argument", closed)
        report.press("ArrowDown", "Enter")
        report.wait("graphopt.selected() !== ''")


def test_a_narrow_window_keeps_everything_in_reach(chrome: Any, bert: Path, folder: Path) -> None:
    with opened(chrome, bert, viewport={"width": 1024, "height": 700}) as report:
        screenshot(report, folder, "narrow")
        wide = report.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 1024
        for name in ("Keys (?)", "Export this view"):
            box = report.page.get_by_label(name).bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 1024


def test_hostile_names_are_text(chrome: Any, folder: Path) -> None:
    nodes, last, weights = [], HOSTILE[0] + "in", []
    first = last
    for i, name in enumerate(HOSTILE):
        weight = f"{name}|w{i}"
        weights.append(numpy_helper.from_array(np.ones((4,), np.float32), weight))
        nodes.append(helper.make_node("Add", [last, weight], [f"{name}|{i}"], name=name))
        last = f"{name}|{i}"
    model = write(nodes, folder / "hostile.onnx", [tensor(first, "N", 4)], [tensor(last, "N", 4)], weights)
    report_path = folder / "hostile.html"
    graphopt.optimize(model).report(report_path)
    with opened(chrome, report_path) as report:
        page = report.page
        report.press("e", "f", "]", "]", "h", "2", "?", "Escape", "r")
        page.get_by_role("button", name="Table").click()
        report.settle()
        for tab in ("Changes", "Charts", "Hot spots", "Details"):
            page.get_by_role("tab", name=tab).click()
            report.settle()
        seen = {item["name"] for side in ("before", "after", "both") for item in report.drawn(side)}
        assert any("</script>" in name for name in seen)
        for node in (item for item in report.drawn("both") if item["kind"] == "node"):
            page.evaluate("key => { location.hash = `sel=k${key}` }", node["key"])
            report.wait("graphopt.selected() !== ''")
        assert page.locator("img, iframe, object, embed").count() == 0
        assert page.locator("script").count() == 2, "the data and the program"
        assert "\u202e" not in page.locator("body").inner_text()
        with page.expect_download() as caught:
            page.locator("select.export").select_option("svg")
            report.settle()
        assert re.fullmatch(r"[A-Za-z0-9._-]+\.svg", caught.value.suggested_filename)
        path = folder / "hostile.svg"
        caught.value.save_as(path)
        assert not minidom.parse(str(path)).getElementsByTagName("script")
        report.requests[:] = [url for url in report.requests if not url.startswith("blob:")]


def test_ten_thousand_nodes_open_folded_and_stay_fluid(chrome: Any, folder: Path) -> None:
    path = folder / "big.html"
    graphopt.visualize(big(folder / "big.onnx", 1000)).save(path)
    start = time.perf_counter()
    with opened(chrome, path) as report:
        took = time.perf_counter() - start
        assert took < 6, "3 s on a machine that does nothing else"
        shown = report.drawn()
        assert 1 < len(shown) < 400, "it opens folded"
        times = report.page.evaluate("graphopt.pan(40)")
        assert sorted(times)[len(times) // 2] < 60, "milliseconds of a frame"
        report.press("/")
        report.page.keyboard.type("layer.777/Tanh")
        report.settle()
        report.press("Enter")
        report.wait("graphopt.selected().includes('layer.777')")
        assert any("layer.777/Tanh" in item["name"] for item in report.drawn())
        screenshot(report, folder, "big")


@pytest.mark.models
@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppocr-rec", "silero-vad"])
def test_fetched_models(chrome: Any, folder: Path, name: str) -> None:
    path = folder / f"{name}.html"
    graphopt.optimize(fetched(name)).report(path)
    with opened(chrome, path) as report:
        screenshot(report, folder, name)
        report.press("c", "e", "e", "2")
        screenshot(report, folder, f"{name}-overlay")
        groups = report.page.evaluate("graphopt.drawn('both').filter(d => d.kind === 'group').length")
        assert groups > 2
        for _ in range(6):
            report.press("k")
        report.press("]", "]")
        assert report.page.evaluate("graphopt.selected()")


def test_a_page_without_a_graph_says_so(chrome: Any, folder: Path) -> None:
    path = folder / "broken.html"
    path.write_text(to_html({"schema": "graphopt.view/9", "title": "t", "steps": []}), encoding="utf-8")
    page = chrome.new_page()
    page.goto(path.as_uri())
    assert "graphopt.view/9" in page.get_by_role("alert").inner_text()
    page.close()
