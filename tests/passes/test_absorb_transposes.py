"""absorb-transposes."""

from __future__ import annotations

import pytest
from checking import check_pass

from graphopt.passes.absorb_transposes import AbsorbTransposes

HEAD = "g (float[3, N] a, float[3, 4] b, float[4, 3] c, float[M] z) => (float[A, B] y)"
A = "t = Transpose<perm = [1, 0]>(a)"
C = "u = Transpose(c)"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"{A} y = MatMul(t, b)", "y = Gemm<transA = 1>(a, b)"),
        (f"{A} {C} y = MatMul(t, u)", "y = Gemm<transA = 1, transB = 1>(a, c)"),
        (f"{C} y = MatMul(c, u)", "y = Gemm<transB = 1>(c, c)"),
        (f"{A} y = Gemm<alpha = 0.5>(t, b)", "y = Gemm<alpha = 0.5, transA = 1>(a, b)"),
        ("v = Transpose(b) y = Gemm<transA = 1, transB = 1>(a, v)", "y = Gemm<transA = 1, transB = 0>(a, b)"),
        (f"{C} v = Transpose<perm = [0, 1]>(b) y = MatMul(c, v)", None),
        ("y = Gemm(c, b)", None),
        (f"{A} y = MatMul(a, t)", None),  # N may be 0
    ],
)
def test_rules(before: str, after: str | None) -> None:
    text = None if after is None else f"{HEAD} {{ {after} }}"
    check_pass(AbsorbTransposes(), f"{HEAD} {{ {before} }}", text, dims={"N": 3})


def test_other_ranks_and_types_stay() -> None:
    check_pass(
        AbsorbTransposes(),
        """g (float[2, 3] a, float[2, 2, 4] b) => (float[A, B, C] y) {
            t = Transpose(a) y = MatMul(t, b) }""",
    )
    check_pass(
        AbsorbTransposes(),
        """g (int32[2, 3] a, int32[2, 4] b) => (int32[A, B] y) { t = Transpose(a) y = MatMul(t, b) }""",
    )
