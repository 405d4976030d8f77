"""Reproducers: what a compiler that died was given, kept in a folder with the command that replays it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from graphopt import cache as caching
from graphopt.lowering.xla.child import Ending

_LOG_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Saved:
    """A reproducer's folder and the one command that replays it."""

    folder: Path
    command: str


def keep(scratch: Path, ending: Ending, reason: str, worker: str) -> Saved | None:
    """Copy the worker's program and request out of `scratch`; None if no place can be written.

    The folder holds the portable program (no weights: those are its arguments), the request with the
    environment that the compiler needs, the end of what it printed, and a README.
    """
    program = (scratch / "program.bin").read_bytes()
    request = (scratch / "request.json").read_bytes()
    name = f"tpu-{hashlib.sha256(program + request).hexdigest()[:12]}"
    for parent in places():
        folder = parent / name
        try:
            _write(folder, program, request, ending, reason, worker)
        except OSError:
            continue
        return Saved(folder, replay(folder, worker))
    return None


def places() -> list[Path]:
    """Where reproducers may be kept, the first that can be written."""
    return [
        caching.default_folder() / "reproducers",
        Path(tempfile.gettempdir()) / "graphopt-reproducers",
    ]


def replay(folder: Path, worker: str) -> str:
    """The command that compiles the program in `folder` again."""
    return f"{shlex.quote(sys.executable)} -m {worker} {shlex.quote(str(folder))}"


def _write(folder: Path, program: bytes, request: bytes, ending: Ending, reason: str, worker: str) -> None:
    """Write all of it to a folder beside and rename it: a reader never sees half of it."""
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    half = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        (half / "program.bin").write_bytes(program)
        (half / "request.json").write_bytes(request)
        (half / "log.txt").write_text(ending.log[-_LOG_BYTES:], encoding="utf-8")
        (half / "README.txt").write_text(
            f"{reason}\n\nafter {ending.seconds:.1f} s, at most {ending.peak_bytes >> 20} MiB resident.\n"
            f"Replay it with\n\n  {replay(folder, worker)}\n\n"
            "program.bin is a portable StableHLO program (jax.export), request.json says for what.\n",
            encoding="utf-8",
        )
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
        os.replace(half, folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)
