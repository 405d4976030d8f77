"""fuse-bias against ONNX Runtime."""

from __future__ import annotations

import pytest
from checking import check_pass
from rewriting import arrays, check_declines, check_rewrite

from graphopt.passes.fuse_bias import FuseBias


def test_conv_takes_the_constant_as_it_is() -> None:
    check_pass(
        FuseBias(),
        before="""g (float[1, 2, 3, 3] x) => (float[1, 2, 3, 3] y)
            <float[2, 2, 1, 1] w = {1.0, 2.0, 3.0, 4.0}, float[1, 2, 1, 1] k = {0.5, -0.25}> {
            c = Conv(x, w)
            y = Add(k, c)
        }""",
        after="""g (float[1, 2, 3, 3] x) => (float[1, 2, 3, 3] y)
            <float[2, 2, 1, 1] w = {1.0, 2.0, 3.0, 4.0}, float[2] b = {0.5, -0.25}> { y = Conv(x, w, b) }""",
    )


def test_an_existing_bias_is_added_to() -> None:
    check_pass(
        FuseBias(),
        before="""g (float[1, 1, 4] x) => (float[1, 2, 4] y)
            <float[2, 1, 1] w = {1.0, 2.0}, float[2] b = {1.0, 2.0}, float[2, 1] k = {0.5, 0.25}> {
            c = Conv(x, w, b)
            y = Sub(c, k)
        }""",
        after="""g (float[1, 1, 4] x) => (float[1, 2, 4] y)
            <float[2, 1, 1] w = {1.0, 2.0}, float[2] b = {0.5, 1.75}> { y = Conv(x, w, b) }""",
    )


def test_conv_transpose_with_groups() -> None:
    check_rewrite(
        FuseBias(),
        """g (float[1, 4, 5] x, float[4, 3, 2] w, float[6, 1] k) => (float[1, 6, L] y) {
            c = ConvTranspose <group = 2> (x, w)
            y = Add(c, k)
        }""",
        "ConvTranspose",
        weights=arrays(w=(4, 3, 2), k=(6, 1)),
    )


@pytest.mark.parametrize("shape", [(5,), (1, 5), (3, 5), (3, 1), (1,), ()])
@pytest.mark.parametrize("op", ["Add(c, k)", "Sub(c, k)", "Add(k, c)"])
def test_gemm(shape: tuple[int, ...], op: str) -> None:
    kind = f"float[{', '.join(map(str, shape))}]" if shape else "float"
    check_rewrite(
        FuseBias(),
        f"""g (float[3, 4] x, float[4, 5] w, {kind} k) => (float[3, 5] y) {{
            c = Gemm <alpha = 0.5> (x, w)
            y = {op}
        }}""",
        "Gemm",
        weights=arrays(w=(4, 5), k=shape),
    )


def test_gemm_with_c_and_beta_in_a_branch() -> None:
    check_rewrite(
        FuseBias(),
        """g (float[N, 4] x, bool p, float[4, 5] w, float[5] b, float[1, 5] k) => (float[N, 5] r) {
            r = If (p) <
                then_branch = t () => (float[N, 5] y) { c = Gemm <beta = 2.0> (x, w, b) y = Add(c, k) },
                else_branch = e () => (float[N, 5] z) { z = Gemm(x, w, b) }
            >
        }""",
        "If Gemm Gemm",
        weights=arrays(w=(4, 5), b=(5,), k=(1, 5)),
    )


NEAR_MISSES = {
    "another user": ("c = Conv(x, w) y = Add(c, k) z = Relu(c)", ", float[1, 4, 5] z", "used elsewhere"),
    "an output": ("c = Conv(x, w) y = Add(c, k)", ", float[1, 4, 5] c", "used elsewhere"),
    "per column": ("c = Conv(x, w) y = Add(c, row)", "", "constant per channel"),
    "raises the rank": ("c = Conv(x, w) y = Add(c, deep)", "", "constant per channel"),
    "not constant": ("c = Conv(x, w) y = Add(c, x)", "", "no single constant"),
    "subtracted from": ("c = Conv(x, w) y = Sub(k, c)", "", "subtracted from"),
    "run-time bias": ("c = Conv(x, w, v) y = Add(c, k)", "", "bias is not one constant"),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_misses_of_conv(case: str) -> None:
    body, outputs, reason = NEAR_MISSES[case]
    rank = "float[1, 1, 4, 5] y" if case == "raises the rank" else "float[1, 4, 5] y"
    check_declines(
        FuseBias(),
        f"""g (float[1, 4, 5] x, float[4] v, float[4, 4, 1] w, float[4, 1] k, float[5] row,
            float[1, 1, 4, 1] deep) => ({rank}{outputs}) {{ {body} }}""",
        reason,
        weights=arrays(w=(4, 4, 1), k=(4, 1), row=(5,), deep=(1, 1, 4, 1)),
    )


@pytest.mark.parametrize(
    ("shape", "reason"),
    [("float[3, 5]", "change the shape"), ("float[2, 1, 5]", "float matrix, vector or scalar")],
)
def test_near_misses_of_gemm(shape: str, reason: str) -> None:
    dims = tuple(int(d) for d in shape[6:-1].split(","))
    result = "float[2, 1, 5] y" if len(dims) == 3 else "float[3, 5] y"
    check_declines(
        FuseBias(),
        f"g (float[1, 4] x, float[4, 5] w, {shape} k) => ({result}) {{ c = Gemm(x, w) y = Add(c, k) }}",
        reason,
        weights=arrays(w=(4, 5), k=dims),
    )
