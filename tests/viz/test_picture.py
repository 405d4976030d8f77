"""The model of a picture: boxes, edges, and what became of each node between before and after."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from checking import model_from

import graphopt
from graphopt.errors import ModelError, UsageError
from graphopt.ir import provenance
from graphopt.viz import visualize
from graphopt.viz.matching import MAX_SHARED
from graphopt.viz.picture import Kind, Pane, Picture, PictureNode, State, pane_of, scope_of

ROOT = Path(__file__).resolve().parents[2]
BERT = ROOT / "samples" / "generated" / "bert-tiny.onnx"

CHAIN = """
agraph (float[2,3] x) => (float[2,3] y) <float[3] w = {1.0, 2.0, 3.0}> {
  [first] a = Add (x, w)
  [second] b = Relu (a)
  [third] c = Sigmoid (b)
  [fourth] y = Mul (c, a)
}
"""


def only(pane: Pane, name: str) -> PictureNode:
    """The one box called `name` that is an operator."""
    (found,) = [n for n in pane.nodes if n.name == name and n.kind is Kind.OP]
    return found


def after_of(picture: Picture) -> Pane:
    """The second pane of a pair."""
    assert picture.after is not None
    return picture.after


def test_boxes_edges_and_weights() -> None:
    pane = visualize(model_from(CHAIN)).picture.before
    assert [(n.kind, n.op, n.name) for n in pane.nodes] == [
        (Kind.INPUT, "Input", "x"),
        (Kind.OP, "Add", "first"),
        (Kind.OP, "Relu", "second"),
        (Kind.OP, "Sigmoid", "third"),
        (Kind.OP, "Mul", "fourth"),
        (Kind.OUTPUT, "Output", "y"),
    ]
    names = {n.id: n.name for n in pane.nodes}
    assert [(names[e.source], names[e.target], e.label, e.bytes) for e in pane.edges] == [
        ("x", "first", "f32[2,3]", 24),
        ("first", "second", "f32[2,3]", 24),
        ("second", "third", "f32[2,3]", 24),
        ("third", "fourth", "f32[2,3]", 24),
        ("first", "fourth", "f32[2,3]", 24),
        ("fourth", "y", "f32[2,3]", 24),
    ]
    add = only(pane, "first")
    assert add.constants == (("w", "f32[3]", 12),)
    assert (add.bytes, add.weight_bytes, pane.weight_bytes, pane.node_count) == (24, 12, 12, 4)


def test_constant_nodes_are_counted_but_not_drawn() -> None:
    source = """<ir_version: 10, opset_import: ["" : 18]>
    agraph (float[N] x) => (float[N] y) { c = Constant <value = float {2.0}> () y = Mul (x, c) }"""
    pane = visualize(source).picture.before
    assert [n.op for n in pane.nodes] == ["Input", "Mul", "Output"]
    assert (pane.node_count, pane.constant_count, pane.weight_bytes) == (2, 1, 4)
    assert pane.nodes[1].constants == (("c", "f32[]", 4),)
    assert pane.nodes[1].outputs == (("y", "f32[N]", None),)


def test_a_nested_graph_is_a_piece_and_what_it_captures_leads_to_its_holder() -> None:
    pane = visualize(
        model_from("""
        agraph (bool c, float[2] x) => (float[2] y) {
          [outer] h = Relu (x)
          [choice] y = If (c) <
            then_branch = t () => (float[2] p) { [inside] p = Neg (h) },
            else_branch = e () => (float[2] q) { [other] q = Abs (x) }
          >
        }""")
    ).picture.before
    bodies = {n.name: n.body for n in pane.nodes if n.kind is Kind.OP}
    assert bodies["outer"] == bodies["choice"] == ""
    assert bodies["inside"].startswith("If 'choice' then_branch")
    assert bodies["other"].startswith("If 'choice' else_branch")
    names = {n.id: n.name for n in pane.nodes}
    edges = {(names[e.source], names[e.target]) for e in pane.edges}
    assert {("outer", "choice"), ("x", "choice"), ("c", "choice"), ("inside", "p")} <= edges
    assert ("outer", "inside") not in edges


def test_states_of_a_pair() -> None:
    before = model_from("""
        agraph (float[2,3] x) => (float[2,3] y) {
          [keep] a = Relu (x)
          [gone] b = Identity (a)
          [one] c = Mul (b, b)
          [two] d = Sqrt (c)
          [turn] e = Softmax <axis = 0> (d)
          [last] y = Neg (e)
        }""")
    after = model_from("""
        agraph (float[2,3] x) => (float[2,3] y) {
          [keep] a = Relu (x)
          [both] d = Abs (a)
          [turn] e = Softmax <axis = 1> (d)
          [new] f = Exp (e)
          [last] y = Neg (f)
        }""")
    by_name = {n.name: n for n in after.graph}
    provenance.set_origins(by_name["both"], ["one", "two"])
    picture = visualize(before, after).picture
    then = after_of(picture)
    assert {n.name: n.state for n in picture.before.nodes if n.kind is Kind.OP} == {
        "keep": State.SAME,
        "gone": State.REMOVED,
        "one": State.FUSED,
        "two": State.FUSED,
        "turn": State.CHANGED,
        "last": State.SAME,
    }
    assert {n.name: n.state for n in then.nodes if n.kind is Kind.OP} == {
        "keep": State.SAME,
        "both": State.FUSED,
        "turn": State.CHANGED,
        "new": State.ADDED,
        "last": State.SAME,
    }
    sources = {only(picture.before, name).id for name in ("one", "two")}
    assert set(only(then, "both").matches) == sources
    assert only(picture.before, "one").matches == (only(then, "both").id,)
    assert {n.state for n in then.nodes if n.kind is not Kind.OP} == {State.SAME}


def test_other_weights_change_a_node() -> None:
    text = "agraph (float[2] x) => (float[2] y) <float[2] {} = {{1.0, 2.0}}> {{ [n] y = Add (x, {}) }}"
    picture = visualize(model_from(text.format("w", "w")), model_from(text.format("v", "v"))).picture
    assert only(picture.before, "n").state is State.CHANGED


def test_bert_before_and_after_its_pipeline() -> None:
    result = graphopt.optimize(BERT, pipeline="fold-shapes,fold-constants,raise-layer-normalization")
    picture = visualize(BERT, result.model).picture
    norms = [n for n in after_of(picture).nodes if n.op == "LayerNormalization"]
    assert len(norms) == 5
    old = {n.id: n for n in picture.before.nodes}
    for norm in norms:
        assert norm.state is State.FUSED
        assert {"ReduceMean", "Sqrt", "Div"} <= {old[i].op for i in norm.matches}
        assert all(old[i].state is State.FUSED for i in norm.matches)
    assert picture.before.constant_count == 74
    assert picture.before.node_count == 256
    # Both directions of the matching say the same.
    back = {(i, n.id) for n in after_of(picture).nodes for i in n.matches}
    assert back == {(n.id, i) for n in picture.before.nodes for i in n.matches}


def test_the_same_model_twice_is_all_the_same() -> None:
    picture = visualize(BERT, BERT).picture
    assert Counter(n.state for n in after_of(picture).nodes) == {State.SAME: len(picture.before.nodes)}


def test_origins_that_everybody_claims_do_not_multiply() -> None:
    lines = "".join(f"v{i + 1} = Relu (v{i})\n" for i in range(1500))
    model = model_from(f"agraph (float[2] v0) => (float[2] v1500) {{ {lines} }}")
    for node in model.graph:
        provenance.set_origins(node, ["the same"])
    picture = visualize(model, model).picture
    assert max(len(n.matches) for n in after_of(picture).nodes) == MAX_SHARED


def test_a_model_in_memory_is_not_changed() -> None:
    model = model_from(CHAIN)
    for node in model.graph:
        node.name = None
    visualize(model, model)
    assert [node.name for node in model.graph] == [None] * 4


def test_pane_of_a_graph_that_gives_back_a_weight() -> None:
    pane = pane_of(model_from("agraph (float[2] x) => (float[2] w) <float[2] w = {1.0, 2.0}> { }"))
    assert [n.kind for n in pane.nodes] == [Kind.INPUT, Kind.OUTPUT]
    assert pane.nodes[1].weight_bytes == 8


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        ("/encoder/layer.0/MatMul", ("encoder", "layer.0")),
        ("Conv_12", ()),
        ("a.b.c", ("a", "b")),
        ("", ()),
        ("/" * 5000, ()),
        ("x/" * 5000 + "y", ("x",) * 8),
    ],
)
def test_scope(name: str, scope: tuple[str, ...]) -> None:
    assert scope_of(name) == scope


def test_what_is_not_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        visualize(tmp_path / "absent.onnx")


def test_saving(tmp_path: Path) -> None:
    picture = visualize(model_from(CHAIN), title="a chain")
    picture.save(tmp_path / "chain.svg")
    assert (tmp_path / "chain.svg").read_text(encoding="utf-8") == picture.svg()
    assert picture._repr_svg_() == picture.svg()
    with pytest.raises(UsageError, match="GO701"):
        picture.save(tmp_path / "chain.png")
    with pytest.raises(graphopt.GraphoptError, match="GO111"):
        picture.save(tmp_path / "absent" / "chain.svg")
