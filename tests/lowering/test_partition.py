"""Cutting a model into XLA segments and host segments, and running it so."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from checking import run_onnxruntime

import graphopt
from graphopt.errors import LoweringError, PolicyError
from graphopt.executable import Executable
from graphopt.ir import Model
from graphopt.ir.io import load

HEADER = '<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>\n'


def compiled(source: str, **options: Any) -> Executable:
    return graphopt.compile(HEADER + source, target="xla-cpu", **options)


def segments(executable: Executable) -> tuple[int, int]:
    transfers = executable.manifest["transfers"]
    return transfers["xla_segments"], transfers["host_segments"]


def host_ops(executable: Executable) -> list[str]:
    return [row["op"] for row in executable.placement]


def agrees(executable: Executable, source: str | Model, feeds: dict[str, Any]) -> None:
    """The same answers as ONNX Runtime gives without any optimisation."""
    found = executable.run(feeds)
    expected = run_onnxruntime(load(HEADER + source) if isinstance(source, str) else source, feeds)
    assert list(found) == list(expected)
    for name, reference in expected.items():
        if reference.dtype == object:
            assert found[name].tolist() == reference.tolist()
        else:
            np.testing.assert_allclose(found[name], reference, rtol=1e-5, atol=1e-6)


X = np.array([[1.0, -2.0, 3.0, -4.0], [5.0, 6.0, -7.0, 8.0], [-1.0, -1.0, -1.0, 2.0]], np.float32)

ROWS = """
g (float[3,4] x) => (float[n,4] y, float[3,4] z) {
  a = Relu (x)
  rows = Unique <axis = 0> (a)
  y = Neg (rows)
  z = Mul (a, a)
}
"""


def test_what_depends_on_data_in_shape_runs_on_the_host_and_the_rest_on_xla() -> None:
    executable = compiled(ROWS)
    assert host_ops(executable) == ["Unique", "Neg"]
    assert segments(executable) == (1, 1)
    agrees(executable, ROWS, {"x": X})
    agrees(executable, ROWS, {"x": -X})


def test_transfers_are_counted_in_bytes() -> None:
    transfers = compiled(ROWS).manifest["transfers"]
    assert transfers["to_host"] == {"values": 1, "bytes": 3 * 4 * 4}
    assert transfers["to_device"] == {"values": 0, "bytes": 0}


STRINGS = """
g (float[2,3] x, string[2] words) => (float[2,3] y, string[2] joined) {
  h = Tanh (x)
  joined = StringConcat (words, words)
  y = Add (h, x)
}
"""


def test_strings_stay_on_the_host_and_cut_nothing_else() -> None:
    executable = compiled(STRINGS)
    assert host_ops(executable) == ["StringConcat"]
    assert segments(executable) == (1, 1)
    words = np.array(["ab", ""], dtype=object)
    agrees(executable, STRINGS, {"x": X[:2, :3], "words": words})


def test_the_value_of_a_host_node_with_a_fixed_shape_goes_on_to_xla() -> None:
    source = """
    g (float[2,3] x, string[3] words) => (float[2,3] y) {
      ab = Constant <value_strings = ["ab"]> ()
      is_ab = Equal (words, ab)
      weight = Cast <to = 1> (is_ab)
      h = Sin (x)
      y = Mul (h, weight)
    }
    """
    executable = compiled(source)
    assert host_ops(executable)[0] == "Equal"
    assert "Sin" not in host_ops(executable)
    assert "Mul" not in host_ops(executable)
    agrees(executable, source, {"x": X[:2, :3], "words": np.array(["ab", "c", "ab"], dtype=object)})


def test_free_dimensions_are_cut_for_each_shape() -> None:
    source = ROWS.replace("[3,4]", "[rows,cols]")
    executable = compiled(source)
    for x in (X, X[:2], X[:, :1]):
        agrees(executable, source, {"x": x})
    assert host_ops(executable) == ["Unique", "Neg"]


def test_a_shape_computed_by_xla_is_known_behind_the_cut() -> None:
    source = """
    g (float[rows,4] x) => (float[flat] y, float[k,n] where) {
      shape = Shape (x)
      minus = Constant <value_ints = [-1]> ()
      e = Exp (x)
      where = Unique <axis = 0> (e)
      flat_e = Reshape (e, minus)
      total = ReduceProd <keepdims = 1> (shape)
      y = Reshape (flat_e, total)
    }
    """
    executable = compiled(source)
    agrees(executable, source, {"x": X})
    assert host_ops(executable) == ["Unique"]


def test_small_arithmetic_between_host_nodes_stays_there() -> None:
    source = """
    g (string[4] words, float[4] x) => (string[4] out, float[4] y) {
      a = Constant <value_strings = ["a"]> ()
      b = Constant <value_strings = ["b"]> ()
      is_a = Equal (words, a)
      is_b = Equal (words, b)
      either = Or (is_a, is_b)
      out = Where (either, words, b)
      y = Cos (x)
    }
    """
    executable = compiled(source)
    assert sorted(host_ops(executable)) == ["Equal", "Equal", "Or", "Where"]
    assert segments(executable) == (1, 1)
    agrees(executable, source, {"words": np.array(["a", "b", "c", "a"], dtype=object), "x": X[0]})


def test_a_control_flow_node_whose_body_needs_the_host_goes_there_with_what_it_captures() -> None:
    source = """
    g (float[3,4] x, bool c) => (float[m] y) {
      h = Relu (x)
      y = If (c) <
        then_branch = g1 () => (float[m] t) { u = Unique <axis = 0> (h) minus = Constant <value_ints = [-1]> () t = Reshape (u, minus) },
        else_branch = g2 () => (float[m] e) { minus = Constant <value_ints = [-1]> () e = Reshape (h, minus) }
      >
    }
    """
    executable = compiled(source)
    assert "If" in host_ops(executable)
    assert "Relu" not in host_ops(executable)
    for c in (True, False):
        agrees(executable, source, {"x": X, "c": np.array(c)})


def test_a_loop_of_unknown_length_that_stacks_runs_on_the_host() -> None:
    source = """
    g (float[4] x, int64 trips) => (float[4] last, float[n,4] all) {
      true = Constant <value = bool {1}> ()
      twice = Mul (x, x)
      last, all = Loop (trips, true, twice) <body = b (int64 i, bool c, float[4] s) => (bool c2, float[4] s2, float[4] out) {
        c2 = Identity (c)
        s2 = Add (s, twice)
        out = Identity (s2)
      }>
    }
    """
    executable = compiled(
        source.replace("int64 trips", "float[1] f").replace(
            "true = Constant", "fi = Cast <to = 7> (f) trips = Squeeze (fi) true = Constant"
        )
    )
    found = executable.run({"x": X[0], "f": np.array([3.0], np.float32)})
    assert found["all"].shape == (3, 4)
    np.testing.assert_allclose(found["last"], X[0] ** 2 * 4)


def test_sequences_are_fed_and_given() -> None:
    source = """
    g (seq(float[a,b]) items, float[2,2] x) => (seq(float[a,b]) more, float[c,b] joined) {
      more = SequenceInsert (items, x)
      joined = ConcatFromSequence <axis = 0> (more)
    }
    """
    executable = compiled(source)
    items = [np.ones((1, 2), np.float32), np.zeros((3, 2), np.float32)]
    found = executable.run({"items": items, "x": X[:2, :2]})
    assert [item.shape for item in found["more"]] == [(1, 2), (3, 2), (2, 2)]
    np.testing.assert_array_equal(found["joined"], np.concatenate([*items, X[:2, :2]]))
    assert executable.placement == []


def test_strict_refuses_with_the_list() -> None:
    with pytest.raises(PolicyError, match=r"Unique.*Neg") as caught:
        compiled(ROWS, strict=True)
    assert caught.value.code == "GO501"


def test_an_operator_that_nothing_knows_is_refused() -> None:
    source = '<ir_version: 10, opset_import: ["" : 20, "acme" : 1]> g (float[2] x) => (float[2] y) { y = acme.Foo (x) }'
    with pytest.raises(LoweringError, match="Foo"):
        graphopt.compile(source, target="xla-cpu")


def test_an_artifact_runs_as_it_was_cut(tmp_path: Any) -> None:
    executable = compiled(ROWS)
    again = graphopt.load_artifact(executable.save(tmp_path / "artifact"))
    assert again.placement == executable.placement
    agrees(again, ROWS, {"x": X})


def test_weights_and_inputs_may_be_outputs_of_a_cut_model() -> None:
    source = """
    g (float[3,4] x, string[1] s) => (float[3,4] x, string[1] t, float[3] w, float[3,4] y) <float[3] w = {1, 2, 3}> {
      t = StringConcat (s, s)
      y = Neg (x)
    }
    """
    executable = compiled(source)
    found = executable.run({"x": X, "s": np.array(["q"], dtype=object)})
    np.testing.assert_array_equal(found["x"], X)
    np.testing.assert_array_equal(found["w"], [1, 2, 3])
    assert found["t"].tolist() == ["qq"]


@pytest.mark.parametrize("level", [0, 2])
def test_strings_that_nothing_computes_with_are_no_obstacle(level: int) -> None:
    source = """
    g (float[2] x, string[1] unused, string[1] label) => (float[2] y, string[1] label) {
      dead = StringConcat (unused, unused)
      y = Neg (x)
    }
    """
    executable = compiled(source, level=level)
    words = np.array(["a"], dtype=object)
    for _ in range(2):  # the second run finds what the first one made
        found = executable.run({"x": X[0, :2], "unused": words, "label": words})
        np.testing.assert_array_equal(found["y"], -X[0, :2])
        assert found["label"].tolist() == ["a"]


def test_many_threads_run_one_session_at_several_shapes() -> None:
    executable = compiled(ROWS.replace("[3,4]", "[rows,cols]"))
    inputs = [X[:rows] for rows in (1, 2, 3, 1, 2, 3, 1, 2)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda x: executable.run({"x": x}), inputs))
    for x, outputs in zip(inputs, found, strict=True):
        np.testing.assert_array_equal(outputs["y"], -np.unique(np.maximum(x, 0), axis=0))
        np.testing.assert_allclose(outputs["z"], np.maximum(x, 0) ** 2)
