"""eliminate-index-grids."""

from __future__ import annotations

import pytest
from checking import check_pass

from graphopt.passes.eliminate_index_grids import EliminateIndexGrids

HEAD = "g (float[N, M] x, int64 k) => (float[A, B, C] y)"
CONSTANTS = """<int64 zero = {0}, int64 one = {1}, int64 two = {2}, int64[1] last = {-1}, int64[2] first = {1, 2}, int64[2] back = {0, 1},
    int64[1] v0 = {0}, int64[1] v1 = {1}, int64[2] around = {0, 2}>"""
RANGES = """n = Shape<start = 0, end = 1>(x) n0 = Squeeze(n) m = Shape<start = 1, end = 2>(x) m0 = Squeeze(m)
    i = Range(zero, n0, one) j = Range(zero, m0, one) iu = Unsqueeze(i, first) ju = Unsqueeze(j, back)"""
UNUSED = "m = Shape<start = 1, end = 2>(x) m0 = Squeeze(m)"
JOIN = "both = Add(iu, ju) s = Shape(both) ie = Expand(iu, s) je = Expand(ju, s) i1 = Unsqueeze(ie, last) j1 = Unsqueeze(je, last)"
READ = "y = Unsqueeze(x, v1)"
DIMS = {"N": 3, "M": 2}


def both(before: str, after: str | None, head: str = HEAD) -> None:
    text = None if after is None else f"{head} {CONSTANTS} {{ {after} }}"
    check_pass(EliminateIndexGrids(), f"{head} {CONSTANTS} {{ {before} }}", text, dims=DIMS)


def test_gather_nd() -> None:
    both(f"{RANGES} {JOIN} g = Concat<axis = -1>(i1, j1) y = GatherND(x, g)", READ)


def test_flat_gather() -> None:
    head = HEAD.replace("C]", "C, D]")
    after = "y = Unsqueeze(x, w) ".replace("w", "spread")
    text = f"""{RANGES} f = Flatten<axis = 2>(x) p = Mul(iu, m) g = Add(ju, p) y = Gather(f, g)"""
    more = CONSTANTS.replace(">", ", int64[2] spread = {1, 3}>")
    check_pass(
        EliminateIndexGrids(), f"{head} {more} {{ {text} }}", f"{head} {more} {{ {after} }}", dims=DIMS
    )


def test_shorter_ranges_gather_along_their_axis() -> None:
    grid = f"{RANGES} {JOIN} g = Concat<axis = -1>(i1, j1) y = GatherND(x, g)"
    last = "j = Range(zero, m0, one)"
    for limit in ("two", "k"):
        both(
            grid.replace(last, f"j = Range(zero, {limit}, one)"),
            f"{UNUSED} j = Range(zero, {limit}, one) p = Gather<axis = 1>(x, j) y = Unsqueeze(p, v1)",
        )
    constant = "j = Constant<value = int64[2] {0, 1}>()"
    both(grid.replace(last, constant), f"{UNUSED} {constant} p = Gather<axis = 1>(x, j) y = Unsqueeze(p, v1)")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("i = Range(one, n0, one)", "i = Range(zero, n0, one)"),
        ("j = Range(zero, m0, two)", "j = Range(zero, m0, one)"),
        ("Concat<axis = -1>(j1, i1)", "Concat<axis = -1>(i1, j1)"),
        ("Concat<axis = -1>(i1)", "Concat<axis = -1>(i1, j1)"),
        ("Concat<axis = -1>(i1, i1)", "Concat<axis = -1>(i1, j1)"),
    ],
)
def test_other_grids_stay(wrong: str, right: str) -> None:
    text = f"{RANGES} {JOIN} g = Concat<axis = -1>(i1, j1) y = GatherND(x, g)"
    assert right in text
    head = HEAD.replace("C]", "C, D]") if wrong.endswith("(i1)") else HEAD
    both(text.replace(right, wrong), None, head)


@pytest.mark.parametrize("wrong", ["p = Mul(iu, n)", "p = Mul(ju, m)", "p = Add(iu, m)"])
def test_other_strides_stay(wrong: str) -> None:
    head = HEAD.replace("C]", "C, D]")
    both(f"{RANGES} f = Flatten<axis = 2>(x) {wrong} g = Add(ju, p) y = Gather(f, g)", None, head)


def test_counting_from_zero_is_not_negative() -> None:
    head = "g (bool[N, 1] x, int64 k, int64 b) => (bool[A, B] y)"
    both(
        "r = Range(zero, k, one) c = GreaterOrEqual(r, zero) y = And(x, c)",
        "r = Range(zero, k, one) s = Shape(r) y = Expand(x, s)",
        head,
    )
    both("r = Range(zero, k, one) c = GreaterOrEqual(r, one) y = And(x, c)", None, head)
    both("r = Range(zero, k, one) c = GreaterOrEqual(r, b) y = And(x, c)", None, head)
    both("r = Range(b, k, one) c = GreaterOrEqual(r, zero) y = And(x, c)", None, head)


@pytest.mark.parametrize(
    ("indices", "after"),
    [
        ("0, 0, 0, 1, 1, 0, 1, 1", "y = Unsqueeze(x, v1)"),
        ("0, 0, 0, -1, -1, 0, 1, 1", "y = Unsqueeze(x, v1)"),
        ("0, 0, 1, 0, 0, 1, 1, 1", None),
        ("0, 0, 0, 1, 1, 0, 1, 0", None),
    ],
)
def test_constant_grid(indices: str, after: str | None) -> None:
    head = (
        f"g (float[2, 2] x) => (float[A, B, C] y) <int64[1] v1 = {{1}}, int64[2, 1, 2, 2] i = {{{indices}}}>"
    )
    text = None if after is None else f"{head} {{ {after} }}"
    check_pass(EliminateIndexGrids(), f"{head} {{ y = GatherND(x, i) }}", text)
