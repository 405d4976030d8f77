"""Large graphs in few boxes: runs of nodes of the same scope become one box each."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby

from graphopt.viz.labels import counted
from graphopt.viz.picture import MAX_SCOPE_DEPTH, Kind, Pane, PictureEdge, PictureNode, State

MAX_BOXES = 3000
"""A pane never has more boxes than this."""

MAX_PORTS = 24
"""A collapsed pane shows up to this many inputs, and as many outputs, one by one."""

_Key = tuple[str, ...]


def collapse(panes: Sequence[Pane], limit: int = MAX_BOXES) -> tuple[Pane, ...]:
    """`panes` with at most `limit` boxes each; unchanged if all have no more than that.

    Nested graphs go into the node that holds them. Then consecutive nodes whose names share their
    first path segments become one box, with as many segments as the limit allows. A group is a run in
    the order of execution, so no edge leads backwards. Where names have no path, runs of equal length
    are taken.
    """
    if all(len(pane.nodes) <= limit for pane in panes):
        return tuple(panes)
    flat = [_without_bodies(pane) for pane in panes]
    flat = [_grouped(pane, _ports(pane)) for pane in flat]
    for depth in range(MAX_SCOPE_DEPTH, 0, -1):
        grouped = [_grouped(pane, _scopes(depth)) for pane in flat]
        if all(len(pane.nodes) <= limit for pane in grouped):
            return tuple(grouped)
    return tuple(
        pane if len(pane.nodes) <= limit else _grouped(pane, _chunks(pane, limit))
        for pane in (_grouped(pane, _scopes(1)) for pane in flat)
    )


def _without_bodies(pane: Pane) -> Pane:
    nodes = tuple(n for n in pane.nodes if not n.body)
    kept = {n.id for n in nodes}
    edges = tuple(e for e in pane.edges if e.source in kept and e.target in kept)
    return dataclasses.replace(pane, nodes=nodes, edges=edges)


def _ports(pane: Pane) -> Callable[[PictureNode], _Key | None]:
    counts = Counter(n.kind for n in pane.nodes)
    many = {kind for kind in (Kind.INPUT, Kind.OUTPUT) if counts[kind] > MAX_PORTS}
    return lambda node: (node.kind.value,) if node.kind in many else None


def _scopes(depth: int) -> Callable[[PictureNode], _Key | None]:
    return lambda node: node.scope[:depth] or None


def _chunks(pane: Pane, limit: int) -> Callable[[PictureNode], _Key | None]:
    """Runs of equal length over everything but inputs and outputs, few enough for `limit`."""
    inner = [n.id for n in pane.nodes if n.kind in (Kind.OP, Kind.GROUP)]
    room = max(1, limit - (len(pane.nodes) - len(inner)))
    length = -(-len(inner) // room)
    number = {name: str(index // length) for index, name in enumerate(inner)}
    return lambda node: ("", number[node.id]) if node.id in number else None


def _grouped(pane: Pane, key: Callable[[PictureNode], _Key | None]) -> Pane:
    """`pane` with each run of equal keys in one box; nodes without a key stay as they are."""
    boxes: list[PictureNode] = []
    home: dict[str, str] = {}
    for shared, run in groupby(pane.nodes, key):
        members = list(run)
        alone = shared is None or len(members) == 1
        new = members if alone else [_group(members, shared or ())]
        boxes.extend(new)
        for node in members:
            home[node.id] = node.id if alone else new[0].id
    edges: dict[tuple[str, str, str], PictureEdge] = {}
    for edge in pane.edges:
        source, target = home[edge.source], home[edge.target]
        if source != target:
            moved = dataclasses.replace(edge, source=source, target=target)
            edges.setdefault((source, target, edge.name), moved)
    return dataclasses.replace(pane, nodes=tuple(boxes), edges=tuple(edges.values()))


def _group(members: list[PictureNode], key: _Key) -> PictureNode:
    first, last = members[0], members[-1]
    ports = first.kind in (Kind.INPUT, Kind.OUTPUT)
    if ports:
        title = counted(len(members), first.kind.value)
    else:
        title = f"{first.name} … {last.name}" if key[0] == "" else "/".join(key)
    ops = Counter(n.op for n in members if n.kind is Kind.OP)
    summary = ", ".join(f"{count} {op}" for op, count in ops.most_common(3))
    return PictureNode(
        id=first.id,
        kind=first.kind if ports else Kind.GROUP,
        op=title,
        name=summary,
        scope=() if key[0] == "" else key,
        constants=tuple(dict.fromkeys(v for n in members for v in n.constants)),
        state=_state(members),
        members=sum(n.members for n in members),
    )


def _state(members: list[PictureNode]) -> State | None:
    states = {n.state for n in members}
    return states.pop() if len(states) == 1 else State.CHANGED
