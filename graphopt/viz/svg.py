"""A picture as one SVG file: no scripts, no references, every text from the model escaped."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from graphopt.viz.families import FAMILIES, family_of
from graphopt.viz.labels import bytes_text, counted, escape, shorten, text_width, tooltip
from graphopt.viz.layout import Box, Layout, layout
from graphopt.viz.picture import Kind, Pane, Picture, PictureNode, State
from graphopt.viz.piece import Route
from graphopt.viz.theme import STATE_GLYPHS, style_sheet

MARGIN, PADDING, PANE_GAP, PANE_HEAD = 24.0, 22.0, 24.0, 44.0
MIN_WIDTH, NARROWEST, WIDEST = 480.0, 104.0, 190.0
MAX_TAGS = 4
BOLD = 1.14  # how much wider bold text is
STATE_MEANING = {
    State.SAME: "same",
    State.CHANGED: "changed",
    State.FUSED: "fused",
    State.REMOVED: "removed",
    State.ADDED: "added",
}


def to_svg(picture: Picture) -> str:
    """The SVG of `picture`: the same bytes for the same picture."""
    paired = picture.after is not None
    drawn = []
    for pane in picture.panes:
        lines = {node.id: _lines(node) for node in pane.nodes}
        drawn.append((pane, lines, layout(pane, {i: _size(text) for i, text in lines.items()})))
    widths = [max(where.width, _heading_width(pane)) + 2 * PADDING for pane, _, where in drawn]
    height = max(where.height for _, _, where in drawn) + PANE_HEAD + 2 * PADDING
    inner = max(sum(widths) + PANE_GAP * (len(widths) - 1), MIN_WIDTH)
    if len(widths) == 1:
        widths = [inner]
    legend, legend_height = _legend(picture, [where for _, _, where in drawn], inner)
    top = MARGIN + 26 + legend_height + 10
    body = []
    left = MARGIN
    for index, (pane, lines, where) in enumerate(drawn):
        heading = (("Before", "After") if paired else ("",))[index]
        body.append(_pane(pane, lines, where, heading, left, top, widths[index], height))
        left += widths[index] + PANE_GAP
    total_width, total_height = inner + 2 * MARGIN, top + height + MARGIN
    content = "".join(
        [
            f'<rect class="page" width="{_n(total_width)}" height="{_n(total_height)}"/>\n',
            f'<text class="h1" x="{_n(MARGIN)}" y="{_n(MARGIN + 14)}">'
            f"{escape(shorten(picture.title, inner, 18))}</text>\n",
            f'<g transform="translate({_n(MARGIN)} {_n(MARGIN + 26)})">{legend}</g>\n',
            *body,
        ]
    )
    mark = hashlib.sha256(content.encode()).hexdigest()[:8]  # ids stay unique where several are on a page
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="go" role="img" '
        f'aria-labelledby="t-{mark} d-{mark}" width="{_n(total_width)}" height="{_n(total_height)}" '
        f'viewBox="0 0 {_n(total_width)} {_n(total_height)}">\n'
        f'<title id="t-{mark}">{tooltip(picture.title)}</title>\n'
        f'<desc id="d-{mark}">{escape(_description(picture))}</desc>\n'
        f"<style>{style_sheet()}</style>\n{content}</svg>\n"
    )


def _n(value: float) -> str:
    """A coordinate with at most one decimal."""
    return f"{round(value, 1):g}" if abs(value) < 1e5 else f"{value:.0f}"


def _description(picture: Picture) -> str:
    parts = []
    for heading, pane in zip(("Before", "After") if picture.after else ("",), picture.panes, strict=True):
        parts.append(f"{heading + ': ' if heading else ''}{_pane_summary(pane)}.")
    if picture.after is not None:
        parts.append("; ".join(_state_counts(picture)[s] for s in State if s in _state_counts(picture)) + ".")
    return " ".join(parts)


def _pane_summary(pane: Pane) -> str:
    text = counted(pane.node_count, "node")
    if pane.constant_count:
        text += f" ({pane.constant_count:,} of them constants, not drawn)"
    return f"{text}, {bytes_text(pane.weight_bytes)} of weights"


def _heading_width(pane: Pane) -> float:
    return text_width(_pane_summary(pane), 11) + 70


# --- boxes ---------------------------------------------------------------------------------------


def _lines(node: PictureNode) -> tuple[str, str, str, str]:
    """What a box says: heading, figure at its right, name, type."""
    label = node.outputs[0].label if node.outputs else ""
    if len(node.outputs) > 1:
        label += f" +{len(node.outputs) - 1}"
    if node.kind in (Kind.INPUT, Kind.OUTPUT):
        named = node.op if node.members > 1 else node.name
        return (named, "", "", label)
    figure = bytes_text(node.weight_bytes) if node.weight_bytes >= 1000 else ""
    if node.kind is Kind.GROUP:
        return (node.op, figure, counted(node.members, "node"), node.name)
    name = node.name
    if node.state is State.FUSED and len(node.matches) > 1:
        name = f"{len(node.matches)} in 1: {name.rsplit('/', 1)[-1]}"
    op = node.op if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op}"
    return (op, figure, name, label)


def _size(lines: tuple[str, str, str, str]) -> tuple[float, float]:
    head, figure, name, label = (text[:80] for text in lines)
    inset = 24 if name else 34  # inputs and outputs have round ends
    needed = max(
        text_width(head, 12.5) * BOLD + (text_width(figure, 9.5, mono=True) + 12 if figure else 0),
        min(text_width(name, 10), 130),
        text_width(label, 9.5, mono=True),
    )
    return min(max(needed + inset, NARROWEST), WIDEST), 50.0 if name else 36.0


def _box(
    node: PictureNode,
    lines: tuple[str, str, str, str],
    box: Box,
    arrives: Sequence[int],
    leaves: Sequence[int],
) -> str:
    head, figure, name, label = lines
    terminal = node.kind in (Kind.INPUT, Kind.OUTPUT)
    family = family_of(node.domain, node.op)
    border = f"b-{node.state.value}" if node.state is not None else "plain"
    radius = box.height / 2 if terminal else 5
    x, y, width, height = box.x, box.y, box.width, box.height
    shape = f'x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" rx="{_n(radius)}"'
    out = [f"<g><title>{tooltip(_title(node))}</title>"]
    if node.kind is Kind.GROUP:
        out.append(
            f'<rect class="f-other stack" x="{_n(x + 4)}" y="{_n(y + 4)}" width="{_n(width)}" '
            f'height="{_n(height)}" rx="5"/>'
        )
    fill = "port" if terminal else f"f-{family}"
    out.append(f'<rect class="{fill} {border}" {shape}/>')
    if node.state is State.ADDED:
        out.append(
            f'<rect class="inner c-added" x="{_n(x + 3)}" y="{_n(y + 3)}" width="{_n(width - 6)}" '
            f'height="{_n(height - 6)}" rx="{_n(max(radius - 3, 2))}"/>'
        )
    if not terminal:
        out.append(
            f'<rect class="s-{family}" x="{_n(x + 4.5)}" y="{_n(y + 7)}" width="3" '
            f'height="{_n(height - 14)}" rx="1.5"/>'
        )
    inset = 16 if terminal else 13
    room = width - inset - (16 if terminal else 9)
    used = text_width(figure, 9.5, mono=True) + 8 if figure else 0.0
    out.append(_text("op", x + inset, y + 16, shorten(head, (room - used) / BOLD, 12.5)))
    if figure:
        out.append(_text("mono muted end", x + width - 9, y + 16, figure))
    if name:
        out.append(_text("muted", x + inset, y + 30, shorten(name, room, 10, keep_end=True)))
    out.append(_text("mono", x + inset, y + height - 7, shorten(label, room, 9.5, mono=True)))
    out.append(_tags(arrives, x + 12, y - 3.5, "tag"))
    out.append(_tags(leaves, x + 12, y + height + 3.5, "tagout"))
    if node.state is not None:
        out.append(_badge(node.state, x + width - 1, y + 1))
    out.append("</g>\n")
    return "".join(out)


def _text(style: str, x: float, y: float, text: str) -> str:
    return f'<text class="{style}" x="{_n(x)}" y="{_n(y)}">{escape(text)}</text>' if text else ""


def _tags(numbers: Sequence[int], x: float, y: float, style: str) -> str:
    """The marks of cut edges on the rim of a box."""
    texts = [str(n) for n in numbers[:MAX_TAGS]]
    if len(numbers) > MAX_TAGS:
        texts.append(f"+{len(numbers) - MAX_TAGS}")
    out = []
    for text in texts:
        width = 9 + 5.6 * len(text)
        out.append(
            f'<rect class="{style}" x="{_n(x)}" y="{_n(y - 6.5)}" width="{_n(width)}" height="13" rx="6.5"/>'
            f'<text class="tagtext {style}text" x="{_n(x + width / 2)}" y="{_n(y + 3.2)}">{text}</text>'
        )
        x += width + 2
    return "".join(out)


def _badge(state: State, x: float, y: float) -> str:
    small = " scale(.75)" if state is State.SAME else ""  # what changed stands out
    return (
        f'<g transform="translate({_n(x)} {_n(y)}){small}"><circle class="badge c-{state.value}" r="8"/>'
        f'<path class="glyph c-{state.value}" d="{STATE_GLYPHS[state]}"/></g>'
    )


def _title(node: PictureNode) -> str:
    """Everything known about a box, for a tooltip and for screen readers."""
    parts = [f"{node.op} {node.name}".strip()]
    if node.state is not None:
        parts.append(STATE_MEANING[node.state])
    if node.body:
        parts.append(f"in {node.body}")
    if node.members > 1:
        parts.append(counted(node.members, "node"))
    if len(node.origins) > 1:
        parts.append(f"stands for {', '.join(node.origins)}")
    parts.extend(f"{v.name}: {v.label}" for v in node.outputs[:8])
    if node.weight_bytes:
        parts.append(f"{bytes_text(node.weight_bytes)} of weights")
    return "\n".join(parts)


# --- edges ---------------------------------------------------------------------------------------


def _edge(pane: Pane, route: Route) -> str:
    edge = pane.edges[route.edge]
    (x, y), *rest = route.points
    path = [f"M{_n(x)} {_n(y)}"]
    for index, (to_x, to_y) in enumerate(rest):
        if index % 2:  # past a layer: straight down
            path.append(f"V{_n(to_y)}")
        else:
            end = to_y - 4 if index == len(rest) - 1 else to_y
            half = (end - y) / 2
            path.append(f"C{_n(x)} {_n(y + half)} {_n(to_x)} {_n(end - half)} {_n(to_x)} {_n(end)}")
        x, y = to_x, to_y
    size = f", {bytes_text(edge.bytes)}" if edge.bytes is not None else ""
    title = escape(f"{edge.name[:200]}: {edge.label[:200]}{size}")
    return f'<path class="edge" d="{"".join(path)}"><title>{title}</title></path>\n'


def _pane(
    pane: Pane,
    lines: dict[str, tuple[str, str, str, str]],
    where: Layout,
    heading: str,
    left: float,
    top: float,
    width: float,
    height: float,
) -> str:
    shift = (width - 2 * PADDING - where.width) / 2
    heads = "".join(
        f"M{_n(r.points[-1][0] - 3.6)} {_n(r.points[-1][1] - 6.5)}h7.2l-3.6 6.5z" for r in where.routes
    )
    summary_x = PADDING + (text_width(heading, 13) + 16 if heading else 0)
    return "".join(
        [
            f'<g transform="translate({_n(left)} {_n(top)})">',
            f'<rect class="panel" width="{_n(width)}" height="{_n(height)}" rx="8"/>',
            _text("h2", PADDING, 27, heading),
            _text("key muted", summary_x, 27, _pane_summary(pane)),
            f'\n<g transform="translate({_n(PADDING + shift)} {_n(PANE_HEAD + PADDING / 2)})">\n',
            *(_edge(pane, route) for route in where.routes),
            f'<path class="head" d="{heads}"/>\n' if heads else "",
            *(_text("key muted", c.x, c.y, shorten(c.text, c.width, 11)) for c in where.captions),
            *(
                _box(
                    n, lines[n.id], where.boxes[n.id], where.arrives.get(n.id, ()), where.leaves.get(n.id, ())
                )
                for n in pane.nodes
            ),
            "</g></g>\n",
        ]
    )


# --- legend --------------------------------------------------------------------------------------


def _state_counts(picture: Picture) -> dict[State, str]:
    """The states that occur, in words with numbers: ``fused (18 → 2)``."""
    assert picture.after is not None
    before, after = (
        Counter(n.state for n in pane.nodes if n.kind in (Kind.OP, Kind.GROUP)) for pane in picture.panes
    )
    texts = {}
    for state in State:
        if before[state] or after[state]:
            one_sided = {State.REMOVED: before, State.ADDED: after}.get(state)
            if one_sided is not None and not (before[state] and after[state]):
                count = f"{one_sided[state]:,}"
            elif before[state] == after[state]:
                count = f"{before[state]:,}"
            else:
                count = f"{before[state]:,} → {after[state]:,}"
            texts[state] = f"{STATE_MEANING[state]} ({count})"
    return texts


def _legend(picture: Picture, layouts: Sequence[Layout], width: float) -> tuple[str, float]:
    """The legend as SVG, and its height."""
    items: list[tuple[str, float, str]] = []  # mark, its width, text
    if picture.after is not None:
        for state, text in _state_counts(picture).items():
            mark = (
                f'<rect class="f-other b-{state.value}" x="1.5" y="3.5" width="26" height="14" rx="4"/>'
                f"{_badge(state, 27, 4)}"
            )
            items.append((mark, 40, text))
    used = {
        family_of(n.domain, n.op) for p in picture.panes for n in p.nodes if n.kind in (Kind.OP, Kind.GROUP)
    }
    for family, text in FAMILIES.items():
        if family in used:
            mark = (
                f'<rect class="f-{family} plain" x="0.5" y="3.5" width="16" height="14" rx="3"/>'
                f'<rect class="s-{family}" x="3" y="6" width="3" height="9" rx="1.5"/>'
            )
            items.append((mark, 22, text))
    if any(where.leaves for where in layouts):
        items.append(
            (_tags((1,), 0, 10.5, "tagout") + _tags((1,), 18, 10.5, "tag"), 38, "goes on at this number")
        )
    out = []
    x = y = 0.0
    for mark, room, text in items:
        needed = room + text_width(text, 11)
        if x and x + needed > width:
            x, y = 0.0, y + 24
        out.append(f'<g transform="translate({_n(x)} {_n(y)})">{mark}{_text("key", room, 14.5, text)}</g>')
        x += needed + 14
    return "".join(out), y + 24 if items else 0.0
