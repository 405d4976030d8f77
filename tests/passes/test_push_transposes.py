"""push-transposes against ONNX Runtime: what cancels, what merges and what stays."""

from __future__ import annotations

import numpy as np
import pytest
from rewriting import arrays, check_declines, check_rewrite, operators, with_weights

from graphopt.passes.push_transposes import PushTransposes

DOWN = "t = Transpose <perm = [0, 2, 3, 1]> (x)"
UP = "y = Transpose <perm = [0, 3, 1, 2]> (u)"
X = "float[N, 3, 4, 5] x"
Y = "float[A, B, C, D] y"


@pytest.mark.parametrize(
    ("body", "after"),
    [
        (f"{DOWN} u = Relu(t) {UP}", "Relu"),
        (
            f"{DOWN} a = Sigmoid(t) b = Clip(a, zero, one) u = LeakyRelu <alpha = 0.5> (b) {UP}",
            "Sigmoid Clip LeakyRelu",
        ),
        (f"{DOWN} u = Softmax <axis = -1> (t) {UP}", "Softmax"),
        (f"{DOWN} u = LogSoftmax <axis = 1> (t) {UP}", "LogSoftmax"),
        (f"{DOWN} a = Mul(t, channel) u = Add(last, a) {UP}", "Mul Add"),
        (f"{DOWN} u = Add(t, full) {UP}", "Add"),
        (f"{DOWN} a = Relu(t) y = Transpose <perm = [1, 2, 3, 0]> (a)", "Relu Transpose"),
        (f"{DOWN} u = Pad(t, pads, zero) {UP}", "Pad"),
        (f"{DOWN} u = Pad(t, two_pads, zero, axes) {UP}", "Pad"),
        (f"{DOWN} u = Slice(t, starts, ends, axes) {UP}", "Slice"),
        (f"{DOWN} u = Slice(t, starts, ends) {UP}", "Slice"),
        (
            f"{DOWN} a = Exp(t) s = Transpose <perm = [0, 2, 3, 1]> (x) b = Tanh(s) u = Add(a, b) {UP}",
            "Exp Tanh Add",
        ),
        (f"{DOWN} s = Transpose <perm = [0, 2, 3, 1]> (x) y = Add(t, s)", "Add Transpose"),
        (f"{DOWN} s = Transpose <perm = [0, 2, 3, 1]> (x) y = Concat <axis = 3> (t, s)", "Concat Transpose"),
        (f"{DOWN} y = ReduceMean(t, axes)", "ReduceMean Transpose"),
        (f"{DOWN} y = ReduceSum <keepdims = 0> (t, hw)", "ReduceSum"),
        (f"{DOWN} y = ReduceMax <keepdims = 0> (t, axes)", "ReduceMax"),
        (f"{DOWN} y = ReduceMin <keepdims = 0> (t, first)", "ReduceMin Transpose"),
        (f"{DOWN} y = ReduceMean(t)", "ReduceMean"),
    ],
)
def test_rewrites(body: str, after: str) -> None:
    last = body[body.index("y = ") :]
    rank = 4 if "keepdims = 0" not in last else 3 if "first" in last else 2
    outputs = f"float[{', '.join('ABCD'[:rank])}] y"
    check_rewrite(PushTransposes(), source(body, outputs), after, weights=weights())


def source(body: str, outputs: str = Y) -> str:
    constants = (
        "float[5] none, float[3] channel, float[5, 3] last, float[2, 4, 5, 3] full, float zero, float one, "
        "int64[8] pads, int64[4] two_pads, int64[2] axes, int64[2] hw, int64[1] first, int64[2] starts, "
        "int64[2] ends"
    )
    return f"g (float[2, 3, 4, 5] x, {constants}) => ({outputs}) {{ {body} }}"


def weights() -> dict[str, np.ndarray]:
    integers = {
        "pads": [0, 1, 0, 2, 1, 0, 0, 1],
        "two_pads": [1, 0, 2, 1],
        "axes": [-1, 1],
        "hw": [1, 2],
        "first": [0],
        "starts": [0, 1],
        "ends": [2, 3],
    }
    return arrays(none=(5,), channel=(3,), last=(5, 3), full=(2, 4, 5, 3)) | {
        **{k: np.array(v, np.int64) for k, v in integers.items()},
        "zero": np.float32(0),
        "one": np.float32(1),
    }


def test_split_into_parts_that_are_transposed_again() -> None:
    body = f"""{DOWN} p, q, r = Split <axis = 2, num_outputs = 3> (t)
        y = Transpose <perm = [0, 3, 1, 2]> (p) z = Transpose <perm = [0, 3, 1, 2]> (q)
        w = Transpose <perm = [0, 1, 3, 2]> (r)"""
    outputs = ", ".join(f"float[A{n}, B{n}, C{n}, D{n}] {n}" for n in "yzw")
    check_rewrite(PushTransposes(), source(body, outputs), "Split Transpose", weights=weights())


def test_an_identity_permutation_of_an_input_that_is_an_output_stays() -> None:
    text = source(f"{DOWN} y = Transpose <perm = [0, 3, 1, 2]> (t)")
    check_declines(PushTransposes(), text, "carries an input", weights=weights())


def test_inside_a_branch() -> None:
    text = f"""g (float[2, 3, 4, 5] x, bool p) => (float[2, 3, 4, 5] r) {{
        r = If (p) <then_branch = a () => (float[2, 3, 4, 5] y) {{ {DOWN} u = Relu(t) {UP} }},
                    else_branch = b () => (float[2, 3, 4, 5] z) {{ z = Exp(x) }}>
    }}"""
    check_rewrite(PushTransposes(), text, "If Relu Exp")


@pytest.mark.parametrize(
    ("body", "outputs", "reason"),
    [
        (f"{DOWN} y = Relu(t)", Y, "meet no other"),
        (f"{DOWN} u = Relu(t) z = Exp(t) {UP}", f"{Y}, float[E, F, G, H] z", "used elsewhere"),
        (f"{DOWN} u = Relu(t) {UP}", f"{Y}, float[E, F, G, H] t", "used elsewhere"),
        (f"{DOWN} u = Relu(t) {UP}", f"{Y}, float[E, F, G, H] u", "meet no other"),
        (f"{DOWN} y = Mul(t, t)", Y, "meet no other"),
        (f"{DOWN} y = ReduceMean(t, axes) z = Relu(t)", f"{Y}, float[E, F, G, H] z", "used elsewhere"),
        (f"{DOWN} p, q, r = Split <axis = 2, num_outputs = 3> (t) {UP.replace('(u)', '(p)')} z = Relu(q)",
         f"{Y}, float[E, F, G, H] z", "not transposed again"),
        (f"{DOWN} s = Transpose <perm = [0, 3, 2, 1]> (x) y = MatMul(t, s)", Y, ""),
    ],
)  # fmt: skip
def test_near_misses(body: str, outputs: str, reason: str) -> None:
    check_declines(PushTransposes(), source(body, outputs), reason, weights=weights())


def test_different_permutations_do_not_merge() -> None:
    body = "t = Transpose <perm = [0, 1, 3, 2]> (x) s = Transpose <perm = [1, 0, 3, 2]> (x) y = Add(t, s)"
    text = f"g (float[3, 3, 4, 5] x) => (float[3, 3, 5, 4] y) {{ {body} }}"
    check_declines(PushTransposes(), text, "permutations differ")


def test_a_long_chain_is_linear_and_ends() -> None:
    chain = " ".join(f"v{i} = Relu(v{i - 1})" for i in range(1, 40))
    ends = DOWN.replace("t =", "v0 ="), UP.replace("(u)", "(v39)")
    text = f"g ({X}) => ({Y}) {{ {ends[0]} {chain} {ends[1]} }}"
    model = with_weights(text, {})
    assert PushTransposes().run(model).counts.total() == 40
    assert operators(model) == ["Relu"] * 39
