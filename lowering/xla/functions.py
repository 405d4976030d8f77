"""Operators without a lowering of their own, by the function that their ONNX schema defines them as.

The function becomes a model of its own, one call inlined, and is emitted in the place of the node: under the
node's scope, so that what it costs counts as the node's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.defs
import onnx_ir.serde
from onnx import helper

from graphopt.errors import ModelError
from graphopt.ir import AttributeType, Model, Node, Value
from graphopt.ir.io import load

if TYPE_CHECKING:
    from graphopt.lowering.xla.emit import Emitter

_DOMAIN = "graphopt.function"
_NAME = "body"


def has_body(node: Node, opset: int) -> bool:
    """Whether the schema of `node` as of `opset` defines it as a function that can be emitted."""
    if any(a.type in (AttributeType.GRAPH, AttributeType.GRAPHS) for a in node.attributes.values()):
        return False  # its subgraphs would capture values of this model
    schema = _schema(node, opset)
    return schema is not None and bool(schema.has_function or schema.has_context_dependent_function)


def emit_body(
    emitter: Emitter, node: Node, operands: Sequence[Any], opset: int, scope: str
) -> list[Any] | None:
    """The outputs of `node` by its function, traced under `scope`; None if it has no function."""
    from graphopt.lowering.xla.emit import StaticOperandRequired, graph_inputs_behind

    found = body_of(node, opset, operands)
    if found is None:
        return None
    model, inputs = found
    inner = type(emitter)(model, {}, precision=emitter.precision, scope=scope)
    env = {value: operand for value, operand in zip(inputs, operands, strict=True) if value is not None}
    try:
        inner.run(model.graph, env)
    except StaticOperandRequired as error:  # it names the function's inputs
        outer = [
            graph_inputs_behind(node.inputs[index], emitter.model.graph)
            for index, value in enumerate(inputs)
            if value is not None and value.name in error.inputs
        ]
        error.inputs = frozenset().union(*outer)
        raise
    results = iter([inner.lookup(value, env) for value in model.graph.outputs])
    return [next(results) if value.name else None for value in node.outputs]


def body_of(node: Node, opset: int, operands: Sequence[Any]) -> tuple[Model, list[Value | None]] | None:
    """The function of `node` as a model, with the model's input for each operand; None if it has none.

    Args:
        operands: arrays with a shape and a dtype, None where one is absent. Sequences are not taken.
    """
    schema = _schema(node, opset) if has_body(node, opset) else None
    if schema is None or any(isinstance(operand, list) for operand in operands):
        return None
    call = _call(node, schema, operands)
    types = [_type_of(operand) for operand in operands]
    function = _function(schema, opset, call, types)
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
        for name, type_ in zip(call.input, types, strict=True)
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


def _call(node: Node, schema: Any, operands: Sequence[Any]) -> onnx.NodeProto:
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


def _type_of(operand: Any) -> onnx.TypeProto:
    if operand is None:
        return onnx.TypeProto()
    dtype = np.dtype(np.int64) if operand.dtype == object else np.dtype(operand.dtype)
    shape = [d if isinstance(d, int) else None for d in operand.shape]
    return helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(dtype), shape)


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
