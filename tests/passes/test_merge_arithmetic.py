"""merge-arithmetic against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from checking import check_pass, model_from, run_onnxruntime
from rewriting import arrays, check_declines, check_rewrite

from graphopt.passes.merge_arithmetic import MergeArithmetic


@pytest.mark.parametrize(
    ("nodes", "after"),
    [
        ("a = Mul(x, p) y = Mul(q, a)", "Mul"),
        ("a = Div(x, p) y = Mul(q, a)", "Mul"),
        ("a = Add(x, p) y = Sub(a, q)", "Add"),
        ("a = Sub(p, x) y = Add(a, q)", "Sub"),
        ("a = Sub(p, x) y = Sub(q, a)", "Add"),
        ("a = Neg(x) y = Mul(a, p)", "Mul"),
        ("a = Mul(x, v) b = Sub(a, w) y = Div(b, p)", "Mul Add"),
        ("a = Add(x, v) b = Mul(a, w) c = Add(b, p) d = Mul(c, q) y = Neg(d)", "Mul Add"),
        ("a = Sub(v, x) b = Mul(a, w) y = Sub(p, b)", "Mul Add"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_chains(nodes: str, after: str, dtype: type) -> None:
    kind = "float" if dtype is np.float32 else "double"
    weights = {
        k: (np.abs(v) + 0.5).astype(dtype) for k, v in arrays(p=(), q=(1,), v=(3, 1), w=(3, 1)).items()
    }
    weights["q"] = weights["q"] * 3
    check_rewrite(
        MergeArithmetic(),
        f"""g ({kind}[N, 3, 4] x, {kind} p, {kind}[1] q, {kind}[3, 1] v, {kind}[3, 1] w)
            => ({kind}[N, 3, 4] y) {{ {nodes} }}""",
        after,
        weights=weights,
    )


def test_image_normalization() -> None:
    check_rewrite(
        MergeArithmetic(),
        """g (float[N, 3, H, W] x, float s, float[1, 3, 1, 1] mean, float[3, 1, 1] std)
            => (float[N, 3, H, W] y) { a = Div(x, s) b = Sub(a, mean) y = Div(b, std) }""",
        "Mul Add",
        weights={
            "s": np.float32(255),
            "mean": np.array([0.485, 0.456, 0.406], np.float32).reshape(1, 3, 1, 1),
            "std": np.array([0.229, 0.224, 0.225], np.float32).reshape(3, 1, 1),
        },
    )


def test_integers_wrap_as_before() -> None:
    check_pass(
        MergeArithmetic(),
        before="""g (int32[N] x) => (int32[N] y) <int32 a = {2147483647}, int32[1] b = {3}, int32 c = {5}> {
            p = Add(x, a) q = Mul(p, b) y = Sub(q, c) }""",
        after="""g (int32[N] x) => (int32[N] y) <int32[1] f = {3}, int32[1] s = {2147483640}> {
            q = Mul(x, f) y = Add(q, s) }""",
    )
    check_pass(
        MergeArithmetic(),
        before="g (int64[N] x) => (int64[N] y) <int64 a = {6}, int64 b = {4}> { p = Mul(x, a) y = Div(p, b) }",
    )


def test_negations_in_sums() -> None:
    for nodes, after in (
        ("n = Neg(b) y = Add(a, n)", "Sub(a, b)"),
        ("n = Neg(b) y = Add(n, a)", "Sub(a, b)"),
        ("n = Neg(b) y = Sub(a, n)", "Add(a, b)"),
    ):
        frame = "g (float[N] a, float[N] b) => (float[N] y) {{ {} }}"
        check_pass(MergeArithmetic(), before=frame.format(nodes), after=frame.format(f"y = {after}"))
    check_pass(
        MergeArithmetic(), before="g (float[N] a, float[N] b) => (float[N] y) { n = Neg(a) y = Sub(n, b) }"
    )
    check_pass(
        MergeArithmetic(),
        before="g (float[N] a, float[N] b) => (float[N] y, float[N] n) { n = Neg(b) y = Add(a, n) }",
    )


F32 = np.float32
NEAR_MISSES = {
    "rounding on purpose": ("a = Add(x, p) y = Sub(a, p)", {"p": F32(2**23)}, "cancel"),
    "two nodes already": ("a = Mul(x, p) y = Add(a, p)", {"p": F32(2)}, "two nodes already"),
    "overflow": ("a = Mul(x, p) y = Div(a, p)", {"p": F32(1e30)}, "overflows or vanishes"),
    "underflow": ("a = Div(x, p) y = Mul(a, p)", {"p": F32(1e30)}, "overflows or vanishes"),
    "overflow together": ("a = Mul(x, p) y = Mul(a, p)", {"p": F32(1e30)}, "overflows its type"),
    "infinite": ("a = Mul(x, p) y = Mul(a, p)", {"p": F32(np.inf)}, "not finite"),
    "zero": ("a = Mul(x, p) y = Div(a, p)", {"p": F32(0)}, "factor is zero"),
    "outer product": (
        "a = Mul(x, p) y = Mul(a, q)",
        {"p": np.ones((3, 1), F32), "q": np.full((1, 3), 2, F32)},
        "larger than each",
    ),
    "used elsewhere": ("a = Mul(x, p) b = Mul(a, p) y = Add(a, b)", {"p": F32(2)}, "no chain"),
    "a quotient of a constant": ("a = Mul(x, p) y = Div(p, a)", {"p": F32(2)}, "no chain"),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_misses(case: str) -> None:
    nodes, weights, reason = NEAR_MISSES[case]
    declared = ", ".join(
        f"float[{', '.join(map(str, v.shape))}] {k}" if v.ndim else f"float {k}" for k, v in weights.items()
    )
    check_declines(
        MergeArithmetic(),
        f"g (float[3, 3] x, {declared}) => (float[3, 3] y) {{ {nodes} }}",
        reason,
        weights=weights,
    )


@pytest.mark.parametrize("nodes", ["a = Sub(p, x) y = Sub(q, a)", "a = Sub(p, x) y = Add(q, a)"])
@pytest.mark.parametrize("kind", ["uint8", "uint64", "int8", "int32"])
def test_a_subtraction_from_a_constant_wraps_round(kind: str, nodes: str) -> None:
    """No factor of -1 fits an unsigned type: what it stands for does."""
    model = model_from(
        f"""g ({kind}[4] x) => ({kind}[4] y) <{kind} p = {{3}}, {kind} q = {{7}}>
        {{ {nodes} }}"""
    )
    original = model.clone()
    assert MergeArithmetic().run(model).modified
    feeds = {"x": np.array([0, 1, 5, 127], np.dtype(kind))}
    np.testing.assert_array_equal(run_onnxruntime(model, feeds)["y"], run_onnxruntime(original, feeds)["y"])
