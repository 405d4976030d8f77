"""One connected part of a pane: the order of its boxes in layers, their places, the ways of its edges."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

from graphopt.viz.picture import Pane

LAYER_GAP, BOX_GAP, BEND_WIDTH = 26.0, 20.0, 10.0
SWEEPS = 8

Point = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Route:
    """The way of one edge, by its index in the pane: vertical at every point, curved between them."""

    edge: int
    points: tuple[Point, ...]


class Piece:
    """One connected part: items are boxes, and bends where a line passes a layer."""

    def __init__(
        self,
        pane: Pane,
        nodes: Sequence[str],
        edges: Sequence[int],
        layers: Mapping[str, int],
        sizes: Mapping[str, tuple[float, float]],
    ) -> None:
        self.nodes = nodes
        self.edges = edges
        self._pane = pane
        base = min(layers[n] for n in nodes)
        self.count = max(layers[n] for n in nodes) - base + 1
        self.layer = [layers[n] - base for n in nodes]
        self.width = [sizes[n][0] for n in nodes]
        self.height = [sizes[n][1] for n in nodes]
        self._index = {n: i for i, n in enumerate(nodes)}
        self.below: list[list[int]] = [[] for _ in nodes]
        self.above: list[list[int]] = [[] for _ in nodes]
        self._paths: dict[int, list[int]] = {}
        self._add_bends()
        self.x = [0.0] * len(self.layer)
        self.y = [0.0] * len(self.layer)
        self.crossings = 0

    @property
    def bends(self) -> int:
        """How many items are bends."""
        return len(self.layer) - len(self.nodes)

    def _add_bends(self) -> None:
        """One chain of bends for each box, shared by all of its long edges."""
        chains: dict[int, list[int]] = defaultdict(list)
        links: set[tuple[int, int]] = set()
        for index in self.edges:
            edge = self._pane.edges[index]
            source, target = self._index[edge.source], self._index[edge.target]
            chain = chains[source]
            needed = self.layer[target] - self.layer[source] - 1
            while len(chain) < needed:
                chain.append(len(self.layer))
                self.layer.append(self.layer[source] + len(chain))
                self.width.append(BEND_WIDTH)
                self.height.append(0.0)
                self.below.append([])
                self.above.append([])
            path = [source, *chain[:needed], target]
            self._paths[index] = path
            for upper, lower in pairwise(path):
                if (upper, lower) not in links:
                    links.add((upper, lower))
                    self.below[upper].append(lower)
                    self.above[lower].append(upper)

    def place(self) -> None:
        """Find the order in each layer, then x and y of every item's centre."""
        rows: list[list[int]] = [[] for _ in range(self.count)]
        for item in self._depth_first():
            rows[self.layer[item]].append(item)
        rows = self._ordered(rows)
        self._set_x(rows)
        self._set_y(rows)

    def _depth_first(self) -> list[int]:
        """All items, neighbours close to each other: a good order to start from."""
        seen: set[int] = set()
        order = []
        for root in range(len(self.layer)):
            if self.above[root]:
                continue
            work = [root]
            while work:
                item = work.pop()
                if item not in seen:
                    seen.add(item)
                    order.append(item)
                    work.extend(reversed(self.below[item]))
        return order

    def _ordered(self, rows: list[list[int]]) -> list[list[int]]:
        best, fewest = rows, self._crossings(rows)
        for sweep in range(SWEEPS):
            if fewest == 0:
                break
            rows = [list(row) for row in rows]
            down = sweep % 2 == 0
            near = self.above if down else self.below
            position = {item: i for row in rows for i, item in enumerate(row)}
            for row in rows if down else reversed(rows):
                centre = {
                    item: sum(position[n] for n in near[item]) / len(near[item])
                    if near[item]
                    else float(position[item])
                    for item in row
                }
                row.sort(key=centre.__getitem__)
                position.update((item, i) for i, item in enumerate(row))
            count = self._crossings(rows)
            if count < fewest:
                best, fewest = rows, count
        self.crossings = fewest
        return best

    def _crossings(self, rows: Sequence[Sequence[int]]) -> int:
        """How often edges between neighbouring layers cross: inversions, counted in a Fenwick tree."""
        total = 0
        for upper, lower in pairwise(rows):
            position = {item: i for i, item in enumerate(lower)}
            tree = [0] * (len(lower) + 1)
            seen = 0
            for item in upper:
                ends = [position[n] for n in self.below[item]]
                for end in ends:
                    at, smaller = end + 1, 0
                    while at > 0:
                        smaller += tree[at]
                        at -= at & -at
                    total += seen - smaller
                for end in ends:
                    at = end + 1
                    while at < len(tree):
                        tree[at] += 1
                        at += at & -at
                seen += len(ends)
        return total

    def _set_x(self, rows: Sequence[Sequence[int]]) -> None:
        """Move every item towards its neighbours, as far as order and distances allow."""
        for row in rows:
            at = 0.0
            for item in row:
                at += self.width[item] / 2
                self.x[item] = at
                at += self.width[item] / 2 + BOX_GAP
            for item in row:
                self.x[item] -= at / 2
        for sweep in range(2 * SWEEPS):
            last = sweep >= 2 * SWEEPS - 4
            down = sweep % 2 == 0
            for row in rows if down else reversed(rows):
                self._settle(
                    row, self.above if down or last else None, self.below if not down or last else None
                )
        left = min(x - w / 2 for x, w in zip(self.x, self.width, strict=True))
        self.x = [x - left for x in self.x]

    def _settle(
        self, row: Sequence[int], above: list[list[int]] | None, below: list[list[int]] | None
    ) -> None:
        """The positions closest to the neighbours' that keep order and distances (weighted least squares)."""
        offsets, wanted, weights = [], [], []
        at = 0.0
        for index, item in enumerate(row):
            if index:
                before = row[index - 1]
                both = item >= len(self.nodes) and before >= len(self.nodes)
                at += (self.width[before] + self.width[item]) / 2 + (2.0 if both else BOX_GAP)
            near = (above[item] if above else []) + (below[item] if below else [])
            pull = [(self._straightness(item, n), self.x[n]) for n in near] or [(0.01, self.x[item])]
            weight = sum(w for w, _ in pull)
            offsets.append(at)
            wanted.append(sum(w * x for w, x in pull) / weight - at)
            weights.append(weight)
        for item, fit, offset in zip(row, _isotonic(wanted, weights), offsets, strict=True):
            self.x[item] = fit + offset

    def _straightness(self, one: int, other: int) -> float:
        bends = (one >= len(self.nodes)) + (other >= len(self.nodes))
        return (1.0, 2.0, 8.0)[bends]

    def _set_y(self, rows: Sequence[Sequence[int]]) -> None:
        top = 0.0
        for row in rows:
            tall = max((self.height[i] for i in row), default=0.0)
            for item in row:
                self.y[item] = top + tall / 2
                if item >= len(self.nodes):
                    self.height[item] = tall
            sideways = max((abs(self.x[i] - self.x[n]) for i in row for n in self.below[i]), default=0.0)
            top += tall + LAYER_GAP + min(26.0, sideways * 0.07)

    def size(self) -> tuple[float, float]:
        """Width and height of the piece."""
        return (
            max(x + w / 2 for x, w in zip(self.x, self.width, strict=True)),
            max(y + h / 2 for y, h in zip(self.y, self.height, strict=True)),
        )

    def routes(self, dx: float, dy: float) -> list[Route]:
        """The ways of all edges, moved by (`dx`, `dy`)."""
        port = self._ports()
        found = []
        for index, path in self._paths.items():
            points = [(self.x[path[0]] + dx, self.y[path[0]] + self.height[path[0]] / 2 + dy)]
            for bend in path[1:-1]:
                half = self.height[bend] / 2
                points += [(self.x[bend] + dx, self.y[bend] + side + dy) for side in (-half, half)]
            end = path[-1]
            points.append((port[index] + dx, self.y[end] - self.height[end] / 2 + dy))
            found.append(Route(index, tuple(points)))
        return found

    def _ports(self) -> dict[int, float]:
        """Where each edge arrives: side by side on the upper rim, from left to right as they come."""
        arriving: dict[int, list[int]] = defaultdict(list)
        for index, path in self._paths.items():
            arriving[path[-1]].append(index)
        port = {}
        for target, edges in arriving.items():
            edges.sort(key=lambda e: self.x[self._paths[e][-2]])
            step = min(16.0, (self.width[target] - 30) / len(edges))
            for place, edge in enumerate(edges):
                port[edge] = self.x[target] + (place - (len(edges) - 1) / 2) * step
        return port


def _isotonic(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The non-decreasing sequence closest to `values` in weighted squares (pool adjacent violators)."""
    pools: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(values, weights, strict=True):
        mean, total, length = value, weight, 1
        while pools and pools[-1][0] > mean:
            other, heavy, long = pools.pop()
            mean = (mean * total + other * heavy) / (total + heavy)
            total += heavy
            length += long
        pools.append((mean, total, length))
    return [mean for mean, _, length in pools for _ in range(length)]
