"""Units that are tied to each other or frozen, where they are in a model, and what their number makes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from graphopt.ir import Node, SymbolicDim, Value
from graphopt.ir.query import attribute, ints, is_op, rank, same_dim

SIZES = frozenset(
    "Gather Slice Unsqueeze Squeeze Concat Cast Mul Div Equal Where "
    "ConstantOfShape Identity Shape Reshape".split()
)
"""Operators that compute a shape from another one."""

TARGETS = {"Reshape": 1, "Expand": 1, "Resize": 3}
"""Operators that take the sizes of their result, and as which operand."""


class Label(NamedTuple):
    """Where in a value the units are: the entries of `axis`.

    `tiled`: an axis before was merged into theirs, which runs through all units again and again.
    """

    axis: int
    units: np.ndarray
    tiled: bool = False


class Units:
    """Units, of which some stand and fall together, and the values of one graph that have them.

    `labels` says where a value has units, `sizes` what is computed from a number of units, with the
    units that it depends on.
    """

    def __init__(self) -> None:
        self.labels: dict[Value, Label] = {}
        self.sizes: dict[Value, np.ndarray] = {}
        self._places: dict[Value, tuple[int, int]] = {}
        self._parent: list[int] = []
        self._source: list[int] = []
        self._frozen: dict[int, str] = {}

    def root(self, unit: int) -> int:
        """The unit that stands for all that are tied to `unit`."""
        while self._parent[unit] != unit:
            self._parent[unit] = self._parent[self._parent[unit]]
            unit = self._parent[unit]
        return unit

    def roots(self, units: Iterable[int]) -> np.ndarray:
        """The roots of several units."""
        return np.array([self.root(int(u)) for u in units], np.int64)

    def all_roots(self) -> np.ndarray:
        """The root of every unit."""
        return self.roots(range(len(self._parent)))

    def frozen_roots(self) -> dict[int, str]:
        """The roots of all units that cannot be removed, with the reason that was found first."""
        found: dict[int, str] = {}
        for unit, why in self._frozen.items():
            found.setdefault(self.root(unit), why)
        return found

    def families(self) -> list[list[int]]:
        """Roots whose channels are made by the same layers: what is ranked together."""
        family: dict[int, int] = {}

        def find(x: int) -> int:
            while family.setdefault(x, x) != x:
                above = family[x]
                family[x] = family.setdefault(above, above)
                x = above
            return x

        for unit, source in enumerate(self._source):
            family[find(source)] = find(self._source[self.root(unit)])
        members: dict[int, dict[int, None]] = {}
        for unit, source in enumerate(self._source):
            members.setdefault(find(source), {})[self.root(unit)] = None
        return [list(roots) for roots in members.values()]

    # --- building

    def _fresh(self, count: int) -> np.ndarray:
        start, source = len(self._parent), len(self._parent)
        self._parent.extend(range(start, start + count))
        self._source.extend([source] * count)
        return np.arange(start, start + count)

    def _tie(self, a: np.ndarray, b: np.ndarray) -> None:
        for x, y in zip(a, b, strict=True):
            self._parent[self.root(int(y))] = self.root(int(x))

    def freeze(self, roots: Iterable[int], why: str) -> None:
        """Keep the units that `roots` stand for."""
        for root in roots:
            self._frozen.setdefault(root, why)

    def _freeze(self, units: np.ndarray, why: str) -> None:
        for unit in units:
            self._frozen.setdefault(int(unit), why)

    # --- what is computed from a number of units

    def _measured(self, node: Node) -> None:
        """Shape of a labelled value; one that leaves the axis of the units out depends on nothing."""
        axis, units, _ = self.labels[node.inputs[0]]  # type: ignore[index]
        size = rank(node.inputs[0])
        if size is None:
            self.sizes[node.outputs[0]] = units
            return
        taken = range(size)[slice(attribute(node, "start", 0), attribute(node, "end", None))]
        if axis in taken:
            self.sizes[node.outputs[0]] = units
            self._places[node.outputs[0]] = (axis - taken.start, len(taken))

    def _computed(self, node: Node) -> None:
        """Follow what is computed from a number of units: it may only end as a size of their values."""
        for index, value in enumerate(node.inputs):
            if value is None or value not in self.sizes:
                continue
            units = self.sizes[value]
            if not node.domain and TARGETS.get(node.op_type) == index:
                if node.inputs[0] not in self.labels:
                    self._freeze(units, f"a {node.op_type} of something else takes their number")
            elif node.domain or node.op_type not in SIZES:
                self._freeze(units, f"{node.op_type} uses their number")
            elif self._takes_number(node, value):
                before = self.sizes.get(node.outputs[0], units[:0])
                self.sizes[node.outputs[0]] = np.concatenate([before, units])

    def _takes_number(self, node: Node, value: Value) -> bool:
        """Whether a Gather or Slice from the sizes of a labelled value takes the labelled one."""
        if value not in self._places or node.inputs[0] is not value:
            return True
        position, size = self._places[value]
        if is_op(node, "Gather"):
            chosen = ints(node.inputs[1])
            return chosen is None or any(i % size == position for i in chosen)
        if is_op(node, "Slice"):
            limits = [ints(v) or () for v in (*node.inputs[1:3], *node.inputs[4:])]
            if any(len(limit) != 1 for limit in limits) or (len(limits) > 2 and limits[2][0] == 0):
                return True
            return position in range(size)[slice(*(limit[0] for limit in limits))]
        return True


def known_product(dims: Sequence[int | SymbolicDim]) -> int | None:
    """The product of `dims` (1 of none), None if they are not all numbers."""
    numbers = [d for d in dims if isinstance(d, int)]
    return int(np.prod(numbers, dtype=object)) if len(numbers) == len(dims) else None


def same_dims(a: Sequence[int | SymbolicDim], b: Sequence[int | SymbolicDim]) -> bool:
    """Whether two runs of dimensions are provably equal."""
    return len(a) == len(b) and all(same_dim(x, y) for x, y in zip(a, b, strict=True))
