"""Names in a model file: which graph defines them, and in which order its nodes need them."""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx

from graphopt.errors import ModelError


@dataclass
class Scope:
    """The names that one graph or function defines.

    Attributes:
        defined: name to a text for what defines it.
        outer: the enclosing scope.
        captured: names used here (or in inner scopes) that an enclosing scope defines.
    """

    outer: Scope | None
    is_function: bool
    defined: dict[str, str] = field(default_factory=dict)
    captured: set[str] = field(default_factory=set)

    def define(self, name: str, what: str) -> None:
        """Record that `what` defines `name`. Raises ModelError GO105 if something does already."""
        if (first := self.defined.setdefault(name, what)) is not what:
            raise ModelError(
                "GO105",
                f"the value '{name}' is defined twice",
                where=what,
                found=f"also defined by {first}",
                expected="every value defined once",
            )

    def has(self, name: str) -> bool:
        """Whether this scope or one around it defines `name`."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.defined:
                return True
            scope = scope.outer
        return False

    def closest(self, name: str) -> str | None:
        """A defined name that `name` may be a misspelling of; looks at a bounded number of names."""
        names: list[str] = []
        scope: Scope | None = self
        while scope is not None and len(names) < 5000:
            names.extend(n for n in list(scope.defined)[: 5000 - len(names)] if len(n) < 200)
            scope = scope.outer
        close = difflib.get_close_matches(name[:200], names, n=1, cutoff=0.7)
        return close[0] if close else None


def describe_proto(node: onnx.NodeProto, index: int) -> str:
    """The operator and the name that a message shows for `node`."""
    name = node.name or next((o for o in node.output if o), f"#{index}")
    return f"{node.op_type} '{name}'"


def sort_nodes(nodes: Sequence[onnx.NodeProto], needs: Sequence[Sequence[str]], where: str) -> None:
    """Put `nodes` into an order in which values are defined before they are used, moving as few as possible.

    Raises ModelError GO105 if there is a cycle.
    """
    producer = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    inputs = [{producer[n] for n in used if n in producer} for used in needs]
    if all(not needed or max(needed) < i for i, needed in enumerate(inputs)):
        return
    users: list[list[int]] = [[] for _ in nodes]
    for index, needed in enumerate(inputs):
        for other in needed:
            users[other].append(index)
    missing = [len(needed) for needed in inputs]
    ready = [i for i, count in enumerate(missing) if not count]
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for user in users[index]:
            missing[user] -= 1
            if not missing[user]:
                heapq.heappush(ready, user)
    if len(order) < len(nodes):
        raise _cycle(nodes, inputs, missing, where)
    moved = []
    for index in order:
        node = onnx.NodeProto()
        node.CopyFrom(nodes[index])
        moved.append(node)
    del nodes[:]  # type: ignore[attr-defined]
    nodes.extend(moved)  # type: ignore[attr-defined]


def _cycle(
    nodes: Sequence[onnx.NodeProto], inputs: Sequence[set[int]], missing: Sequence[int], where: str
) -> ModelError:
    """Name one cycle: walk backwards through unsorted nodes until one repeats."""
    index = next(i for i, count in enumerate(missing) if count)
    path: dict[int, int] = {}
    while index not in path:
        path[index] = len(path)
        index = next(i for i in sorted(inputs[index]) if missing[i])
    cycle = list(path)[path[index] :][::-1]
    names = [describe_proto(nodes[i], i) for i in cycle[:8]]
    return ModelError(
        "GO105",
        "the graph has a cycle",
        where=where,
        found=" → ".join([*names, "…" if len(cycle) > 8 else names[0]]),
        expected="nodes that can be put in order",
        next_step="Export the model again; ONNX expresses loops by Loop and Scan.",
    )
