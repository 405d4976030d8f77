"""Which nodes of one walk are which of another: by provenance, then by tensor names, then by structure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from graphopt.viz.sight import Seen

MAX_SHARED = 64
"""How many nodes may claim the same original node; a model that says more is not believed."""

MAX_SOURCES = 4096
"""How many original nodes one node is shown to stand for."""

ROUNDS = 4
MAX_NEIGHBOURS = 16


class Origins:
    """The nodes of the first step by the names that provenance knows them by."""

    def __init__(self, seen: Sequence[Seen]) -> None:
        self._seen = seen
        self._by_name: dict[str, list[int]] = {}
        self._budget = 64 * len(seen) + 100_000
        for index, node in enumerate(seen):
            for name in dict.fromkeys(node.origins):
                claims = self._by_name.setdefault(name, [])
                if len(claims) < MAX_SHARED:
                    claims.append(index)

    def of(self, node: Seen) -> list[int]:
        """Indices of the first step's nodes that `node` stands for, in order, without repeats.

        A name that is no recorded provenance counts only between nodes of the same operator: exporters
        number their nodes, and another export gives the same number to another node.
        """
        if not node.proven and not node.named:
            return []
        found: dict[int, None] = {}
        for name in node.origins:
            for index in self._by_name.get(name, ()):
                if node.proven or self._seen[index].op == node.op:
                    found[index] = None
            if len(found) > min(MAX_SOURCES, self._budget):
                break
        self._budget -= len(found)
        return list(found)[:MAX_SOURCES]


def pair(
    old: Sequence[Seen],
    new: Sequence[Seen],
    free_old: Iterable[int],
    free_new: Iterable[int],
    anchors: Mapping[int, int],
    name_of: Callable[[int], str],
) -> dict[int, int]:
    """One partner among `free_old` for each of `free_new` that has one: index of new to index of old.

    Args:
        old, new: all nodes of both walks.
        free_old, free_new: indices of those to be matched.
        anchors: the partners of the others, new to old.
        name_of: the name of a value by its number; empty for a name that means nothing.
    """
    rest = dict.fromkeys(free_old)
    wanted = list(free_new)
    found: dict[int, int] = {}
    _by_provenance(old, new, rest, wanted, found, name_of)
    # What another node is recorded to stand for is not to be had for a name or a place.
    spoken_for = {name for i in wanted if new[i].proven for name in new[i].origins[:MAX_SOURCES]}
    rest = {i: None for i in rest if not spoken_for.intersection(old[i].origins)}
    _by_tensors(old, new, rest, [i for i in wanted if i not in found], found, name_of)
    left = [i for i in wanted if i not in found]
    if rest and left:
        _by_structure(old, new, rest, left, {**anchors, **found}, found)
    return found


def _by_provenance(
    old: Sequence[Seen],
    new: Sequence[Seen],
    rest: dict[int, None],
    wanted: list[int],
    found: dict[int, int],
    name_of: Callable[[int], str],
) -> None:
    claims: dict[str, list[int]] = defaultdict(list)
    for index in rest:
        for name in old[index].origins:
            if len(claims[name]) < MAX_SHARED:
                claims[name].append(index)
    budget = 64 * (len(old) + len(new)) + 1_000_000
    for same_op in (True, False):
        for index in wanted:
            node = new[index]
            if index in found or not (node.proven or (node.named and same_op)):
                continue
            claimed = [c for name in node.origins[:MAX_SOURCES] for c in claims.get(name, ())]
            budget -= len(claimed)
            candidates = [
                c
                for c in claimed
                if c in rest and (not same_op or (old[c].op, old[c].domain) == (node.op, node.domain))
            ]
            if candidates and budget > 0:
                outputs = {name_of(v) for v in node.outputs} - {""}
                best = max(candidates, key=lambda c: _likeness(old[c], node, outputs, c, name_of))
                found[index] = best
                del rest[best]


def _likeness(
    old: Seen, new: Seen, outputs: set[str], place: int, name_of: Callable[[int], str]
) -> tuple[bool, bool, int]:
    """What speaks for `old`: the same name, the same result; else the last in order, the root of a match."""
    return (old.name == new.name, any(name_of(v) in outputs for v in old.outputs), place)


def _by_tensors(
    old: Sequence[Seen],
    new: Sequence[Seen],
    rest: dict[int, None],
    wanted: list[int],
    found: dict[int, int],
    name_of: Callable[[int], str],
) -> None:
    makers = {name: i for i in rest for v in old[i].outputs if (name := name_of(v))}
    for index in wanted:
        for value in new[index].outputs:
            maker = makers.get(name_of(value))
            if maker in rest and index not in found:
                found[index] = maker
                del rest[maker]


def _by_structure(
    old: Sequence[Seen],
    new: Sequence[Seen],
    rest: dict[int, None],
    wanted: list[int],
    anchors: Mapping[int, int],
    found: dict[int, int],
) -> None:
    """Equal operators in equal surroundings (Weisfeiler and Lehman's refinement), the widest first.

    What is matched already is a label of its own, so that the surroundings tell places apart. Nodes
    that cannot be told apart are matched in order, if both sides have as many of them.
    """
    labels: dict[Any, int] = {}
    sides = (
        _refined(old, list(rest), {o: o for o in anchors.values()}, labels),
        _refined(new, wanted, anchors, labels),
    )
    for depth in range(ROUNDS, -1, -1):
        buckets: dict[int, tuple[list[int], list[int]]] = {}
        for side, nodes in enumerate((rest, [i for i in wanted if i not in found])):
            for index in nodes:
                buckets.setdefault(sides[side][depth][index], ([], []))[side].append(index)
        for before, after in buckets.values():
            if len(before) == len(after) and (depth > 1 or len(before) == 1):
                for one, other in zip(before, after, strict=True):
                    found[other] = one
                    del rest[one]


def _refined(
    seen: Sequence[Seen], free: list[int], anchors: Mapping[int, int], labels: dict[Any, int]
) -> list[dict[int, int]]:
    """The labels of the nodes in `free` after 0, 1, … rounds."""

    def number(key: Any) -> int:
        return labels.setdefault(key, len(labels))

    maker = {v: i for i, node in enumerate(seen) for v in node.outputs if v >= 0}
    inside = set(free)
    users: dict[int, list[int]] = defaultdict(list)
    for index, node in enumerate(seen):
        for value in node.inputs:
            source = maker.get(value)
            if source in inside and len(users[source]) < MAX_NEIGHBOURS:
                users[source].append(index)
    fixed = {i: number(("matched", o)) for i, o in anchors.items()}
    rounds = [{i: number((*seen[i].function, len(seen[i].inputs))) for i in free}]
    nothing = number(("nothing",))
    for _ in range(ROUNDS):
        last = rounds[-1]

        def label(index: int | None, last: dict[int, int] = last) -> int:
            return nothing if index is None else fixed.get(index, last.get(index, nothing))

        rounds.append(
            {
                i: number(
                    (
                        last[i],
                        tuple([label(maker.get(v)) for v in seen[i].inputs]),
                        tuple(sorted(label(u) for u in users[i])),
                    )
                )
                for i in free
            }
        )
    return rounds
