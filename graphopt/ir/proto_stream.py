"""One protobuf file in pieces: the graph first, then its weights, each made when its turn comes.

A protobuf message is the concatenation of its fields, in any order, so the large initializers of a
graph can be written behind everything else of it without being in memory together.

Spec: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

_MODEL_GRAPH = b"\x3a"
_GRAPH_INITIALIZER = b"\x2a"
_TENSOR_RAW_DATA = b"\x4a"


def pieces(proto: onnx.ModelProto, sizes: dict[str, int]) -> Iterator[bytes | str]:
    """The bytes of `proto` in order; the name of an initializer stands for its data.

    Args:
        proto: the model, whose initializers named in `sizes` are declared as external data.
        sizes: by initializer, the number of bytes of its data. `proto` is taken apart.
    """
    heads: list[tuple[bytes, str | None]] = []
    length = 0
    for tensor in proto.graph.initializer:
        name = tensor.name if tensor.name in sizes else None
        if name is not None:
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
        body = tensor.SerializeToString(deterministic=True)
        tail = b"" if name is None else _TENSOR_RAW_DATA + _varint(sizes[name])
        size = len(body) + len(tail) + (0 if name is None else sizes[name])
        head = _GRAPH_INITIALIZER + _varint(size) + body + tail
        heads.append((head, name))
        length += len(head) + (0 if name is None else sizes[name])
    proto.graph.ClearField("initializer")
    graph = proto.graph.SerializeToString(deterministic=True)
    proto.ClearField("graph")
    yield proto.SerializeToString(deterministic=True) + _MODEL_GRAPH + _varint(len(graph) + length) + graph
    for head, name in heads:
        yield head
        if name is not None:
            yield name


def _varint(number: int) -> bytes:
    """`number` in groups of seven bits, the lowest first."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)
