"""Each command on sound input: what it prints, what it writes, and that its JSON says the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from cli.conftest import MNIST, RECOMMENDER, Cli

from graphopt import passes
from graphopt.target import KINDS, devices


def ort(model: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of `model` by ONNX Runtime alone."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


def test_help_lists_every_command(cli: Cli) -> None:
    outcome = cli("--help")
    assert (outcome.code, outcome.err) == (0, "")
    commands = "compile optimize inspect check run verify bench explain bisect reduce passes targets doctor"
    for command in commands.split():
        assert f"\n  {command} " in outcome.out
        shown = cli(command, "--help")
        assert shown.code == 0
        assert "--json" in shown.out


def test_version(cli: Cli) -> None:
    import graphopt

    assert cli("--version").out == f"graphopt {graphopt.__version__}\n"


def test_no_command_shows_the_help(cli: Cli) -> None:
    outcome = cli()
    assert outcome.code in (0, 2)
    assert "compile" in outcome.out + outcome.err
    assert "GO701" not in outcome.err


def test_compile_writes_an_artifact(cli: Cli) -> None:
    outcome = cli("compile", MNIST, "--target", "xla-cpu")
    assert outcome.code == 0, outcome.err
    folder = Path("mnist-cnn.xla-cpu")
    assert (folder / "manifest.json").is_file()
    assert "mnist-cnn.xla-cpu/" in outcome.out
    assert "9 -> " in outcome.out
    assert [p.name for p in Path().iterdir()] == [folder.name]


def test_compile_json(cli: Cli) -> None:
    document = cli("compile", MNIST, "-t", "xla-cpu", "-o", "made", "--dim", "batch=4", "--json").json
    assert document["schema"] == "graphopt.compile/1"
    assert document["target"] == "xla-cpu"
    assert document["artifact"] == "made"
    assert document["inputs"][0]["shape"] == [4, 1, 28, 28]
    assert document["report"]["nodes_before"] == 9


def test_compile_can_write_nothing_and_report_passes(cli: Cli) -> None:
    outcome = cli("compile", MNIST, "-t", "xla-cpu", "--no-save", "--report")
    assert outcome.code == 0
    assert "eliminate-dead-nodes" in outcome.out
    assert not list(Path().iterdir())


def test_equal_compiles_give_equal_bytes(cli: Cli) -> None:
    for name in ("one", "two"):
        assert cli("compile", MNIST, "-t", "xla-cpu", "--dim", "batch=2", "-o", name).code == 0
    names = sorted(p.name for p in Path("one").iterdir())
    assert names == sorted(p.name for p in Path("two").iterdir())
    for name in names:
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes(), name


def test_optimize_writes_onnx_that_answers_the_same(cli: Cli, relu_model: Path) -> None:
    outcome = cli("optimize", relu_model, "-o", "out.onnx", "--list-declined")
    assert outcome.code == 0, outcome.err
    assert "eliminate-identity" in outcome.out
    assert "3 -> 2 nodes" in outcome.out
    onnx.checker.check_model("out.onnx", full_check=True)
    feeds = {"x": np.array([[1, -2, 3]], np.float32)}
    np.testing.assert_array_equal(ort(Path("out.onnx"), feeds)["y"], ort(relu_model, feeds)["y"])


def test_optimize_without_output_writes_nothing(cli: Cli, relu_model: Path) -> None:
    outcome = cli("optimize", relu_model, "--pipeline", "eliminate-identity")
    assert outcome.code == 0
    assert "nothing was written" in outcome.err
    assert [p.name for p in Path().iterdir()] == ["models"]


def test_optimize_json_has_every_pass(cli: Cli, relu_model: Path) -> None:
    document = cli("optimize", relu_model, "--pipeline", "eliminate-identity,fold-constants", "--json").json
    assert document["schema"] == "graphopt.optimize/1"
    assert [p["name"] for p in document["report"]["passes"]] == ["eliminate-identity", "fold-constants"]
    assert document["report"]["passes"][0]["counts"] == {"identity": 1}


@pytest.mark.parametrize("mode", ["each", "end"])
def test_optimize_verifies(cli: Cli, relu_model: Path, mode: str) -> None:
    outcome = cli(
        "optimize", relu_model, "-o", "out.onnx", "--verify", mode, "--pipeline", "eliminate-identity"
    )
    assert outcome.code == 0, outcome.err
    assert "UNDONE" not in outcome.out
    assert "3 -> 2 nodes" in outcome.out


def test_inspect_a_model(cli: Cli) -> None:
    outcome = cli("inspect", MNIST)
    assert outcome.code == 0
    assert "input float32[batch, 1, 28, 28]" in outcome.out
    assert "ai.onnx 17" in outcome.out
    assert "*batch" in outcome.out
    bound = cli("inspect", MNIST, "--dim", "batch=2", "--json").json
    assert bound["schema"] == "graphopt.inspect/1"
    model = onnx.load(MNIST)
    assert sum(bound["operators"].values()) == len(model.graph.node)
    floats = [i for i in model.graph.initializer if i.data_type == onnx.TensorProto.FLOAT]
    assert bound["weights_by_type"]["float32"] == sum(
        len(onnx.numpy_helper.to_array(i).tobytes()) for i in floats
    )
    # A product and a sum for each weight of a filter, and the bias, for each of the 28x28 places of 2 images.
    conv = next(n for n in bound["cost"]["nodes"] if n["op_type"] == "Conv")
    kernel = next(i for i in model.graph.initializer if len(i.dims) == 4)
    assert conv["flops"] == 2 * kernel.dims[0] * 28 * 28 * (2 * np.prod(kernel.dims[1:]) + 1)


def test_inspect_leaves_free_dims_as_symbols(cli: Cli) -> None:
    document = cli("inspect", RECOMMENDER, "--json").json
    assert "batch" in document["cost"]["flops"]
    assert document["free_dims"] == {"batch": ["dense.0", "sparse.0"]}


def test_inspect_an_artifact(cli: Cli) -> None:
    cli("compile", MNIST, "-t", "cpu", "-o", "made")
    outcome = cli("inspect", "made")
    assert outcome.code == 0
    assert "model.onnx" in outcome.out
    document = cli("inspect", "made", "--json").json
    assert document["kind"] == "artifact"
    assert document["manifest"]["target"] == "cpu"


def test_check_targets(cli: Cli) -> None:
    outcome = cli(
        "check", MNIST, "-t", "xla-cpu", "-t", "cuda", "-t", "tensorrt", "-t", "tpu", "--dim", "batch=2"
    )
    assert outcome.code == 0, outcome.out
    assert outcome.out.count(": supported") == 4
    document = cli("check", MNIST, "-t", "cuda", "--json").json
    assert document["schema"] == "graphopt.check/1"
    assert document["targets"][0]["placement"]["providers"]["CUDAExecutionProvider"] > 0


def test_check_strict_refuses_fallbacks(cli: Cli, tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18]>
        g (string[N] x) => (int64[M] y) { u, y = Unique (x) }"""
    )
    onnx.save(model, tmp_path / "strings.onnx")
    assert cli("check", "strings.onnx", "-t", "cuda").code == 0
    refused = cli("check", "strings.onnx", "-t", "cuda", "--strict")
    assert refused.code == 3
    assert "Unique" in refused.out
    on_host = cli("check", "strings.onnx", "-t", "xla-cpu", "--json")
    assert (on_host.code, [row["op"] for row in on_host.json["targets"][0]["fallbacks"]]) == (0, ["Unique"])
    assert cli("check", "strings.onnx", "-t", "xla-cpu", "--strict").code == 3


@pytest.mark.parametrize("target", ["cpu", "xla-cpu"])
def test_run_gives_the_answers(cli: Cli, relu_model: Path, target: str) -> None:
    feeds = {"x": np.array([[1, -2, 3], [4, 5, -6]], np.float32)}
    np.save("x.npy", feeds["x"])
    np.savez("feeds.npz", **feeds)
    Path("folder").mkdir()
    np.save("folder/x.npy", feeds["x"])
    assert cli("compile", relu_model, "-t", target, "-o", "made").code == 0
    for given in ("x.npy", "x=x.npy", "feeds.npz", "folder"):
        outcome = cli("run", "made", "--input", given, "-o", "out.npz")
        assert outcome.code == 0, outcome.err
        with np.load("out.npz") as found:
            np.testing.assert_array_equal(found["y"], ort(relu_model, feeds)["y"])
        Path("out.npz").unlink()
    assert not list(Path().glob(".*"))


def test_run_generates_feeds(cli: Cli) -> None:
    arguments = ("run", MNIST, "-t", "cpu", "--random", "--dim", "batch=3", "--json")
    first, again = cli(*arguments).json, cli(*arguments).json
    assert first["schema"] == "graphopt.run/1"
    assert first["outputs"][0]["shape"] == [3, 10]
    assert first["outputs"] == again["outputs"]
    assert first["outputs"] != cli(*arguments, "--seed", "7").json["outputs"]


def test_run_reports_what_is_no_number(cli: Cli, tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18]> g (float[3] x) => (float[3] y) { y = Log (x) }"""
    )
    onnx.save(model, tmp_path / "log.onnx")
    np.save("x.npy", np.array([1, 0, -1], np.float32))
    document = cli("run", "log.onnx", "-t", "cpu", "-i", "x.npy", "--json").json
    assert document["outputs"][0]["nan"] == 1
    assert document["outputs"][0]["inf"] == 1
    assert document["outputs"][0]["max"] == 0.0


@pytest.mark.parametrize("model", [MNIST, RECOMMENDER], ids=lambda p: p.stem)
def test_verify_agrees(cli: Cli, model: Path) -> None:
    document = cli("verify", model, "--runs", 2, "--json").json
    assert document["schema"] == "graphopt.verify/1"
    assert document["ok"]
    assert document["engine"].startswith("ONNX Runtime")
    assert len(document["runs"]) == 2


def test_verify_names_what_differs(cli: Cli, relu_model: Path, tmp_path: Path) -> None:
    other = onnx.load(relu_model)
    other.graph.initializer[0].CopyFrom(
        onnx.numpy_helper.from_array(np.array([1.5], np.float32), other.graph.initializer[0].name)
    )
    onnx.save(other, tmp_path / "other.onnx")
    assert cli("compile", relu_model, "-t", "cpu", "-o", "made").code == 0
    assert cli("verify", "made", "--against", relu_model).code == 0
    outcome = cli("verify", "made", "--against", "other.onnx")
    assert outcome.code == 4
    assert "DIFFERS" in outcome.out
    assert "Traceback" not in outcome.err
    assert cli("verify", "made", "--against", "other.onnx", "--atol", "0.51").code == 0
    assert cli("verify", "made", "--against", "other.onnx", "--rtol", "0", "--atol", "0.49").code == 4


def test_verify_with_bound_constants(cli: Cli, tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18]>
        g (float[N] x, float[1] scale) => (float[N] y) { y = Mul (x, scale) }"""
    )
    onnx.save(model, tmp_path / "scaled.onnx")
    np.savez("data.npz", x=np.arange(4, dtype=np.float32))
    outcome = cli("verify", "scaled.onnx", "-t", "cpu", "--constant", "scale=2.5", "--data", "data.npz")
    assert outcome.code == 0, outcome.err + outcome.out
    assert "in 1 run" in outcome.out


def test_bench_compares(cli: Cli, relu_model: Path) -> None:
    assert cli("compile", relu_model, "-t", "cpu", "-o", "made").code == 0
    document = cli("bench", "made", relu_model, "-t", "cpu", "-O0", "-O2", "--runs", 12, "--json").json
    assert document["schema"] == "graphopt.bench/1"
    assert [c["name"] for c in document["candidates"]] == [
        "made",
        f"{relu_model} cpu -O0",
        f"{relu_model} cpu -O2",
    ]
    for row in document["candidates"]:
        assert row["runs"] == 12
        assert 0 < row["min_s"] <= row["p50_s"] <= row["p90_s"] <= row["p99_s"]
        assert row["speedup_interval"][0] <= row["speedup"] <= row["speedup_interval"][1]
    assert document["candidates"][0]["speedup"] == 1.0


def test_bench_holds_artifacts_against_the_original(cli: Cli, relu_model: Path) -> None:
    cli("compile", relu_model, "-t", "cpu", "-o", "made")
    found = cli("bench", "made", "--original", relu_model, "--runs", 10, "--callers", 2, "--json")
    assert found.code == 0, found.err
    original, made = found.json["candidates"]
    assert original["name"].endswith("(original)")
    assert original["speedup"] == 1.0
    assert made["speedup_interval"][0] <= made["speedup"] <= made["speedup_interval"][1]
    for row in (original, made):
        assert row["peak_memory_bytes"] > 20 << 20
        assert len(row["concurrent_calls_per_s"]) == 4
    text = cli("bench", "made", "--original", relu_model, "--runs", 10, "--no-memory")
    assert "(original)" in text.out
    assert text.code == 0


def test_passes(cli: Cli) -> None:
    document = cli("passes", "--json").json
    assert document["schema"] == "graphopt.passes/1"
    assert [p["name"] for p in document["passes"]] == list(passes.names())
    shown = cli("passes", "fuse-conv-bn")
    assert shown.code == 0
    assert "standalone" in shown.out
    assert "reassociates" in shown.out


def test_targets(cli: Cli) -> None:
    document = cli("targets", "--json").json
    assert document["schema"] == "graphopt.targets/1"
    assert [t["kind"] for t in document["targets"]] == list(KINDS)
    listed = cli("targets").out
    for device in (*devices("tpu").values(), *devices("gpu").values()):
        assert device.source in listed


def test_doctor(cli: Cli) -> None:
    outcome = cli("doctor", "--json")
    assert outcome.code == 0, outcome.out
    document = outcome.json
    assert document["schema"] == "graphopt.doctor/1"
    found = {f["what"]: f for f in document["findings"]}
    assert found["onnx"]["found"] == onnx.__version__
    assert onnxruntime.__version__ in found["onnxruntime loads"]["found"]


def test_doctor_tells_what_is_too_old(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.requires", lambda name: ["numpy>=99,<100", "onnx>=1.0"])
    outcome = cli("doctor")
    assert outcome.code == 1
    assert "pip install 'numpy>=99,<100'" in outcome.out
    assert "broken" in outcome.out


def test_doctor_survives_a_library_that_dies() -> None:
    from graphopt.cli.doctor import _loads

    assert _loads("numpy", "import os; os.abort()")["status"] == "broken"
    assert "no_such_thing" in _loads("numpy", "import no_such_thing")["found"]


def test_quiet_and_verbose(cli: Cli, relu_model: Path) -> None:
    assert cli("optimize", relu_model, "-q").err == ""
    told = cli("optimize", relu_model, "-v")
    assert "eliminate-identity (" in told.err
    assert "eliminate-identity (" not in told.out


@pytest.mark.tpu_compiler
@pytest.mark.slow
def test_compile_for_a_tpu(cli: Cli, relu_model: Path) -> None:
    pytest.importorskip(
        "libtpu", reason="NOT TESTED: compiling for TPUs needs libtpu (pip install 'graphopt[tpu]')"
    )
    outcome = cli("compile", relu_model, "--target", "tpu:v5e", "--dim", "N=8", "-o", "made")
    assert outcome.code == 0, outcome.err
    assert "cycles" in outcome.out
    assert "of 16.0 GiB" in outcome.out
    manifest = cli("inspect", "made", "--json").json["manifest"]
    assert manifest["cost"]["total_cycles"] > 0
    assert "tpu.executable" in manifest["files"]
    assert cli("verify", "made", "--against", relu_model, "--runs", 1).code == 0
