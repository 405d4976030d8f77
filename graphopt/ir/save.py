"""Writing models: all or nothing, weights streamed, the same bytes for the same model.

Files are written under temporary names beside their places, flushed to disk and renamed. A save that
fails leaves what was there before. A process that is killed leaves at most temporary files (their
names start with a dot); only between the two renames of a model with external data can it leave the
new weights beside the old graph.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import onnx
import onnx_ir
from google.protobuf.message import EncodeError  # type: ignore[import-untyped]
from onnx_ir.serde import SerdeError

from graphopt.errors import OutputError
from graphopt.ir import (
    Attr,
    AttributeType,
    DataType,
    ExternalTensor,
    LazyTensor,
    Model,
    Node,
    Shape,
    TensorProtocol,
    Value,
    interface,
    tensor,
)
from graphopt.ir.external import CHUNK_BYTES, MappedTensor, TransposedTensor
from graphopt.ir.proto_stream import pieces
from graphopt.ir.query import walk_graphs
from graphopt.ir.source import FORMATS, MAX_PROTO_BYTES, TEXT_SUFFIXES

EXTERNAL_ABOVE_BYTES = 1_500_000_000
"""Models with more bytes of weights than this get external data unless told otherwise."""
STREAMED_ABOVE_BYTES = 1 << 20
"""Weights of more bytes are written into a single file one after the other, never all in memory."""
SMALLEST_EXTERNAL_BYTES = 1024
ALIGNMENT_BYTES = 4096
"""Offsets of tensors of at least this size are multiples of it, so that readers can map them."""


def save(
    model: Model,
    path: str | os.PathLike[str],
    *,
    external_data: bool | None = None,
    declared: bool = True,
) -> None:
    """Write `model` to `path`, completely or not at all.

    Weights that lie in another file are copied, so that what is written stands on its own; writing over
    the file that they are mapped from is safe. `model` stays as it is.

    Args:
        path: the suffix decides the form as in :func:`graphopt.ir.io.load`; anything else is protobuf.
        external_data: whether to write the weights into ``<path>.data`` beside it, a piece at a time.
            None does so where they are larger than :data:`EXTERNAL_ABOVE_BYTES`.
        declared: write the shapes of inputs and outputs as the model that was loaded declares them,
            not as they are known inside, and none of those in between that can be inferred.

    Raises:
        OutputError: GO111: the place cannot be written, or the model does not fit into one file.
    """
    target = _target(os.fspath(path))
    suffix = os.path.splitext(target)[1].lower()
    values = [v for g in walk_graphs(model.graph) for v in g.initializers.values()]
    weights = {v: v.const_value for v in values if v.const_value is not None}
    total = sum(_nbytes(weight) for weight in weights.values())
    if external_data is None:
        external_data = total > EXTERNAL_ABOVE_BYTES
    if not external_data:
        if total > MAX_PROTO_BYTES:
            raise _too_large(target, f"{total} bytes of weights")
        large = {
            v: t
            for v in model.graph.initializers.values()
            if (t := v.const_value) is not None and _nbytes(t) > STREAMED_ABOVE_BYTES
        }
        if large and suffix not in TEXT_SUFFIXES and suffix not in FORMATS:
            _save_streamed(model, weights, large, target, declared)
            return
        with _inlined(model, weights, {}):
            data = _serialize(model, suffix, target, declared)
        with _Replacement(target) as graph_file:
            graph_file.write(data)
            graph_file.finish()
            graph_file.commit()
        return
    outside = {v: weight for v, weight in weights.items() if _nbytes(weight) >= SMALLEST_EXTERNAL_BYTES}
    layout: dict[Value, int] = {}
    offset = 0
    for value, weight in outside.items():
        if weight.nbytes >= ALIGNMENT_BYTES:
            offset = -(-offset // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        layout[value] = offset
        offset += weight.nbytes
    data_target = _target(target + ".data")
    location = os.path.basename(data_target)
    placeholders = {v: _elsewhere(v, t, location, layout[v]) for v, t in outside.items()}
    with _inlined(model, weights, placeholders):
        data = _serialize(model, suffix, target, declared)
    with _Replacement(data_target) as data_file, _Replacement(target) as graph_file:
        for value, weight in outside.items():
            data_file.skip_to(layout[value])
            _stream(weight, data_file)
        graph_file.write(data)
        data_file.finish()
        graph_file.finish()
        data_file.commit()
        graph_file.commit()


def _save_streamed(
    model: Model,
    weights: dict[Value, TensorProtocol],
    large: dict[Value, TensorProtocol],
    target: str,
    declared: bool,
) -> None:
    """Write one file, the `large` initializers of the main graph one at a time."""
    placeholders = {v: _elsewhere(v, t, "streamed", 0) for v, t in large.items()}
    with _inlined(model, weights, placeholders):
        proto = onnx.ModelProto.FromString(_serialize(model, "", target, declared))
    tensors = {v.name or "": t for v, t in large.items()}
    with _Replacement(target) as file:
        for piece in pieces(proto, {name: int(t.nbytes) for name, t in tensors.items()}):
            if isinstance(piece, str):
                _stream(tensors[piece], file)
            else:
                file.write(piece)
        file.finish()
        file.commit()


def _elsewhere(value: Value, weight: TensorProtocol, location: str, offset: int) -> ExternalTensor:
    """What stands in the graph for a weight whose data are at `offset` of another file."""
    return ExternalTensor(
        location,
        offset,
        weight.nbytes,
        weight.dtype,
        shape=Shape(weight.shape.numpy()),
        name=value.name or "",
        doc_string=weight.doc_string,
        metadata_props=dict(weight.metadata_props),
    )


def _target(path: str) -> str:
    """The real file to replace: links are followed, and what is there must be a regular file or nothing."""
    try:
        real = os.path.realpath(path)
        mode = os.stat(real).st_mode
    except FileNotFoundError:
        mode = None
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error
    if mode is not None and not stat.S_ISREG(mode):
        raise OutputError(
            "GO111",
            "there is something else than a file",
            where=path,
            found="a folder" if stat.S_ISDIR(mode) else "a special file",
            expected="a new or an existing file",
        )
    return real


def _unwritable(path: str, error: Exception) -> OutputError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    missing = isinstance(error, OSError) and error.errno == errno.ENOENT
    return OutputError(
        "GO111",
        "the model cannot be written",
        where=repr(path) if "\0" in path else path,
        found=reason,
        next_step="Create the folder first." if missing else "Check the path, its permissions and the space.",
    )


def _nbytes(weight: TensorProtocol) -> int:
    """The bytes that could lie in another file; strings cannot."""
    return 0 if weight.dtype == DataType.STRING else int(weight.nbytes)


@contextmanager
def _inlined(
    model: Model, weights: dict[Value, TensorProtocol], placeholders: dict[Value, ExternalTensor]
) -> Iterator[None]:
    """Within it, weights are `placeholders` or hold their data themselves; afterwards they are as before."""
    attributes: list[tuple[Node, str, Attr]] = []
    try:
        for value, weight in weights.items():
            value.const_value = placeholders[value] if value in placeholders else _own(weight)
        for graph in walk_graphs(model.graph):
            for node in graph:
                for name, attr in list(node.attributes.items()):
                    if (own := _own_attribute(attr)) is not attr:
                        attributes.append((node, name, attr))
                        node.attributes[name] = own
        yield
    finally:
        for value, weight in weights.items():
            value.const_value = weight
        for node, name, attr in attributes:
            node.attributes[name] = attr


def _own(weight: Any) -> Any:
    """`weight` in a form that is written with its data instead of the name of a file."""
    if isinstance(weight, LazyTensor) and weight.dtype == DataType.STRING:
        return weight.raw  # evaluates it
    if isinstance(weight, ExternalTensor):
        own = tensor(weight.numpy(), dtype=weight.dtype, name=weight.name, doc_string=weight.doc_string)
        own.metadata_props.update(weight.metadata_props)
        return own
    return weight


def _own_attribute(attr: Attr) -> Attr:
    if attr.is_ref():
        return attr
    if attr.type == AttributeType.TENSOR and (own := _own(attr.value)) is not attr.value:
        return Attr(attr.name, attr.type, own, doc_string=attr.doc_string)
    if attr.type == AttributeType.TENSORS and any(_own(t) is not t for t in attr.value):
        return Attr(attr.name, attr.type, [_own(t) for t in attr.value], doc_string=attr.doc_string)
    return attr


def _serialize(model: Model, suffix: str, target: str, declared: bool) -> bytes:
    """The file's bytes."""
    try:
        proto = onnx_ir.to_proto(model)
        if declared:
            interface.restore(proto, model)
            interface.drop_inferred_shapes(proto)
        if suffix in TEXT_SUFFIXES:
            return onnx.printer.to_text(proto).encode()
        if suffix in FORMATS:
            written = onnx.serialization.registry.get(FORMATS[suffix]).serialize_proto(proto)
            return written if isinstance(written, bytes) else str(written).encode()
        return bytes(proto.SerializeToString(deterministic=True))
    except (SerdeError, EncodeError, ValueError, TypeError) as error:
        reason = str(error.__cause__ or error)[:500]
        raise _too_large(target, reason) from error


def _too_large(target: str, found: str) -> OutputError:
    return OutputError(
        "GO111",
        "the model cannot be put into one protobuf",
        where=target,
        found=found,
        expected=f"at most {MAX_PROTO_BYTES} bytes without the external data",
        next_step="Save it with external_data=True.",
    )


def _stream(weight: Any, file: _Replacement) -> None:
    """Write the bytes of `weight`, mapped ones a piece at a time."""
    if isinstance(weight, (MappedTensor, TransposedTensor)):
        weight.tofile(file)  # type: ignore[arg-type]
        return
    data = _bytes(weight)
    for start in range(0, len(data), CHUNK_BYTES):
        file.write(data[start : start + CHUNK_BYTES])


def _bytes(weight: Any) -> memoryview:
    """The bytes of `weight`, without a copy where its array has the layout of the file."""
    if weight.dtype.bitwidth >= 8 and sys.byteorder == "little":
        array = np.ascontiguousarray(weight.numpy())
        if array.nbytes == weight.nbytes and array.dtype.isnative:
            return array.reshape(-1).view(np.uint8).data
    return memoryview(weight.tobytes())


class _Replacement:
    """A file under construction beside `target`, which takes its place on :meth:`commit`.

    Leaving the context without a commit, or with an error after it, restores what was there.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        folder, name = os.path.split(target)
        # A long name leaves no room for more; the random part alone is unique.
        token = secrets.token_hex(8)
        self._temporary = os.path.join(folder, f".{name[:60]}.{token}.tmp")
        self._backup = os.path.join(folder, f".{name[:60]}.{token}.old")
        self._committed = False
        self._is_new = False
        self._file: BinaryIO | None = None

    def __enter__(self) -> _Replacement:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
        try:
            descriptor = os.open(self._temporary, flags, 0o666)
            self._file = os.fdopen(descriptor, "wb")
            with contextlib.suppress(FileNotFoundError):
                os.chmod(self._temporary, stat.S_IMODE(os.stat(self._target).st_mode))
        except (OSError, ValueError) as error:
            self._discard(self._temporary)
            raise _unwritable(self._target, error) from error
        return self

    def write(self, data: Any) -> int:
        """Append `data`."""
        assert self._file is not None
        try:
            return self._file.write(data)
        except OSError as error:
            raise _unwritable(self._target, error) from error

    def skip_to(self, offset: int) -> None:
        """Fill with zeros up to `offset`, which is less than a page away."""
        assert self._file is not None
        self.write(bytes(offset - self._file.tell()))

    def finish(self) -> None:
        """Put what was written on disk."""
        assert self._file is not None
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            raise _unwritable(self._target, error) from error

    def commit(self) -> None:
        """Take the target's place."""
        try:
            self._is_new = not os.path.exists(self._target)
            # A file system without hard links has no way back after the rename.
            with contextlib.suppress(OSError):
                os.link(self._target, self._backup)
            os.replace(self._temporary, self._target)
            self._committed = True
            _sync_folder(os.path.dirname(self._target))
        except OSError as error:
            raise _unwritable(self._target, error) from error

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._file is not None and not self._file.closed:
            with contextlib.suppress(OSError):
                self._file.close()
        if kind is not None and self._committed:
            with contextlib.suppress(OSError):
                if self._is_new:
                    os.unlink(self._target)
                else:
                    os.replace(self._backup, self._target)
        self._discard(self._temporary)
        self._discard(self._backup)

    @staticmethod
    def _discard(path: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _sync_folder(folder: str) -> None:
    """Make renames in `folder` durable, where the system can open folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
