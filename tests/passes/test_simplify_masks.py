"""simplify-masks."""

from __future__ import annotations

import numpy as np
import pytest
from checking import check_pass

from graphopt.passes.simplify_masks import SimplifyMasks

FRAME = """g (bool[N, M] m, bool[N, 1] p, float[N, M] x, float[N, M] z, int64[N, M] i, int64[N, M] j)
    => ({type}[N, M] y) <{constants}float one = {{1.0}}> {{ {nodes} }}"""


def framed(nodes: str, type_: str = "float", constants: str = "") -> str:
    return FRAME.format(nodes=nodes, type=type_, constants=constants + ", " if constants else "")


LOGIC = [
    ("a = Less(i, j) y = Not(a)", "y = GreaterOrEqual(i, j)"),
    ("a = GreaterOrEqual(i, j) y = Not(a)", "y = Less(i, j)"),
    ("y = And(m, m)", "y = Identity(m)"),
    ("a = And(p, m) y = And(m, a)", "y = And(p, m)"),
    ("a = Less(x, z) b = Equal(z, x) y = Or(a, b)", "y = LessOrEqual(x, z)"),
    ("a = Equal(i, j) b = Greater(i, j) y = Or(a, b)", "y = GreaterOrEqual(i, j)"),
]


@pytest.mark.parametrize(("before", "after"), LOGIC)
def test_logic(before: str, after: str) -> None:
    check_pass(SimplifyMasks(), before=framed(before, "bool"), after=framed(after, "bool"))


@pytest.mark.parametrize(
    "nodes",
    [
        "a = Less(x, z) y = Not(a)",
        "a = And(p, m) y = Or(m, a)",
        "a = Less(x, z) b = Equal(x, x) y = Or(a, b)",
        "a = Equal(x, one) y = Not(a)",
        "y = And(m, p)",
    ],
)
def test_logic_near_misses(nodes: str) -> None:
    check_pass(SimplifyMasks(), before=framed(nodes, "bool"))


@pytest.mark.parametrize("kind", ["float", "float16", "double", "int64"])
def test_not_zero_is_true(kind: str) -> None:
    x = np.array([0, 1, -2], np.int64) if kind == "int64" else np.array([-0.0, np.nan, 1e-7])
    frame = "g (KIND[3] x) => (bool[3] y) <KIND zero = {0}> { NODES }".replace("KIND", kind)
    if kind == "float16":
        x = x.astype(np.float16)
    check_pass(
        SimplifyMasks(),
        before=frame.replace("NODES", "e = Equal(x, zero) y = Not(e)"),
        after=frame.replace("NODES", "y = Cast<to = 9>(x)"),
        feeds={"x": x if kind in ("int64", "float16", "double") else x.astype(np.float32)},
    )


CHOICES = [
    ("a = Not(m) y = Where(a, x, z)", "y = Where(m, z, x)", ""),
    ("a = Where(m, x, z) y = Where(m, a, x)", "y = Where(m, x, x)", ""),
    ("a = Where(m, x, z) y = Where(m, x, a)", "y = Where(m, x, z)", ""),
    ("a = Cast<to = 1>(m) y = Mul(a, k)", "y = Where(m, k, v)", "float k = {-5.0}, float v = {-0.0}"),
    ("a = Cast<to = 1>(m) y = Sub(one, a)", "y = Where(m, v, one)", "float v = {0.0}"),
    (
        "a = Cast<to = 1>(m) b = Sub(one, a) y = Mul(b, k)",
        "y = Where(m, v, k)",
        "float k = {-5.0}, float v = {-0.0}",
    ),
    (
        "a = Cast<to = 7>(m) b = Neg(a) y = Cast<to = 1>(b)",
        "y = Where(m, k, v)",
        "float k = {-1.0}, float v = {0.0}",
    ),
    (
        "a = Where(m, k, v) y = Div(a, v)",
        "y = Where(m, w, one)",
        "float k = {6.0}, float v = {3.0}, float w = {2.0}",
    ),
]


@pytest.mark.parametrize(("before", "after", "constants"), CHOICES)
def test_choices(before: str, after: str, constants: str) -> None:
    check_pass(
        SimplifyMasks(), before=framed(before, "float", constants), after=framed(after, "float", constants)
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a = Cast<to = 7>(m) y = Equal(a, zero)", "y = Not(m)"),
        ("a = Cast<to = 7>(m) y = Greater(a, zero)", "y = Identity(m)"),
        ("a = Where(m, zero, four) y = Less(a, four)", "y = Identity(m)"),
        ("y = Where(m, t, f)", "y = Identity(m)"),
        ("y = Where(m, f, t)", "y = Not(m)"),
    ],
)
def test_truth_values(before: str, after: str) -> None:
    constants = "int64 zero = {0}, int64 four = {4}, bool t = {1}, bool f = {0}"
    # ONNX Runtime cannot choose between truth values, so there is nothing to compare with.
    run = "Where(m, t" not in before and "Where(m, f" not in before
    model, wanted = (framed(nodes, "bool", constants) for nodes in (before, after))
    check_pass(SimplifyMasks(), before=model, after=wanted, run=run)


@pytest.mark.parametrize(
    "nodes",
    [
        "a = Cast<to = 1>(m) y = Mul(a, x)",
        "a = Cast<to = 1>(m) b = Mul(a, k) y = Add(a, b)",
        "a = Cast<to = 1>(i) y = Mul(a, k)",
        "a = Where(m, k, x) y = Mul(a, k)",
        "a = Where(p, k, one) b = Where(p, a, x) y = Add(a, b)",
    ],
)
def test_choices_near_misses(nodes: str) -> None:
    check_pass(SimplifyMasks(), before=framed(nodes, "float", "float k = {-5.0}"))


FILL = """g (float[N, M] x) => (float[N, M] y) <float k = {{2.0}}, float[1, 1] u = {{1.0}}> {{
    s = Shape(x) {} }}"""


@pytest.mark.parametrize(
    ("before", "number"),
    [
        ("a = ConstantOfShape<value = float[1] {1.0}>(s) y = Sub(k, a)", 1.0),
        ("a = Expand(u, s) y = Mul(a, k)", 2.0),
        ("a = Expand(u, s) b = Neg(a) c = Cast<to = 11>(b) y = Cast<to = 1>(c)", -1.0),
        ("a = Expand(u, s) b = ConstantOfShape<value = float[1] {4.0}>(s) y = Div(a, b)", 0.25),
    ],
)
def test_one_number_throughout(before: str, number: float) -> None:
    after = f"y = ConstantOfShape<value = float[1] {{{number}}}>(s)"
    check_pass(SimplifyMasks(), before=FILL.format(before), after=FILL.format(after))


@pytest.mark.parametrize(
    "nodes",
    [
        "a = Expand(u, s) y = Mul(a, x)",
        "t = Shape<end = 1>(x) a = ConstantOfShape(t) b = Expand(u, s) c = Unsqueeze(a, s) y = Mul(b, x)",
        "a = Exp(x) y = Mul(a, k)",
    ],
)
def test_not_one_number_throughout(nodes: str) -> None:
    check_pass(SimplifyMasks(), before=FILL.format(nodes.replace("c = Unsqueeze(a, s) ", "")))


def test_a_neutral_mask() -> None:
    frame = "g (bool[N, M] m, bool[N, 1] p) => (bool[N, M] y) {{ s = Shape({}) {} }}"
    fill = "t = ConstantOfShape<value = bool[1] {1}>(s)"
    check_pass(
        SimplifyMasks(),
        before=frame.format("m", f"{fill} y = And(t, m)"),
        after="g (bool[N, M] m, bool[N, 1] p) => (bool[N, M] y) { y = Identity(m) }",
    )
    check_pass(SimplifyMasks(), before=frame.format("m", f"{fill} y = And(t, p)"))
    check_pass(SimplifyMasks(), before=frame.format("m", f"{fill} y = Or(t, m)"))
    check_pass(SimplifyMasks(), before=frame.format("m", f"{fill} y = Where(t, p, m)"))


POSITIONS = """g (float[N, 4, S, S] x, bool[N, 1, 1, S] m, bool[N, 1, S, S] w) => ({type}[A, B, C, D] y)
    <int64 zero = {{0}}, int64 one = {{1}}, int64[3] axes = {{0, 1, 3}}, float a = {{0.0}}, float b = {{-9.0}}> {{
    s = Shape<start = 3>(x) n = Squeeze(s) r = Range(zero, n, one) p = Unsqueeze(r, axes) {nodes} }}"""
PLAIN = """g (float[N, 4, S, S] x, bool[N, 1, 1, S] m, bool[N, 1, S, S] w) => ({type}[A, B, C, D] y)
    <float a = {{0.0}}, float b = {{-9.0}}> {{ {nodes} }}"""


def test_positions_are_never_negative() -> None:
    for truth in ("GreaterOrEqual(p, zero)", "LessOrEqual(zero, p)"):
        check_pass(
            SimplifyMasks(),
            before=POSITIONS.format(type="bool", nodes=f"t = {truth} y = And(w, t)"),
            after=PLAIN.format(type="bool", nodes="y = Identity(w)"),
            dims={"S": 5},
        )
    check_pass(
        SimplifyMasks(),
        before=POSITIONS.format(
            type="float", nodes="t = GreaterOrEqual(p, zero) c = And(t, m) k = Where(c, a, b) y = Add(x, k)"
        ),
        after=PLAIN.format(type="float", nodes="k = Where(m, a, b) y = Add(x, k)"),
        dims={"S": 5},
    )


@pytest.mark.parametrize(
    ("type_", "nodes"),
    [
        ("bool", "t = Greater(p, zero) y = And(w, t)"),
        ("bool", "t = LessOrEqual(p, zero) y = And(w, t)"),
        ("bool", "t = GreaterOrEqual(p, one) y = And(w, t)"),
        ("bool", "t = GreaterOrEqual(p, zero) y = And(m, t)"),
        ("float", "t = GreaterOrEqual(p, zero) c = And(t, m) y = Where(c, a, b)"),
        ("float", "t = GreaterOrEqual(p, zero) c = And(t, m) k = Where(c, a, b) y = Exp(k)"),
        ("float", "t = GreaterOrEqual(p, zero) c = And(t, m) y = Where(c, x, b)"),
    ],
)
def test_other_positions_and_shapes_that_are_seen(type_: str, nodes: str) -> None:
    check_pass(SimplifyMasks(), before=POSITIONS.format(type=type_, nodes=nodes), dims={"S": 5})
