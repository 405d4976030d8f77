"""Drafts: nodes as an opset upgrade will leave them, before anything in the model changes.

A :class:`Draft` stands for a node that keeps its outputs. Adapters edit drafts only, so that a node
that cannot be upgraded leaves the model as it was; what has to be computed in front of the node is
emitted as further drafts, which are raised to the target opset like any other node.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx.defs
import onnx_ir.convenience

from graphopt.errors import ModelError
from graphopt.ir import Attr, AttributeType, DataType, Graph, Node, Shape, Tensor, TensorType, Value
from graphopt.ir.edit import Namer, make_node

_ELEMENT_TYPE_NUMBERS = frozenset(member.value for member in DataType)


@functools.cache
def schema(op_type: str, version: int) -> onnx.defs.OpSchema | None:
    """The schema of a default-domain operator in opset `version`, or None if it is not in it."""
    try:
        return onnx.defs.get_schema(op_type, version, "")
    except onnx.defs.SchemaError:
        return None


def describe(node: Node) -> str:
    """The operator and the name that a message shows for `node`."""
    names = [node.name, *(v.name for v in node.outputs)]
    return f"{node.op_type} '{next((n for n in names if n), '')}'"


class ElementTypes:
    """Element types of values in a model of one opset, from declarations and operator signatures."""

    def __init__(self, opset: int) -> None:
        self._opset = opset
        self._known: dict[Value, DataType | None] = {}

    def __call__(self, value: Value | None) -> DataType | None:
        """The element type of `value`, or None if unknown. Linear over all calls."""
        path: list[Value] = []
        found: DataType | None = None
        while value is not None:
            if value in self._known:
                found = self._known[value]
                break
            self._known[value] = None
            path.append(value)
            found = value.dtype or self._stated_by_producer(value)
            if found is not None:
                break
            value = self._input_of_same_type(value)
        self._known.update(dict.fromkeys(path, found))
        return found

    @staticmethod
    def _stated_by_producer(value: Value) -> DataType | None:
        node = value.producer()
        if node is None or node.domain:
            return None
        name, type_ = ("to", AttributeType.INT) if node.op_type == "Cast" else ("value", AttributeType.TENSOR)
        attr = node.attributes.get(name)
        if node.op_type not in ("Cast", "Constant") or attr is None or attr.is_ref() or attr.type != type_:
            return None
        if node.op_type == "Constant":
            return attr.as_tensor().dtype
        return DataType(attr.value) if attr.value in _ELEMENT_TYPE_NUMBERS else None

    def _input_of_same_type(self, value: Value) -> Value | None:
        node, index = value.producer(), value.index()
        if node is None or node.domain or index is None:
            return None
        signature = schema(node.op_type, self._opset)
        if signature is None or not signature.outputs:
            return None
        output = signature.outputs[min(index, len(signature.outputs) - 1)]
        for formal, actual in zip(signature.inputs, node.inputs, strict=False):
            if formal.type_str == output.type_str and formal.is_homogeneous and output.is_homogeneous:
                return actual
        return None


@dataclass
class Plan:
    """What the drafts of one upgrade share: names, element types and the constants to register."""

    namer: Namer
    element_type: ElementTypes
    constants: list[tuple[Graph, Value]] = field(default_factory=list)


@dataclass
class Draft:
    """A node as it will be.

    Attributes:
        plan: what all drafts of one upgrade share.
        node: the node that will be rewritten: one of the model's, or a new one.
        origin: the node of the model that it comes from: the same, or the one it is inserted before.
        version: the opset that the draft is valid in.
        before: new nodes to insert in front of this one, in order.
    """

    plan: Plan
    node: Node
    origin: Node
    op_type: str
    version: int
    inputs: list[Value | None]
    attributes: dict[str, Attr]
    outputs: list[Value]
    before: list[Draft] = field(default_factory=list)

    @classmethod
    def of(cls, node: Node, version: int, plan: Plan) -> Draft:
        """The draft of `node`, a node of the model in opset `version`, unchanged so far."""
        return cls(
            plan,
            node,
            node,
            node.op_type,
            version,
            list(node.inputs),
            dict(node.attributes),
            list(node.outputs),
        )

    def take(self, name: str, type_: AttributeType) -> Any:
        """Remove attribute `name` and return its value, or None where it is absent.

        Raises:
            ModelError: GO109 if the attribute is not of `type_`.
        """
        attr = self.attributes.pop(name, None)
        if attr is None:
            return None
        if attr.is_ref() or attr.type != type_:
            raise self.error(f"attribute '{name}' is malformed", found=attr.type, expected=type_)
        return attr.as_string() if type_ == AttributeType.STRING else attr.value

    def require(self, name: str, type_: AttributeType) -> Any:
        """As :meth:`take`, for an attribute that the operator must have."""
        if name not in self.attributes:
            raise self.error(f"attribute '{name}' is missing")
        return self.take(name, type_)

    def set(self, **attributes: Any) -> None:
        """Set attributes from plain Python values."""
        for name, value in attributes.items():
            attr = value if isinstance(value, Attr) else onnx_ir.convenience.convert_attribute(name, value)
            self.attributes[name] = attr

    def text(self, name: str, default: str) -> str:
        """String attribute `name`, which stays, or `default` where it is absent.

        Raises:
            ModelError: GO109 if the attribute is not a string.
        """
        attr = self.attributes.get(name)
        if attr is None:
            return default
        value = self.take(name, AttributeType.STRING)
        self.attributes[name] = attr
        return str(value)

    def set_input(self, index: int, value: Value | None) -> None:
        """Set input `index`, leaving the optional inputs between it and the last one empty."""
        self.inputs += [None] * (index + 1 - len(self.inputs))
        self.inputs[index] = value

    def input(self, index: int) -> Value | None:
        """Input `index`, or None if it is absent."""
        return self.inputs[index] if index < len(self.inputs) else None

    def stem(self, suffix: str) -> str:
        """A name for something that belongs to this node."""
        return f"{self.origin.name or self.origin.outputs[0].name or self.op_type}_{suffix}"

    def constant(self, suffix: str, data: np.ndarray) -> Value:
        """A new initializer of the node's graph, named after the node."""
        name = self.plan.namer.value(self.stem(suffix))
        dtype = DataType.from_numpy(data.dtype)
        held = Tensor(data, dtype, name=name)
        value = Value(name=name, shape=Shape(data.shape), type=TensorType(dtype), const_value=held)
        graph = self.origin.graph
        assert graph is not None
        self.plan.constants.append((graph, value))
        return value

    def int64s(self, suffix: str, data: Sequence[int]) -> Value:
        """A new one-dimensional int64 initializer."""
        return self.constant(suffix, np.array(data, np.int64).reshape(-1))

    def emit(
        self,
        op_type: str,
        inputs: Sequence[Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        since: int = 0,
    ) -> Value:
        """Put a one-output node in front of this one; return its output.

        The node is in the opset of this draft, or in `since` if its operator is younger than that.
        """
        name = self.stem(op_type)
        outputs = [self.plan.namer.value(name)]
        made = make_node(op_type, [], attributes, name=self.plan.namer.node(name), output_names=outputs)
        draft = Draft.of(made, max(self.version, since), self.plan)
        draft.origin = self.origin
        draft.inputs = list(inputs)
        self.before.append(draft)
        return made.outputs[0]

    def become(self, op_type: str, inputs: Sequence[Value | None], **attributes: Any) -> None:
        """Turn this node, which keeps its outputs, into another operator."""
        self.op_type, self.inputs, self.attributes = op_type, list(inputs), {}
        self.set(**attributes)

    def drop_unused_outputs(self, keep: int) -> None:
        """Cut the outputs to the first `keep`.

        Raises:
            ModelError: GO109 if one of the others is used.
        """
        for value in self.outputs[keep:]:
            if value.uses() or value.is_graph_output():
                raise self.error(
                    f"output '{value.name}' exists in no newer {self.op_type}",
                    next_step="Export the model for inference.",
                )
        del self.outputs[keep:]

    def error(
        self, message: str, *, found: object = None, expected: object = None, next_step: str | None = None
    ) -> ModelError:
        """A GO109 that names the node."""
        where = describe(self.origin)
        return ModelError(
            "GO109",
            f"cannot become {self.op_type}-{self.version}: {message}",
            where=where,
            found=found,
            expected=expected,
            next_step=next_step,
        )
