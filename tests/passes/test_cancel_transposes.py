"""cancel-transposes: islands between Transposes are turned as a whole where fewer Transposes are left."""

from __future__ import annotations

import numpy as np
import pytest
from rewriting import arrays, check_declines, check_rewrite

from graphopt.passes.cancel_transposes import CancelTransposes

DOWN = "t = Transpose <perm = [0, 2, 3, 1]> (x)"
UP = "y = Transpose <perm = [0, 3, 1, 2]> (u)"


def source(body: str, outputs: str = "float[A, B, C, D] y", size: str = "2, 3, 4, 5") -> str:
    constants = """float[3] channel, float[5, 3] last, float[2, 4, 5, 3] full, float zero, float one, int64[8] pads,
        int64[2] axes, int64[2] starts, int64[2] ends, int64[1] minus, int64[4] wide, float[1, 1, 1, 1] k"""
    return f"g (float[{size}] x, {constants}) => ({outputs}) {{ {body} }}"


def weights() -> dict[str, np.ndarray]:
    integers = {
        "pads": [0, 1, 0, 2, 1, 0, 0, 1],
        "axes": [-1, 1],
        "starts": [0, 1],
        "ends": [2, 3],
        "minus": [-1],
        "wide": [2, 1, 1, 2],
    }
    found = arrays(channel=(3,), last=(5, 3), full=(2, 4, 5, 3), k=(1, 1, 1, 1))
    return found | {k: np.array(v, np.int64) for k, v in integers.items()} | {
        "zero": np.float32(0),
        "one": np.float32(1),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("body", "after"),
    [
        (f"{DOWN} a = Relu(t) b = Exp(t) u = Add(a, b) {UP}", "Relu Exp Add"),
        (f"{DOWN} a = Mul(t, channel) b = Add(a, last) c = Sigmoid(b) u = Mul(b, c) {UP}", "Mul Add Sigmoid Mul"),
        (f"{DOWN} a = Sub(t, full) b = Softmax <axis = 1> (a) u = Div(a, b) {UP}", "Sub Softmax Div"),
        (f"{DOWN} m = ReduceMean(t, axes) d = Sub(t, m) u = Mul(d, d) {UP}", "ReduceMean Sub Mul"),
        (f"{DOWN} a = Pad(t, pads) b = Neg(a) u = Concat <axis = -1> (a, b) {UP}", "Pad Neg Concat"),
        (f"{DOWN} a = Pad(t, pads, one) b = Slice(a, starts, ends, axes) u = Add(b, b) {UP}", "Pad Slice Add"),
        (f"{DOWN} a = Slice(t, starts, ends) b = Exp(a) u = Max(b, a, zero) {UP}", "Slice Exp Max"),
        (f"{DOWN} a, b = Split <axis = 1, num_outputs = 2> (t) u = Mul(b, a) {UP}", "Split Mul"),
        (f"{DOWN} a = Tile(t, wide) b = Exp(a) u = Add(a, b) {UP}", "Tile Exp Add"),
        (f"{DOWN} a = Clip(t, zero, one) b = Add(a, k) u = Where(c, a, b) {UP}", "Clip Add Cast Where"),
        (f"{DOWN} a = Relu(t) b = Neg(t) u = Add(a, b) y = Transpose <perm = [3, 0, 1, 2]> (u) "
         "z = Transpose <perm = [0, 3, 1, 2]> (u)", None),
    ],
)  # fmt: skip
def test_turned(body: str, after: str | None) -> None:
    outputs = "float[A, B, C, D] y"
    if after is None:
        outputs, after = f"{outputs}, float[E, F, G, H] z", "Relu Neg Add Transpose"
    if "Where(c" in body:
        body = body.replace(
            "u = Where", "d = Constant <value = float[1] {1.0}> () c = Cast <to = 9> (d) u = Where"
        )
        after = "Clip Add Cast Where"
    check_rewrite(CancelTransposes(), source(body, outputs), after, weights=weights())


def test_residual_blocks_of_another_layout() -> None:
    body = f"""{DOWN} r = Relu(t) d = Transpose <perm = [0, 3, 1, 2]> (r) p = MaxPool <kernel_shape = [1, 1]> (d)
        e = Transpose <perm = [0, 2, 3, 1]> (p) s = Add(e, r) q = Transpose <perm = [0, 3, 1, 2]> (s) y = Softplus(q)"""
    check_rewrite(CancelTransposes(), source(body), "Relu MaxPool Add Softplus", weights=weights())


def test_a_value_that_leaves_takes_one_transpose() -> None:
    body = f"{DOWN} a = Relu(t) v = Exp(t) u = Add(a, v) {UP}"
    outputs = "float[A, B, C, D] y, float[E, F, G, H] v"
    text = source(body, outputs, "2, 3, 4, 4")
    check_rewrite(
        CancelTransposes(), text, "Relu Exp Transpose Add", weights=weights() | arrays(full=(2, 4, 4, 3))
    )


def test_inside_a_branch() -> None:
    text = f"""g (float[2, 3, 4, 5] x, bool p) => (float[2, 3, 4, 5] r) {{
        r = If (p) <then_branch = a () => (float[2, 3, 4, 5] y) {{ {DOWN} b = Relu(t) u = Add(b, t) {UP} }},
                    else_branch = b () => (float[2, 3, 4, 5] z) {{ z = Exp(x) }}>
    }}"""
    check_rewrite(CancelTransposes(), text, "If Relu Add Exp")


@pytest.mark.parametrize(
    "body",
    [
        f"{DOWN} a = Relu(t) y = Exp(a)",
        f"{DOWN} a = MatMul(t, m) u = Exp(a) {UP}",
        f"{DOWN} a = ReduceMax <keepdims = 0> (t, minus) u = Unsqueeze(a, minus) {UP}",
    ],
)
def test_near_misses(body: str) -> None:
    text = source(body).replace("float[3] channel", "float[3, 3] m, float[3] channel")
    check_declines(CancelTransposes(), text, "", weights=weights() | arrays(m=(3, 3)))


def test_as_many_transposes_around() -> None:
    body = f"{DOWN} a = Exp(t) u = Add(a, z) y = Transpose <perm = [0, 1, 3, 2]> (u)"
    text = source(body).replace("float[3] channel", "float[2, 4, 5, 3] z, float[3] channel")
    check_declines(CancelTransposes(), text, "as many", weights=weights())


def test_two_transposes_make_up_for_one_that_is_new() -> None:
    body = f"{DOWN} a = Exp(t) u = Add(a, z) {UP}"
    text = source(body).replace("float[3] channel", "float[2, 4, 5, 3] z, float[3] channel")
    check_rewrite(CancelTransposes(), text, "Transpose Exp Add", weights=weights())


def test_what_comes_back_in_another_order_stays() -> None:
    body = f"""t = Transpose <perm = [0, 2, 3, 1]> (x) a = Exp(t) b = Transpose <perm = [0, 2, 3, 1]> (a)
        c = Add(a, b) {UP.replace("(u)", "(c)")}"""
    check_declines(CancelTransposes(), source(body, size="2, 4, 4, 4"), "as many")
