"""What pruning makes of each layer: how many channels or heads it keeps, and how many bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from graphopt.ir import Value
from graphopt.ir.query import constant_tensor
from graphopt.passes._channel_groups import ChannelGroups, Cut
from graphopt.passes._head_groups import HeadGroups

MAX_NAMES = 3


class PrunedLayers:
    """The layers that families of units belong to, as they are before the cut.

    Args:
        families: the roots of all units of each family that is cut.
    """

    def __init__(self, groups: ChannelGroups, families: Sequence[Iterable[int]]) -> None:
        self._groups = groups
        self._families = [set(family) for family in families]
        of = {root: i for i, family in enumerate(self._families) for root in family}
        self._cuts: list[list[Cut]] = [[] for _ in families]
        self._bytes = [0] * len(families)
        counted: set[Value] = set()
        # A weight that one family makes and another reads counts for the one that makes it.
        for cut in sorted(groups.cuts, key=lambda c: c.reads):
            index = of.get(groups.root(int(cut.units[0])))
            if index is None:
                continue
            self._cuts[index].append(cut)
            value = cut.node.inputs[cut.index]
            if value is not None and value not in counted:
                counted.add(value)
                self._bytes[index] += size_of(value)

    def rows(self, removed: set[int]) -> list[dict[str, Any]]:
        """A row for each family, now that the units with the roots `removed` are gone."""
        rows = []
        counted: set[Value] = set()
        for family, cuts, size in zip(self._families, self._cuts, self._bytes, strict=True):
            heads = isinstance(self._groups, HeadGroups)
            before, after = self._counts(family, removed)
            layers = {cut.node.inputs[cut.index] for cut in cuts if cut.is_weight and cut.reads}
            if heads:
                before, after = before * len(layers), after * len(layers)
            left = 0
            for cut in cuts:
                value = cut.node.inputs[cut.index]
                if value is not None and value not in counted:
                    counted.add(value)
                    left += size_of(value)
            rows.append(
                {
                    "layer": _names(
                        cut.node.name or "" for cut in cuts if cut.is_weight and cut.reads == heads
                    ),
                    "unit": "head" if heads else "channel",
                    "before": before,
                    "after": after,
                    "bytes_before": size,
                    "bytes_after": left,
                }
            )
        return rows

    def _counts(self, family: set[int], removed: set[int]) -> tuple[int, int]:
        """Channels, or the query heads of a layer, of which several may share a key and value head."""
        if not isinstance(self._groups, HeadGroups):
            return len(family), len(family - removed)
        roots = max(
            (
                roots
                for units in self._groups.attended
                if family.issuperset(roots := self._groups.roots(units))
            ),
            key=len,
        )
        return len(roots), sum(int(root) not in removed for root in roots)


def size_of(value: Value) -> int:
    """Bytes of a constant, without reading it."""
    tensor = constant_tensor(value)
    return 0 if tensor is None else int(tensor.nbytes)


def _names(names: Iterable[str]) -> str:
    found = list(dict.fromkeys(names))
    more = f" and {len(found) - MAX_NAMES} more" if len(found) > MAX_NAMES else ""
    return ", ".join(found[:MAX_NAMES]) + more
