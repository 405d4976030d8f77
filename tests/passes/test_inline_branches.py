"""inline-branches."""

from __future__ import annotations

import pytest
from checking import check_pass

from graphopt.passes.inline_branches import InlineBranches

IF = """g (float[N] x) => (float[N] y, float[N] z) <bool c = {{{condition}}}, float[1] w = {{2.0}}> {{
    h = Exp(x)
    y, z = If (c) <
        then_branch = t () => (float[N] a, float[N] b) {{ a = Mul(h, w) b = Identity(h) }},
        else_branch = e () => (float[N] p, float[N] q) {{ p = Neg(x) q = Abs(p) }}
    >
}}"""


def test_the_branch_that_is_taken_stands_in_its_place() -> None:
    check_pass(
        InlineBranches(),
        before=IF.format(condition=1),
        after="""g (float[N] x) => (float[N] y, float[N] z) <float[1] w = {2.0}> {
            h = Exp(x) y = Mul(h, w) z = Identity(h) }""",
    )
    check_pass(
        InlineBranches(),
        before=IF.format(condition=0),
        after="g (float[N] x) => (float[N] y, float[N] z) { h = Exp(x) y = Neg(x) z = Abs(y) }",
    )


@pytest.mark.parametrize(
    "condition", ["k = Identity(c)", "s = ReduceSum<keepdims = 0>(x) z = Cast<to = 9>(s) k = Or(z, c)"]
)
def test_a_condition_that_is_not_constant_stays(condition: str) -> None:
    check_pass(
        InlineBranches(),
        before=f"""g (float[N] x, bool c) => (float[N] y) {{
            {condition}
            y = If (k) <
                then_branch = t () => (float[N] a) {{ a = Exp(x) }},
                else_branch = e () => (float[N] b) {{ b = Neg(x) }}
            >
        }}""",
    )


def test_an_overridable_condition_stays() -> None:
    check_pass(
        InlineBranches(),
        before="""g (float[N] x, bool c) => (float[N] y) <bool c = {1}> {
            y = If (c) <
                then_branch = t () => (float[N] a) { a = Exp(x) },
                else_branch = e () => (float[N] b) { b = Neg(x) }
            >
        }""",
    )


def test_one_value_as_two_outputs_and_nested_branches() -> None:
    check_pass(
        InlineBranches(),
        before="""g (float[N] x) => (float[N] y, float[N] z) <bool c = {1}, bool d = {0}> {
            y, z = If (c) <
                then_branch = t () => (float[N] m, float[N] n) {
                    m = If (d) <
                        then_branch = u () => (float[N] a) { a = Exp(x) },
                        else_branch = v () => (float[N] b) { b = Neg(x) }
                    >
                    n = Identity(m)
                },
                else_branch = e () => (float[N] p, float[N] q) { p = Abs(x) q = Abs(x) }
            >
        }""",
        after="g (float[N] x) => (float[N] y, float[N] z) { y = Neg(x) z = Identity(y) }",
    )


def test_an_if_inside_a_loop() -> None:
    frame = """g (float[N] x, bool on) => (float[N] y) <int64 n = {{3}}, bool c = {{1}}> {{
        y = Loop (n, on, x) <
            body = b (int64 i, bool k, float[N] s) => (bool go, float[N] r) {{ go = Identity(k) {} }}
        >
    }}"""
    check_pass(
        InlineBranches(),
        before=frame.format(
            """r = If (c) <
                then_branch = t () => (float[N] a) { a = Add(s, x) },
                else_branch = e () => (float[N] q) { q = Neg(s) }
            >"""
        ),
        after=frame.format("r = Add(s, x)"),
    )


LOOP = """g (float[2] x{inputs}) => (float[2] y, float[P, 2] z)
    <int64 n = {{{trips}}}, bool on = {{{starts}}}> {{
    h = Exp(x)
    y, z = Loop ({operands}, h) <
        body = b (int64 i, bool k, float[2] s) => (bool go, float[2] r, float[2] q) {{
            go = {go}
            f = Cast<to = 1>(i)
            r = Add(s, x)
            q = Add(r, f)
        }}
    >
}}"""


def loop(
    trips: int = 1, starts: int = 1, operands: str = "n, on", go: str = "Identity(k)", inputs: str = ""
) -> str:
    return LOOP.format(trips=trips, starts=starts, operands=operands, go=go, inputs=inputs)


@pytest.mark.parametrize(
    "source", [loop(trips=0), loop(trips=-3), loop(trips=9, starts=0), loop(trips=0, operands="n, ")]
)
def test_a_loop_that_never_runs_gives_back_its_start(source: str) -> None:
    after = (
        "g (float[2] x) => (float[2] y, float[0, 2] z) <float[0, 2] e = {}> { y = Exp(x) z = Identity(e) }"
    )
    check_pass(InlineBranches(), before=source, after=after)


@pytest.mark.parametrize("source", [loop(), loop(operands="n, "), loop(trips=7, go="Identity(off)")])
def test_a_loop_that_runs_once_stands_in_its_place(source: str) -> None:
    source = source.replace("<int64 n", "<bool off = {0}, int64 n")
    go = "go = Identity(t)" if "Identity(k)" in source else "go = Identity(off)"
    check_pass(
        InlineBranches(),
        before=source,
        after=f"""g (float[2] x) => (float[2] y, float[1, 2] z)
            <bool off = {{0}}, bool t = {{1}}, int64 i = {{0}}, int64[1] zero = {{0}}> {{
            h = Exp(x) {go} f = Cast<to = 1>(i) y = Add(h, x) q = Add(y, f) z = Unsqueeze(q, zero) }}""",
    )


@pytest.mark.parametrize(
    "source",
    [
        loop(trips=2),
        loop(operands="m, on", inputs=", int64 m"),
        loop(operands="n, c", inputs=", bool c"),
        loop(trips=3, go="Not(k)"),
    ],
)
def test_a_loop_that_may_run_otherwise_stays(source: str) -> None:
    check_pass(InlineBranches(), before=source)


BRANCHES = """g (float[N] x, bool c) => (float[N] y) <float[1] w = {{2.0}}> {{
    y = If (c) <
        then_branch = t () => (float[N] a) {{ p = Exp(x) a = Mul(p, w) }},
        else_branch = e () => (float[N] b) {{ q = Exp(x) b = {} }}
    > }}"""


def test_branches_that_compute_the_same() -> None:
    check_pass(
        InlineBranches(),
        before=BRANCHES.format("Mul(q, w)"),
        after="g (float[N] x, bool c) => (float[N] y) <float[1] w = {2.0}> { p = Exp(x) y = Mul(p, w) }",
    )


@pytest.mark.parametrize("last", ["Mul(w, q)", "Mul(q, q)", "Mul(x, w)", "RandomNormalLike(q)"])
def test_branches_that_differ_stay(last: str) -> None:
    check_pass(InlineBranches(), before=BRANCHES.format(last))
