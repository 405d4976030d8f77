"""The functions that the ONNX standard defines operators by, as models with one call inlined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import onnx.defs
import onnx_ir.serde
from onnx import helper

from graphopt.errors import ModelError
from graphopt.ir import AttributeType, Model, Node, Value
from graphopt.ir.io import load

_DOMAIN = "graphopt.function"
_NAME = "body"


def has_body(node: Node, opset: int) -> bool:
    """Whether the schema of `node` as of `opset` defines it as a function that can be emitted."""
    if any(a.type in (AttributeType.GRAPH, AttributeType.GRAPHS) for a in node.attributes.values()):
        return False  # its subgraphs would capture values of this model
    schema = _schema(node, opset)
    return schema is not None and bool(schema.has_function or schema.has_context_dependent_function)


def body_of(
    node: Node, opset: int, types: Sequence[onnx.TypeProto | None]
) -> tuple[Model, list[Value | None]] | None:
    """The function of `node` as a model, with the model's input for each operand; None if it has none.

    Args:
        types: of the operands; None where one is absent.
    """
    schema = _schema(node, opset) if has_body(node, opset) else None
    if schema is None:
        return None
    call = _call(node, schema, types)
    given = [onnx.TypeProto() if type_ is None else type_ for type_ in types]
    function = _function(schema, opset, call, given)
    if function is None:
        return None
    # A body may leave out what its call does not want.
    wanted = [i for i, name in enumerate(call.output) if name]
    kept, results = [function.output[i] for i in wanted], [call.output[i] for i in wanted]
    del function.output[:], call.output[:]
    function.output.extend(kept)
    call.output.extend(results)
    function.domain, function.name = _DOMAIN, _NAME
    call.domain, call.op_type = _DOMAIN, _NAME
    inputs = [
        onnx.ValueInfoProto(name=name, type=type_)
        for name, type_ in zip(call.input, given, strict=True)
        if name
    ]
    graph = helper.make_graph([call], "function", inputs, [onnx.ValueInfoProto(name=n) for n in call.output])
    imports = [*function.opset_import, helper.make_opsetid(_DOMAIN, 1)]
    if not any(o.domain in ("", "ai.onnx") for o in imports):
        imports.append(helper.make_opsetid("", opset))
    try:
        model = load(helper.make_model(graph, functions=[function], opset_imports=imports, ir_version=10))
    except ModelError:  # such as a body for element types that its operators do not take
        return None
    by_name = {value.name: value for value in model.graph.inputs}
    return model, [by_name.get(name) if name else None for name in call.input]


def _schema(node: Node, opset: int) -> Any:
    """The schema of the operator, or None; its stubs do not list what concerns functions."""
    try:
        return onnx.defs.get_schema(node.op_type, opset, node.domain or "")
    except onnx.defs.SchemaError:
        return None


def _call(node: Node, schema: Any, operands: Sequence[onnx.TypeProto | None]) -> onnx.NodeProto:
    """The node with plain names, and the attributes' defaults, which functions refer to, written out."""
    call = onnx_ir.serde.serialize_node(node)
    call.ClearField("metadata_props")
    del call.input[:]
    call.input.extend("" if operand is None else f"i{index}" for index, operand in enumerate(operands))
    del call.output[:]
    call.output.extend(f"o{index}" if value.name else "" for index, value in enumerate(node.outputs))
    given = {attribute.name for attribute in call.attribute}
    call.attribute.extend(
        attribute.default_value
        for name, attribute in schema.attributes.items()
        if name not in given and attribute.default_value.name
    )
    return call


def _function(
    schema: Any, opset: int, call: onnx.NodeProto, types: Sequence[onnx.TypeProto]
) -> onnx.FunctionProto | None:
    """The newest form of the function that is not newer than the model's opset, or else the oldest."""

    def choose(versions: Sequence[int]) -> int:
        return max((v for v in versions if v <= opset), default=min(versions))

    if schema.function_opset_versions:
        version = choose(schema.function_opset_versions)
        fixed: onnx.FunctionProto = onnx.FunctionProto.FromString(
            schema.get_function_with_opset_version(version)
        )
        return fixed
    if schema.context_dependent_function_opset_versions:
        version = choose(schema.context_dependent_function_opset_versions)
        data = schema.get_context_dependent_function_with_opset_version(
            version, call.SerializeToString(), [t.SerializeToString() for t in types]
        )
        function = onnx.FunctionProto.FromString(data)
        return function if function.node else None
    return None
