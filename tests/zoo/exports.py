"""Exports of the zoo: made in a child process when a test first asks for them, kept under ``models/zoo``.

Nothing here imports torch. The models themselves are built by ``benchmarks/zoo``, from configurations and
random weights: nothing is fetched, and nothing that is made is committed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "benchmarks" / "zoo"
FOLDER = ROOT / "models" / "zoo"
PACKAGES = ("torch", "transformers", "onnxscript")

MODELS = (
    "resnet", "mobilenetv3", "efficientnet", "convnext", "vit", "swin", "segformer", "detr", "bert",
    "bert-sdpa", "deberta", "gpt2-past", "llama", "llama-past", "gemma", "t5", "whisper-encoder",
    "whisper-decoder", "clip", "wav2vec2", "diffusion-unet", "lstm", "gru",
)  # fmt: skip
VARIANTS = ("script17-dynamic", "dynamo18-dynamic", "script13-static", "dynamo20-static")
"""Each by torch's TorchScript exporter and by its newer one, with the opset."""

NAMES = [f"{model}-{variant}" for model in MODELS for variant in VARIANTS]

EXPORT_TIMEOUT_S = 400.0
"""For all variants of one model. On an idle core the slowest model takes a quarter of it."""


_failed: dict[str, Exception] = {}


class ExportFailed(Exception):
    """The exporter refused the model; the message is the exporter's own."""


@dataclasses.dataclass(frozen=True)
class Export:
    """An exported model and what it is run on.

    Attributes:
        path: The model's file.
        feeds: Inputs by name: one set for static shapes; for dynamic ones a second, of other sizes, and
            for models that mean something at a very small size a third.
    """

    path: Path
    feeds: list[dict[str, np.ndarray]]


def missing() -> list[str]:
    """The packages of the extra ``zoo`` that are not installed."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def exported(name: str) -> Export:
    """The export `name`, one of `NAMES`; made now, with all others of its model, unless it is there.

    Raises:
        ExportFailed: the exporter cannot do it.
        TimeoutError: it was not done within `EXPORT_TIMEOUT_S`.
    """
    model = next(each for each in MODELS if name in {f"{each}-{variant}" for variant in VARIANTS})
    if model in _failed:  # as it did for the test before: once is long enough
        raise _failed[model]
    try:
        folder = _folder_of(model)
    except Exception as error:
        _failed[model] = error
        raise
    path = folder / f"{name}.onnx"
    if not path.is_file():
        problems = (folder / "FAILURES.txt").read_text(encoding="utf-8").splitlines()
        raise ExportFailed("\n".join(line for line in problems if line.startswith(f"{name}: ")))
    feeds = []
    for file in (path.with_suffix(suffix) for suffix in (".npz", ".2.npz", ".3.npz")):
        if file.is_file():
            with np.load(file) as arrays:
                feeds.append(dict(arrays))
    return Export(path, feeds)


def _folder_of(model: str) -> Path:
    """The folder that holds all variants of the model; they are exported now unless they are there."""
    version = FOLDER / _version()
    folder = version / model
    if folder.is_dir():
        return folder
    version.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.iterdir():  # what other packages or sources made is of no use any more
        if old.name != version.name:
            shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=version, prefix=".") as scratch:
        draft = Path(scratch) / model
        _run_exporter(model, draft)
        try:
            os.rename(draft, folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise
    return folder


def _run_exporter(model: str, folder: Path) -> None:
    """Export all variants of the model into `folder`. Raises RuntimeError unless each was tried."""
    script = [sys.executable, str(SOURCES / "export.py"), str(folder), "--only", model]
    script += ["--variants", ",".join(VARIANTS), "--timeout", str(EXPORT_TIMEOUT_S)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            script,
            capture_output=True,
            text=True,
            timeout=EXPORT_TIMEOUT_S + 60,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"exporting {model} was not done in {error.timeout:g} s") from error
    if done.returncode:
        raise RuntimeError(f"exporting {model} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    for problem in (folder / "FAILURES.txt").read_text(encoding="utf-8").splitlines():
        if problem.startswith(f"{model}: "):  # of the whole child, a crash or the time limit
            raise TimeoutError(problem)


def _version() -> str:
    """What exports depend on, as a file name."""
    digest = hashlib.sha256()
    for package in (*PACKAGES, "onnx"):
        digest.update(f"{package}=={importlib.metadata.version(package)}\n".encode())
    for source in sorted(SOURCES.glob("*.py")):
        digest.update(source.read_bytes())
    digest.update(repr(VARIANTS).encode())
    return digest.hexdigest()[:16]
