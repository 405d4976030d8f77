"""Reproducers: what a compiler that died was given, kept in a folder with the command that replays it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from graphopt import cache as caching
from graphopt.artifact import file_digest
from graphopt.lowering.child import Ending

MOST_BYTES = 2 << 30
"""A larger file that the compiler was given is not copied."""

_LOG_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Saved:
    """A reproducer's folder and the one command that replays it."""

    folder: Path
    command: str


def keep(
    scratch: Path,
    ending: Ending,
    reason: str,
    worker: str,
    *,
    kind: str,
    given: Sequence[str],
    about: str,
) -> Saved | None:
    """Copy what the worker was given out of `scratch`; None if no place can be written.

    Args:
        kind: the first word of the folder's name.
        given: the files that the worker reads.
        about: what they are, for the README, which also has the end of what the compiler printed.
    """
    digests = "".join(file_digest(scratch / name) for name in given)
    name = f"{kind}-{hashlib.sha256(digests.encode()).hexdigest()[:12]}"
    for parent in places():
        folder = parent / name
        try:
            _write(scratch, folder, ending, reason, worker, given=given, about=about)
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
    """The command that compiles what is in `folder` again."""
    return f"{shlex.quote(sys.executable)} -m {worker} {shlex.quote(str(folder))}"


def _write(
    scratch: Path, folder: Path, ending: Ending, reason: str, worker: str, *, given: Sequence[str], about: str
) -> None:
    """Write all of it to a folder beside and rename it: a reader never sees half of it."""
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    half = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        missing = [name for name in given if (scratch / name).stat().st_size > MOST_BYTES]
        for name in given:
            if name not in missing:
                shutil.copyfile(scratch / name, half / name)
        (half / "log.txt").write_text(ending.log[-_LOG_BYTES:], encoding="utf-8")
        lines = [
            reason,
            "",
            f"after {ending.seconds:.1f} s, at most {ending.peak_bytes >> 20} MiB resident.",
            "Replay it with",
            "",
            f"  {replay(folder, worker)}",
            "",
            about,
            *(f"{name} was too large to keep: put it here before the replay." for name in missing),
        ]
        (half / "README.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
        os.replace(half, folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)
