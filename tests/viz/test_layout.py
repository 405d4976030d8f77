"""Places and ways: nothing overlaps, edges lead down, and cost stays linear in what is drawn."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.viz import visualize
from graphopt.viz.collapse import MAX_PORTS, collapse
from graphopt.viz.layout import MAX_SPAN, Layout, layout
from graphopt.viz.picture import Kind, Pane, PictureEdge, PictureNode, State
from graphopt.viz.piece import _isotonic

ROOT = Path(__file__).resolve().parents[2]


def pane(edges: list[tuple[int, int]], count: int, names: list[str] | None = None) -> Pane:
    """A pane of `count` operators, joined by `edges` from lower to higher numbers."""
    nodes = []
    for i in range(count):
        name = names[i] if names else f"node{i}"
        nodes.append(PictureNode(f"n{i}", Kind.OP, "Add", name, scope=tuple(name.split("/")[:-1])))
    lines = tuple(PictureEdge(f"n{a}", f"n{b}", f"v{a}", "f32[1]", 4) for a, b in dict.fromkeys(edges))
    return Pane("test", tuple(nodes), lines, count, 0, 0)


def sized(drawn: Pane) -> dict[str, tuple[float, float]]:
    return {n.id: (100.0 + 10 * (i % 5), 40.0 + 10 * (i % 2)) for i, n in enumerate(drawn.nodes)}


def overlaps(where: Layout) -> list[tuple[str, str]]:
    """Pairs of boxes that lie on each other."""
    found = []
    for (one, a), (other, b) in itertools.combinations(where.boxes.items(), 2):
        apart_x = a.x + a.width <= b.x + 0.01 or b.x + b.width <= a.x + 0.01
        apart_y = a.y + a.height <= b.y + 0.01 or b.y + b.height <= a.y + 0.01
        if not (apart_x or apart_y):
            found.append((one, other))
    return found


def check(drawn: Pane, where: Layout) -> None:
    """What every layout keeps."""
    assert set(where.boxes) == {n.id for n in drawn.nodes}
    assert not overlaps(where)
    for box in where.boxes.values():
        assert box.x >= -0.01
        assert box.y >= -0.01
        assert box.x + box.width <= where.width + 0.01
        assert box.y + box.height <= where.height + 0.01
    for route in where.routes:
        edge = drawn.edges[route.edge]
        ends = where.boxes[edge.source], where.boxes[edge.target]
        heights = [y for _, y in route.points]
        assert heights == sorted(heights), "an edge leads down"
        assert heights[0] == pytest.approx(ends[0].y + ends[0].height)
        assert heights[-1] == pytest.approx(ends[1].y)
        assert ends[1].x < route.points[-1][0] < ends[1].x + ends[1].width
    drawn_whole = {route.edge for route in where.routes}
    for index, edge in enumerate(drawn.edges):
        if index not in drawn_whole:  # then the same number stands at both ends
            assert set(where.leaves[edge.source]) & set(where.arrives[edge.target])


graphs = st.integers(1, 40).flatmap(
    lambda count: st.tuples(
        st.lists(
            st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)).filter(lambda e: e[0] < e[1]),
            max_size=80,
        )
        if count > 1
        else st.just([]),
        st.just(count),
    )
)


@settings(max_examples=80, deadline=None)
@given(graphs)
def test_any_graph(graph: tuple[list[tuple[int, int]], int]) -> None:
    drawn = pane(*graph)
    check(drawn, layout(drawn, sized(drawn)))


def test_a_chain_is_straight_and_a_long_one_is_broken_into_columns() -> None:
    short = pane([(i, i + 1) for i in range(11)], 12)
    boxes = layout(short, dict.fromkeys((n.id for n in short.nodes), (100.0, 40.0))).boxes
    assert {round(b.x, 3) for b in boxes.values()} == {0.0}
    long = pane([(i, i + 1) for i in range(199)], 200)
    where = layout(long, sized(long))
    check(long, where)
    assert where.height < 4 * where.width
    assert 2 <= len({n for numbers in where.leaves.values() for n in numbers}) <= 10


def test_sweeps_remove_crossings() -> None:
    # Two chains whose nodes are numbered crosswise have a drawing without crossings.
    drawn = pane([(0, 3), (1, 2), (2, 5), (3, 4), (4, 7), (5, 6)], 8)
    assert layout(drawn, sized(drawn)).crossings == 0
    drawn = pane([(0, 4), (0, 5), (1, 2), (1, 3), (2, 6), (3, 6), (4, 7), (5, 7), (6, 8), (7, 8)], 9)
    assert layout(drawn, sized(drawn)).crossings == 0


def test_isolated_pieces_lie_side_by_side() -> None:
    drawn = pane([(0, 1), (2, 3), (4, 5)], 6)
    where = layout(drawn, sized(drawn))
    check(drawn, where)
    assert where.boxes["n0"].y == where.boxes["n2"].y
    assert where.boxes["n0"].x < where.boxes["n2"].x


def test_bends_stay_linear_whatever_the_spans() -> None:
    # One value that every node of a long chain uses: drawn in full it would be quadratic.
    count = 3000
    edges = [(i, i + 1) for i in range(count - 1)] + [(0, i) for i in range(2, count)]
    drawn = pane(edges, count)
    where = layout(drawn, sized(drawn))
    assert where.bends <= count * MAX_SPAN
    assert sum(len(r.points) for r in where.routes) <= len(edges) * 2 * MAX_SPAN
    drawn = pane([(i, j) for i in range(0, count - 200, 50) for j in range(i + 1, i + 200)], count)
    assert layout(drawn, sized(drawn)).bends <= count * MAX_SPAN


def test_three_thousand_nodes() -> None:
    random_edges = random.Random(0)
    edges = [(random_edges.randrange(max(0, i - 30), i), i) for i in range(1, 3000) for _ in range(2)]
    drawn = pane(edges, 3000)
    assert collapse([drawn]) == (drawn,)
    where = layout(drawn, sized(drawn))
    assert len(where.boxes) == 3000
    assert where.bends <= 3000 * MAX_SPAN


def test_above_the_limit_scopes_become_boxes() -> None:
    names = [f"net/block{i // 100}/layer{i // 10}/op{i}" for i in range(10_000)]
    drawn = pane([(i, i + 1) for i in range(9999)], 10_000, names)
    (small,) = collapse([drawn])
    assert len(small.nodes) == 1000, "as many segments as the limit allows"
    assert small.nodes[0].kind is Kind.GROUP
    assert (small.nodes[0].op, small.nodes[0].name) == ("net/block0/layer0", "10 Add")
    assert sum(n.members for n in small.nodes) == 10_000
    assert [(e.source, e.target) for e in small.edges] == [
        (a.id, b.id) for a, b in itertools.pairwise(small.nodes)
    ]
    (smaller,) = collapse([drawn], limit=100)
    assert [n.op for n in smaller.nodes] == [f"net/block{i}" for i in range(100)]


@pytest.mark.parametrize("count", [3001, 9000, 20_000])
def test_names_without_paths_are_collapsed_by_position(count: int) -> None:
    drawn = pane([(i, i + 1) for i in range(count - 1)], count)
    (small,) = collapse([drawn])
    assert 1000 <= len(small.nodes) <= 3000
    assert sum(n.members for n in small.nodes) == count
    assert small.nodes[0].op.startswith("node0 … node")


def test_interleaved_scopes_stay_acyclic() -> None:
    names = [f"{'ab'[i % 2]}/op{i}" for i in range(4000)]
    drawn = pane([(i, i + 1) for i in range(3999)], 4000, names)
    (small,) = collapse([drawn])
    assert len(small.nodes) <= 3000
    order = {n.id: i for i, n in enumerate(small.nodes)}
    assert all(order[e.source] < order[e.target] for e in small.edges)


def test_many_inputs_become_one_box() -> None:
    inputs = tuple(PictureNode(f"i{i}", Kind.INPUT, "Input", f"x{i}") for i in range(5000))
    body = pane([], 1)
    edges = tuple(PictureEdge(n.id, "n0", n.name, "f32[1]", 4) for n in inputs)
    drawn = Pane("many", inputs + body.nodes, edges, 1, 0, 0)
    (small,) = collapse([drawn])
    assert len(small.nodes) == 2
    assert (small.nodes[0].op, small.nodes[0].members) == ("5,000 inputs", 5000)
    assert MAX_PORTS < 5000


def test_a_group_is_the_same_only_if_all_of_it_is() -> None:
    nodes = tuple(
        PictureNode(
            f"n{i}", Kind.OP, "Add", f"s{i // 2}/n{i}", scope=(f"s{i // 2}",),
            state=State.REMOVED if i in (1, 2, 3) else State.SAME,
        )
        for i in range(6)
    )  # fmt: skip
    (small,) = collapse([Pane("p", nodes, (), 6, 0, 0)], limit=3)
    assert [n.state for n in small.nodes] == [State.CHANGED, State.REMOVED, State.SAME]


@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(0.1, 10)), min_size=1, max_size=30))
def test_isotonic_regression(items: list[tuple[float, float]]) -> None:
    values, weights = [v for v, _ in items], [w for _, w in items]
    fit = _isotonic(values, weights)
    assert all(a <= b + 1e-9 for a, b in itertools.pairwise(fit))
    # Optimal: within each pool of equal values the residuals cancel.
    for _, pool in itertools.groupby(zip(fit, values, weights, strict=True), key=lambda t: t[0]):
        assert abs(sum(w * (v - f) for f, v, w in pool)) < 1e-6


@pytest.mark.parametrize("name", ["bert-tiny", "gpt-tiny", "mnist-cnn", "recommender"])
def test_samples(name: str) -> None:
    drawn = visualize(ROOT / "samples" / "generated" / f"{name}.onnx").picture.before
    where = layout(drawn, sized(drawn))
    check(drawn, where)
    assert where.crossings <= len(drawn.edges) // 4
