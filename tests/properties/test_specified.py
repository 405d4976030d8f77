"""What is left out of comparisons is what nobody defines, and no more."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from exporter_graphs import Answers, session
from specified import is_specified, unwritten

HEADER = '<ir_version: 10, opset_import: ["" : 18]> '


@pytest.mark.parametrize(
    ("x", "w", "left_open"),
    [
        ((2, 0), (2, 0, 3), {"y", "n"}),
        ((2, 0), (1, 0, 3), set()),
        ((2, 0), (0, 3), set()),
        ((2, 1), (2, 1, 3), set()),
    ],
)
def test_memory_that_nobody_wrote(x: tuple[int, ...], w: tuple[int, ...], left_open: set[str]) -> None:
    shapes = [",".join(map(str, s)) for s in (x, w)]
    model = onnx.parser.parse_model(
        f"{HEADER} g (float[{shapes[0]}] x, float[{shapes[1]}] w) => (float[A,B] y, float[A,B] n, float[A] e)"
        "{ y = MatMul(x, w) n = Neg(y) e = Exp(x) }"
    )
    feeds = {"x": np.ones(x, np.float32), "w": np.ones(w, np.float32)}
    assert unwritten(Answers(model), feeds) == left_open


@pytest.mark.parametrize(
    ("equation", "x", "w", "specified"),
    [
        ("ab,b->ab", (3, 1), (5,), False),
        ("ab,b->ab", (3, 5), (5,), True),
        ("...b,cb->...c", (2, 3, 1), (4, 5), False),
        ("...b, cb -> ...c", (2, 3, 5), (4, 5), True),
        ("ab,c->ab", (3, 1), (5,), True),
    ],
)
def test_label_of_two_sizes(equation: str, x: tuple[int, ...], w: tuple[int, ...], specified: bool) -> None:
    einsum = onnx.helper.make_node("Einsum", ["x", "w"], ["e"], equation=equation)
    body = onnx.helper.make_graph([einsum], "then", [], [onnx.ValueInfoProto(name="e")])
    other = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["i"])], "else", [], [onnx.ValueInfoProto(name="i")]
    )
    inputs = [
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [None] * len(s))
        for n, s in (("x", x), ("w", w))
    ]
    inputs.append(onnx.helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, []))
    choice = onnx.helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=other)
    graph = onnx.helper.make_graph([choice], "g", inputs, [onnx.ValueInfoProto(name="y")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    feeds = {"x": np.ones(x, np.float32), "w": np.ones(w, np.float32), "c": np.array(True)}
    session(model, False).run(None, feeds)  # ONNX Runtime gives an answer in either case
    assert is_specified(model, feeds) is specified
    assert is_specified(model, feeds | {"c": np.array(False)})


@pytest.mark.parametrize(
    ("nodes", "x", "specified"),
    [
        ("a = Constant<value_ints = [1]>() y = ReduceMean(x, a)", (2, 0), False),
        ("a = Constant<value_ints = [0]>() y = ReduceMean<keepdims = 0>(x, a)", (2, 0), True),
        ("y = ReduceMean(x)", (0, 0), False),
        ("y = ReduceMean(x)", (1, 2), True),
        ("y = ReduceSum(x)", (0, 0), True),
    ],
)
def test_mean_of_nothing(nodes: str, x: tuple[int, ...], specified: bool) -> None:
    model = onnx.parser.parse_model(f"{HEADER} g (float[A,B] x) => (y) {{ {nodes} }}")
    assert is_specified(model, {"x": np.ones(x, np.float32)}) is specified


def test_the_optimiser_that_merges_pairs_inexactly_is_the_one_that_is_left_out() -> None:
    model = onnx.parser.parse_model(
        f"{HEADER} g (float[4] x) => (y) <float s = {{0.25}}, float t = {{0.3}}, uint8 z = {{3}}> {{"
        "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)"
        "r = QuantizeLinear(d, t, z) y = DequantizeLinear(r, t, z) }"
    )
    feeds = {"x": np.array([0.9, 0.8, 0.45, 0.1], np.float32)}
    exact = Answers(model)(feeds)["y"]
    assert not np.array_equal(Answers(model, True)(feeds)["y"], exact)
    assert np.array_equal(Answers(model, True, ("DoubleQDQPairsRemover",))(feeds)["y"], exact)


def test_the_optimiser_that_makes_pools_which_are_refused_is_the_one_that_is_left_out() -> None:
    model = onnx.parser.parse_model(
        f"{HEADER} g (float[1, 1, 4, 4] x) => (y) <int64[8] p = {{0, 0, 1, 1, 0, 0, 1, 1}}> {{"
        "q = Pad(x, p) y = MaxPool<kernel_shape = [1, 1]>(q) }"
    )
    with pytest.raises(Exception, match="Pad should be smaller than kernel"):
        Answers(model, True)
    feeds = {"x": np.ones((1, 1, 4, 4), np.float32)}
    assert np.array_equal(Answers(model, True, ("Pad_Fusion",))(feeds)["y"], Answers(model)(feeds)["y"])
