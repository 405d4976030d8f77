"""fuse-matmul-add against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from checking import check_pass
from rewriting import arrays, check_declines, check_rewrite

from graphopt.passes.fuse_matmul_add import FuseMatmulAdd

BIASES = ["float[5] c", "float[1, 5] c", "float[N, 5] c", "float[N, 1] c", "float[1] c", "float c"]


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("order", ["Add(p, c)", "Add(c, p)"])
def test_matrices(bias: str, order: str) -> None:
    signature = f"(float[N, 4] a, float[4, 5] b, {bias}) => (float[N, 5] y)"
    check_pass(
        FuseMatmulAdd(),
        before=f"g {signature} {{ p = MatMul(a, b) y = {order} }}",
        after=f"g {signature} {{ y = Gemm(a, b, c) }}",
    )


def test_constant_weights_in_float16() -> None:
    check_rewrite(
        FuseMatmulAdd(),
        """g (float16[3, 4] a, float16[4, 5] w, float16[5] c) => (float16[3, 5] y) {
            p = MatMul(a, w) y = Add(p, c)
        }""",
        "Gemm",
        weights=arrays(dtype=np.float16, w=(4, 5), c=(5,)),
        rtol=2e-3,
    )


def test_gemm_without_c_takes_a_value_and_keeps_alpha() -> None:
    check_pass(
        FuseMatmulAdd(),
        before="""g (float[N, 4] a, float[5, 4] b, float[5] c) => (float[N, 5] y) {
            p = Gemm <alpha = 0.5, beta = 3.0, transB = 1> (a, b)
            y = Add(p, c)
        }""",
        after="""g (float[N, 4] a, float[5, 4] b, float[5] c) => (float[N, 5] y) {
            y = Gemm <alpha = 0.5, transB = 1> (a, b, c)
        }""",
    )


def test_transposes_become_flags() -> None:
    check_pass(
        FuseMatmulAdd(),
        before="""g (float[4, N] a, float[5, 4] b, float[5] c) => (float[N, 5] y) {
            at = Transpose(a) bt = Transpose <perm = [1, 0]> (b) p = MatMul(at, bt) y = Add(p, c)
        }""",
        after="""g (float[4, N] a, float[5, 4] b, float[5] c) => (float[N, 5] y) {
            y = Gemm <transA = 1, transB = 1> (a, b, c)
        }""",
    )
    check_pass(
        FuseMatmulAdd(),
        before="""g (float[N, 4] a, float[4, 5] b) => (float[N, 5] y) {
            bt = Transpose <perm = [1, 0]> (b) y = Gemm <transB = 1> (a, bt)
        }""",
        after="g (float[N, 4] a, float[4, 5] b) => (float[N, 5] y) { y = Gemm <transB = 0> (a, b) }",
    )


def test_inside_a_branch() -> None:
    check_rewrite(
        FuseMatmulAdd(),
        """g (float[N, 4] a, float[4, 4] b, float[4] c, bool q) => (float[N, 4] r) {
            r = If (q) <then_branch = t () => (float[N, 4] y) { p = MatMul(a, b) y = Add(p, c) },
                        else_branch = e () => (float[N, 4] z) { z = Relu(a) }>
        }""",
        "If Gemm Relu",
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(float[2, N, 4] a, float[4, 5] b, float[5] c) => (float[2, N, 5] y)", "not known to be a matrix"),
        ("(float[4] a, float[4, 5] b, float[5] c) => (float[5] y)", "not known to be a matrix"),
        ("(float[1, 4] a, float[4, 5] b, float[3, 5] c) => (float[3, 5] y)", "of another shape"),
        ("(float[N, 4] a, float[4, 5] b, float[M, 5] c) => (float[N, 5] y)", "of another shape"),
        ("(float[3, 4] a, float[4, 1] b, float[5] c) => (float[3, 5] y)", "of another shape"),
        ("(float[3, 4] a, float[4, 5] b, float[1, 1, 5] c) => (float[1, 3, 5] y)", "of another shape"),
        ("(int32[3, 4] a, int32[4, 5] b, int32[5] c) => (int32[3, 5] y)", "float type"),
        ("(float[3, 4] a, float[4, 5] b, float[5] c) => (float[3, 5] y, float[3, 5] p)", "used elsewhere"),
    ],
)
def test_near_misses(text: str, reason: str) -> None:
    check_declines(FuseMatmulAdd(), f"g {text} {{ p = MatMul(a, b) y = Add(p, c) }}", reason)


def test_a_gemm_with_c_keeps_the_sum_and_batched_transposes_stay() -> None:
    check_declines(
        FuseMatmulAdd(),
        "g (float[3, 4] a, float[4, 5] b, float[5] c) => (float[3, 5] y) { p = Gemm(a, b, c) y = Add(p, c) }",
        "has a C",
    )
    check_declines(
        FuseMatmulAdd(),
        """g (float[2, 3, 4] a, float[2, 5, 4] b) => (float[2, 3, 5] y) {
            bt = Transpose <perm = [0, 2, 1]> (b) y = MatMul(a, bt)
        }""",
        "not known to be a matrix",
    )
    check_declines(
        FuseMatmulAdd(),
        """g (float[3, 4] a, float[4, 5] b) => (float[3, 5] y) {
            bt = Transpose <perm = [0, 1]> (b) y = MatMul(a, bt)
        }""",
        "transposes nothing",
    )
