"""Costs by shape against counts made by others: XLA's own, and the definition of each operator."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import onnx
import onnx.helper as oh
import pytest

import graphopt
from graphopt.analysis.amount import Amount
from graphopt.analysis.cost import ModelCost, model_cost

NEWEST_OPSET = 28

IMPORTS = '<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1, "my.own" : 1]>'


def cost_of(body: str, inputs: str, outputs: str, initializers: str = "") -> ModelCost:
    weights = f"<{initializers}>" if initializers else ""
    return model_cost(graphopt.load(f"{IMPORTS} g ({inputs}) => ({outputs}) {weights} {{ {body} }}"))


def model_of(
    node: onnx.NodeProto,
    inputs: list[onnx.ValueInfoProto],
    output: onnx.ValueInfoProto,
    initializers: list[onnx.TensorProto] | None = None,
) -> graphopt.Model:
    """The model of one node, in canonical form."""
    graph = oh.make_graph([node], "g", inputs, [output], initializers or [])
    return graphopt.load(oh.make_model(graph, opset_imports=[oh.make_opsetid("", 18)], ir_version=8))


def numbers(cost: ModelCost, index: int = -1) -> tuple[int | None, int | None, int | None]:
    node = cost.nodes[index]
    return tuple(None if a is None else a.number for a in (node.flops, node.read_bytes, node.written_bytes))  # type: ignore[return-value]


def xla_flops(function: Callable[..., object], *shapes: tuple[int, ...]) -> float:
    """XLA's count of the operations of `function` before it optimises."""
    import jax

    arguments = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    analysis = jax.jit(function).lower(*arguments).cost_analysis()
    assert analysis is not None
    return float(analysis["flops"])


def test_matmul_as_xla_counts_it() -> None:
    import jax.numpy as jnp

    found = cost_of("y = MatMul (a, b)", "float[4,5,6] a, float[4,6,7] b", "float[4,5,7] y")
    flops, read, written = numbers(found)
    assert flops == xla_flops(jnp.matmul, (4, 5, 6), (4, 6, 7)) == 2 * 4 * 5 * 6 * 7
    assert (read, written) == (4 * (4 * 5 * 6 + 4 * 6 * 7), 4 * 4 * 5 * 7)


@pytest.mark.parametrize(("groups", "stride"), [(1, 1), (2, 1), (4, 2)])
def test_convolution_as_xla_counts_it(groups: int, stride: int) -> None:
    import jax

    def conv(x: object, w: object) -> object:
        return jax.lax.conv_general_dilated(x, w, (stride, stride), "VALID", feature_group_count=groups)

    x, w = (2, 8, 9, 9), (12, 8 // groups, 3, 3)
    size = (9 - 3) // stride + 1
    found = cost_of(
        f"y = Conv <group = {groups}, strides = [{stride}, {stride}]> (x, w)",
        f"float[{','.join(map(str, x))}] x, float[{','.join(map(str, w))}] w",
        f"float[2,12,{size},{size}] y",
    )
    assert numbers(found)[0] == xla_flops(conv, x, w)


def test_transposed_convolution_mirrors_its_convolution() -> None:
    forward = cost_of("y = Conv (x, w)", "float[1,4,9,9] x, float[6,4,3,3] w", "float[1,6,7,7] y")
    back = cost_of("x = ConvTranspose (y, w)", "float[1,6,7,7] y, float[6,4,3,3] w", "float[1,4,9,9] x")
    assert numbers(back)[0] == numbers(forward)[0]


BY_DEFINITION = {
    "Gemm": ("y = Gemm (a, b)", "float[3,4] a, float[4,5] b", "float[3,5] y", 2 * 60),
    "Gemm with bias": (
        "y = Gemm <transA = 1> (a, b, c)",
        "float[4,3] a, float[4,5] b, float[5] c",
        "float[3,5] y",
        2 * 60 + 15,
    ),
    "Relu": ("y = Relu (x)", "float[3,4] x", "float[3,4] y", 12),
    "Add": ("y = Add (x, b)", "float[3,4] x, float[4] b", "float[3,4] y", 12),
    "Transpose": ("y = Transpose <perm = [1, 0]> (x)", "float[3,4] x", "float[4,3] y", 0),
    "ReduceSum": ("y = ReduceSum <keepdims = 0> (x)", "float[3,4] x", "float y", 12),
    "MaxPool": ("y = MaxPool <kernel_shape = [2, 3]> (x)", "float[1,1,4,6] x", "float[1,1,3,4] y", 12 * 6),
    "Softmax": ("y = Softmax (x)", "float[3,4] x", "float[3,4] y", 60),
    "Einsum": (
        'y = Einsum <equation = "bij,bjk->bik"> (a, b)',
        "float[2,3,4] a, float[2,4,5] b",
        "float[2,3,5] y",
        240,
    ),
    "Attention": (
        "y = Attention (q, k, v)",
        "float[1,2,3,8] q, float[1,2,5,8] k, float[1,2,5,4] v",
        "float[1,2,3,4] y",
        30 * (2 * (8 + 4) + 5),
    ),
    "LSTM": (
        "y, h = LSTM <hidden_size = 3> (x, w, r)",
        "float[5,2,4] x, float[1,12,4] w, float[1,12,3] r",
        "float[5,1,2,3] y, float[1,2,3] h",
        10 * (2 * 4 * 3 * (4 + 3) + 3 * 4 * 3),
    ),
    "unknown": ("y = my.own.Thing (x)", "float[3,4] x", "float[3,4] y", None),
}


@pytest.mark.parametrize("case", BY_DEFINITION)
def test_operations_by_definition(case: str) -> None:
    body, inputs, outputs, flops = BY_DEFINITION[case]
    assert numbers(cost_of(body, inputs, outputs))[0] == flops


def test_bytes_follow_the_type() -> None:
    for name, width in (("float", 4), ("float16", 2), ("double", 8), ("int8", 1), ("bool", 1)):
        op = "Not" if name == "bool" else "Abs" if name != "int8" else "Neg"
        found = cost_of(f"y = {op} (x)", f"{name}[3,5] x", f"{name}[3,5] y")
        assert numbers(found)[1:] == (15 * width, 15 * width), name


def test_four_bits_share_a_byte() -> None:
    found = cost_of("y = Cast <to = 1> (x)", "int4[3,5] x", "float[3,5] y")
    assert numbers(found)[1:] == (8, 60)


def test_views_move_nothing_and_gathers_read_what_they_take() -> None:
    view = cost_of("y = Reshape (x, s)", "float[3,4] x", "float[12] y", "int64[1] s = {12}")
    assert numbers(view) == (0, 0, 0)
    gather = cost_of("y = Gather (table, i)", "float[1000,4] table, int64[2] i", "float[2,4] y")
    assert numbers(gather) == (0, 2 * 8 + 32, 32)


def test_an_operand_that_is_used_twice_is_read_once() -> None:
    assert numbers(cost_of("y = Mul (x, x)", "float[4] x", "float[4] y"))[1] == 16


def test_free_dimensions_stay_symbols() -> None:
    found = cost_of("y = MatMul (x, w)", "float[N,S,6] x, float[6,7] w", "float[N,S,7] y")
    assert str(found.nodes[0].flops) == "84*N*S"
    assert found.intensity is None
    assert found.nodes[0].to_json()["flops"] == "84*N*S"


def test_the_dearer_branch_and_every_turn_count() -> None:
    graph = onnx.parser.parse_graph
    small = graph("a () => (float[4] p) { p = Relu (x) }")
    large = graph("b () => (float[4] q) { t = Relu (x)  u = Relu (t)  q = Relu (u) }")
    x, y = (oh.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [4]) for n in "xy")
    c = oh.make_tensor_value_info("c", onnx.TensorProto.BOOL, [])
    node = oh.make_node("If", ["c"], ["y"], name="if", then_branch=small, else_branch=large)
    assert numbers(model_cost(model_of(node, [x, c], y)))[0] == 12

    body = graph(
        "l (int64 i, bool go, float[4] v) => (bool on, float[4] w) { on = Identity (go)  w = Relu (v) }"
    )
    trips = oh.make_tensor("n", onnx.TensorProto.INT64, [], [7])
    loop = oh.make_node("Loop", ["n", "", "x"], ["y"], name="loop", body=body)
    assert numbers(model_cost(model_of(loop, [x], y, [trips])))[0] == 28
    free = oh.make_tensor_value_info("n", onnx.TensorProto.INT64, [])
    assert str(model_cost(model_of(loop, [x, free], y)).flops) == "4*(turns(loop))"


def test_amounts() -> None:
    n = Amount.size(["N", 3])
    assert str(n * n + Amount.of(7)) == "9*N*N + 7"
    assert str(Amount.size(["6272*batch"])) == "6272*batch"
    assert str(Amount.size(["Min(128, S)", 2])) == "2*(Min(128, S))"
    assert (n + n * -1).number == 0
    assert Amount.size([0, "N"]).number == 0
    assert Amount.size([]).number == 1
    assert n.number is None


def test_cost_is_linear_in_the_graph() -> None:
    def seconds(count: int) -> float:
        nodes = [oh.make_node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(count)]
        ends = [oh.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N", 4]) for n in ("v0", f"v{count}")]
        graph = oh.make_graph(nodes, "g", ends[:1], ends[1:])
        model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 18)], ir_version=8)
        loaded = graphopt.load(model)
        best = float("inf")
        for _ in range(3):
            started = time.process_time()
            assert str(model_cost(loaded).flops) == f"{4 * count}*N"
            best = min(best, time.process_time() - started)
        return best

    assert seconds(4000) < 40 * seconds(400)


def test_every_standard_operator_has_an_answer_or_is_known_not_to() -> None:
    """A new operator of ONNX must be given a formula here, or be listed as having none."""
    from graphopt.analysis import flops

    none = {
        "AffineGrid", "Bernoulli", "BlackmanWindow", "DFT", "Det", "GridSample",
        "HammingWindow", "HannWindow", "If", "ImageDecoder", "LRN", "LinearAttention", "Loop",
        "MaxRoiPool", "MaxUnpool", "MelWeightMatrix", "Multinomial",
        "NegativeLogLikelihoodLoss", "NonMaxSuppression", "RandomNormal", "RandomNormalLike",
        "RandomUniform", "RandomUniformLike", "RegexFullMatch", "RoiAlign", "STFT", "Scan",
        "SequenceMap", "SoftmaxCrossEntropyLoss", "StringConcat", "StringNormalizer",
        "StringSplit", "TfIdfVectorizer", "TopK", "Unique",
    }  # fmt: skip
    counted = (
        flops.MOVES | flops.ELEMENTWISE | flops.REDUCTIONS | set(flops.PER_ELEMENT) | set(flops._FORMULAS)
    )
    standard = {
        s.name
        for s in onnx.defs.get_all_schemas()
        if s.domain == "" and not s.deprecated and s.since_version <= NEWEST_OPSET
    }
    assert sorted(standard - counted - none) == []
    assert sorted(none & counted) == []
