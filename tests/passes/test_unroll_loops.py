"""unroll-loops."""

from __future__ import annotations

import pytest
from checking import check_pass
from rewriting import check_declines, check_rewrite

from graphopt.passes.unroll_loops import UnrollLoops

LOOP = """g (float[2] x{inputs}) => (float[2] y, float[P, 2] z)
    <int64 n = {{{turns}}}, bool on = {{{starts}}}, float[2] w = {{1.0, 2.0}}> {{
    y, z = Loop ({operands}, x) <
        body = b (int64 i, bool k, float[2] s) => (bool go, float[2] r, float[2] q) {{
            go = {go}
            f = Cast<to = 1>(i)
            r = Add(s, w)
            q = {last}
        }}
    > }}"""


def loop(
    turns: int = 3,
    starts: int = 1,
    operands: str = "n, on",
    go: str = "Identity(k)",
    inputs: str = "",
    last: str = "Mul(r, f)",
) -> str:
    return LOOP.format(turns=turns, starts=starts, operands=operands, go=go, inputs=inputs, last=last)


def test_a_loop_becomes_its_turns() -> None:
    check_pass(
        UnrollLoops(),
        before=loop(turns=2),
        after="""g (float[2] x) => (float[2] y, float[2, 2] z) <int64 i = {0}, int64 j = {1}, bool on = {1},
            float[2] w = {1.0, 2.0}, int64[1] axis = {0}> {
            g0 = Identity(on) f0 = Cast<to = 1>(i) r0 = Add(x, w) q0 = Mul(r0, f0)
            g1 = Identity(on) f1 = Cast<to = 1>(j) y = Add(r0, w) q1 = Mul(y, f1)
            a = Unsqueeze(q0, axis) b = Unsqueeze(q1, axis) z = Concat<axis = 0>(a, b) }""",
    )


@pytest.mark.parametrize(
    "source", [loop(operands="n, "), loop(turns=1), loop(go="Identity(on)"), loop(last="Identity(s)")]
)
def test_other_loops_of_known_length(source: str) -> None:
    turns = 1 if "int64 n = {1}" in source else 3
    stack = ["Unsqueeze"] * turns + ["Concat"] * (turns > 1)
    last = "Identity" if "Identity(s)" in source else "Mul"
    check_rewrite(UnrollLoops(), source, ["Identity", "Cast", "Add", last] * turns + stack)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (loop(turns=9), "more than max-nodes"),
        (loop(turns=0), "never runs"),
        (loop(operands="m, on", inputs=", int64 m"), "not constant"),
        (loop(operands="n, c", inputs=", bool c"), "may stop early"),
        (loop(starts=0), "may stop early"),
        (loop(go="Not(k)"), "may stop early"),
        (loop(last="RandomNormalLike(r)"), "random"),
    ],
)
def test_near_misses(source: str, reason: str) -> None:
    check_declines(UnrollLoops(), source, reason)


def test_inner_loops_and_branches_inside() -> None:
    source = """g (float[2] x, bool c) => (float[2] y) <int64 n = {2}, bool on = {1}> {
        y = Loop (n, on, x) <body = b (int64 i, bool k, float[2] s) => (bool go, float[2] r) {
            go = Identity(k)
            t = Loop (n, on, s) <body = d (int64 j, bool l, float[2] u) => (bool h, float[2] v) {
                h = Identity(l) v = Exp(u) }>
            r = If (c) <then_branch = p () => (float[2] a) { a = Neg(t) },
                else_branch = q () => (float[2] e) { e = Add(t, s) }> }> }"""
    turn = ["Identity", "Identity", "Exp", "Identity", "Exp", "If"]
    check_rewrite(UnrollLoops(), source, [*turn * 2, "Neg", "Add", "Neg", "Add"])


SCAN = """g (float[3] h, float[2, 3] x, float[3, 2] v) => (float[3] y, float[A, B] z, float[C, D] u) {{
    y, z, u = Scan <num_scan_inputs = 2, scan_input_axes = [0, 1]{attributes},
        body = b (float[3] s, float[3] p, float[3] q) => (float[3] r, float[3] o, float[3] m) {{
            r = Add(s, p) o = Mul(r, q) m = Sub(p, q) }}> (h, x, v) }}"""


@pytest.mark.parametrize(
    "attributes",
    [
        "",
        ", scan_input_directions = [1, 0]",
        ", scan_output_axes = [1, -1]",
        ", scan_output_axes = [0, 1], scan_output_directions = [1, 0], scan_input_directions = [0, 1]",
    ],
)
def test_a_scan_becomes_its_turns(attributes: str) -> None:
    turn = ["Gather", "Gather", "Add", "Mul", "Sub"]
    stack = ["Unsqueeze", "Unsqueeze", "Concat"]
    check_rewrite(UnrollLoops(), SCAN.format(attributes=attributes), [*turn * 2, *stack * 2])


def test_a_scan_of_unknown_length_stays() -> None:
    source = SCAN.format(attributes="").replace(
        "float[2, 3] x, float[3, 2] v", "float[N, 3] x, float[3, N] v"
    )
    check_declines(UnrollLoops(), source, "length of what it scans is not known")
    check_declines(UnrollLoops(max_nodes=5), SCAN.format(attributes=""), "more than max-nodes")
