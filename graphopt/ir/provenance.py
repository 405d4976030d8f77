"""Provenance: which nodes of the original model a node stands for.

Every node carries the names of its original nodes as a JSON list in its metadata under
:data:`ORIGIN_KEY`, so that it survives cloning, saving and loading: a cost measured on a fused
node, or on an instruction compiled from it, can be laid on the nodes that a person drew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from graphopt.ir import Model, Node

ORIGIN_KEY = "graphopt.origin"


def origins(node: Node) -> tuple[str, ...]:
    """The names of the original nodes that `node` stands for, in order, without repeats."""
    text = node.metadata_props.get(ORIGIN_KEY)
    if text is None:
        return (node.name,) if node.name else ()
    try:
        names = json.loads(text)
    except ValueError:  # written by somebody else: a name, not ours
        return (text,)
    if isinstance(names, str):
        return (names,)
    return tuple(str(name) for name in names) if isinstance(names, list) else (text,)


def set_origins(node: Node, names: Iterable[str]) -> None:
    """Make `node` stand for the original nodes called `names`."""
    unique = list(dict.fromkeys(names))
    node.metadata_props[ORIGIN_KEY] = json.dumps(unique, ensure_ascii=False)


def merge_origins(targets: Iterable[Node], sources: Iterable[Node]) -> None:
    """Make each of `targets` stand for everything that `sources` stood for, besides its own."""
    names = list(dict.fromkeys(name for node in sources for name in origins(node)))
    for node in targets:
        own = origins(node) if ORIGIN_KEY in node.metadata_props else ()
        set_origins(node, (*own, *names))


def start(model: Model) -> None:
    """Begin provenance: every node without origins stands for itself."""
    for node in model.graph.all_nodes():
        if ORIGIN_KEY not in node.metadata_props:
            set_origins(node, [node.name or ""])
