"""Every command and the Python example of the README run as they stand there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from graphopt.lowering.tensorrt_rtx.build import installed as tensorrt_rtx_installed
from graphopt.lowering.xla.aot import gpu_compiler_installed, tpu_compiler_installed

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.partition("#")[0].strip()
    for block in re.findall(r"```\n(.*?)```", README, re.S)
    for line in block.splitlines()
    if line.startswith("graphopt ")
]
(PYTHON,) = re.findall(r"```python\n(.*?)```", README, re.S)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.tpu_compiler,
    pytest.mark.skipif(
        not tpu_compiler_installed(), reason="libtpu is not installed: pip install 'graphopt[tpu]'"
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("readme")
    shutil.copy(ROOT / "samples" / "generated" / "mnist-cnn.onnx", path / "model.onnx")
    np.savez(path / "feeds.npz", input=np.zeros((8, 1, 28, 28), np.float32))
    return path


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 6


GPU_TARGETS = {"tensorrt-rtx": tensorrt_rtx_installed, "xla-gpu": gpu_compiler_installed}


def needs_gpu_compiler(command: str) -> str | None:
    """The kind of target of a command whose compiler is a package of its own."""
    return next((kind for kind in GPU_TARGETS if f"--target {kind}" in command), None)


def test_commands(folder: Path) -> None:
    run_all([command for command in COMMANDS if needs_gpu_compiler(command) is None], folder)
    assert np.load(folder / "out.npz")["logits"].shape == (8, 10)


@pytest.mark.parametrize("kind", GPU_TARGETS)
def test_commands_for_gpus(kind: str, folder: Path) -> None:
    if not GPU_TARGETS[kind]():
        pytest.skip(f"NOT TESTED: the compiler for {kind} is not installed: make gpu-compilers")
    commands = [command for command in COMMANDS if needs_gpu_compiler(command) == kind]
    assert commands
    run_all(commands, folder)


def run_all(commands: list[str], folder: Path) -> None:
    for command in commands:
        words = shlex.split(command)[1:]
        done = subprocess.run(
            [sys.executable, "-m", "graphopt", *words],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (command, done.stderr)


def test_python_example(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, object] = {"array": np.zeros((8, 1, 28, 28), np.float32)}
    exec(compile(PYTHON, "README.md", "exec"), names)
    outputs = names["outputs"]
    assert isinstance(outputs, dict)
    assert outputs["logits"].shape == (8, 10)
    assert (folder / "before-after.svg").read_text().lstrip().startswith("<")
