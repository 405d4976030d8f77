"""eliminate-common-subexpressions."""

from __future__ import annotations

import pytest
from checking import check_pass, model_from

from graphopt.ir.provenance import origins
from graphopt.passes.eliminate_common_subexpressions import EliminateCommonSubexpressions


def test_equal_chains_become_one() -> None:
    check_pass(
        EliminateCommonSubexpressions(),
        before="""g (float[N] x) => (float[N] y) {
            a = Exp(x)
            b = Exp(x)
            c = Neg(a)
            d = Neg(b)
            y = Add(c, d)
        }""",
        after="g (float[N] x) => (float[N] y) { a = Exp(x) c = Neg(a) y = Add(c, c) }",
    )


def test_the_one_that_stays_stands_for_both() -> None:
    model = model_from("g (float[N] x) => (float[N] y) { a = Exp(x) b = Exp(x) y = Add(a, b) }")
    names = [node.name for node in model.graph][:2]
    EliminateCommonSubexpressions().run(model)
    assert list(origins(model.graph.node(0))) == names


@pytest.mark.parametrize(
    "pair",
    [
        "a = Exp(x) b = Log(x)",
        "a = Sub(x, z) b = Sub(z, x)",
        "a = LeakyRelu<alpha = 0.1>(x) b = LeakyRelu<alpha = 0.2>(x)",
        "a = Elu<alpha = 0.0>(x) b = Elu<alpha = -0.0>(x)",
        "a = RandomNormalLike(x) b = RandomNormalLike(x)",
        "a = Bernoulli<seed = 1.0>(x) b = Bernoulli<seed = 1.0>(x)",
        "a = Dropout(x, r, t) b = Dropout(x, r, t)",
    ],
)
def test_different_expressions_stay(pair: str) -> None:
    check_pass(
        EliminateCommonSubexpressions(),
        before=f"""g (float[N] x, float[N] z) => (float[N] y) <float r = {{0.5}}, bool t = {{1}}> {{
            {pair}
            y = Add(a, b)
        }}""",
    )


def test_operators_of_unknown_domains_stay() -> None:
    source = """<ir_version: 10, opset_import: ["" : 18, "mine" : 1]>
        g (float[N] x) => (float[N] y) { a = mine.Draw(x) b = mine.Draw(x) y = Add(a, b) }"""
    assert not EliminateCommonSubexpressions().run(model_from(source)).modified


def test_tensor_attributes_are_compared_by_contents() -> None:
    source = """g (int64[2] s) => (float[P, Q] y) {{
        a = ConstantOfShape<value = float[1] {{1.0}}>(s)
        b = ConstantOfShape<value = float[1] {{{value}}}>(s)
        y = Add(a, b)
    }}"""
    assert EliminateCommonSubexpressions().run(model_from(source.format(value="1.0"))).modified
    assert not EliminateCommonSubexpressions().run(model_from(source.format(value="2.0"))).modified


def test_two_outputs_keep_their_names() -> None:
    check_pass(
        EliminateCommonSubexpressions(),
        before="g (float[N] x) => (float[N] y, float[N] z) { y = Exp(x) z = Exp(x) }",
        after="g (float[N] x) => (float[N] y, float[N] z) { y = Exp(x) z = Identity(y) }",
    )


def test_copies_to_outputs_stay() -> None:
    check_pass(
        EliminateCommonSubexpressions(),
        before="g (float[N] x) => (float[N] y, float[N] z) { y = Identity(x) z = Identity(x) }",
    )


def test_branch_uses_what_was_computed_outside() -> None:
    check_pass(
        EliminateCommonSubexpressions(),
        before="""g (bool c, float[N] x) => (float[N] y, float[N] z) {
            z = Exp(x)
            y = If (c) <
                then_branch = t () => (float[N] a) { p = Exp(x) a = Neg(p) },
                else_branch = e () => (float[N] b) { q = Exp(x) b = Relu(q) }
            >
        }""",
        after="""g (bool c, float[N] x) => (float[N] y, float[N] z) {
            z = Exp(x)
            y = If (c) <
                then_branch = t () => (float[N] a) { a = Neg(z) },
                else_branch = e () => (float[N] b) { b = Relu(z) }
            >
        }""",
    )


def test_nothing_outside_uses_what_a_branch_computes() -> None:
    check_pass(
        EliminateCommonSubexpressions(),
        before="""g (bool c, float[N] x) => (float[N] y, float[N] z) {
            y = If (c) <
                then_branch = t () => (float[N] a) { p = Exp(x) a = Neg(p) },
                else_branch = e () => (float[N] b) { q = Exp(x) b = Relu(q) }
            >
            z = Exp(x)
        }""",
    )


TWO_LOOPS = """g (float[2] x, bool on, bool off) => (float[2] y) <int64 n = {{3}}, float[1] w = {{2.0}}> {{
    a = Loop (n, on, x) <body = b (int64 i, bool k, float[2] s) => (bool go, float[2] r) {{
        go = Identity(k) p = Mul(s, w) r = Add(p, x) }}>
    b = Loop (n, {start}, x) <body = d (int64 j, bool l, float[2] t) => (bool ho, float[2] u) {{
        ho = Identity(l) q = {first} u = Add(q, x) }}>
    y = Add(a, b) }}"""


def test_equal_loops_run_once() -> None:
    check_pass(
        EliminateCommonSubexpressions(),
        before=TWO_LOOPS.format(start="on", first="Mul(t, w)"),
        after="""g (float[2] x, bool on, bool off) => (float[2] y) <int64 n = {3}, float[1] w = {2.0}> {
            a = Loop (n, on, x) <body = b (int64 i, bool k, float[2] s) => (bool go, float[2] r) {
                go = Identity(k) p = Mul(s, w) r = Add(p, x) }>
            y = Add(a, a) }""",
    )


@pytest.mark.parametrize(
    ("start", "first"),
    [("off", "Mul(t, w)"), ("on", "Mul(t, x)"), ("on", "Div(t, w)"), ("on", "RandomNormalLike(t)")],
)
def test_loops_that_differ_stay(start: str, first: str) -> None:
    check_pass(EliminateCommonSubexpressions(), before=TWO_LOOPS.format(start=start, first=first))


def test_small_constants_are_compared_by_their_bits() -> None:
    head = "g (float[3] x) => (float[3] y, float[3] z) <float a = {0.0}, float b = {0.0}, float c = {-0.0}"
    check_pass(
        EliminateCommonSubexpressions(by_value=True),
        before=f"{head}> {{ p = Add(x, a) q = Add(x, b) y = Exp(p) z = Neg(q) }}",
        after=f"{head}> {{ p = Add(x, a) y = Exp(p) z = Neg(p) }}",
    )
    check_pass(
        EliminateCommonSubexpressions(by_value=True),
        f"{head}, float[1] d = {{0.0}}> {{ p = Add(x, a) q = Add(x, c) r = Add(x, d) s = Add(p, r) y = Exp(s) z = Neg(q) }}",
    )
    check_pass(
        EliminateCommonSubexpressions(),
        f"{head}> {{ p = Add(x, a) q = Add(x, b) y = Exp(p) z = Neg(q) }}",
    )
