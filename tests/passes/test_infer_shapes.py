"""infer-shapes."""

from __future__ import annotations

from checking import check_pass, model_from

from graphopt.ir import Shape
from graphopt.passes.infer_shapes import InferShapes

SOURCE = "g (float[N, 4] x) => (float[N, 4] y) { a = Exp(x) y = Relu(a) }"


def test_what_became_known_is_learnt() -> None:
    model = model_from(SOURCE)
    model.graph.inputs[0].shape = Shape([2, 4])
    assert InferShapes().run(model).counts == {"shape": 2}
    assert [str(n.outputs[0].shape) for n in model.graph] == ["[2,4]", "[2,4]"]
    assert not InferShapes().run(model).modified


def test_a_missing_shape_and_type_are_found() -> None:
    model = model_from(SOURCE)
    value = model.graph.node(0).outputs[0]
    value.shape = value.type = None
    assert InferShapes().run(model).counts == {"shape": 1, "type": 1}
    assert str(value.shape) == "[N,4]"


def test_nothing_to_learn_leaves_every_symbol_as_it_was() -> None:
    model = model_from("g (float[N, M] x) => (int64[A, B] y) { y = NonZero(x) }")
    before = str(model.graph.outputs[0].shape)
    assert not InferShapes().run(model).modified
    assert str(model.graph.outputs[0].shape) == before


def test_a_size_that_is_another_is_no_gain() -> None:
    check_pass(InferShapes(), before=SOURCE)


def test_shapes_in_a_body_are_learnt() -> None:
    model = model_from(
        """g (bool c, float[N] x) => (float[N] y) {
            y = If (c) <
                then_branch = t () => (float[N] a) { a = Exp(x) },
                else_branch = e () => (float[N] b) { b = Neg(x) }
            >
        }"""
    )
    model.graph.inputs[1].shape = Shape([2])
    assert InferShapes().run(model).counts == {"shape": 3}
