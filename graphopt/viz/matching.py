"""Which box of one pane corresponds to which of the other, by provenance."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from graphopt.viz.picture import Kind, Pane, PictureNode, State

MAX_SHARED = 256
"""How many boxes may claim the same original node; a model that says more is not believed."""


def match(before: Pane, after: Pane) -> tuple[Pane, Pane]:
    """The two panes with the state and the counterparts of every box.

    A box of `after` that comes from one node is the same or changed, from several it is fused, from
    none it is added. A box of `before` is removed if nothing stands for it any more.
    """
    by_key: dict[tuple[Kind, str, str], dict[str, None]] = {}
    old = {node.id: node for node in before.nodes}
    for node in before.nodes:
        for key in _keys(node):
            claims = by_key.setdefault(key, {})
            if len(claims) < MAX_SHARED:
                claims[node.id] = None
    new_nodes = []
    forward: dict[str, list[tuple[str, State]]] = {}
    for node in after.nodes:
        sources = dict.fromkeys(i for key in _keys(node) for i in by_key.get(key, ()))
        state = _state_after(node, [old[i] for i in sources])
        for source in sources:
            forward.setdefault(source, []).append((node.id, state))
        new_nodes.append(dataclasses.replace(node, state=state, matches=tuple(sources)))
    old_nodes = []
    for node in before.nodes:
        found = forward.get(node.id, [])
        state = _state_before(s for _, s in found)
        old_nodes.append(dataclasses.replace(node, state=state, matches=tuple(i for i, _ in found)))
    return (
        dataclasses.replace(before, nodes=tuple(old_nodes)),
        dataclasses.replace(after, nodes=tuple(new_nodes)),
    )


def _keys(node: PictureNode) -> list[tuple[Kind, str, str]]:
    if node.kind is not Kind.OP:
        return [(node.kind, node.body, node.name)]
    return [(Kind.OP, "", name) for name in (node.origins or (node.name,))]


def _state_after(node: PictureNode, sources: list[PictureNode]) -> State:
    if not sources:
        return State.ADDED
    if len(sources) > 1:
        unchanged = any(s.name == node.name and s.origins == node.origins for s in sources)
        return State.SAME if unchanged and _same(node, sources) else State.FUSED
    return State.SAME if _same(node, sources) else State.CHANGED


def _same(node: PictureNode, sources: list[PictureNode]) -> bool:
    return any(s.fingerprint == node.fingerprint for s in sources)


def _state_before(found: Iterable[State]) -> State:
    states = set(found)
    for state in (State.SAME, State.FUSED, State.CHANGED):
        if state in states:
            return state
    return State.REMOVED
