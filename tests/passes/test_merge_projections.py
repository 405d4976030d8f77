"""merge-projections against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from rewriting import arrays, check_declines, check_rewrite, operators, with_weights

from graphopt.passes.merge_projections import MergeProjections

KINDS = "float[2, 3, 8] x, float[8, 4] p, float[8, 6] q, float[8, 2] r, float[4] a, float[6] b, float[2] c"
WEIGHTS = arrays(p=(8, 4), q=(8, 6), r=(8, 2), a=(4,), b=(6,), c=(2,))


def source(body: str) -> str:
    return f"g ({KINDS}) => (float[2, 3, 4] u, float[2, 3, 6] v, float[2, 3, 2] w) {{ {body} }}"


PLAIN = "u = MatMul(x, p) v = MatMul(x, q) w = MatMul(x, r)"
BIASED = "d = MatMul(x, p) u = Add(d, a) e = MatMul(x, q) v = Add(b, e) f = MatMul(x, r) w = Add(f, c)"


@pytest.mark.parametrize(("body", "after"), [(PLAIN, "MatMul Split"), (BIASED, "MatMul Add Split")])
def test_products_of_one_value(body: str, after: str) -> None:
    check_rewrite(MergeProjections(), source(body), after, weights=WEIGHTS)


def test_biases_that_not_all_have_stay() -> None:
    body = "d = MatMul(x, p) u = Add(d, a) v = MatMul(x, q) w = MatMul(x, r)"
    check_rewrite(MergeProjections(), source(body), "MatMul Split Add", weights=WEIGHTS)


def test_products_that_stand_apart_are_merged_before_the_first() -> None:
    body = "d = MatMul(x, p) u = Relu(d) v = MatMul(x, q) e = Exp(u) s = ReduceSum<keepdims = 0>(e) f = MatMul(x, r) w = Mul(f, s)"
    model, _ = check_rewrite(
        MergeProjections(), source(body), "MatMul Split Relu Exp ReduceSum Mul", weights=WEIGHTS
    )
    assert len(model.graph.initializers) == 8


def test_near_misses() -> None:
    many = source(PLAIN).replace("[2, 3,", "[2, 30,")
    check_declines(MergeProjections(), many, "many rows", weights=WEIGHTS)
    check_rewrite(MergeProjections(max_rows=0), many, "MatMul Split", weights=WEIGHTS)
    free = source(PLAIN).replace("[2, 3,", "[N, 3,")
    check_declines(MergeProjections(), free, "not known", weights=WEIGHTS)


@pytest.mark.parametrize(
    "body",
    [
        "u = MatMul(x, p) y = Relu(x) v = MatMul(y, q) z = Exp(x) w = MatMul(z, r)",
        "u = MatMul(x, p) v = Expand(b, s) w = Expand(c, t)",
    ],
)
def test_other_values_are_left(body: str) -> None:
    weights = {**WEIGHTS, "s": np.array([2, 3, 6]), "t": np.array([2, 3, 2])}
    text = source(body).replace("float[2] c)", "float[2] c, int64[3] s, int64[3] t)")
    model = with_weights(text, weights)
    before = operators(model)
    assert not MergeProjections().run(model).modified
    assert operators(model) == before


def test_weights_that_are_shared_or_given_are_left() -> None:
    given = {k: v for k, v in WEIGHTS.items() if k not in ("q", "r")}
    model = with_weights(source(PLAIN), given)
    assert not MergeProjections().run(model).modified
