"""If, Loop and Scan, with captured values and nesting, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from checking import model_from, random_feeds, run_onnxruntime, run_xla

from graphopt.errors import UnsupportedError


def check(source: str, feeds: dict[str, np.ndarray] | None = None, opset: int = 18) -> dict[str, np.ndarray]:
    """XLA gives what ONNX Runtime gives."""
    model = model_from(source, opset)
    feeds = random_feeds(model) if feeds is None else feeds
    expected = run_onnxruntime(model, feeds)
    found = run_xla(model, feeds)
    for name, wanted in expected.items():
        assert found[name].dtype == np.asarray(wanted).dtype
        assert found[name].shape == np.asarray(wanted).shape
        np.testing.assert_allclose(found[name], wanted, rtol=1e-5, atol=1e-6, err_msg=name)
    return found


DYNAMIC_IF = """g (float[3] x, float[3] w) => (float[3] y, float[3] z) {
    zero = Constant <value = float {0.0}> ()
    total = ReduceSum <keepdims = 0> (x)
    c = Greater (total, zero)
    d = Add (x, w)
    y, z = If (c) <
        then_branch = t () => (float[3] a, float[3] b) { a = Mul (d, w)  b = Identity (x) },
        else_branch = e () => (float[3] p, float[3] q) { p = Sub (x, d)  q = Neg (d) }
    >
}"""


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_computed_condition_takes_either_branch(sign: float) -> None:
    x = np.array([sign, sign, sign], np.float32)
    check(DYNAMIC_IF, {"x": x, "w": np.array([1, 2, 3], np.float32)})


def test_a_known_condition_emits_that_branch_only() -> None:
    # The branches differ in shape, and the other one has an operator that XLA cannot express.
    found = check("""g (float[4, 3] x) => (float[r, s] y) {
        shape = Shape (x)
        i = Constant <value = int64[1] {0}> ()
        four = Constant <value = int64[1] {4}> ()
        n = Gather (shape, i)
        same = Equal (n, four)
        c = Squeeze (same)
        y = If (c) <
            then_branch = t () => (float[4, 3] a) { a = Relu (x) },
            else_branch = e () => (float[m, o] b) { k = NonZero (x) b = Cast <to = 1> (k) }
        >
    }""")
    assert found["y"].shape == (4, 3)


def test_branches_of_different_shapes_are_refused_with_both_shapes() -> None:
    model = model_from("""g (float[3] x) => (float[n] y) {
        zero = Constant <value = float {0.0}> ()
        total = ReduceSum <keepdims = 0> (x)
        c = Greater (total, zero)
        y = If (c) <
            then_branch = t () => (float[3] a) { a = Relu (x) },
            else_branch = e () => (float[6] b) { b = Concat <axis = 0> (x, x) }
        >
    }""")
    with pytest.raises(UnsupportedError, match=r"GO205.*float32\[3\].*float32\[6\]"):
        run_xla(model, {"x": np.zeros(3, np.float32)})


@pytest.mark.parametrize("rate", [8, 16])
def test_branches_chosen_by_a_small_integer_input_are_specialised(rate: int) -> None:
    check(
        """g (float[6] x, int64 rate) => (float[n] y) {
            sixteen = Constant <value = int64 {16}> ()
            c = Equal (rate, sixteen)
            y = If (c) <
                then_branch = t () => (float[6] a) { a = Relu (x) },
                else_branch = e () => (float[12] b) { b = Concat <axis = 0> (x, x) }
            >
        }""",
        {"x": np.arange(6, dtype=np.float32) - 3, "rate": np.array(rate, np.int64)},
    )


def test_nested_branches_capture_from_every_level() -> None:
    source = """g (float[2] x, bool c, bool d) => (float[2] y) {
        k = Add (x, x)
        y = If (c) <
            then_branch = t () => (float[2] a) {
                m = Mul (k, x)
                a = If (d) <
                    then_branch = tt () => (float[2] aa) { aa = Add (m, k) },
                    else_branch = te () => (float[2] ab) { ab = Sub (m, x) }
                >
            },
            else_branch = e () => (float[2] b) { b = Neg (k) }
        >
    }"""
    x = np.array([2, -3], np.float32)
    for c in (True, False):
        for d in (True, False):
            check(source, {"x": x, "c": np.array(c), "d": np.array(d)})


def test_a_branch_may_hand_on_an_outer_value() -> None:
    source = """g (float[3] x, bool c) => (float[3] y) <float[3] w = {1.0, 2.0, 3.0}> {
        y = If (c) <
            then_branch = t () => (float[3] a) { a = Identity (w) },
            else_branch = e () => (float[3] b) { b = Identity (x) }
        >
    }"""
    for c in (True, False):
        check(source, {"x": np.ones(3, np.float32), "c": np.array(c)})


LOOP = """g (float[3] x, float[3] w) => (float[3] y, float[TRIPS, 3] all, int64[TRIPS] counts) {{
    m = Constant <value = int64 {{{trips}}}> ()
    go = Constant <value = bool {{1}}> ()
    y, all, counts = Loop (m, go, x) <
        body = b (int64 i, bool c, float[3] s) => (bool again, float[3] n, float[3] out, int64 count) {{
            again = Identity (c)
            f = Cast <to = 1> (i)
            p = Mul (s, w)
            n = Add (p, f)
            out = Neg (n)
            count = Identity (i)
        }}
    >
}}"""


@pytest.mark.parametrize("trips", [0, 1, 3, 40])
def test_a_fixed_number_of_iterations(trips: int) -> None:
    source = LOOP.format(trips=trips).replace("TRIPS", str(trips))
    check(source, {"x": np.ones(3, np.float32), "w": np.array([0.5, -0.9, 1], np.float32)})


def test_a_fed_number_of_iterations_is_specialised_on_when_results_are_stacked() -> None:
    source = """g (float[2] x, int64 m) => (float[2] y, float[t, 2] all) {
        y, all = Loop (m, , x) <
            body = b (int64 i, bool c, float[2] s) => (bool again, float[2] n, float[2] out) {
                again = Identity (c)
                n = Add (s, x)
                out = Identity (n)
            }
        >
    }"""
    check(source, {"x": np.ones(2, np.float32), "m": np.array(5, np.int64)})


def test_a_fed_number_of_iterations_is_specialised_on_when_the_body_needs_its_counter() -> None:
    source = """g (float[6] x, int64 m) => (float[n] y) {
        first = Constant <value = int64[1] {0}> ()
        e = Slice (x, first, first)
        y = Loop (m, , e) <
            body = b (int64 i, bool c, float[k] s) => (bool again, float[l] n) {
                again = Identity (c)
                one = Constant <value = int64 {1}> ()
                zero = Constant <value = int64[1] {0}> ()
                j = Add (i, one)
                end = Unsqueeze (j, zero)
                head = Slice (x, zero, end)
                n = Concat <axis = 0> (s, head)
            }
        >
    }"""
    found = check(source, {"x": np.arange(6, dtype=np.float32), "m": np.array(3, np.int64)})
    assert found["y"].shape == (1 + 2 + 3,)


WHILE = """g (float x, float limit) => (float y) {
    t = Constant <value = bool {1}> ()
    y = Loop (LIMIT, t, x) <
        body = b (int64 i, bool c, float s) => (bool again, float n) {
            two = Constant <value = float {2.0}> ()
            n = Mul (s, two)
            again = Less (n, limit)
        }
    >
}"""


@pytest.mark.parametrize("bound", ["", "m"])
def test_a_computed_condition_loops_on_the_device(bound: str) -> None:
    source = WHILE.replace("LIMIT", bound)
    if bound:
        source = source.replace("{\n    t =", "{\n    m = Constant <value = int64 {3}> ()\n    t =", 1)
    found = check(source, {"x": np.array(1, np.float32), "limit": np.array(100, np.float32)})
    assert found["y"] == (8 if bound else 128)


GROWING = """g (float[2] x) => (float[n] y) {
    m = Constant <value = int64 {TRIPS}> ()
    t = Constant <value = bool {1}> ()
    y = Loop (m, t, x) <
        body = b (int64 i, bool c, float[k] s) => (bool again, float[l] n) {
            again = Identity (c)
            n = Concat <axis = 0> (s, x)
        }
    >
}"""


def test_growing_states_are_unrolled() -> None:
    check(GROWING.replace("TRIPS", "4"))


def test_a_condition_on_the_counter_is_unrolled_with_stacked_results() -> None:
    check("""g (float[2] x) => (float[2] y, float[n, 2] all) {
        t = Constant <value = bool {1}> ()
        zero = Constant <value = int64 {0}> ()
        count, y, all = Loop (, t, zero, x) <
            body = b (int64 i, bool c, int64 k, float[2] s)
                => (bool again, int64 next, float[2] n, float[2] out) {
                one = Constant <value = int64 {1}> ()
                five = Constant <value = int64 {5}> ()
                next = Add (k, one)
                again = Less (next, five)
                n = Add (s, x)
                out = Mul (n, n)
            }
        >
    }""")


def test_shapes_that_follow_the_data_are_refused() -> None:
    model = model_from("""g (float[2] x, float limit) => (float[n, 2] all) {
        t = Constant <value = bool {1}> ()
        y, all = Loop (, t, x) <
            body = b (int64 i, bool c, float[2] s) => (bool again, float[2] n, float[2] out) {
                n = Add (s, x)
                total = ReduceSum <keepdims = 0> (n)
                again = Less (total, limit)
                out = Identity (n)
            }
        >
    }""")
    with pytest.raises(UnsupportedError, match="GO205"):
        run_xla(model, {"x": np.ones(2, np.float32), "limit": np.array(9, np.float32)})


def test_a_long_loop_whose_state_grows_is_refused() -> None:
    model = model_from(GROWING.replace("TRIPS", "400"))
    with pytest.raises(UnsupportedError, match=r"GO205.*float32\[2\] to float32\[4\]"):
        run_xla(model, {"x": np.ones(2, np.float32)})


def test_unrolling_stays_within_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.lowering.xla import emit

    monkeypatch.setattr(emit, "UNROLLED_NODES", 10)
    model = model_from(GROWING.replace("TRIPS", "8"))
    with pytest.raises(UnsupportedError, match=r"GO205.*unroll to more than 10 nodes"):
        run_xla(model, {"x": np.ones(2, np.float32)})


def test_a_loop_around_a_branch_around_a_loop() -> None:
    check("""g (float[2] x, bool c) => (float[2] y) {
        three = Constant <value = int64 {3}> ()
        t = Constant <value = bool {1}> ()
        y = Loop (three, t, x) <
            body = outer (int64 i, bool ci, float[2] s) => (bool oi, float[2] so) {
                oi = Identity (ci)
                f = Cast <to = 1> (i)
                so = If (c) <
                    then_branch = tb () => (float[2] a) {
                        a = Loop (three, t, s) <
                            body = inner (int64 j, bool cj, float[2] r) => (bool oj, float[2] ro) {
                                oj = Identity (cj)
                                p = Mul (r, x)
                                ro = Add (p, f)
                            }
                        >
                    },
                    else_branch = eb () => (float[2] b) { b = Sub (s, x) }
                >
            }
        >
    }""")


def test_scan_with_axes_directions_states_and_outer_values() -> None:
    check("""g (float[2] h, float[1] k, float[4, 2] a, float[2, 4] b, float[2] w)
        => (float[2] hn, float[1] kn, float[4, 2] y, float[2, 4] z) {
        hn, kn, y, z = Scan <
            num_scan_inputs = 2, scan_input_axes = [0, 1], scan_input_directions = [0, 1],
            scan_output_axes = [0, 1], scan_output_directions = [1, 0],
            body = s (float[2] hi, float[1] ki, float[2] ai, float[2] bi)
                => (float[2] ho, float[1] ko, float[2] yo, float[2] zo) {
                p = Mul (hi, w)
                q = Add (p, ai)
                ho = Tanh (q)
                ko = Add (ki, ki)
                yo = Sub (ho, bi)
                zo = Mul (ho, ki)
            }
        > (h, k, a, b)
    }""")


def test_a_scan_with_negative_axes_and_no_state() -> None:
    check("""g (float[2, 3, 4] a) => (float[2, 3, 4] y) {
        y = Scan <
            num_scan_inputs = 1, scan_input_axes = [-1], scan_output_axes = [-1],
            body = s (float[2, 3] ai) => (float[2, 3] yo) { yo = Exp (ai) }
        > (a)
    }""")
