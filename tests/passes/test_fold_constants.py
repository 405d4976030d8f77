"""fold-constants."""

from __future__ import annotations

import numpy as np
import onnx_ir
import pytest
from checking import check_pass, check_same_results, model_from, random_feeds, run_onnxruntime

from graphopt.ir import LazyTensor, Shape
from graphopt.ir.edit import add_initializer
from graphopt.ir.evaluate import EvaluationError, evaluate
from graphopt.ir.query import constant_tensor
from graphopt.ir.shapes import infer_shapes
from graphopt.passes.fold_constants import FoldConstants
from graphopt.transform import Exactness


def test_chain_of_constants_becomes_one() -> None:
    changes = check_pass(
        FoldConstants(),
        before="""g (float[N] x) => (float[N] y) <float a = {2.0}, float b = {3.0}> {
            c = Mul(a, b)
            d = Add(c, a)
            e = Cast<to = 11>(d)
            f = Cast<to = 1>(e)
            y = Mul(x, f)
        }""",
        after="g (float[N] x) => (float[N] y) <float f = {8.0}> { y = Mul(x, f) }",
    )
    assert changes.counts == {"Mul": 1, "Add": 1, "Cast": 2}


def test_constant_that_is_also_an_output() -> None:
    check_pass(
        FoldConstants(),
        before="g (float[1] x) => (float[1] y, float[1] c) <float[1] a = {2.0}> { c = Neg(a) y = Mul(x, c) }",
        after="""g (float[1] x) => (float[1] y, float[1] c) <float[1] d = {-2.0}> {
            y = Mul(x, d) c = Identity(d) }""",
    )


def test_overridable_initializer_stays() -> None:
    check_pass(
        FoldConstants(),
        before="""g (float[1] x, float[1] w) => (float[1] y) <float[1] w = {1.0}> {
            a = Neg(w) y = Add(x, a) }""",
    )


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ("a = RandomNormalLike(w)", "its operator is not folded"),
        ("q = Cast<to = 3>(w) a = DequantizeLinear(q, w)", "a quantised weight stays quantised"),
    ],
)
def test_random_and_quantised_stay_with_a_reason(nodes: str, reason: str) -> None:
    model = model_from(f"g (float x) => (float y) <float w = {{2.0}}> {{ {nodes} y = Add(x, a) }}")
    changes = FoldConstants().run(model)
    assert any(reason in text for text in changes.declined)
    assert {n.op_type for n in model.graph} > {"Add"}


def test_undefined_integer_results_stay() -> None:
    for nodes in ("a = Div(w, z)", "a = Div(m, n)", "a = Mod(w, z)"):
        model = model_from(
            f"""g (int32 x) => (int32 y)
            <int32 w = {{2}}, int32 z = {{0}}, int32 m = {{-2147483648}}, int32 n = {{-1}}> {{
                {nodes} y = Add(x, a) }}"""
        )
        changes = FoldConstants().run(model)
        assert not changes.modified
        assert changes.declined.total() == 1


def test_the_mean_of_nothing_is_left_to_the_runtime() -> None:
    head = (
        "g (float[2] x) => (float[2] y) <float[2, 0] c = {}, int64[1] a = {1}, float[2] zero = {0.0, 0.0}> {"
    )
    changes = check_pass(
        FoldConstants(), before=f"{head} m = ReduceMean<keepdims = 0>(c, a) y = Add(x, m) }}"
    )
    assert any("mean of nothing" in reason for reason in changes.declined)
    check_pass(
        FoldConstants(),
        before=f"{head} m = ReduceSum<keepdims = 0>(c, a) y = Add(x, m) }}",
        after=f"{head} y = Add(x, zero) }}",
    )


def test_growth_is_bounded_and_sized_before_it_happens() -> None:
    source = """g (float[1] x) => (float[Q] y) <int64[1] n = {10000000000}, float one = {1.0}> {
        big = Expand(one, n) y = Add(x, big) }"""
    changes = FoldConstants().run(model_from(source))
    assert changes.declined == {"Expand: the weights would grow beyond the budget": 1}
    smaller = source.replace("10000000000", "400000")
    assert not FoldConstants().run(model_from(smaller)).modified
    assert FoldConstants(max_bytes=1 << 22, growth=1e9).run(model_from(smaller)).modified
    changes = FoldConstants(growth=1e9).run(model_from(smaller))
    assert changes.declined == {"Expand: operands or result are over max-bytes": 1}


def large(nodes: str, shape: tuple[int, ...] = (700, 800)) -> tuple[onnx_ir.Model, list[int]]:
    """A model whose weight counts how often it is read."""
    rank = ", ".join("ABCDEF"[: len(shape)])
    model = model_from(f"g (float[{rank}] x, float[{rank}] w) => (float[Q] y) {{ {nodes} }}")
    reads: list[int] = []

    def read() -> onnx_ir.TensorProtocol:
        reads.append(1)
        return onnx_ir.tensor(np.arange(np.prod(shape), dtype=np.float32).reshape(shape))

    fed = model.graph.inputs.pop(1)
    weight = add_initializer(
        model.graph, "weight", LazyTensor(read, dtype=onnx_ir.DataType.FLOAT, shape=Shape(shape))
    )
    fed.replace_all_uses_with(weight)
    return infer_shapes(model), reads


def test_layout_of_a_large_weight_is_promised_not_read() -> None:
    model, reads = large("t = Transpose(w) h = Cast<to = 11>(t) f = Cast<to = 1>(h) y = Mul(x, f)")
    original = model.clone()
    changes = FoldConstants(growth=1.0).run(model)
    assert changes.counts == {"Transpose": 1, "Cast": 2}
    assert not reads
    assert [n.op_type for n in model.graph] == ["Mul"]
    assert list(model.graph.initializers) == ["f"]
    feeds = random_feeds(original, {"A": 800, "B": 700})
    check_same_results(original, model, feeds, Exactness.BIT_EXACT)
    assert reads


def test_large_weight_with_another_user_is_not_copied() -> None:
    model, reads = large("t = Transpose(w) a = Mul(x, t) y = MatMul(a, w)")
    changes = FoldConstants().run(model)
    assert not changes.modified
    assert not reads
    assert changes.declined == {"Transpose: the weights would grow beyond the budget": 1}


def test_a_tied_weight_is_transposed_for_the_products_that_it_feeds() -> None:
    nodes = "t = Transpose(w) a = MatMul(x, t) y = MatMul(a, w)"
    model, reads = large(nodes)
    assert FoldConstants(tied=False).run(model).declined == {
        "Transpose: the weights would grow beyond the budget": 1
    }
    original = model.clone()
    assert FoldConstants().run(model).counts == {"Transpose": 1}
    assert not reads
    feeds = random_feeds(original, {"A": 2, "B": 800})
    check_same_results(original, model, feeds, Exactness.REASSOCIATES)


def test_packing_of_a_large_recurrent_weight_is_promised() -> None:
    """What exporters write for an LSTM: the gates in another order, and an axis for the direction."""
    hidden, width = 400, 300
    nodes = f"""z = Constant<value_ints = [0]>() h = Constant<value_ints = [{hidden}]>()
        h2 = Constant<value_ints = [{2 * hidden}]>() h3 = Constant<value_ints = [{3 * hidden}]>()
        h4 = Constant<value_ints = [{4 * hidden}]>()
        i = Slice(w, z, h, z) o = Slice(w, h3, h4, z) fc = Slice(w, h, h3, z)
        p = Concat<axis = 0>(i, o, fc) u = Unsqueeze(p, z) y = Mul(x, u)"""
    model, reads = large(nodes, (4 * hidden, width))
    original = model.clone()
    changes = FoldConstants(growth=0.0, max_bytes=1 << 10).run(model)
    assert [n.op_type for n in model.graph] == ["Mul"], changes.declined
    assert not reads
    feeds = random_feeds(original, {"A": 4 * hidden, "B": width})
    check_same_results(original, model, feeds, Exactness.BIT_EXACT)


@pytest.mark.parametrize(
    "nodes",
    [
        "i = Constant<value_ints = [1, -700]>() a = Gather(w, i) y = Mul(x, a)",
        "a, b = Split<num_outputs = 2>(w) y = Mul(a, b)",
        """s = Constant<value_ints = [-1]>() e = Constant<value_ints = [-9999]>()
        z = Constant<value_ints = [1]>() a = Slice(w, s, e, z, s) y = Mul(x, a)""",
    ],
)
def test_picked_parts_of_a_large_weight(nodes: str) -> None:
    model, reads = large(nodes, (700, 800))
    original = model.clone()
    changes = FoldConstants(max_bytes=1 << 10).run(model)
    assert [n.op_type for n in model.graph] == ["Mul"], changes.declined
    assert not reads
    feeds = {"x": np.ones((1, 800), np.float32)}
    check_same_results(original, model, feeds, Exactness.BIT_EXACT)


def test_an_index_out_of_range_is_left_to_the_runtime() -> None:
    model, reads = large("i = Constant<value_ints = [700]>() a = Gather(w, i) y = Mul(x, a)")
    assert not FoldConstants(max_bytes=1 << 10).run(model).modified
    assert not reads


def test_arithmetic_on_a_large_weight_stays() -> None:
    model, reads = large("t = Neg(w) y = Add(x, t)")
    assert FoldConstants().run(model).declined == {"Neg: operands or result are over max-bytes": 1}
    assert not reads


def test_parts_of_one_weight_take_its_place() -> None:
    weight = np.random.default_rng(0).standard_normal((64, 600)).astype(np.float32)
    source = """g (float[N] x, float[64, 600] w) => (float[64, 600] y) {
        a, b = Split<axis = 0, num_outputs = 2>(w) c = Concat<axis = 0>(b, a) y = Mul(x, c) }"""
    model = model_from(source)
    fed = model.graph.inputs.pop(1)
    fed.replace_all_uses_with(add_initializer(model.graph, "weight", weight))
    assert FoldConstants(growth=0.0).run(model).counts == {"Split": 1, "Concat": 1}
    (value,) = model.graph.initializers.values()
    tensor = constant_tensor(value)
    assert tensor is not None
    np.testing.assert_array_equal(tensor.numpy(), np.concatenate([weight[32:], weight[:32]]))


def test_constants_in_branches_and_bodies() -> None:
    check_pass(
        FoldConstants(),
        before="""g (float[2] x, bool on) => (float[2] y) <int64 n = {3}, float o = {1.0}> {
            h = Neg(o)
            y = Loop (n, on, x) <
                body = b (int64 i, bool c, float[2] s) => (bool go, float[2] r) {
                    go = Identity(c)
                    k = Exp(h)
                    m = Sub(h, h)
                    q = Mul(k, m)
                    r = Add(s, q)
                }
            >
        }""",
        after="""g (float[2] x, bool on) => (float[2] y) <int64 n = {3}, float q = {0.0}> {
            y = Loop (n, on, x) <
                body = b (int64 i, bool c, float[2] s) => (bool go, float[2] r) {
                    go = Identity(c)
                    r = Add(s, q)
                }
            >
        }""",
    )


def test_branch_output_that_is_constant() -> None:
    check_pass(
        FoldConstants(),
        before="""g (bool c) => (float y) <float w = {2.0}> {
            y = If (c) <
                then_branch = t () => (float a) { a = Neg(w) },
                else_branch = e () => (float b) { k = Neg(w) b = Abs(k) }
            >
        }""",
        after="""g (bool c) => (float y) <float v = {-2.0}, float u = {2.0}> {
            y = If (c) <
                then_branch = t () => (float a) { a = Identity(v) },
                else_branch = e () => (float b) { b = Identity(u) }
            >
        }""",
    )


@pytest.mark.parametrize(
    "nodes",
    ["a = Slice(w, z, z, z)", "a = Unsqueeze(s, z)", "a = Reshape(s, o)", "a = Gather(w, z)", "a = Sign(w)"],
)
def test_special_numbers_empty_and_scalar_constants(nodes: str) -> None:
    model = model_from(
        f"""g (float[1] x) => (float[Q] y) <float[3] w = {{-0.0, 1.5, 2.5}}, float s = {{-0.0}},
        int64[1] z = {{0}}, int64[1] o = {{1}}> {{ {nodes} y = Concat<axis = 0>(x, a) }}"""
    )
    original = model.clone()
    assert FoldConstants().run(model).modified
    feeds = {"x": np.array([-0.0], np.float32)}
    old, new = run_onnxruntime(original, feeds)["y"], run_onnxruntime(model, feeds)["y"]
    assert old.tobytes() == new.tobytes()


@pytest.mark.parametrize("opset", [18, 19])
def test_what_the_evaluator_has_in_no_such_version_stays(opset: int) -> None:
    """onnx.reference has DequantizeLinear of version 19 and later, and says so by a plain RuntimeError."""
    node = model_from(
        "g () => (float[2] y) <uint8[2] x = {1, 3}, float scale = {0.5}, uint8 zero = {1}> "
        "{ y = DequantizeLinear(x, scale, zero) }",
        opset,
    ).graph[0]
    inputs = [np.array([1, 3], np.uint8), np.array(0.5, np.float32), np.array(1, np.uint8)]
    if opset == 18:
        with pytest.raises(EvaluationError, match="No implementation"):
            evaluate(node, inputs, opset=opset, max_bytes=1000)
    else:
        np.testing.assert_array_equal(evaluate(node, inputs, opset=opset, max_bytes=1000)[0], [0.0, 1.0])
