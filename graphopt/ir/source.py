"""From whatever a caller hands over to a protobuf of its own, without trusting any of it.

Only regular files are opened, nothing is executed, and what is not an ONNX model is called by its
name, so that a git-lfs pointer or a PyTorch checkpoint does not end in a protobuf error.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]

from graphopt.errors import ModelError

MAX_PROTO_BYTES = 2**31 - 1
"""Protobuf's own limit on one message."""
MAX_TEXT_NESTING = 200
"""Deepest bracket nesting of ONNX text; its parser recurses on the native stack."""

TEXT_SUFFIXES = (".onnxtxt", ".onnxtext", ".txt")
FORMATS = {".textproto": "textproto", ".prototxt": "textproto", ".pbtxt": "textproto", ".json": "json"}

_EXPORT = "Export the model to ONNX first and give that file."


@dataclass(frozen=True)
class Source:
    """A model as it was written.

    Attributes:
        proto: owned by the reader, so that it may be changed.
        folder: the only folder (resolved) that external data may lie in; None if the model is no file.
        beside: the folder of the path that was given, where the data of a linked model may be linked too.
        name: what messages call the model.
    """

    proto: onnx.ModelProto
    folder: str | None
    beside: str | None
    name: str


def open_source(source: str | os.PathLike[str] | bytes | onnx.ModelProto) -> Source:
    """Read `source`: a path, a folder, the bytes of a file, ONNX text or a protobuf (which is copied).

    Raises:
        ModelError: GO101 if it cannot be read, GO102 if it is no ONNX model, GO103 if it is cut or
            corrupt, GO108 if it is too large or too deeply nested.
    """
    if isinstance(source, onnx.ModelProto):
        proto = onnx.ModelProto()
        try:
            proto.CopyFrom(source)
        except (DecodeError, EncodeError) as error:  # copying goes through protobuf's limits
            raise _too_deep("the model") from error
        return Source(proto, None, None, "the model")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return Source(parse_binary(bytes(source), "the bytes"), None, None, "the bytes")
    if isinstance(source, str) and source.lstrip().startswith("<"):
        return Source(parse_text(source, "the text"), None, None, "the text")
    if not isinstance(source, (str, os.PathLike)):
        raise ModelError(
            "GO101",
            "this is not something a model can be read from",
            found=type(source).__name__,
            expected="a path, bytes, ONNX text, an onnx.ModelProto or a graphopt model",
        )
    path = _model_file(source)
    try:
        real = os.path.realpath(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _unreadable(path, error) from error
    data = read_regular_file(real)
    suffix = Path(path).suffix.lower()
    if suffix in TEXT_SUFFIXES:
        proto = parse_text(_decode(data, path), path)
    elif suffix in FORMATS:
        proto = _parse_format(data, FORMATS[suffix], path)
    else:
        proto = parse_binary(data, path)
    return Source(proto, os.path.dirname(real), os.path.dirname(os.path.abspath(path)), path)


def _model_file(source: str | os.PathLike[str]) -> str:
    """The file that `source` means: itself, or the one model in a folder."""
    path = os.fspath(source)
    if not os.path.isdir(path):
        return path
    try:
        names = sorted(n for n in os.listdir(path) if n.lower().endswith(".onnx"))
    except OSError as error:
        raise _unreadable(path, error) from error
    if "model.onnx" in names:
        names = ["model.onnx"]
    if len(names) != 1:
        raise ModelError(
            "GO101",
            "the folder does not hold exactly one model",
            where=path,
            found=", ".join(names[:8]) + (", …" if len(names) > 8 else "") if names else "no .onnx file",
            expected="one .onnx file, or one called model.onnx",
            next_step="Give the path of the file itself.",
        )
    return os.path.join(path, names[0])


def open_regular_file(path: str) -> int:
    """A file descriptor on `path`, which must be a regular file; never waits for a FIFO or a device.

    Raises ModelError GO101.
    """
    try:
        _require_regular(path, os.stat(path).st_mode)
        # Between the two looks the file can change: without O_NONBLOCK a FIFO would then hang us.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _unreadable(path, error) from error
    try:
        _require_regular(path, os.fstat(descriptor).st_mode)
    except ModelError:
        os.close(descriptor)
        raise
    return descriptor


def _require_regular(path: str, mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    raise ModelError(
        "GO101",
        "only regular files are read",
        where=path,
        found=kinds.get(stat.S_IFMT(mode), "a special file"),
        expected="a regular file",
        next_step="Save the model to a file first.",
    )


def _unreadable(path: str, error: Exception) -> ModelError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ModelError(
        "GO101",
        "the file cannot be read",
        where=repr(path) if "\0" in path else path,
        found=reason,
        next_step="Check the path and its permissions.",
    )


def read_regular_file(path: str) -> bytes:
    """The contents of the regular file `path`, of at most what one protobuf can hold."""
    with os.fdopen(open_regular_file(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_PROTO_BYTES:
            raise ModelError(
                "GO108",
                "the model is too large for one protobuf file",
                where=path,
                found=f"{size} bytes",
                expected=f"at most {MAX_PROTO_BYTES}",
                next_step="Save it with its weights as external data.",
            )
        try:
            return file.read(MAX_PROTO_BYTES + 1)
        except OSError as error:
            raise _unreadable(path, error) from error


def parse_binary(data: bytes, name: str) -> onnx.ModelProto:
    """The model in ONNX's binary format. Raises ModelError GO102, GO103 or GO108."""
    if not data:
        raise ModelError("GO103", "the file is empty", where=name, next_step="Export or download it again.")
    if len(data) > MAX_PROTO_BYTES:
        raise ModelError(
            "GO108",
            "more bytes than one protobuf can hold",
            where=name,
            found=len(data),
            next_step="Use external data.",
        )
    kind = recognise(data[:4096])
    if kind is not None:
        raise ModelError("GO102", "this is not an ONNX model", where=name, found=kind[0], next_step=kind[1])
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        if "depth" in str(error).lower():
            raise _too_deep(name) from error
        if data[:1] == b"\x08" and _has_field_keys(data):
            raise ModelError(
                "GO103",
                "the model is cut off or corrupt",
                where=name,
                found=f"{len(data)} bytes that end or break in the middle of a field",
                next_step="Export or download it again.",
            ) from error
        raise _not_a_model(name, "bytes in no known format") from error
    if not proto.HasField("graph"):
        raise _not_a_model(name, "data without a graph")
    return proto


def _has_field_keys(data: bytes) -> bool:
    """Whether `data` starts as ONNX files do: ir_version, then a field that a model has."""
    return len(data) < 3 or (data[1] < 0x40 and data[2] in {0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42})


def _too_deep(name: str) -> ModelError:
    return ModelError(
        "GO108",
        "the model is nested too deeply, or larger than one protobuf",
        where=name,
        expected=f"subgraphs nested no deeper than protobuf reads, and at most {MAX_PROTO_BYTES} bytes",
    )


def _not_a_model(name: str, found: str) -> ModelError:
    return ModelError(
        "GO102",
        "this is not an ONNX model",
        where=name,
        found=found,
        expected="a binary protobuf with an ONNX graph",
        next_step=_EXPORT,
    )


_PREFIXES: tuple[tuple[bytes, str, str], ...] = (
    (
        b"version https://git-lfs",
        "a git-lfs pointer instead of the file's contents",
        "Fetch the contents with `git lfs pull`.",
    ),
    (b"PK\x03\x04", "a zip archive, as PyTorch checkpoints (.pt, .pth) and Keras models are", _EXPORT),
    (b"\x89PNG", "a PNG picture", _EXPORT),
    (b"\xff\xd8\xff", "a JPEG picture", _EXPORT),
    (b"GIF8", "a GIF picture", _EXPORT),
    (b"%PDF", "a PDF document", _EXPORT),
    (b"\x7fELF", "a program", _EXPORT),
    (b"\x1f\x8b", "a gzip archive", "Unpack it first."),
    (b"BZh", "a bzip2 archive", "Unpack it first."),
    (b"\xfd7zXZ", "an xz archive", "Unpack it first."),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", "Unpack it first."),
    (b"\x89HDF", "an HDF5 file, as older Keras models are", _EXPORT),
    (b"GGUF", "a GGUF file", _EXPORT),
    (b"\x93NUMPY", "a NumPy array", "Give the model, not its data."),
)


def recognise(head: bytes) -> tuple[str, str] | None:
    """What a file that is no ONNX model is, by its first bytes, and what to do; None if it may be one."""
    for prefix, kind, advice in _PREFIXES:
        if head.startswith(prefix):
            return kind, advice
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model", "Convert it with tf2onnx first."
    if head[4:8] == b"ORTM":
        return "a model in ONNX Runtime's own format", "Give the .onnx file that it was made from."
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return "a safetensors file, which holds weights but no graph", _EXPORT
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a Python pickle, as old PyTorch checkpoints are (it is not opened)", _EXPORT
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return "an HTML page", "Download the file itself, not the page about it."
    if text.startswith(b"<?xml"):
        return "an XML document, as OpenVINO models are", _EXPORT
    if text.startswith(b"<") and b"ir_version" in text:
        return "ONNX text in a file with a binary suffix", "Name it .onnxtxt."
    if text.startswith(b"{"):
        return "JSON", "Name it .json if it is a model in ONNX's JSON form."
    if len(head) > 2 and re.fullmatch(rb"[\t\n\r\x20-\x7e]+", head):
        return "plain text", "Name it .onnxtxt or .textproto if it is a model written as text."
    return None


def _decode(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_a_model(name, "text that is not UTF-8") from error


def parse_text(text: str, name: str) -> onnx.ModelProto:
    """The model in ONNX's textual form. Raises ModelError GO102 or GO108."""
    depth = 0
    for bracket in re.findall(r'"(?:[^"\\]|\\.)*"|[(){}]', text):
        depth += 1 if bracket in "({" else -1 if bracket in ")}" else 0
        if depth > MAX_TEXT_NESTING:
            raise _too_deep(name)
    try:
        return onnx.parser.parse_model(text)
    except DecodeError as error:  # the result comes back as a message
        raise _too_deep(name) from error
    except onnx.parser.ParseError as error:
        reason = error.args[0] if error.args else ""
        shown = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise ModelError("GO102", f"the ONNX text cannot be parsed: {shown.strip()}", where=name) from error
    # What the native parser raises on numbers that are out of range and on text that is not Unicode.
    except (IndexError, ValueError, RuntimeError, TypeError, UnicodeError, OverflowError) as error:
        reason = str(error).split("\n", 1)[0]
        raise ModelError(
            "GO102",
            f"the ONNX text cannot be parsed: a number or a character is invalid ({reason})",
            where=name,
        ) from error


def _parse_format(data: bytes, form: str, name: str) -> onnx.ModelProto:
    """The model in one of protobuf's own text forms."""
    from google.protobuf import json_format, text_format  # type: ignore[import-untyped]

    proto = onnx.ModelProto()
    text = _decode(data, name)
    try:
        if form == "json":
            json_format.Parse(text, proto)
        else:
            text_format.Parse(text, proto)
    except RecursionError as error:
        raise _too_deep(name) from error
    except (json_format.ParseError, text_format.ParseError, ValueError, TypeError, AttributeError) as error:
        reason = str(error).split("\n", 1)[0][:300]
        raise ModelError("GO102", f"the {form} cannot be parsed: {reason}", where=name) from error
    if not proto.HasField("graph"):
        raise _not_a_model(name, "data without a graph")
    return proto
