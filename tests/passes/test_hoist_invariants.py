"""hoist-invariants."""

from __future__ import annotations

import pytest
from checking import check_pass

from graphopt.passes.hoist_invariants import HoistInvariants

FRAME = """g (float[2] x, float[2] w, bool c, int64 m) => (float[2] y) <int64 n = {{{turns}}}, bool on = {{1}},
    int64[1] shape = {{2}}, uint8[2] o = {{1, 2}}, float half = {{0.5}}> {{
    {outside}
    y = Loop ({operands}, x) <body = b (int64 i, bool k, float[2] s) => (bool go, float[2] r) {{
        go = Identity(k) {inside} }}> }}"""


def framed(inside: str, outside: str = "", operands: str = "n, on", turns: int = 3) -> str:
    return FRAME.format(inside=inside, outside=outside, operands=operands, turns=turns)


def test_a_chain_that_does_not_depend_on_the_turn() -> None:
    check_pass(
        HoistInvariants(),
        before=framed("e = Exp(w) f = Reshape(e, shape) d = Mul(s, f) r = Add(d, e)"),
        after=framed("d = Mul(s, f) r = Add(d, e)", "e = Exp(w) f = Reshape(e, shape)"),
    )


def test_numbers_are_dequantised_beside_their_operator() -> None:
    check_pass(
        HoistInvariants(),
        before=framed("q = QuantizeLinear(w, half) e = DequantizeLinear(q, half) r = Mul(s, e)"),
        after=framed("e = DequantizeLinear(q, half) r = Mul(s, e)", "q = QuantizeLinear(w, half)"),
    )


@pytest.mark.parametrize("operands", ["m, on", "n, c", "m, c"])
def test_from_a_loop_that_may_never_run_only_what_cannot_fail(operands: str) -> None:
    changes = check_pass(
        HoistInvariants(),
        before=framed("e = Exp(w) f = Reshape(e, shape) d = Mul(s, f) r = Add(d, e)", operands=operands),
        after=framed("f = Reshape(e, shape) d = Mul(s, f) r = Add(d, e)", "e = Exp(w)", operands=operands),
        feeds=None,
    )
    assert any("may never run" in text for text in changes.declined)


@pytest.mark.parametrize(
    "inside",
    [
        "e = RandomNormalLike(w) r = Add(s, e)",
        "e = Exp(s) r = Add(e, w)",
        "r = Exp(w)",
        "e = DequantizeLinear(o, half) r = Mul(s, e)",
        """e = If(c) <then_branch = t () => (float[2] a) { a = Exp(w) },
            else_branch = f () => (float[2] b) { b = Neg(w) }> r = Add(s, e)""",
    ],
)
def test_near_misses(inside: str) -> None:
    check_pass(HoistInvariants(), before=framed(inside))


def test_through_two_loops() -> None:
    nested = """r = Loop (n, on, s) <body = d (int64 j, bool l, float[2] t) => (bool ho, float[2] u) {
        ho = Identity(l) @ u = Add(t, f) }>"""
    check_pass(
        HoistInvariants(),
        before=framed(nested.replace("@", "e = Exp(w) f = Mul(e, w)")),
        after=framed(nested.replace("@", ""), "e = Exp(w) f = Mul(e, w)"),
    )


def test_out_of_a_scan() -> None:
    frame = """g (float[2] h, float[LENGTH, 2] x, float[2] w) => (float[2] y, float[P, 2] z) {{
        {} y, z = Scan <num_scan_inputs = 1, body = b (float[2] s, float[2] p) => (float[2] r, float[2] o) {{
            {} r = Add(s, f) o = Mul(p, f) }}> (h, x) }}"""
    known, unknown = frame.replace("LENGTH", "3"), frame.replace("LENGTH", "N")
    chain = "e = Exp(w) f = Mul(e, w)"
    check_pass(HoistInvariants(), before=known.format("", chain), after=known.format(chain, ""))
    check_pass(
        HoistInvariants(),
        before=unknown.format("", chain),
        after=unknown.format("e = Exp(w)", "f = Mul(e, w)"),
    )


def test_a_carried_value_that_is_handed_on_is_its_initial_value() -> None:
    frame = """g (float[2] x, float[2] w) => (float[2] y, float[2] z) <int64 n = {{3}}, bool on = {{1}}> {{
        y, v = Loop (n, on, x, w) <
            body = b (int64 i, bool k, float[2] s, float[2] t) => (bool go, float[2] r, float[2] u) {{
                go = Identity(k) u = Identity(t) r = Add(s, {}) }}>
        z = Exp({}) }}"""
    check_pass(HoistInvariants(), before=frame.format("t", "v"), after=frame.format("w", "w"))


def test_a_carried_output_of_the_graph_leaves_its_name_to_the_initial_value() -> None:
    """The output of the Loop stays, without a user, under another name."""
    frame = """g (float[2] h) => (float[2] y, float[2] z) <int64 n = {{3}}, bool on = {{1}}> {{
        x = Exp(h)
        y, {} = Loop (n, on, h, x) <
            body = b (int64 i, bool k, float[2] s, float[2] t) => (bool go, float[2] r, float[2] u) {{
                go = Identity(k) u = Identity(t) r = Add(s, {}) }}> {} }}"""
    before = frame.format("z", "t", "")
    after = frame.replace("x = Exp", "z = Exp").replace("h, x)", "h, z)")
    check_pass(HoistInvariants(), before=before, after=after.format("w", "z", ""))
    check_pass(HoistInvariants(), before=frame.format("z", "s", ""), after=after.format("w", "s", ""))


def test_what_a_scan_gives_each_turn_stays_in_it() -> None:
    check_pass(
        HoistInvariants(),
        before="""g (float[3, 2] x, float[2] w) => (float[P, 2] z) {
            z = Scan <num_scan_inputs = 1, body = b (float[2] p) => (float[2] o) {
                e = Exp(w) o = Identity(e) }> (x) }""",
    )
