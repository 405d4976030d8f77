"""Run a model as it is written, to compare others with: the reference.

By default in a child process with limits on time and memory, because a model can end the process that
runs it: INT_MIN divided by -1, for one, kills ONNX Runtime by SIGFPE.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import onnx

from graphopt.errors import ModelError
from graphopt.ir import Model
from graphopt.verification.array_files import read_arrays, write_arrays
from graphopt.verification.evaluators import EvaluationFailed, evaluate_all

TIMEOUT_S = 600.0
Source = str | os.PathLike[str] | bytes | onnx.ModelProto | Model


class ReferenceRun(dict[str, Any]):
    """Outputs by name, with what computed them.

    Attributes:
        engine: ``ONNX Runtime 1.x`` or ``onnx.reference 1.x``.
        note: why it was not ONNX Runtime, else None.
    """

    def __init__(self, outputs: Mapping[str, Any], engine: str, note: str | None) -> None:
        super().__init__(outputs)
        self.engine = engine
        self.note = note


def run_reference(
    model: Source,
    feeds: Mapping[str, Any],
    *,
    isolate: bool = True,
    timeout_s: float = TIMEOUT_S,
    memory_bytes: int | None = None,
) -> ReferenceRun:
    """The outputs of `model` on `feeds`; see :func:`run_reference_on_all`."""
    return run_reference_on_all(
        model, [feeds], isolate=isolate, timeout_s=timeout_s, memory_bytes=memory_bytes
    )[0]


def run_reference_on_all(
    model: Source,
    feeds_list: Sequence[Mapping[str, Any]],
    *,
    isolate: bool = True,
    timeout_s: float = TIMEOUT_S,
    memory_bytes: int | None = None,
) -> list[ReferenceRun]:
    """The outputs of `model` on each of `feeds_list`, by ONNX Runtime without optimisations.

    A model that ONNX Runtime does not offer (a newer opset, an operator without a kernel) is run by
    onnx.reference instead, and the result says so.

    Args:
        model: a path is handed on as it is; anything else is written to a temporary file first.
        isolate: run in a child process. False is faster, for models that are trusted.
        timeout_s: time for the child, model loading included.
        memory_bytes: address space of the child; None: the machine's memory.

    Raises:
        ModelError: GO604, it fails, runs too long, or kills the process that runs it.
    """
    with tempfile.TemporaryDirectory(prefix="graphopt-reference-") as name:
        folder = Path(name)
        path = _as_file(model, folder)
        if isolate:
            return _run_in_child(path, feeds_list, folder, timeout_s, memory_bytes)
        try:
            results, engine, note = evaluate_all(path, feeds_list)
        except EvaluationFailed as error:
            raise failure(str(error)) from error
        return [ReferenceRun(outputs, engine, note) for outputs in results]


def _as_file(model: Source, folder: Path) -> str:
    """An absolute path of a file that holds `model`."""
    if isinstance(model, bytes):
        target = folder / "model.onnx"
        target.write_bytes(model)
        return str(target)
    if isinstance(model, onnx.ModelProto):
        target = folder / "model.onnx"
        onnx.save(model, target)
        return str(target)
    if isinstance(model, Model):
        target = folder / "model.onnx"
        import onnx_ir

        # Weights beside the model: a file of protocol buffers cannot exceed 2 GiB.
        onnx_ir.save(model, target, external_data="model.weights")
        return str(target)
    return str(Path(model).resolve())


def physical_memory() -> int:
    """The bytes of memory of this machine."""
    if not hasattr(os, "sysconf"):
        return 1 << 62
    return int(os.sysconf("SC_PAGE_SIZE")) * int(os.sysconf("SC_PHYS_PAGES"))


def _run_in_child(
    path: str,
    feeds_list: Sequence[Mapping[str, Any]],
    folder: Path,
    timeout_s: float,
    memory_bytes: int | None,
) -> list[ReferenceRun]:
    write_request(folder, path, feeds_list, memory_bytes)
    run_worker("graphopt.verification.reference_worker", folder, timeout_s)
    return read_answer(folder, len(feeds_list))


def write_request(
    folder: Path,
    model: Source,
    feeds_list: Sequence[Mapping[str, Any]],
    memory_bytes: int | None,
    *,
    optimized: bool = False,
) -> None:
    """Write into `folder` what :mod:`graphopt.verification.reference_worker` reads there."""
    for index, feeds in enumerate(feeds_list):
        write_arrays(folder / f"feeds_{index}.npz", feeds)
    request = {
        "model": _as_file(model, folder),
        "runs": len(feeds_list),
        "memory_bytes": memory_bytes or physical_memory(),
        "optimized": optimized,
    }
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")


def start_worker(
    argument: str,
    module: str = "graphopt.verification.reference_worker",
    **streams: int | IO[bytes],
) -> subprocess.Popen[bytes]:
    """Start the process that serves requests; what it dies of goes to stderr, a pipe by default."""
    root = str(Path(__file__).resolve().parents[2])
    search = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH")) if part)
    child: subprocess.Popen[bytes] = subprocess.Popen(
        [sys.executable, "-P", "-m", module, argument],
        env={**os.environ, "PYTHONPATH": search},
        cwd=tempfile.gettempdir(),
        **{"stderr": subprocess.PIPE, **streams},  # type: ignore[call-overload]
    )
    return child


def run_worker(module: str, folder: Path, timeout_s: float) -> dict[str, Any]:
    """Run ``python -m module FOLDER``, which answers in ``answer.json`` there.

    Raises:
        ModelError: GO604, the child answers with an error, runs too long or dies.
    """
    child = start_worker(str(folder), module, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        _, stderr = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise failure(f"it was stopped after {timeout_s:g} s") from error
    finally:
        child.kill()
        child.wait()
        if child.stderr is not None:
            child.stderr.close()
    if child.returncode != 0 or not (folder / "answer.json").is_file():
        raise failure(how_it_died(child.returncode, stderr))
    return read_reply(folder)


def read_reply(folder: Path) -> dict[str, Any]:
    """What a worker wrote into ``answer.json``. Raises ModelError (GO604) if it is an error."""
    answer: dict[str, Any] = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
    if "error" in answer:
        raise failure(answer["error"])
    return answer


def read_answer(folder: Path, runs: int) -> list[ReferenceRun]:
    """The results that the worker left in `folder`. Raises ModelError (GO604) if the model failed."""
    answer = read_reply(folder)
    return [
        ReferenceRun(read_arrays(folder / f"outputs_{index}.npz"), answer["engine"], answer["note"])
        for index in range(runs)
    ]


def how_it_died(code: int, stderr: bytes) -> str:
    """How a process ended that left no answer, in words."""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"the process that ran it was killed by {name}"
    lines = [line for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    return f"the process that ran it ended with code {code}" + (f": {lines[-1].strip()}" if lines else "")


def failure(found: str) -> ModelError:
    """The error for a model that cannot be run."""
    return ModelError("GO604", "the reference run failed", found=found)
