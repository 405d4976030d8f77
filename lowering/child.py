"""One child process under guard: its output kept off the terminal, its time and memory limited."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

POLL_S = 0.05
LEAST_MEMORY_BYTES = 2 << 30
MEMORY_SHARE = 0.8

Tick = Callable[[float], None]


@dataclasses.dataclass(frozen=True)
class Ending:
    """How a child ended.

    Attributes:
        kind: ``ok``, ``failed`` (an exit code), ``killed`` (a signal), ``timeout`` or ``memory``.
        number: the exit code or the signal.
        log: what it printed.
    """

    kind: str
    number: int
    log: str
    seconds: float
    peak_bytes: int


def memory_limit() -> int:
    """What a compiler may use by default: four fifths of the memory that is free now, 2 GiB at least."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return 64 << 30
    match = re.search(r"MemAvailable:\s+(\d+) kB", text)
    free = int(match.group(1)) * 1024 if match else 64 << 30
    return max(int(free * MEMORY_SHARE), LEAST_MEMORY_BYTES)


def run_guarded(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    *,
    timeout_s: float,
    memory_bytes: int,
    tick: Tick | None = None,
) -> Ending:
    """Run `command` to its end, or to its limit, whichever comes first.

    Resident memory is what is limited: a compiler may reserve far more address space than it uses.

    Args:
        log: gets standard output and standard error.
        tick: called some twenty times a second with the seconds since the start; may raise to stop.
    """
    started = time.monotonic()
    peak, kind = 0, ""
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
        )
        _first_to_go(process.pid)
        try:
            while process.poll() is None:
                elapsed = time.monotonic() - started
                peak = max(peak, resident_bytes(process.pid))
                kind = "timeout" if elapsed > timeout_s else "memory" if peak > memory_bytes else ""
                if kind:
                    break
                if tick is not None:
                    tick(elapsed)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_S)
        finally:
            if process.poll() is None:
                _kill(process)
    code = process.returncode
    kind = kind or ("ok" if code == 0 else "killed" if code < 0 else "failed")
    text = log.read_text(encoding="utf-8", errors="replace")
    return Ending(kind, abs(code), text, time.monotonic() - started, peak)


def resident_bytes(pid: int) -> int:
    """Memory in use by a process; 0 where nobody says."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    match = re.search(r"VmRSS:\s+(\d+) kB", text)
    return int(match.group(1)) * 1024 if match else 0


def _first_to_go(pid: int) -> None:
    """Where the machine runs out of memory between two looks, the system should end the child, not us."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("500")


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the child and what it started: it leads a process group of its own."""
    with contextlib.suppress(OSError):
        os.killpg(process.pid, 9)
    process.kill()
    process.wait()
