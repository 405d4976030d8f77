"""narrow-int: the same bits with int32 indices, and no narrowing without proof."""

from __future__ import annotations

import numpy as np
import pytest
from checking import check_pass, check_same_results, model_from, random_feeds, run_onnxruntime
from rewriting import arrays, check_declines, check_rewrite, with_weights

from graphopt.ir import DataType
from graphopt.passes._value_ranges import Ranges
from graphopt.passes.narrow_int import NarrowInt
from graphopt.transform import Exactness

TABLE = "float[5, 3] table"


def test_constant_and_fed_indices() -> None:
    check_pass(
        NarrowInt(),
        before="""g (float[5, 3] t, int64[N] i) => (float[2, 3] y, float[N, 3] z) <int64[2] k = {-1, 4}> {
            y = Gather(t, k) z = Gather(t, i)
        }""",
        after="""g (float[5, 3] t, int64[N] i) => (float[2, 3] y, float[N, 3] z) <int32[2] k = {-1, 4}> {
            j = Cast <to = 6> (i) y = Gather(t, k) z = Gather(t, j)
        }""",
        feeds={"t": np.arange(15, dtype=np.float32).reshape(5, 3), "i": np.array([0, -5, 4])},
    )


def test_a_widened_index_is_used_as_it_was() -> None:
    check_pass(
        NarrowInt(),
        before=f"g ({TABLE}, int32[N] i) => (float[N, 3] y) {{ w = Cast <to = 7> (i) y = Gather(table, w) }}",
        after=f"g ({TABLE}, int32[N] i) => (float[N, 3] y) {{ y = Gather(table, i) }}",
    )
    check_pass(
        NarrowInt(),
        before=f"g ({TABLE}, uint8[N] i) => (float[N, 3] y) {{ w = Cast <to = 7> (i) y = Gather(table, w) }}",
        after=f"g ({TABLE}, uint8[N] i) => (float[N, 3] y) {{ w = Cast <to = 6> (i) y = Gather(table, w) }}",
    )


def test_arithmetic_on_positions() -> None:
    check_rewrite(
        NarrowInt(),
        f"""g ({TABLE}, float[2, 4] x, int64 one, int64 five) => (float[2, 3] y, float[2] f) {{
            i = ArgMax <axis = -1, keepdims = 0> (x) j = Add(i, one) k = Mod(j, five) y = Gather(table, k)
            f = Cast <to = 1> (k)
        }}""",
        "ArgMax Cast Add Mod Gather Cast",
        weights={"one": np.array(1), "five": np.array(5)},
    )


@pytest.mark.parametrize(
    "body",
    [
        "a = Mul(t, two) b = Sub(a, one)",
        "a = Neg(t) b = Abs(a)",
        "a = Max(t, two) b = Min(a, one)",
        "a = Div(t, two) b = Unsqueeze(a, zeros)",
        "a = Concat <axis = 0> (t, r) b = Slice(a, zeros, twos)",
        "a = Greater(t, two) b = Where(a, t, one)",
        "a = Reshape(t, minus) b = Clip(a, one, two)",
        "a = Expand(t, shape) b = Transpose(a)",
    ],
)
def test_operators(body: str) -> None:
    weights = {
        "one": np.array(1),
        "two": np.array(2),
        "r": np.array([3, 4]),
        "zeros": np.array([0]),
        "twos": np.array([2]),
        "minus": np.array([-1]),
        "shape": np.array([4]),
    }
    kinds = {"one": "int64", "two": "int64", "r": "int64[2]"}
    declared = ", ".join(f"{kinds.get(k, 'int64[1]')} {k}" for k in weights)
    result = "float[A, B, C] y" if "Unsqueeze" in body else "float[A, B] y"
    text = f"""g (float[9, 3] table, int32[4] i, {declared}) => ({result}) {{
        s = Cast <to = 7> (i) t = Mod(s, nine) {body} c = Mod(b, nine) y = Gather(table, c)
    }}"""
    text = text.replace("int64 one", "int64 nine, int64 one")
    model = with_weights(text, weights | {"nine": np.array(9)})
    original = model.clone()
    changes = NarrowInt().run(model)
    assert changes.counts.total() >= 3, (changes.counts, changes.declined)
    feeds = random_feeds(original)
    check_same_results(original, model, feeds, Exactness.BIT_EXACT)
    assert not NarrowInt().run(model).modified
    names = [v.dtype for n in model.graph for v in n.outputs]
    assert DataType.INT64 not in names


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("j = Add(i, i) y = Gather(table, j)", "may leave the range"),
        ("m = Mod(i, five) j = Mul(m, huge) k = Mod(j, five) y = Gather(table, k)", "may leave the range"),
        ("m = Mod(i, five) j = Add(m, one) s = Reshape(j, j) y = Gather(table, s)", "read as int64"),
    ],
)
def test_near_misses_of_arithmetic(body: str, reason: str) -> None:
    inputs = "float[5, 3] table, int64[2] i, int64 one, int64 five, int64 huge"
    text = f"g ({inputs}) => (float[A, B] y) {{ {body} }}"
    weights = {"one": np.array(1), "five": np.array(5), "huge": np.array(1 << 40)}
    model = with_weights(text, weights)
    changes = NarrowInt().run(model)
    assert any(reason in text for text in changes.declined), changes.declined
    assert not {"Add", "Mul"} & set(changes.counts)


def test_outputs_and_unknown_extents_stay() -> None:
    check_declines(
        NarrowInt(),
        "g (float[2, 4] x, int64 one) => (int64[2, 1] y) { i = ArgMax <axis = 1> (x) y = Add(i, one) }",
        "read as int64",
        weights={"one": np.array(1)},
    )
    model = model_from("g (float[D, 3] t, int64[N] i) => (float[N, 3] y) { y = Gather(t, i) }")
    assert not NarrowInt().run(model).modified
    model = model_from("g (float[5, 3] t, int64[N, 1] i) => (float[N, 3] y) { y = GatherND(t, i) }")
    assert not NarrowInt().run(model).modified


def test_inside_a_loop_the_carried_number_is_unknown() -> None:
    text = """g (float[5, 3] t, int64 n, int64 i0, int64[1] k, int64 one) => (int64 r, float[K, 1, 3] s) {
        r, s = Loop (n, , i0) <
            body = b (int64 i, bool c, int64 v) => (bool c2, int64 v2, float[1, 3] g) {
                c2 = Identity(c) v2 = Add(v, one) g = Gather(t, k)
            }
        >
    }"""
    model, changes = check_rewrite(
        NarrowInt(),
        text,
        "Loop Identity Add Gather",
        weights={"k": np.array([2]), "one": np.array(1)},
        feeds={"t": arrays(t=(5, 3))["t"], "n": np.array(3), "i0": np.array(1 << 40)},
    )
    assert changes.counts == {"index operand": 1}
    assert model.graph.node(0).outputs[0].dtype == DataType.INT64


def test_ranges() -> None:
    model = with_weights(
        """g (uint8[3] u, bool[3] b, float[2, 7] x, int64 c, int64[N] z) => (int64[3] y) {
            w = Cast <to = 7> (u) f = Cast <to = 7> (b) m = Mul(w, c) d = Sub(f, m) p = Mod(z, c)
            q = Div(m, c) s = Shape(x) t = Size(x) a = ArgMax <axis = 1> (x) y = Add(d, w) n = NonZero(x)
        }""",
        {"c": np.array(10)},
    )
    ranges = Ranges(model)
    found = {v.name: ranges.of(v) for n in model.graph for v in n.outputs}
    assert found == {
        "w": (0, 255),
        "f": (0, 1),
        "m": (0, 2550),
        "d": (-2550, 1),
        "p": (0, 9),
        "q": (0, 2550),
        "s": (2, 7),
        "t": (0, 14),
        "a": (0, 6),
        "y": (-2550, 256),
        "n": (0, 6),
    }


def test_doubles_on_request() -> None:
    text = """g (double[3, 4] x, double[4, 4] w, bool p) => (double[3, 4] y, double[3, 4] r) {
        a = MatMul(x, w) b = Exp(a) y = Softmax(b)
        r = If (p) <then_branch = t () => (double[3, 4] u) { u = Tanh(a) },
                    else_branch = e () => (double[3, 4] v) { v = Neg(x) }>
    }"""
    weights = arrays(dtype=np.float64, w=(4, 4))
    assert not NarrowInt().run(with_weights(text, weights)).modified
    assert NarrowInt().exactness is Exactness.BIT_EXACT
    assert NarrowInt(floats=True).exactness is Exactness.LOSSY
    model, _ = check_rewrite(
        NarrowInt(floats=True),
        text,
        "Cast MatMul Exp Softmax Cast If Tanh Cast Neg Cast",
        weights=weights,
        rtol=1e-5,
    )
    assert run_onnxruntime(model, {"x": np.ones((3, 4)), "p": np.array(True)})["y"].dtype == np.float64
