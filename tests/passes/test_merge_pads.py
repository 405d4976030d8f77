"""merge-pads."""

from __future__ import annotations

import pytest
from checking import check_pass

from graphopt.passes.merge_pads import MergePads

CONSTANTS = """int64[4] p = {0, 1, 0, 1}, int64[4] q = {2, 0, 0, 3}, int64[4] sum = {2, 1, 0, 4}, int64[2] r = {2, 3}, int64[1] last = {-1},
    int64[4] more = {0, 3, 0, 4}, int64[4] crop = {0, -1, 0, 0}, float zero = {0.0}, float minus = {-0.0}, float one = {1.0}"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a = Pad(x, p) y = Pad(a, q)", "y = Pad(x, sum)"),
        ("a = Pad(x, p, one) y = Pad(a, q, one)", "y = Pad(x, sum, one)"),
        ("a = Pad(x, p) y = Pad(a, q, zero)", "y = Pad(x, sum, zero)"),
        ("a = Pad(x, p) y = Pad(a, r, zero, last)", "y = Pad(x, more, zero)"),
        ("a = Pad<mode = 'edge'>(x, p) y = Pad<mode = 'edge'>(a, q)", "y = Pad<mode = 'edge'>(x, sum)"),
        ("a = Pad(x, p, one) y = Pad(a, q)", None),
        ("a = Pad(x, p, minus) y = Pad(a, q)", None),
        ("a = Pad(x, p) y = Pad(a, crop)", None),
        ("a = Pad(x, crop) y = Pad(a, p)", None),
        ("a = Pad<mode = 'edge'>(x, p) y = Pad(a, q)", None),
        ("a = Pad<mode = 'reflect'>(x, p) y = Pad<mode = 'reflect'>(a, p)", None),
        ("a = Pad(x, t) y = Pad(a, q)", None),
        ("a = Pad(x, p, k) y = Pad(a, q, k)", None),
    ],
)
def test_rules(before: str, after: str | None) -> None:
    head = f"g (float[3, 3] x, int64[4] t, float k) => (float[A, B] y) <{CONSTANTS}>".replace("'", '"')
    text = None if after is None else f"{head} {{ {after} }}".replace("'", '"')
    check_pass(MergePads(), f"{head} {{ {before} }}".replace("'", '"'), text)
