"""A vendor's compiler as a guarded child process: a crash, a hang or a full memory becomes an error.

The child is ``python -m WORKER FOLDER``; it reads what it is given in the folder and writes its results
there. What it prints never reaches the user. If it dies or runs over a limit, what it was given is kept
in a folder that replays it.
"""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from graphopt.errors import LoweringError
from graphopt.lowering import reproducer
from graphopt.lowering.child import Ending, Tick, memory_limit, run_guarded

TIMEOUT_S = 3600.0


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a compiler may use: an hour and four fifths of the free memory if nothing else is said."""

    timeout_s: float = TIMEOUT_S
    memory_bytes: int = 0

    @classmethod
    def of(cls, timeout_s: float | None, memory_bytes: int | None) -> Limits:
        """The limits asked for, with defaults for None."""
        return cls(timeout_s or TIMEOUT_S, memory_bytes or memory_limit())


@dataclasses.dataclass(frozen=True)
class Job:
    """What is run and how it is spoken of.

    Attributes:
        compiler: in words, ``the TPU compiler``.
        where: the target, as errors name it.
        worker: the module that the child runs.
        kind: the first word of a reproducer's folder.
        given: the files that the child reads.
        makes: the files that it must leave.
        about: what `given` is, for a reproducer's README.
    """

    compiler: str
    where: str
    worker: str
    kind: str
    given: tuple[str, ...]
    makes: tuple[str, ...]
    about: str


def run_job(
    job: Job,
    folder: Path,
    *,
    environment: Mapping[str, str],
    left_out: tuple[str, ...] = (),
    limits: Limits,
    tick: Tick | None = None,
    refusal: Callable[[Ending], LoweringError | None] | None = None,
) -> None:
    """Run the child to its end in `folder`.

    Args:
        environment: variables that it gets besides the user's.
        left_out: variables of the user's that it does not get.
        tick: called some twenty times a second with the seconds since the start.
        refusal: reads the compiler's own refusal out of what it printed, if there is one.

    Raises:
        LoweringError: what `refusal` made; GO208, it crashed; GO209, it went over a limit. The last two
            name a folder that replays it.
    """
    kept = {k: v for k, v in os.environ.items() if k not in left_out}
    ending = run_guarded(
        [sys.executable, "-m", job.worker, str(folder)],
        {**kept, **environment, "TMPDIR": str(folder)},
        folder / "log.txt",
        timeout_s=limits.timeout_s,
        memory_bytes=limits.memory_bytes,
        tick=tick,
    )
    if ending.kind == "ok" and all((folder / each).exists() for each in job.makes):
        return
    if ending.kind in ("failed", "ok") and refusal is not None:
        refused = refusal(ending)
        if refused is not None:
            raise refused
    raise _death(job, folder, ending, limits)


def _death(job: Job, folder: Path, ending: Ending, limits: Limits) -> LoweringError:
    """What became of the compiler, as an error."""
    gib = limits.memory_bytes / 2**30
    code, message = {
        "timeout": ("GO209", f"{job.compiler} took over {limits.timeout_s:g} s and was stopped"),
        "memory": ("GO209", f"{job.compiler} used over {gib:.1f} GiB and was stopped"),
        "killed": ("GO208", f"{job.compiler} was killed by {_signal(ending.number)}"),
    }.get(ending.kind, ("GO208", f"{job.compiler} ended with exit code {ending.number} and no result"))
    saved = reproducer.keep(
        folder, ending, f"{code} {message}", job.worker, kind=job.kind, given=job.given, about=job.about
    )
    longer = {"timeout": "Allow more with --timeout. ", "memory": "Free some memory. "}.get(ending.kind, "")
    step = f"{longer}`{saved.command}` replays it." if saved else longer.strip() or None
    details = {"reproducer": str(saved.folder), "replay": saved.command} if saved else None
    found = _fatal(ending.log)
    return LoweringError(code, message, where=job.where, found=found, next_step=step, details=details)


def _fatal(log: str) -> str | None:
    """The line in which a compiler says why it aborts; the rest of what it prints is in the reproducer."""
    lines = [x.strip() for x in log.splitlines() if re.match(r"\s*F\d{4} |.*Check failed", x)]
    return lines[-1][:300] if lines else None


def _signal(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"
