"""Which operands of a node share a type variable in its operator's schema."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Container

import onnx.defs

from graphopt.ir import DataType, Model, Node, Value
from graphopt.ir.query import subgraphs
from graphopt.ir.shapes import is_tensor


@dataclasses.dataclass(frozen=True)
class TypedOperands:
    """The inputs and outputs of one node that change their type together.

    Attributes:
        inputs, outputs: positions of the operands of the type in question.
        allowed: the types that the schema's type variable may stand for, as ``tensor(float)``.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    allowed: frozenset[str]

    def allows(self, dtype: DataType) -> bool:
        """Whether the operands may have `dtype`."""
        return f"tensor({_SPELLING.get(dtype, dtype.name.lower())})" in self.allowed


READS_THE_TYPE = frozenset({"BitCast", "CastLike"})
"""Operators whose result depends on the element type of an operand, not on its numbers alone."""

SEVERAL_VARIABLES = frozenset({"Attention", "RMSNormalization"})
"""Operators whose type variables may differ, but which runtimes compute in one type."""

CONTRIB_ACTIVATIONS = frozenset({"BiasGelu", "FastGelu", "Gelu", "QuickGelu"})
"""Operators of com.microsoft that compute number by number, in one type for all their operands."""

_SPELLING = {DataType.FLOAT: "float", DataType.BFLOAT16: "bfloat16", DataType.FLOAT16: "float16"}


def typed_operands(
    node: Node, model: Model, dtype: DataType, others: Container[Value] = ()
) -> TypedOperands | None:
    """The operands of `node` of type `dtype` (or among `others`) that share a type variable.

    None if there are no such inputs, the operator is not ONNX's own or reads the type itself, an operand
    is no plain tensor, or an output of `dtype` has a type that does not follow from these inputs.
    """
    if node.domain or node.op_type in READS_THE_TYPE:
        return None
    schema = _schema(node.op_type, model.opset_imports.get("", 1))
    if schema is None or any(True for _ in subgraphs(node)):
        return None
    present = [v for v in (*node.inputs, *node.outputs) if v is not None]
    if not all(is_tensor(v) for v in present) or any(v.dtype is None for v in node.outputs):
        return None
    inputs = {
        i: _variable(schema.inputs, i)
        for i, v in enumerate(node.inputs)
        if v is not None and (v.dtype == dtype or v in others)
    }
    outputs = {i: _variable(schema.outputs, i) for i, v in enumerate(node.outputs) if v.dtype == dtype}
    variables = set(outputs.values()) or set(list(inputs.values())[:1])
    if node.op_type in SEVERAL_VARIABLES:
        variables |= set(inputs.values())
    elif len(variables) != 1:
        return None
    constraints = {c.type_param_str: frozenset(c.allowed_type_strs) for c in schema.type_constraints}
    chosen = tuple(i for i, found in inputs.items() if found in variables)
    if not chosen or not variables <= set(constraints):
        return None
    allowed = frozenset.intersection(*(constraints[v] for v in variables))
    return TypedOperands(chosen, tuple(outputs), allowed)


def contrib_operands(node: Node, dtype: DataType, others: Container[Value] = ()) -> TypedOperands | None:
    """As :func:`typed_operands`, of an activation function of com.microsoft; None for other nodes.

    The 16-bit types have kernels on CUDA.
    """
    if node.domain != "com.microsoft" or node.op_type not in CONTRIB_ACTIVATIONS:
        return None
    inputs = tuple(
        i for i, v in enumerate(node.inputs) if v is not None and (v.dtype == dtype or v in others)
    )
    outputs = tuple(i for i, v in enumerate(node.outputs) if v.dtype == dtype)
    return TypedOperands(inputs, outputs, frozenset({"tensor(float)", "tensor(float16)"})) if inputs else None


def _variable(formals: object, index: int) -> str:
    listed = list(formals)  # type: ignore[call-overload]
    return str(listed[min(index, len(listed) - 1)].type_str) if listed else ""


@functools.cache
def _schema(op_type: str, opset: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return None
