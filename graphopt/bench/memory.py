"""Peak memory of a process, by the kernel's own account."""

from __future__ import annotations

import re
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_bytes() -> int | None:
    """The most resident memory that this process ever had since it started its program.

    None where the kernel keeps no such account (it is Linux's ``VmHWM``). ``ru_maxrss`` will not do: it
    counts what the process that started this one had.
    """
    try:
        match = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(match.group(1)) * 1024 if match else None
