"""A model file's structure, checked before the IR is built from it.

What the IR would overwrite, skip or stumble over is found here, while it can still be named: names
defined twice, values that nothing defines, cycles, data that does not fit, nesting and inlining without
bounds. What is legal but unusual is put into the form that the IR takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx

from graphopt.errors import ModelError, UnsupportedError
from graphopt.ir.external import ExternalFiles
from graphopt.ir.proto_functions import check_expansion
from graphopt.ir.proto_header import check_header, check_metadata, check_sizes, domain_name
from graphopt.ir.proto_scope import Scope, describe_proto, sort_nodes
from graphopt.ir.proto_tensors import check_tensor, check_text, check_type

_PAYLOAD = {
    onnx.AttributeProto.FLOAT: "f",
    onnx.AttributeProto.INT: "i",
    onnx.AttributeProto.STRING: "s",
    onnx.AttributeProto.TENSOR: "t",
    onnx.AttributeProto.GRAPH: "g",
    onnx.AttributeProto.FLOATS: "floats",
    onnx.AttributeProto.INTS: "ints",
    onnx.AttributeProto.STRINGS: "strings",
    onnx.AttributeProto.TENSORS: "tensors",
    onnx.AttributeProto.GRAPHS: "graphs",
    onnx.AttributeProto.SPARSE_TENSOR: "sparse_tensor",
    onnx.AttributeProto.SPARSE_TENSORS: "sparse_tensors",
    onnx.AttributeProto.TYPE_PROTO: "tp",
    onnx.AttributeProto.TYPE_PROTOS: "type_protos",
}
_NOT_PAYLOAD = frozenset({"name", "type", "doc_string", "ref_attr_name"})


def check_proto(proto: onnx.ModelProto, files: ExternalFiles) -> None:
    """Check `proto` and put it, in place, into a form that the IR can be built from.

    Nodes are sorted if they are out of order, the domain ``ai.onnx`` becomes the empty one, and
    subgraph outputs that their graph does not compute get an Identity.

    Raises:
        ModelError: GO102 to GO108 or GO110.
        UnsupportedError: GO112 for parts of ONNX that the IR has no form for.
    """
    check_header(proto)
    check_sizes(proto)
    _Checker(files).model(proto)
    check_expansion(proto)


class _Checker:
    def __init__(self, files: ExternalFiles) -> None:
        self.files = files

    def model(self, proto: onnx.ModelProto) -> None:
        self.graph(proto.graph, None, "the graph")
        for function in proto.functions:
            self.function(function)

    def function(self, proto: onnx.FunctionProto) -> None:
        where = f"function '{check_text(proto.domain, 'a function')}::{check_text(proto.name, 'a function')}'"
        check_text(proto.overload, where), check_text(proto.doc_string, where)
        check_metadata(proto.metadata_props, where)
        proto.domain = domain_name(proto.domain)
        scope = Scope(None, True)
        for index, name in enumerate(proto.input):
            scope.define(check_text(name, where), f"input {index} of {where}")
        parameters = [check_text(a, where) for a in proto.attribute]
        parameters += [check_text(a.name, where) for a in proto.attribute_proto]
        if len(set(parameters)) != len(parameters):
            raise ModelError("GO105", "an attribute parameter is declared twice", where=where)
        for attribute in proto.attribute_proto:
            self.attribute(attribute, scope, where)
        for value in proto.value_info:
            self.value(value, where)
        self.nodes(proto.node, scope, where)
        for name in proto.output:
            self.output(check_text(name, where), scope, where)

    def graph(self, proto: onnx.GraphProto, outer: Scope | None, where: str) -> Scope:
        check_text(proto.name, where), check_text(proto.doc_string, where)
        check_metadata(proto.metadata_props, where)
        if proto.sparse_initializer:
            raise UnsupportedError(
                "GO112",
                "sparse initializers have no form in graphopt",
                where=f"{where}, '{proto.sparse_initializer[0].values.name}'",
                next_step="Store the weight as a dense initializer.",
            )
        scope = Scope(outer, outer.is_function if outer is not None else False)
        inputs: dict[str, onnx.ValueInfoProto] = {}
        for index, value in enumerate(proto.input):
            self.value(value, f"input {index} of {where}")
            if not value.name:
                raise ModelError("GO105", f"input {index} has no name", where=where)
            if outer is None and value.type.WhichOneof("value") is None:
                raise ModelError("GO105", "the input has no type", where=f"input '{value.name}'")
            scope.define(value.name, f"input {index} of {where}")
            inputs[value.name] = value
        types = self.initializers(proto, inputs, scope, where)
        for value in proto.value_info:
            self.value(value, where)
        self.nodes(proto.node, scope, where)
        self.outputs(proto, inputs, types, scope, where)
        for annotation in proto.quantization_annotation:
            check_metadata(annotation.quant_parameter_tensor_names, where)
            if annotation.tensor_name not in scope.defined:
                raise ModelError(
                    "GO105",
                    "a quantization annotation is for a value that is not there",
                    where=where,
                    found=f"'{annotation.tensor_name}'",
                )
        return scope

    def initializers(
        self, proto: onnx.GraphProto, inputs: Mapping[str, onnx.ValueInfoProto], scope: Scope, where: str
    ) -> dict[str, int]:
        """Check the initializers; return their element types by name."""
        types: dict[str, int] = {}
        for index, tensor in enumerate(proto.initializer):
            name = check_text(tensor.name, f"initializer {index} of {where}")
            label = f"initializer '{name}'"
            if not name or name in types:
                raise ModelError(
                    "GO105",
                    "two initializers have one name" if name else f"initializer {index} has no name",
                    where=label if name else where,
                    expected="a name of its own for every initializer",
                )
            if name not in inputs:
                scope.define(name, label)
            check_tensor(tensor, label, self.files)
            types[name] = tensor.data_type
            declared = inputs[name].type.tensor_type.elem_type if name in inputs else 0
            if declared not in (0, tensor.data_type):
                raise _contradiction(f"input '{name}'", declared, tensor.data_type, "its initializer")
        return types

    def value(self, value: onnx.ValueInfoProto, where: str) -> None:
        name = check_text(value.name, where)
        check_text(value.doc_string, where)
        check_metadata(value.metadata_props, where)
        check_type(value.type, f"value '{name}'")

    def outputs(
        self,
        proto: onnx.GraphProto,
        inputs: Mapping[str, onnx.ValueInfoProto],
        initializers: Mapping[str, int],
        scope: Scope,
        where: str,
    ) -> None:
        """Check the outputs; give those of subgraphs that the subgraph does not compute an Identity."""
        seen: set[str] = set()
        for index, value in enumerate(proto.output):
            self.value(value, f"output {index} of {where}")
            name = value.name
            self.output(name, scope, where)
            if scope.outer is None:
                if name in seen:
                    raise ModelError(
                        "GO105",
                        f"the output '{name}' is listed twice",
                        where=where,
                        expected="outputs with different names",
                    )
                self.passed_through(value, inputs.get(name), initializers.get(name, 0))
            elif name in seen or name not in scope.defined or name in initializers:
                copy, count = f"{name}/output", 1
                while scope.has(copy):
                    count += 1
                    copy = f"{name}/output{count}"
                scope.define(copy, f"output {index} of {where}")
                proto.node.add(op_type="Identity", input=[name], output=[copy], name=copy)
                value.name = copy
            seen.add(name)

    @staticmethod
    def passed_through(value: onnx.ValueInfoProto, source: onnx.ValueInfoProto | None, dtype: int) -> None:
        """An output that is an input or initializer has that one's type: the IR holds it only once."""
        if source is not None and source.type.HasField("tensor_type"):
            dtype = source.type.tensor_type.elem_type
        declared = value.type.tensor_type.elem_type
        if declared and dtype and declared != dtype:
            raise _contradiction(f"output '{value.name}'", declared, dtype, "the value itself")
        if source is not None:
            value.type.CopyFrom(source.type)

    def output(self, name: str, scope: Scope, where: str) -> None:
        if not name or not scope.has(name):
            close = scope.closest(name)
            raise ModelError(
                "GO105",
                f"nothing produces the output '{name}'",
                where=where,
                expected="an output of a node, an input or an initializer",
                next_step=f"Did you mean '{close}'?" if close else None,
            )
        if name not in scope.defined:
            scope.captured.add(name)

    def nodes(self, nodes: Sequence[onnx.NodeProto], scope: Scope, where: str) -> None:
        """Check the nodes of one graph and sort them if they are out of order."""
        for index, node in enumerate(nodes):
            for text in (node.name, node.op_type, node.domain, node.overload, node.doc_string):
                check_text(text, f"node {index} of {where}")
            if not node.op_type:
                raise ModelError("GO105", "a node has no operator", where=f"node {index} of {where}")
            label = describe_proto(node, index)
            for name in node.output:
                if check_text(name, label):
                    scope.define(name, f"{label} (node {index})")
        needs: list[list[str]] = []
        for index, node in enumerate(nodes):
            node.domain = domain_name(node.domain)
            label = describe_proto(node, index)
            check_metadata(node.metadata_props, label)
            used = [check_text(n, label) for n in node.input if n]
            for position, name in enumerate(node.input):
                if name and not scope.has(name):
                    raise self.dangling(name, position, label, scope)
            names: set[str] = set()
            for attribute in node.attribute:
                if attribute.name in names:
                    raise ModelError("GO105", f"attribute '{attribute.name}' is there twice", where=label)
                names.add(attribute.name)
                used.extend(self.attribute(attribute, scope, label))
            scope.captured.update(n for n in used if n not in scope.defined)
            needs.append(used)
        sort_nodes(nodes, needs, where)

    @staticmethod
    def dangling(name: str, position: int, label: str, scope: Scope) -> ModelError:
        close = scope.closest(name)
        return ModelError(
            "GO105",
            f"input {position} is '{name}', which nothing defines",
            where=label,
            expected="a graph input, an initializer or an output of another node",
            next_step=f"Did you mean '{close}'?" if close else "Export the model again.",
            details={"node": label, "missing": name},
        )

    def attribute(self, attribute: onnx.AttributeProto, scope: Scope, label: str) -> Iterable[str]:
        """Check `attribute`; return the names that its graphs take from outside."""
        name = check_text(attribute.name, label)
        where = f"{label}, attribute '{name}'"
        check_text(attribute.doc_string, where)
        payload = {f.name for f, _ in attribute.ListFields()} - _NOT_PAYLOAD
        if check_text(attribute.ref_attr_name, where):  # its type may be left to the parameter
            if not scope.is_function or payload:
                raise ModelError(
                    "GO105",
                    "it refers to a parameter outside a function, or has a value too",
                    where=where,
                    found=f"'{attribute.ref_attr_name}'",
                )
            return ()
        if not name or attribute.type not in _PAYLOAD:
            raise ModelError(
                "GO105",
                "an attribute has no name or no known type",
                where=where,
                found=f"type {attribute.type}",
            )
        if payload - {_PAYLOAD[attribute.type]}:
            raise ModelError(
                "GO105",
                "its value does not have the type that it states",
                where=where,
                found=", ".join(sorted(payload)),
                expected=_PAYLOAD[attribute.type],
            )
        return self.payload(attribute, scope, where)

    def payload(self, attribute: onnx.AttributeProto, scope: Scope, where: str) -> Iterable[str]:
        kind = attribute.type
        if kind in (onnx.AttributeProto.SPARSE_TENSOR, onnx.AttributeProto.SPARSE_TENSORS):
            raise UnsupportedError("GO112", "sparse tensors have no form in graphopt", where=where)
        if kind == onnx.AttributeProto.TENSOR:
            check_text(attribute.t.name, where)
            check_tensor(attribute.t, where, self.files)
        for tensor in attribute.tensors:
            check_text(tensor.name, where)
            check_tensor(tensor, where, self.files)
        for text in attribute.strings:
            _check_utf8(text, where)
        if kind == onnx.AttributeProto.TYPE_PROTO:
            check_type(attribute.tp, where)
        for type_proto in attribute.type_protos:
            check_type(type_proto, where)
        captured: set[str] = set()
        graphs = [attribute.g] if kind == onnx.AttributeProto.GRAPH else attribute.graphs
        for graph in graphs:
            captured |= self.graph(graph, scope, where).captured
        return captured


def _check_utf8(text: bytes, where: str) -> None:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelError("GO105", "a string is not UTF-8", where=where, found=repr(text)[:80]) from error


def _contradiction(where: str, declared: int, actual: int, source: str) -> ModelError:
    names = onnx.TensorProto.DataType
    return ModelError(
        "GO110",
        f"its declared element type contradicts {source}",
        where=where,
        found=names.Name(actual),
        expected=names.Name(declared),
    )
