"""Canonical form: what loading does to models that are legal but unusual, and that it keeps their answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from checking import run_onnxruntime
from onnx import TensorProto, helper, numpy_helper

from graphopt.errors import ModelError
from graphopt.ir import Model, text
from graphopt.ir.check import check_model
from graphopt.ir.io import load, read


def parse(body: str, opset: int = 18, ir_version: int = 10) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f'<ir_version: {ir_version}, opset_import: ["" : {opset}, "my" : 1]>\n{body}'
    )


def loads_with_the_same_answers(proto: onnx.ModelProto, *feeds: Mapping[str, Any]) -> Model:
    """The loaded model, after comparing it with what ONNX Runtime makes of `proto` as it stands."""
    model = load(proto)
    check_model(model)
    for feed in feeds:
        arrays = {name: np.asarray(value) for name, value in feed.items()}
        expected = run_onnxruntime(proto, arrays)
        found = run_onnxruntime(model, arrays)
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)
    return model


X = np.array([1.0, -2.0], np.float32)


def test_nodes_out_of_order_are_sorted() -> None:
    source = parse("g (float[2] x) => (float[2] y) { y = Neg(b) b = Abs(a) a = Exp(x) }")
    assert [n.op_type for n in load(source).graph] == ["Exp", "Abs", "Neg"]


def test_nodes_that_subgraphs_need_come_first() -> None:
    model = load(
        parse(
            """g (bool c, float[2] x) => (float[2] y) {
                y = If (c) <then_branch = t () => (float[2] p) { p = Neg(b) b = Abs(a) },
                            else_branch = e () => (float[2] q) { q = Neg(a) }>
                a = Exp(x)
            }"""
        )
    )
    check_model(model)
    assert [n.op_type for n in model.graph] == ["Exp", "If"]


def test_graph_without_nodes() -> None:
    model = load(parse("g (float[N, 2] x) => (float[N, 2] x) { }"))
    check_model(model)
    assert text.canonical(model) == "inputs %x: float[N,2]\noutputs x=%x"


def test_initializer_as_output() -> None:
    model = load(parse("g () => (float[2] w) <float[2] w = {1.0, 2.0}> { }"))
    check_model(model)


def test_passed_through_output_does_not_weaken_its_input() -> None:
    proto = parse("g (float[N, 2] x) => (float x) { }")
    proto.graph.output[0].ClearField("type")
    value = load(proto).graph.inputs[0]
    assert str(value.shape) == "[N,2]"
    assert value.dtype is not None


@pytest.mark.parametrize(
    "branch",
    [
        "(float[2] x) { }",
        "(float[2] w) <float[2] w = {5.0, 6.0}> { }",
        "(float[2] k) { k = Constant <value = float[2] {5.0, 6.0}> () }",
        "(float[2] outer) { }",
    ],
)
def test_branch_that_computes_nothing(branch: str) -> None:
    proto = parse(
        """g (bool c, float[2] x) => (float[2] y) <float[2] outer = {3.0, 4.0}> {
            y = If (c) <then_branch = t () => BRANCH, else_branch = e () => (float[2] q) { q = Neg(x) }>
        }""".replace("BRANCH", branch)
    )
    model = load(proto)
    check_model(model)
    expected = {"x": X, "w": [5.0, 6.0], "k": [5.0, 6.0], "o": [3.0, 4.0]}[branch[10]]
    feeds = {"c": np.array(True), "x": X}
    np.testing.assert_array_equal(run_onnxruntime(model, feeds)["y"], expected)


def test_loop_that_gives_an_outer_value_twice() -> None:
    proto = parse(
        """g (int64 n, float[2] x) => (float[k, 2] a, float[m, 2] b) {
            t = Constant <value = bool {1}> ()
            a, b = Loop (n, t) <body = l (int64 i, bool c) => (bool d, float[2] x, float[2] x) {
                d = Identity(c) }>
        }"""
    )
    model = load(proto)
    check_model(model)
    result = run_onnxruntime(model, {"n": np.array(3), "x": X})
    np.testing.assert_array_equal(result["a"], np.stack([X] * 3))
    np.testing.assert_array_equal(result["b"], np.stack([X] * 3))


def test_names_become_unique_and_interface_names_stay() -> None:
    proto = parse(
        """g (bool c, float[2] x) => (float[2] y) {
            [n] y = If (c) <then_branch = t () => (float[2] y1) { a = Neg(x) [n] y1 = Exp(a) },
                            else_branch = e () => (float[2] y1) { a = Abs(x) [n] y1 = Exp(a) }>
        }"""
    )
    model = loads_with_the_same_answers(proto, {"c": True, "x": X}, {"c": False, "x": X})
    assert [v.name for v in model.graph.inputs] == ["c", "x"]
    assert [v.name for v in model.graph.outputs] == ["y"]


@pytest.mark.parametrize(
    "name", ["", "\u2028", "a\nb\tc", "x" * 100_000, "\U0001f600", "../../etc/passwd", "\x00"]
)
def test_odd_names_of_nodes_and_values(name: str) -> None:
    proto = parse("g (float[2] x) => (float[2] y) { a = Neg(x) y = Exp(a) }")
    proto.graph.node[0].name = name
    if name:
        proto.graph.node[0].output[0] = proto.graph.node[1].input[0] = name
    loads_with_the_same_answers(proto, {"x": X})


def test_dimensions_near_the_limit_of_int64() -> None:
    model = load(
        parse("g (float[4611686018427387904, 2] x) => (float[M, 2] y) { y = Concat <axis = 0> (x, x, x) }")
    )
    check_model(model)


def test_domain_of_the_standard_operators_is_spelled_one_way() -> None:
    proto = parse("g (float[2] x) => (float[2] y) { y = ai.onnx.Neg(x) }")
    proto.opset_import[0].domain = "ai.onnx"
    model = load(proto)
    assert model.graph[0].domain == ""
    assert model.opset_imports[""] == 18
    assert "ai.onnx" not in model.opset_imports


@pytest.mark.parametrize("listed", [True, False])
def test_initializers_of_old_ir_versions_are_constants(listed: bool) -> None:
    proto = helper.make_model(
        helper.make_graph(
            [helper.make_node("Add", ["x", "w"], ["y"])],
            "g",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("x", "w")[: 1 + listed]],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
            [numpy_helper.from_array(X, "w")],
        ),
        opset_imports=[helper.make_opsetid("", 8)],
        ir_version=3,
    )
    model = load(proto)
    check_model(model)
    assert [v.name for v in model.graph.inputs] == ["x"]
    np.testing.assert_array_equal(run_onnxruntime(model, {"x": X})["y"], X + X)


def test_initializers_that_are_inputs_stay_overridable() -> None:
    proto = parse("g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1.0, 2.0}> { y = Add(x, w) }")
    model = loads_with_the_same_answers(proto, {"x": X}, {"x": X, "w": X})
    assert [v.name for v in model.graph.inputs] == ["x", "w"]


FUNCTIONS = """
g (float[1, 2] x) => (float[1, 2] y) {
    a = my.scaled <alpha = 3.0> (x)
    b = my.scaled (a)
    y = my.twice (b)
}
<domain: "my", opset_import: ["" : OPSET, "my" : 1]>
scaled <alpha : float = 2.0> (v) => (r) { r = LeakyRelu <alpha : float = @alpha> (v) }
<domain: "my", opset_import: ["" : OPSET, "my" : 1]>
twice (v) => (r) {
    a = my.scaled (v) c = Softmax (a) s = Constant <value = float[2] {1.0, 2.0}> () r = Add(c, s)
}
"""


@pytest.mark.parametrize("opset", [18, 13, 11, 20])
def test_functions_are_inlined_whatever_their_opset(opset: int) -> None:
    source = FUNCTIONS.replace("OPSET", str(opset))
    model = load(parse(source))
    check_model(model)
    assert not model.functions
    # ONNX Runtime asks for one opset; the main graph's own does not matter, as it only calls functions.
    expected = run_onnxruntime(parse(source, opset=opset), {"x": X[None]})["y"]
    np.testing.assert_allclose(run_onnxruntime(model, {"x": X[None]})["y"], expected, rtol=1e-6)


def test_function_that_gives_back_its_input() -> None:
    proto = parse(
        """g (float[2] x) => (float[2] y) { y, z = my.both (x) }
        <domain: "my", opset_import: ["" : 18]>
        both (v) => (v, r) { r = Neg(v) }"""
    )
    model = load(proto)
    check_model(model)
    assert [v.name for v in model.graph.outputs] == ["y"]
    np.testing.assert_array_equal(run_onnxruntime(model, {"x": X})["y"], X)


def test_function_without_an_argument_that_it_needs() -> None:
    proto = parse(
        """g (float[2] x) => (float[2] y) { y = my.add (x) }
        <domain: "my", opset_import: ["" : 18]>
        add (a, b) => (r) { r = Add(a, b) }"""
    )
    with pytest.raises(ModelError, match="Add") as caught:
        load(proto)
    assert caught.value.code == "GO105"


def test_reading_keeps_functions() -> None:
    assert len(read(parse(FUNCTIONS.replace("OPSET", "18"))).functions) == 2


def test_constants_of_every_kind_become_initializers() -> None:
    proto = parse(
        """g () => (float[2] a, int64 b, float c, int64[2] d, float[1] e) {
            k = Constant <value = float[2] {1.0, 2.0}> () a = Identity(k)
            l = Constant <value_int = 3> () b = Identity(l)
            m = Constant <value_float = 4.0> () c = Identity(m)
            n = Constant <value_ints = [5, 6]> () d = Identity(n)
            o = Constant <value_floats = [7.0]> () e = Identity(o)
        }"""
    )
    model = loads_with_the_same_answers(proto, {})
    assert {n.op_type for n in model.graph} == {"Identity"}


def test_loading_twice_changes_nothing() -> None:
    once = load(parse(FUNCTIONS.replace("OPSET", "18")))
    assert text.canonical(load(once)) == text.canonical(once)


def test_an_expression_that_is_a_number_is_one() -> None:
    model = load(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[batch, 4, 6] x) => (float[P, Q] y) <int64[1] minus = {-1}, int64[1] zero = {0}> {
            all = Shape(x)
            first = Gather(all, zero)
            target = Concat <axis = 0> (first, minus)
            y = Reshape(x, target)
        }"""
    )
    shape = model.graph.outputs[0].shape
    assert shape is not None
    assert str(shape[0]) == "batch"
    assert shape[1] == 24
    assert isinstance(shape[1], int)
