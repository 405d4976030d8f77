"""Reading models: from any source, checked, in canonical form or as they were written.

A model is untrusted input. Whatever is wrong with it ends in a :class:`~graphopt.errors.GraphoptError`
that says where; nothing in it is executed, and weights in external files are mapped, not copied.
"""

from __future__ import annotations

import os

import onnx
import onnx_ir
from onnx_ir.serde import SerdeError

from graphopt.errors import ModelError
from graphopt.ir import Attr, AttributeType, ExternalTensor, Graph, Model
from graphopt.ir.check import check_structure
from graphopt.ir.external import ExternalFiles
from graphopt.ir.ingest import normalize
from graphopt.ir.operators import check_operators, check_types
from graphopt.ir.proto_check import check_proto
from graphopt.ir.query import walk_graphs
from graphopt.ir.save import save
from graphopt.ir.source import open_source

__all__ = ["ModelSource", "load", "read", "save"]

ModelSource = str | os.PathLike[str] | bytes | onnx.ModelProto | Model


def load(source: ModelSource) -> Model:
    """The model behind `source`, in canonical form (see :mod:`graphopt.ir.ingest`).

    Args:
        source: the path of a model (``.onnx``; ONNX text as ``.onnxtxt`` or ``.txt``; ``.textproto``;
            ``.json``), a folder with one model, the bytes of a model file, ONNX text, a protobuf, or a
            model in memory. Protobufs and models are copied (their weights are shared or copied as they
            are) and never changed.

    Raises:
        ModelError: GO101 to GO110: the model cannot be read, is invalid, or exceeds a limit.
        UnsupportedError: GO112: valid ONNX that the IR has no form for.
    """
    model = normalize(read(source))
    check_types(model)
    return model


def read(source: ModelSource) -> Model:
    """The model behind `source`, checked like in :func:`load` but otherwise as it was written.

    Only nodes that are out of order are sorted. Takes and raises what :func:`load` does.
    """
    if isinstance(source, Model):
        check_structure(source)
        check_operators(source)
        return source.clone()
    opened = open_source(source)
    files = ExternalFiles(opened.folder, opened.beside)
    check_proto(opened.proto, files)
    try:
        model = onnx_ir.from_proto(opened.proto)
    except SerdeError as error:
        reason = error.__cause__ or error
        raise ModelError(
            "GO105", f"the graph cannot be built: {str(reason)[:500]}", where=opened.name
        ) from error
    _map_external_tensors(model.graph, files)
    for function in model.functions.values():
        _map_external_tensors(function.graph, files)
    check_operators(model)
    return model


def _map_external_tensors(main: Graph, files: ExternalFiles) -> None:
    """Replace tensors that would open their file by its path by windows into the file as it was checked."""
    for graph in walk_graphs(main):
        for value in graph.initializers.values():
            if isinstance(value.const_value, ExternalTensor):
                value.const_value = files.tensor(value.const_value)
        for node in graph:
            for name, attr in list(node.attributes.items()):
                if attr.is_ref():
                    continue
                if attr.type == AttributeType.TENSOR and isinstance(attr.value, ExternalTensor):
                    node.attributes[name] = Attr(name, attr.type, files.tensor(attr.value))
                elif attr.type == AttributeType.TENSORS:
                    tensors = [files.tensor(t) if isinstance(t, ExternalTensor) else t for t in attr.value]
                    node.attributes[name] = Attr(name, attr.type, tensors)
