"""fold-sequences: splits, constructs and what is not known of them."""

from __future__ import annotations

import numpy as np
import pytest
from checking import check_pass

from graphopt.passes.fold_sequences import FoldSequences

CONSTANTS = "int64 zero = {0}, int64 last = {-1}, int64 far = {9}, int64 four = {4}, int64[2] sizes = {2, 8}"


def text(body: str, more: str = "", y: str = "float[N, 4] y", constants: str = "") -> str:
    return f"g (float[N, 10] x, float[N, 10] u, int64 k) => ({y}) <{CONSTANTS}{constants}{more}> {{ {body} }}"


def after(body: str, constants: str, y: str = "float[N, 4] y") -> str:
    return f"g (float[N, 10] x, float[N, 10] u, int64 k) => ({y}) <{constants}> {{ {body} }}"


def test_parts_of_equal_size() -> None:
    check_pass(
        FoldSequences(),
        text("s = SplitToSequence <axis = -1> (x, four) y = SequenceAt(s, zero)"),
        after("y, b, c = Split <axis = -1> (x, sizes)", "int64[3] sizes = {4, 4, 2}"),
    )


def test_parts_of_given_sizes() -> None:
    check_pass(
        FoldSequences(),
        text("s = SplitToSequence <axis = 1> (x, sizes) y = SequenceAt(s, last)", y="float[N, 8] y"),
        after("a, y = Split <axis = 1> (x, sizes)", "int64[2] sizes = {2, 8}", "float[N, 8] y"),
    )


def test_single_entries() -> None:
    check_pass(
        FoldSequences(),
        text("s = SplitToSequence <axis = 1, keepdims = 0> (x) y = SequenceAt(s, last)", y="float[N] y"),
        after("y = Gather <axis = 1> (x, i)", "int64 i = {9}", "float[N] y"),
    )


def test_elements_and_concatenations_of_constructs() -> None:
    check_pass(
        FoldSequences(),
        text("s = SequenceConstruct(x, u) e = SequenceAt(s, last) y = Relu(e)", y="float[N, 10] y"),
        after("y = Relu(u)", "", "float[N, 10] y").replace("<>", ""),
    )
    check_pass(
        FoldSequences(),
        text("s = SequenceConstruct(x, u) y = ConcatFromSequence <axis = 1> (s)", y="float[N, 20] y"),
        after("y = Concat <axis = 1> (x, u)", "", "float[N, 20] y").replace("<>", ""),
    )
    check_pass(
        FoldSequences(),
        text(
            "s = SequenceConstruct(x, u) y = ConcatFromSequence <axis = -1, new_axis = 1> (s)",
            y="float[N, 10, 2] y",
        ),
        after(
            "a = Unsqueeze(x, i) b = Unsqueeze(u, i) y = Concat <axis = -1> (a, b)",
            "int64[1] i = {-1}",
            "float[N, 10, 2] y",
        ),
    )


def test_length_and_splits_that_are_joined_again() -> None:
    check_pass(
        FoldSequences(),
        text("s = SequenceConstruct(x, u) n = SequenceLength(s) y = Add(n, k)", y="int64 y"),
        after("y = Add(n, k)", "int64 n = {2}", "int64 y"),
    )
    check_pass(
        FoldSequences(),
        text(
            "s = SplitToSequence <axis = 1> (x, k) j = ConcatFromSequence <axis = -1> (s) y = Relu(j)",
            y="float[N, 10] y",
        ),
        after("y = Relu(x)", "", "float[N, 10] y").replace("<>", ""),
        feeds={"x": np.ones((2, 10), np.float32), "u": np.ones((2, 10), np.float32), "k": np.array(3)},
    )


@pytest.mark.parametrize(
    ("body", "y"),
    [
        ("s = SplitToSequence <axis = 1> (x, four) y = SequenceAt(s, k)", "float[N, M] y"),
        ("s = SplitToSequence <axis = 1> (x, four) y = SequenceAt(s, far)", "float[N, M] y"),
        ("s = SplitToSequence <axis = 1> (x, k) y = SequenceAt(s, zero)", "float[N, M] y"),
        ("s = SplitToSequence <axis = 0> (x, four) y = SequenceAt(s, zero)", "float[M, 10] y"),
        ("s = SequenceConstruct(x, u) y = SequenceAt(s, k)", "float[N, 10] y"),
        ("s = SequenceConstruct(x, u) t = SequenceInsert(s, x) y = SequenceAt(t, zero)", "float[N, 10] y"),
        ("s = SplitToSequence <axis = 1> (x, four) y = ConcatFromSequence <axis = 0> (s)", "float[A, B] y"),
        (
            "s = SplitToSequence <axis = 1, keepdims = 0> (x) y = ConcatFromSequence <axis = 1, new_axis = 1> (s)",
            "float[A, B] y",
        ),
    ],
)
def test_what_stays(body: str, y: str) -> None:
    check_pass(FoldSequences(), text(body, y=y))
