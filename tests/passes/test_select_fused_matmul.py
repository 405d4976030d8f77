"""select-fused-matmul against ONNX Runtime: what a product takes in, and what it must not."""

from __future__ import annotations

import numpy as np
import onnx_ir
import onnxruntime
import pytest
from checking import check_pass, model_from, random_feeds
from rewriting import check_declines, check_rewrite, with_weights

from graphopt.errors import UsageError
from graphopt.passes.select_fused_matmul import SelectFusedMatmul

PASS = SelectFusedMatmul()
C = {"c": np.float32(0.125)}


def source(body: str, kind: str = "float", outputs: str = "") -> str:
    """Operands a [2, 3, 4, 5], b [2, 3, 6, 5], w [5, 6] and a constant c, for a result y."""
    shapes = f"{kind}[2, 3, 4, 5] a, {kind}[2, 3, 6, 5] b, {kind}[5, 6] w, {kind}[2, 4, 3, 5] p, {kind} c"
    return f"g ({shapes}) => ({kind}[2, 3, 4, 6] y{outputs}) {{ {body} }}"


def test_transpose_of_the_second_operand() -> None:
    check_pass(
        PASS,
        before="""g (float[B, 4, 5] a, float[B, 6, 5] b) => (float[B, 4, 6] y) {
            t = Transpose<perm = [0, 2, 1]>(b) y = MatMul(a, t) }""",
        after="""g (float[B, 4, 5] a, float[B, 6, 5] b) => (float[B, 4, 6] y) {
            y = com.microsoft.FusedMatMul<transB = 1>(a, b) }""",
    )


def test_transpose_of_the_first_operand() -> None:
    check_pass(
        PASS,
        before="""g (float[B, 5, 4] a, float[B, 5, 6] b) => (float[B, 4, 6] y) {
            t = Transpose<perm = [0, 2, 1]>(a) y = MatMul(t, b) }""",
        after="""g (float[B, 5, 4] a, float[B, 5, 6] b) => (float[B, 4, 6] y) {
            y = com.microsoft.FusedMatMul<transA = 1>(a, b) }""",
    )


@pytest.mark.parametrize(
    "body",
    [
        "m = MatMul(a, w) y = Mul(m, c)",
        "m = MatMul(a, w) y = Mul(c, m)",
        "m = MatMul(a, w) y = Div(m, c)",
        "s = Mul(c, a) y = MatMul(s, w)",
        "s = Mul(a, c) u = Div(w, c) m = MatMul(s, u) y = Mul(m, c)",
        "t = Transpose<perm = [0, 1, 3, 2]>(b) s = Mul(t, c) y = MatMul(a, s)",
        "s = Div(b, c) t = Transpose<perm = [0, 1, 3, 2]>(s) y = MatMul(a, t)",
        "t = Transpose<perm = [0, 1, 3, 2]>(b) m = com.microsoft.FusedMatMul<alpha = 3.0>(a, t) y = Mul(m, c)",
    ],
)
def test_factors(body: str) -> None:
    check_rewrite(PASS, source(body), "FusedMatMul", weights=C)


def test_a_transpose_that_does_more_keeps_rows_together() -> None:
    text = source("t = Transpose<perm = [0, 2, 3, 1]>(q) y = MatMul(a, t)").replace(
        "float[2, 3, 6, 5] b", "float[2, 6, 3, 5] q"
    )
    model, _ = check_rewrite(PASS, text, "Transpose FusedMatMul", weights=C)
    assert list(model.graph.node(0).attributes["perm"].as_ints()) == [0, 2, 1, 3]


def test_float64_and_the_domain_that_is_imported() -> None:
    text = source("m = MatMul(a, w) y = Mul(m, c)", "double")
    model = with_weights('<ir_version: 10, opset_import: ["" : 18]>\n' + text, {"c": np.float64(0.5)})
    assert PASS.run(model).modified
    assert model.opset_imports["com.microsoft"] == 1


def test_results_under_all_of_the_runtimes_optimisations() -> None:
    text = source("t = Transpose<perm = [0, 1, 3, 2]>(b) m = MatMul(a, t) y = Mul(m, c)")
    model, _ = check_rewrite(PASS, text, "FusedMatMul", weights=C)
    session = onnxruntime.InferenceSession(onnx_ir.to_proto(model).SerializeToString())
    feeds = random_feeds(model)
    wanted = feeds["a"] @ np.swapaxes(feeds["b"], 2, 3) * 0.125
    wanted_inputs = {i.name for i in session.get_inputs()}
    (found,) = session.run(None, {k: v for k, v in feeds.items() if k in wanted_inputs})
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


NEAR_MISSES = {
    "the product is an output": ("m = MatMul(a, w) y = Mul(m, c)", ", float[2, 3, 4, 6] m", "used elsewhere"),
    "the transposed value is an output": (
        "t = Transpose<perm = [0, 1, 3, 2]>(b) y = MatMul(a, t)",
        ", float[2, 3, 5, 6] t",
        "no transposed or scaled",
    ),
    "only batch axes are exchanged": (
        "t = Transpose<perm = [0, 2, 1, 3]>(p) y = MatMul(t, w)",
        "",
        "no transposed or scaled",
    ),
    "the factor is a vector": ("m = MatMul(a, w) v = ReduceSum(m) y = Mul(m, v)", "", "no product with"),
    "the constant is divided": ("m = MatMul(a, w) y = Div(c, m)", "", "no product with"),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_misses(case: str) -> None:
    body, outputs, reason = NEAR_MISSES[case]
    check_declines(PASS, source(body, outputs=outputs), reason, weights=C)


@pytest.mark.parametrize("number", [0.0, np.inf, np.nan, 1e-30])
def test_factors_that_change_what_overflows(number: float) -> None:
    check_declines(
        PASS,
        source("m = MatMul(a, w) y = Mul(m, c)"),
        "0, not finite or very",
        weights={"c": np.float32(number)},
    )


def test_types_without_a_kernel() -> None:
    text = source("m = MatMul(a, w) y = Mul(m, c)", "float16")
    check_declines(PASS, text, "cpu has no FusedMatMul of type float16", weights={"c": np.float16(0.5)})
    model = with_weights(text, {"c": np.float16(0.5)})
    assert SelectFusedMatmul(provider="cuda").run(model).modified
    ints = source("m = MatMul(a, w) y = Mul(m, c)", "int32")
    check_declines(PASS, ints, "not of a float type", weights={"c": np.int32(2)})


def test_vectors_and_unknown_ranks() -> None:
    check_declines(
        PASS,
        "g (float[5] a, float[6, 5] b) => (float[6] y) { t = Transpose(b) y = MatMul(a, t) }",
        "two axes",
    )


def test_unknown_provider() -> None:
    with pytest.raises(UsageError, match="kernels of this provider"):
        SelectFusedMatmul(provider="tpu").run(model_from("g (float[2] x) => (float[2] y) { y = Relu(x) }"))
