"""merge-reductions."""

from __future__ import annotations

import pytest
from checking import check_pass

from graphopt.passes.merge_reductions import MergeReductions

FRAME = """g (float[B, 3, Q, 5] x, int64[B, 3, Q, 5] i) => ({kind}[{dims}] y)
    <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] last = {{-1}}, int64[1] three = {{3}},
    int64[2] both = {{2, 3}}, int64[2] outer = {{0, 2}}, int64[4] all = {{0, 1, 2, 3}}> {{ {nodes} }}"""


def framed(nodes: str, rank: int = 4, kind: str = "float") -> str:
    return FRAME.format(nodes=nodes, kind=kind, dims=", ".join("WXYZ"[:rank]))


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"])
@pytest.mark.parametrize(
    ("before", "after", "rank"),
    [
        ("a = OP(x, last) y = OP(a, two)", "y = OP(x, both)", 4),
        ("a = OP<keepdims = 0>(x, zero) y = OP<keepdims = 0>(a, one)", "y = OP<keepdims = 0>(x, outer)", 2),
        ("a = OP(x, both) y = OP<keepdims = 0>(a)", "y = OP<keepdims = 0>(x, all)", 0),
    ],
)
def test_reductions_of_reductions(op: str, before: str, after: str, rank: int) -> None:
    check_pass(
        MergeReductions(),
        before=framed(before.replace("OP", op), rank),
        after=framed(after.replace("OP", op), rank),
    )


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceL2", "ReduceLogSumExp"])
def test_axes_kept_or_dropped(op: str) -> None:
    kept, dropped = f"{op}(x, both)", f"{op}<keepdims = 0>(x, both)"
    check_pass(
        MergeReductions(),
        before=framed(f"a = {kept} y = Squeeze(a, both)", 2),
        after=framed(f"y = {dropped}", 2),
    )
    check_pass(
        MergeReductions(), before=framed(f"a = {dropped} y = Unsqueeze(a, both)"), after=framed(f"y = {kept}")
    )


def test_position_of_the_largest() -> None:
    check_pass(
        MergeReductions(),
        before=framed("a = ArgMax<axis = 3>(x) y = Squeeze(a, last)", 3, "int64"),
        after=framed("y = ArgMax<axis = 3, keepdims = 0>(x)", 3, "int64"),
    )


@pytest.mark.parametrize(
    ("nodes", "rank"),
    [
        ("a = ReduceSum(x, last) y = ReduceMax(a, two)", 4),
        ("a = ReduceSum(x, last) y = ReduceSum<keepdims = 0>(a, two)", 3),
        ("a = ReduceSum<keepdims = 0>(x, last) y = ReduceSum(a, two)", 3),
        ("a = ReduceSum(x, last) b = ReduceSum(a, two) y = Add(a, b)", 4),
        ("a = ReduceSum(x, three) y = Squeeze(a)", 3),
        ("a = ReduceSum<keepdims = 0>(x, both) y = Unsqueeze(a, one)", 3),
        ("a = ReduceSum<noop_with_empty_axes = 1>(x) y = ReduceSum(a, two)", 4),
    ],
)
def test_near_misses(nodes: str, rank: int) -> None:
    check_pass(MergeReductions(), before=framed(nodes, rank))


def test_a_mean_of_integers_is_truncated_twice() -> None:
    nodes = "a = ReduceMean(i, last) y = ReduceMean(a, two)"
    check_pass(MergeReductions(), before=framed(nodes, kind="int64"))
