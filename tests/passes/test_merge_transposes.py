"""merge-transposes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from checking import check_pass, model_from

from graphopt.passes.merge_transposes import MergeTransposes


@pytest.mark.parametrize(("p", "q"), list(itertools.product(itertools.permutations(range(3)), repeat=2)))
def test_composition_is_that_of_numpy(p: tuple[int, ...], q: tuple[int, ...]) -> None:
    source = f"""g (float[2, 3, 4] x) => (float[A, B, C] y) {{
        a = Transpose<perm = {list(p)}>(x)
        b = Transpose<perm = {list(q)}>(a)
        y = Relu(b)
    }}"""
    model = model_from(source)
    assert MergeTransposes().run(model).modified
    x = np.arange(24).reshape(2, 3, 4)
    expected = x.transpose(p).transpose(q)
    nodes = [n for n in model.graph if n.op_type == "Transpose"]
    found = x.transpose(nodes[0].attributes["perm"].value) if nodes else x
    np.testing.assert_array_equal(found, expected)
    assert len(nodes) == int(tuple(p[i] for i in q) != (0, 1, 2))


def test_chain_of_three_with_the_middle_used_and_an_output() -> None:
    check_pass(
        MergeTransposes(),
        before="""g (float[2, 3, 4] x) => (float[A, B, C] y, float[D, E, F] z) {
            a = Transpose<perm = [1, 2, 0]>(x)
            z = Transpose<perm = [1, 2, 0]>(a)
            y = Transpose<perm = [1, 2, 0]>(z)
        }""",
        after="""g (float[2, 3, 4] x) => (float[A, B, C] y, float[D, E, F] z) {
            z = Transpose<perm = [2, 0, 1]>(x)
            y = Identity(x)
        }""",
    )


def test_default_permutation_reverses() -> None:
    check_pass(
        MergeTransposes(),
        before="g (float[N, 3] x) => (float[N, 3] y) { a = Transpose(x) b = Transpose(a) y = Relu(b) }",
        after="g (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }",
    )


@pytest.mark.parametrize("between", ["b = Softmax(a)", "b = Reshape(a, s)"])
def test_another_operator_between_keeps_them(between: str) -> None:
    check_pass(
        MergeTransposes(),
        before=f"""g (float[2, 3] x) => (float[A, B] y) <int64[2] s = {{2, 3}}> {{
            a = Transpose(x) {between} y = Transpose(b) }}""",
    )


def test_captured_transpose_is_seen_through() -> None:
    source = """g (bool c, float[2, 3] x) => (float[A, B] y, float[3, 2] t) {{
        t = Transpose<perm = [1, 0]>(x)
        y = If (c) <
            then_branch = g1 () => (float[2, 3] a) {{ {then} }},
            else_branch = g2 () => (float[2, 3] b) {{ b = Neg(x) }}
        >
    }}"""
    check_pass(
        MergeTransposes(),
        before=source.format(then="u = Transpose<perm = [1, 0]>(t) a = Exp(u)"),
        after=source.format(then="a = Exp(x)"),
    )
