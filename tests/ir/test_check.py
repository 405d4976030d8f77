"""The invariants of a model in memory: kept by loading, and each breach is found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir
import pytest
from checking import make_model

from graphopt.errors import InvariantError, ModelError
from graphopt.ir import Attr, AttributeType, DataType, Model, Node, TensorType, Value
from graphopt.ir.check import check_invariants, check_model
from graphopt.ir.io import load, read

SOURCE = """<ir_version: 10, opset_import: ["" : 18]>
g (float[N, 4] x, bool b) => (float[N, 4] y) <float[4] w = {1.0, 2.0, 3.0, 4.0}> {
    [add] a = Add(x, w)
    [if] y = If (b) <
        then_branch = t () => (float[N, 4] p) { [neg] p = Neg(a) },
        else_branch = e () => (float[N, 4] q) { [abs] q = Abs(a) }
    >
}"""


def node(model: Model, name: str) -> Node:
    return next(n for n in model.graph.all_nodes() if n.name == name)


def use_before_definition(model: Model) -> None:
    model.graph.remove(add := node(model, "add"))
    model.graph.append(add)


def value_of_a_sibling_graph(model: Model) -> None:
    node(model, "abs").replace_input_with(0, node(model, "neg").outputs[0])


def value_of_nobody(model: Model) -> None:
    node(model, "add").replace_input_with(1, Value(name="ghost", type=TensorType(DataType.FLOAT)))


def node_without_a_name(model: Model) -> None:
    node(model, "add").name = None


def nodes_of_one_name(model: Model) -> None:
    node(model, "neg").name = "add"


def values_of_one_name(model: Model) -> None:
    node(model, "neg").outputs[0].name = "x"


def input_without_a_type(model: Model) -> None:
    model.graph.inputs[0].type = None


def initializer_without_data(model: Model) -> None:
    model.graph.initializers["w"].const_value = None


def output_of_nobody(model: Model) -> None:
    model.graph.outputs[0] = Value(name="y")


def output_twice(model: Model) -> None:
    model.graph.outputs.append(model.graph.outputs[0])


def unknown_operator(model: Model) -> None:
    node(model, "neg").op_type = "Negg"


def attribute_that_is_not_there(model: Model) -> None:
    node(model, "neg").attributes["axis"] = Attr("axis", AttributeType.INT, 1)


def reference_to_a_parameter(model: Model) -> None:
    node(model, "neg").attributes["axis"] = onnx_ir.RefAttr("axis", "axis", AttributeType.INT)


def inputs_of_two_types(model: Model) -> None:
    model.graph.inputs[0].type = TensorType(DataType.INT64)


def function_left(model: Model) -> None:
    graph = onnx_ir.Graph([], [], nodes=[], opset_imports={"": 18})
    function = onnx_ir.Function("my", "f", graph=graph, attributes=[])
    model.functions[function.identifier()] = function


BREACHES: dict[Callable[[Model], None], tuple[str, str]] = {
    use_before_definition: ("GO105", "nothing defines before"),
    value_of_a_sibling_graph: ("GO105", "Abs 'abs'"),
    value_of_nobody: ("GO105", "'ghost'"),
    node_without_a_name: ("GO105", "missing or not unique"),
    nodes_of_one_name: ("GO105", "missing or not unique"),
    values_of_one_name: ("GO105", "missing or not unique"),
    input_without_a_type: ("GO105", "input 'x'"),
    initializer_without_data: ("GO105", "initializer 'w'"),
    output_of_nobody: ("GO105", "output 'y'"),
    output_twice: ("GO105", "two have one"),
    unknown_operator: ("GO106", "close: Neg"),
    attribute_that_is_not_there: ("GO105", "unknown attribute 'axis'"),
    reference_to_a_parameter: ("GO105", "outside a function"),
    inputs_of_two_types: ("GO110", "tensor(float)"),
    function_left: ("GO105", "not inlined"),
}


@pytest.mark.parametrize("breach", BREACHES, ids=lambda f: f.__name__)
def test_breach_is_found(breach: Callable[[Model], None]) -> None:
    code, says = BREACHES[breach]
    model = load(SOURCE)
    check_model(model)
    breach(model)
    with pytest.raises(ModelError) as caught:
        check_model(model)
    assert caught.value.code == code, str(caught.value)
    assert says in str(caught.value)
    with pytest.raises(InvariantError, match="fuse-everything left an invalid model") as bug:
        check_invariants(model, "fuse-everything")
    assert bug.value.code == "GO901"
    assert bug.value.details["cause"]["code"] == code


def test_dangling_value_of_a_model_in_memory_is_refused_before_it_is_cloned() -> None:
    model = load(SOURCE)
    value_of_nobody(model)
    with pytest.raises(ModelError, match="ghost"):
        load(model)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_backend_suite_is_accepted() -> None:
    """Every node test that onnx comes with, of an opset that is read, is valid before and after loading."""
    from onnx.backend.test.case.node import collect_testcases

    cases = [c for c in collect_testcases(None) if c.model is not None]
    old = [c.name for c in cases if any(o.domain == "" and o.version < 7 for o in c.model.opset_import)]
    assert len(old) < 5
    for case in cases:
        if case.name not in old:
            check_model(load(case.model))
    assert len(cases) > 1500


def test_unknown_domains_pass() -> None:
    model, _ = make_model("Fancy", {"x": np.ones(2, np.float32)}, domain="org.somebody", level=3)
    check_model(model)


def test_read_model_may_have_names_twice_in_different_graphs() -> None:
    source = SOURCE.replace("[abs] q", "[neg] p").replace("(float[N, 4] q)", "(float[N, 4] p)")
    with pytest.raises(ModelError, match="not unique"):
        check_model(read(source))
    check_model(load(source))
    assert isinstance(onnx.parser.parse_model(source), onnx.ModelProto)


def test_a_loop_without_a_limit_or_a_condition_is_valid() -> None:
    """An operand that is left out by an empty name counts for the number that the operator asks for."""
    body = "body = b (int64 i, bool c) => (bool d, int64 j) { d = Identity(c) j = Identity(i) }"
    for operands in ('n, ""', '"", t'):
        source = f"""<ir_version: 10, opset_import: ["" : 18]>
        g (int64 n, bool t) => (int64[M] y) {{ y = Loop ({operands}) <{body}> }}"""
        check_model(load(onnx.parser.parse_model(source)))
