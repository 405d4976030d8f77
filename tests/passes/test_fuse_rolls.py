"""fuse-rolls."""

from __future__ import annotations

import pytest
from checking import check_pass

from graphopt.passes.fuse_rolls import FuseRolls

CONSTANTS = """<int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] end = {9223372036854775807},
    int64[2] parts = {1, 3}, int64[4] rolled = {1, 2, 3, 0}, int64[3] some = {2, 3, 0}>"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a, b = Split<axis = 1>(x, parts) y = Concat<axis = 1>(b, a)", "y = Gather<axis = 1>(x, rolled)"),
        (
            "a = Slice(x, zero, one, one) b = Slice(x, one, end, one) y = Concat<axis = -2>(b, a)",
            "y = Gather<axis = 1>(x, rolled)",
        ),
        (
            "a = Slice(x, zero, one, one) b = Slice(x, two, end, one) y = Concat<axis = 1>(b, a)",
            "y = Gather<axis = 1>(x, some)",
        ),
        ("a, b = Split<axis = 1>(x, parts) y = Concat<axis = 1>(b, b, a)", None),
        ("a, b = Split<axis = 1>(x, parts) c = Exp(a) y = Concat<axis = 1>(b, c)", None),
        ("a = Slice(x, zero, one, two) b = Slice(x, one, end, two) y = Concat<axis = 2>(b, a)", None),
        ("a = Slice(x, zero, one, zero) b = Slice(x, one, end, zero) y = Concat<axis = 0>(b, a)", None),
        ("a = Slice(x, zero, one, one) b = Slice(z, one, end, one) y = Concat<axis = 1>(b, a)", None),
    ],
)
def test_rules(before: str, after: str | None) -> None:
    head = f"g (float[N, 4, 16] x, float[N, 4, 16] z) => (float[A, B, C] y) {CONSTANTS}"
    text = None if after is None else f"{head} {{ {after} }}"
    check_pass(FuseRolls(), f"{head} {{ {before} }}", text)
