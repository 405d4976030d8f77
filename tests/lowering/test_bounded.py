"""Values as large as the data says, padded on the device: the same answers as ONNX Runtime, and no host."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checking import run_onnxruntime
from segments import HEADER, agrees, compiled

import graphopt
from graphopt.ir.io import load
from graphopt.lowering.xla import bounded

FILLS = [0.0, 0.3, 1.0]


def numbers(shape: tuple[int, ...], fill: float, seed: int = 0) -> np.ndarray:
    """Random numbers, a share `fill` of which is positive; negative ones become 0 under Relu."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.5, 2.0, shape).astype(np.float32)
    return np.where(rng.random(shape) < fill, x, -x).astype(np.float32)


def check(source: str, *shapes: tuple[int, ...], host: tuple[str, ...] = ()) -> None:
    """`source`, whose first input x decides, on inputs x, w, ... of `shapes` at several fills."""
    executable = compiled(source, level=0)
    names = [value["name"] for value in executable.inputs]
    for seed, fill in enumerate(FILLS):
        feeds = {n: numbers(s, fill, seed + i) for i, (n, s) in enumerate(zip(names, shapes, strict=True))}
        agrees(executable, source, feeds)
    assert [row["op"] for row in executable.placement] == list(host)


# Consumers of rows = the places [n, 2] of what is positive in x [3, 4], and their values v = [n].
ROWS = """
g (float[3,4] x, float[4,5] w, float[3,4,2] t) => (OUT) {
  zero = Constant <value_float = 0.0> ()
  big = Greater (x, zero)
  places = NonZero (big)
  rows = Transpose <perm = [1, 0]> (places)
  v = GatherND (x, rows)
  c0 = Constant <value_ints = [0]> ()
  c1 = Constant <value_ints = [1]> ()
  i0 = Constant <value_int = 0> ()
  i1 = Constant <value_int = 1> ()
  column = Gather <axis = 1> (rows, i1)
  BODY
}
"""

CONSUMERS = {
    "places themselves": ("int64[a,b] y", "y = Identity (places)"),
    "elementwise": ("float[n] y", "e = Exp (v) y = Mul (e, v)"),
    "count": ("int64[1] y, int64 z", "y = Shape <start = 1> (places) z = Size (places)"),
    "arithmetic on the count": (
        "int64[1] y",
        "s = Shape (v) twice = Add (s, s) y = Sub (twice, c1)",
    ),
    "unsqueeze": ("float[1,n,1] y", "a = Constant <value_ints = [0, -1]> () y = Unsqueeze (v, a)"),
    "squeeze": ("float[n] y", "u = Unsqueeze (v, c1) y = Squeeze (u, c1)"),
    "gathered rows": ("float[n,5] y", "y = Gather (w, column)"),
    "gathered rows of another axis": ("float[3,n] y", "y = Gather <axis = 1> (x, column)"),
    "matmul of rows": ("float[n,5] y", "r = Gather (x, i0rows) y = MatMul (r, w)"),
    "gemm of rows": (
        "float[n,5] y",
        "b = Constant <value_floats = [1.0, 2.0, 3.0, 4.0, 5.0]> () r = Gather (x, i0rows) y = Gemm (r, w, b)",
    ),
    "softmax of rows": ("float[n,4] y", "r = Gather (x, i0rows) y = Softmax (r)"),
    "softmax over what is bounded": ("float[n] y", "y = Softmax <axis = 0> (v)"),
    "sum": ("float[1] y, float z", "y = ReduceSum (v) z = ReduceSum <keepdims = 0> (v)"),
    "mean of rows": ("float[4] y", "r = Gather (x, i0rows) p = Add (r, r) y = ReduceSum <keepdims = 0> (p, c0)"),
    "largest row": ("int64[1] y", "y = ReduceMax (column1)"),
    "sum of squares, product, logsumexp": (
        "float[1] y, float[1] z, float[1] u",
        "y = ReduceSumSquare (v) z = ReduceProd (v) u = ReduceLogSumExp (v)",
    ),
    "reduction of other axes": ("float[n] y", "r = Gather (x, i0rows) y = ReduceMax <keepdims = 0> (r, c1)"),
    "flat": ("int64[m] y", "m = Constant <value_ints = [-1]> () y = Reshape (rows, m)"),
    "reshaped by the count": (
        "float[n,1] y",
        "s = Shape (v) s2 = Concat <axis = 0> (s, c1) y = Reshape (v, s2)",
    ),
    "expanded to the count": (
        "float[n,4] y",
        "s = Shape (v) four = Constant <value_ints = [4]> () s2 = Concat <axis = 0> (s, four) "
        "z4 = Constant <value_floats = [1.0, 2.0, 3.0, 4.0]> () y = Expand (z4, s2)",
    ),
    "filled to the count": ("float[n] y", "s = Shape (v) y = ConstantOfShape (s)"),
    "numbered": ("int64[n] y", "s = Shape <start = 0, end = 1> (v) s0 = Squeeze (s) y = Range (i0, s0, i1)"),
    "concatenated along another axis": ("int64[k,n] y", "d = Mul (places, places) y = Concat <axis = 0> (places, d)"),
    "concatenated one after another": (
        "float[n] y",
        "few = Constant <value_floats = [7.0, 8.0]> () e = Neg (v) y = Concat <axis = 0> (v, few, e)",
    ),
    "the first ones": ("float[n] y", "two = Constant <value_ints = [2]> () y = Slice (v, c0, two)"),
    "a part of another axis": ("int64[n,1] y", "two = Constant <value_ints = [2]> () y = Slice (rows, c1, two, c1)"),
    "split": ("int64[n,1] y, int64[n,1] z", "y, z = Split <axis = 1, num_outputs = 2> (rows)"),
    "added into places": ("float[3,4] y", "y = ScatterND <reduction = \"add\"> (x, rows, v)"),
    "rows added into places": (
        "float[4,5] y",
        "r = Gather (w, column) m = Constant <value_ints = [1, 5]> () cu = Unsqueeze (column, c1) "
        "index = Expand (cu, m) y = ScatterElements <axis = 0, reduction = \"add\"> (w, index, r)",
    ),
    "cumulative": ("float[n] y", "y = CumSum (v, i0)"),
    "one of them": ("int64[m] y", "few = Slice (column1, c0, c1) y = Add (few, few)"),
    "what is positive of what is positive": (
        "int64[1,m] y",
        "one = Constant <value_float = 1.0> () more = Greater (v, one) y = NonZero (more)",
    ),
    "compressed": (
        "float[m] y",
        "one = Constant <value_float = 1.0> () more = Greater (v, one) y = Compress <axis = 0> (v, more)",
    ),
    "gathered from what is bounded": (
        "float[n] y",
        "s = Shape (v) s0 = Squeeze (s) order = Range (i0, s0, i1) y = Gather (v, order)",
    ),
    "type and choice": (
        "float[n] y",
        "h = Cast <to = 11> (v) f = CastLike (h, x) g1 = Greater (f, one1) y = Where (g1, f, one1)",
    ),
    "one-hot": ("float[n,4] y", "d = Constant <value_int = 4> () vs = Constant <value_floats = [0.0, 1.0]> () y = OneHot (column, d, vs)"),
    "largest class": ("int64[n] y", "r = Gather (w, column) y = ArgMax <axis = 1, keepdims = 0> (r)"),
    "normalized": (
        "float[n,5] y",
        "b = Constant <value_floats = [1.0, 2.0, 3.0, 4.0, 5.0]> () r = Gather (w, column) y = LayerNormalization (r, b)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONSUMERS)
def test_consumers_of_what_is_not_zero(name: str) -> None:
    outputs, body = CONSUMERS[name]
    if "i0rows" in body:
        body = "i0rows = Gather <axis = 1> (rows, i0) " + body
    if "column1" in body:
        body = "few1 = Constant <value_ints = [3]> () column1 = Concat <axis = 0> (column, few1) " + body
    if "one1" in body:
        body = "one1 = Constant <value_float = 1.0> () " + body
    check(ROWS.replace("OUT", outputs).replace("BODY", body), (3, 4), (4, 5), (3, 4, 2))


def test_what_has_no_rule_goes_to_the_host_cut_to_its_size() -> None:
    body = "r = Constant <value_ints = [2]> () y = Tile (v, r)"
    check(ROWS.replace("OUT", "float[n] y").replace("BODY", body), (3, 4), (4, 5), (3, 4, 2), host=("Tile",))


def test_sizes_of_two_counts_are_not_taken_for_equal() -> None:
    body = "other = Less (x, zero) p2 = NonZero (other) y = Add (places, p2)"
    source = ROWS.replace("OUT", "int64[2,n] y").replace("BODY", body)
    executable = compiled(source, level=0)
    half = np.where(np.arange(12).reshape(3, 4) % 2, 1.0, -1.0).astype(np.float32)
    agrees(
        executable,
        source,
        {"x": half, "w": half[:1].repeat(5, 0).T.copy(), "t": np.zeros((3, 4, 2), np.float32)},
    )
    assert [row["op"] for row in executable.placement] == ["Add"]


def test_a_value_between_host_and_device() -> None:
    """What is padded in one segment is used in a later one, beside what the host made of it."""
    source = """
    g (float[3,4] x, string[1] s) => (float[n] y, string[n] t) {
      zero = Constant <value_float = 0.0> ()
      big = Greater (x, zero)
      places = NonZero (big)
      rows = Transpose <perm = [1, 0]> (places)
      v = GatherND (x, rows)
      text = Cast <to = 8> (v)
      t = StringConcat (text, s)
      a = Abs (x)
      words = Cast <to = 8> (a)
      same = Equal (words, s)
      some = Cast <to = 1> (same)
      scale = ReduceMax <keepdims = 0> (some)
      e = Exp (v)
      size = Shape (v)
      more = Expand (scale, size)
      y = Add (e, more)
    }
    """
    executable = compiled(source, level=0)
    for fill in FILLS:
        feeds = {"x": np.round(numbers((3, 4), fill)), "s": np.array(["!"], object)}
        expected = run_onnxruntime(load(HEADER + source), feeds)
        found = executable.run(feeds)
        np.testing.assert_allclose(found["y"], expected["y"], rtol=1e-6)
        assert found["t"].tolist() == expected["t"].tolist()
    assert not {"Exp", "Add", "NonZero", "Expand"} & {row["op"] for row in executable.placement}
    assert executable.manifest["transfers"]["xla_segments"] == 2


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_compress(axis: int | None) -> None:
    where = "" if axis is None else f"<axis = {axis}>"
    length = 12 if axis is None else (3, 4, 4)[axis]
    source = f"""
    g (float[{length}] c, float[3,4] x) => (float[n{"" if axis is None else ",m"}] y) {{
      zero = Constant <value_float = 0.0> ()
      keep = Greater (c, zero)
      y = Compress {where} (x, keep)
    }}
    """
    check(source, (length,), (3, 4))
    check(source.replace(f"[{length}] c", "[2] c"), (2,), (3, 4))


@pytest.mark.parametrize("ordered", [0, 1])
def test_unique(ordered: int) -> None:
    source = f"""
    g (float[2,8] x) => (float[n] y, int64[n] first, int64[m] inverse, int64[n] counts) {{
      y, first, inverse, counts = Unique <sorted = {ordered}> (x)
    }}
    """
    executable = compiled(source, level=0)
    rng = np.random.default_rng(1)
    for high in (1, 3, 100):
        agrees(executable, source, {"x": rng.integers(0, high, (2, 8)).astype(np.float32)})
    assert executable.placement == []
    signs = np.array([[0.0, -0.0, 1, -1, 1, 5, 5, -0.0]] * 2, np.float32)
    found = executable.run({"x": signs})
    values, first, inverse, counts = np.unique(
        signs, return_index=True, return_inverse=True, return_counts=True
    )
    order = slice(None) if ordered else np.argsort(first)
    np.testing.assert_array_equal(found["y"], values[order])
    np.testing.assert_array_equal(found["first"], first[order])
    np.testing.assert_array_equal(found["counts"], counts[order])
    np.testing.assert_array_equal(found["y"][found["inverse"]], signs.reshape(-1))
    assert inverse.size == found["inverse"].size


NMS = """
g (float[2,B,4] boxes, float[2,3,B] scores, float[1] share, float[1] enough) => (int64[n,3] picked, float[n,4] kept) {
  most = Constant <value_ints = [MOST]> ()
  picked = NonMaxSuppression <center_point_box = CENTER> (boxes, scores, most, share, enough)
  both = Constant <value_ints = [0, 2]> ()
  where = Gather <axis = 1> (picked, both)
  kept = GatherND (boxes, where)
}
"""


@pytest.mark.parametrize(("most", "center"), [(2, 0), (100, 1), (0, 0), (9223372036854775807, 0)])
def test_boxes_are_selected_on_the_device(most: int, center: int) -> None:
    source = (
        NMS.replace("MOST", str(most))
        .replace("CENTER", str(center))
        .replace("B,4", "20,4")
        .replace("3,B", "3,20")
    )
    executable = compiled(source, level=0)
    rng = np.random.default_rng(3)
    for enough in (0.0, 0.5, 2.0):
        corners = rng.uniform(0, 10, (2, 20, 2))
        boxes = np.concatenate([corners, rng.uniform(1, 4, (2, 20, 2)) + (0 if center else corners)], -1)
        if not center:
            boxes[:, ::3] = boxes[:, ::3][..., [2, 1, 0, 3]]  # corners in any order
        scores = np.round(rng.random((2, 3, 20)), 1)  # with ties
        agrees(
            executable,
            source,
            {
                "boxes": boxes.astype(np.float32),
                "scores": scores.astype(np.float32),
                "share": np.array([0.3], np.float32),
                "enough": np.array([enough], np.float32),
            },
        )
    assert executable.placement == []


def test_what_could_be_too_large_runs_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    source = ROWS.replace("OUT", "float[n,5] y").replace("BODY", "y = Gather (w, column)")
    monkeypatch.setattr(bounded, "MOST_BYTES", 12 * 5 * 4 - 1)
    check(source, (3, 4), (4, 5), (3, 4, 2), host=("Gather",))


def test_free_dimensions_and_artifacts(tmp_path: Any) -> None:
    source = ROWS.replace("OUT", "float[n] y").replace("BODY", "y = Exp (v)")
    free = compiled(source.replace("float[3,4] x", "float[a,b] x"))
    for shape in ((3, 4), (1, 2), (5, 1)):
        feeds = {"x": numbers(shape, 0.5), "w": numbers((4, 5), 1.0), "t": numbers((3, 4, 2), 1.0)}
        agrees(free, source.replace("float[3,4] x", "float[a,b] x"), feeds)
    executable = compiled(source)
    again = graphopt.load_artifact(executable.save(tmp_path / "artifact"))
    feeds = {"x": numbers((3, 4), 0.5), "w": numbers((4, 5), 1.0), "t": numbers((3, 4, 2), 1.0)}
    agrees(again, source, feeds)
    assert any("padded" in note for note in executable.notes)


def test_a_branch_whose_result_is_bounded() -> None:
    source = """
    g (float[3,4] x, float[2] f) => (float[n] y) {
      zero = Constant <value_float = 0.0> ()
      total = ReduceSum <keepdims = 0> (f)
      c = Greater (total, zero)
      minus = Constant <value_ints = [-1]> ()
      flat = Reshape (x, minus)
      big = Greater (flat, zero)
      few = Compress (flat, big)
      y = If (c) <
        then_branch = g1 () => (float[k] a) { a = Exp (few) },
        else_branch = g2 () => (float[k2] b) { b = Neg (flat) }
      >
    }
    """
    executable = compiled(source, level=0)
    for f in (1.0, -1.0):
        for fill in FILLS:
            agrees(executable, source, {"x": numbers((3, 4), fill), "f": np.array([f, 0], np.float32)})
    assert [row["op"] for row in executable.placement] == ["If"]
    assert executable.manifest["transfers"]["host_segments"] == 0
