"""deduplicate-initializers."""

from __future__ import annotations

import numpy as np
import onnx_ir
import pytest
from checking import check_pass, model_from, run_onnxruntime
from rewriting import operators, with_weights

from graphopt.ir import LazyTensor, Shape
from graphopt.ir.edit import add_initializer
from graphopt.passes.deduplicate_initializers import DeduplicateInitializers


def test_equal_weights_become_one() -> None:
    changes = check_pass(
        DeduplicateInitializers(),
        before="""g (float[2] x) => (float[2] y)
            <float[2] v = {1.0, 2.0}, float[2] w = {1.0, 2.0}, float[2] u = {1.0, 3.0}> {
            a = Add(x, v)
            b = Mul(a, w)
            y = Sub(b, u)
        }""",
        after="""g (float[2] x) => (float[2] y) <float[2] v = {1.0, 2.0}, float[2] u = {1.0, 3.0}> {
            a = Add(x, v)
            b = Mul(a, v)
            y = Sub(b, u)
        }""",
    )
    assert changes.counts == {"initializer": 1}


@pytest.mark.parametrize(
    "pair",
    [
        "float[2] v = {1.0, 2.0}, float[2, 1] w = {1.0, 2.0}",
        "float[1] v = {0.0}, float[1] w = {-0.0}",
        "float[1] v = {1.0}, float[1] w = {1.0000001}",
    ],
)
def test_weights_that_differ_stay(pair: str) -> None:
    model = model_from(f"g (float[2, 2] x) => (float[2, 2] y) <{pair}> {{ a = Add(x, v) y = Mul(a, w) }}")
    assert not DeduplicateInitializers().run(model).modified


def test_same_bytes_of_another_type_stay() -> None:
    model = model_from(
        "g (float x) => (float y) <float v = {0.0}, int32 w = {0}> { f = Cast<to = 1>(w) a = Add(x, v) y = Mul(a, f) }"
    )
    assert not DeduplicateInitializers().run(model).modified


def test_overridable_initializers_stay() -> None:
    check_pass(
        DeduplicateInitializers(),
        before="""g (float[1] x, float[1] v) => (float[1] y) <float[1] v = {1.0}, float[1] w = {1.0}> {
            a = Add(x, v)
            y = Mul(a, w)
        }""",
    )


def test_initializers_that_are_outputs_keep_their_names() -> None:
    changes = check_pass(
        DeduplicateInitializers(),
        before="""g (float[1] x) => (float[1] y, float[1] v, float[1] u)
            <float[1] w = {1.0}, float[1] v = {1.0}, float[1] u = {1.0}> { y = Mul(x, w) }""",
        after="""g (float[1] x) => (float[1] y, float[1] v, float[1] u)
            <float[1] v = {1.0}, float[1] u = {1.0}> { y = Mul(x, v) }""",
    )
    assert changes.counts == {"initializer": 1}


def test_use_inside_a_branch_is_redirected() -> None:
    check_pass(
        DeduplicateInitializers(),
        before="""g (bool c, float[1] x) => (float[1] y) <float[1] v = {1.0}, float[1] w = {1.0}> {
            h = Add(x, v)
            y = If (c) <
                then_branch = t () => (float[1] a) { a = Mul(h, w) },
                else_branch = e () => (float[1] b) { b = Neg(h) }
            >
        }""",
        after="""g (bool c, float[1] x) => (float[1] y) <float[1] v = {1.0}> {
            h = Add(x, v)
            y = If (c) <
                then_branch = t () => (float[1] a) { a = Mul(h, v) },
                else_branch = e () => (float[1] b) { b = Neg(h) }
            >
        }""",
    )


def test_large_tensors_that_differ_in_the_middle_stay() -> None:
    model = model_from("g (float[N] x) => (float[N] y) { y = Relu(x) }")
    a = np.zeros(100_000, np.float32)
    b = a.copy()
    b[50_000] = 1
    for name, array in (("a", a), ("b", b), ("c", a.copy())):
        add_initializer(model.graph, name, array)
    assert DeduplicateInitializers().run(model).counts == {"initializer": 1}
    assert list(model.graph.initializers) == ["a", "b"]


def test_tensors_without_a_twin_are_never_read() -> None:
    def read() -> onnx_ir.TensorProtocol:
        raise AssertionError("it was read")

    model = model_from("g (float[N] x) => (float[N] y) { y = Relu(x) }")
    for size in (3, 4):
        tensor = LazyTensor(read, dtype=onnx_ir.DataType.FLOAT, shape=Shape([size]))
        add_initializer(model.graph, f"w{size}", tensor)
    assert not DeduplicateInitializers().run(model).modified


def test_transposed_matrices_are_one() -> None:
    """An embedding and the last product of a language model: the table that rows are read from is kept."""
    table = np.random.default_rng(0).standard_normal((600, 500)).astype(np.float32)
    text = """g (int64[3] i, float[600, 500] t, float[500, 600] w) => (float[3, 600] y) {
        x = Gather(t, i) y = MatMul(x, w) }"""
    model = with_weights(text, {"t": table, "w": table.T.copy()})
    assert not DeduplicateInitializers().run(model.clone()).modified
    assert DeduplicateInitializers(transposed=True).run(model).modified
    assert operators(model) == ["Transpose", "Gather", "MatMul"]
    (left,) = model.graph.initializers
    assert left == "t"
    feeds = {"i": np.array([0, 599, 7], np.int64)}
    np.testing.assert_allclose(
        run_onnxruntime(model, feeds)["y"], table[feeds["i"]] @ table.T, rtol=1e-4, atol=1e-3
    )
    assert not DeduplicateInitializers(transposed=True).run(model).modified


def test_matrices_that_differ_in_one_bit_are_two() -> None:
    table = np.zeros((600, 500), np.float32)
    other = table.T.copy()
    other[7, 9] = -0.0
    text = """g (int64[3] i, float[600, 500] t, float[500, 600] w) => (float[3, 600] y) {
        x = Gather(t, i) y = MatMul(x, w) }"""
    model = with_weights(text, {"t": table, "w": other})
    assert not DeduplicateInitializers(transposed=True).run(model).modified
