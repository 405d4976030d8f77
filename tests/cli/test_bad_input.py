"""Whatever is wrong with the input: a code, an exit code, no traceback, nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from cli.conftest import MNIST, Cli, Outcome


def text_model(body: str, imports: str = '"" : 18') -> bytes:
    """A model of float[2] x to float[2] y, unchecked."""
    header = f"<ir_version: 8, opset_import: [{imports}]> g (float[2] x) => (float[2] y)"
    return onnx.parser.parse_model(f"{header} {{ {body} }}").SerializeToString()


def without_opset() -> bytes:
    model = onnx.load_from_string(text_model("y = Relu (x)"))
    del model.opset_import[:]
    return model.SerializeToString()


def truncated() -> bytes:
    return MNIST.read_bytes()[:-1000]


BAD_MODELS: dict[str, tuple[Callable[[], bytes], set[str]]] = {
    "not ONNX": (lambda: b"this is a text, not a model\n" * 50, {"GO102", "GO103"}),
    "empty": (lambda: b"", {"GO102", "GO103"}),
    "truncated": (truncated, {"GO102", "GO103"}),
    "random bytes": (lambda: np.random.default_rng(0).bytes(5000), {"GO102", "GO103"}),
    "unknown operator": (lambda: text_model("y = NoSuchOp (x)"), {"GO106"}),
    "unknown opset": (lambda: text_model("y = Relu (x)", '"" : 999'), {"GO106", "GO109"}),
    "undefined value": (lambda: text_model("y = Relu (nowhere)"), {"GO105"}),
    "no opset": (without_opset, {"GO105", "GO106"}),
}


def assert_refused(outcome: Outcome, code: int, expected: set[str]) -> None:
    """The error names one of the `expected` codes on stderr and nothing is on stdout."""
    assert outcome.code == code, outcome
    assert outcome.err.split()[0] in expected, outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.out == ""


@pytest.mark.parametrize("command", ["compile", "optimize", "inspect", "check"])
@pytest.mark.parametrize("case", BAD_MODELS)
def test_bad_models(cli: Cli, tmp_path: Path, command: str, case: str) -> None:
    make, expected = BAD_MODELS[case]
    path = tmp_path / "bad.onnx"
    path.write_bytes(make())
    assert_refused(cli(command, path), 3, expected)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.onnx"]


@pytest.mark.parametrize("command", ["compile", "optimize", "inspect", "check", "run", "verify", "bench"])
def test_missing_file(cli: Cli, tmp_path: Path, command: str) -> None:
    assert_refused(cli(command, "nowhere.onnx"), 3, {"GO101"})
    assert not list(tmp_path.iterdir())


def test_unknown_domain_is_listed_for_xla(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "custom.onnx"
    path.write_bytes(text_model("a = my.own.Thing (x)\n y = my.own.Other (a)", '"" : 18, "my.own" : 1'))
    outcome = cli("compile", path, "--target", "xla-cpu")
    assert_refused(outcome, 3, {"GO201"})
    assert "Thing" in outcome.err
    assert "Other" in outcome.err
    assert not list(tmp_path.glob("custom.*-*"))
    checked = cli("check", path, "--target", "xla-cpu")
    assert checked.code == 3
    assert "2 unsupported nodes" in checked.out
    assert "Traceback" not in checked.err


def test_not_an_artifact(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    assert_refused(cli("run", folder), 3, {"GO601"})
    assert_refused(cli("inspect", folder), 3, {"GO601"})


def test_changed_artifact(cli: Cli, relu_model: Path) -> None:
    assert cli("compile", relu_model, "--target", "cpu", "-o", "made").code == 0
    model = Path("made/model.onnx")
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(bytes(data))
    assert_refused(cli("run", "made", "--random"), 3, {"GO602"})


@pytest.mark.parametrize("target", ["tpu", "tpu:v5p"])
def test_free_dimension_for_tpu(cli: Cli, tmp_path: Path, target: str) -> None:
    outcome = cli("compile", MNIST, "--target", target)
    assert_refused(outcome, 3, {"GO204"})
    assert "--dim batch=8" in outcome.err
    assert not list(tmp_path.iterdir())


FEEDS = {
    "wrong name": {"z": np.zeros((2, 3), np.float32)},
    "wrong rank": {"x": np.zeros((2, 3, 1), np.float32)},
    "wrong size": {"x": np.zeros((2, 4), np.float32)},
    "wrong type": {"x": np.zeros((2, 3), np.float64)},
    "no feeds": {},
}


@pytest.mark.parametrize("target", ["cpu", "xla-cpu"])
@pytest.mark.parametrize("case", FEEDS)
def test_wrong_feeds(cli: Cli, tmp_path: Path, relu_model: Path, target: str, case: str) -> None:
    np.savez(tmp_path / "feeds.npz", **FEEDS[case])
    before = sorted(tmp_path.rglob("*"))
    outcome = cli("run", relu_model, "-t", target, "--input", "feeds.npz", "-o", "out.npz")
    assert_refused(outcome, 2, {"GO603"})
    assert sorted(tmp_path.rglob("*")) == before


def test_feed_files_that_are_none(cli: Cli, tmp_path: Path, relu_model: Path) -> None:
    assert_refused(cli("run", relu_model, "-t", "cpu", "-i", "nowhere.npz"), 2, {"GO603"})
    (tmp_path / "x.npy").write_bytes(b"nothing of the kind")
    assert_refused(cli("run", relu_model, "-t", "cpu", "-i", "x.npy"), 2, {"GO603"})
    np.save("pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert_refused(cli("run", relu_model, "-t", "cpu", "-i", "x=pickled.npy"), 2, {"GO603"})


@pytest.mark.parametrize(
    "arguments",
    [
        ("compile", MNIST, "-o", "file/inside"),
        ("compile", MNIST, "-o", "file"),
        ("compile", MNIST, "-o", "full"),
        ("optimize", MNIST, "-o", "file/inside.onnx"),
        ("optimize", MNIST, "-o", "nowhere/out.onnx"),
        ("optimize", MNIST, "-o", "full"),
        ("run", MNIST, "--random", "-o", "nowhere/out.npz"),
    ],
    ids=lambda a: " ".join(map(str, (a[0], a[-1]))),
)
def test_unwritable_output(cli: Cli, tmp_path: Path, arguments: tuple[object, ...]) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert_refused(cli(*arguments), 2, {"GO111"})
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_text() == "mine"


def test_the_output_is_never_the_input(cli: Cli, relu_model: Path) -> None:
    before = relu_model.read_bytes()
    assert_refused(cli("optimize", relu_model, "-o", relu_model), 2, {"GO111"})
    assert relu_model.read_bytes() == before


WRONG_USAGE = {
    "flag": (("compile", MNIST, "--targte", "cpu"), "GO701", "--target"),
    "command": (("complie", MNIST), "GO701", "compile"),
    "no model": (("compile",), "GO701", "MODEL"),
    "target": (("compile", MNIST, "--target", "tpuu"), "GO702", "tpu"),
    "device": (("compile", MNIST, "--target", "tpu:v9"), "GO702", "v5e"),
    "pass": (("optimize", MNIST, "--pipeline", "fuse-conv-bm"), "GO303", "fuse-conv-bn"),
    "pass shown": (("passes", "fuse-conv-bm"), "GO303", "fuse-conv-bn"),
    "option": (("optimize", MNIST, "--pipeline", "fuse-conv-bn{standalon=true}"), "GO303", "standalone"),
    "option value": (("optimize", MNIST, "--pipeline", "fuse-conv-bn{standalone=7}"), "GO303", "standalone"),
    "level": (("optimize", MNIST, "-O4"), "GO701", "0, 1, 2 or 3"),
    "level text": (("optimize", MNIST, "-Ofast"), "GO701", "integer"),
    "buckets": (("optimize", MNIST, "--dim", "batch=1,8,32"), "GO701", "buckets"),
    "range": (("compile", MNIST, "--dim", "batch=1:8:32"), "GO701", "TensorRT"),
    "dim": (("compile", MNIST, "--dim", "batch=-1"), "GO701", "--dim"),
    "dim twice": (("compile", MNIST, "--dim", "batch=1", "--dim", "batch=2"), "GO701", "twice"),
    "dim unknown": (("compile", MNIST, "--dim", "btach=1"), "GO701", "batch"),
    "shape": (("compile", MNIST, "--shape", "input:2xfooo-1"), "GO701", "--shape"),
    "shape rank": (("compile", MNIST, "--shape", "input:2x1x28"), "GO701", "rank"),
    "shape name": (("compile", MNIST, "--shape", "inptu:2x1x28x28"), "GO701", "input"),
    "shape fixed": (("compile", MNIST, "--shape", "input:2x3x28x28"), "GO701", "fixed"),
    "constant": (("compile", MNIST, "--constant", "input=ten"), "GO701", "--constant"),
    "constant name": (("compile", MNIST, "--constant", "inptu=1"), "GO701", "input"),
    "constant file": (("compile", MNIST, "--constant", "input=@nowhere.npy"), "GO701", "nowhere.npy"),
    "precision": (("compile", MNIST, "--precision", "fp12"), "GO701", "fp12"),
    "verify mode": (("optimize", MNIST, "--verify", "maybe"), "GO701", "each or end"),
}


@pytest.mark.parametrize("case", WRONG_USAGE)
def test_wrong_usage(cli: Cli, tmp_path: Path, case: str) -> None:
    arguments, code, hint = WRONG_USAGE[case]
    outcome = cli(*arguments)
    assert_refused(outcome, 2, {code})
    assert hint in outcome.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("case", WRONG_USAGE)
def test_wrong_usage_as_json(cli: Cli, case: str) -> None:
    arguments, code, _ = WRONG_USAGE[case]
    outcome = cli(*arguments, "--json")
    assert outcome.code == 2
    assert outcome.err == ""
    assert outcome.json["schema"] == "graphopt.error/1"
    assert outcome.json["code"] == code
    assert outcome.json["exit_code"] == 2


def test_model_errors_as_json(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("compile", "nowhere.onnx", "--json")
    assert (outcome.code, outcome.err) == (3, "")
    assert outcome.json["code"] == "GO101"
    free = cli("compile", MNIST, "--target", "tpu", "--json").json
    assert free["details"]["free_dims"] == {"batch": ["input.0"]}
