"""eliminate-identity."""

from __future__ import annotations

from checking import check_pass

from graphopt.passes.eliminate_identity import EliminateIdentity


def test_identity_before_an_output_gives_its_name_away() -> None:
    check_pass(
        EliminateIdentity(),
        before="g (float[N] x) => (float[N] y) { a = Relu(x) y = Identity(a) }",
        after="g (float[N] x) => (float[N] y) { y = Relu(x) }",
    )


def test_one_value_under_two_names_keeps_one_identity() -> None:
    check_pass(
        EliminateIdentity(),
        before="g (float[N] x) => (float[N] y, float[N] z) { a = Relu(x) y = Identity(a) z = Identity(a) }",
        after="g (float[N] x) => (float[N] y, float[N] z) { y = Relu(x) z = Identity(y) }",
    )


def test_weight_straight_to_an_output_stays() -> None:
    check_pass(
        EliminateIdentity(),
        before="g (float[1] x) => (float[1] y, float[1] z) <float[1] w = {1.0}> { y = Identity(w) z = Add(x, w) }",
    )


def test_output_used_as_an_output_twice_stays() -> None:
    check_pass(
        EliminateIdentity(),
        before="g (float[N] x) => (float[N] y, float[N] z) { y = Relu(x) z = Identity(y) }",
    )


def test_captured_value_to_a_branch_output_stays_but_inside_goes() -> None:
    check_pass(
        EliminateIdentity(),
        before="""g (bool c, float[N] x) => (float[N] y) {
            h = Exp(x)
            k = Identity(h)
            y = If (c) <
                then_branch = t () => (float[N] a) { a = Identity(h) },
                else_branch = e () => (float[N] b) { m = Identity(k) b = Neg(m) }
            >
        }""",
        after="""g (bool c, float[N] x) => (float[N] y) {
            h = Exp(x)
            y = If (c) <
                then_branch = t () => (float[N] a) { a = Identity(h) },
                else_branch = e () => (float[N] b) { b = Neg(h) }
            >
        }""",
    )
