"""merge-small-layouts."""

from __future__ import annotations

import pytest
from checking import check_pass

from graphopt.passes.merge_small_layouts import MergeSmallLayouts

HEAD = """g (int64[1] a, int64[1] b, int64[2] c, int64[N] n) => (int64[A] y) <int64[4] zeros = {0, 0, 7, 8}, int64[2] pairs = {-1, 2},
    int64[1] rest = {-1}, int64[1] low = {-9}, int64[1] first = {0}, int64[2] two = {1, 0}, int64[2] k = {7, 0}, int64[2] l = {8, 0}>"""
PAIRS = "r = Slice(m, rest, low, first, rest) t = Transpose<perm = [1, 0]>(r)"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            f"p = Concat<axis = 0>(a, b, zeros) m = Reshape(p, pairs) {PAIRS} y = Reshape(t, rest)",
            "y = Concat<axis = 0>(k, a, l, b)",
        ),
        (
            f"p = Concat<axis = 0>(b, a) m = Unsqueeze(p, first) {PAIRS} y = Reshape(t, rest)",
            "y = Concat<axis = 0>(b, a)",
        ),
        ("p = Concat<axis = 0>(c, b) u = Unsqueeze(p, first) q = Squeeze(u, first) y = Gather(q, two)", None),
        ("p = Concat<axis = 0>(a, b) q = Concat<axis = 0>(p, c) i = Identity(q) y = Gather(i, two)",
         "y = Concat<axis = 0>(b, a)"),
        ("p = Concat<axis = 0>(a, b) y = Gather(p, two)", None),
        (f"m = Reshape(n, pairs) {PAIRS} y = Reshape(t, rest)", None),
        (f"p = Concat<axis = 0>(c, zeros) m = Reshape(p, pairs) {PAIRS} y = Reshape(t, rest)", None),
    ],
)  # fmt: skip
def test_rules(before: str, after: str | None) -> None:
    head = HEAD.replace("{7, 0}", "{7, 0}")
    text = None if after is None else f"{head} {{ {after} }}"
    check_pass(MergeSmallLayouts(), f"{head} {{ {before} }}", text, dims={"N": 4})
