"""Reading and writing models."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import onnx_ir

from graphopt.errors import ModelError
from graphopt.ir import Model, text
from graphopt.ir.ingest import normalize


def load(source: str | os.PathLike[str] | bytes | onnx.ModelProto | Model) -> Model:
    """The model behind `source`, in canonical form (see :mod:`graphopt.ir.ingest`)."""
    if isinstance(source, Model):
        return normalize(source.clone())
    if isinstance(source, onnx.ModelProto):
        return normalize(onnx_ir.from_proto(source))
    if isinstance(source, bytes):
        return normalize(onnx_ir.from_proto(onnx.load_from_string(source)))
    if isinstance(source, str) and source.lstrip().startswith("<"):
        return normalize(text.parse(source))
    path = Path(source)
    if not path.exists():
        raise ModelError("GO101", "there is no such file", where=str(path))
    return normalize(onnx_ir.load(path))


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Write `model` to `path`."""
    onnx_ir.save(model, path)
