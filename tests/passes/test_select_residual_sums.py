"""select-residual-sums: what is only normalized, what has other users, and biases."""

from __future__ import annotations

import pytest
from checking import check_pass

from graphopt.passes.canonicalize_sums import CanonicalizeSums
from graphopt.passes.select_residual_sums import SelectResidualSums

HEAD = "g (float[N, 2] x, float[N, 2] r, float[2] w) => (float[N, 2] y{more}) <float[2] b = {{1.0, 2.0}}>"
SELECTED = "s = Sum(x, r) y = LayerNormalization(s, w, b)"
ADDED = SELECTED.replace("Sum", "Add")


def text(body: str, more: str = "") -> str:
    return HEAD.format(more=more) + f" {{ {body} }}"


def test_a_residual_sum() -> None:
    check_pass(SelectResidualSums(), text(ADDED), text(SELECTED))
    check_pass(CanonicalizeSums(), text(SELECTED), text(ADDED))


@pytest.mark.parametrize(
    ("body", "more"),
    [
        (ADDED, ", float[N, 2] s"),
        (f"{ADDED} z = Relu(s)", ", float[N, 2] z"),
        ("s = Add(x, b) y = LayerNormalization(s, w, b)", ""),
        ("s = Add(w, b) y = LayerNormalization(x, s, b)", ""),
        ("s = Add(x, r) y = Softmax(s)", ""),
    ],
)
def test_what_stays(body: str, more: str) -> None:
    check_pass(SelectResidualSums(), text(body, more))


def test_other_types_stay() -> None:
    check_pass(
        SelectResidualSums(),
        text(ADDED.replace(", b)", ")").replace("y =", "t =") + " y = Identity(t)")
        .replace("float", "double")
        .replace(" <double[2] b = {1.0, 2.0}>", ""),
    )
