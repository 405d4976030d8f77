"""The command line, called in this process, with what it printed."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphopt.cli import main

ROOT = Path(__file__).resolve().parents[2]
MNIST = ROOT / "samples/generated/mnist-cnn.onnx"
RECOMMENDER = ROOT / "samples/generated/recommender.onnx"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one run of the command line left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON document on stdout, strictly read."""

        def refuse(text: str) -> None:
            raise ValueError(f"{text} is not JSON")

        document: dict[str, Any] = json.loads(self.out, parse_constant=refuse)
        return document


Cli = Callable[..., Outcome]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """Run ``graphopt ARGUMENTS`` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GRAPHOPT_DEBUG", raising=False)

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def relu_model(tmp_path: Path) -> Path:
    """y = Relu(x) + 1 on float[N, 3], with an Identity to remove, outside the current folder's way."""
    import onnx.parser

    folder = tmp_path / "models"
    folder.mkdir()
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18]>
        relu (float[N, 3] x) => (float[N, 3] y) <float[1] one = {1.0}>
        { r = Relu (x)  i = Identity (r)  y = Add (i, one) }"""
    )
    path = folder / "relu.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Compiles go to real child processes of a planted compiler; the file counts them."""
    from graphopt.lowering.xla import aot

    path = os.pathsep.join(filter(None, (str(ROOT / "tests/lowering"), os.environ.get("PYTHONPATH"))))
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("GRAPHOPT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PLANTED", "count")
    monkeypatch.setenv("PLANTED_COUNT", str(tmp_path / "count"))
    monkeypatch.setattr(aot, "tpu_compiler_installed", lambda: True)
    monkeypatch.setattr(
        aot, "compile_for_tpu", functools.partial(aot.compile_for_tpu, worker="planted_worker")
    )
    return tmp_path / "count"
