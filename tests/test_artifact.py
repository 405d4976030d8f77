"""Artifacts are written whole or not at all, are the same bytes every time, and refuse to be altered."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from graphopt.artifact import MANIFEST, read_artifact, write_artifact
from graphopt.errors import ArtifactError, GraphoptError, OutputError

FILES = {"model.onnx": b"model", "program.jaxexport": b"program"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_artifact(tmp_path / "art", {"target": "xla-cpu"}, FILES)


def test_what_was_written_is_read_back(folder: Path) -> None:
    manifest = read_artifact(folder)
    assert manifest["target"] == "xla-cpu"
    assert set(manifest["files"]) == set(FILES)
    assert (folder / "model.onnx").read_bytes() == b"model"


def test_equal_contents_give_equal_bytes(tmp_path: Path, folder: Path) -> None:
    again = write_artifact(tmp_path / "again", {"target": "xla-cpu"}, dict(reversed(FILES.items())))
    assert (again / MANIFEST).read_bytes() == (folder / MANIFEST).read_bytes()


def truncate(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"mod")


def flip_one_bit(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"lodel")


def remove_a_file(folder: Path) -> None:
    (folder / "model.onnx").unlink()


def add_a_file(folder: Path) -> None:
    (folder / "extra.bin").write_bytes(b"")


def link_a_file(folder: Path) -> None:
    (folder / "model.onnx").rename(folder.parent / "model.onnx")
    (folder / "model.onnx").symlink_to(folder.parent / "model.onnx")


def edit_the_manifest(folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace("xla-cpu", "cuda"))


def name_a_file_outside(folder: Path) -> None:
    body = json.loads((folder / MANIFEST).read_text())
    body["files"]["../secret"] = body["files"].pop("model.onnx")
    (folder / MANIFEST).write_text(json.dumps(body))


def empty_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b"")


def nest_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("[" * 100_000)


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        flip_one_bit,
        remove_a_file,
        add_a_file,
        link_a_file,
        edit_the_manifest,
        name_a_file_outside,
        empty_the_manifest,
        nest_the_manifest,
    ],
    ids=lambda f: f.__name__,
)
def test_damage_is_refused(folder: Path, damage) -> None:  # type: ignore[no-untyped-def]
    damage(folder)
    with pytest.raises(ArtifactError) as caught:
        read_artifact(folder)
    assert caught.value.code == "GO602"
    assert caught.value.next_step


def test_another_version_is_refused(folder: Path) -> None:
    body = json.loads((folder / MANIFEST).read_text())
    body["schema"] = "graphopt.artifact/99"
    (folder / MANIFEST).write_text(json.dumps(body))
    with pytest.raises(ArtifactError, match="GO601"):
        read_artifact(folder)


@pytest.mark.parametrize("name", ["missing", "file.txt"])
def test_what_is_no_artifact_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(ArtifactError, match="GO601"):
        read_artifact(tmp_path / name)


def test_an_artifact_is_replaced(folder: Path) -> None:
    write_artifact(folder, {"target": "cuda"}, {"model.onnx": b"new"})
    assert read_artifact(folder)["target"] == "cuda"
    assert sorted(p.name for p in folder.parent.iterdir()) == ["art"]


def test_other_peoples_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="GO111"):
        write_artifact(tmp_path / "home", {}, FILES)
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years of work"


def test_a_failed_write_leaves_the_old_artifact(folder: Path) -> None:
    def fail(scratch: Path) -> None:
        (scratch / "half.bin").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_artifact(folder, {"target": "cuda"}, {"model.onnx": fail})
    assert read_artifact(folder)["target"] == "xla-cpu"
    assert sorted(p.name for p in folder.parent.iterdir()) == ["art"]


def test_an_unwritable_place_is_an_error() -> None:
    with pytest.raises(GraphoptError, match="GO111"):
        write_artifact("/proc/artifact", {}, FILES)


def test_nothing_is_executable_or_private(folder: Path) -> None:
    assert os.stat(folder).st_mode & 0o777 == 0o755
