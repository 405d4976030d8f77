"""Where the boxes of a pane go: layers from top to bottom, edges that cross little.

Longest-path layers, orders by barycentre sweeps, positions by isotonic regression: every step is
linear in boxes and edges, up to logarithms. An edge that would run past many layers is cut and
marked with the same number at both ends, so the number of bends stays linear too.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence

import networkx as nx

from graphopt.viz.picture import Pane

MAX_SPAN = 12
"""An edge that leads further than this many layers is cut."""

COLUMN_LAYERS = 30
"""A piece with many more layers than this is broken into columns, like text."""

LAYER_GAP, BOX_GAP, BEND_WIDTH, PIECE_GAP = 26.0, 20.0, 10.0, 44.0
SWEEPS = 8

Point = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Box:
    """A placed box: its upper left corner and its size, in pixels."""

    x: float
    y: float
    width: float
    height: float


@dataclasses.dataclass(frozen=True)
class Route:
    """The way of one edge, by its index in the pane: vertical at every point, curved between them."""

    edge: int
    points: tuple[Point, ...]


@dataclasses.dataclass(frozen=True)
class Caption:
    """The name of a nested graph above its piece."""

    x: float
    y: float
    text: str


@dataclasses.dataclass(frozen=True)
class Layout:
    """A pane in pixels.

    Attributes:
        routes: the edges that are drawn in full.
        cuts: for each box, the numbers of the values that arrive by cut edges.
        leaves: for each box, the numbers of its values that leave by cut edges.
        bends: how many places edges were given between layers.
        crossings: how often edges cross.
    """

    width: float
    height: float
    boxes: Mapping[str, Box]
    routes: tuple[Route, ...]
    arrives: Mapping[str, tuple[int, ...]]
    leaves: Mapping[str, tuple[int, ...]]
    captions: tuple[Caption, ...]
    bends: int
    crossings: int


def layout(pane: Pane, sizes: Mapping[str, tuple[float, float]], *, width: float | None = None) -> Layout:
    """Place the boxes of `pane`.

    Args:
        sizes: width and height of every box.
        width: pieces are stacked side by side up to this width; chosen by default.
    """
    graph = nx.DiGraph()
    graph.add_nodes_from(n.id for n in pane.nodes)
    graph.add_edges_from((e.source, e.target) for e in pane.edges)
    layers = _layers(graph)
    piece_of = _pieces(pane, graph, layers)
    pieces: dict[int, list[str]] = defaultdict(list)
    for node in pane.nodes:
        pieces[piece_of[node.id]].append(node.id)
    inside: dict[int, list[int]] = defaultdict(list)
    cut: list[int] = []
    for index, edge in enumerate(pane.edges):
        near = layers[edge.target] - layers[edge.source] <= MAX_SPAN
        if near and piece_of[edge.source] == piece_of[edge.target]:
            inside[piece_of[edge.source]].append(index)
        else:
            cut.append(index)
    placed = [_Piece(pane, nodes, inside[key], layers, sizes) for key, nodes in sorted(pieces.items())]
    for piece in placed:
        piece.place()
    captions = {n.id: n.body for n in pane.nodes if n.body}
    return _pack(placed, captions, width, *_numbers(pane, cut))


def _layers(graph: nx.DiGraph) -> dict[str, int]:
    """Longest-path layers; then boxes with more edges below than above sink towards them."""
    layer: dict[str, int] = {}
    generations = [list(g) for g in nx.topological_generations(graph)]
    for index, names in enumerate(generations):
        layer.update(dict.fromkeys(names, index))
    for names in reversed(generations):
        for name in names:
            if graph.out_degree(name) and graph.in_degree(name) < graph.out_degree(name):
                layer[name] = min(layer[s] for s in graph.successors(name)) - 1
    return layer


def _pieces(pane: Pane, graph: nx.DiGraph, layers: Mapping[str, int]) -> dict[str, int]:
    """A number for each box; boxes of one number are laid out together, numbers go left to right."""
    order = {n.id: i for i, n in enumerate(pane.nodes)}
    found = sorted(
        (sorted(c, key=order.__getitem__) for c in nx.weakly_connected_components(graph)),
        key=lambda c: order[c[0]],
    )
    piece_of: dict[str, int] = {}
    count = 0
    for component in found:
        cuts = _column_cuts(component, graph, layers)
        for name in component:
            piece_of[name] = count + bisect_right(cuts, layers[name])
        count += len(cuts) + 1
    return piece_of


def _column_cuts(component: Sequence[str], graph: nx.DiGraph, layers: Mapping[str, int]) -> list[int]:
    """The layers that begin a new column: where few edges pass, at about equal distances."""
    low = min(layers[n] for n in component)
    high = max(layers[n] for n in component) + 1
    columns = -(-(high - low) // COLUMN_LAYERS) if high - low > COLUMN_LAYERS * 4 // 3 else 1
    if columns == 1:
        return []
    passing = [0] * (high - low + 1)
    for name in component:
        ends = [layers[s] for s in graph.successors(name)]
        if ends:  # one value, one line, however many use it
            passing[layers[name] + 1 - low] += 1
            passing[max(ends) + 1 - low] -= 1
    for index in range(1, len(passing)):
        passing[index] += passing[index - 1]
    step = (high - low) / columns
    slack = int(step / 5)
    cuts = []
    for column in range(1, columns):
        middle = round(column * step)
        window = range(middle - slack, middle + slack + 1)
        cuts.append(low + min(window, key=lambda i: (passing[i], abs(i - middle))))
    return cuts


def _numbers(pane: Pane, cut: Sequence[int]) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """For each box the numbers of cut values that arrive, and that leave."""
    numbers: dict[tuple[str, str], int] = {}
    arrives: dict[str, list[int]] = defaultdict(list)
    leaves: dict[str, list[int]] = defaultdict(list)
    for index in cut:
        edge = pane.edges[index]
        key = (edge.source, edge.name)
        if key not in numbers:
            numbers[key] = len(numbers) + 1
            leaves[edge.source].append(numbers[key])
        arrives[edge.target].append(numbers[key])
    return arrives, leaves


class _Piece:
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
            for upper, lower in zip(path, path[1:], strict=False):
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
        for upper, lower in zip(rows, rows[1:], strict=False):
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


def _pack(
    pieces: Sequence[_Piece],
    bodies: Mapping[str, str],
    width: float | None,
    arrives: Mapping[str, Sequence[int]],
    leaves: Mapping[str, Sequence[int]],
) -> Layout:
    """Pieces side by side on shelves, in order."""
    sizes = [piece.size() for piece in pieces]
    area = sum((w + PIECE_GAP) * (h + PIECE_GAP) for w, h in sizes)
    tall = max((h for _, h in sizes), default=0.0)
    widest = max((w for w, _ in sizes), default=0.0)
    limit = max(widest, width or max(1.1 * area**0.5, 1.3 * area / tall if tall else 0.0))
    boxes: dict[str, Box] = {}
    routes: list[Route] = []
    captions: list[Caption] = []
    x = y = shelf = right = 0.0
    for piece, (w, h) in zip(pieces, sizes, strict=True):
        if x and x + w > limit:
            x, y, shelf = 0.0, y + shelf + PIECE_GAP, 0.0
        body = bodies.get(piece.nodes[0])
        top = y + (18.0 if body else 0.0)
        if body:
            captions.append(Caption(x, y + 9.0, body))
        for item, name in enumerate(piece.nodes):
            wide, high = piece.width[item], piece.height[item]
            boxes[name] = Box(piece.x[item] - wide / 2 + x, piece.y[item] - high / 2 + top, wide, high)
        routes.extend(piece.routes(x, top))
        right = max(right, x + w)
        shelf = max(shelf, h + top - y)
        x += w + PIECE_GAP
    return Layout(
        width=right,
        height=y + shelf,
        boxes=boxes,
        routes=tuple(sorted(routes, key=lambda r: r.edge)),
        arrives={name: tuple(numbers) for name, numbers in arrives.items()},
        leaves={name: tuple(numbers) for name, numbers in leaves.items()},
        captions=tuple(captions),
        bends=sum(piece.bends for piece in pieces),
        crossings=sum(piece.crossings for piece in pieces),
    )
