"""bind-dims."""

from __future__ import annotations

import onnx_ir
import pytest
from checking import check_pass, model_from

from graphopt.errors import UsageError
from graphopt.ir.io import load
from graphopt.passes.bind_dims import BindDims
from graphopt.transform import Pipeline

SOURCE = "g (float[N, S] x, float[N, 4] z) => (float[A, B] y) {{ a = Exp(x) y = {} }}"


def test_a_dimension_is_bound_in_every_input_and_inferred() -> None:
    before = SOURCE.format("Concat<axis = 1>(a, z)")
    check_pass(
        BindDims(dims=("N=8",)),
        before=before,
        after=before.replace("float[N,", "float[8,"),
        dims={"N": 8},
    )
    model = model_from(before)
    BindDims(dims=("N=8", "S=2")).run(model)
    assert [str(n.outputs[0].shape) for n in model.graph] == ["[8,2]", "[8,6]"]


def test_by_input_and_axis_with_an_axis_that_is_bound_already() -> None:
    before = SOURCE.format("Concat<axis = 1>(a, z)")
    check_pass(
        BindDims(dims=("x.0=2", "x.1=3", "z.1=4")),
        before=before,
        after=before.replace("float[N, S]", "float[2, 3]").replace("float[N,", "float[2,"),
        dims={"N": 2, "S": 3},
    )


def test_the_name_that_the_file_spells() -> None:
    model = model_from("g (float[N] x) => (float[N] y) { y = Relu(x) }")
    proto = onnx_ir.to_proto(model)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch size"
    model = load(proto)
    assert BindDims(dims=("batch size=3",)).run(model).modified
    assert str(model.graph.outputs[0].shape) == "[3]"


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        (("M=3",), "no symbolic dimension 'M'.*expected N, S"),
        (("x.2=3",), "no symbolic dimension 'x.2'"),
        (("N=3", "x.0=4"), "'x.0' cannot have two sizes"),
        (("z.1=5",), "'z.1' cannot have two sizes"),
        (("N",), "cannot be bound"),
        (("N=-1",), "cannot be bound"),
        (("N=x",), "cannot be bound"),
        (("=3",), "cannot be bound"),
    ],
)
def test_wrong_arguments_are_named(dims: tuple[str, ...], message: str) -> None:
    model = model_from(SOURCE.format("Concat<axis = 1>(a, z)"))
    with pytest.raises(UsageError, match=message) as error:
        BindDims(dims=dims).run(model)
    assert error.value.code == "GO701"


def test_binding_again_to_another_size_is_a_contradiction() -> None:
    model = model_from("g (float[N] x) => (float[N] y) { y = Relu(x) }")
    BindDims(dims=("N=3",)).run(model)
    assert not BindDims(dims=("N=3",)).run(model).modified
    with pytest.raises(UsageError, match="two sizes"):
        BindDims(dims=("N=4",)).run(model)


def test_no_dims_change_nothing() -> None:
    check_pass(BindDims(), before="g (float[N] x) => (float[N] y) { y = Relu(x) }")


def test_shapes_in_a_loop_body_are_bound() -> None:
    model = model_from(
        """g (float[N] x, bool on) => (float[N] y) <int64 n = {3}> {
            y = Loop (n, on, x) <
                body = b (int64 i, bool c, float[N] s) => (bool go, float[N] r) {
                    go = Identity(c) r = Add(s, x) }
            >
        }"""
    )
    BindDims(dims=("N=5",)).run(model)
    body = model.graph.node(0).attributes["body"].as_graph()
    assert str(body.outputs[1].shape) == str(model.graph.outputs[0].shape) == "[5]"


@pytest.mark.parametrize(
    "dims", [("batch=8", "sequence=128"), ("x:0.1=3", 'odd "name"\\=4'), ("a b=1",), ("input.0=2",), ()]
)
def test_pipeline_text_survives_a_round_trip(dims: tuple[str, ...]) -> None:
    pipeline = Pipeline((BindDims(dims=dims),))
    assert Pipeline.parse(str(pipeline)).passes == pipeline.passes


def test_pipeline_text_of_plain_names_needs_no_quotes() -> None:
    text = "bind-dims{dims=batch=8:sequence=128}"
    assert str(Pipeline.parse(text)) == text
