"""fold-strides: the same sums over columns that have become channels."""

from __future__ import annotations

import pytest
from rewriting import arrays, check_declines, check_rewrite

from graphopt.passes.fold_strides import FoldStrides

AFTER = "Reshape Transpose Reshape Conv"


def source(attributes: str, size: str = "12, 12", kernel: str = "5, 3, K, L") -> str:
    return f"""g (float[2, 3, {size}] x, float[{kernel}] w, float[5] b) => (float[2, 5, P, Q] y)
        {{ y = Conv <{attributes}> (x, w, b) }}"""


@pytest.mark.parametrize(
    ("kernel", "attributes"),
    [
        ((4, 4), "strides = [4, 4]"),
        ((3, 6), "strides = [2, 3], pads = [1, 0, 1, 0]"),
        ((4, 4), "strides = [2, 2], pads = [1, 2, 1, 2]"),
        ((1, 2), 'strides = [1, 2], auto_pad = "VALID"'),
    ],
)
def test_whole_groups(kernel: tuple[int, int], attributes: str) -> None:
    weights = arrays(w=(5, 3, *kernel), b=(5,))
    check_rewrite(FoldStrides(), source(attributes), AFTER, weights=weights)
    check_rewrite(FoldStrides(padded=True), source(attributes), AFTER, weights=weights)


@pytest.mark.parametrize(
    ("kernel", "attributes"),
    [
        ((7, 7), "strides = [2, 2], pads = [3, 3, 3, 3]"),
        ((3, 3), "strides = [2, 2], pads = [1, 1, 1, 1]"),
        ((3, 3), "strides = [2, 2], pads = [0, 0, 1, 1]"),
        ((2, 5), "strides = [1, 3], pads = [0, 2, 0, 4]"),
    ],
)
def test_zeros_around_the_kernel(kernel: tuple[int, int], attributes: str) -> None:
    weights = arrays(w=(5, 3, *kernel), b=(5,))
    check_rewrite(FoldStrides(padded=True), source(attributes), AFTER, weights=weights)
    check_declines(FoldStrides(), source(attributes), "whole groups of columns", weights=weights)


@pytest.mark.parametrize(
    ("attributes", "size", "shape", "reason"),
    [
        ("strides = [2, 1]", "12, 12", (5, 3, 4, 4), "no stride"),
        ("strides = [2, 2], dilations = [1, 2]", "12, 12", (5, 3, 4, 4), "dilated"),
        ("strides = [4, 4]", "12, 14", (5, 3, 4, 4), "no whole groups"),
        ('strides = [2, 2], auto_pad = "SAME_UPPER"', "12, 12", (5, 3, 4, 4), "size of the input"),
        ("strides = [4, 4], pads = [0, 0, 0, 1]", "N, 12", (5, 3, 4, 4), "known size"),
    ],
)
def test_near_misses(attributes: str, size: str, shape: tuple[int, ...], reason: str) -> None:
    reason = "are not whole groups" if reason == "no whole groups" else reason
    check_declines(FoldStrides(), source(attributes, size), reason, weights=arrays(w=shape, b=(5,)))
