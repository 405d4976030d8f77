"""Peak memory of a piece of work, by the kernel's own account of this process."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def peak_growth_bytes(work: Callable[[], object]) -> int | None:
    """How far the resident memory of this process rose above where it stood while `work` ran.

    Libraries that `work` is the first to load count, too. None where the kernel keeps no such
    account (it is Linux's ``VmHWM``), or does not let this process start it anew.
    """
    try:
        _CLEAR.write_text("5")
        before = _field("VmRSS")
    except OSError:
        work()
        return None
    work()
    peak = _field("VmHWM")
    return None if peak is None or before is None else max(peak - before, 0)


def _field(name: str) -> int | None:
    match = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    return int(match.group(1)) * 1024 if match else None
