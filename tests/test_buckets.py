"""Several sizes in one artifact: which program runs, how feeds are padded, and what is said when none fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checking import model_from, random_feeds

import graphopt
from graphopt import artifact
from graphopt.analysis.padding import PaddedAxis
from graphopt.errors import (
    ArtifactError,
    FeedError,
    InvariantError,
    PolicyError,
    UnsupportedError,
    UsageError,
)
from graphopt.executable import Executable
from graphopt.runtime.buckets import Buckets, BucketSession, cut, filled
from graphopt.runtime.feeds import FeedSpec

ROWS = (
    "g (float[N, 4] x, int64[N] k) => (float[N, 3] y, int64[N] z) <float[4,3] w = {1,2,3,4,5,6,7,8,9,10,11,12}> {"
    " y = MatMul(x, w) z = Neg(k) }"
)
GRID = """g (float[B, S, 4] x) => (float[M, 4] y, float[S, B, 4] z) <int64[2] s = {-1, 4}> {
    a = Relu(x) y = Reshape(a, s) z = Transpose<perm=[1, 0, 2]>(a) }"""
CENTERED = "g (float[N, 4] x) => (float[N, 4] y) <int64[1] a = {0}> { m = ReduceMean(x, a) y = Sub(x, m) }"
ON_HOST = """<ir_version: 10, opset_import: ["" : 19]> g (string[N] s, float[N, 4] x) => (float[N, 4] y, bool[N] same) <string[1] t = {"a"}> {
    same = Equal(s, t) y = Exp(x) }"""


def compiled(text: str, dims: dict[str, Any], **options: Any) -> Executable:
    return graphopt.compile(model_from(text), dims=dims, **options)


def counting(executable: Executable, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, tuple[int, ...]]]:
    """The shapes that the inner session is run with, as it is run."""
    session = executable.session()
    assert isinstance(session, BucketSession)
    seen, inner = [], session._run

    def run(feeds: Any) -> Any:
        seen.append({name: array.shape for name, array in feeds.items()})
        return inner(feeds)

    monkeypatch.setattr(session, "_run", run)
    return seen


def test_the_smallest_bucket_that_holds_the_feeds(monkeypatch: pytest.MonkeyPatch) -> None:
    executable = compiled(ROWS, {"N": (8, 1, 32, 8)})
    seen = counting(executable, monkeypatch)
    plain = graphopt.compile(model_from(ROWS))
    for rows, bucket in ((1, 1), (2, 8), (7, 8), (8, 8), (9, 32), (32, 32)):
        feeds = random_feeds(executable.model, {"N": rows}, seed=rows)
        found, wanted = executable.run(feeds), plain.run(feeds)
        assert seen.pop() == {"x": (bucket, 4), "k": (bucket,)}
        for name in wanted:
            np.testing.assert_array_equal(found[name], wanted[name])
            assert found[name].dtype == wanted[name].dtype


def test_rows_that_are_missing_are_copies_of_the_last() -> None:
    array = np.arange(12).reshape(2, 3, 2)
    grown = filled(array, [0, 1], 4)
    assert grown.shape == (4, 4, 2)
    np.testing.assert_array_equal(grown[:2, :3], array)
    np.testing.assert_array_equal(grown[3, 3], array[1, 2])
    assert filled(np.array(["a", "b"], object), [0], 3).tolist() == ["a", "b", "b"]


def test_a_product_of_dimensions() -> None:
    executable = compiled(GRID, {"B": (1, 4), "S": (2, 8)})
    assert [row["sizes"] for row in executable.manifest["buckets"]["programs"]] == [
        {"B": 1, "S": 2},
        {"B": 1, "S": 8},
        {"B": 4, "S": 2},
        {"B": 4, "S": 8},
    ]
    for b, s in ((1, 1), (1, 8), (3, 2), (2, 5), (4, 8)):
        x = np.random.default_rng(0).standard_normal((b, s, 4)).astype("float32")
        found = executable.run({"x": x})
        np.testing.assert_array_equal(found["y"], np.maximum(x, 0).reshape(-1, 4))
        np.testing.assert_array_equal(found["z"], np.maximum(x, 0).transpose(1, 0, 2))


def test_feeds_that_no_bucket_holds() -> None:
    executable = compiled(ROWS, {"N": (2, 8)})
    feeds = random_feeds(executable.model, {"N": 9})
    with pytest.raises(
        FeedError, match=r"GO603 the feeds are larger than every bucket of 'N'; found N=9.*2, 8"
    ):
        executable.run(feeds)
    with pytest.raises(FeedError, match="the feeds are empty"):
        executable.run({name: array[:0] for name, array in feeds.items()})
    with pytest.raises(FeedError, match="found N=4 on axis 0, expected 9 as in 'x'"):
        executable.run({**feeds, "k": feeds["k"][:4]})
    with pytest.raises(FeedError, match="'k' is missing"):
        executable.run({"x": feeds["x"]})


def test_what_cannot_be_proven_is_refused_and_exact_sizes_are_not() -> None:
    with pytest.raises(UnsupportedError, match=r"GO210 ReduceMean .*reduces over 'N', on axis 0") as caught:
        compiled(CENTERED, {"N": (2, 4)})
    assert "--dim N=8" in str(caught.value) and "--buckets exact" in str(caught.value)
    executable = compiled(CENTERED, {"N": (2, 4)}, buckets="exact")
    x = np.arange(16, dtype="float32").reshape(4, 4)
    np.testing.assert_array_equal(executable.run({"x": x})["y"], x - x.mean(0))
    with pytest.raises(FeedError, match="exactly these sizes of 'N'; found 3; expected 2, 4"):
        executable.run({"x": x[:3]})


@pytest.mark.parametrize("mode", ["pad", "exact"])
def test_the_artifact_keeps_them(tmp_path: Path, mode: str) -> None:
    executable = compiled(ROWS, {"x.0": (2, 4)}, buckets=mode)
    folder = executable.save(tmp_path / "made")
    assert sum(path.name.startswith("model.onnx") for path in folder.iterdir()) == 2  # the weights, once
    assert {path.name for path in folder.iterdir()} >= {
        "bucket-2.program.jaxexport",
        "bucket-4.program.stablehlo.mlir",
    }
    loaded = graphopt.load_artifact(folder)
    assert loaded.buckets == executable.buckets
    feeds = random_feeds(executable.model, {"N": 4})
    for name, wanted in executable.run(feeds).items():
        np.testing.assert_array_equal(loaded.run(feeds)[name], wanted)
    if mode == "pad":
        less = {name: array[:3] for name, array in feeds.items()}
        assert {name: array.shape for name, array in loaded.run(less).items()} == {"y": (3, 3), "z": (3,)}
    again = compiled(ROWS, {"x.0": (4, 2)}, buckets=mode).save(tmp_path / "again")
    assert (again / "manifest.json").read_bytes() == (folder / "manifest.json").read_bytes()


def test_the_programs_that_were_saved_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.runtime import xla

    folder = compiled(ROWS, {"N": (2, 4)}).save(tmp_path / "made")
    loaded = graphopt.load_artifact(folder)
    called, original = [], xla.exported_call
    monkeypatch.setattr(xla, "exported_call", lambda data: called.append(bytes(data)) or original(data))
    feeds = random_feeds(loaded.model, {"N": 3})
    loaded.run(feeds)
    loaded.run(feeds)
    assert called == [(folder / "bucket-4.program.jaxexport").read_bytes()]


def test_buckets_that_a_manifest_garbled(tmp_path: Path) -> None:
    folder = compiled(ROWS, {"N": (2, 4)}).save(tmp_path / "made")
    path = folder / artifact.MANIFEST
    body = json.loads(path.read_text())
    for wrong in (
        {},
        {"sizes": 3},
        {"sizes": [], "padding": [7]},
        {"sizes": [{"dim": "N", "sizes": []}], "padding": []},
    ):
        body["buckets"] = {**wrong, "programs": []}
        body["digest"] = artifact._digest(body)
        path.write_text(json.dumps(body))
        with pytest.raises(ArtifactError, match="GO602"):
            graphopt.load_artifact(folder).session()


def test_optimize_takes_one_size() -> None:
    with pytest.raises(UsageError, match="buckets"):
        graphopt.optimize(model_from(ROWS), dims={"N": (1, 2)})


def test_other_dimensions_stay_free() -> None:
    executable = compiled("g (float[N, S] x) => (float[N, S] y) { y = Softmax(x) }", {"N": (2, 4)})
    for s in (1, 5):
        x = np.random.default_rng(s).standard_normal((3, s)).astype("float32")
        wanted = np.exp(x) / np.exp(x).sum(1, keepdims=True)
        np.testing.assert_allclose(executable.run({"x": x})["y"], wanted, rtol=1e-5)


def test_host_segments() -> None:
    executable = compiled(ON_HOST, {"N": (2, 4)})
    x = np.arange(12, dtype="float32").reshape(3, 4) / 8
    found = executable.run({"s": np.array(["a", "b", "a"], object), "x": x})
    assert found["same"].tolist() == [True, False, True]
    np.testing.assert_allclose(found["y"], np.exp(x), rtol=1e-6)
    assert executable.placement[0]["op"] == "Equal"
    with pytest.raises(PolicyError, match="GO501"):
        compiled(ON_HOST, {"N": (2, 4)}, strict=True)


def test_verify_pads() -> None:
    executable = compiled(ROWS, {"N": (4, 8)})
    assert executable.example_sizes() == {"N": 1}
    assert compiled(ROWS, {"N": (1, 2, 8)}).example_sizes() == {"N": 3}
    assert compiled(CENTERED, {"N": (4, 8)}, buckets="exact").example_sizes() == {"N": 4}
    assert graphopt.verify(executable, against=model_from(ROWS)).ok


def test_results_of_another_shape_are_our_fault() -> None:
    with pytest.raises(InvariantError, match="GO901"):
        cut(np.zeros(9), PaddedAxis(0), {"N": 4}, "N", 3)
    spec = FeedSpec("x", "float32", ("N",))
    proof = compiled("g (float[N] x) => (float[N] y) { y = Relu(x) }", {"N": (4,)}).buckets
    assert proof is not None
    session = BucketSession(lambda feeds: {"y": feeds["x"][:3]}, [spec], proof, {})
    with pytest.raises(InvariantError):
        session.run({"x": np.zeros(2, "float32")})


def test_defaults_are_padded_too() -> None:
    spec = [FeedSpec("x", "float32", ("N",)), FeedSpec("b", "float32", ("N",), optional=True)]
    proof = compiled("g (float[N] x, float[N] b) => (float[N] y) { y = Add(x, b) }", {"N": (4,)}).buckets
    assert isinstance(proof, Buckets)
    session = BucketSession(
        lambda feeds: {"y": feeds["x"] + feeds["b"]}, spec, proof, {"b": np.ones(2, "float32")}
    )
    np.testing.assert_array_equal(session.run({"x": np.zeros(2, "float32")})["y"], [1, 1])


@pytest.mark.tpu_compiler
def test_every_size_is_compiled_for_a_tpu(tmp_path: Path) -> None:
    pytest.importorskip(
        "libtpu", reason="NOT TESTED: compiling for TPUs needs libtpu (pip install 'graphopt[tpu]')"
    )
    executable = compiled(ROWS, {"N": (1, 16)}, target="tpu:v5e")
    rows = executable.manifest["buckets"]["programs"]
    assert all(row["cost"]["total_cycles"] > 0 and row["memory"]["hbm"] > 0 for row in rows)
    assert executable.cost == rows[-1]["cost"] and executable.memory == rows[-1]["memory"]
    assert executable.files["bucket-1.tpu.executable"] != executable.files["bucket-16.tpu.executable"]
    loaded = graphopt.load_artifact(executable.save(tmp_path / "made"))
    assert loaded.manifest["buckets"]["programs"] == rows
    feeds = random_feeds(loaded.model, {"N": 5})
    wanted = graphopt.compile(model_from(ROWS)).run(feeds)
    for name, result in loaded.run(feeds).items():
        np.testing.assert_array_equal(result, wanted[name])
