"""merge-gathers."""

from __future__ import annotations

import pytest
from checking import check_pass

from graphopt.passes.merge_gathers import MergeGathers

BIG = 2**63 - 1
CONSTANTS = f"""int64 zero = {{0}}, int64 one = {{1}}, int64 two = {{2}}, int64 three = {{3}}, int64 minus = {{-1}},
    int64 five = {{5}}, int64[1] v0 = {{0}}, int64[1] v1 = {{1}}, int64[1] v2 = {{2}}, int64[1] v3 = {{3}}, int64[1] m2 = {{-2}},
    int64[1] m3 = {{-3}}, int64[1] end = {{{BIG}}}, int64[2] both = {{0, 1}}, int64[3] pick = {{4, -1, 2}},
    int64[2, 2] grid = {{0, 2, -1, 1}}, int64[2] picked = {{4, 2}}, int64[2, 2] grids = {{4, 2, 2, -1}},
    int64[3] near = {{2, 3, 4}}, int64[3] whole = {{0, 1, 2}}, int64[2] last = {{-2, -1}}, int64[2] around = {{-1, 0}}"""


def both(head: str, before: str, after: str | None, **kwargs: object) -> None:
    text = None if after is None else f"{head} <{CONSTANTS}> {{ {after} }}"
    check_pass(MergeGathers(), f"{head} <{CONSTANTS}> {{ {before} }}", text, **kwargs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("y = Gather<axis = 1>(c, three)", "y = Gather<axis = 1>(q, one)"),
        ("y = Gather<axis = -1>(c, one)", "y = Gather<axis = 1>(p, one)"),
        ("y = Gather<axis = 1>(c, minus)", "y = Gather<axis = 1>(q, two)"),
        ("y = Gather<axis = 0>(c, one)", None),
    ],
)
def test_gather_of_concat(before: str, after: str | None) -> None:
    head = "g (float[3, 2] p, float[3, 3] q) => (float[A] y)"
    both(head, f"c = Concat<axis = 1>(p, q) {before}", after)


def test_gather_of_a_symbolic_concat() -> None:
    head = "g (float[2, 3] p, float[N, 3] q) => (float[A] y)"
    both(head, "c = Concat<axis = 0>(p, q) y = Gather(c, one)", "y = Gather(p, one)")
    both(head, "c = Concat<axis = 0>(p, q) y = Gather(c, three)", None)
    both(head, "c = Concat<axis = 0>(p, q) y = Gather(c, minus)", None)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("s = Slice(x, v1, end, v0) y = Gather(s, two)", "y = Gather(x, three)"),
        ("s = Slice(x, v1, end, v0) y = Gather(s, minus)", "y = Gather(x, minus)"),
        ("s = Slice(x, v1, end, v0, v2) y = Gather(s, one)", "y = Gather(x, three)"),
        ("s = Slice(x, m2, end, v0) y = Gather(s, one)", None),
        ("s = Slice(x, v1, v3, v0) y = Gather(s, minus)", None),
        ("s = Slice(x, v0, v1, v1) y = Gather(s, one)", None),
    ],
)
def test_gather_of_slice(before: str, after: str | None) -> None:
    both("g (float[N, 3] x) => (float[A] y)", before, after, dims={"N": 5})


def test_gather_of_a_slice_of_known_size() -> None:
    head = "g (float[5, 3] x) => (float[A] y)"
    both(head, "s = Slice(x, m3, end, v0) y = Gather(s, zero)", "y = Gather(x, two)")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("u = Unsqueeze(x, v1) y = Gather<axis = 1>(u, zero)", "y = Identity(x)"),
        ("u = Unsqueeze(x, v1) y = Gather<axis = 1>(u, minus)", "y = Identity(x)"),
        ("u = Unsqueeze(x, v1) y = Gather<axis = 0>(u, zero)", None),
        ("u = Unsqueeze(x, both) y = Gather<axis = 0>(u, zero)", "y = Unsqueeze(x, v0)"),
        ("u = Unsqueeze(x, v1) y = Gather<axis = 1>(u, v0)", "y = Unsqueeze(x, v1)"),
        ("u = Unsqueeze(x, v1) y = Gather<axis = 1>(u, around)", None),
    ],
)
def test_gather_of_unsqueeze(before: str, after: str | None) -> None:
    rank = "A, B" if after == "y = Identity(x)" else "A, B, C"
    if "axis = 0>(u, zero)" in before and after is None:
        rank = "A, B"
    both(f"g (float[3, 2] x) => (float[{rank}] y)", before, after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("i = Gather(x, pick) y = Gather(i, two)", "y = Gather(x, two)"),
        ("i = Gather(x, pick) y = Gather(i, around)", "y = Gather(x, r)"),
        ("i = Gather<axis = 1>(x, pick) y = Gather(i, two)", None),
        ("i = Gather(x, pick) y = Gather(i, three)", None),
        ("i = Gather(x, j) y = Gather(i, two)", None),
    ],
)
def test_gather_of_gather(before: str, after: str | None) -> None:
    rank = "A, B" if "around" in before else "A"
    head = f"g (float[N, 6] x, int64[3] j) => (float[{rank}] y)"
    more = f"{CONSTANTS}, int64[2] r = {{2, 4}}"
    text = None if after is None else f"{head} <{more}> {{ {after} }}"
    check_pass(MergeGathers(), f"{head} <{more}> {{ {before} }}", text, dims={"N": 6})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("y = Gather<axis = 1>(x, near)", "y = Slice(x, v2, v5, v1)"),
        ("y = Gather<axis = 1>(x, last)", "y = Slice(x, v4, v6, v1)"),
        ("y = Gather<axis = 2>(x, whole)", "y = Identity(x)"),
        ("y = Gather<axis = 1>(x, around)", None),
        ("y = Gather<axis = 1>(x, pick)", None),
        ("y = Gather<axis = 0>(x, near)", None),
    ],
)
def test_gather_of_neighbours(before: str, after: str | None) -> None:
    head = "g (float[N, 6, 3] x) => (float[A, B, C] y)"
    more = f"{CONSTANTS}, int64[1] v4 = {{4}}, int64[1] v5 = {{5}}, int64[1] v6 = {{6}}"
    text = None if after is None else f"{head} <{more}> {{ {after} }}"
    check_pass(MergeGathers(), f"{head} <{more}> {{ {before} }}", text, dims={"N": 6})


def test_gather_of_expand() -> None:
    head = "g (float[3, 1, 2] x, int64[3] t) => (float[A, B] y)"
    more = f"{CONSTANTS}, int64[3] wide = {{3, 4, 2}}, int64[3] other = {{3, 4, 1}}, int64[4] more = {{2, 3, 4, 2}}"
    for before, after in (
        ("e = Expand(x, wide) y = Gather<axis = 1>(e, three)", "y = Gather<axis = 1>(x, zero)"),
        ("e = Expand(x, other) y = Gather<axis = 1>(e, three)", "y = Gather<axis = 1>(x, zero)"),
        ("e = Expand(x, wide) y = Gather<axis = 0>(e, two)", None),
        ("e = Expand(x, t) y = Gather<axis = 1>(e, one)", None),
    ):
        text = None if after is None else f"{head} <{more}> {{ {after} }}"
        check_pass(MergeGathers(), f"{head} <{more}> {{ {before} }}", text)
