"""merge-concats."""

from __future__ import annotations

import pytest
from checking import check_pass

from graphopt.passes.merge_concats import MergeConcats

BIG = 2**63 - 1


def vectors(**numbers: list[int]) -> str:
    return ", ".join(f"int64[{len(v)}] {k} = {{{', '.join(map(str, v))}}}" for k, v in numbers.items())


def both(head: str, constants: str, before: str, after: str | None, **kwargs: object) -> None:
    text = None if after is None else f"{head} <{constants}> {{ {after} }}"
    check_pass(MergeConcats(), f"{head} <{constants}> {{ {before} }}", text, **kwargs)  # type: ignore[arg-type]


def test_concat_of_concats() -> None:
    both(
        "g (float[N, 2] a, float[N, M] b, float[N, 3] c) => (float[N, K] y)",
        vectors(unused=[0]),
        "p = Concat<axis = 1>(b, c) q = Concat<axis = -1>(p, a) y = Concat<axis = 1>(a, q, b)",
        "y = Concat<axis = 1>(a, b, c, a, b)",
        dims={"N": 2, "M": 4},
    )


def test_concat_on_another_axis_and_one_that_others_use_stay() -> None:
    head = "g (float[2, 2] a, float[2, 2] b) => (float[A, B] y)"
    both(
        head,
        vectors(u=[0]),
        "p = Concat<axis = 0>(a, b) q = Concat<axis = 0>(b, a) y = Concat<axis = 1>(p, q)",
        None,
    )
    head = head.replace(" y)", " y, float[C, D] p)")
    both(head, vectors(u=[0]), "p = Concat<axis = 0>(a, b) y = Concat<axis = 0>(p, a)", None)
    head = "g (float[2, 2] a, float[2, 2] b) => (float[A, B] y)"
    both(head, vectors(u=[0]), "p = Concat<axis = 0>(a, b) y = Concat<axis = 0>(p, p)", None)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("p, q = Split<axis = 1>(x, s) y = Concat<axis = 1>(p, q)", "y = Identity(x)"),
        ("p, q = Split<axis = -1>(x, s) y = Concat<axis = 1>(x, p, q, x)", "y = Concat<axis = 1>(x, x, x)"),
        ("p, q = Split<axis = 1>(x, s) y = Concat<axis = 1>(q, p)", None),
        ("p, q = Split<axis = 1, num_outputs = 2>(x) y = Concat<axis = 0>(p, q)", None),
        (
            "p, q = Split<axis = 1>(x, s) y = Concat<axis = 1>(p, x)",
            "p = Slice(x, zero, two, one) y = Concat<axis = 1>(p, x)",
        ),
    ],
)
def test_concat_of_a_split(before: str, after: str | None) -> None:
    constants = vectors(s=[2, 4], zero=[0], one=[1], two=[2])
    both("g (float[N, 6] x) => (float[A, B] y)", constants, before, after)


@pytest.mark.parametrize("size", ["N", "6", "1", "2"])
@pytest.mark.parametrize(
    ("cut", "end", "after"),
    [
        (2, BIG, "y = Identity(x)"),
        (-2, BIG, "y = Identity(x)"),
        (1, 4, "y = Slice(x, zero, end)"),
        (-3, -1, ""),
    ],
)
def test_concat_of_adjoining_slices(size: str, cut: int, end: int, after: str) -> None:
    if size != "N" and not (size == "6" and end == BIG):
        return
    both(
        f"g (float[{size}, 2] x) => (float[A, B] y)",
        vectors(zero=[0], cut=[cut], end=[end], first=[0]),
        "p = Slice(x, zero, cut) q = Slice(x, cut, end) y = Concat<axis = 0>(p, q)",
        after.replace(")", ", first)") if "Slice" in after else after or "y = Slice(x, zero, end, first)",
        dims={"N": 5},
    )


@pytest.mark.parametrize(
    "before",
    [
        "p = Slice(x, zero, two) q = Slice(x, three, end) y = Concat<axis = 0>(p, q)",
        "p = Slice(x, zero, two) q = Slice(x, two, end) y = Concat<axis = 1>(p, q)",
        "p = Slice(x, two, less) q = Slice(x, less, end) y = Concat<axis = 0>(p, q)",  # [1:-1] may be empty
        "p = Slice(x, zero, two, zero, two) q = Slice(x, two, end) y = Concat<axis = 0>(p, q)",
    ],
)
def test_slices_that_do_not_adjoin(before: str) -> None:
    constants = vectors(zero=[0], two=[2], three=[3], less=[-1], end=[BIG])
    both("g (float[N, 2] x) => (float[A, B] y)", constants, before, None, dims={"N": 4})


def test_empty_operand() -> None:
    both(
        "g (float[N, 0] e, float[N, 2] x) => (float[A, B] y)",
        vectors(u=[0]),
        "y = Concat<axis = 1>(e, x, x)",
        "y = Concat<axis = 1>(x, x)",
    )
    both(
        "g (float[N, 0] e, float[N, 2] x) => (float[A, B] y)",
        vectors(u=[0]),
        "y = Concat<axis = 0>(e, e)",
        None,
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("c = Concat<axis = 1>(p, q, r) u, v, y = Split<axis = 1>(c, s)", "u = Identity(p) v = Identity(q) y = Identity(r)"),
        ("c = Concat<axis = 1>(p, q, r) u, v, y = Split<axis = 1>(c, t)", None),
        ("c = Concat<axis = 1>(p, p, p, p) u, v, y = Split<axis = 1>(c, t)",
         "v = Concat<axis = 1>(p, p) u = Identity(p) y = Identity(p)"),
        ("c = Concat<axis = 0>(p, p, p) u, v, y = Split<axis = 0, num_outputs = 3>(c)", None),
    ],
)  # fmt: skip
def test_split_of_concat(before: str, after: str | None) -> None:
    both(
        "g (float[N, 2] p, float[N, 3] q, float[N, 4] r) => (float[A, B] u, float[C, D] v, float[E, F] y)",
        vectors(s=[2, 3, 4], t=[2, 4, 2]),
        before.replace(
            "(p, q, r) u, v, y = Split<axis = 1>(c, t)", "(p, p, r) u, v, y = Split<axis = 1>(c, t)"
        ),
        after,
        run=after is not None,
    )


def test_symbolic_parts_of_a_concat() -> None:
    both(
        "g (float[N, 2] p, float[N, 2] q) => (float[N, 2] u, float[N, 2] v)",
        vectors(u0=[0]),
        "c = Concat<axis = 0>(p, q) a, b = Split<axis = 0, num_outputs = 2>(c) u = Exp(a) v = Exp(b)",
        "u = Exp(p) v = Exp(q)",
    )


def test_one_part_of_a_split() -> None:
    head = "g (float[N, 5] x) => (float[A, B] y)"
    both(
        head,
        vectors(s=[1, 3, 1], one=[1], four=[4], axis=[1]),
        "p, q, r = Split<axis = -1>(x, s) y = Exp(q)",
        "q = Slice(x, one, four, axis) y = Exp(q)",
    )
    both(head, vectors(s=[2, 3]), "p, q = Split<axis = 0, num_outputs = 2>(x) y = Exp(q)", None)
    head = "g (float[N, 5] x) => (float[A, B] y, float[C, D] p)"
    both(head, vectors(s=[2, 3]), "p, q = Split<axis = 1>(x, s) y = Exp(q)", None)
