"""The compile cache: atomic, checksummed, bounded, safe between processes, and able to explain itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from graphopt import cache as caching
from graphopt.cache import Cache
from graphopt.errors import OutputError, UsageError

FILES = {"a.bin": b"\x00\x01" * 500, "b.txt": b"", "c.txt": "text ä".encode()}
KEY = {"program": "p1", "target": "v5e:2x2", "compiler": "libtpu 1", "options": "format 1"}


@pytest.fixture
def store(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def only_entry(store: Cache) -> Path:
    (path,) = (store.folder / "entries").glob("*.entry")
    return path


def test_what_is_kept_is_found(store: Cache) -> None:
    assert store.get(KEY).files is None
    assert store.put(KEY, FILES) is None
    assert store.get(KEY).files == FILES
    assert store.get({**KEY, "program": "p2"}).files is None
    assert store.info()["entries"] == 1
    assert store.info()["by_target"] == {"v5e:2x2": 1}
    assert store.get(KEY).files == FILES
    last, missed = store.explain()
    assert last is not None and last["hit"]
    assert missed is not None and missed["key"]["program"] == "p2"


@pytest.mark.parametrize("part", sorted(KEY))
def test_every_part_of_the_key_counts(store: Cache, part: str) -> None:
    store.put(KEY, FILES)
    assert store.get({**KEY, part: "other"}).files is None
    last, missed = store.explain()
    assert last is not None and not last["hit"]
    assert missed == last
    assert last["nearest"]["differs"] == {part: {"asked": "other", "nearest": KEY[part]}}


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other key", "no entry"])
def test_a_corrupt_entry_is_dropped_and_said(store: Cache, damage: str) -> None:
    store.put(KEY, FILES)
    path = only_entry(store)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-3] ^= 1
    elif damage == "cut":
        del data[len(data) // 2 :]
    elif damage == "empty":
        data.clear()
    elif damage == "other key":
        store.put({**KEY, "program": "p2"}, FILES)
        data = bytearray(store._path({**KEY, "program": "p2"}).read_bytes())
    else:
        data = bytearray(b"hello\n")
    path.write_bytes(data)
    found = store.get(KEY)
    assert found.files is None
    assert "corrupt" in (found.remark or "")
    assert not path.exists()
    assert (store.explain()[0] or {})["remark"] == found.remark
    assert store.put(KEY, FILES) is None
    assert store.get(KEY) == caching.Lookup(FILES)


def test_the_entries_used_longest_ago_go(tmp_path: Path) -> None:
    store = Cache(tmp_path / "cache")
    noise = {"x": os.urandom(10_000)}
    for index in range(3):
        store.put({**KEY, "program": str(index)}, noise)
        os.utime(store._path({**KEY, "program": str(index)}), (index, index))
    store.get({**KEY, "program": "0"})  # used: now the newest
    store.limit_bytes = 35_000
    store.put({**KEY, "program": "3"}, noise)
    kept = {e.key["program"] for e in store.entries()}
    assert kept == {"0", "2", "3"}
    store.limit_bytes = 5_000
    assert store.put({**KEY, "program": "4"}, noise) is None  # larger than all there may be: not kept
    assert store.get({**KEY, "program": "4"}).files is None


def test_a_file_in_the_folders_place_fails_no_compile(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    store = Cache(blocked / "cache")
    assert store.get(KEY).files is None
    assert "cannot be written" in (store.put(KEY, FILES) or "")
    assert store.info()["entries"] == 0
    assert store.explain() == (None, None)
    with pytest.raises(OutputError, match="GO111"):
        store.clear()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_still_gives(store: Cache) -> None:
    store.put(KEY, FILES)
    for folder in (store.folder / "entries", store.folder):
        folder.chmod(0o500)
    try:
        assert store.get(KEY).files == FILES
        assert "cannot be written" in (store.put({**KEY, "program": "p2"}, FILES) or "")
    finally:
        for folder in (store.folder, store.folder / "entries"):
            folder.chmod(0o700)


def test_clearing(store: Cache) -> None:
    store.put(KEY, FILES)
    killed, alive = (store.folder / "entries" / name for name in (".half-killed", ".half-alive"))
    for path in (killed, alive):
        path.write_bytes(b"what a writer has written so far")
    os.utime(killed, (0, 0))
    assert store.clear()["entries"] == 1
    assert list((store.folder / "entries").iterdir()) == [alive]  # its writer is about to rename it
    assert store.get(KEY).files is None
    assert (store.explain()[0] or {})["nearest"] is None


HAMMER = """
import sys
from pathlib import Path
from graphopt.cache import Cache
store = Cache(Path(sys.argv[1]), 200_000)
for turn in range(150):
    key = {"program": str(turn % 7), "target": "t"}
    found = store.get(key)
    assert found.remark is None, found.remark
    if found.files is None:
        assert store.put(key, {"x": (key["program"] * 9000).encode()}) is None
    else:
        assert found.files == {"x": (key["program"] * 9000).encode()}
    if turn % 40 == int(sys.argv[2]):
        store.clear()
print("done")
"""


def test_two_processes_at_once(tmp_path: Path) -> None:
    """Both read, write and clear one folder: neither ever sees half an entry, or fails."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HAMMER, str(tmp_path / "cache"), str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in (3, 17)
    ]
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, "done\n"), err
    assert not list((tmp_path / "cache").rglob(".half-*"))


def test_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAPHOPT_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/where")
    assert caching.default_folder() == Path("/some/where/graphopt")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert caching.default_folder() == Path.home() / ".cache/graphopt"
    monkeypatch.setenv("GRAPHOPT_CACHE_DIR", "/mine")
    assert caching.default_folder() == Path("/mine")


@pytest.mark.parametrize(
    ("text", "size"), [("", 2 << 30), ("100", 100), ("3K", 3 << 10), ("5m", 5 << 20), ("1 GiB", 1 << 30)]
)
def test_how_large_it_grows(monkeypatch: pytest.MonkeyPatch, text: str, size: int) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE_LIMIT", text)
    assert caching.default_limit() == size


def test_a_limit_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE_LIMIT", "lots")
    with pytest.raises(UsageError, match="GO701"):
        caching.default_limit()
