"""Lists of what is expected to go wrong and why: TOML files of groups, each a reason and name patterns."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path


def reasons(path: Path) -> dict[str, str]:
    """The reason for each name pattern that the file lists."""
    groups = tomllib.loads(path.read_text(encoding="utf-8")).get("group", [])
    return {pattern: group["reason"] for group in groups for pattern in group["cases"]}


def reason_for(name: str, path: Path) -> str | None:
    """Why the file lists the case called `name`, or None."""
    return next((why for glob, why in reasons(path).items() if fnmatchcase(name, glob)), None)


def unmatched(path: Path, names: Iterable[str]) -> list[str]:
    """The patterns of the file that match none of `names`."""
    known = list(names)
    return [glob for glob in reasons(path) if not any(fnmatchcase(name, glob) for name in known)]
