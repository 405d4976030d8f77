"""raise-depth-to-space."""

from __future__ import annotations

import pytest
from checking import check_pass

from graphopt.passes.raise_depth_to_space import RaiseDepthToSpace


def check(
    shape: str, middle: list[int], perm: list[int], result: list[int], after: str | None, **dims: int
) -> None:
    numbers = [", ".join(map(str, v)) for v in (middle, perm, result)]
    head = f"g (float[{shape}] x) => (float[A, B, C, D] y) <int64[6] m = {{{numbers[0]}}}, int64[4] r = {{{numbers[2]}}}>"
    body = f"a = Reshape(x, m) b = Transpose<perm = [{numbers[1]}]>(a) y = Reshape(b, r)"
    text = None if after is None else f"{head} {{ {after} }}"
    check_pass(RaiseDepthToSpace(), f"{head} {{ {body} }}", text, dims=dims)


@pytest.mark.parametrize(
    ("shape", "middle", "perm", "result", "after"),
    [
        ("3, 8, 4, 5", [3, 2, 2, 2, 4, 5], [0, 3, 4, 1, 5, 2], [3, 2, 8, 10], "DCR"),
        ("N, 8, 4, 5", [-1, 2, 2, 2, 4, 5], [0, 1, 4, 2, 5, 3], [-1, 2, 8, 10], "CRD"),
        ("3, 18, 4, 5", [3, 3, 3, 2, 4, 5], [0, 3, 4, 1, 5, 2], [3, 2, 12, 15], "DCR3"),
        ("3, 8, 4, 5", [3, 2, 2, 2, 4, 5], [0, 3, 4, 2, 5, 1], [3, 2, 8, 10], None),
        ("3, 8, 4, 5", [3, 2, 2, 2, 4, 5], [0, 3, 4, 1, 5, 2], [3, 4, 4, 10], None),
        ("3, 12, 4, 5", [3, 2, 3, 2, 4, 5], [0, 3, 4, 1, 5, 2], [3, 2, 8, 15], None),
        ("3, 8, 4, 4", [3, 2, 2, 2, 2, 8], [0, 3, 4, 1, 5, 2], [3, 2, 4, 16], None),
        ("4, 6, 4, 4", [3, 2, 2, 2, 4, 4], [0, 3, 4, 1, 5, 2], [3, 2, 8, 8], None),
    ],
)
def test_depth_to_space(
    shape: str, middle: list[int], perm: list[int], result: list[int], after: str | None
) -> None:
    block = 3 if after == "DCR3" else 2
    text = None if after is None else f'y = DepthToSpace<blocksize = {block}, mode = "{after[:3]}">(x)'
    check(shape, middle, perm, result, text)


@pytest.mark.parametrize(
    ("shape", "middle", "perm", "result", "matches"),
    [
        ("3, 2, 8, 10", [3, 2, 4, 2, 5, 2], [0, 3, 5, 1, 2, 4], [3, 8, 4, 5], True),
        ("3, 2, 8, 10", [3, 2, 4, 2, 5, 2], [0, 1, 3, 5, 2, 4], [3, 8, 4, 5], False),
        ("3, 2, 8, 10", [3, 2, 2, 4, 5, 2], [0, 3, 5, 1, 2, 4], [3, 16, 2, 5], False),
        ("3, 2, 8, 10", [3, 2, 4, 2, 5, 2], [0, 3, 5, 1, 2, 4], [3, 8, 5, 4], False),
    ],
)
def test_space_to_depth(
    shape: str, middle: list[int], perm: list[int], result: list[int], matches: bool
) -> None:
    check(shape, middle, perm, result, "y = SpaceToDepth<blocksize = 2>(x)" if matches else None)
