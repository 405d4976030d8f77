"""The SVG: valid, self-contained, the same bytes twice, and safe whatever a model calls its nodes."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from checking import model_from
from hypothesis import given, settings
from hypothesis import strategies as st

import graphopt
from graphopt.viz import visualize
from graphopt.viz.families import FAMILIES, family_of
from graphopt.viz.labels import MAX_TITLE_CHARACTERS, bytes_text, escape, shorten, text_width, visible
from graphopt.viz.picture import Kind, Pane, Picture, PictureEdge, PictureNode, State, TypedName
from graphopt.viz.svg import to_svg
from graphopt.viz.theme import FAMILY_COLOURS, STATE_BORDERS, STATE_GLYPHS

ROOT = Path(__file__).resolve().parents[2]
BERT = ROOT / "samples" / "generated" / "bert-tiny.onnx"
SVG = "{http://www.w3.org/2000/svg}"
ELEMENTS = {"svg", "title", "desc", "style", "g", "rect", "circle", "path", "text"}
ATTRIBUTES = {
    "svg": {"class", "role", "aria-labelledby", "width", "height", "viewBox"},
    "title": {"id"},
    "desc": {"id"},
    "style": set(),
    "g": {"transform"},
    "rect": {"class", "x", "y", "width", "height", "rx"},
    "circle": {"class", "r"},
    "path": {"class", "d"},
    "text": {"class", "x", "y"},
}  # fmt: skip

HOSTILE = [
    '</title></svg><script>alert("1")</script>',
    "\"' onload='alert(1)' x=\"",
    "]]><!-- <![CDATA[ -->",
    "&amp;&lt;&#60;&bogus;",
    "\x00\x01\x08\x0b\x1b\x7f\x85\ufffe\uffff",
    "a\u202egnp.exe\u2066b\u200f",
    "\ud800 alone",
    "line\nbreak\tand\r\nmore",
    "}</style><style>*{display:none}",
    "../../etc/passwd",
    "漢字" * 40,
    "مرحبا",
    "x" * 10_000,
    "",
]


def parse(svg: str) -> ET.Element:
    """The tree of `svg`, which holds nothing but what a picture needs."""
    root = ET.fromstring(svg.encode("utf-8"))
    for element in root.iter():
        assert element.tag.startswith(SVG)
        tag = element.tag.removeprefix(SVG)
        assert tag in ELEMENTS
        assert set(element.attrib) <= ATTRIBUTES[tag]
        assert not re.search(r"url\(|javascript:|https?:", " ".join(element.attrib.values()))
    assert svg.count("http") == 1, "only the namespace"
    styles = root.findall(f".//{SVG}style")
    assert len(styles) == 1
    assert "url" not in str(styles[0].text)
    assert "@import" not in str(styles[0].text)
    return root


def picture_of(text: str) -> Picture:
    """A picture with `text` wherever a model can put text."""
    typed = TypedName(text, text, None)
    nodes = (
        PictureNode("n0", Kind.INPUT, "Input", text, outputs=(typed,), state=State.SAME),
        PictureNode(
            "n1", Kind.OP, text, text, domain=text, outputs=(typed, typed), origins=(text, text + "2"),
            body=text, state=State.FUSED, matches=("n0", "n1"),
        ),
        PictureNode("n2", Kind.GROUP, text, text, members=7, state=State.ADDED),
    )  # fmt: skip
    edges = (PictureEdge("n0", "n1", text, text, None), PictureEdge("n1", "n2", text, text, 5))
    pane = Pane(text, nodes, edges, 9, 2, 1234)
    return Picture(text, pane, pane)


@pytest.mark.parametrize("text", HOSTILE, ids=lambda t: ascii(t[:12]))
def test_hostile_text_stays_text(text: str) -> None:
    svg = to_svg(picture_of(text))
    root = parse(svg)
    titles = [t.text or "" for t in root.iter(f"{SVG}title")]
    assert any(visible(text) in title for title in titles), "the full text is in a tooltip"
    for element in root.iter(f"{SVG}text"):
        assert len(element.text or "") < 300
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200e\u200f]", svg)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_any_text_gives_valid_xml(text: str) -> None:
    parse(to_svg(picture_of(text)))


def test_hostile_names_in_a_real_model() -> None:
    model = model_from("agraph (float[2] x) => (float[2] y) { a = Relu (x) y = Neg (a) }")
    for index, node in enumerate(model.graph):
        node.name = HOSTILE[index] + "\x00"
    root = parse(visualize(model, title=HOSTILE[0]).svg())
    assert HOSTILE[0] in [t.text for t in root.findall(f"{SVG}title")]
    shown = " ".join(t.text or "" for t in root.iter(f"{SVG}title"))
    assert "\\u{0000}" in shown


def test_text_beyond_all_measure_is_cut() -> None:
    svg = to_svg(picture_of("y" * 1_000_000))
    longest = max(len(t.text or "") for t in parse(svg).iter(f"{SVG}title"))
    assert longest <= MAX_TITLE_CHARACTERS
    assert len(svg) < 40 * MAX_TITLE_CHARACTERS


def test_it_is_accessible() -> None:
    root = parse(visualize(BERT).svg())
    assert root.get("role") == "img"
    title, desc = root.findall(f"{SVG}title")[0], root.findall(f"{SVG}desc")[0]
    assert root.get("aria-labelledby") == f"{title.get('id')} {desc.get('id')}"
    assert title.text == "bert-tiny"
    assert "256 nodes" in str(desc.text)
    assert "prefers-color-scheme:dark" in str(root.findall(f"{SVG}style")[0].text)


def test_a_pair_tells_states_by_colour_border_and_glyph() -> None:
    after = graphopt.optimize(BERT, pipeline="fold-shapes,fold-constants,raise-layer-normalization").model
    shown = visualize(BERT, after)
    root = parse(shown.svg())
    texts = [str(t.text) for t in root.iter(f"{SVG}text")]
    assert {"Before", "After"} <= set(texts)
    rects = [r.get("class") or "" for r in root.iter(f"{SVG}rect")]
    glyphs = [p.get("d") for p in root.iter(f"{SVG}path")]
    desc = str(root.findall(f"{SVG}desc")[0].text)
    for state in (State.FUSED, State.SAME, State.REMOVED, State.CHANGED):
        drawn = [sum(n.state is state for n in pane.nodes) for pane in shown.picture.panes]
        ops = [sum(n.state is state and n.kind is Kind.OP for n in p.nodes) for p in shown.picture.panes]
        assert sum(ops) > 0
        # Once for each box and once in the legend.
        assert sum(f"b-{state.value}" in r for r in rects) == sum(drawn) + 1
        assert glyphs.count(STATE_GLYPHS[state]) == sum(drawn) + 1
        number = f"{ops[0]} → {ops[1]}" if ops[0] != ops[1] and ops[1] else f"{ops[0]}"
        assert f"{state.value} ({number})" in texts
        assert f"{state.value} ({number})" in desc


def test_states_differ_in_more_than_colour() -> None:
    assert len({(width, dashes) for _, _, width, dashes in STATE_BORDERS.values()}) == len(State)
    assert len(set(STATE_GLYPHS.values())) == len(State)


def test_the_same_picture_has_the_same_bytes() -> None:
    after = graphopt.optimize(BERT, pipeline="fold-constants").model
    assert visualize(BERT, after).svg() == visualize(BERT, after).svg()
    one, other = visualize(BERT, title="a").svg(), visualize(BERT, title="b").svg()
    ids = re.compile(r'id="(t-[0-9a-f]+)"')
    assert ids.findall(one) != ids.findall(other), "two pictures on one page keep their ids apart"


def contrast(one: str, other: str) -> float:
    """The WCAG contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("family", FAMILIES)
def test_contrast(family: str) -> None:
    strip, fill, dark_strip, dark_fill = FAMILY_COLOURS[family]
    for text in ("#1b1f24", "#4d5761"):
        assert contrast(text, fill) >= 4.5
    for text in ("#e6edf3", "#9da7b3"):
        assert contrast(text, dark_fill) >= 4.5
    assert contrast(strip, fill) >= 3
    assert contrast(dark_strip, dark_fill) >= 3
    for light, dark, *_ in STATE_BORDERS.values():
        assert contrast(light, "#f6f8fa") >= 3
        assert contrast(dark, "#151b23") >= 3


def test_families() -> None:
    assert family_of("", "Conv") == "linear"
    assert family_of("com.microsoft", "FusedMatMul") == "linear"
    assert family_of("com.example", "Conv") == "other"
    assert set(FAMILY_COLOURS) == set(FAMILIES)
    assert family_of("", "Relu") in FAMILIES


@pytest.mark.parametrize("size", [20.0, 60.0, 190.0])
@pytest.mark.parametrize("mono", [False, True])
@pytest.mark.parametrize("keep_end", [False, True])
@pytest.mark.parametrize("text", ["/encoder/layer.0/MatMul", "漢字" * 30, "W" * 90, "a\x00b" * 9, "i"])
def test_shortened_text_fits(text: str, size: float, mono: bool, keep_end: bool) -> None:
    short = shorten(text, size, 10, mono=mono, keep_end=keep_end)
    assert text_width(short, 10, mono=mono) <= size
    if short != visible(text):
        assert short[0 if keep_end else -1] == "…"
        kept = short.strip("…")
        assert visible(text).endswith(kept) if keep_end else visible(text).startswith(kept)


def test_plain_text_is_left_alone() -> None:
    assert escape("a <b> & 'c' \"d\"") == "a &lt;b&gt; &amp; &#39;c&#39; &quot;d&quot;"
    assert visible("a\u202eb\n") == "a\\u{202E}b\\u{000A}"
    assert [bytes_text(n) for n in (0, 999, 1000, 36_900, 999_960, 1_250_000_000)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "36.9 kB",
        "1.0 MB",
        "1.2 GB",
    ]
