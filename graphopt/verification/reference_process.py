"""A child process that runs one model after the other: for callers that compare hundreds of small ones.

It does what :func:`graphopt.verification.run_reference_on_all` does, without the start of a process for
each model. A model that ends the process is reported, and the next one gets a new process.
"""

from __future__ import annotations

import contextlib
import queue
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphopt.verification.reference import (
    TIMEOUT_S,
    ReferenceRun,
    Source,
    failure,
    how_it_died,
    read_answer,
    start_worker,
    write_request,
)


class ReferenceProcess:
    """Runs models as they are written. Use as a context manager: the process ends with it.

    Args:
        timeout_s: for one model, its feeds all together.
        optimized: let ONNX Runtime optimise what it runs, as it does for its users.
    """

    def __init__(self, *, timeout_s: float = TIMEOUT_S, optimized: bool = False) -> None:
        self.timeout_s = timeout_s
        self.optimized = optimized
        self._child: subprocess.Popen[bytes] | None = None
        self._answers: queue.Queue[bytes] = queue.Queue()
        # A file: nobody reads while the process serves, and a full pipe would stop it.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)

    def __enter__(self) -> ReferenceProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._stderr.close()

    def close(self) -> None:
        """End the process; the next run starts another."""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def run(self, model: Source, feeds_list: Sequence[Mapping[str, Any]]) -> list[ReferenceRun]:
        """The outputs of `model` on each of `feeds_list`.

        Raises:
            ModelError: GO604, it fails, runs too long, or kills the process.
        """
        with tempfile.TemporaryDirectory(prefix="graphopt-reference-") as name:
            folder = Path(name)
            write_request(folder, model, feeds_list, None, optimized=self.optimized)
            if self._child is None or self._child.poll() is not None:
                self.close()
                self._start()
            self._serve(folder)
            return read_answer(folder, len(feeds_list))

    def _start(self) -> None:
        self._answers = queue.Queue()
        self._child = start_worker(
            "--serve", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr
        )
        # Reading in a thread is what bounds the wait on every platform.
        threading.Thread(target=_read_lines, args=(self._child, self._answers), daemon=True).start()

    def _serve(self, folder: Path) -> None:
        child = self._child
        assert child is not None
        assert child.stdin is not None
        try:
            child.stdin.write(f"{folder}\n".encode())
            child.stdin.flush()
            answer = self._answers.get(timeout=self.timeout_s)
        except OSError:
            answer = b""
        except queue.Empty as error:
            self.close()
            raise failure(f"it was stopped after {self.timeout_s:g} s") from error
        if not answer:
            try:
                code = child.wait(timeout=10)
            except subprocess.TimeoutExpired:  # it closed its output and lives on
                code = -9
            self.close()
            self._stderr.seek(0)
            said = self._stderr.read()
            self._stderr.truncate(0)
            raise failure(how_it_died(code, said))


def _read_lines(child: subprocess.Popen[bytes], answers: queue.Queue[bytes]) -> None:
    """Hand on each line that the process writes, and an empty one when it ends."""
    assert child.stdout is not None
    try:
        for line in child.stdout:
            answers.put(line)
    except (OSError, ValueError):  # closed from the other side
        pass
    answers.put(b"")
