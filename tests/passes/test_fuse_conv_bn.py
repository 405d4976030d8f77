"""fuse-conv-bn against ONNX Runtime: every layout of weights, and what must stay."""

from __future__ import annotations

import numpy as np
import pytest
from rewriting import arrays, check_declines, check_rewrite

from graphopt.ir.query import constant
from graphopt.passes.fuse_conv_bn import FuseConvBn

BN = "y = BatchNormalization(c, scale, B, mean, var)"


def params(channels: int, dtype: type = np.float32) -> dict[str, np.ndarray]:
    n = (channels,)
    return arrays(1, dtype, scale=n, B=n, mean=n, var=n)


def head(channels: int, kind: str = "float") -> str:
    return ", ".join(f"{kind}[{channels}] {n}" for n in ("scale", "B", "mean", "var"))


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("group", [1, 2, 4])
def test_conv(group: int, with_bias: bool) -> None:
    bias = ", b" if with_bias else ""
    weights = arrays(2, w=(8, 4 // group, 3, 3), b=(8,)) | params(8)
    if not with_bias:
        del weights["b"]
    declared = "float[8] b, " if with_bias else ""
    check_rewrite(
        FuseConvBn(),
        f"""g (float[N, 4, H, 7] x, float[8, {4 // group}, 3, 3] w, {declared}{head(8)})
            => (float[N, 8, P, Q] y) {{
            c = Conv <group = {group}, pads = [1, 1, 0, 1]> (x, w{bias})
            {BN}
        }}""",
        "Conv",
        weights=weights,
        dims={"H": 6},
    )


@pytest.mark.parametrize("group", [1, 2, 3])
def test_conv_transpose_has_its_output_channels_inside_each_group(group: int) -> None:
    check_rewrite(
        FuseConvBn(),
        f"""g (float[2, 6, 5, 4] x, float[6, {6 // group}, 2, 3] w, {head(6)}) => (float[2, 6, P, Q] y) {{
            c = ConvTranspose <group = {group}, strides = [2, 1]> (x, w)
            {BN}
        }}""",
        "ConvTranspose",
        weights=arrays(2, w=(6, 6 // group, 2, 3)) | params(6),
    )


@pytest.mark.parametrize("trans_b", [0, 1])
def test_gemm_with_alpha_and_beta(trans_b: int) -> None:
    shape = (5, 3) if trans_b else (3, 5)
    check_rewrite(
        FuseConvBn(),
        f"""g (float[N, 3] x, float[{shape[0]}, {shape[1]}] w, float[1, 5] b, {head(5)}) => (float[N, 5] y) {{
            c = Gemm <alpha = 0.5, beta = 2.0, transB = {trans_b}> (x, w, b)
            {BN}
        }}""",
        "Gemm",
        weights=arrays(2, w=shape, b=(1, 5)) | params(5),
    )


def test_matmul_becomes_gemm() -> None:
    check_rewrite(
        FuseConvBn(),
        f"g (float[N, 3] x, float[3, 5] w, {head(5)}) => (float[N, 5] y) {{ c = MatMul(x, w) {BN} }}",
        "Gemm",
        weights=arrays(2, w=(3, 5)) | params(5),
    )


def test_float16_weights_keep_their_type() -> None:
    model, _ = check_rewrite(
        FuseConvBn(),
        f"""g (float16[1, 2, 5] x, float16[4, 2, 3] w, {head(4, "float16")}) => (float16[1, 4, 3] y) {{
            c = Conv(x, w)
            {BN}
        }}""",
        "Conv",
        weights=arrays(2, np.float16, w=(4, 2, 3)) | params(4, np.float16),
        rtol=4e-3,
    )
    folded = constant(model.graph.node(0).inputs[1])
    assert folded is not None
    assert folded.dtype == np.float16


def test_a_shared_weight_is_copied() -> None:
    weights = arrays(2, w=(4, 4, 1)) | params(4)
    model, _ = check_rewrite(
        FuseConvBn(),
        f"""g (float[1, 4, 5] x, float[4, 4, 1] w, {head(4)}) => (float[1, 4, 5] y, float[1, 4, 5] z) {{
            c = Conv(x, w)
            {BN}
            z = Conv(x, w)
        }}""",
        "Conv Conv",
        weights=weights,
    )
    assert len(model.graph.initializers) == 3
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), weights["w"])


def test_inside_a_branch() -> None:
    check_rewrite(
        FuseConvBn(),
        f"""g (float[1, 4, 5] x, bool p, float[4, 4, 1] w, {head(4)}) => (float[1, 4, 5] r) {{
            r = If (p) <
                then_branch = t () => (float[1, 4, 5] y) {{ c = Conv(x, w) {BN} }},
                else_branch = e () => (float[1, 4, 5] z) {{ z = Relu(x) }}
            >
        }}""",
        "If Conv Relu",
        weights=arrays(2, w=(4, 4, 1)) | params(4),
    )


@pytest.mark.parametrize("pads", ["", "<pads = [1, 1]>"])
def test_normalization_before_a_convolution(pads: str) -> None:
    source = f"""g (float[2, 4, 6] x, float[6, 2, 3] w, float[6] b, {head(4)}) => (float[2, 6, L] y) {{
        c = BatchNormalization(x, scale, B, mean, var)
        y = Conv <group = 2{", pads = [1, 1]" if pads else ""}> (c, w, b)
    }}"""
    weights = arrays(2, w=(6, 2, 3), b=(6,)) | params(4)
    if pads:
        check_declines(FuseConvBn(), source, "pads with zeros what was shifted", weights=weights)
    else:
        check_rewrite(FuseConvBn(), source, "Conv", weights=weights)


@pytest.mark.parametrize(
    "arithmetic",
    ["Mul(c, k)", "Mul(k, c)", "Div(c, k)", "Add(c, k)", "Sub(c, k)", "Sub(k, c)"],
)
@pytest.mark.parametrize("shape", [(4, 1), (1, 4, 1), (1,), ()])
def test_arithmetic_per_channel(arithmetic: str, shape: tuple[int, ...]) -> None:
    dims = ", ".join(str(d) for d in shape)
    kind = f"float[{dims}]" if shape else "float"
    check_rewrite(
        FuseConvBn(),
        f"""g (float[2, 3, 5] x, float[4, 3, 2] w, float[4] b, {kind} k) => (float[2, 4, 4] y) {{
            c = Conv(x, w, b)
            y = {arithmetic}
        }}""",
        "Conv",
        weights=arrays(2, w=(4, 3, 2), b=(4,)) | {"k": np.abs(arrays(3, k=shape)["k"]) + np.float32(0.5)},
    )


def test_a_scaled_product_of_any_rank() -> None:
    check_rewrite(
        FuseConvBn(),
        """g (float[2, N, 3] x, float[3, 5] w, float[5] k) => (float[2, N, 5] y) {
            c = MatMul(x, w)
            y = Mul(c, k)
        }""",
        "MatMul",
        weights=arrays(2, w=(3, 5), k=(5,)),
    )


def test_standalone_only_if_asked() -> None:
    source = f"g (float[2, 4, 6] c, {head(4)}) => (float[2, 4, 6] y) {{ {BN} }}"
    check_declines(FuseConvBn(), source, "no Conv", weights=params(4))
    check_rewrite(FuseConvBn(standalone=True), source, "Mul Add", weights=params(4))


CONV = "c = Conv(x, w)"
NEAR_MISSES = {
    "another user": (f"{CONV} {BN} z = Relu(c)", ", float[1, 4, 5] z", "used elsewhere"),
    "a graph output": (f"{CONV} {BN}", ", float[1, 4, 5] c", "used elsewhere"),
    "no convolution": (f"c = Relu(x) {BN}", "", "no Conv"),
    "training": (
        f"{CONV} y, m, v = BatchNormalization<training_mode = 1>(c, scale, B, mean, var)",
        "",
        "training mode",
    ),
    "along another axis": (f"{CONV} y = Mul(c, row)", "", "not one constant per channel"),
    "not constant": (f"{CONV} y = Mul(c, x)", "", "no single constant"),
    "division by zero": (f"{CONV} y = Div(c, zero)", "", "zero in a division"),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_misses(case: str) -> None:
    body, outputs, reason = NEAR_MISSES[case]
    check_declines(
        FuseConvBn(),
        f"""g (float[1, 4, 5] x, float[4, 4, 1] w, float[5] row, float[1] zero, {head(4)})
            => (float[1, 4, 5] y{outputs}) {{ {body} }}""",
        reason,
        weights=arrays(2, w=(4, 4, 1), row=(5,)) | {"zero": np.zeros(1, np.float32)} | params(4),
    )


def test_weights_and_variances_that_cannot_be_folded() -> None:
    source = f"g (float[1, 4, 5] x, float[4, 4, 1] w, {head(4)}) => (float[1, 4, 5] y) {{ {CONV} {BN} }}"
    weights = arrays(2, w=(4, 4, 1)) | params(4)
    fed = {k: v for k, v in weights.items() if k != "w"}
    check_declines(FuseConvBn(), source, "weight is not constant", weights=fed)
    fed = {k: v for k, v in weights.items() if k != "mean"}
    check_declines(FuseConvBn(), source, "not constant vectors", weights=fed)
    negative = weights | {"var": np.full(4, -1, np.float32)}
    check_declines(FuseConvBn(), source, "not positive", weights=negative)
    huge = weights | {"scale": np.full(4, 3e38, np.float32), "w": np.full((4, 4, 1), 100, np.float32)}
    check_declines(FuseConvBn(), source, "overflows", weights=huge)


def test_matmul_of_rank_three_has_no_place_for_a_shift() -> None:
    check_declines(
        FuseConvBn(),
        """g (float[2, 4, 3] x, float[3, 5] w, float[5] k) => (float[2, 4, 5] y) {
            c = MatMul(x, w)
            y = Add(c, k)
        }""",
        "has no bias",
        weights=arrays(2, w=(3, 5), k=(5,)),
    )
