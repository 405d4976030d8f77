"""merge-reshapes."""

from __future__ import annotations

import pytest
from checking import check_pass

from graphopt.passes.merge_reshapes import MergeReshapes

# (x, y, constants, nodes before, nodes after)
MERGED = [
    (
        *("[N, 2, 3]", "[A, B, C]", "s = {0, 6}|t = {-1, 3, 2}"),
        *("a = Reshape(x, s) y = Reshape(a, t)", "y = Reshape(x, t)"),
    ),
    (
        *("[N, 2, 3]", "[A, B, C]", "s = {0, 3, 2}|t = {0, 6}"),
        *("a = Flatten(x) y = Reshape(a, s)", "y = Reshape(x, s)"),
    ),
    (
        *("[N, 2, 3]", "[A, B, C, D]", "s = {0}|t = {3}|u = {0, 3}"),
        *("a = Unsqueeze(x, s) b = Unsqueeze(a, t) y = Relu(b)", "b = Unsqueeze(x, u) y = Relu(b)"),
    ),
    (
        *("[N, 2, 3]", "[A, B, C]", "s = {1}"),
        *("a = Unsqueeze(x, s) b = Squeeze(a, s) y = Relu(b)", "y = Relu(x)"),
    ),
    (
        *("[1, N, 1, 3]", "[A, B]", "s = {0}|t = {1}|u = {0, 2}"),
        *("a = Squeeze(x, s) y = Squeeze(a, t)", "y = Squeeze(x, u)"),
    ),
    (
        *("[N, 6]", "[A, B]", "s = {0, 2, 3}|t = {0, 6}"),
        *("a = Reshape(x, s) b = Reshape(a, t) y = Relu(b)", "y = Relu(x)"),
    ),
    (
        *("[2, 6]", "[A, B]", "s = {3, 4}|t = {0, -1}"),
        *("a = Flatten<axis = 0>(x) b = Reshape(a, s) y = Reshape(b, t)", "y = Reshape(x, s)"),
    ),
    (
        *("[N, 4, 4]", "[A, B, C]", "t = {0, 16, 1}|u = {0, 16}|v = {2}"),
        *("a = Reshape(x, u) y = Unsqueeze(a, v)", "y = Reshape(x, t)"),
    ),
]


@pytest.mark.parametrize(("x", "y", "constants", "before", "after"), MERGED)
def test_chain_becomes_one(x: str, y: str, constants: str, before: str, after: str) -> None:
    rows = [row.split(" = ") for row in constants.split("|")]
    header = ", ".join(f"int64[{v.count(',') + 1}] {n} = {v}" for n, v in rows)
    head = f"g (float{x} x) => (float{y} y) <{header}>"
    for dims in ({"N": 3}, {"N": 0}):
        check_pass(MergeReshapes(), before=f"{head} {{ {before} }}", after=f"{head} {{ {after} }}", dims=dims)


@pytest.mark.parametrize(
    ("x", "constants", "nodes"),
    [
        # Two dimensions that no constant can say.
        ("float[N, M, 4]", "int64[2] s = {-1, 4}", "a = Reshape(x, s) y = Reshape(a, t)"),
        # A target that is fed may copy dimensions of its own operand.
        ("float[N, M, 4]", "int64[2] s = {-1, 4}", "a = Reshape(x, s) b = Softmax(a) y = Reshape(b, t)"),
        # -1 beside a copied dimension has no answer for N = 0.
        (
            "float[N, M, 4]",
            "int64[3] s = {0, -1, 2}, int64[1] u = {1}",
            "a = Reshape(x, s) y = Unsqueeze(a, u)",
        ),
        ("float[N, 4]", "int64[1] u = {1}", "a = Unsqueeze(x, u) b = Relu(a) y = Squeeze(b, u)"),
    ],
)
def test_near_miss_stays(x: str, constants: str, nodes: str) -> None:
    check_pass(
        MergeReshapes(),
        before=f"g ({x} x, int64[2] t) => (float[Q] y) <{constants}> {{ {nodes} }}",
        run=False,
    )


def test_fed_target_and_used_middle() -> None:
    check_pass(
        MergeReshapes(),
        before="""g (float[2, 6] x) => (float[A, B] y, float[12] a) <int64[2] t = {3, 4}> {
            a = Flatten<axis = 0>(x) h = Relu(x) b = Flatten<axis = 2>(h) y = Reshape(b, t)
        }""".replace("float[12] a", "float[C, D] a"),
        after="""g (float[2, 6] x) => (float[A, B] y, float[C, D] a) <int64[2] t = {3, 4}> {
            a = Flatten<axis = 0>(x) h = Relu(x) y = Reshape(h, t)
        }""",
    )


@pytest.mark.parametrize("batch", [2, 0])
def test_computed_targets_that_add_or_drop_axes_of_size_one(batch: int) -> None:
    constants = "<int64[1] rest = {-1}, int64[2] ones = {1, 1}, int64[2] middle = {1, 2}, int64[1] one = {1}>"
    head = f"g (float[N, M] x) => (float[A, B, C, D] y) {constants}"
    parts = "n = Shape<start = 0, end = 1>(x) m = Shape<start = 1, end = 2>(x)"
    dims = {"N": batch, "M": 3}
    check_pass(
        MergeReshapes(),
        before=f"{head} {{ {parts} s = Concat<axis = 0>(n, ones, m) y = Reshape(x, s) }}",
        after=f"{head} {{ {parts} s = Concat<axis = 0>(n, ones, m) y = Unsqueeze(x, middle) }}".replace(
            f"{parts} s = Concat<axis = 0>(n, ones, m)", ""
        ),
        dims=dims,
    )
    check_pass(
        MergeReshapes(),
        before=f"{head} {{ {parts} s = Concat<axis = 0>(n, ones, m) f = Reshape(x, rest) y = Reshape(f, s) }}",
        after=f"{head} {{ y = Unsqueeze(x, middle) }}",
        dims={"N": 2, "M": 3},
    )
    check_pass(
        MergeReshapes(),
        f"{head} {{ {parts} s = Concat<axis = 0>(m, ones, n) y = Reshape(x, s) }}",
        dims=dims,
    )
    head = f"g (float[N, 1, M] x) => (float[A, B] y) {constants}"
    parts = "n = Shape<start = 0, end = 1>(x) m = Shape<start = 2, end = 3>(x)"
    check_pass(
        MergeReshapes(),
        before=f"{head} {{ {parts} s = Concat<axis = 0>(n, m) y = Reshape(x, s) }}",
        after=f"{head} {{ y = Squeeze(x, one) }}",
        dims=dims,
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("t = Transpose<perm = [0, 2, 1, 3]>(x) y = Reshape(t, flat)", "y = Reshape(x, flat)"),
        ("t = Reshape(x, five) y = Transpose<perm = [1, 0, 2, 4, 3]>(t)", "y = Reshape(x, other)"),
        ("t = Transpose<perm = [0, 1, 3, 2]>(x) y = Reshape(t, flat)", None),
        ("t = Reshape(x, five) y = Transpose<perm = [0, 4, 1, 3, 2]>(t)", None),
    ],
)
def test_transposes_of_unit_axes_beside_a_reshape(before: str, after: str | None) -> None:
    rank = "A, B" if "flat" in before else "A, B, C, D, E"
    head = f"""g (float[3, 1, 4, 5] x) => (float[{rank}] y) <int64[2] flat = {{-1, 10}}, int64[5] five = {{3, 1, 4, 1, 5}},
        int64[5] other = {{1, 3, 4, 5, 1}}>"""
    text = None if after is None else f"{head} {{ {after} }}"
    check_pass(MergeReshapes(), f"{head} {{ {before} }}", text)
