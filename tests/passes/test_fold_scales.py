"""fold-scales against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from rewriting import arrays, check_declines, check_rewrite

from graphopt.passes import _channels
from graphopt.passes.fold_scales import FoldScales


@pytest.mark.parametrize("op", ["Mul(x, k)", "Mul(k, x)", "Div(x, k)"])
@pytest.mark.parametrize("shape", [(4, 1), (1, 4, 1), (1,), ()])
@pytest.mark.parametrize("group", [1, 2])
def test_scale_before_a_padded_convolution(op: str, shape: tuple[int, ...], group: int) -> None:
    kind = f"float[{', '.join(map(str, shape))}]" if shape else "float"
    check_rewrite(
        FoldScales(),
        f"""g (float[2, 4, 6] x, float[6, {4 // group}, 3] w, float[6] b, {kind} k) => (float[2, 6, L] y) {{
            a = {op} y = Conv<group = {group}, pads = [1, 1]>(a, w, b) }}""",
        "Conv",
        weights=arrays(2, w=(6, 4 // group, 3), b=(6,)) | {"k": np.abs(arrays(3, k=shape)["k"]) + 1},
    )


@pytest.mark.parametrize("op", ["Add(x, k)", "Sub(x, k)", "Sub(k, x)"])
def test_shift_before_a_convolution_only_without_padding(op: str) -> None:
    source = f"""g (float[2, 4, 6] x, float[6, 2, 3] w, float[6] b, float[4, 1] k) => (float[2, 6, L] y) {{
        a = {op} y = Conv<group = 2 PADS>(a, w, b) }}"""
    weights = arrays(2, w=(6, 2, 3), b=(6,), k=(4, 1))
    check_rewrite(FoldScales(), source.replace("PADS", ""), "Conv", weights=weights)
    for padded in (", pads = [0, 1]", ', auto_pad = "SAME_UPPER"'):
        check_declines(
            FoldScales(), source.replace("PADS", padded), "pads with zeros what was shifted", weights=weights
        )


@pytest.mark.parametrize("op", ["Mul(x, k)", "Add(x, k)"])
def test_before_conv_transpose(op: str) -> None:
    source = f"""g (float[2, 4, 5] x, float[4, 3, KERNEL] w, float[4, 1] k) => (float[2, 6, L] y) {{
        a = {op} y = ConvTranspose<group = 2, strides = [1]>(a, w) }}"""
    for kernel in (1, 3):
        text, weights = source.replace("KERNEL", str(kernel)), arrays(2, w=(4, 3, kernel), k=(4, 1))
        if kernel == 1 or op.startswith("Mul"):
            check_rewrite(FoldScales(), text, "ConvTranspose", weights=weights)
        else:
            check_declines(FoldScales(), text, "pads with zeros what was shifted", weights=weights)


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("op", ["Mul(x, k)", "Add(x, k)", "Sub(k, x)"])
@pytest.mark.parametrize("shape", [(3,), (1, 3), ()])
def test_before_gemm(trans_b: int, op: str, shape: tuple[int, ...]) -> None:
    size = (5, 3) if trans_b else (3, 5)
    kind = f"float[{', '.join(map(str, shape))}]" if shape else "float"
    check_rewrite(
        FoldScales(),
        f"""g (float[N, 3] x, float[{size[0]}, {size[1]}] w, float[5] b, {kind} k) => (float[N, 5] y) {{
            a = {op} y = Gemm<alpha = 0.5, beta = 2.0, transB = {trans_b}>(a, w, b) }}""",
        "Gemm",
        weights=arrays(2, w=size, b=(5,), k=shape),
    )


def test_a_bias_that_is_no_constant_stays_one_operand() -> None:
    source = """g (float[N, 3] x, float[5] b, float[3, 5] w, float[3] k) => (float[N, 5] y) {
        a = OP(x, k) y = Gemm<beta = 2.0>(a, w, b) }"""
    weights = arrays(2, w=(3, 5), k=(3,))
    check_rewrite(FoldScales(), source.replace("OP", "Mul"), "Gemm", weights=weights)
    check_declines(FoldScales(), source.replace("OP", "Add"), "bias is not one constant", weights=weights)


def test_before_matmul_of_any_rank() -> None:
    source = """g (float[2, N, 3] x, float[3, 5] w, float[3] k) => (float[2, N, 5] y) {
        a = OP(x, k) y = MatMul(a, w) }"""
    weights = arrays(2, w=(3, 5), k=(3,))
    check_rewrite(FoldScales(), source.replace("OP", "Div"), "MatMul", weights=weights)
    check_declines(FoldScales(), source.replace("OP", "Sub"), "has no bias", weights=weights)


def test_a_constant_that_broadcasts_what_it_scales_stays() -> None:
    check_declines(
        FoldScales(),
        "g (float[N, 1] x, float[3, 5] w, float[3] k) => (float[N, 5] y) { a = Mul(x, k) y = MatMul(a, w) }",
        "not one constant per channel",
        weights=arrays(2, w=(3, 5), k=(3,)),
    )


def test_a_scale_with_another_user_and_along_another_axis_stays() -> None:
    weights = arrays(2, w=(3, 5), k=(3, 1))
    check_declines(
        FoldScales(),
        "g (float[3, 3] x, float[3, 5] w, float[3, 1] k) => (float[3, 5] y) { a = Mul(x, k) y = MatMul(a, w) }",
        "not one constant per channel",
        weights=weights,
    )
    check_declines(
        FoldScales(),
        """g (float[3, 3] x, float[3, 5] w, float[3, 1] k) => (float[3, 5] y, float[3, 3] a) {
            a = Mul(x, k) y = MatMul(a, w) }""",
        "used elsewhere",
        weights=weights,
    )


@pytest.mark.parametrize("op", ["Mul(c, k)", "Div(c, k)"])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (1, 1, 5)])
def test_scale_behind_a_bias(op: str, shape: tuple[int, ...]) -> None:
    kind = f"float[{', '.join(map(str, shape))}]" if shape else "float"
    check_rewrite(
        FoldScales(),
        f"""g (float[2, N, 3] x, float[3, 5] w, float[5] b, {kind} k) => (float[2, N, 5] y) {{
            m = MatMul(x, w) c = Add(b, m) y = {op} }}""",
        "MatMul Add",
        weights=arrays(2, w=(3, 5), b=(5,)) | {"k": np.abs(arrays(3, k=shape)["k"]) + 1},
    )


def test_scale_of_the_queries() -> None:
    source = """g (float[B, S, 8] x, float[8, 8] w, float[8] b, float k) => (float[B, 2, S, 4] y)
        <int64[4] s = {0, 0, 2, 4}> {
        m = MatMul(x, w) c = Add(m, b) r = Reshape(c, s) t = Transpose<perm = [0, 2, 1, 3]>(r) y = Mul(t, k) }"""
    weights = arrays(2, w=(8, 8), b=(8,)) | {"k": np.float32(0.5)}
    check_rewrite(FoldScales(), source, "MatMul Add Reshape Transpose", weights=weights)
    vector = weights | {"k": np.ones(4, np.float32)}
    check_declines(
        FoldScales(), source.replace("float k", "float[4] k"), "more than a number", weights=vector
    )
    used = source.replace("[B, 2, S, 4] y)", "[B, 2, S, 4] y, float[B, S, 2, 4] r)")
    check_declines(FoldScales(), used, "used elsewhere", weights=weights)


@pytest.mark.parametrize("op", ["Mul(c, k)", "Div(c, k)", "Add(c, k)", "Sub(c, k)", "Sub(k, c)"])
def test_behind_layer_normalization(op: str) -> None:
    for inputs in ("x, w, b", "x, w"):
        check_rewrite(
            FoldScales(),
            f"""g (float[2, N, 6] x, float[6] w, float[6] b, float[6] k) => (float[2, N, 6] y) {{
                c = LayerNormalization<epsilon = 0.001>({inputs}) y = {op} }}""",
            "LayerNormalization",
            weights=arrays(2, w=(6,), b=(6,)) | {"k": np.abs(arrays(3, k=(6,))["k"]) + 1},
        )


@pytest.mark.parametrize("node", ["InstanceNormalization(x, w, b)", "BatchNormalization(x, w, b, m, var)"])
@pytest.mark.parametrize("op", ["Mul(c, k)", "Sub(k, c)"])
def test_behind_channel_normalization(node: str, op: str) -> None:
    check_rewrite(
        FoldScales(),
        f"""g (float[2, 6, 4] x, float[6] w, float[6] b, float[6] m, float[6] var, float[6, 1] k)
            => (float[2, 6, 4] y) {{ c = {node} y = {op} }}""",
        node.split("(", maxsplit=1)[0],
        weights=arrays(2, w=(6,), b=(6,), m=(6,), var=(6,), k=(6, 1)),
    )


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ("c, m = LayerNormalization(x, w) y = Mul(c, m) z = Mul(c, k)", "used elsewhere"),
        ("c = LayerNormalization<axis = 1>(x, v) y = Mul(c, k)", "not a constant vector"),
        ("c = LayerNormalization(x, w) y = Mul(c, row)", "not one constant per channel"),
    ],
)
def test_near_misses_behind_normalization(nodes: str, reason: str) -> None:
    check_declines(
        FoldScales(),
        f"""g (float[2, 3, 6] x, float[6] w, float[3, 6] v, float[6] k, float[3, 1] row)
            => (float[2, 3, 6] y) {{ {nodes} }}""",
        reason,
        weights=arrays(2, w=(6,), v=(3, 6), k=(6,), row=(3, 1)),
    )


def test_rms_normalization_has_no_place_for_a_shift() -> None:
    source = (
        "g (float[2, 6] x, float[6] w, float[6] k) => (float[2, 6] y) { c = RMSNormalization(x, w) y = OP }"
    )
    weights = arrays(2, w=(6,), k=(6,))
    check_rewrite(
        FoldScales(), source.replace("OP", "Mul(c, k)"), "RMSNormalization", weights=weights, opset=23
    )
    check_declines(FoldScales(), source.replace("OP", "Add(c, k)"), "no bias", weights=weights, opset=23)


def test_scales_of_both_operands_of_a_product() -> None:
    source = """g (KIND[2, 3, 4] a, KIND[2, 4, 3] b, KIND f, KIND h) => (KIND[2, 3, 3] y) {
        p = Mul(a, f) q = Div(b, h) y = MatMul(p, q) }"""
    single, half = source.replace("KIND", "float"), source.replace("KIND", "float16")
    factors = {"f": np.float32(0.3), "h": np.float32(0.5)}
    check_rewrite(FoldScales(), single, "Mul MatMul", weights=factors)
    check_declines(FoldScales(), single, "might overflow", weights=factors | {"f": np.float32(1e30)})
    halves = {k: v.astype(np.float16) for k, v in factors.items()}
    check_declines(FoldScales(), half, "might overflow", weights=halves)
    check_declines(
        FoldScales(), single, "not scaled by a number", weights=arrays(f=(4,)) | {"h": factors["h"]}
    )


def test_a_large_weight_is_scaled_when_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_channels, "LAZY_BYTES", 64)
    monkeypatch.setattr(_channels, "PART_ELEMENTS", 10)
    source = "g (float[N, 16] x, float[16, 5] w, float[16] k) => (float[N, 5] y) { a = Mul(x, k) y = MatMul(a, w) }"
    weights = arrays(2, w=(16, 5), k=(16,))
    check_rewrite(FoldScales(), source, "MatMul", weights=weights)
    weights["k"][3] = 3e38
    weights["w"][3] = 100
    check_declines(FoldScales(), source, "overflows", weights=weights)


def test_a_large_weight_with_another_user_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    source = """g (float[N, 16] x, float[16, 5] w, float[16] k) => (float[N, 5] y, float[N, 5] z) {
        a = Mul(x, k) y = MatMul(a, w) z = MatMul(x, w) }"""
    weights = arrays(2, w=(16, 5), k=(16,))
    check_rewrite(FoldScales(), source, "MatMul MatMul", weights=weights)
    monkeypatch.setattr(_channels, "SHARED_BYTES", 64)
    check_declines(FoldScales(), source, "used elsewhere, too", weights=weights)


def test_half_precision_that_would_underflow_stays() -> None:
    source = """g (float16[N, 16] x, float16[16, 5] w, float16 k) => (float16[N, 5] y) {
        a = Mul(x, k) y = MatMul(a, w) }"""
    weights = arrays(2, np.float16, w=(16, 5)) | {"k": np.float16(0.5)}
    check_rewrite(FoldScales(), source, "MatMul", weights=weights, rtol=4e-3)
    weights["w"] *= np.float16(1e-4)
    weights["k"] = np.float16(1e-3)
    check_declines(FoldScales(), source, "underflows", weights=weights)


@pytest.mark.parametrize(
    "nodes",
    [
        "e = Erf(x) f = Add(e, one) g = Mul(x, f) a = Mul(g, half)",
        "p = Mul(x, x) m = ReduceMean(p) r = Sqrt(m) n = Div(x, r) a = Mul(n, k)",
        "p = Mul(x, x) m = ReduceMean(p) r = Sqrt(m) i = Reciprocal(r) n = Mul(x, i) a = Mul(k, n)",
        "p = Mul(x, x) m = ReduceMean(p) r = Sqrt(m) n = Div(x, r) b = Mul(n, k) a = Add(b, k)",
    ],
)
def test_what_ends_a_gelu_or_a_normalization_stays_whole(nodes: str) -> None:
    if nodes.startswith("e"):
        nodes = f"u = Div(x, root) {nodes.replace('Erf(x)', 'Erf(u)')}"
    check_declines(
        FoldScales(),
        f"""g (float[N, 16] x, float[16, 5] w, float[16] k, float one, float half, float root)
            => (float[N, 5] y) {{ {nodes} y = MatMul(a, w) }}""",
        "ends a Gelu or a normalization",
        weights=arrays(2, w=(16, 5), k=(16,))
        | {"one": np.float32(1), "half": np.float32(0.5), "root": np.float32(2**0.5)},
    )
