"""raise-split."""

from __future__ import annotations

import pytest
from checking import check_pass

from graphopt.passes.raise_split import RaiseSplit

BIG = 2**63 - 1
CONSTANTS = f"""<int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] four = {{4}}, int64[1] six = {{6}},
    int64[1] end = {{{BIG}}}, int64[1] last = {{-2}}, int64[1] axis = {{-1}}, int64[2] halves = {{4, 2}}, int64[3] thirds = {{2, 2, 2}}>"""
HEAD = f"g (float[N, 6] x) => (float[A, B] y) {CONSTANTS}"
DIMS = {"N": 6}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "a = Slice(x, four, end, axis) b = Slice(x, zero, four, one) y = Concat<axis = 1>(a, b, a)",
            "b, a = Split<axis = 1>(x, halves) y = Concat<axis = 1>(a, b, a)",
        ),
        (
            "a = Slice(x, zero, four, one) b = Slice(x, last, end, one) n = Neg(b) y = Concat<axis = 1>(n, a)",
            "a, b = Split<axis = 1>(x, halves) n = Neg(b) y = Concat<axis = 1>(n, a)",
        ),
        (
            "c = Slice(x, four, six, one) a = Slice(x, zero, two, one) b = Slice(x, two, four, axis) "
            "d = Slice(x, zero, two, axis) y = Sum(a, c, b, d)",
            "a, b, c = Split<axis = 1>(x, thirds) y = Sum(a, c, b, a)",
        ),
        ("a = Slice(x, zero, four, one) b = Slice(x, two, end, one) y = Concat<axis = 1>(b, a)", None),
        ("a = Slice(x, zero, two, one) b = Slice(x, four, end, one) y = Concat<axis = 1>(b, a)", None),
        ("a = Slice(x, zero, two, zero) b = Slice(x, two, end, zero) y = Concat<axis = 0>(b, a)", None),
        (
            "a = Slice(x, zero, two, one) b = Slice(x, two, end, zero) c = Concat<axis = 1>(a, a) y = Identity(c)",
            None,
        ),
        ("a = Slice(x, zero, end, one, two) b = Slice(x, one, end, one, two) y = Add(b, a)", None),
    ],
)
def test_rules(before: str, after: str | None) -> None:
    text = None if after is None else f"{HEAD} {{ {after} }}"
    check_pass(RaiseSplit(), f"{HEAD} {{ {before} }}", text, dims=DIMS)


def test_a_part_that_is_an_output_keeps_its_name() -> None:
    head = HEAD.replace("y)", "y, float[C, D] z)")
    check_pass(
        RaiseSplit(),
        f"{head} {{ z = Slice(x, zero, four, one) b = Slice(x, four, end, one) y = Exp(b) }}",
        f"{head} {{ z, b = Split<axis = 1>(x, halves) y = Exp(b) }}",
        dims=DIMS,
    )


def test_parts_of_parts() -> None:
    check_pass(
        RaiseSplit(),
        f"""{HEAD} {{ a = Slice(x, zero, four, one) b = Slice(x, four, end, one) c = Slice(a, zero, two, one)
            d = Slice(a, two, end, one) y = Sum(b, c, d) }}""",
        f"""{HEAD.replace(">", ", int64[2] twos = {2, 2}>")} {{ a, b = Split<axis = 1>(x, halves)
            c, d = Split<axis = 1>(a, twos) y = Sum(b, c, d) }}""".replace(
            "=, int64[2] twos = {2, 2}>", "=>"
        ),
        dims=DIMS,
    )
