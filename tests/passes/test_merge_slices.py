"""merge-slices."""

from __future__ import annotations

import random

import numpy as np
import pytest
from checking import check_pass, model_from, run_onnxruntime

from graphopt.passes._axes import Bounds, bounds_of
from graphopt.passes.merge_slices import MergeSlices, compose

BIG = 2**63 - 1


def vectors(**numbers: list[int]) -> str:
    return ", ".join(f"int64[{len(v)}] {k} = {{{', '.join(map(str, v))}}}" for k, v in numbers.items())


@pytest.mark.parametrize(
    ("first", "second", "merged"),
    [
        (([2], [9], [1]), ([1], [3], [1]), ([3], [5], [1])),
        (([2], [BIG], [0]), ([1], [BIG], [0]), ([3], [BIG], [0])),
        (([2], [-1], [0]), ([1], [-2], [-2]), ([3], [-3], [0])),
        (([0], [4], [0]), ([1], [7], [1]), ([0, 1], [4, 7], [0, 1])),
        (([0], [4], [0]), ([0, 1], [BIG, 7], [0, 1]), ([0, 1], [4, 7], [0, 1])),
        (([-5], [-1], [1]), ([1], [3], [1]), ([6], [8], [1])),
        (([2], [BIG], [0]), ([BIG - 1], [BIG], [0]), ([BIG], [BIG], [0])),  # the sum is beyond int64
        (([0], [-BIG - 1], [0]), ([0], [-BIG - 1], [0]), ([0], [-BIG - 1], [0])),
    ],
)
def test_slice_of_slice(first: object, second: object, merged: object) -> None:
    (a, b, c), (d, e, f), (s, t, u) = first, second, merged  # type: ignore[misc]
    head = "g (float[N, 10] x) => (float[A, B] y)"
    check_pass(
        MergeSlices(),
        before=f"{head} <{vectors(a=a, b=b, c=c, d=d, e=e, f=f)}> {{ m = Slice(x, a, b, c) y = Slice(m, d, e, f) }}",
        after=f"{head} <{vectors(s=s, t=t, u=u)}> {{ y = Slice(x, s, t, u) }}",
        dims={"N": 6},
    )


def test_backward_slice_that_starts_before_the_axis_keeps_its_element() -> None:
    """What is inferred of the merged Slice hangs on bounds that are in no graph when it is inferred."""
    low = -BIG - 1
    bounds = vectors(a=[low], b=[2], c=[3], d=[low, low], e=[-100, 5], f=[2, 1], g=[-1, 1])
    merged = vectors(s=[low, low, low], t=[5, -100, 2], u=[1, 2, 3], v=[1, -1, 1])
    check_pass(
        MergeSlices(),
        before=f"g (float[N, 9, 6, 6] x) => (float[A, B, C, D] y) <{bounds}> "
        "{ m = Slice(x, a, b, c) n = Slice(m, d, e, f, g) y = Relu(n) }",
        after=f"g (float[N, 9, 6, 6] x) => (float[N, 5, 1, 2] y) <{merged}> "
        "{ n = Slice(x, s, t, u, v) y = Relu(n) }",
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (([-4], [BIG], [0]), ([1], [BIG], [0])),  # where it begins depends on whether there are four
        (([0], [5], [0]), ([0], [-1], [0])),
        (([0], [-2], [0]), ([0], [3], [0])),
    ],
)
def test_slices_of_an_axis_of_unknown_size_stay(first: object, second: object) -> None:
    (a, b, c), (d, e, f) = first, second  # type: ignore[misc]
    check_pass(
        MergeSlices(),
        f"""g (float[N, 10] x) => (float[A, B] y) <{vectors(a=a, b=b, c=c, d=d, e=e, f=f)}> {{
            m = Slice(x, a, b, c) y = Slice(m, d, e, f) }}""",
    )


def test_a_slice_that_others_use_stays() -> None:
    check_pass(
        MergeSlices(),
        f"""g (float[N, 10] x) => (float[A, B] y, float[C, D] m) <{vectors(a=[0], b=[4], c=[1])}> {{
            m = Slice(x, a, b, c) y = Slice(m, c, b, c) }}""",
    )


def test_bounds_that_are_inputs_stay() -> None:
    check_pass(
        MergeSlices(),
        f"""g (float[N, 10] x, int64[1] a) => (float[A, B] y) <{vectors(b=[4], c=[0])}> {{
            m = Slice(x, a, b, c) y = Slice(m, c, b, c) }}""",
    )


@pytest.mark.parametrize("seed", range(4))
def test_composed_bounds_take_the_same(seed: int) -> None:
    generator = random.Random(seed)
    edges = [*range(-7, 8), BIG, -(2**63), 2**31 - 1, -(2**31)]
    for _ in range(3000):
        steps = [1, 1, 1, 2, 3, -1, -2, -3]
        first, second = (
            Bounds(generator.choice(edges), generator.choice(edges), generator.choice(steps)) for _ in "ab"
        )
        for size in range(7):
            indices = list(first.within(size))
            wanted = [indices[i] for i in second.within(len(indices))]
            known, unknown = compose(first, second, size), compose(first, second, None)
            assert known is not None and list(known.within(size)) == wanted, (first, second, size)
            if unknown is not None:
                assert list(unknown.within(size)) == wanted, (first, second, size)


def test_bounds_of_a_range_that_ends_before_the_first_element() -> None:
    assert list(bounds_of(range(4, -1, -2), 5).within(5)) == [4, 2, 0]


@pytest.mark.parametrize(
    ("bounds", "result"),
    [
        (vectors(s=[3], e=[7], a=[1]), "y = Identity(q)"),
        (vectors(s=[-2], e=[BIG], a=[1]), "y = Identity(r)"),
        (vectors(s=[4], e=[6], a=[-1]), "y = Slice(q, one, three, a)"),
        (vectors(s=[0, 1], e=[3, 2], a=[1, 0]), "y = Slice(p, one, two, zero)"),
    ],
)
def test_slice_of_concat(bounds: str, result: str) -> None:
    head = "g (float[N, 3] p, float[N, 4] q, float[N, 2] r) => (float[A, B] y)"
    more = vectors(one=[1], two=[2], three=[3], zero=[0])
    before = f"{head} <{bounds}> {{ c = Concat<axis = 1>(p, q, r) y = Slice(c, s, e, a) }}"
    after = f"{head} <{bounds.replace('[-1]', '[1]').replace('{-1}', '{1}')}, {more}> {{ {result} }}"
    check_pass(MergeSlices(), before, after)


def test_slice_that_leaves_the_first_part_of_a_concat_behind_unknown_sizes_stays() -> None:
    check_pass(
        MergeSlices(),
        f"""g (float[N, 2] p, float[M, 2] q) => (float[A, B] y) <{vectors(s=[3], e=[7])}> {{
            c = Concat<axis = 0>(p, q) y = Slice(c, s, e) }}""",
    )


def test_slice_of_two_parts_stays() -> None:
    check_pass(
        MergeSlices(),
        f"""g (float[4, 2] p, float[3, 2] q) => (float[A, B] y) <{vectors(s=[3], e=[7])}> {{
            c = Concat<axis = 0>(p, q) y = Slice(c, s, e) }}""",
    )


@pytest.mark.parametrize(
    ("start", "end", "after"), [(2, 6, "y = Identity(x)"), (3, 5, "y = Slice(x, one, three, a)")]
)
def test_slice_of_pad(start: int, end: int, after: str) -> None:
    head = "g (float[N, 4] x) => (float[A, B] y)"
    pads = vectors(p=[0, 2, 0, 1], s=[start], e=[end], a=[1], one=[1], three=[3])
    check_pass(
        MergeSlices(),
        f"{head} <{pads}> {{ m = Pad(x, p) y = Slice(m, s, e, a) }}",
        f"{head} <{pads}> {{ {after} }}",
    )


@pytest.mark.parametrize(
    ("pads", "start", "end"), [([0, 2, 0, 1], 1, 4), ([1, 2, 0, 1], 2, 6), ([0, -1, 0, 1], 0, 2)]
)
def test_slice_of_padding_stays(pads: list[int], start: int, end: int) -> None:
    check_pass(
        MergeSlices(),
        f"""g (float[N, 4] x) => (float[A, B] y) <{vectors(p=pads, s=[start], e=[end], a=[1])}> {{
            m = Pad(x, p) y = Slice(m, s, e, a) }}""",
    )


def test_onnxruntime_clamps_as_the_bounds_do() -> None:
    for start, end, step in ((-9, 3, 1), (9, -9, -2), (-1, -(2**63), -1), (2, 2**31 - 1, 2), (7, 1, -1)):
        model = model_from(
            f"g (float[5] x) => (float[A] y) <{vectors(s=[start], e=[end], a=[0], t=[step])}> {{ y = Slice(x, s, e, a, t) }}"
        )
        (found,) = run_onnxruntime(model, {"x": np.arange(5, dtype=np.float32)}).values()
        assert found.tolist() == list(Bounds(start, end, step).within(5))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("s = Shape(x) y = Slice(s, one, three)", "y = Shape<start = 1, end = 3>(x)"),
        ("s = Shape<start = -3>(x) y = Slice(s, minus, three)", "y = Shape<start = 3, end = 4>(x)"),
        ("s = Shape(x) y = Slice(s, minus, one, zero, minus)", None),
        ("s = Size(x) v = Unsqueeze(s, zero) y = Slice(v, zero, one)", None),
    ],
)
def test_slice_of_shape(before: str, after: str | None) -> None:
    head = f"g (float[N, M, 3, 2] x) => (int64[A] y) <{vectors(zero=[0], one=[1], three=[3], minus=[-1])}>"
    text = None if after is None else f"{head} {{ {after} }}"
    check_pass(MergeSlices(), f"{head} {{ {before} }}", text, dims={"N": 4, "M": 5})
