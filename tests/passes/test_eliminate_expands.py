"""eliminate-expands."""

from __future__ import annotations

import numpy as np
import pytest
from checking import check_pass

from graphopt.passes.eliminate_expands import EliminateExpands

HEAD = "g (float[N, 1, 4] x, float[N, 3, 4] z, float[4] c, int64[3] t) => (float[A, B, C] y)"
CONSTANTS = "int64[3] wide = {1, 3, 4}, int64[3] wider = {2, 1, 3}, int64[3] one = {1, 1, 1}"


def both(before: str, after: str | None, head: str = HEAD, **kwargs: object) -> None:
    text = None if after is None else f"{head} <{CONSTANTS}> {{ {after} }}"
    check_pass(EliminateExpands(), f"{head} <{CONSTANTS}> {{ {before} }}", text, **kwargs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("e = Expand(x, wide) y = Add(e, z)", "y = Add(x, z)"),
        ("e = Expand(x, wide) y = Sub(z, e)", "y = Sub(z, x)"),
        ("e = Expand(c, wide) y = Max(z, c, e)", "y = Max(z, c, c)"),
        ("r = Constant<value = int64[3] {1, 3, 1}>() e = Tile(x, r) y = Div(z, e)", "y = Div(z, x)"),
        ("s = Shape(z) e = Expand(x, s) y = Mul(e, z)", "s = Shape(z) y = Mul(x, z)"),
        ("e = Expand(x, wide) u = Exp(e) y = Add(u, z)", "u = Exp(x) y = Add(u, z)"),
        ("e = Expand(x, wide) y = Mul(e, c)", "m = Mul(x, c) y = Expand(m, wide)"),
        ("e = Expand(x, wide) y = Exp(e)", "m = Exp(x) y = Expand(m, wide)"),
        ("e = Expand(x, one) y = Expand(e, wide)", "y = Expand(x, wide)"),
        ("e = Expand(x, wide) y = Add(e, e)", "m = Add(x, x) y = Expand(m, wide)"),
        ("e = Expand(x, t) y = Add(e, z)", None),
        ("e = Expand(c, wide) y = Mul(e, x)", None),  # x may have more elements than e
        (
            "f = ConstantOfShape<value = float[1] {2.0}>(wide) y = Min(z, f)",
            "k = Constant<value = float {2.0}>() y = Min(z, k)",
        ),
    ],
)
def test_rules(before: str, after: str | None) -> None:
    if after is not None and "s = Shape(z) y" in after:
        after = after.replace("s = Shape(z) ", "")
    both(before, after)


def test_both_operands_expanded() -> None:
    head = "g (float[N, 1, 4] x, float[1, 3, 4] z) => (float[A, B, C] y)"
    both("s = Shape(x) e = Expand(z, s) y = Add(e, x)", "y = Add(z, x)", head)


def test_matmul() -> None:
    head = "g (float[1, 3, 4] a, float[2, 4, 5] b) => (float[A, B, C] y)"
    both(
        "t = Constant<value = int64[3] {2, 3, 4}>() e = Expand(a, t) y = MatMul(e, b)",
        "y = MatMul(a, b)",
        head,
    )
    head = "g (float[2, 1, 4] a, float[2, 4, 5] b) => (float[A, B, C] y)"
    both("t = Constant<value = int64[3] {2, 3, 4}>() e = Expand(a, t) y = MatMul(e, b)", None, head)


def test_tile_of_tile() -> None:
    more = "r = Constant<value = int64[3] {2, 1, 3}>() "
    both(
        f"{more} e = Tile(x, wide) y = Tile(e, r)",
        "r = Constant<value = int64[3] {2, 3, 12}>() y = Tile(x, r)",
    )
    both(f"{more} e = Tile(x, t) y = Tile(e, r)", None)


def test_an_expand_that_others_use_does_not_move() -> None:
    head = HEAD.replace(" y)", " y, float[D, E, F] e)")
    both("e = Expand(x, wide) y = Exp(e)", None, head)
    both("e = Expand(x, wide) y = Mul(e, c)", None, head)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("f = ConstantOfShape<value = bool[1] {1}>(s) y = And(c, f)", "y = Expand(c, s)"),
        (
            "f = ConstantOfShape<value = int64[1] {3}>(s) d = Cast<to = 9>(f) y = And(d, c)",
            "y = Expand(c, s)",
        ),
        (
            "f = ConstantOfShape<value = bool[1] {1}>(s) u = Unsqueeze(f, first) v = And(c, u) y = Squeeze(v, first)",
            "f = ConstantOfShape<value = bool[1] {1}>(s) u = Unsqueeze(f, first) t = Shape(u) v = Expand(c, t) "
            "y = Squeeze(v, first)",
        ),
        ("f = ConstantOfShape<value = bool[1] {0}>(s) y = And(c, f)", None),
        ("f = ConstantOfShape<value = bool[1] {1}>(s) y = Xor(c, f)", None),
    ],
)
def test_fills(before: str, after: str | None) -> None:
    head = "g (bool[1, 3] c, int64[2] s) => (bool[A, B] y) <int64[1] first = {0}>"
    feeds = {"c": np.array([[True, False, True]]), "s": np.array([2, 3])}
    text = None if after is None else f"{head} {{ {after} }}"
    check_pass(EliminateExpands(), f"{head} {{ {before} }}", text, feeds=feeds)


def test_rows_that_are_repeated() -> None:
    head = "g (float[N, 3, 4] x, int64[1, 3] i) => (float[A, B, C] y) <float[2, 4] w = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0}>"
    repeat = "n = Shape<start = 0, end = 1>(x) o = Constant<value = int64[1] {1}>() r = Concat<axis = 0>(n, o) t = Tile(i, r)"
    after = "g = Gather(w, i) y = Add(x, g)"
    feeds = {"x": np.ones((2, 3, 4), np.float32), "i": np.array([[0, 1, 1]])}
    check_pass(
        EliminateExpands(),
        f"{head} {{ {repeat} g = Gather(w, t) y = Add(x, g) }}",
        f"{head} {{ {after} }}",
        feeds=feeds,
    )
    head = head.replace("int64[1, 3] i", "int64[N, 3] i")
    check_pass(EliminateExpands(), f"{head} {{ {repeat} g = Gather(w, t) y = Add(g, g) }}", run=False)


def test_an_expand_does_not_move_to_a_type_without_kernel_nor_into_a_body() -> None:
    head = HEAD.replace("=> (float", "=> (bfloat16")
    both("e = Expand(x, wide) y = Cast<to = 16>(e)", None, head)
    both(
        "e = Expand(x, wide) k = Constant<value = bool {1}>() y = If (k) "
        "<then_branch = a () => (float[A, B, C] p) { p = Exp(e) }, "
        "else_branch = b () => (float[D, E, F] q) { q = Exp(x) }>",
        None,
    )
