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
from graphopt.viz.piece import Piece, Route

MAX_SPAN = 12
"""An edge that leads further than this many layers is cut."""

COLUMN_LAYERS = 10
"""A long piece is broken into columns, like text, but none shorter than this."""

PIECE_GAP, CAPTION_HEIGHT = 44.0, 18.0


@dataclasses.dataclass(frozen=True)
class Box:
    """A placed box: its upper left corner and its size, in pixels."""

    x: float
    y: float
    width: float
    height: float


@dataclasses.dataclass(frozen=True)
class Caption:
    """The name of a nested graph above its piece, and the room for it."""

    x: float
    y: float
    width: float
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
    placed = [Piece(pane, nodes, inside[key], layers, sizes) for key, nodes in sorted(pieces.items())]
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
    # As many as make the piece about as wide as it is tall, if boxes are spread evenly over the layers.
    columns = min(round(0.42 * (high - low) / len(component) ** 0.5), (high - low) // COLUMN_LAYERS)
    if columns <= 1:
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


def _pack(
    pieces: Sequence[Piece],
    bodies: Mapping[str, str],
    width: float | None,
    arrives: Mapping[str, Sequence[int]],
    leaves: Mapping[str, Sequence[int]],
) -> Layout:
    """Pieces side by side on shelves, in order; short ones below each other where a shelf has room."""
    heads = [CAPTION_HEIGHT if piece.nodes[0] in bodies else 0.0 for piece in pieces]
    sizes = [(w, h + head) for (w, h), head in zip((p.size() for p in pieces), heads, strict=True)]
    area = sum((w + PIECE_GAP) * (h + PIECE_GAP) for w, h in sizes)
    limit = max(width or 1.4 * area**0.5, max((w for w, _ in sizes), default=0.0))
    boxes: dict[str, Box] = {}
    routes: list[Route] = []
    captions: list[Caption] = []
    right = shelf_top = shelf_height = 0.0
    x = y = column = 0.0  # the column that is being filled: its left, the next free y, its width
    for piece, (w, h), head in zip(pieces, sizes, heads, strict=True):
        if y > shelf_top and (y + h > shelf_top + shelf_height or w > column):
            x, y, column = x + column + PIECE_GAP, shelf_top, 0.0
            if x + w > limit:
                shelf_top += shelf_height + PIECE_GAP
                x, y, shelf_height = 0.0, shelf_top, 0.0
        if head:
            captions.append(Caption(x, y + 9.0, w + PIECE_GAP - 8, bodies[piece.nodes[0]]))
        top = y + head
        for item, name in enumerate(piece.nodes):
            wide, high = piece.width[item], piece.height[item]
            boxes[name] = Box(piece.x[item] - wide / 2 + x, piece.y[item] - high / 2 + top, wide, high)
        routes.extend(piece.routes(x, top))
        right, column = max(right, x + w), max(column, w)
        shelf_height = max(shelf_height, y + h - shelf_top)
        y += h + PIECE_GAP
    return Layout(
        width=right,
        height=shelf_top + shelf_height,
        boxes=boxes,
        routes=tuple(sorted(routes, key=lambda r: r.edge)),
        arrives={name: tuple(numbers) for name, numbers in arrives.items()},
        leaves={name: tuple(numbers) for name, numbers in leaves.items()},
        captions=tuple(captions),
        bends=sum(piece.bends for piece in pieces),
        crossings=sum(piece.crossings for piece in pieces),
    )
