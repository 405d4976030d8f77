"""Explanations: the nearest miss, the value it failed on, and where a node went."""

from __future__ import annotations

import dataclasses

import pytest
from checking import model_from
from debug.planted import SAMPLES

import graphopt
from graphopt.errors import UsageError
from graphopt.ir import Node
from graphopt.transform import NoMatch, Pipeline, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

TEXT = """g (float[4, 4] x, float[N, 4] z) => (float[4, 4] y, float[4, 4] s) <float[4, 4] w = {1.0}> {
    p = MatMul(x, w)
    q = Sigmoid(p)
    y = Add(q, p)
    s = Add(x, q)
}"""
TEXT = TEXT.replace("{1.0}", "{" + ",".join(["1.0"] * 16) + "}")


@rule("Add")
def sum_of_sigmoid(node: Node, rewriter: Rewriter) -> Replacement:
    """Looks for Sigmoid(MatMul(x, w)) + c with w of no ones, in both orders."""
    last = NoMatch("no operands")
    for a in node.inputs:
        outer = a.producer() if a is not None else None
        if outer is None or outer.op_type != "Sigmoid":
            last = NoMatch("no Sigmoid there", a.name if a is not None else None)
            continue
        product = outer.inputs[0].producer() if outer.inputs[0] is not None else None
        if product is None or product.op_type != "MatMul":
            last = NoMatch("no MatMul there")
            continue
        weight = product.inputs[1]
        last = NoMatch("the weight is all ones", weight.name if weight is not None else None)
    return last


@dataclasses.dataclass(frozen=True)
class SumOfSigmoid(RulePass):
    """For the tests."""

    rules = (sum_of_sigmoid,)


def test_the_nearest_miss_is_the_one_that_got_furthest() -> None:
    found = graphopt.explain(model_from(TEXT), "sum-of-sigmoid", "y", pipeline=Pipeline([SumOfSigmoid()]))
    (attempt,) = found.attempts
    assert not found.applied
    assert attempt.miss is not None
    # The second order of operands, whose answer the rule gave, failed at the first step.
    assert attempt.miss.reason == "the weight is all ones"
    assert attempt.miss.value is not None
    assert attempt.miss.value.name == "w"
    assert attempt.miss.value.text == "float[4,4]"
    assert attempt.miss.value.made_by == "a constant"
    assert attempt.miss.value.constant == "<float[4x4] " + attempt.miss.value.constant.split(" ", 1)[1]
    assert attempt.miss.value.users == (f"MatMul {attempt_node('p')!r}",)
    assert [miss.reason for miss in attempt.other_misses] == ["no Sigmoid there"]
    assert {name for name, _ in attempt.miss.looked_at} >= {"a", "outer"}


def attempt_node(output: str) -> str:
    """The name that ingest gives the node that makes `output`."""
    node = next(n for n in model_from(TEXT).graph if n.outputs[0].name == output)
    return node.name or ""


def test_without_a_node_every_candidate_is_shown() -> None:
    found = graphopt.explain(model_from(TEXT), "sum-of-sigmoid", pipeline=Pipeline([SumOfSigmoid()]))
    assert len(found.attempts) == 2
    assert {a.op_type for a in found.attempts} == {"Add"}


def test_a_rule_that_applies() -> None:
    model = model_from("g (int8[N] x) => (float[N] y) {\n a = Cast<to = 6>(x)\n y = Cast<to = 1>(a)\n}")
    found = graphopt.explain(model, "cast-of-cast", "y", pipeline="merge-casts")
    assert found.applied
    assert found.nearest is not None
    assert len(found.nearest.removed) == 2
    assert "Cast<to=1>(x)" in found.nearest.added[0]
    # The node in the middle is asked about: the same application took it away.
    inner = graphopt.explain(model, "merge-casts", model.graph[0].name, pipeline="merge-casts")
    assert inner.applied


def test_a_node_that_an_earlier_pass_took_away() -> None:
    model = model_from("g (float[N] x) => (float[N] y) {\n a = Identity(x)\n y = Relu(a)\n}")
    name = next(n.name for n in model.graph if n.op_type == "Identity")
    found = graphopt.explain(model, "merge-casts", name, pipeline="eliminate-identity,merge-casts")
    assert found.attempts == ()
    assert found.removed_by == "eliminate-identity"


def test_a_pass_without_rules_is_told_as_a_whole() -> None:
    found = graphopt.explain(SAMPLES / "gpt-tiny.onnx", "fold-constants")
    assert not found.attempts
    assert len(found.visits) >= 2
    assert any(visit.record.counts for visit in found.visits)


def test_a_pass_that_is_not_in_the_pipeline_is_tried_at_its_end() -> None:
    found = graphopt.explain(model_from(TEXT), "merge-casts", pipeline="eliminate-identity")
    assert "not in this pipeline" in found.notes[0]


@pytest.mark.parametrize(
    ("subject", "node", "near"),
    [
        ("merge-cast", None, "merge-casts"),
        ("cast-of-casts", None, "cast-of-cast"),
        ("merge-casts", "/embeddings/Ad", "/embeddings/Add"),
    ],
)
def test_wrong_names_get_near_ones(subject: str, node: str | None, near: str) -> None:
    with pytest.raises(UsageError, match="GO703") as caught:
        graphopt.explain(SAMPLES / "bert-tiny.onnx", subject, node)
    assert repr(near) in str(caught.value.expected)


def test_nodes_are_found_by_the_name_they_had_in_the_file() -> None:
    found = graphopt.explain(
        SAMPLES / "bert-tiny.onnx", "fuse-matmul-add", "/encoder/layer.0/intermediate/dense/Add"
    )
    assert found.attempts
    assert all("/encoder/layer.0/intermediate/dense/Add" in (a.node, *a.origins) for a in found.attempts)


def test_a_node_inside_of_a_pattern_leads_to_the_root_below_it() -> None:
    tanh = "/transformer/h.0/mlp/act/Tanh"
    found = graphopt.explain(SAMPLES / "gpt-tiny.onnx", "raise-gelu", tanh, target="cuda")
    assert [a.op_type for a in found.attempts] == ["Mul"]
    assert found.nearest is not None
    assert found.nearest.miss is not None
    assert found.nearest.miss.reason == "needs opset 20"
    assert "below" in found.notes[-1]
