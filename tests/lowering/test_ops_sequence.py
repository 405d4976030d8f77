"""Sequences and optionals inside a model, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from checking import model_from, random_feeds, run_onnxruntime, run_xla

from graphopt.errors import UnsupportedError


def check(source: str, feeds: dict[str, np.ndarray] | None = None, opset: int = 18) -> None:
    model = model_from(source, opset)
    feeds = random_feeds(model) if feeds is None else feeds
    expected = run_onnxruntime(model, feeds)
    found = run_xla(model, feeds)
    for name, wanted in expected.items():
        assert found[name].dtype == np.asarray(wanted).dtype
        np.testing.assert_allclose(found[name], wanted, rtol=1e-6, err_msg=name)


def test_construct_insert_erase_and_take() -> None:
    check("""g (float[2] x, float[2] y) => (float[2] a, float[2] b, float[2] c, int64 n) {
        zero = Constant <value = int64 {0}> ()
        last = Constant <value = int64 {-1}> ()
        s = SequenceConstruct (x, y)
        z = Neg (x)
        t = SequenceInsert (s, z, zero)
        u = SequenceInsert (t, y)
        v = SequenceErase (u, last)
        w = SequenceErase (v)
        a = SequenceAt (w, zero)
        b = SequenceAt (w, last)
        c = SequenceAt (u, last)
        n = SequenceLength (w)
    }""")


@pytest.mark.parametrize("new_axis", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concatenate_and_stack(new_axis: int, axis: int) -> None:
    check(f"""g (float[2, 3] x, float[2, 3] y) => (float z) {{
        s = SequenceConstruct (x, y)
        c = ConcatFromSequence <axis = {axis}, new_axis = {new_axis}> (s)
        z = ReduceMax <keepdims = 0> (c)
    }}""")


@pytest.mark.parametrize(
    "split",
    ["", "p = Constant <value = int64 {2}> ()", "p = Constant <value = int64[3] {1, 0, 4}> ()"],
)
def test_split_and_join_again(split: str) -> None:
    arguments = "x, p" if split else "x"
    check(f"""g (float[5, 2] x) => (float[n, 2] y, float z) {{
        {split}
        s = SplitToSequence <axis = 0> ({arguments})
        y = ConcatFromSequence <axis = 0> (s)
        zero = Constant <value = int64 {{0}}> ()
        f = SequenceAt (s, zero)
        z = ReduceSum <keepdims = 0> (f)
    }}""")


def test_split_without_keeping_the_axis() -> None:
    check("""g (float[2, 3] x) => (float[2] y) {
        one = Constant <value = int64 {1}> ()
        s = SplitToSequence <axis = 1, keepdims = 0> (x)
        y = SequenceAt (s, one)
    }""")


@pytest.mark.parametrize("position", [0, 2, -1])
def test_a_computed_position_among_equal_shapes(position: int) -> None:
    check(
        """g (float[3, 2] x, int64[1] i) => (float[1, 2] y) {
            j = ReduceMax <keepdims = 0> (i)
            s = SplitToSequence <axis = 0> (x)
            y = SequenceAt (s, j)
        }""",
        {"x": np.arange(6, dtype=np.float32).reshape(3, 2), "i": np.array([position], np.int64)},
    )


def test_a_sequence_gathered_in_a_loop() -> None:
    check("""g (float[2] x) => (float[n] y) {
        e = SequenceEmpty <dtype = 1> ()
        m = Constant <value = int64 {3}> ()
        t = Constant <value = bool {1}> ()
        s = Loop (m, t, e) <
            body = b (int64 i, bool c, seq(float[k]) q) => (bool again, seq(float[l]) r) {
                again = Identity (c)
                f = Cast <to = 1> (i)
                z = Add (x, f)
                r = SequenceInsert (q, z)
            }
        >
        y = ConcatFromSequence <axis = 0> (s)
    }""")


def test_map_over_items_and_companions() -> None:
    check("""g (float[2] x, float[3] y, float[1] w) => (float[5] z) {
        s = SequenceConstruct (x, y)
        r = SequenceConstruct (w, w)
        m = SequenceMap (s, r, w) <
            body = b (float[n] item, float[1] other, float[1] same) => (float[m] out) {
                p = Mul (item, other)
                out = Add (p, same)
            }
        >
        z = ConcatFromSequence <axis = 0> (m)
    }""")


def test_known_items_stay_known() -> None:
    # The shape goes through a sequence and is still a shape: Reshape needs it at compile time.
    check("""g (float[2, 3] x) => (float[6] y) {
        six = Constant <value = int64[1] {6}> ()
        three = Constant <value = int64[1] {3}> ()
        zero = Constant <value = int64 {0}> ()
        s = SequenceConstruct (six, three)
        shape = SequenceAt (s, zero)
        y = Reshape (x, shape)
    }""")


def test_optional_values() -> None:
    check("""g (float[2] x) => (float[2] y, bool yes) {
        o = Optional (x)
        yes = OptionalHasElement (o)
        y = OptionalGetElement (o)
    }""")


def test_positions_outside_are_refused() -> None:
    model = model_from("""g (float[2] x) => (float[2] y) {
        two = Constant <value = int64 {2}> ()
        s = SequenceConstruct (x, x)
        y = SequenceAt (s, two)
    }""")
    with pytest.raises(UnsupportedError, match=r"GO202.*outside"):
        run_xla(model, {"x": np.zeros(2, np.float32)})


def test_sequences_are_fed_item_by_item() -> None:
    """Items of different shapes, so that the loop over them has to be unrolled."""
    model = model_from("""g (seq(float[n]) s, int64 p) => (seq(float[n]) t, float[m] y, int64 n) {
        y = SequenceAt (s, p)
        n = SequenceLength (s)
        t = SequenceMap (s) <body = inner (float[k] item) => (float[k] twice) { twice = Add (item, item) }>
    }""")
    items = [np.arange(2, dtype=np.float32), np.arange(3, dtype=np.float32)]
    found = run_xla(model, {"s": items, "p": np.array(-1)})
    assert found["n"] == 2
    np.testing.assert_array_equal(found["y"], items[1])
    for twice, item in zip(found["t"], items, strict=True):
        np.testing.assert_array_equal(twice, item + item)


def test_a_sequence_of_unknown_items_is_refused() -> None:
    from graphopt.lowering.xla.program import build_program

    model = model_from("g (seq(float[2]) s) => (int64 n) { n = SequenceLength (s) }")
    for shapes in ({}, {"s": (2,)}):
        with pytest.raises(UnsupportedError, match="known only when it is fed"):
            build_program(model, shapes)
