"""A small graph as a Mermaid flowchart, for Markdown that renders it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphopt.errors import UsageError
from graphopt.viz.labels import visible

MAX_NODES = 150
"""A flowchart of more nodes than this is not readable, and most renderers refuse it."""

MAX_LABEL = 60
_SHAPES = {"same": "", "changed": ":::changed", "fused": ":::fused", "added": ":::added"}
_STYLES = (
    "classDef changed stroke:#9a6700,stroke-width:2px,stroke-dasharray:7 3",
    "classDef fused stroke:#8250df,stroke-width:3px",
    "classDef added stroke:#1a7f37,stroke-width:2px",
)


def to_mermaid(view: Mapping[str, Any]) -> str:
    """The last step of `view` as a flowchart; in a pair, what changed is outlined.

    Raises:
        UsageError: GO701, the graph has more than :data:`MAX_NODES` nodes.
    """
    alive: set[int] = set()
    for step in view["steps"]:
        alive.difference_update(step["del"])
        alive.update(step["add"])
    if len(alive) > MAX_NODES:
        raise UsageError(
            "GO701",
            "the graph is too large for Mermaid",
            found=f"{len(alive)} nodes",
            expected=f"at most {MAX_NODES}",
            next_step="Write a page or a drawing instead: -o report.html or -o model.svg.",
        )
    state = {key: what for _, key, what in view["diff"]["pairs"] if key >= 0}
    lines = ["flowchart TD"]
    makers: dict[int, str] = {}
    for value in view["inputs"]:
        makers[value] = f"i{value}"
        lines.append(f'  i{value}(["{_value(view, value)}"])')
    nodes = [(number, view["nodes"][number]) for number in sorted(alive)]
    for number, node in nodes:
        makers |= {v: f"n{number}" for v in node["out"] if v >= 0}
        look = _SHAPES[state.get(node["key"], "same")]
        lines.append(f'  n{number}["{_text(view["strings"][node["o"]])}"]{look}')
    for number, node in nodes:
        lines.extend(_edges(view, node["in"], makers, f"n{number}"))
    for value in _outputs(view, nodes):
        lines.append(f'  o{value}(["{_value(view, value)}"])')
        lines.extend(_edges(view, [value], makers, f"o{value}", labelled=False))
    lines += [f"  {style}" for style in _STYLES if any(f":::{style.split()[1]}" in row for row in lines)]
    return "\n".join(lines) + "\n"


def _outputs(view: Mapping[str, Any], nodes: list[tuple[int, Mapping[str, Any]]]) -> list[int]:
    made = [v for _, node in nodes for v in node["out"] if v >= 0]
    found = [v for v in made if view["values"][v]["k"] in ("out", "inout")]
    return found + [v for v in view["outputs"] if view["values"][v]["k"] == "inout"]


def _edges(
    view: Mapping[str, Any], values: list[int], makers: Mapping[int, str], target: str, labelled: bool = True
) -> list[str]:
    found = []
    for value in dict.fromkeys(v for v in values if v in makers):
        shape = _type(view, value) if labelled else ""
        found.append(f"  {makers[value]} -->{f'|{chr(34)}{shape}{chr(34)}|' if shape else ''} {target}")
    return found


def _value(view: Mapping[str, Any], value: int) -> str:
    return _text(f"{view['strings'][view['values'][value]['n']]} {_type(view, value)}".strip())


def _type(view: Mapping[str, Any], value: int) -> str:
    row = view["values"][value]
    if row["t"] is None:
        return ""
    dims = "" if row["d"] is None else f"[{','.join(str(d) for d in row['d'])}]"
    return _text(view["strings"][row["t"]] + dims)


def _text(text: str) -> str:
    """`text` as Mermaid shows it and no more: every character that means something is an entity."""
    shown = visible(text)
    shown = shown if len(shown) <= MAX_LABEL else shown[: MAX_LABEL - 1] + "…"
    return "".join(c if c.isalnum() or c in " _.,-/:[]+*=…" else f"#{ord(c)};" for c in shown)
