"""Read inputs from files: numpy archives and the test data that comes with ONNX models."""

from __future__ import annotations

import os
import re
import stat
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from graphopt.errors import FeedError

MAX_FILE_BYTES = 4 << 30
"""The most that one file may hold, uncompressed."""

Feeds = dict[str, np.ndarray]


def load_feeds(path: str | os.PathLike[str], *, inputs: Sequence[str] | None = None) -> list[Feeds]:
    """One dict of arrays for each run that `path` describes.

    ``x.npz`` is one run, its arrays are named like the inputs; ``x.npy`` one run of the single input
    ``x``. A folder is a run for each ``.npz`` in it; or one run, an input for each ``.npy``; or the
    ``input_0.pb`` … of one ONNX test data set; or one run for each ``test_data_set_N`` in it.

    Args:
        inputs: the model's input names in order, for test data whose tensors have no names.

    Raises:
        FeedError: GO603. Nothing is unpickled, and no file is read that holds more than
            :data:`MAX_FILE_BYTES`.
    """
    source = Path(path)
    try:
        if not source.is_dir():
            return [_load_file(source)]
        sets = [p for p in _numbered(source, r"test_data_set_(\d+)") if p.is_dir()]
        if sets:
            return [_load_test_data(folder, inputs) for folder in sets]
        if _numbered(source, r"input_(\d+)\.pb"):
            return [_load_test_data(source, inputs)]
        archives = sorted(source.glob("*.npz"))
        if archives:
            return [_load_file(archive) for archive in archives]
        arrays = sorted(source.glob("*.npy"))
        if arrays:
            return [{array.stem: _load_npy(array) for array in arrays}]
    except OSError as error:
        raise FeedError("GO603", f"data cannot be read: {error.strerror}", where=str(source)) from error
    raise FeedError(
        "GO603", "no data in this folder", where=str(source), expected=".npz, .npy or input_*.pb files"
    )


def _load_file(path: Path) -> Feeds:
    if path.suffix == ".npz":
        return _load_npz(path)
    if path.suffix == ".npy":
        return {path.stem: _load_npy(path)}
    if not path.exists():
        raise FeedError("GO603", "there is no such file", where=str(path))
    raise FeedError("GO603", "not a data file", where=str(path), expected=".npz, .npy or a folder")


def _check_regular(path: Path) -> None:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise FeedError("GO603", "not a regular file", where=str(path))
    if status.st_size > MAX_FILE_BYTES:
        raise FeedError("GO603", "the file is too large", where=str(path), found=f"{status.st_size} bytes")


def _load_npy(path: Path) -> np.ndarray:
    _check_regular(path)
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, SyntaxError) as error:
        raise FeedError("GO603", f"not a numpy array: {error}", where=str(path)) from error
    if not isinstance(array, np.ndarray):
        raise FeedError("GO603", "not a numpy array", where=str(path))
    return array


def _load_npz(path: Path) -> Feeds:
    _check_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > MAX_FILE_BYTES:
            raise FeedError(
                "GO603", "the archive is too large when unpacked", where=str(path), found=f"{unpacked} bytes"
            )
        with np.load(path, allow_pickle=False) as arrays:
            loaded = {name: arrays[name] for name in arrays.files}
    except (ValueError, EOFError, SyntaxError, zipfile.BadZipFile, NotImplementedError) as error:
        raise FeedError("GO603", f"not a numpy archive: {error}", where=str(path)) from error
    # Members that are no arrays come as bytes.
    if strange := [name for name, value in loaded.items() if not isinstance(value, np.ndarray)]:
        raise FeedError("GO603", "not an array", where=f"{strange[0]!r} in {path}")
    return loaded


def _numbered(folder: Path, pattern: str) -> list[Path]:
    """The entries of `folder` whose whole name matches `pattern`, in the order of their number."""
    found = [(int(m[1]), p) for p in folder.iterdir() if (m := re.fullmatch(pattern, p.name))]
    return [path for _, path in sorted(found)]


def _load_test_data(folder: Path, inputs: Sequence[str] | None) -> Feeds:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    feeds: Feeds = {}
    for index, path in enumerate(_numbered(folder, r"input_(\d+)\.pb")):
        _check_regular(path)
        tensor = onnx.TensorProto()
        try:
            tensor.ParseFromString(path.read_bytes())
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                raise FeedError("GO603", "test data must hold its own numbers", where=str(path))
            array = onnx.numpy_helper.to_array(tensor)
        except (DecodeError, ValueError, TypeError, KeyError) as error:
            raise FeedError("GO603", f"not a tensor: {error}", where=str(path)) from error
        name = inputs[index] if inputs is not None and index < len(inputs) else tensor.name
        if not name:
            raise FeedError("GO603", "a tensor has no name", where=str(path))
        feeds[name] = array
    return feeds
