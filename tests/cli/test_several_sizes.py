"""Several sizes on the command line: --dim batch=1,8,32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx.parser
import pytest
from cli.conftest import MNIST, Cli

from graphopt.cli import values
from graphopt.target import SizeRange


def test_values() -> None:
    found = values.bucket_dims(["N=1, 8,32", "M=4", "K=1:2:3"])
    assert found == {"N": [1, 8, 32], "M": 4, "K": (1, 2, 3)}
    assert isinstance(found["K"], SizeRange)
    assert values.several_dims(["N=8,1", "M=4"]) == {"N": [8, 1], "M": [4]}


@pytest.mark.parametrize("size", ["1,", ",", "1,0", "1,-2", "1,a", "1,2:3", "1:2", "1,2,3:4"])
def test_wrong_sizes(cli: Cli, relu_model: Path, size: str) -> None:
    outcome = cli("compile", relu_model, "--dim", f"N={size}")
    assert outcome.code == 2
    assert outcome.err.startswith("GO701")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--target", "cuda", "--dim", "N=1,2"), "for XLA's targets"),
        (("--target", "tensorrt", "--dim", "N=1,2,3"), "min:opt:max"),
        (("--dim", "N=1:2:3"), "TensorRT profiles"),
        (("--dim", "M=1,2"), "no free dimension 'M'"),
        (("--dim", "N=1,2", "--dim", "N=3"), "twice"),
        (("--dim", f"N={','.join(map(str, range(1, 70)))}"), "at most 64"),
        (("--dim", "N=1,2", "--buckets", "some"), "pad or exact"),
    ],
)
def test_wrong_uses(cli: Cli, relu_model: Path, arguments: tuple[str, ...], said: str) -> None:
    outcome = cli("compile", relu_model, "--no-save", *arguments)
    assert outcome.code == 2
    assert outcome.err.startswith("GO701") and said in outcome.err


def test_other_commands_take_one_size(cli: Cli, relu_model: Path) -> None:
    for command in ("optimize", "check", "verify", "inspect"):
        outcome = cli(command, relu_model, "--dim", "N=1,2")
        assert outcome.code == 2
        assert "buckets" in outcome.err and "expected: one size, as in N=1" in outcome.err


def test_compile_save_run_and_verify(cli: Cli, tmp_path: Path) -> None:
    made = cli("compile", MNIST, "--target", "xla-cpu", "--dim", "batch=1,4", "-o", "made")
    assert made.code == 0, made.err
    assert "batch=1,4; feeds are padded to the next size" in made.out
    assert "bucket-4.program.jaxexport" in made.out
    x = np.random.default_rng(0).standard_normal((3, 1, 28, 28)).astype("float32")
    np.save(tmp_path / "input.npy", x)
    ran = cli("run", "made", "--input", "input.npy", "-o", "padded.npz", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["outputs"][0]["shape"] == [3, 10]
    assert cli("run", MNIST, "--input", "input.npy", "-o", "plain.npz").code == 0
    np.testing.assert_array_equal(np.load("padded.npz")["logits"], np.load("plain.npz")["logits"])
    assert cli("verify", "made", "--against", MNIST, "--runs", 1).code == 0
    many = cli("run", "made", "--random", "--dim", "batch=5")
    assert many.code == 2
    assert "larger than every bucket of 'batch'" in many.err and "the buckets are 1, 4" in many.err
    assert cli("run", MNIST, "--random", "--dim", "batch=2,4").code == 0


def test_a_refusal_says_where_why_and_what_to_do(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "softmax.onnx"
    text = """<ir_version: 8, opset_import: ["" : 18]>
        g (float[N, 3] x) => (float[N, 3] y) { r = Relu(x) [over_rows] y = Softmax<axis = 0>(r) }"""
    onnx.save(onnx.parser.parse_model(text), path)
    refused = cli("compile", path, "--dim", "N=1,8", "--no-save")
    assert refused.code == 3
    assert refused.err.startswith(
        "GO210 padding the dimension 'N' could change results: it normalizes over 'N'"
    )
    assert "where:    Softmax 'over_rows'" in refused.err
    assert "--dim N=8" in refused.err and "--buckets exact" in refused.err
    error = cli("compile", path, "--dim", "N=1,8", "--no-save", "--json").json
    assert error["code"] == "GO210"
    assert error["details"] == {
        "dim": "N",
        "node": "over_rows",
        "op": "Softmax",
        "axis": 0,
        "why": "it normalizes over 'N'",
    }
    exact = cli("compile", path, "--dim", "N=1,8", "--buckets", "exact", "-o", "made")
    assert exact.code == 0
    assert "feeds must have one of these sizes" in exact.out
    assert cli("run", "made", "--random").code == 0
    assert cli("run", "made", "--random", "--dim", "N=3").code == 2


def test_a_tpu_compiler_for_each_size(cli: Cli, relu_model: Path, planted: Path) -> None:
    arguments = ("compile", relu_model, "--target", "tpu:v5e", "--dim", "N=1,8,16")
    made = cli(*arguments, "-o", "made", "--json")
    assert made.code == 0, made.err
    assert planted.read_text() == "xxx"
    rows = made.json["buckets"]["programs"]
    assert [row["sizes"] for row in rows] == [{"N": 1}, {"N": 8}, {"N": 16}]
    assert all(row["cost"] is not None and row["memory"]["hbm"] >= 0 for row in rows)
    assert sorted(path.name for path in Path("made").glob("*.executable")) == [
        f"bucket-{size}.tpu.executable" for size in (1, 16, 8)
    ]
    shown = cli(*arguments, "--no-save", "--jobs", 1)
    assert planted.read_text() == "xxx"  # all three were in the cache
    assert "(from the compile cache)" in shown.out and "each size" in shown.out
    told = cli("cache", "explain")
    assert "relu N=16 for v5e" in told.out


def test_an_error_names_the_size(
    cli: Cli, relu_model: Path, planted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED", "refuse")
    outcome = cli("compile", relu_model, "--target", "tpu:v5e", "--dim", "N=1,8", "--jobs", 1, "--no-save")
    assert outcome.code == 3
    assert outcome.err.startswith("GO206")
    assert "where:    v5e:2x2, N=1" in outcome.err


def test_a_dimension_that_stays_free_is_told(cli: Cli, tmp_path: Path, planted: Path) -> None:
    path = tmp_path / "two.onnx"
    text = """<ir_version: 8, opset_import: ["" : 18]> g (float[N, S] x) => (float[N, S] y) { y = Relu(x) }"""
    onnx.save(onnx.parser.parse_model(text), path)
    outcome = cli("compile", path, "--target", "tpu", "--dim", "N=1,8", "--no-save")
    assert outcome.code == 3
    assert outcome.err.startswith("GO204") and "S (x.1)" in outcome.err
    assert not planted.exists()
