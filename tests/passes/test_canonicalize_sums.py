"""canonicalize-sums: two operands, and other numbers of them."""

from __future__ import annotations

import pytest
from checking import check_pass

from graphopt.passes.canonicalize_sums import CanonicalizeSums


def test_two_operands_broadcast_too() -> None:
    head = "g (float[N, 4] a, float[4] b) => (float[N, 4] y)"
    check_pass(CanonicalizeSums(), f"{head} {{ y = Sum(a, b) }}", f"{head} {{ y = Add(a, b) }}")


@pytest.mark.parametrize("body", ["y = Sum(a)", "y = Sum(a, a, a)", "y = Mean(a, a)"])
def test_other_numbers_of_operands(body: str) -> None:
    check_pass(CanonicalizeSums(), f"g (float[N, 4] a) => (float[N, 4] y) {{ {body} }}")
