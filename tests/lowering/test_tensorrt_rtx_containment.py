"""What a TensorRT-RTX builder that dies, hangs, eats memory or finds a bad cache comes to; needs no package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import graphopt
from graphopt import cache as caching
from graphopt.errors import GraphoptError, UnsupportedError, UsageError
from graphopt.ir import Model
from graphopt.ir.io import load
from graphopt.lowering.tensorrt_rtx import build, refusals
from graphopt.lowering.tensorrt_rtx.layers import node_names, read_layers, without_layer
from graphopt.target import Target

WORKER = "planted_worker"
SM89 = Target.parse("tensorrt-rtx:sm89")
TEXT = (
    '<ir_version: 8, opset_import: ["": 18]> g (float[2, 3] x) => (float[2, 3] y) { a = Relu(x) y = Exp(a) }'
)


@pytest.fixture
def model() -> Model:
    return load(TEXT)


@pytest.fixture
def build_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: Model) -> Any:
    """Build with a real child process whose worker does as planted."""
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH")))))
    monkeypatch.setenv("GRAPHOPT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "installed", lambda: True)

    def run(plan: str = "", **options: Any) -> build.Engine:
        monkeypatch.setenv("PLANTED", plan)
        return build.build_engine(model, SM89, worker=WORKER, ranges={}, **{"cache": False, **options})

    return run


def caught(run: Any, *arguments: Any, **options: Any) -> GraphoptError:
    with pytest.raises(GraphoptError) as error:
        run(*arguments, **options)
    return error.value


@pytest.mark.parametrize(
    ("plan", "options", "code", "words"),
    [
        ("crash", {}, "GO208", "signal 11 (SIGSEGV)"),
        ("abort", {}, "GO208", "SIGABRT"),
        ("exit", {}, "GO208", "exit code 3"),
        ("hang", {"timeout_s": 1.0}, "GO209", "over 1 s"),
        ("eat", {"memory_bytes": 300 << 20}, "GO209", "0.3 GiB"),
    ],
)
def test_a_death_is_an_error_that_replays(
    build_with: Any,
    tmp_path: Path,
    monkeypatch: Any,
    plan: str,
    options: dict[str, Any],
    code: str,
    words: str,
) -> None:
    monkeypatch.setenv("PLANTED_PID", str(tmp_path / "pid"))
    error = caught(build_with, plan, **options)
    assert error.code == code
    assert words in error.message and "TensorRT-RTX builder" in error.message
    folder = Path(error.details["reproducer"])
    assert folder.name.startswith("tensorrt-rtx-")
    assert [n.op_type for n in load(folder / "model.onnx").graph] == ["Relu", "Exp"]
    assert json.loads((folder / "request.json").read_text())["capabilities"] == ["sm89"]
    assert error.details["replay"] in (folder / "README.txt").read_text()
    assert error.details["replay"] in (error.next_step or "")


def test_what_was_refused_before_it_died_is_the_error(build_with: Any, model: Model) -> None:
    assert next(iter(model.graph)).name == "Relu_0"
    error = caught(build_with, "refuse-and-crash")
    assert error.code == "GO201"
    assert error.details["unsupported"] == [
        {"node": "Relu_0", "op_type": "Relu", "domain": "", "reason": "TensorRT-RTX does not support Relu"}
    ]


def test_chatter_is_not_heard(build_with: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert build_with().data == b"engine"
    assert capfd.readouterr() == ("", "")


def test_a_library_that_does_not_load_is_no_crash(
    build_with: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "broken" / "tensorrt_rtx"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "raise OSError('libtensorrt_rtx.so.1: cannot open shared object file')"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(package.parent), os.environ["PYTHONPATH"])))
    monkeypatch.setattr(sys.modules[__name__], "WORKER", build.WORKER)
    error = caught(build_with)
    assert error.code == "GO207"
    assert "libtensorrt_rtx.so.1" in str(error.found)


def test_a_corrupt_entry_is_built_anew(build_with: Any, tmp_path: Path) -> None:
    assert [build_with(cache=True).cached for _ in range(2)] == [False, True]
    (entry,) = (tmp_path / "cache" / "entries").iterdir()
    data = bytearray(entry.read_bytes())
    data[-1] ^= 1
    entry.write_bytes(data)
    again = build_with(cache=True)
    assert not again.cached and again.data == b"engine"
    assert "corrupt" in str(again.remark)
    assert build_with(cache=True).cached


def test_an_entry_of_another_version_is_not_taken(build_with: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    build_with(cache=True)
    monkeypatch.setattr(build, "version", lambda: "99")
    assert not build_with(cache=True).cached
    (_, missed) = caching.Cache.default().explain()
    assert missed is not None
    assert missed["nearest"]["differs"]["compiler"]["asked"] == "tensorrt_rtx 99"


def test_progress_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[str, int, int]] = []
    listener = build._Listener(Path("progress.json"), lambda *said: heard.append(said))
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: '{"phase": "Timing", "step": 3, "steps": 9}')
    for seconds in (0.0, 0.1, 5.0):
        listener.look(seconds)
    assert heard == [("TensorRT-RTX: timing", 2, 9)]


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "installed", lambda: False)
    with pytest.raises(UnsupportedError, match="GO207") as error:
        graphopt.compile(TEXT, "tensorrt-rtx:sm89")
    assert "pip install 'graphopt[tensorrt-rtx]'" in (error.value.next_step or "")


@pytest.mark.parametrize("text", ["tensorrt-rtx:sm90", "tensorrt-rtx:89", "tensorrt-rtx:sm89,sm1"])
def test_unknown_capabilities_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="sm86, sm89, sm120") as error:
        Target.parse(text)
    assert error.value.code == "GO702"


def test_layers_are_read_from_what_the_builder_tells(model: Model) -> None:
    relu, exp = (node.name for node in model.graph)
    text = (
        "Name: a, b, LayerType: kgen, Inputs: [ { Name: x, Datatype: Float }], Constants: [], Outputs: "
        f"[ {{ Name: y, Datatype: Half }}], TacticName: t_0x1, StreamId: 0, Metadata: [ONNX Layer: {relu}]"
        f"\x1f[ONNX Layer: {exp}]__gemm_from_conv1x1\n"
        "Name: c, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, "
        "Metadata: \n\nI/O Tensors:\n Name: x, IOMode: Input"
    )
    first, second = read_layers(text, model)
    assert first == {
        "name": "a, b",
        "kind": "kgen",
        "tactic": "t_0x1",
        "types": ["Float", "Half"],
        "nodes": [relu, exp],
        "origins": [relu, exp],
    }
    assert (second["kind"], second["nodes"]) == ("shape_call", [])
    assert without_layer([first], model) == [] and without_layer([second], model) == [relu, exp]
    assert node_names("[ONNX Layer: a[0]]\x1f[ONNX Layer: b\nc]") == ["a[0]", "b\nc"]
    assert read_layers("nothing of the kind", model) == []


def test_refusals_are_collected_until_none_is_left(tmp_path: Path, model: Model) -> None:
    """Each node that is refused becomes an input, and the parser goes on behind it."""
    build.write_request(tmp_path, model, SM89, profile={}, tf32=False)
    relu, exp = (node.name for node in model.graph)
    seen: list[list[str]] = []

    def parse(path: Path) -> list[dict[str, Any]]:
        seen.append([n.op_type for n in load(path).graph])
        return [{"node": exp}]

    found = refusals.every_refusal(tmp_path, [{"node": relu}], parse)
    assert [error["node"] for error in found] == [relu, exp]
    assert seen == [["Exp"]], "the last node makes the only output: there is nothing behind it"


def test_the_real_worker_is_a_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", build.WORKER, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "request.json" in done.stderr
