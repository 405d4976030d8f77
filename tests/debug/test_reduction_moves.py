"""Cutting and shrinking: every cut computes what the whole computed there."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from checking import model_from, random_feeds, run_onnxruntime
from debug.planted import PLANTS

from graphopt.ir import Model
from graphopt.ir.io import load
from graphopt.verification import reduction_moves as moves

LOOP = """g (float[2] x, bool c) => (float[2] y, float[2] z) <int64 trips = {3}, bool go = {1}, float[2] w = {1.0, 2.0}> {
    a = Mul(x, w)
    b = Exp(a)
    l = Loop(trips, go, b) <body = body (int64 i, bool k, float[2] s) => (bool m, float[2] t) {
        m = Identity(k)
        t = Sub(s, a)
    }>
    y = If(c) <then_branch = t () => (float[2] o) { p = Sin(l) o = Neg(p) },
               else_branch = e () => (float[2] q) { q = Add(a, b) }>
    z = Add(y, w)
}"""


def observer(model: Model, feeds: Mapping[str, np.ndarray]) -> moves.Observe:
    def observe(names: list[str]) -> Mapping[str, np.ndarray]:
        seen = model.clone()
        values = [v for n in seen.graph for v in n.outputs]
        seen.graph.outputs.clear()
        seen.graph.outputs.extend(values)
        return run_onnxruntime(seen, feeds)

    return observe


@pytest.mark.parametrize("index", range(5))
def test_each_node_alone_computes_what_it_did(index: int) -> None:
    model = model_from(LOOP)
    feeds = random_feeds(model)
    observe = observer(model, feeds)
    node = model.graph[index]
    cut = moves.cut(model, {node.name or ""}, dict(feeds), observe, static=False)
    assert cut is not None
    small, fed = cut
    assert [n.op_type for n in small.graph] == [node.op_type]
    wanted = observe([])
    for name, array in run_onnxruntime(load(small), fed).items():
        np.testing.assert_array_equal(array, wanted[name])


@pytest.mark.parametrize("seed", range(6))
def test_halves_of_random_graphs_compute_what_they_did(seed: int) -> None:
    plant = [p for p in PLANTS if callable(p.model) and p.root is not None][seed]
    model = load(plant.model())
    feeds = random_feeds(model, {"batch": 2})
    observe = observer(model, feeds)
    names = [node.name or "" for node in model.graph]
    chosen = set(np.random.default_rng(seed).choice(names, len(names) // 2, replace=False).tolist())
    wanted = observe([])
    for static in (False, True):
        cut = moves.cut(model, chosen, dict(feeds), observe, static=static)
        assert cut is not None
        for name, array in run_onnxruntime(load(cut[0]), cut[1]).items():
            np.testing.assert_array_equal(array, wanted[name])


def test_a_branch_takes_the_place_of_its_if() -> None:
    model = model_from(LOOP)
    name = next(n.name for n in model.graph if n.op_type == "If")
    feeds = random_feeds(model) | {"c": np.array(True)}
    taken = moves.take_branch(model, name or "", "then_branch", dict(feeds))
    assert taken is not None
    assert "c" not in taken[1]
    for output, array in run_onnxruntime(load(taken[0]), taken[1]).items():
        wanted = run_onnxruntime(model, feeds)
        np.testing.assert_array_equal(array, wanted.get(output, wanted["y"]))


def test_sizes_shrink_together() -> None:
    text = """g (float[N, 6] x) => (float[N, 3] y) <float[6, 3] w = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9}, int64[2] s = {-1, 6}> {
        r = Reshape(x, s)
        y = MatMul(r, w)
    }"""
    model = model_from(text)
    feeds = {"x": np.ones((3, 6), np.float32)}
    shrunk = moves.shrink(model, 6, 2, feeds, numbers=True)
    assert shrunk is not None
    found = run_onnxruntime(load(shrunk[0]), shrunk[1])["y"]
    assert found.tolist() == [[5.0, 7.0, 9.0]] * 3


def test_values_that_cannot_be_fed_are_not_cut_at() -> None:
    model = model_from(
        "g (float[2] x) => (float[A] y) {\n s = SequenceConstruct(x, x)\n y = ConcatFromSequence<axis = 0>(s)\n}"
    )
    last = model.graph[1].name or ""
    assert moves.cut(model, {last}, random_feeds(model), lambda names: {}, static=False) is None
