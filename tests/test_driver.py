"""The Python API: what goes in, what comes out, and what is said when something cannot be done."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import artifact
from graphopt.errors import (
    AccuracyError,
    ArtifactError,
    FeedError,
    LoweringError,
    PolicyError,
    UnsupportedError,
    UsageError,
)
from graphopt.ir import Model
from graphopt.lowering.xla.aot import tpu_compiler_installed
from graphopt.target import SizeRange
from graphopt.transform import Changes, Exactness, Pass, Pipeline

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'
MLP = (
    HEADER
    + """mlp (float[N, 4] x) => (float[N, 2] y)
<float[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}, float[2] b = {0.5, -0.5}> {
    p = MatMul(x, w)
    s = Add(p, b)
    i = Identity(s)
    y = Relu(i)
}"""
)
RESHAPED = HEADER + """g (float[6] x, int64[2] shape) => (float[P, Q] y) { y = Reshape(x, shape) }"""
X = np.arange(12, dtype=np.float32).reshape(3, 4) - 6


def expected(x: np.ndarray = X) -> np.ndarray:
    return np.maximum(
        x @ np.arange(1, 9, dtype=np.float32).reshape(4, 2) + np.array([0.5, -0.5], np.float32), 0
    )


@pytest.mark.parametrize("target", ["cpu", "xla-cpu", "cuda", "tensorrt"])
@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_compile_and_run(target: str, level: int) -> None:
    executable = graphopt.compile(MLP, target=target, level=level)
    for rows in (X, X[:1], np.zeros((0, 4), np.float32)):
        result = executable.run({"x": rows})
        assert list(result) == ["y"]
        np.testing.assert_allclose(result["y"], expected(rows), rtol=1e-6)


@pytest.mark.parametrize("target", ["cpu", "xla-cpu", "cuda"])
def test_artifact_round_trip(tmp_path: Path, target: str) -> None:
    executable = graphopt.compile(MLP, target=target)
    folder = executable.save(tmp_path / "art")
    loaded = graphopt.load_artifact(folder)
    np.testing.assert_allclose(loaded.run({"x": X})["y"], expected(), rtol=1e-6)
    assert loaded.report == executable.report
    assert str(loaded.target) == target
    with pytest.raises(FeedError, match="GO603"):
        loaded.run({"z": X})


@pytest.mark.parametrize("target", ["cpu", "xla-cpu", "cuda", "tensorrt"])
def test_artifacts_are_the_same_bytes(tmp_path: Path, target: str) -> None:
    folders = [graphopt.compile(MLP, target=target).save(tmp_path / name) for name in ("a", "b")]
    first, second = ({p.name: p.read_bytes() for p in f.iterdir()} for f in folders)
    assert first == second


def test_an_accelerator_that_is_not_here_is_said(tmp_path: Path) -> None:
    executable = graphopt.compile(MLP, target="cuda")
    executable.run({"x": X})
    assert any("CUDA" in note for note in executable.notes), executable.notes
    assert executable.placement


def test_portable_program_keeps_the_batch_symbolic() -> None:
    executable = graphopt.compile(MLP, target="xla-cpu")
    assert artifact.PROGRAM in executable.files
    assert b"?x4xf32" in executable.files["program.stablehlo.mlir"]


def test_weights_are_arguments_not_constants() -> None:
    wide = (
        HEADER
        + "g (float[2, 64] x) => (float[2, 64] y) { w = ConstantOfShape <value = float[1] {0.25}> (s)  y = MatMul(x, w) }"
    )
    wide = wide.replace("(float[2, 64] y) {", "(float[2, 64] y) <int64[2] s = {64, 64}> {")
    executable = graphopt.compile(wide, target="xla-cpu")
    assert b"%arg1: tensor<64x64xf32>" in executable.files["program.stablehlo.mlir"]


def test_an_input_that_must_be_known_is_specialised_on() -> None:
    executable = graphopt.compile(RESHAPED, target="xla-cpu")
    x = np.arange(6, dtype=np.float32)
    for shape in ([2, 3], [3, 2], [2, 3]):
        result = executable.run({"x": x, "shape": np.array(shape, np.int64)})["y"]
        np.testing.assert_array_equal(result, x.reshape(shape))


def test_a_constant_leaves_the_interface() -> None:
    executable = graphopt.compile(RESHAPED, target="xla-cpu", constants={"shape": [3, 2]})
    assert [i["name"] for i in executable.inputs] == ["x"]
    assert executable.run({"x": np.arange(6, dtype=np.float32)})["y"].shape == (3, 2)


@pytest.mark.parametrize(
    ("constants", "word"),
    [
        ({"nothing": 1}, "no input"),
        ({"shape": [1.5, 2]}, "fit"),
        ({"shape": [1, 2, 3]}, "shape"),
        ({"shape": "x"}, "int64"),
    ],
)
def test_wrong_constants(constants: dict[str, object], word: str) -> None:
    with pytest.raises(UsageError, match="GO701") as caught:
        graphopt.compile(RESHAPED, constants=constants)
    assert word in str(caught.value)


def test_dims_and_shapes_bind() -> None:
    for binding in ({"dims": {"N": 3}}, {"shapes": {"x": (3, 4)}}, {"shapes": {"x": (3, "four")}}):
        executable = graphopt.compile(MLP, target="xla-cpu", **binding)
        assert executable.inputs[0]["shape"] == [3, 4]
        with pytest.raises(FeedError):
            executable.run({"x": X[:2]})


@pytest.mark.parametrize(
    "binding",
    [
        {"dims": {"M": 3}},
        {"dims": {"N": 0}},
        {"dims": {"N": -1}},
        {"dims": {"N": SizeRange(1, 2, 3)}},
        {"dims": {"N": (1, 2)}, "target": "cuda"},
        {"dims": {"N": ()}},
        {"dims": {"N": (1, 0)}},
        {"dims": {"N": (1, True)}},
        {"dims": {"N": (1, 2**40)}},
        {"dims": {"N": tuple(range(1, 66))}},
        {"dims": {"M": (1, 2)}},
        {"dims": {"N": (1, 2), "x.0": (3, 4)}},
        {"dims": {"N": 3, "x.0": (3, 4)}},
        {"dims": {"N": (1, 2)}, "buckets": "both"},
        {"shapes": {"x": (3, 5)}},
        {"shapes": {"x": (3,)}},
        {"shapes": {"z": (3, 4)}},
        {"level": 7},
        {"precision": "fp12"},
        {"target": "gpu9000"},
        {"target": "tpu:v99"},
        {"target": "tpu:v5e:many"},
        {"pipeline": "no-such-pass"},
        {"pipeline": "fold-constants{"},
        {"pipeline": "fold-constants{depth=3}"},
        {"pipeline": "fold-constants{max-bytes=lots}"},
        {"verify": "sometimes"},
    ],
    ids=str,
)
def test_wrong_arguments_are_usage_errors(binding: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        graphopt.compile(MLP, **binding)  # type: ignore[arg-type]
    assert caught.value.exit_code == 2


def test_tpu_needs_fixed_shapes() -> None:
    with pytest.raises(UnsupportedError, match="GO204") as caught:
        graphopt.compile(MLP, target="tpu:v5e")
    assert "--dim N=8" in str(caught.value)
    assert "x.0" in str(caught.value)


def test_all_unsupported_nodes_are_listed_at_once() -> None:
    text = (
        HEADER
        + """g (string[2] x) => (string[2] y, string[2] z) {
        y = StringNormalizer(x)
        z = Identity(x)
    }"""
    )
    with pytest.raises(PolicyError, match="GO501") as caught:
        graphopt.compile(text, target="xla-cpu", strict=True)
    assert len(caught.value.details["placement"]) == 2
    with pytest.raises(LoweringError, match="GO201"):
        graphopt.compile(text, target="tpu:v5e")  # nothing of it is for a TPU


def test_strict_refuses_what_would_fall_back() -> None:
    text = HEADER + """g (float[2, 2] x) => (float[2, 2] y) { d = Relu(x)  y = Celu(d) }"""
    executable = graphopt.compile(text, target="cuda")
    off = [p for p in executable.placement if p["provider"].startswith("CPU")]
    assert [p["op"] for p in off] == ["Celu"]
    assert off[0]["reason"]
    with pytest.raises(PolicyError, match="GO501") as caught:
        graphopt.compile(text, target="cuda", strict=True)
    assert caught.value.exit_code == 5
    assert "Celu" in str(caught.value)


@dataclasses.dataclass(frozen=True)
class BreakRelu(Pass):
    """A pass that is wrong on purpose: it turns Relu into Abs."""

    exactness = Exactness.BIT_EXACT

    def run(self, model: Model) -> Changes:
        """Rename the operator."""
        changes = Changes()
        for node in model.graph.all_nodes():
            if node.op_type == "Relu":
                node.op_type = "Abs"
                changes.counts["broken"] += 1
        return changes


def test_a_wrong_pass_is_rolled_back_and_named() -> None:
    good = Pipeline("eliminate-identity").passes
    result = graphopt.optimize(MLP, pipeline=Pipeline([*good, BreakRelu(), *good]), verify="each")
    blamed = [r for r in result.report.passes if r.rolled_back]
    assert [r.name for r in blamed] == ["break-relu"]
    assert "Relu" in {n.op_type for n in result.model.graph}
    assert not [n for n in result.model.graph if n.op_type == "Identity"]


def test_a_rolled_back_pass_is_noted_on_the_executable() -> None:
    executable = graphopt.compile(MLP, target="xla-cpu", pipeline=Pipeline([BreakRelu()]), verify="each")
    assert any("break-relu was rolled back" in note for note in executable.notes)


def test_a_wrong_pass_fails_verification_at_the_end() -> None:
    with pytest.raises(AccuracyError, match="GO401") as caught:
        graphopt.optimize(MLP, pipeline=Pipeline([BreakRelu()]), verify="end")
    assert caught.value.exit_code == 4


def test_a_right_pipeline_passes_verification() -> None:
    for mode in ("each", "end"):
        result = graphopt.optimize(MLP, verify=mode)  # type: ignore[arg-type]
        assert not [r for r in result.report.passes if r.rolled_back]


def test_optimize_saves_onnx_that_keeps_the_interface(tmp_path: Path) -> None:
    result = graphopt.optimize(MLP)
    result.save(tmp_path / "out.onnx")
    again = graphopt.load(tmp_path / "out.onnx")
    assert [v.name for v in again.graph.inputs] == ["x"]
    assert [v.name for v in again.graph.outputs] == ["y"]
    assert result.report.nodes_after < result.report.nodes_before


def test_the_source_model_is_left_alone() -> None:
    model = graphopt.load(MLP)
    before = [n.op_type for n in model.graph]
    graphopt.optimize(model)
    graphopt.compile(model, target="xla-cpu")
    assert [n.op_type for n in model.graph] == before


def test_fused_nodes_know_their_origins() -> None:
    executable = graphopt.compile(MLP, target="xla-cpu")
    known = {o for node in executable.model.graph for o in executable.origin(node.name or "")}
    names = {n.name for n in graphopt.load(MLP).graph if n.op_type != "Identity"}
    assert names <= known


def test_verify_gives_a_report() -> None:
    executable = graphopt.compile(MLP, target="xla-cpu")
    report = graphopt.verify(executable, against=MLP)
    assert report.ok
    assert report.max_abs_error < 1e-5


def test_a_corrupt_artifact_is_refused(tmp_path: Path) -> None:
    folder = graphopt.compile(MLP, target="xla-cpu").save(tmp_path / "art")
    data = bytearray((folder / artifact.PROGRAM).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / artifact.PROGRAM).write_bytes(data)
    with pytest.raises(ArtifactError, match="GO602"):
        graphopt.load_artifact(folder)


needs_libtpu = pytest.mark.skipif(
    not tpu_compiler_installed(), reason="libtpu is not installed: pip install 'graphopt[tpu]'"
)


@needs_libtpu
@pytest.mark.tpu_compiler
@pytest.mark.parametrize("target", ["tpu", "tpu:v4", "tpu:v5p", "tpu:v6e:4x4", "tpu:v7x"])
def test_tpu_generations(tmp_path: Path, target: str) -> None:
    executable = graphopt.compile(MLP, target=target, dims={"N": 8})
    assert executable.cost is not None
    assert executable.memory is not None
    nodes = executable.cost["nodes"]
    assert executable.cost["total_cycles"] > 0
    assert sum(n["cycles"] for n in nodes) + executable.cost["unattributed_cycles"] == pytest.approx(
        executable.cost["total_cycles"], abs=1
    )
    assert executable.memory["hbm"] > 8 * 4 * 4
    folder = executable.save(tmp_path / "art")
    loaded = graphopt.load_artifact(folder)
    assert (folder / "tpu.executable").stat().st_size > 1000
    x = np.ones((8, 4), np.float32)
    np.testing.assert_allclose(loaded.run({"x": x})["y"], expected(x), rtol=1e-6)
    assert any("no TPU here" in note for note in loaded.notes)


def test_without_libtpu_the_portable_program_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphopt.lowering.xla.aot.tpu_compiler_installed", lambda: False)
    executable = graphopt.compile(MLP, target="tpu:v5e", dims={"N": 8})
    assert executable.cost is None
    assert artifact.PROGRAM in executable.files
    assert any("libtpu" in note for note in executable.notes)


@needs_libtpu
@pytest.mark.tpu_compiler
def test_a_program_too_large_for_the_chip_is_an_error() -> None:
    text = HEADER + "g (float[N, 65536] x) => (float[N, 65536] y) { y = Relu(x) }"
    with pytest.raises(LoweringError, match="GO206") as caught:
        graphopt.compile(text, target="tpu:v5e", dims={"N": 131072})
    assert "memory" in str(caught.value)


def test_the_portable_program_runs_at_any_size() -> None:
    import jax
    from jax import export

    executable = graphopt.compile(MLP, target="xla-cpu")
    program = export.deserialize(bytearray(executable.files[artifact.PROGRAM]))
    with jax.enable_x64(True):
        for rows in (X, X[:1]):
            assert program.in_tree.num_leaves == 1  # the weights here are small enough to be constants
            np.testing.assert_allclose(program.call({}, {"x": rows})["y"], expected(rows), rtol=1e-6)


def test_a_shape_that_depends_on_data_is_called_so() -> None:
    text = HEADER + "g (float[4, 2] x) => (float[M, 2] y) { r = Relu(x)  y = Unique<axis = 0>(r) }"
    executable = graphopt.compile(text, target="xla-cpu")
    assert [row["op"] for row in executable.placement] == ["Unique"]
    assert "depends on the numbers" in executable.placement[0]["reason"]
    with pytest.raises(PolicyError, match="depends on the numbers"):
        graphopt.compile(text, target="tpu:v5e", strict=True)


@needs_libtpu
@pytest.mark.tpu_compiler
def test_tpu_artifacts_are_the_same_bytes(tmp_path: Path) -> None:
    folders = [
        graphopt.compile(MLP, target="tpu:v5e", dims={"N": 8}, cache=False).save(tmp_path / name)
        for name in ("a", "b")
    ]
    first, second = ({p.name: p.read_bytes() for p in f.iterdir()} for f in folders)
    assert first == second
    assert not [name for name, data in first.items() if b"site-packages" in data or b"/graphopt" in data]


@pytest.mark.parametrize("target", ["cpu", "xla-cpu"])
def test_an_input_with_a_default_may_be_left_out(target: str, tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(HEADER + "g (float[2] x, float[2] w) => (float[2] y) { y = Mul(x, w) }")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 3], np.float32), "w"))
    x = np.ones(2, np.float32)
    executable = graphopt.compile(proto, target)
    for one in (executable, graphopt.load_artifact(executable.save(tmp_path / "saved"))):
        np.testing.assert_array_equal(one.run({"x": x})["y"], [2, 3])
        np.testing.assert_array_equal(one.run({"x": x, "w": x})["y"], [1, 1])


def test_a_model_too_large_for_one_protobuf_runs_from_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    executable = graphopt.compile(MLP, target="cpu")
    monkeypatch.setattr("graphopt.executable.PROBE_BYTES", 1)
    assert Path(executable.model_path_or_bytes()).is_file()
    np.testing.assert_allclose(executable.run({"x": X})["y"], expected(), rtol=1e-6)
