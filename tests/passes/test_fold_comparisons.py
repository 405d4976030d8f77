"""fold-comparisons."""

from __future__ import annotations

import re

import pytest
from checking import check_pass

from graphopt.passes.fold_comparisons import FoldComparisons

FRAME = """g (float[N, M] x, float[N, 4] z, int64 k) => (float[P, Q] y)
    <int64 zero = {{0}}, int64 one = {{1}}, int64 four = {{4}},
    int64 million = {{1000000}}, int64 most = {{9223372036854775807}}> {{
    {}
    y = If(c) <then_branch = a () => (float[A, B] u) {{ u = Exp(x) }},
        else_branch = b () => (float[C, D] v) {{ v = Neg(z) }}> }}"""
SIZES = {
    "n": "s = Shape(x) n = Gather(s, zero)",
    "m": "t = Shape(x) m = Gather(t, one)",
    "p": "u1 = Shape(z) p = Gather(u1, zero)",
}


def framed(condition: str) -> str:
    """The model that asks `condition`, with the sizes that it names."""
    return FRAME.format(
        " ".join(v for k, v in SIZES.items() if re.search(rf"\b{k}\b", condition)) + condition
    )


DECIDED = """g (float[N, M] x, float[N, 4] z, int64 k) => (float[P, Q] y) <bool c = {{{}}}> {{
    y = If(c) <then_branch = a () => (float[A, B] u) {{ u = Exp(x) }},
        else_branch = b () => (float[C, D] v) {{ v = Neg(z) }}> }}"""


@pytest.mark.parametrize(
    ("condition", "answer"),
    [
        ("c = Equal(n, p)", 1),
        ("q = Add(n, one) c = Equal(q, p)", 0),
        ("q = Add(n, m) c = GreaterOrEqual(q, p)", 1),
        ("q = Add(n, m) c = Less(q, p)", 0),
        ("q = Mul(n, four) c = LessOrEqual(p, q)", 1),
        ("c = Less(n, zero)", 0),
        ("q = Add(n, one) c = Greater(q, zero)", 1),
    ],
)
def test_decided_for_all_sizes(condition: str, answer: int) -> None:
    check_pass(FoldComparisons(), before=framed(condition), after=DECIDED.format(answer))


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ("c = Equal(n, m)", "depends on the sizes"),
        ("c = Greater(n, zero)", "depends on the sizes"),
        ("q = Sub(n, m) c = Less(q, n)", "depends on the sizes"),
        ("q = Add(n, k) c = GreaterOrEqual(q, n)", "no arithmetic on shapes"),
        ("unused = Less(k, zero) c = Greater(n, zero)", "no arithmetic on shapes"),
        ("q = Add(n, most) c = Greater(q, n)", "no arithmetic on shapes"),  # wraps round
        ("q = Mul(n, million) r = Mul(q, million) c = GreaterOrEqual(r, n)", "no arithmetic on shapes"),
        ("q = Sub(k, one) r = Mul(n, q) c = Equal(r, p)", "no arithmetic on shapes"),
    ],
)
def test_near_misses(condition: str, reason: str) -> None:
    changes = check_pass(FoldComparisons(), before=framed(condition))
    assert any(reason in text for text in changes.declined), changes.declined


def test_vectors_element_by_element() -> None:
    check_pass(
        FoldComparisons(),
        before="""g (float[N, 4] x, int64[2] d) => (int64[2] y) <int64[2] ones = {1, 1}> {
            s = Shape(x) t = Mul(s, ones) c = Equal(s, t) y = Where(c, d, s) }""",
        after="""g (float[N, 4] x, int64[2] d) => (int64[2] y) <bool[2] c = {1, 1}> {
            s = Shape(x) y = Where(c, d, s) }""",
    )
