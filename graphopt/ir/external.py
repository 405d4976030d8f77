"""Weights in files of their own: found only inside the model's folder, mapped, never copied.

Each file is opened and mapped once, when the model is loaded, and every tensor is a window into that
map. What happens to the path afterwards (the file is replaced, even by saving the model over itself)
no longer matters to the tensors.
"""

from __future__ import annotations

import mmap
import os
from typing import Any, BinaryIO

import numpy as np
import onnx
import onnx_ir
from onnx_ir.serde import TensorProtoTensor

from graphopt.errors import ModelError
from graphopt.ir import DataType, ExternalTensor, LazyTensor, Shape, TensorProtocol
from graphopt.ir.source import open_regular_file

CHUNK_BYTES = 1 << 24
BAND_ROWS = 64
_KNOWN_KEYS = frozenset({"location", "offset", "length", "checksum", "basepath"})


class MappedTensor(ExternalTensor):
    """A tensor whose bytes are a window into a file that is already mapped."""

    __slots__ = ()

    def __init__(
        self,
        window: mmap.mmap,
        location: str,
        offset: int,
        length: int,
        dtype: DataType,
        shape: Shape,
        folder: str,
        like: Any,
    ) -> None:
        super().__init__(
            location,
            offset,
            length,
            dtype,
            shape=shape,
            name=like.name or "",
            doc_string=like.doc_string,
            metadata_props=dict(like.metadata_props),
            base_dir=folder,
        )
        self.raw = window

    def _load(self) -> None:
        """Make the array; overrides the loading by path."""
        assert self.raw is not None
        offset, length = int(self.offset or 0), int(self.length or 0)
        shape = self.shape.numpy()
        if self.dtype.bitwidth < 8:
            proto = onnx.TensorProto(
                data_type=self.dtype.value, dims=shape, raw_data=self.raw[offset : offset + length]
            )
            self._array = TensorProtoTensor(proto).numpy()
            return
        dtype = np.dtype(self.dtype.numpy()).newbyteorder("<")
        self._array = np.frombuffer(self.raw, dtype=dtype, offset=offset, count=self.size).reshape(shape)

    def tofile(self, file: BinaryIO) -> None:
        """Write the bytes to `file`, a piece at a time."""
        assert self.raw is not None
        position, end = int(self.offset or 0), int(self.offset or 0) + int(self.length or 0)
        with memoryview(self.raw) as view:
            while position < end:
                file.write(view[position : min(position + CHUNK_BYTES, end)])
                position = min(position + CHUNK_BYTES, end)


class TransposedTensor(LazyTensor):
    """A matrix that is transposed when it is read, and a piece at a time when it is written."""

    def __init__(self, source: TensorProtocol) -> None:
        rows, columns = source.shape.numpy()
        super().__init__(self._transposed, dtype=source.dtype, shape=Shape((columns, rows)))
        self._source = source

    def _transposed(self) -> TensorProtocol:
        matrix = self._source.numpy()
        result = np.empty(matrix.shape[::-1], matrix.dtype)
        # Copied in bands, so that a cache line that is read is used while it is there.
        for start in range(0, len(matrix), BAND_ROWS):
            result[:, start : start + BAND_ROWS] = matrix[start : start + BAND_ROWS].T
        return onnx_ir.tensor(result, dtype=self.dtype)

    def tofile(self, file: BinaryIO) -> None:
        """Write the bytes to `file`, some columns of the source at a time."""
        matrix = self._source.numpy()
        rows = max(1, CHUNK_BYTES // max(1, matrix[:, :1].nbytes))
        for start in range(0, matrix.shape[1], rows):
            piece = np.ascontiguousarray(matrix[:, start : start + rows].T)
            file.write(piece.reshape(-1).view(np.uint8).data)


class ExternalFiles:
    """The data files of one model, each resolved, checked and mapped at most once.

    Args:
        folder: the model's folder, resolved; None if the model did not come from a file.
        beside: the folder of the path that was given, which differs when that path is a link.
    """

    def __init__(self, folder: str | None, beside: str | None) -> None:
        self._folder = folder
        self._beside = beside
        self._maps: dict[str, tuple[str, mmap.mmap | None, int]] = {}

    def check(self, proto: onnx.TensorProto, where: str, nbytes: int) -> None:
        """Check that the external `proto` of `nbytes` bytes lies in its file, and rewrite its entries.

        Afterwards its location is relative to the model's folder with all links resolved. A tensor
        without elements becomes an ordinary one, as nothing can be mapped for it.

        Raises ModelError GO104.
        """
        entries: dict[str, str] = {}
        for entry in proto.external_data:
            if not isinstance(entry.key, str) or not isinstance(entry.value, str) or entry.key in entries:
                raise _bad(where, "an entry of the external data is repeated or not text")
            entries[entry.key] = entry.value
        location = entries.get("location", "")
        if unknown := sorted(set(entries) - _KNOWN_KEYS):
            raise _bad(where, "unknown entries in the external data", found=", ".join(unknown)[:200])
        offset = _natural(entries.get("offset", "0"), "offset", where)
        length = _natural(entries.get("length", str(nbytes)), "length", where)
        if length != nbytes:
            raise _bad(
                where,
                "the length of the external data does not match the tensor's type and shape",
                found=f"{length} bytes",
                expected=f"{nbytes} bytes",
            )
        name, _, size = self._open(location, where)
        if offset + length > size:
            raise _bad(
                where,
                f"the external data ends after its file {name!r}",
                found=f"bytes {offset} to {offset + length} of a file of {size}",
                next_step="Copy the whole file beside the model; it may have been cut off.",
            )
        del proto.external_data[:]
        if nbytes == 0:
            proto.ClearField("data_location")
            proto.raw_data = b""
            return
        for key, value in (("location", name), ("offset", str(offset)), ("length", str(length))):
            proto.external_data.add(key=key, value=value)

    def tensor(self, found: ExternalTensor) -> MappedTensor:
        """The mapped form of `found`, whose proto was checked."""
        location = os.fspath(found.location)
        name, window, _ = self._maps[location]
        assert window is not None
        assert self._folder is not None
        return MappedTensor(
            window,
            name,
            int(found.offset or 0),
            int(found.length or 0),
            found.dtype,
            Shape(found.shape.numpy()),
            self._folder,
            found,
        )

    def _open(self, location: str, where: str) -> tuple[str, mmap.mmap | None, int]:
        if (known := self._maps.get(location)) is not None:
            return known
        real = self._resolve(location, where)
        assert self._folder is not None
        name = os.path.relpath(real, self._folder)
        if (known := self._maps.get(name)) is None:
            known = (name, *_map(real, where))
            self._maps[name] = known
        self._maps[location] = known
        return known

    def _resolve(self, location: str, where: str) -> str:
        """The file behind `location` with all links resolved, inside the model's folder."""
        if not location or "\0" in location:
            raise _bad(where, "the external data names no file", found=repr(location[:80]))
        if self._folder is None or self._beside is None:
            raise _bad(
                where,
                f"its data lies in the file {location!r}, but the model was not read from a file",
                next_step="Load the model by its path, or load its external data into it first.",
            )
        parts = location.replace("\\", "/").split("/")
        if os.path.isabs(location) or location.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
            raise _bad(
                where,
                "external data must lie inside the model's folder",
                found=repr(location[:200]),
                expected="a relative path without '..'",
            )
        candidates = dict.fromkeys(os.path.join(folder, location) for folder in (self._folder, self._beside))
        path = next((p for p in candidates if os.path.lexists(p)), None)
        if path is None:
            raise _bad(
                where,
                f"the external data file {location[:200]!r} is not there",
                expected=f"a file in {self._folder}",
                next_step="Keep the model and its data files together.",
            )
        real = os.path.realpath(path)
        if os.path.commonpath([real, self._folder]) != self._folder:
            raise _bad(
                where,
                f"the external data file {location[:200]!r} is a link out of the model's folder",
                found=real,
                expected=f"a file in {self._folder}",
            )
        return real


def _map(path: str, where: str) -> tuple[mmap.mmap | None, int]:
    try:
        descriptor = open_regular_file(path)
    except ModelError as error:
        raise _bad(where, "the external data file cannot be read", found=f"{path}: {error.found}") from error
    try:
        status = os.fstat(descriptor)
        if status.st_nlink > 1:
            raise _bad(
                where,
                "the external data file has more than one hard link, so it may belong to somewhere else",
                found=path,
                next_step="Replace it by a copy of its own.",
            )
        if status.st_size == 0:
            return None, 0
        return mmap.mmap(descriptor, status.st_size, access=mmap.ACCESS_READ), status.st_size
    except (OSError, ValueError) as error:
        raise _bad(where, "the external data file cannot be mapped", found=f"{path}: {error}") from error
    finally:
        os.close(descriptor)


def _natural(text: str, what: str, where: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 19:
        raise _bad(
            where,
            f"the {what} of the external data is invalid",
            found=repr(text[:40]),
            expected="a number of bytes, not negative",
        )
    return int(text)


def _bad(
    where: str,
    message: str,
    *,
    found: str | None = None,
    expected: str | None = None,
    next_step: str | None = None,
) -> ModelError:
    return ModelError("GO104", message, where=where, found=found, expected=expected, next_step=next_step)
