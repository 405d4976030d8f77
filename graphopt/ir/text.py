"""ONNX's textual form: parsing, canonical printing and structural equality of models."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx_ir

from graphopt.errors import ModelError
from graphopt.ir import AttributeType, Graph, Model, Node, Value
from graphopt.ir.provenance import origins
from graphopt.ir.query import subgraphs


def parse(text: str) -> Model:
    """The model written in ONNX's textual form (``<ir_version: 10, opset_import: ["" : 18]> …``).

    Raises ModelError (GO102) with the parser's position.
    """
    try:
        proto = onnx.parser.parse_model(text)
    except onnx.parser.ParseError as error:
        raise ModelError("GO102", f"the ONNX text cannot be parsed: {str(error).strip()}") from error
    return onnx_ir.from_proto(proto)


def canonical(model: Model) -> str:
    """A text that is equal for two models exactly when they compute the same thing the same way.

    Values and nodes are numbered in order of use instead of named, so names of intermediate values,
    provenance and doc strings do not matter; names of inputs and outputs, constants and attributes do.
    """
    return "\n".join(_canonical_graph(model.graph, {}, 0))


def listing(model: Model) -> str:
    """The nodes of `model` line by line, with names and types; weights by type and shape only."""
    lines = []
    for depth, graph in _nested(model.graph, 0):
        pad = "  " * depth
        lines.append(pad + "inputs " + ", ".join(f"{v.name}: {value_type(v)}" for v in graph.inputs))
        lines += [pad + f"weight {name}: {value_type(value)}" for name, value in graph.initializers.items()]
        lines += [pad + node_line(node) for node in graph]
        lines.append(pad + "outputs " + ", ".join(str(v.name) for v in graph.outputs))
    return "\n".join(lines) + "\n"


def node_line(node: Node) -> str:
    """`node` as :func:`listing` shows it: results with types, operator, operands, name and origins."""
    operands = ", ".join("_" if v is None else str(v.name) for v in node.inputs)
    results = ", ".join(f"{v.name}: {value_type(v)}" for v in node.outputs)
    domain = f"{node.domain}." if node.domain else ""
    line = f"{results} = {domain}{node.op_type}{_attributes(node)}({operands})"
    return f"{line}  # {node.name} <- {', '.join(origins(node))}"


def _nested(graph: Graph, depth: int) -> Iterator[tuple[int, Graph]]:
    yield depth, graph
    for node in graph:
        for inner in subgraphs(node):
            yield from _nested(inner, depth + 1)


def _canonical_graph(graph: Graph, outer: dict[Value, str], depth: int) -> Iterator[str]:
    pad = "  " * depth
    names = dict(outer)
    for index, value in enumerate(graph.inputs):
        names[value] = f"%{value.name}" if depth == 0 else f"%in{depth}.{index}"
    yield pad + "inputs " + ", ".join(f"{names[v]}: {value_type(v)}" for v in graph.inputs)
    count = 0
    for node in graph:
        operands = ", ".join(_operand(v, names) for v in node.inputs)
        for value in node.outputs:
            names[value] = f"%{depth}.{count}"
            count += 1
        results = ", ".join(names[v] for v in node.outputs)
        domain = f"{node.domain}." if node.domain else ""
        yield pad + f"{results} = {domain}{node.op_type}{_attributes(node)}({operands})"
        for name in sorted(node.attributes):
            attr = node.attributes[name]
            if attr.type == AttributeType.GRAPH:
                yield pad + f" {name}:"
                yield from _canonical_graph(attr.as_graph(), names, depth + 1)
    outputs = (f"{v.name if depth == 0 else i}={_operand(v, names)}" for i, v in enumerate(graph.outputs))
    yield pad + "outputs " + ", ".join(outputs)


def _operand(value: Value | None, names: dict[Value, str]) -> str:
    if value is None:
        return "_"
    if value in names:
        return names[value]
    if value.const_value is not None:
        return tensor_digest(value.const_value)
    return f"?{value.name}"


def tensor_digest(tensor: Any) -> str:
    """A text for a tensor's type, shape and contents; small numeric ones in the clear."""
    shape = "x".join(str(d) for d in tensor.shape.numpy())
    if tensor.dtype.name == "STRING":
        data: Any = list(tensor.string_data())
        return f"<string[{shape}] {data!r}>"
    if tensor.size <= 8:
        numbers = " ".join(repr(x) for x in np.asarray(tensor.numpy()).reshape(-1).tolist())
        return f"<{tensor.dtype.name.lower()}[{shape}] {numbers}>"
    return (
        f"<{tensor.dtype.name.lower()}[{shape}] sha256:{hashlib.sha256(tensor.tobytes()).hexdigest()[:16]}>"
    )


def _attributes(node: Node) -> str:
    shown = []
    for name in sorted(node.attributes):
        attr = node.attributes[name]
        if attr.is_ref():
            shown.append(f"{name}=@{attr.ref_attr_name}")
        elif attr.type == AttributeType.TENSOR:
            shown.append(f"{name}={tensor_digest(attr.as_tensor())}")
        elif attr.type not in (AttributeType.GRAPH, AttributeType.GRAPHS):
            shown.append(f"{name}={attr.value!r}")
    return f"<{', '.join(shown)}>" if shown else ""


def value_type(value: Value) -> str:
    """The type and shape of `value`, as in ``float[N,4]``; ``?`` where they are not known."""
    dtype = value.dtype.name.lower() if value.dtype is not None else "?"
    return dtype if value.shape is None else f"{dtype}[{','.join(str(d) for d in value.shape.dims)}]"


def structurally_equal(a: Model, b: Model) -> bool:
    """Whether two models have the same interface and the same graph, apart from internal names."""
    return canonical(a) == canonical(b)
