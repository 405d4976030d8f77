"""The compile cache: what a compiler made, on disk, by the content of what it was given.

An entry is one file whose name is the sha256 of its key: the program's own sha256, the target, the
compiler's version and the options, part by part. It is written beside and renamed, so that processes
may use one folder at once; its contents carry a checksum, and an entry that fails it is dropped. The
folder is ``GRAPHOPT_CACHE_DIR``, or ``graphopt`` in ``XDG_CACHE_HOME`` (``~/.cache``); the entries
used longest ago go when it grows beyond ``GRAPHOPT_CACHE_LIMIT`` (bytes, or with K, M, G; 2G).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from graphopt.errors import OutputError, UsageError

MAGIC = b"graphopt-cache/1 "
LIMIT_BYTES = 2 << 30
SUFFIX = ".entry"
LAST, LAST_MISS = "last.json", "miss.json"
_HEADER_BYTES = 1 << 20
_MOST_BYTES = 4 << 30

Key = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Lookup:
    """What a lookup found.

    Attributes:
        files: the entry's files by name; None for a miss.
        remark: what the user should know: an entry was corrupt, the folder cannot be read.
    """

    files: dict[str, bytes] | None = None
    remark: str | None = None


@dataclasses.dataclass(frozen=True)
class Entry:
    """One entry, as its header has it.

    Attributes:
        key: the parts that it was found by.
        about: words that are not part of the key: the model, its dims.
    """

    path: Path
    key: dict[str, str]
    about: dict[str, str]
    bytes: int
    used: float


def default_folder() -> Path:
    """Where the cache is, by the environment."""
    named = os.environ.get("GRAPHOPT_CACHE_DIR")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or ""
    # The XDG specification: a relative path there is to be ignored.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "graphopt"


def default_limit() -> int:
    """How large it may grow, by the environment. Raises UsageError (GO701) for what is no size."""
    text = os.environ.get("GRAPHOPT_CACHE_LIMIT", "").strip()
    if not text:
        return LIMIT_BYTES
    match = re.fullmatch(r"(\d+)\s*([KMGT]?)(?:i?B)?", text, re.IGNORECASE)
    if match is None:
        raise UsageError(
            "GO701",
            "a size cannot be understood",
            where="GRAPHOPT_CACHE_LIMIT",
            found=repr(text),
            expected="2G",
        )
    return int(match.group(1)) << {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[match.group(2).upper()]


ABANDONED_S = 3600.0
"""An unfinished file of this age has no writer any more."""


class Cache:
    """Entries in one folder. Nothing here fails a compile: what goes wrong becomes a remark.

    Args:
        limit_bytes: the entries used longest ago go beyond this.
    """

    def __init__(self, folder: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes

    @classmethod
    def default(cls) -> Cache:
        """The user's cache."""
        return cls(default_folder(), default_limit())

    def get(self, key: Key, *, about: Mapping[str, str] | None = None) -> Lookup:
        """The files of the entry of `key`, if there is one. What became of the lookup is kept for explain."""
        path = self._path(key)
        remark = None
        try:
            files = _read(path, key)
        except FileNotFoundError:
            files = None
        except OSError as error:
            files, remark = None, f"the compile cache cannot be read: {error.strerror or error}"
        except (ValueError, KeyError, TypeError, zlib.error) as error:
            files, remark = None, f"an entry of the compile cache was corrupt ({error}); it is built anew"
            with contextlib.suppress(OSError):
                path.unlink()
        if files is not None:
            with contextlib.suppress(OSError):
                os.utime(path)
        self._note(key, about or {}, hit=files is not None, remark=remark)
        return Lookup(files, remark)

    def put(
        self, key: Key, files: Mapping[str, bytes], *, about: Mapping[str, str] | None = None
    ) -> str | None:
        """Keep `files` under `key`, then make room. Returns what went wrong, if anything."""
        data = _packed(key, about or {}, files)
        try:
            if len(data) <= self.limit_bytes:
                self._write(self._path(key), data)
                self._evict()
        except OSError as error:
            return f"the compile cache cannot be written: {error.strerror or error} ({self.folder})"
        return None

    def entries(self) -> list[Entry]:
        """The entries whose headers can be read, the one used last first."""
        found = [entry for path in self._files() if (entry := _header(path)) is not None]
        return sorted(found, key=lambda e: (-e.used, e.path.name))

    def info(self) -> dict[str, Any]:
        """Where it is, how many entries, how many bytes, JSON-ready."""
        sizes = []
        for path in self._files():
            with contextlib.suppress(OSError):
                sizes.append(path.stat().st_size)
        entries = self.entries()
        return {
            "folder": str(self.folder),
            "entries": len(sizes),
            "bytes": sum(sizes),
            "limit_bytes": self.limit_bytes,
            "by_target": {
                t: sum(e.key.get("target") == t for e in entries) for t in _values(entries, "target")
            },
            "compilers": _values(entries, "compiler"),
        }

    def clear(self) -> dict[str, int]:
        """Remove every entry. Raises OutputError (GO111) if the folder does not let us."""
        removed = freed = 0
        try:
            for path in [*self._files(), *self._leftovers()]:
                with contextlib.suppress(FileNotFoundError):
                    size = path.stat().st_size
                    path.unlink()
                    removed, freed = removed + path.name.endswith(SUFFIX), freed + size
            for name in (LAST, LAST_MISS):
                (self.folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(
                "GO111", f"the cache cannot be cleared: {error.strerror or error}", where=str(self.folder)
            ) from error
        return {"entries": removed, "bytes": freed}

    def explain(self) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """The last lookup, and the last that missed: how the nearest entry differed then."""
        return self._noted(LAST), self._noted(LAST_MISS)

    def _noted(self, name: str) -> dict[str, Any] | None:
        try:
            found = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and isinstance(found.get("key"), dict) else None

    def _path(self, key: Key) -> Path:
        text = json.dumps(dict(sorted(key.items())), ensure_ascii=True)
        return self.folder / "entries" / (hashlib.sha256(text.encode()).hexdigest() + SUFFIX)

    def _files(self) -> list[Path]:
        try:
            return sorted(p for p in (self.folder / "entries").iterdir() if p.name.endswith(SUFFIX))
        except OSError:
            return []

    def _leftovers(self) -> Iterator[Path]:
        """What writers that were killed left behind. A young file may still be written by another process."""
        try:
            halves = [p for p in (self.folder / "entries").iterdir() if p.name.startswith(".half-")]
        except OSError:
            return
        for path in halves:
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > ABANDONED_S:
                    yield path

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, half = tempfile.mkstemp(prefix=".half-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(half, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(half)
            raise

    def _evict(self) -> None:
        """Remove the entries used longest ago until the rest is within the limit."""
        sized = []
        for path in self._files():
            with contextlib.suppress(OSError):
                status = path.stat()
                sized.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in sized)
        for _, size, path in sorted(sized)[:-1]:  # the newest stays: it was just asked for
            if total <= self.limit_bytes:
                return
            with contextlib.suppress(OSError):
                path.unlink()
                total -= size

    def _note(self, key: Key, about: Mapping[str, str], *, hit: bool, remark: str | None) -> None:
        document: dict[str, Any] = {"hit": hit, "key": dict(key), "about": dict(about), "remark": remark}
        if not hit:
            document["nearest"] = self._nearest(key)
        with contextlib.suppress(OSError):
            for name in (LAST,) if hit else (LAST, LAST_MISS):
                self._write(self.folder / name, (json.dumps(document, indent=1) + "\n").encode())

    def _nearest(self, key: Key) -> dict[str, Any] | None:
        """The entry that has most parts of `key`, and the parts that it has not."""
        best: Entry | None = None
        for entry in self.entries():  # of equals the one used last
            if best is None or _agreement(entry, key) > _agreement(best, key):
                best = entry
        if best is None:
            return None
        differs = {
            part: {"asked": key.get(part), "nearest": best.key.get(part)}
            for part in sorted({*key, *best.key})
            if key.get(part) != best.key.get(part)
        }
        return {"differs": differs, "about": best.about}


def _agreement(entry: Entry, key: Key) -> int:
    return sum(entry.key.get(part) == value for part, value in key.items())


def _values(entries: list[Entry], part: str) -> list[str]:
    return sorted({e.key.get(part, "?") for e in entries})


def _packed(key: Key, about: Mapping[str, str], files: Mapping[str, bytes]) -> bytes:
    """A line with the checksum of the rest, a line of JSON, and the files, compressed."""
    bodies = {name: zlib.compress(content, 1) for name, content in sorted(files.items())}
    header = {
        "key": dict(key),
        "about": dict(about),
        "files": [[name, len(body), len(files[name])] for name, body in bodies.items()],
    }
    rest = json.dumps(header, ensure_ascii=True).encode() + b"\n" + b"".join(bodies.values())
    return MAGIC + hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest


def _read(path: Path, key: Key) -> dict[str, bytes]:
    """The files of an entry. Raises ValueError if it is not what was written."""
    data = path.read_bytes()
    first, _, rest = data.partition(b"\n")
    if not first.startswith(MAGIC):
        raise ValueError("it is no entry")
    if hashlib.sha256(rest).hexdigest().encode() != first.removeprefix(MAGIC):
        raise ValueError("its checksum is wrong")
    line, _, body = rest.partition(b"\n")
    header = json.loads(line)
    if header["key"] != dict(key):
        raise ValueError("it is of another key")
    found, offset = {}, 0
    for name, packed, size in header["files"]:
        if size > _MOST_BYTES:
            raise ValueError("a file in it is too large")
        content = zlib.decompressobj().decompress(body[offset : offset + packed], size + 1)
        if len(content) != size:
            raise ValueError("a file in it has another size")
        found[name] = content
        offset += packed
    return found


def _header(path: Path) -> Entry | None:
    """What an entry says of itself; None if it cannot be read. Its contents are not checked."""
    try:
        status = path.stat()
        with path.open("rb") as stream:
            if not stream.readline(200).startswith(MAGIC):
                return None
            header = json.loads(stream.readline(_HEADER_BYTES))
        return Entry(path, dict(header["key"]), dict(header["about"]), status.st_size, status.st_mtime)
    except (OSError, ValueError, KeyError, TypeError):
        return None
