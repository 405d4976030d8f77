"""The examples in the docstrings of passes: found, and read into models.

An example is a paragraph of at most six lines::

    given:  float[N, 8] x; w = float[8, 4] 0.5; opset 20
    before: y = MatMul(Mul(x, 2.0), w)
    after:  y = MatMul(x, float[8, 4] 1.0)
    pass:   fold-scales

Statements stand between semicolons, and those of ``given`` belong to both models. ``float[N, 8] x`` is
an input; ``opset 20`` the operator set, else 18; ``=> y, z`` the outputs, else what is not read. All
else assigns an expression: calls as in ONNX text, which may be nested, and constants, which stand as in
JSON, of int64, float32 or bool or of the type before them, and fill its shape. Attributes may be left
out where they are the default. ``float[N] y = Reshape(x, s)`` says what is known of the output y, where
that is not what inference finds. ``pass`` has the options of the pass.
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import numpy as np
import onnx
import onnx.defs
import onnx.parser
import onnx_ir
from checking import HEADER

from graphopt.ir import Model, Shape
from graphopt.ir.io import load
from graphopt.ir.query import walk_graphs
from graphopt.transform import Pass

FIELDS = ("given", "before", "after", "pass")
TYPE = r"(bool|float16|bfloat16|float|double|u?int(?:4|8|16|32|64)|float8e\w+)(?:\[([^\]]*)\])?"


def example_of(cls: type[Pass]) -> dict[str, str] | None:
    """The fields of the example in the docstring of `cls`; None if it has none."""
    paragraph = cls.example()
    if paragraph is None:
        return None
    assert paragraph.count("\n") < 6, "an example has at most six lines"
    parts = re.split(rf"^({'|'.join(FIELDS)}): +", paragraph, flags=re.MULTILINE)
    return {k: " ".join(v.split()) for k, v in zip(parts[1::2], parts[2::2], strict=True)}


def model_of(source: str) -> Model:
    """The model that the statements in `source` describe, in canonical form."""
    builder = _Builder()
    for statement in source.split(";"):
        if statement.strip():
            builder.add(statement.strip())
    model = load(builder.model().SerializeToString())
    for output in model.graph.outputs:
        if output.name in builder.known:
            output.shape = Shape(builder.known[output.name])
    return model


def without_defaults(model: Model) -> Model:
    """A copy of `model` without the attributes that are the default of their operator."""
    copy = model.clone()
    for node in (n for graph in walk_graphs(copy.graph) for n in graph if not n.domain):
        schema = onnx.defs.get_schema(node.op_type, copy.opset_imports[""], "")
        for name, attribute in list(node.attributes.items()):
            default = schema.attributes[name].default_value
            if default.type and onnx_ir.to_proto(attribute) == default:
                del node.attributes[name]
    return copy


@dataclasses.dataclass
class _Builder:
    """The parts of a model, statement by statement."""

    opset: int = 18
    inputs: list[onnx.ValueInfoProto] = dataclasses.field(default_factory=list)
    constants: list[onnx.TensorProto] = dataclasses.field(default_factory=list)
    nodes: list[onnx.NodeProto] = dataclasses.field(default_factory=list)
    outputs: list[str] = dataclasses.field(default_factory=list)
    known: dict[str, list[int | str]] = dataclasses.field(default_factory=dict)
    read: set[str] = dataclasses.field(default_factory=set)

    def add(self, statement: str) -> None:
        """Add what one statement says."""
        if match := re.fullmatch(r"opset (\d+)", statement):
            self.opset = int(match[1])
        elif match := re.fullmatch(r"=> *(.*)", statement):
            self.outputs = re.split(" *, *", match[1])
        elif match := re.fullmatch(TYPE + r" (\w+)", statement):
            shape = _dims(match[2])
            self.inputs.append(onnx.helper.make_tensor_value_info(match[3], _element(match[1]), shape))
        elif match := re.fullmatch(TYPE + r" ((\w+) = .*)", statement):
            self.known[match[4]] = _dims(match[2])
            self.add(match[3])
        else:
            targets, _, text = statement.partition(" = ")
            _, rest = self.expression(text, targets)
            assert not rest, f"{rest!r} is left over in {statement!r}"

    def expression(self, text: str, targets: str = "") -> tuple[str, str]:
        """Add the expression that `text` starts with, as `targets`: its name, and the rest of the text."""
        text = text.lstrip()
        typed = re.match(TYPE + r" +", text)
        try:
            value, end = json.JSONDecoder().raw_decode(text, typed.end() if typed else 0)
        except json.JSONDecodeError:
            name = re.match(r"[\w.]*", text)
            assert name is not None
            rest = text[name.end() :].lstrip()
            if rest[:1] in ("<", "("):
                return self.call(name[0], rest, targets)
            self.read.add(name[0])
            return name[0], rest
        name_of_constant = targets or f"constant{len(self.constants)}"
        self.constants.append(_tensor(value, typed, name_of_constant))
        return name_of_constant, text[end:].lstrip()

    def call(self, operator: str, text: str, targets: str) -> tuple[str, str]:
        """Add a node whose attributes and operands `text` starts with."""
        attributes = ""
        if text.startswith("<"):
            end = _end_of_attributes(text)
            attributes, text = text[:end], text[end:].lstrip()
            self.read.update(re.findall(r"\w+", attributes))  # what a body may capture
        operands = []
        separator, text = text[0], text[1:]
        while separator != ")":
            operand, text = self.expression(text)
            operands.append(operand)
            separator, text = text[0], text[1:].lstrip()
            assert separator in ",)", f"{separator!r} stands where an operand of {operator} ends"
        targets = targets or f"value{len(self.nodes)}"
        line = f"{targets} = {operator} {attributes} ({', '.join(operands)})"
        self.nodes.append(onnx.parser.parse_node(line))
        return targets, text

    def model(self) -> onnx.ModelProto:
        """The model."""
        names = [o for node in self.nodes for o in node.output]
        outputs = self.outputs or [n for n in names if n not in self.read and not n.startswith("value")]
        graph = onnx.helper.make_graph(
            self.nodes, "g", self.inputs, [onnx.ValueInfoProto(name=n) for n in outputs], self.constants
        )
        model = onnx.parser.parse_model(HEADER.format(opset=self.opset) + "g () => () {}")
        model.graph.CopyFrom(graph)
        return model


def _dims(text: str | None) -> list[int | str]:
    return [int(d) if d.isdecimal() else d for d in re.findall(r"\w+", text or "")]


def _element(name: str) -> int:
    return int(onnx.TensorProto.DataType.Value(name.upper()))


def _tensor(value: Any, typed: re.Match[str] | None, name: str) -> onnx.TensorProto:
    """A constant: of the type and shape in front of it, else of its own."""
    array = np.array(value)
    if typed is None:
        return onnx.numpy_helper.from_array(
            array.astype(np.float32) if array.dtype.kind == "f" else array, name
        )
    if typed[2] is not None:
        array = np.broadcast_to(array, [int(d) for d in re.findall(r"\d+", typed[2])])
    return onnx.numpy_helper.from_array(
        array.astype(onnx.helper.tensor_dtype_to_np_dtype(_element(typed[1]))), name
    )


def _end_of_attributes(text: str) -> int:
    """Where the attributes end that `text` starts with; strings and the arrow of a body close nothing."""
    depth = 0
    for match in re.finditer(r'"[^"]*"|=>|[<>]', text):
        depth += {"<": 1, ">": -1}.get(match[0], 0)
        if depth == 0:
            return match.end()
    raise AssertionError(f"attributes do not end in {text!r}")
