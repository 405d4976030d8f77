"""Presets: what the passes of a level achieve only together."""

from __future__ import annotations

import pytest
from checking import check_same_results, model_from, random_feeds
from rewriting import operators

from graphopt.passes.presets import pipeline_text
from graphopt.target import Target
from graphopt.transform import Exactness, Pipeline

WINDOWED = """g (float[batch, 8, 6, 4] x) => (float[A, B] y) <int64[1] height = {2}, float[1] two = {2.0},
    int64[1] rest = {-1}, int64[1] last = {-1}, float epsilon = {0.001},
    float[3] weight = {1.0, 2.0, 3.0}, float[3] bias = {0.5, 0.25, 0.125}> {
    s = Shape(x) h = Gather(s, height) f = Cast<to = 1>(h) q = Div(f, two) c = Ceil(q) n = Cast<to = 7>(c)
    t = Concat<axis = 0>(rest, n) r = Reshape(x, t)
    m = ReduceMean(r, last) d = Sub(r, m) p = Mul(d, d) v = ReduceMean(p, last) e = Add(v, epsilon)
    o = Sqrt(e) z = Div(d, o) w = Mul(z, weight) y = Add(w, bias) }"""


@pytest.mark.parametrize("level", [2, 3])
def test_normalization_over_a_size_that_takes_a_division_is_raised(level: int) -> None:
    model = model_from(WINDOWED)
    original = model.clone()
    model, _ = Pipeline(pipeline_text(level)).run(model)
    assert operators(model) == ["Reshape", "LayerNormalization"]
    feeds = random_feeds(original, {"batch": 2})
    check_same_results(original, model, feeds, Exactness.REASSOCIATES)


HARD_SWISH = """g (float[N, 4] x) => (float[N, 4] y) <float three = {3.0}, float six = {6.0}> {
    a = Add(x, three) r = Relu(a) m = Min(r, six) p = Mul(x, m) y = Div(p, six) }"""
SWISH = """g (float[N, 4] x, float[N, 4] u) => (float[N, 4] y) <float one = {1.0}> {
    n = Neg(x) e = Exp(n) s = Add(e, one) r = Reciprocal(s) g = Mul(r, u) y = Mul(x, g) }"""
GELU = """g (float[N, 4] x) => (float[N, 4] y) <float root = {1.4142135}, float one = {1.0}, float half = {0.5}> {
    d = Div(x, root) e = Erf(d) s = Add(e, one) h = Mul(s, half) y = Mul(x, h) }"""


@pytest.mark.parametrize(
    ("source", "after"),
    [(HARD_SWISH, ["HardSwish"]), (SWISH, ["Sigmoid", "Mul", "Mul"]), (GELU, ["Gelu"])],
)
def test_activations_are_raised_step_by_step(source: str, after: list[str]) -> None:
    model = model_from(source)
    original = model.clone()
    model, _ = Pipeline(pipeline_text(2)).run(model)
    assert operators(model) == after
    check_same_results(original, model, random_feeds(original, {"N": 3}), Exactness.REASSOCIATES)


@pytest.mark.parametrize(
    ("target", "opset"), [(None, 20), ("cpu", 20), ("xla-cpu", 20), ("cuda", 18), ("tensorrt", 18)]
)
def test_the_opset_is_raised_where_it_costs_no_kernels(target: str | None, opset: int) -> None:
    text = pipeline_text(2, Target.parse(target) if target else None)
    model, _ = Pipeline(text).run(model_from(GELU))
    assert model.opset_imports[""] == opset
    model, _ = Pipeline(text).run(model_from(HARD_SWISH))
    assert model.opset_imports[""] == 18


RESIDUAL = """g (float[N, 4] x, float[N, 4] r, float[4] w) => (float[N, 4] y) {
    s = Add(x, r) y = LayerNormalization(s, w) }"""


@pytest.mark.parametrize(("target", "sum_"), [(None, "Sum"), ("cpu", "Sum"), ("cuda", "Add"), ("tpu", "Add")])
def test_residual_sums_are_written_for_the_target(target: str | None, sum_: str) -> None:
    text = pipeline_text(2, Target.parse(target) if target else None)
    model, _ = Pipeline(text).run(model_from(RESIDUAL))
    assert operators(model) == [sum_, "LayerNormalization"]
    again, _ = Pipeline(text).run(model.clone())
    assert operators(again) == [sum_, "LayerNormalization"]


def test_constants_behind_an_activation_do_not_hide_it() -> None:
    """What ends a hard swish is a factor that could be merged with the one behind it."""
    model = model_from(
        """g (float[N, 4] x) => (float[N, 4] y)
        <float three = {3.0}, float zero = {0.0}, float six = {6.0}, float k = {1.5}, float b = {0.25}> {
        a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) h = Div(m, six) s = Mul(h, k) y = Add(s, b) }"""
    )
    original = model.clone()
    model, _ = Pipeline(pipeline_text(2)).run(model)
    assert operators(model) == ["HardSwish", "Mul", "Add"]
    check_same_results(original, model, random_feeds(original, {"N": 2}), Exactness.REASSOCIATES)


def test_tensorrt_rtx_keeps_what_it_lacks_in_half_precision_and_gets_no_foreign_operators() -> None:
    target = Target.parse("tensorrt-rtx:sm89")
    text = pipeline_text(2, target, "bf16", None)
    assert "upgrade-opset{to=22},narrow-float{to=bf16" in text
    assert 'wide-ops="Celu ConvTranspose GRU HardSwish LpNormalization Mish"' in text
    assert 'wide-ops="Celu ConvTranspose' in str(Pipeline.parse(text))
    assert not any(step.startswith("select-") for step in pipeline_text(3, target).split(","))
