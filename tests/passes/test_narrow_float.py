"""narrow-float: what is narrowed and what is not, against ONNX Runtime (fp16) and onnx.reference (bf16)."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx_ir
import pytest
from checking import check_interface, check_pass, model_from, random_feeds, run_onnxruntime
from onnx.reference import ReferenceEvaluator
from rewriting import arrays, check_declines, check_rewrite, operators, with_weights

from graphopt.errors import UsageError
from graphopt.ir import DataType, LazyTensor
from graphopt.ir.provenance import origins
from graphopt.ir.query import walk_graphs
from graphopt.passes.narrow_float import NarrowFloat
from graphopt.transform import Pipeline
from graphopt.verification.observation import observer

HALF = NarrowFloat(to="fp16")


def test_products_are_narrowed_and_softmax_is_not() -> None:
    check_pass(
        HALF,
        before="""g (float[N, 2] x, float[2, 3] v) => (float[N, 3] y) {
            p = MatMul(x, v) r = Relu(p) s = Softmax(r) y = Mul(s, s)
        }""",
        after="""g (float[N, 2] x, float[2, 3] v) => (float[N, 3] y) {
            xh = Cast <to = 10> (x) vh = Cast <to = 10> (v)
            p = MatMul(xh, vh) r = Relu(p) rf = Cast <to = 1> (r) s = Softmax(rf) y = Mul(s, s)
        }""",
    )


def test_operators_that_the_target_lacks_in_the_narrow_type_keep_float32() -> None:
    check_pass(
        NarrowFloat(to="fp16", wide_ops="HardSwish ConvTranspose"),
        before="""g (float[N, 2] x, float[2, 3] v) => (float[N, 3] y) {
            p = MatMul(x, v) h = HardSwish(p) y = Relu(h)
        }""",
        after="""g (float[N, 2] x, float[2, 3] v) => (float[N, 3] y) {
            xh = Cast <to = 10> (x) vh = Cast <to = 10> (v)
            p = MatMul(xh, vh) pf = Cast <to = 1> (p) h = HardSwish(pf) y = Relu(h)
        }""",
    )


def test_one_cast_for_each_value_and_outputs_keep_name_and_type() -> None:
    model, changes = check_rewrite(
        HALF,
        """g (float[4, 4] x) => (float[4, 4] y, float[4, 4] a) {
            a = MatMul(x, x) b = MatMul(a, x) c = Exp(a) d = Log(c) e = Add(b, a) y = Mul(e, d)
        }""",
        "Cast MatMul Cast MatMul Exp Log Add Cast Mul",
    )
    assert [v.name for v in model.graph.outputs] == ["y", "a"]
    assert changes.counts == {"MatMul": 2, "Add": 1}


def test_weights_are_converted_when_they_are_written() -> None:
    weights = arrays(w=(8, 3, 3, 3), b=(8,))
    model, _ = check_rewrite(
        HALF,
        """g (float[1, 3, 8, 8] x, float[8, 3, 3, 3] w, float[8] b) => (float[1, 8, 6, 6] y) {
            c = Conv(x, w, b) y = Relu(c)
        }""",
        "Cast Conv Relu Cast",
        weights=weights,
    )
    stored = list(model.graph.initializers.values())
    assert [v.dtype for v in stored] == [DataType.FLOAT16] * 2
    assert all(isinstance(v.const_value, LazyTensor) for v in stored)
    np.testing.assert_array_equal(stored[0].const_value.numpy(), weights["w"].astype(np.float16))


def test_every_cast_stands_for_original_nodes() -> None:
    model = model_from("g (float[2, 2] x) => (float[2, 2] y) { a = MatMul(x, x) y = Softmax(a) }")
    named = {node.name for node in model.graph}
    HALF.run(model)
    assert operators(model) == ["Cast", "MatMul", "Cast", "Softmax"]
    assert all(set(origins(node)) <= named and origins(node) for node in model.graph)


def test_the_original_is_untouched() -> None:
    model = model_from("g (float[2, 2] x) => (float[2, 2] y) { a = MatMul(x, x) y = Relu(a) }")
    copy = model.clone()
    HALF.run(model)
    assert all(v.dtype == DataType.FLOAT for n in copy.graph for v in n.outputs)


def test_bfloat16_against_the_reference() -> None:
    text = """g (float[3, 4] x, float[4, 5] w, float[5] b) => (float[3, 5] y) {
        p = MatMul(x, w) a = Add(p, b) r = Relu(a) t = Reshape(r, r_shape) y = Softmax(t)
    }""".replace("float[5] b)", "float[5] b, int64[2] r_shape)")
    model = with_weights(text, arrays(w=(4, 5), b=(5,)) | {"r_shape": np.array([3, 5], np.int64)})
    original = model.clone()
    assert NarrowFloat().run(model).modified
    assert operators(model) == ["Cast", "MatMul", "Add", "Relu", "Reshape", "Cast", "Softmax"]
    check_interface(original, model)
    feeds = random_feeds(original)
    found = ReferenceEvaluator(onnx_ir.to_proto(model)).run(None, feeds)[0]
    np.testing.assert_allclose(found, run_onnxruntime(original, feeds)["y"], atol=2e-2)
    assert not NarrowFloat().run(model).modified


def test_kept_by_name() -> None:
    text = "g (float[2, 2] x) => (float[2, 2] y) { a = MatMul(x, x) y = MatMul(a, x) }"
    model = model_from(text)
    first, last = (node.name for node in model.graph)
    assert first != last
    changes = NarrowFloat(to="fp16", keep=f"^{last}$").run(model)
    assert changes.counts == {"MatMul": 1}
    assert changes.declined == {"kept by name": 1}
    assert operators(model) == ["Cast", "MatMul", "Cast", "MatMul"]


def test_elementwise_work_alone_gains_nothing() -> None:
    model = model_from("g (float[2] x) => (float[2] y) { a = Relu(x) y = Add(a, x) }")
    assert not NarrowFloat().run(model).modified


def test_mixed_operands_stay_wide() -> None:
    check_rewrite(
        HALF,
        """g (float[3, 4] x, float[4, 4] w) => (float[3, 4] y, bool[3, 4] g) {
            p = MatMul(x, w) y = Add(x, p) g = Greater(p, x)
        }""",
        "Cast MatMul Cast Add Greater",
        weights=arrays(w=(4, 4)),
    )


def test_shapes_and_indices_are_read_from_the_narrow_value() -> None:
    check_rewrite(
        HALF,
        """g (float[N, 4] x, float[4, 4] w, int64[2] i) => (int64[2] s, float[2, 4] y) {
            p = MatMul(x, w) s = Shape(p) y = Gather(p, i)
        }""",
        "Cast MatMul Shape Gather Cast",
        weights=arrays(w=(4, 4)),
    )


def test_masks_out_of_range_are_clamped_and_counted() -> None:
    text = """g (float[2, 4] x, float[4, 4] w, bool[2, 4] m, float low, float zero) => (float[2, 4] y) {
        p = MatMul(x, w) k = Where(m, zero, low) q = Where(m, p, low) y = Softmax(q)
    }"""
    weights = arrays(w=(4, 4)) | {"low": np.float32(-3.4028235e38), "zero": np.float32(0)}
    for pass_ in (HALF, NarrowFloat(to="bf16")):
        model = with_weights(text, weights)
        changes = pass_.run(model)
        assert sum(n for k, n in changes.counts.items() if "clamped" in k) == 1, changes.counts
        low = [v for k, v in model.graph.initializers.items() if k.startswith("low/")]
        assert np.isfinite(low[0].const_value.numpy().astype(np.float32)).all()
    check_rewrite(HALF, text, "Cast MatMul Where Where Cast Softmax", weights=weights)


def test_infinite_masks_stay_infinite() -> None:
    model, _ = check_rewrite(
        HALF,
        """g (float[2, 4] x, float[4, 4] w, bool[2, 4] m, float low) => (float[2, 4] y) {
            p = MatMul(x, w) q = Where(m, p, low) y = Max(q, p)
        }""",
        "Cast MatMul Where Max Cast",
        weights=arrays(w=(4, 4)) | {"low": np.float32(-np.inf)},
    )
    assert model.graph.initializers["low/float16"].const_value.numpy() == -np.inf


def test_a_scalar_that_would_vanish_keeps_its_user_wide() -> None:
    _, changes = check_rewrite(
        HALF,
        """g (float[2, 4] x, float[4, 4] w, float eps) => (float[2, 4] y) {
            p = MatMul(x, w) a = Abs(p) e = Add(a, eps) y = Div(p, e)
        }""",
        "Cast MatMul Cast Abs Cast Add Div",
        weights=arrays(w=(4, 4)) | {"eps": np.float32(1e-12)},
    )
    assert changes.declined["a constant of Add would become 0"] == 1


def test_operands_of_a_fixed_type_keep_it() -> None:
    model, _ = check_rewrite(
        HALF,
        """g (float[1, 3, 4, 4] x, float[3, 3, 1, 1] w, float[4] scales) => (float[1, 3, 8, 8] y) {
            c = Conv(x, w) y = Resize <mode = "linear"> (c, , scales)
        }""",
        "Cast Conv Resize Cast",
        weights=arrays(w=(3, 3, 1, 1)) | {"scales": np.array([1, 1, 2, 2], np.float32)},
    )
    assert model.graph.initializers["scales"].dtype == DataType.FLOAT


def test_branches_and_loops_are_narrowed_inside() -> None:
    check_rewrite(
        HALF,
        """g (float[4, 4] x, bool p) => (float[4, 4] r) {
            a = MatMul(x, x)
            r = If (p) <
                then_branch = t () => (float[4, 4] y) { b = MatMul(a, x) y = Relu(b) },
                else_branch = e () => (float[4, 4] z) { z = Exp(a) }
            >
        }""",
        "Cast MatMul Cast If MatMul Relu Cast Exp",
    )
    model, _ = check_rewrite(
        HALF,
        """g (float[4, 4] x, float[4, 4] w, int64 n) => (float[4, 4] r, float[K, 4, 4] s) {
            r, s = Loop (n, , x) <
                body = b (int64 i, bool k, float[4, 4] c) => (bool k2, float[4, 4] d, float[4, 4] o) {
                    k2 = Identity(k) m = MatMul(c, w) d = Tanh(m) o = Identity(d)
                }
            >
        }""",
        "Loop Cast Identity MatMul Tanh Cast Identity Cast",
        weights=arrays(w=(4, 4)),
        feeds={"x": np.eye(4, dtype=np.float32), "n": np.array(2, np.int64)},
    )
    for graph in walk_graphs(model.graph):
        assert all(v.dtype != DataType.FLOAT16 for v in (*graph.inputs, *graph.outputs))


def test_opsets_without_the_type_keep_float32() -> None:
    text = "g (float[1, 2, 4] x, float[2, 2, 1] w) => (float[1, 2, 4] y) { y = Conv(x, w) }"
    weights = arrays(w=(2, 2, 1))
    check_declines(NarrowFloat(), text, "Conv has no BFLOAT16", weights=weights, opset=18)
    assert NarrowFloat().run(with_weights(text, weights, opset=22)).modified


@pytest.mark.parametrize("op", ["Softmax", "Exp", "Sqrt", "ReduceMean", "ReduceSum", "GlobalAveragePool"])
def test_sensitive_operators_keep_float32(op: str) -> None:
    text = f"g (float[2, 3, 4] x, float[3, 3, 1] w) => (float[A, B, C] y) {{ c = Conv(x, w) y = {op}(c) }}"
    feeds = {"x": np.abs(arrays(x=(2, 3, 4))["x"])}
    weights = {"w": np.abs(arrays(w=(3, 3, 1))["w"])}
    _, changes = check_rewrite(HALF, text, f"Cast Conv Cast {op}", weights=weights, feeds=feeds)
    assert changes.declined[f"{op} is sensitive to precision"] == 1


def test_attention_keeps_its_softmax_in_float32() -> None:
    model, _ = check_rewrite(
        HALF,
        """g (float[1, 5, 8] x, float[8, 8] w) => (float[1, 5, 8] y) {
            q = MatMul(x, w) y = Attention <q_num_heads = 2, kv_num_heads = 2> (q, q, q)
        }""",
        "Cast MatMul Attention Cast",
        weights=arrays(w=(8, 8)),
        opset=23,
    )
    assert model.graph.node(2).attributes["softmax_precision"].as_int() == DataType.FLOAT


def test_float64_and_integers_are_not_touched() -> None:
    for kind in ("double", "int32", "float16"):
        model = model_from(f"g ({kind}[2, 2] x) => ({kind}[2, 2] y) {{ y = MatMul(x, x) }}")
        assert not NarrowFloat().run(model).modified


def test_options() -> None:
    parsed = Pipeline.parse('narrow-float{to=fp16 keep="head.*"}')
    assert next(iter(parsed)) == NarrowFloat(to="fp16", keep="head.*")
    with pytest.raises(UsageError, match="bf16 or fp16"):
        NarrowFloat(to="int8")
    with pytest.raises(UsageError, match="regular expression"):
        NarrowFloat(keep="(")


TWO_PRODUCTS = """g (float[2, 4] x, float[4, 4] w, float[4, 4] v) => (float[2, 4] y) {
    p = MatMul(x, w) r = Relu(p) q = MatMul(r, v) y = Tanh(q)
}"""


def calibrated(source: str, weights: dict[str, np.ndarray], x: np.ndarray, **options: float) -> Any:
    """The model narrowed to float16 after it was observed on `x`, with the original and the report."""
    model = with_weights(source, weights)
    original = model.clone()
    observe = observer([{"x": np.asarray(x, np.float32)}])
    model, report = Pipeline([NarrowFloat(to="fp16", **options)]).run(model, observe=observe)
    return original, model, report.passes[0]


def test_what_was_observed_to_overflow_keeps_float32() -> None:
    weights = {"w": np.full((4, 4), 2000.0, np.float32), "v": np.full((4, 4), 1e-6, np.float32)}
    x = np.ones((2, 4)) * 10
    original, model, record = calibrated(TWO_PRODUCTS, weights, x)
    assert operators(model) == ["MatMul", "Relu", "MatMul", "Tanh"], record
    assert any(re.search(r"p reaches 8e\+04.* above the 65504 of float16", why) for why in record.declined)
    feeds = {"x": x.astype(np.float32)}
    np.testing.assert_array_equal(run_onnxruntime(model, feeds)["y"], run_onnxruntime(original, feeds)["y"])
    # Without the observation it overflows.
    HALF.run(original)
    assert np.all(ReferenceEvaluator(onnx_ir.to_proto(original)).run(None, feeds)[0] == 1)


def test_what_was_observed_to_fit_is_narrowed() -> None:
    weights = arrays(w=(4, 4), v=(4, 4))
    x = np.ones((2, 4))
    original, model, record = calibrated(TWO_PRODUCTS, weights, x)
    assert record.counts == {"MatMul": 2, "Relu": 1, "Tanh": 1}
    feeds = {"x": x.astype(np.float32)}
    np.testing.assert_allclose(
        run_onnxruntime(model, feeds)["y"], run_onnxruntime(original, feeds)["y"], atol=1e-2
    )


def test_room_above_what_was_observed() -> None:
    weights = {"w": np.eye(4, dtype=np.float32), "v": np.eye(4, dtype=np.float32)}
    _, _, record = calibrated(TWO_PRODUCTS, weights, np.full((2, 4), 40000.0))
    assert not record.modified
    _, _, record = calibrated(TWO_PRODUCTS, weights, np.full((2, 4), 40000.0), room=1.5)
    assert record.modified


def test_numbers_below_the_smallest_normal_keep_float32() -> None:
    weights = {"w": np.eye(4, dtype=np.float32) * 1e-3, "v": np.eye(4, dtype=np.float32)}
    _, model, record = calibrated(TWO_PRODUCTS, weights, np.full((2, 4), 1e-3))
    assert operators(model)[:2] == ["MatMul", "Relu"] and not record.modified
    assert any("p stays below 1e-06" in why for why in record.declined), record.declined


def test_division_by_numbers_that_would_vanish_keeps_float32() -> None:
    text = """g (float[2, 2] x, float[2, 2] w, float[2, 2] v) => (float[2, 2] y) {
        p = MatMul(x, w) q = MatMul(x, v) y = Div(p, q)
    }"""
    weights = {"w": np.eye(2, dtype=np.float32), "v": np.array([[1, 0], [0, 1e-6]], np.float32)}
    original, model, record = calibrated(text, weights, np.ones((2, 2)))
    assert operators(model)[-1] == "Div"
    assert any("q divides and comes down to 1e-06" in why for why in record.declined), record.declined
    feeds = {"x": np.ones((2, 2), np.float32)}
    np.testing.assert_allclose(
        run_onnxruntime(model, feeds)["y"], run_onnxruntime(original, feeds)["y"], rtol=5e-2
    )


def test_bodies_are_not_observed_and_keep_float32() -> None:
    text = """g (float[4, 4] x) => (float[4, 4] r) <bool p = {1}> {
        r = If (p) <
            then_branch = t () => (float[4, 4] y) { y = MatMul(x, x) },
            else_branch = e () => (float[4, 4] z) { z = Exp(x) }
        >
    }"""
    _, model, record = calibrated(text, {}, np.ones((4, 4)))
    assert not record.modified and any("was not observed" in why for why in record.declined)
    assert HALF.run(model).modified


def test_factors_out_of_range_keep_float32_and_masks_are_clamped() -> None:
    text = "g (float[2, 2] x, float k) => (float[2, 2] y) { p = MatMul(x, x) y = %s(p, k) }"
    weights = {"k": np.array(1e6, np.float32)}
    _, changes = check_rewrite(HALF, text % "Mul", "Cast MatMul Cast Mul", weights=weights)
    assert changes.declined["a constant of Mul is beyond the range of FLOAT16"] == 1
    model = with_weights(text % "Min", weights)
    assert HALF.run(model).counts["constant clamped to the range of FLOAT16"] == 1


def test_a_divisor_with_a_vanishing_element_keeps_float32() -> None:
    check_rewrite(
        HALF,
        "g (float[2, 2] x, float[2] k) => (float[2, 2] y) { p = MatMul(x, x) y = Div(p, k) }",
        "Cast MatMul Cast Div",
        weights={"k": np.array([1, 1e-9], np.float32)},
    )


def test_normalizations_embeddings_and_masks_where_the_target_is_wide_inside() -> None:
    text = """g (int64[2, 4] i, bool[2, 1, 1, 4] m, float[9, 8] t, float[8] s, float[8] b, float[8, 8] w,
               float zero, float low) => (float[2, 4, 8] y) {
        e = Gather(t, i)
        n = LayerNormalization(e, s, b)
        q = MatMul(n, w)
        k = Where(m, zero, low)
        a = Attention<q_num_heads = 2, kv_num_heads = 2>(q, q, q, k)
        y = Add(a, n)
    }"""
    lowest = np.finfo(np.float32).min
    fixed = {"s": np.ones(8, np.float32), "b": np.zeros(8, np.float32), "zero": np.float32(0), "low": lowest}
    weights = fixed | arrays(t=(9, 8), w=(8, 8))
    model = with_weights(text, weights, opset=23)
    narrow = model.clone()
    NarrowFloat(wide_inside=True).run(narrow)
    kinds = {n.op_type: n.outputs[0].dtype for n in narrow.graph}
    wanted = ("Gather", "LayerNormalization", "MatMul", "Where", "Attention", "Add")
    assert all(kinds[op] == DataType.BFLOAT16 for op in wanted), kinds
    mask = next(n for n in narrow.graph if n.op_type == "Where")
    assert all(np.isfinite(v.const_value.numpy().astype(np.float32)) for v in mask.inputs[1:])  # type: ignore[union-attr]
    NarrowFloat().run(model)
    kinds = {n.op_type: n.outputs[0].dtype for n in model.graph if n.op_type != "Cast"}
    assert [op for op, dtype in kinds.items() if dtype == DataType.BFLOAT16] == ["MatMul"]


def test_tables_that_are_multiplied_by_activations_keep_float32() -> None:
    """Sines by position: what they turn loses its angle in bfloat16."""
    text = """g (int64[4] i, float[4, 8] x, float[9, 8] t) => (float[4, 8] y) { e = Gather(t, i) y = Mul(x, e) }"""
    model = with_weights(text, arrays(t=(9, 8)))
    assert not NarrowFloat(wide_inside=True).run(model).modified


def test_contrib_activations_follow_where_their_kernels_are() -> None:
    text = """g (float[2, 4] x, float[4, 4] w) => (float[2, 4] y) <float[4] b = {1.0, 2.0, 3.0, 4.0}>
        { m = MatMul(x, w) g = com.microsoft.BiasGelu(m, b) q = com.microsoft.QuickGelu<alpha = 1.0>(g) y = Neg(q) }"""
    wide, narrow = model_from(text), model_from(text)
    NarrowFloat(to="fp16").run(wide)
    NarrowFloat(to="fp16", contrib=True).run(narrow)
    types = [
        {n.op_type: n.outputs[0].dtype.name for n in m.graph if n.op_type.endswith("Gelu")}  # type: ignore[union-attr]
        for m in (wide, narrow)
    ]
    assert types == [dict.fromkeys(("BiasGelu", "QuickGelu"), t) for t in ("FLOAT", "FLOAT16")]


def test_contrib_activations_have_no_bfloat16_here() -> None:
    text = "g (float[2, 4] x, float[4, 4] w) => (float[2, 4] y) { m = MatMul(x, w) y = com.microsoft.FastGelu(m) }"
    model = model_from(text)
    NarrowFloat(to="bf16", contrib=True).run(model)
    (gelu,) = [n for n in model.graph if n.op_type == "FastGelu"]
    assert gelu.outputs[0].dtype is not None
    assert gelu.outputs[0].dtype.name == "FLOAT"


def test_every_node_that_keeps_float32_is_listed_with_its_reason() -> None:
    text = """g (float[2, 4] x, float[4, 4] w) => (float[2, 4] y)
        { m = MatMul(x, w) s = Softmax(m) n = MatMul(s, w) y = Exp(n) }"""
    changes = NarrowFloat(to="fp16", keep="MatMul_2").run(model_from(text))
    assert [(row["node"], row["op"], row["reason"]) for row in changes.details] == [
        ("Softmax_1", "Softmax", "Softmax is sensitive to precision"),
        ("MatMul_2", "MatMul", "kept by name"),
        ("Exp_3", "Exp", "Exp is sensitive to precision"),
    ]
