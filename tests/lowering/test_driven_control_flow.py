"""Control flow that holds nodes of the host: the host drives it, and what XLA can express stays there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checking import run_onnxruntime
from segments import agrees, compiled

import graphopt
from graphopt.errors import PolicyError
from graphopt.executable import Executable
from graphopt.ir.io import load
from graphopt.lowering.xla import driven

X = np.arange(12, dtype=np.float32).reshape(3, 4) - 5


def host_ops(executable: Executable) -> list[str]:
    return [row["op"] for row in executable.placement]


@pytest.fixture
def every_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops are driven however little there is to do in a turn."""
    monkeypatch.setattr(driven, "LOOP_FLOPS", 1)


STRINGS_IN_A_BRANCH = """
g (float[3,4] x, bool c, string[1] s) => (float[3,4] y, string[n] t) {
  h = Relu (x)
  y0, t = If (c) <
    then_branch = g1 () => (float[3,4] a, string[n] ts) { a = Exp (h) ts = StringConcat (s, s) },
    else_branch = g2 () => (float[3,4] b, string[n] es) { e1 = Sin (h) b = Add (e1, x) es = Identity (s) }
  >
  y = Tanh (y0)
}
"""


def test_a_branch_is_cut_like_a_model() -> None:
    executable = compiled(STRINGS_IN_A_BRANCH)
    assert "StringConcat" in host_ops(executable)
    assert not {"Exp", "Sin", "Add", "Tanh", "Relu"} & set(host_ops(executable))
    reason = next(row["reason"] for row in executable.placement if row["op"] == "If")
    assert "branches in segments" in reason
    assert "no string tensors" in reason
    transfers = executable.manifest["transfers"]
    assert transfers["xla_segments"] == 4  # before the If, one in each branch, behind the If
    words = np.array(["ab"], dtype=object)
    for c in (True, False):
        agrees(executable, STRINGS_IN_A_BRANCH, {"x": X, "c": np.array(c), "s": words}, atol=1e-5)


def test_strict_refuses_and_artifacts_keep_it(tmp_path: Any) -> None:
    with pytest.raises(PolicyError, match="StringConcat"):
        compiled(STRINGS_IN_A_BRANCH, strict=True)
    executable = compiled(STRINGS_IN_A_BRANCH)
    again = graphopt.load_artifact(executable.save(tmp_path / "artifact"))
    assert again.placement == executable.placement
    words = np.array(["ab"], dtype=object)
    agrees(again, STRINGS_IN_A_BRANCH, {"x": X, "c": np.array(True), "s": words}, atol=1e-5)


def test_branches_of_different_shapes_are_two_programs() -> None:
    source = """
    g (float[3,4] x, float[1] f) => (float[a,b] y) {
      zero = Constant <value_float = 0.0> ()
      big = Greater (f, zero)
      y = If (big) <
        then_branch = g1 () => (float[3,4] t) { t = Exp (x) },
        else_branch = g2 () => (float[4,3] e) { xt = Transpose <perm = [1, 0]> (x) e = Neg (xt) }
      >
    }
    """
    executable = compiled(source)
    assert host_ops(executable) == ["If"]
    assert executable.manifest["transfers"]["host_segments"] == 0
    for f in (1.0, -1.0):
        agrees(executable, source, {"x": X, "f": np.array([f], np.float32)}, atol=1e-5)


def test_nested_branches_captures_and_values_passed_through() -> None:
    source = """
    g (float[3,4] x, bool c, bool d, string[1] s) => (float[3,4] y, float[4] z, string[1] t) <float[4] w = {1,2,3,4}> {
      h = Cos (x)
      y, z, t = If (c) <
        then_branch = g1 () => (float[3,4] a, float[4] aw, string[1] at) {
          inner = Mul (h, w)
          a, at = If (d) <
            then_branch = g3 () => (float[3,4] p, string[1] pt) { p = Add (inner, x) pt = StringConcat (s, s) },
            else_branch = g4 () => (float[3,4] q, string[1] qt) { q = Exp (inner) qt = Identity (s) }
          >
          aw = Identity (w)
        },
        else_branch = g2 () => (float[3,4] b, float[4] bw, string[1] bt) {
          b = Identity (h) bw = Neg (w) bt = Identity (s)
        }
      >
    }
    """
    executable = compiled(source, level=0)
    assert not {"Mul", "Add", "Exp", "Neg"} & set(host_ops(executable))
    words = np.array(["q"], dtype=object)
    for c in (True, False):
        for d in (True, False):
            agrees(executable, source, {"x": X, "c": np.array(c), "d": np.array(d), "s": words}, atol=1e-5)


LOOP = """
g (float[4,4] x, int64 trips, bool go, string[1] s) => (float[4,4] last, string[1] said, float[n,4,4] all) {
  h = Relu (x)
  last, said, all = Loop (trips, go, h, s) <body = b
    (int64 i, bool c, float[4,4] v, string[1] w) => (bool more, float[4,4] v2, string[1] w2, float[4,4] out) {
    p = MatMul (v, x)
    v2 = Tanh (p)
    w2 = StringConcat (w, s)
    out = Add (v2, h)
    total = ReduceSum <keepdims = 0> (v2)
    edge = Constant <value_float = 100.0> ()
    more = Less (total, edge)
  }>
}
"""


@pytest.mark.usefixtures("every_loop")
@pytest.mark.parametrize(("trips", "go"), [(3, True), (1, True), (3, False), (0, True)])
def test_a_loop_is_driven(trips: int, go: bool) -> None:
    executable = compiled(LOOP)
    assert sorted(set(host_ops(executable))) == ["Loop", "StringConcat"]
    x = X.reshape(-1)[:12].repeat(2)[:16].reshape(4, 4)
    feeds = {"x": x, "trips": np.array(trips), "go": np.array(go), "s": np.array(["a"], dtype=object)}
    agrees(executable, LOOP, feeds, atol=1e-5)


def test_a_loop_with_little_to_do_runs_on_the_host_as_a_whole() -> None:
    executable = compiled(LOOP)
    assert host_ops(executable) == ["Loop"]
    assert executable.manifest["transfers"]["xla_segments"] == 1


def test_a_loop_with_much_to_do_is_driven() -> None:
    source = LOOP.replace("4,4", "256,256")
    executable = compiled(source)
    assert sorted(set(host_ops(executable))) == ["Loop", "StringConcat"]


@pytest.mark.usefixtures("every_loop")
def test_a_state_that_grows_stays_on_the_host_and_the_rest_does_not() -> None:
    source = """
    g (float[1,4] x, float[4,4] m, float[1] f) => (float[1,4] last, float[n,4] all) {
      fi = Cast <to = 7> (f)
      trips = Squeeze (fi)
      last, all = Loop (trips, , x, x) <body = b (int64 i, bool c, float[1,4] v, float[k,4] seen) => (bool more, float[1,4] v2, float[k2,4] seen2) {
        more = Identity (c)
        p = MatMul (v, m)
        v2 = Tanh (p)
        seen2 = Concat <axis = 0> (seen, v2)
      }>
    }
    """
    executable = compiled(source)
    assert sorted(set(host_ops(executable))) == ["Concat", "Loop"]
    m = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    for count in (0.0, 3.0):
        agrees(executable, source, {"x": X[:1], "m": m, "f": np.array([count], np.float32)}, atol=1e-5)


@pytest.mark.usefixtures("every_loop")
@pytest.mark.parametrize("turned", [0, 1])
def test_a_scan_is_driven(turned: int) -> None:
    source = f"""
    g (float[4] x, float[4,3] rows, string[1] s) => (float[4] last, string[1] t, float[4,3] all) {{
      last, t, all = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1],
        scan_input_directions = [{turned}], scan_output_directions = [{1 - turned}], body = b
        (float[4] v, string[1] w, float[4] row) => (float[4] v2, string[1] w2, float[4] out) {{
        p = Sin (row)
        v2 = Add (v, p)
        w2 = StringConcat (w, w)
        out = Mul (v2, row)
      }}> (x, s, rows)
    }}
    """
    executable = compiled(source, level=0)  # passes would unroll it
    assert sorted(set(host_ops(executable))) == ["Scan", "StringConcat"]
    agrees(executable, source, {"x": X[0], "rows": X.T.copy(), "s": np.array(["a"], dtype=object)}, atol=1e-5)


@pytest.mark.usefixtures("every_loop")
def test_what_a_body_computes_of_a_shape_that_only_the_host_knows_runs_there() -> None:
    source = """
    g (float[3,4] x, bool c) => (float[a] y) {
      zero = Constant <value_float = 0.0> ()
      big = Greater (x, zero)
      where = NonZero (big)
      rows = Transpose <perm = [1, 0]> (where)
      picked0 = GatherND (x, rows)
      picked = Compress (x, big1)
      y = If (c) <
        then_branch = g1 () => (float[a1] t) { t = Exp (picked) },
        else_branch = g2 () => (float[a2] e) { minus = Constant <value_ints = [-1]> () s = Sin (x) e = Reshape (s, minus) }
      >
    }
    """.replace(
        "picked0 = GatherND (x, rows)\n      picked = Compress (x, big1)",
        "two = Constant <value_ints = [-1, 1]> () some = Cast <to = 8> (x) one = Constant <value_strings = ['1']> () "
        "is_one = Equal (some, one) flat = Constant <value_ints = [-1]> () is_one1 = Reshape (is_one, flat) "
        "word = Reshape (some, flat) words = Compress (word, is_one1) picked = Cast <to = 1> (words)",
    ).replace("'", '"')
    executable = compiled(source)
    assert "Sin" not in host_ops(executable)
    assert "Exp" in host_ops(executable)
    for c in (True, False):
        agrees(executable, source, {"x": X, "c": np.array(c)}, atol=1e-5)


def test_a_scalar_that_the_host_makes_goes_on_in_xla() -> None:
    source = """g (float[3,4] x, string s) => (float[3,4] y) {
      m = RegexFullMatch <pattern: string = "a+"> (s)
      f = Cast <to: int = 1> (m)
      y = Add (x, f)
    }"""
    executable = compiled(source)
    assert host_ops(executable) == ["RegexFullMatch"]
    agrees(executable, source, {"x": X, "s": np.array("aaa", dtype=object)}, atol=1e-5)


CACHED_ATTENTION_IN_A_LOOP = """
g (float[1,2,8] x, float[8,24] w, float[2,1,2,3,4] past, int64 n, string[1] s) => (float[1,2,8] y, string[1] t) {
  go = Constant <value: tensor = bool {1}> ()
  y, t = Loop (n, go, x, s) <body = b (int64 i, bool c, float[1,2,8] state, string[1] text)
      => (bool on, float[1,2,8] next, string[1] more) {
    on = Identity (c)
    next, present = com.microsoft.Attention <num_heads: int = 2, unidirectional: int = 1> (state, w, BIAS, , past)
    more = StringConcat (text, text)
  }>
}
"""


def test_attention_with_a_cache_and_no_bias_does_not_end_the_process() -> None:
    header = '<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>\n'
    rng = np.random.default_rng(0)
    shapes = {"x": (1, 2, 8), "w": (8, 24), "past": (2, 1, 2, 3, 4)}
    feeds: dict[str, Any] = {name: rng.random(shape, np.float32) for name, shape in shapes.items()}
    feeds |= {"n": np.array(2, np.int64), "s": np.array(["a"], dtype=object)}
    with_bias = CACHED_ATTENTION_IN_A_LOOP.replace("BIAS", "bias").replace(
        "int64 n,", "int64 n, float[24] bias,"
    )
    expected = run_onnxruntime(load(header + with_bias), {**feeds, "bias": np.zeros(24, np.float32)})
    executable = graphopt.compile(header + CACHED_ATTENTION_IN_A_LOOP.replace("BIAS", ""), target="xla-cpu")
    assert host_ops(executable)
    np.testing.assert_allclose(executable.run(feeds)["y"], expected["y"], rtol=1e-5, atol=1e-6)
