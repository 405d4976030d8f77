"""The IR: onnx-ir behind one façade, so that the rest of graphopt imports from here only.

A :class:`Model` owns a :class:`Graph` of :class:`Node` connected by :class:`Value`. Weights are
tensors that stay on disk, memory-mapped, until somebody asks for their numbers.
"""

from __future__ import annotations

from onnx_ir import (
    Attr,
    AttributeType,
    DataType,
    ExternalTensor,
    Graph,
    GraphView,
    LazyTensor,
    Model,
    Node,
    OptionalType,
    SequenceType,
    Shape,
    StringTensor,
    SymbolicDim,
    Tensor,
    TensorProtocol,
    TensorType,
    Value,
    tensor,
)

__all__ = [
    "Attr",
    "AttributeType",
    "DataType",
    "ExternalTensor",
    "Graph",
    "GraphView",
    "LazyTensor",
    "Model",
    "Node",
    "OptionalType",
    "SequenceType",
    "Shape",
    "StringTensor",
    "SymbolicDim",
    "Tensor",
    "TensorProtocol",
    "TensorType",
    "Value",
    "tensor",
]
