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
MAX_TURNS = 8
WIDE = ROUNDS - 1
"""Labels of at least two rounds: what they cannot tell apart may be matched in order."""
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
    wanted = _unexplained(old, new, [i for i in wanted if i not in found])
    _by_tensors(old, new, rest, wanted, found, name_of)
    left = [i for i in wanted if i not in found]
    if rest and left:
        _by_structure(old, new, rest, left, {**anchors, **found}, found, name_of)
    return found


def _unexplained(old: Sequence[Seen], new: Sequence[Seen], wanted: list[int]) -> list[int]:
    """Those of `wanted` whose provenance names nothing in `old`: the others are known to be new."""
    if not any(new[i].proven for i in wanted):
        return wanted
    known = {name for node in old for name in node.origins[:MAX_SOURCES]}
    return [i for i in wanted if not (new[i].proven and known.intersection(new[i].origins))]


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
    name_of: Callable[[int], str],
) -> None:
    """Equal operators in equal surroundings (Weisfeiler and Lehman's refinement), the widest first.

    What is matched already is a label of its own, so that the surroundings tell places apart; what one
    turn matches helps the next. Weights and inputs count by their names first, then not at all. Nodes
    that cannot be told apart are matched in order, if both sides have as many of them.
    """
    sides = _Side(old, name_of), _Side(new, name_of)
    partners = dict(anchors)
    for names in (True, False):
        for _ in range(MAX_TURNS):
            left = [i for i in wanted if i not in found]
            if not rest or not left:
                return
            labels: dict[Any, int] = {}
            refined = (
                sides[0].refined(list(rest), {o: o for o in partners.values()}, labels, names),
                sides[1].refined(left, partners, labels, names),
            )
            before = len(found)
            for one, other in _equal_labels(refined, list(rest), left):
                found[other] = partners[other] = one
                del rest[one]
            _spread(*sides, rest, [i for i in left if i not in found], partners, found)
            if len(found) == before:
                break


def _spread(
    old: _Side,
    new: _Side,
    rest: dict[int, None],
    left: list[int],
    partners: dict[int, int],
    found: dict[int, int],
) -> None:
    """Match along edges: a node beside a matched one, with the one like it at the same place.

    Down and then up the order of execution, so that one match leads to the next. It crosses places
    where a node came or went, since one matched neighbour suffices; the one with the most wins.
    """
    for down in (True, False):
        for index in left if down else reversed(left):
            if index in found:
                continue
            votes = (old.users_like if down else old.makers_like)(new, index, partners, rest)
            best = max(votes.values(), default=0)
            winners = [one for one, count in votes.items() if count == best]
            if len(winners) > 1:
                winners = [one for one in winners if old.operands(one) == new.operands(index)]
            if len(winners) == 1:
                found[index] = partners[index] = winners[0]
                del rest[winners[0]]


def _equal_labels(
    refined: tuple[list[dict[int, int]], list[dict[int, int]]], old: list[int], new: list[int]
) -> list[tuple[int, int]]:
    """Pairs of old and new with the same label, by the first kind of label for which there are any."""
    for kind in range(len(refined[0])):
        buckets: dict[int, tuple[list[int], list[int]]] = {}
        for side, indices in enumerate((old, new)):
            for index in indices:
                buckets.setdefault(refined[side][kind][index], ([], []))[side].append(index)
        matches = [
            pair
            for before, after in buckets.values()
            if len(before) == len(after) and (kind < WIDE or len(before) == 1)
            for pair in zip(before, after, strict=True)
        ]
        if matches:
            return matches
    return []


class _Side:
    """One of two graphs whose nodes are labelled by their surroundings."""

    def __init__(self, seen: Sequence[Seen], name_of: Callable[[int], str]) -> None:
        self._seen = seen
        self._name_of = name_of
        self._maker = {v: i for i, node in enumerate(seen) for v in node.outputs if v >= 0}
        self._users: list[list[tuple[int, int]]] = [[] for _ in seen]
        for index, node in enumerate(seen):
            for slot, value in enumerate(node.inputs):
                maker = self._maker.get(value)
                if maker is not None and len(self._users[maker]) < MAX_NEIGHBOURS:
                    self._users[maker].append((index, slot))

    def operands(self, index: int) -> list[str]:
        """The names of the operands of a node that no node makes."""
        return [self._name_of(v) for v in self._seen[index].inputs if v not in self._maker]

    def users_like(
        self, other: _Side, index: int, partners: Mapping[int, int], rest: Mapping[int, None]
    ) -> dict[int, int]:
        """The nodes in `rest` like `other`'s node, by how many of its operands they take in place."""
        found: dict[int, int] = {}
        like = other._seen[index].function
        for slot, value in enumerate(other._seen[index].inputs):
            partner = partners.get(other._maker.get(value, -1))
            for user, place in () if partner is None else self._users[partner]:
                if place == slot and user in rest and self._seen[user].function == like:
                    found[user] = found.get(user, 0) + 1
        return found

    def makers_like(
        self, other: _Side, index: int, partners: Mapping[int, int], rest: Mapping[int, None]
    ) -> dict[int, int]:
        """The nodes in `rest` like `other`'s node, by how many of its users they feed at the same place."""
        found: dict[int, int] = {}
        like = other._seen[index].function
        for user, slot in other._users[index]:
            partner = partners.get(user)
            inputs = () if partner is None else self._seen[partner].inputs
            maker = self._maker.get(inputs[slot]) if slot < len(inputs) else None
            if maker is not None and maker in rest and self._seen[maker].function == like:
                found[maker] = found.get(maker, 0) + 1
        return found

    def refined(
        self, free: list[int], anchors: Mapping[int, int], labels: dict[Any, int], names: bool
    ) -> list[dict[int, int]]:
        """The labels of the nodes in `free`, those of the last round first.

        Args:
            anchors: the label of each node that is matched already.
            labels: the number of each label, shared by both sides.
            names: whether operands that no node makes count by their names.
        """

        def number(key: Any) -> int:
            return labels.setdefault(key, len(labels))

        seen, maker = self._seen, self._maker
        fixed = {i: number(("matched", o)) for i, o in anchors.items()}
        rounds = [{i: number((*seen[i].function, len(seen[i].inputs))) for i in free}]

        def operand_label(value: int, last: Mapping[int, int] = fixed) -> int:
            if value in maker:
                return last.get(maker[value], -1)
            return number(("operand", self._name_of(value) if names else ""))

        for _ in range(ROUNDS):
            last = rounds[-1] | fixed

            rounds.append(
                {
                    i: number(
                        (
                            last[i],
                            tuple([operand_label(v, last) for v in seen[i].inputs]),
                            tuple(sorted(last.get(u, -1) for u, _ in self._users[i])),
                        )
                    )
                    for i in free
                }
            )
        return rounds[::-1]
