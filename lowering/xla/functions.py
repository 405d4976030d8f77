"""Operators without a lowering of their own, by the function that their ONNX schema defines them as.

The function becomes a model of its own, one call inlined, and is emitted in the place of the node: under the
node's scope, so that what it costs counts as the node's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from graphopt.ir import Node
from graphopt.ir.operator_bodies import body_of

if TYPE_CHECKING:
    from graphopt.lowering.xla.emit import Emitter


def emit_body(
    emitter: Emitter, node: Node, operands: Sequence[Any], opset: int, scope: str
) -> list[Any] | None:
    """The outputs of `node` by its function, traced under `scope`; None if it has no function."""
    from graphopt.lowering.xla.emit import StaticOperandRequired, graph_inputs_behind

    if any(isinstance(operand, list) for operand in operands):
        return None  # sequences
    found = body_of(node, opset, [_type_of(operand) for operand in operands])
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


def _type_of(operand: Any) -> onnx.TypeProto | None:
    if operand is None:
        return None
    dtype = np.dtype(np.int64) if operand.dtype == object else np.dtype(operand.dtype)
    shape = [d if isinstance(d, int) else None for d in operand.shape]
    return helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(dtype), shape)
