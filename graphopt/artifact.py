"""Artifacts: what a compile leaves on disk, written whole or not at all, checked before use.

A folder with ``manifest.json`` (schema version, versions, target, signature, pipeline, the sha256 of
every file) and the files that it lists. It is written to a temporary sibling, synced and renamed, so
that a killed compile leaves nothing half-done; equal inputs and flags give equal bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graphopt.errors import ArtifactError, OutputError

SCHEMA = "graphopt.artifact/1"
MANIFEST = "manifest.json"
PADDED, SHAPE = "graphopt.padded", "graphopt.shape"
"""What programs give for an output as large as the data says: the array padded, and the shape that counts."""

MODEL = "model.onnx"
PROGRAM = "program.jaxexport"
ENGINE, CONTEXT = "model.engine", "model_ctx.onnx"
"""A TensorRT-RTX engine, and the ONNX model with an EPContext node that names it."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}\Z")
_MAX_MANIFEST_BYTES = 256 << 20
_CHUNK = 1 << 22

Writer = Callable[[Path], None]
"""Writes its file, or its file and siblings whose names start with the same stem, into a folder."""


def write_artifact(
    folder: str | os.PathLike[str], manifest: Mapping[str, Any], files: Mapping[str, bytes | Writer]
) -> Path:
    """Write an artifact to `folder` and return its path.

    Args:
        manifest: everything but the schema, the file list and the digest, which are added here.
        files: contents by file name, or a function that writes into the folder it is given.

    Raises:
        OutputError: GO111, the folder exists and is no artifact, or cannot be written.
    """
    target = Path(folder)
    check_output(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch: Path | None = None
    try:
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        for name, content in files.items():
            if isinstance(content, bytes):
                (scratch / name).write_bytes(content)
            else:
                content(scratch)
        listed = {
            path.name: {"sha256": file_digest(path), "bytes": path.stat().st_size}
            for path in sorted(scratch.iterdir())
        }
        body = {"schema": SCHEMA, **manifest, "files": listed}
        body["digest"] = _digest(body)
        text = json.dumps(body, indent=1, sort_keys=True, ensure_ascii=True) + "\n"
        (scratch / MANIFEST).write_text(text, encoding="utf-8")
        for path in scratch.iterdir():
            _sync(path)
        os.chmod(scratch, 0o755)
        _swap_in(scratch, target)
        scratch = None
    except OSError as error:
        raise OutputError(
            "GO111",
            f"the artifact cannot be written: {error.strerror or error}",
            where=str(target),
            next_step="Choose another place with -o, or free some space.",
        ) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
    return target


def check_output(target: Path) -> None:
    """Raise OutputError (GO111) unless `target` is free, an empty folder or an artifact to replace."""
    if not os.path.lexists(target):
        parent = next((p for p in target.absolute().parents if p.exists()), None)
        if parent is None or not parent.is_dir() or not os.access(parent, os.W_OK):
            raise OutputError(
                "GO111", "the output folder cannot be created", where=str(target), found=str(parent)
            )
        return
    if not target.is_dir() or (any(target.iterdir()) and not (target / MANIFEST).is_file()):
        raise OutputError(
            "GO111",
            "the output exists and is not a graphopt artifact; it is left alone",
            where=str(target),
            next_step="Choose another name with -o, or remove it yourself.",
        )


def _swap_in(scratch: Path, target: Path) -> None:
    """Rename `scratch` to `target`; an artifact that stands there is moved away first, then removed."""
    if not target.exists():
        os.rename(scratch, target)
        _sync(target.parent)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
    os.rename(target, old / "artifact")
    try:
        os.rename(scratch, target)
    except OSError:
        os.rename(old / "artifact", target)
        old.rmdir()
        raise
    _sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_digest(path: Path) -> str:
    """The sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _digest(body: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in body.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def is_artifact(folder: str | os.PathLike[str]) -> bool:
    """Whether `folder` looks like an artifact (it is not checked)."""
    return (Path(folder) / MANIFEST).is_file()


def read_artifact(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of the artifact in `folder`, after every file was checked against it.

    Raises:
        ArtifactError: GO601 it is none, or of a version this graphopt does not read; GO602 a file
            is missing, cut short, altered or unlisted.
    """
    root = Path(folder)
    path = root / MANIFEST
    if not root.is_dir() or not path.is_file():
        raise ArtifactError(
            "GO601",
            "not a graphopt artifact",
            where=str(root),
            expected=f"a folder with {MANIFEST}",
            next_step="`graphopt compile MODEL --target T -o FOLDER` makes one.",
        )
    body = _read_manifest(path)
    if body.get("schema") != SCHEMA:
        raise ArtifactError(
            "GO601",
            "an artifact of another version",
            where=str(path),
            found=body.get("schema"),
            expected=SCHEMA,
        )
    files = body.get("files")
    if body.get("digest") != _digest(body) or not isinstance(files, dict):
        raise _corrupt(path, "the manifest was changed after it was written")
    for name, entry in files.items():
        _check_file(root, name, entry)
    unlisted = sorted(p.name for p in root.iterdir() if p.name != MANIFEST and p.name not in files)
    if unlisted:
        raise _corrupt(root / unlisted[0], "the manifest does not list this file")
    return body


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise _corrupt(path, "the manifest is too large")
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _corrupt(path, "the manifest is not readable JSON") from error
    if not isinstance(body, dict):
        raise _corrupt(path, "the manifest is not a JSON object")
    return body


def _check_file(root: Path, name: Any, entry: Any) -> None:
    path = root / str(name)
    if not isinstance(name, str) or not _NAME.match(name) or not isinstance(entry, dict):
        raise _corrupt(root / MANIFEST, "the manifest lists a file with an odd name")
    if path.is_symlink() or not path.is_file():
        raise _corrupt(path, "a listed file is missing or not a plain file")
    with contextlib.suppress(OSError):
        if path.stat().st_size != entry.get("bytes"):
            raise _corrupt(path, f"its size is {path.stat().st_size} bytes, not {entry.get('bytes')}")
    if file_digest(path) != entry.get("sha256"):
        raise _corrupt(path, "its contents differ from what was written")


def _corrupt(path: Path, message: str) -> ArtifactError:
    return ArtifactError("GO602", message, where=str(path), next_step="Compile the model again.")
