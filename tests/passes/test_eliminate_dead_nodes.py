"""eliminate-dead-nodes."""

from __future__ import annotations

import pytest
from checking import check_pass, model_from

from graphopt.passes.eliminate_dead_nodes import EliminateDeadNodes


def test_unused_chain_and_its_initializer_go() -> None:
    changes = check_pass(
        EliminateDeadNodes(),
        before="""g (float[N] x) => (float[N] y) <float[1] w = {2.0}> {
            a = Exp(x)
            b = Mul(a, w)
            y = Relu(x)
        }""",
        after="g (float[N] x) => (float[N] y) { y = Relu(x) }",
    )
    assert changes.counts == {"node": 2, "initializer": 1}


def test_trailing_optional_output_goes() -> None:
    model = model_from("g (float[N] x) => (float[N] y) { y, mask = Dropout(x) }")
    assert EliminateDeadNodes().run(model).counts == {"optional-output": 1}
    assert len(model.graph.node(0).outputs) == 1


def test_required_and_used_outputs_stay() -> None:
    check_pass(
        EliminateDeadNodes(),
        before="g (float[4] x) => (float[2] a) <int64[1] k = {2}> { a, i = TopK(x, k) }",
    )
    check_pass(
        EliminateDeadNodes(),
        before="g (float[4] x) => (float[2] a) { a, b = Split <axis = 0, num_outputs = 2> (x) }",
    )
    check_pass(EliminateDeadNodes(), before="g (float[4] x) => (float[4] a, bool[4] m) { a, m = Dropout(x) }")


def test_initializer_that_is_an_input_or_output_stays() -> None:
    check_pass(
        EliminateDeadNodes(),
        before="g (float[1] x, float[1] w) => (float[1] y, float[1] z) <float[1] w = {1.0}, float[1] z = {2.0}> {"
        " y = Relu(x) }",
    )


def test_what_a_branch_uses_stays_and_what_it_does_not_goes() -> None:
    check_pass(
        EliminateDeadNodes(),
        before="""g (bool c, float[N] x) => (float[N] y) {
            used = Exp(x)
            unused = Log(x)
            y = If (c) <
                then_branch = t () => (float[N] a) { a = Relu(used) d = Neg(unused) },
                else_branch = e () => (float[N] b) { b = Neg(x) }
            >
        }""",
        after="""g (bool c, float[N] x) => (float[N] y) {
            used = Exp(x)
            y = If (c) <
                then_branch = t () => (float[N] a) { a = Relu(used) },
                else_branch = e () => (float[N] b) { b = Neg(x) }
            >
        }""",
    )


def test_unused_output_of_if_goes_from_both_branches() -> None:
    check_pass(
        EliminateDeadNodes(),
        before="""g (bool c, float[N] x) => (float[N] y) {
            unused, y = If (c) <
                then_branch = t () => (float[N] a, float[N] b) { a = Exp(x) b = Relu(x) },
                else_branch = e () => (float[N] d, float[N] f) { d = Log(x) f = Neg(x) }
            >
        }""",
        after="""g (bool c, float[N] x) => (float[N] y) {
            y = If (c) <
                then_branch = t () => (float[N] b) { b = Relu(x) },
                else_branch = e () => (float[N] f) { f = Neg(x) }
            >
        }""",
    )


LOOP = """g (float[2] x) => (float[2] y) <int64 n = {{3}}, bool on = {{1}}> {{
    {outputs} = Loop (n, on, x, x) <
        body = b (int64 i, bool c, float[2] s, float[2] u) => ({results}) {{
            go = Identity(c)
            r = Add(s, x)
            {extra}
        }}
    >
}}"""


def test_unused_outputs_of_loop_go() -> None:
    check_pass(
        EliminateDeadNodes(),
        before=LOOP.format(
            outputs="y, other, stacked",
            results="bool go, float[2] r, float[2] v, float[2] q",
            extra="v = Exp(x) q = Neg(s)",
        ),
        after="""g (float[2] x) => (float[2] y) <int64 n = {3}, bool on = {1}> {
            y = Loop (n, on, x) <
                body = b (int64 i, bool c, float[2] s) => (bool go, float[2] r) {
                    go = Identity(c)
                    r = Add(s, x)
                }
            >
        }""",
    )


def test_carried_value_that_the_body_needs_stays() -> None:
    before = LOOP.format(
        outputs="y, other", results="bool go, float[2] w, float[2] v", extra="w = Add(r, u) v = Exp(u)"
    )
    check_pass(EliminateDeadNodes(), before=before)


def test_carried_value_that_leaves_by_another_output_stays() -> None:
    before = LOOP.format(outputs="y, other", results="bool go, float[2] u, float[2] v", extra="v = Exp(r)")
    model = model_from(before)
    EliminateDeadNodes().run(model)
    check_pass(EliminateDeadNodes(), before=model)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_the_sequence_of_a_recurrent_layer_that_only_its_last_state_is_asked_for(op: str) -> None:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    rest = ", c" if op == "LSTM" else ""
    frame = f"""g (float[5, 2, 3] x, float[1, {gates * 4}, 3] w, float[1, {gates * 4}, 4] r) => (float[1, 2, 4] h)
        {{ @, h = {op}<hidden_size = 4>(x, w, r) }}"""
    check_pass(
        EliminateDeadNodes(), before=frame.replace("@, h", f"y, h{rest}"), after=frame.replace("@", "")
    )


def test_required_outputs_before_one_that_is_used_stay() -> None:
    check_pass(
        EliminateDeadNodes(),
        before="""g (float[6] x, int64[1] k) => (int64[K] i) { v, i = TopK(x, k) }""",
    )


def test_a_chain_of_carried_values_that_serves_only_itself() -> None:
    check_pass(
        EliminateDeadNodes(),
        before=LOOP.format(outputs="y, other", results="bool go, float[2] r, float[2] v", extra="v = Exp(u)"),
        after="""g (float[2] x) => (float[2] y) <int64 n = {3}, bool on = {1}> {
            y = Loop (n, on, x) <
                body = b (int64 i, bool c, float[2] s) => (bool go, float[2] r) {
                    go = Identity(c) r = Add(s, x) } > }""",
    )


SCAN = """g (float[2] h, float[N, 2] x) => (float[2, N] z) {{
    {outputs} = Scan <num_scan_inputs = 1, scan_output_axes = {axes},
        body = b ({formals}, float[2] p) => ({results}) {{ {nodes} }}> ({states}, x) }}"""


def test_unused_outputs_of_scan_go() -> None:
    check_pass(
        EliminateDeadNodes(),
        before=SCAN.format(
            outputs="a, b, w, z",
            axes="[0, 1]",
            formals="float[2] s, float[2] t",
            states="h, h",
            results="float[2] r, float[2] u, float[2] q, float[2] o",
            nodes="r = Add(s, p) u = Mul(t, p) q = Exp(u) o = Neg(r)",
        ),
        after=SCAN.format(
            outputs="a, z",
            axes="[1]",
            formals="float[2] s",
            states="h",
            results="float[2] r, float[2] o",
            nodes="r = Add(s, p) o = Neg(r)",
        ),
    )
