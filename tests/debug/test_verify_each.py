"""--verify each and end: what is undone, what is told, and on which inputs passes are tried."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from checking import model_from
from debug.planted import (
    RenameOutput,
    concat_of_three,
    nan_replaced,
    planted,
    shape_of_the_first_size,
    tanh_with_a_strange_attribute,
)

import graphopt
from graphopt.errors import AccuracyError, ModelError
from graphopt.ir import Model
from graphopt.transform import Changes, Exactness, Pass, Pipeline, Watch

CONCAT = "g (float[N] x) => (float[M] y) {\n c = Concat<axis = 0>(x, x, x)\n i = Identity(c)\n y = Relu(i)\n}"
TANH = "g (float[N] x) => (float[N] y) {\n t = Tanh(x)\n y = Relu(t)\n}"
NAN = """g (float[32] x) => (float[32] y) <float zero = {0.0}> {
    n = IsNaN(x)
    y = Where(n, zero, x)
}"""
SIZES = """g (float[batch, sequence] x, float[batch, sequence] z) => (float[batch, sequence] y) {
    s = Shape(x)
    f = Flatten<axis = 0>(z)
    y = Reshape(f, s)
}"""


@pytest.mark.parametrize(
    ("text", "pass_", "told"),
    [
        (CONCAT, planted(concat_of_three), "IndexError"),
        (TANH, planted(tanh_with_a_strange_attribute), "no longer valid"),
        (CONCAT, RenameOutput(), "interface"),
        (NAN, planted(nan_replaced), "NaN or infinite on one side"),
        (SIZES, planted(shape_of_the_first_size), "no longer runs"),
    ],
    ids=["raises", "invalid", "interface", "special numbers", "second size"],
)
def test_a_wrong_pass_is_undone(text: str, pass_: Pass, told: str, tmp_path: Path) -> None:
    result = graphopt.optimize(
        model_from(text),
        pipeline=Pipeline([pass_, *Pipeline("eliminate-identity")]),
        verify="each",
        reproducers=tmp_path,
    )
    wrong, sound = result.report.passes
    assert wrong.rolled_back is not None
    assert told in wrong.rolled_back
    assert sound.rolled_back is None
    assert not any(node.op_type == "Identity" for node in result.model.graph)
    (folder,) = tmp_path.iterdir()
    assert str(folder) in wrong.rolled_back
    assert onnx.load(folder / "model.onnx").graph.node


def test_special_numbers_are_for_exact_passes_only() -> None:
    loose = planted(nan_replaced, exactness=Exactness.REASSOCIATES)
    result = graphopt.optimize(model_from(NAN), pipeline=Pipeline([loose]), verify="each")
    assert result.report.passes[0].rolled_back is None


def test_verification_at_the_end_knows_the_sizes_that_were_bound() -> None:
    sound = graphopt.optimize(model_from(SIZES), dims={"batch": 3, "sequence": 7}, verify="end")
    assert sound.model.graph.inputs[0].shape == (3, 7)
    wrong = Pipeline([planted(shape_of_the_first_size)])
    with pytest.raises(AccuracyError, match="GO401"):
        graphopt.optimize(model_from(SIZES), pipeline=wrong, verify="end")


def test_inputs_of_ones_own_where_made_up_ones_do_not_fit() -> None:
    square = model_from("g (float[N] x) => (float[4, 4] y) <int64[2] s = {4, 4}> {\n y = Reshape(x, s)\n}")
    with pytest.raises(ModelError, match="GO604") as caught:
        graphopt.bisect(square)
    assert "--data" in str(caught.value.next_step)
    assert graphopt.bisect(square, feeds=[{"x": np.ones(16, np.float32)}]).ok


@dataclasses.dataclass(frozen=True)
class SwallowModel(Pass):
    """Fails without a word of its own."""

    def run(self, model: Model) -> Changes:
        model.graph.outputs.clear()
        raise KeyError("gone")


def test_a_pass_that_raises_half_way_leaves_nothing_behind() -> None:
    model = model_from(TANH)
    result = graphopt.optimize(model, pipeline=Pipeline([SwallowModel()]), verify="each")
    assert len(result.model.graph.outputs) == 1
    with pytest.raises(KeyError):
        graphopt.optimize(model, pipeline=Pipeline([SwallowModel()]))


@pytest.mark.parametrize("limit", range(4))
def test_a_limit_counts_rules_and_passes_without_rules(limit: int) -> None:
    text = (
        "g (float[N] x) => (float[N] y) {\n a = Identity(x)\n b = Identity(a)\n d = Neg(b)\n y = Relu(b)\n}"
    )
    watch = Watch(limit)
    pipeline = Pipeline("eliminate-identity,eliminate-dead-nodes,merge-casts")
    model, report = pipeline.run(model_from(text), watch=watch)
    assert watch.count == limit
    assert len(model.graph) == 4 - limit
    assert len(report.passes) == [0, 1, 1, 2][limit]
