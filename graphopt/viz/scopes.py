"""Groups of nodes: modules by the paths of their names, and blocks that repeat.

Groups are made once for the nodes of a step; what later steps add goes where the nodes it stands for are.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from graphopt.viz.sight import Seen, Strings

MIN_COPIES = 3
MIN_PERIOD, MAX_PERIOD = 5, 240
MIN_KINDS = 3


@dataclasses.dataclass
class _Scope:
    """A module while groups are made: its members in order, nodes as numbers, modules as objects."""

    label: str
    kind: str = "scope"
    members: list[int | _Scope] = dataclasses.field(default_factory=list)
    inner: dict[str, _Scope] = dataclasses.field(default_factory=dict)
    digest: int = 0


class Groups:
    """All groups of a view, as rows."""

    def __init__(self, strings: Strings) -> None:
        self.rows: list[dict[str, Any]] = [{"n": strings(""), "p": -1, "k": "root"}]
        self._strings = strings
        self._digests: dict[Any, int] = {}

    def body(self, label: str, parent: int) -> int:
        """A new group for a nested graph."""
        return self._add(label, parent, "body")

    def graph_of(self, group: int) -> int:
        """The group of the whole graph, main or nested, that `group` is in."""
        while self.rows[group]["k"] not in ("root", "body"):
            group = self.rows[group]["p"]
        return group

    def place(self, nodes: Sequence[Seen], parent: int) -> list[int]:
        """The group of each of `nodes`, which are one graph's in order, in new groups under `parent`."""
        top = _Scope("")
        for index, node in enumerate(nodes):
            at = top
            for part in node.scope:
                if part not in at.inner:
                    at.inner[part] = _Scope(part)
                    at.members.append(at.inner[part])
                at = at.inner[part]
            at.members.append(index)
        scopes = _postorder(top)
        for scope in scopes:
            _simplify(scope)
        if len(top.members) == 1 and isinstance(top.members[0], _Scope):
            top = top.members[0]  # one module around everything says nothing
        for scope in _postorder(top):
            self._set_digest(scope, nodes)
            _fold_copies(scope)
            _fold_periods(scope, nodes)
        return self._write(top, nodes, parent)

    def _write(self, top: _Scope, nodes: Sequence[Seen], parent: int) -> list[int]:
        found = [parent] * len(nodes)
        work = [(top, parent)]
        while work:
            scope, group = work.pop()
            for member in scope.members:
                if isinstance(member, int):
                    found[member] = group
                elif member.kind == "repeat":
                    work.extend(self._copies(member, group))
                else:
                    work.append((member, self._add(member.label, group, "scope")))
        return found

    def _copies(self, repeat: _Scope, parent: int) -> list[tuple[_Scope, int]]:
        """A group for each copy of a block, all of which name the first."""
        copies = [m for m in repeat.members if isinstance(m, _Scope)]
        numbers = [self._add(copy.label, parent, "repeat") for copy in copies]
        for number in numbers:
            self.rows[number] |= {"x": len(copies), "tmpl": numbers[0]}
        return list(zip(copies, numbers, strict=True))

    def _add(self, label: str, parent: int, kind: str) -> int:
        self.rows.append({"n": self._strings(label), "p": parent, "k": kind})
        return len(self.rows) - 1

    def _set_digest(self, scope: _Scope, nodes: Sequence[Seen]) -> None:
        """Equal numbers for modules that hold the same operators in the same order."""
        key = tuple(
            [m.digest if isinstance(m, _Scope) else (nodes[m].op, nodes[m].domain) for m in scope.members]
        )
        scope.digest = self._digests.setdefault(key, len(self._digests))


def _postorder(top: _Scope) -> list[_Scope]:
    """Every scope, inner ones first."""
    order = [top]
    for scope in order:  # grows while it is walked
        order.extend(m for m in scope.members if isinstance(m, _Scope))
    return order[::-1]


def _simplify(scope: _Scope) -> None:
    """Modules of one node become the node; a module with nothing but a module in it joins its name."""
    for place, member in enumerate(scope.members):
        if not isinstance(member, _Scope) or len(member.members) != 1:
            continue
        only = member.members[0]
        if isinstance(only, _Scope):
            only.label = f"{member.label}/{only.label}"
        scope.members[place] = only


def _fold_copies(scope: _Scope) -> None:
    """Runs of equal modules side by side become one group of copies."""
    if scope.kind != "scope":
        return
    folded: list[int | _Scope] = []
    for run in _runs(scope.members):
        if len(run) < MIN_COPIES or not isinstance(run[0], _Scope):
            folded.extend(run)
        else:
            folded.append(_Scope("", "repeat", run))
    scope.members = folded


def _runs(members: list[int | _Scope]) -> Iterator[list[int | _Scope]]:
    run: list[int | _Scope] = []
    for member in members:
        alike = (
            run
            and isinstance(member, _Scope)
            and isinstance(run[0], _Scope)
            and member.digest == run[0].digest
            and member.kind == run[0].kind == "scope"
        )
        if run and not alike:
            yield run
            run = []
        run.append(member)
    if run:
        yield run


def _fold_periods(scope: _Scope, nodes: Sequence[Seen]) -> None:
    """Where the operators of a flat run of nodes repeat, each period becomes a block."""
    if scope.kind != "scope":
        return
    members: list[int | _Scope] = []
    flat: list[int] = []
    for member in [*scope.members, None]:
        if isinstance(member, int):
            flat.append(member)
            continue
        members.extend(_periodic(flat, nodes))
        flat = []
        if member is not None:
            members.append(member)
    if any(isinstance(m, _Scope) for m in members):
        scope.members = members


def _periodic(flat: list[int], nodes: Sequence[Seen]) -> list[int | _Scope]:
    """`flat` with its longest repetitions folded, found from left to right."""
    if len(flat) < MIN_COPIES * MIN_PERIOD:
        return list(flat)
    kinds: dict[tuple[str, str], int] = {}
    tokens = np.array([kinds.setdefault((nodes[i].op, nodes[i].domain), len(kinds)) for i in flat])
    best = _longest_periods(tokens)
    found: list[int | _Scope] = []
    at = 0
    while at < len(flat):
        period, length = int(best[0][at]), int(best[1][at])
        copies = length // period if period else 0
        if copies < MIN_COPIES or len(set(tokens[at : at + period].tolist())) < MIN_KINDS:
            found.append(flat[at])
            at += 1
            continue
        blocks = [flat[at + k * period : at + (k + 1) * period] for k in range(copies)]
        label = _content(blocks[0], nodes)
        repeat = [_Scope(f"{label} {k + 1}", members=list(block)) for k, block in enumerate(blocks)]
        found.append(_Scope("", "repeat", list(repeat)))
        at += copies * period
    return found


def _longest_periods(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each position the period whose repetition reaches furthest from there, and how far it reaches."""
    count = len(tokens)
    period = np.zeros(count, np.int64)
    reach = np.zeros(count, np.int64)
    places = np.arange(count)
    # A run of short periods is no block: Conv Relu Conv Relu is also a repetition of four.
    dull = np.zeros(count, bool)
    for p in range(1, min(MAX_PERIOD, count // MIN_COPIES) + 1):
        equal = tokens[: count - p] == tokens[p:]
        ends = np.full(count, count - p)
        stops = np.where(equal, count, places[: count - p])
        ends[: count - p] = np.minimum(np.minimum.accumulate(stops[::-1])[::-1], count - p)
        length = ends - places + p
        whole = np.where(length >= MIN_COPIES * p, length // p * p, 0)
        if p < MIN_PERIOD:
            dull |= whole >= MIN_COPIES * MIN_PERIOD
            continue
        whole = np.where(dull, 0, whole)
        better = whole > reach + reach // 8  # a multiple of a period reaches hardly further
        period[better], reach[better] = p, whole[better]
    return period, reach


def _content(indices: Sequence[int], nodes: Sequence[Seen]) -> str:
    """The most frequent operators, as ``Conv, Relu, Add``."""
    return ", ".join(op for op, _ in Counter(nodes[i].op for i in indices).most_common(3))
