"""Every version of every node through the steps of a pipeline, each written down once.

A step is what a walk found (:mod:`graphopt.viz.sight`). A node keeps its key from step to step: by name
where names are trusted, else as :mod:`graphopt.viz.pairing` finds it. What a step adds and deletes are
versions: a node whose operator, attributes, operands or types changed has a new one.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from graphopt.ir import Model
from graphopt.viz.pairing import Origins, pair
from graphopt.viz.scopes import Groups
from graphopt.viz.sight import Body, Seen, Sight

PLACE_AFRESH = 50
"""From this many on, nodes that belong to nothing known get groups of their own."""

_OPERATOR = re.compile(r"[A-Za-z][A-Za-z0-9]{0,80}\Z")


@dataclasses.dataclass
class Step:
    """One step: what was alive after it, and what became different.

    Attributes:
        alive: the version of each node by its key.
        names: the key of each node by its name.
        facts: what is known of the pass, as the view has it.
    """

    alive: dict[int, int]
    names: dict[str, int]
    added: list[int]
    deleted: list[int]
    facts: dict[str, Any]
    seen: list[Seen] = dataclasses.field(default_factory=list, repr=False)
    keys: list[int] = dataclasses.field(default_factory=list, repr=False)


class Ledger:
    """The steps of one view, and all that they refer to."""

    def __init__(self) -> None:
        self.sight = Sight()
        self.strings = self.sight.strings
        self.groups = Groups(self.strings)
        self.nodes: list[dict[str, Any]] = []
        self.subgraphs: list[dict[str, Any]] = []
        self.steps: list[Step] = []
        self.inputs: list[int] = []
        self.outputs: list[int] = []
        self._keys = 0
        self._versions: dict[tuple[Any, ...], int] = {}
        self._bodies: dict[tuple[int, str, int], int] = {}
        self._group: dict[int, int] = {}
        self._home: dict[int, tuple[int, tuple[str, int]]] = {}
        self._paths: dict[tuple[int, tuple[str, ...]], int] = {}
        self._sources: dict[int, tuple[int, ...]] = {}
        self._asked: dict[int, tuple[str, ...]] = {}
        self._origins: Origins | None = None
        self._first_keys: list[int] = []

    def add(
        self,
        model: Model,
        facts: dict[str, Any],
        *,
        trusted: bool = True,
        invented: frozenset[str] = frozenset(),
    ) -> Step:
        """Write down `model` as the next step.

        Args:
            facts: what the view says of the step, label and counts.
            trusted: whether an equal name means the same node, as it does from pass to pass.
            invented: names of nodes that were made up because they had none.
        """
        seen, bodies = self.sight.look(model, invented)
        keys = self._assign(seen, trusted)
        if not self.steps or not trusted:  # another model may have another interface: both are shown
            inputs, outputs = self.sight.interface(model)
            self.inputs = list(dict.fromkeys([*self.inputs, *inputs]))
            self.outputs = list(dict.fromkeys([*self.outputs, *outputs]))
        if not self.steps:
            self._origins = Origins(seen)
            self._first_keys = keys
        self._find_sources(seen, keys)
        self._place(seen, keys, bodies)
        step = self._written(seen, keys, facts)
        self.steps.append(step)
        if len(self.steps) > 2:  # only the first and the last are looked at again
            self.steps[-2].seen, self.steps[-2].keys = [], []
        return step

    def repeat(self, facts: dict[str, Any]) -> None:
        """Write down a step that changed nothing."""
        last = self.steps[-1]
        self.steps.append(dataclasses.replace(last, added=[], deleted=[], facts=facts))
        if len(self.steps) > 2:
            last.seen, last.keys = [], []

    def _new_key(self) -> int:
        self._keys += 1
        return self._keys - 1

    def _assign(self, seen: Sequence[Seen], trusted: bool) -> list[int]:
        """The key of each node: that of the node it was in the step before, or a new one."""
        if not self.steps:
            return [self._new_key() for _ in seen]
        last = self.steps[-1]
        keys = [-1] * len(seen)
        taken: set[int] = set()
        if trusted:
            for index, node in enumerate(seen):
                key = last.names.get(node.name, -1)
                if key >= 0 and key not in taken:
                    keys[index] = key
                    taken.add(key)
        fresh = [i for i, key in enumerate(keys) if key < 0]
        old_keys = last.keys
        gone = [i for i, key in enumerate(old_keys) if key not in taken]
        if fresh and gone:
            place = {key: i for i, key in enumerate(old_keys)}
            anchors = {i: place[key] for i, key in enumerate(keys) if key >= 0}
            name_of = self._value_name
            for index, old in pair(last.seen, seen, gone, fresh, anchors, name_of).items():
                keys[index] = old_keys[old]
        for index, key in enumerate(keys):
            if key < 0:
                keys[index] = self._new_key()
        return keys

    def _value_name(self, number: int) -> str:
        return "" if number < 0 else self.strings.texts[self.sight.values[number]["n"]]

    def _find_sources(self, seen: Sequence[Seen], keys: Sequence[int]) -> None:
        """The keys of the first step's nodes that each node stands for.

        One without provenance that was found by its tensors or its place keeps what its key stood for.
        """
        assert self._origins is not None
        for node, key in zip(seen, keys, strict=True):
            if not self.steps:
                self._sources[key] = (key,)
            elif self._asked.get(key) is not node.origins:
                found = tuple([self._first_keys[i] for i in self._origins.of(node)])
                self._sources[key] = found or self._sources.get(key, ())
            self._asked[key] = node.origins

    def _place(self, seen: Sequence[Seen], keys: Sequence[int], bodies: Sequence[Body]) -> None:
        """A group for each node that is new or moved to another graph, and the nested graphs with theirs."""
        members: dict[tuple[int, tuple[str, int]], list[int]] = {}
        for index, (node, key) in enumerate(zip(seen, keys, strict=True)):
            home = (-1 if node.holder < 0 else keys[node.holder], node.body)
            if self._home.get(key) != home:
                self._home[key] = home
                members.setdefault((node.holder, node.body), []).append(index)
        formal = {(b.holder, b.attribute): b for b in bodies}
        makers = (
            {v: key for node, key in zip(seen, keys, strict=True) for v in node.outputs} if members else {}
        )
        # A holder comes before what it holds, so its own group is known by then.
        for (holder, body), indices in sorted(members.items(), key=lambda item: item[0]):
            parent = 0 if holder < 0 else self._body(keys[holder], seen[holder], formal[holder, body])
            homeless = []
            for index in indices:
                near = self._near(seen[index], keys[index], parent, makers) if self.steps else None
                if near is None:
                    homeless.append(index)
                else:
                    self._group[keys[index]] = near
            if self.steps and len(homeless) < PLACE_AFRESH:
                self._group.update((keys[i], parent) for i in homeless)
                continue
            placed = self.groups.place([seen[i] for i in homeless], parent)
            for index, group in zip(homeless, placed, strict=True):
                self._group[keys[index]] = group
                self._paths[parent, seen[index].scope] = group
        for one in bodies:  # also those that hold nothing but constants
            self._body(keys[one.holder], seen[one.holder], one)

    def _near(self, node: Seen, key: int, parent: int, makers: dict[int, int]) -> int | None:
        """The group of `parent`'s graph where a new node belongs.

        That is where the node is that it replaces, or the nodes it stands for, the module of its name,
        or the node that it takes its input from; None if all of these are elsewhere.
        """
        candidates = [self._group.get(k) for k in (key, *self._sources[key])]
        for depth in range(len(node.scope), 0, -1):
            candidates.append(self._paths.get((parent, node.scope[:depth])))
        candidates += [self._group.get(makers[v]) for v in node.inputs if v in makers]
        return next((g for g in candidates if g is not None and self.groups.graph_of(g) == parent), None)

    def _body(self, key: int, holder: Seen, body: Body) -> int:
        """The group of a nested graph, which is listed when it is first met."""
        name, index = body.attribute
        number = self._bodies.get((key, name, index))
        if number is None:
            number = self._bodies[key, name, index] = len(self.subgraphs)
            label = name if index == 0 else f"{name}[{index}]"
            group = self.groups.body(f"{holder.op} {label}", self._group.get(key, 0))
            self.subgraphs.append(
                {
                    "node": key,
                    "n": self.strings(label),
                    "g": group,
                    "in": list(body.inputs),
                    "out": list(body.outputs),
                }
            )
        return int(self.subgraphs[number]["g"])

    def _written(self, seen: list[Seen], keys: list[int], facts: dict[str, Any]) -> Step:
        alive: dict[int, int] = {}
        for node, key in zip(seen, keys, strict=True):
            sub = -1 if node.holder < 0 else self._bodies[keys[node.holder], *node.body]
            version = (key, node.name, node.function, node.inputs, node.outputs, self._sources[key], sub)
            number = self._versions.get(version)
            if number is None:
                number = self._versions[version] = len(self.nodes)
                self.nodes.append(self._row(node, key, sub))
            alive[key] = number
        before = self.steps[-1].alive if self.steps else {}
        return Step(
            alive=alive,
            names={node.name: key for node, key in zip(seen, keys, strict=True)},
            added=[n for k, n in alive.items() if before.get(k) != n],
            deleted=[n for k, n in before.items() if alive.get(k) != n],
            facts=facts,
            seen=seen,
            keys=keys,
        )

    def _row(self, node: Seen, key: int, sub: int) -> dict[str, Any]:
        row: dict[str, Any] = {
            "n": self.strings(node.name),
            "o": self.strings(node.op),
            "m": self.strings(node.domain),
            "in": list(node.inputs),
            "out": list(node.outputs),
            "f": list(self._sources[key]),
            "key": key,
            "g": self._group[key],
        }
        if node.attributes:
            row["a"] = [list(pair) for pair in node.attributes]
        if sub >= 0:
            row["sub"] = sub
        url = page_of(node.op, node.domain)
        if url is not None:
            row["doc"] = url
        return row


def page_of(op: str, domain: str) -> str | None:
    """The address of an operator's page, for the domains that have such pages."""
    if not _OPERATOR.match(op):
        return None
    if domain in ("", "ai.onnx"):
        return f"https://onnx.ai/onnx/operators/onnx__{op}.html"
    if domain == "ai.onnx.ml":
        return f"https://onnx.ai/onnx/operators/onnx_aionnxml_{op}.html"
    if domain == "com.microsoft":
        return (
            f"https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.{op}"
        )
    return None
