"""Nodes held against the operators' own definitions: known, well formed, of consistent types.

Spec: https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx
import onnx.defs

from graphopt.errors import ModelError
from graphopt.ir import (
    AttributeType,
    Graph,
    Model,
    Node,
    OptionalType,
    SequenceType,
    TensorType,
    Value,
)
from graphopt.ir.opset import CANONICAL_OPSET, OLDEST_OPSET, newest_opset
from graphopt.ir.opset_draft import describe
from graphopt.ir.query import walk_graphs

MAX_LISTED = 20
MAX_SUGGESTIONS = 8


@dataclass(frozen=True)
class Formal:
    """A formal input or output of an operator."""

    name: str
    variable: str
    types: frozenset[str]
    required: bool
    variadic: bool
    homogeneous: bool


@dataclass(frozen=True)
class Signature:
    """What an operator's definition says, in a form that is quick to compare with."""

    deprecated: bool
    inputs: tuple[Formal, ...]
    outputs: tuple[Formal, ...]
    input_range: tuple[int, int]
    output_range: tuple[int, int]
    attributes: Mapping[str, int]
    required: frozenset[str]

    def input(self, index: int) -> Formal | None:
        """The formal parameter of input `index`; the last one repeats if it is variadic."""
        if index < len(self.inputs):
            return self.inputs[index]
        return self.inputs[-1] if self.inputs and self.inputs[-1].variadic else None


@functools.cache
def signature(domain: str, op_type: str, version: int) -> Signature | None:
    """The signature of an operator in opset `version` of `domain`, or None if it is not in it."""
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None
    return Signature(
        schema.deprecated,
        tuple(_formal(f) for f in schema.inputs),
        tuple(_formal(f) for f in schema.outputs),
        (schema.min_input, schema.max_input),
        (schema.min_output, schema.max_output),
        {name: int(AttributeType[str(a.type).rpartition(".")[2]]) for name, a in schema.attributes.items()},
        frozenset(name for name, a in schema.attributes.items() if a.required),
    )


def _formal(formal: onnx.defs.OpSchema.FormalParameter) -> Formal:
    options = onnx.defs.OpSchema.FormalParameterOption
    return Formal(
        formal.name,
        formal.type_str,
        frozenset(formal.types),
        formal.option == options.Single,
        formal.option == options.Variadic,
        formal.is_homogeneous,
    )


@functools.cache
def _known_versions() -> dict[str, dict[str, int]]:
    """For every domain that the installed onnx knows: operator to the opset that it first came in."""
    table: dict[str, dict[str, int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        first = table.setdefault(schema.domain, {})
        first[schema.name] = min(first.get(schema.name, schema.since_version), schema.since_version)
    return table


@functools.cache
def _newest(domain: str) -> int:
    if domain == "":
        return newest_opset()
    return max(s.since_version for s in onnx.defs.get_all_schemas_with_history() if s.domain == domain)


def check_operators(model: Model) -> None:
    """Check every node of `model`, those of its functions included, against its operator's definition.

    Operators of domains that the installed onnx does not know are taken as they are.

    Raises:
        ModelError: GO106 naming every unknown operator, GO105 naming every node that does not have the
            inputs, outputs and attributes that its operator asks for.
    """
    functions = set(model.functions)
    unknown: dict[tuple[str, str, int], list[str]] = {}
    problems: list[str] = []
    scopes: list[tuple[Graph, Mapping[str, int]]] = [(model.graph, model.opset_imports)]
    scopes += [(f.graph, f.opset_imports) for f in model.functions.values()]
    for main, imports in scopes:
        _check_imports(imports)
        for node in (n for graph in walk_graphs(main) for n in graph):
            if node.op_identifier() in functions:
                continue
            domain = "" if node.domain == "ai.onnx" else node.domain
            if domain not in _known_versions():
                continue
            version = imports.get(domain, imports.get("ai.onnx") if domain == "" else None)
            if version is None:
                raise ModelError(
                    "GO106",
                    f"the model uses the domain '{domain or 'ai.onnx'}' without importing it",
                    where=describe(node),
                    found=", ".join(f"'{d}' {v}" for d, v in imports.items())[:200] or "no opset import",
                    expected="an opset_import for every domain in use",
                )
            known = signature(domain, node.op_type, version)
            if known is None or (known.deprecated and not domain and version >= CANONICAL_OPSET):
                unknown.setdefault((domain, node.op_type, version), []).append(describe(node))
            elif len(problems) < MAX_LISTED:
                problems.extend(f"{describe(node)}: {text}" for text in _malformed(node, known))
    if unknown:
        raise _unknown(unknown)
    if problems:
        raise ModelError(
            "GO105",
            problems[0].split(": ", 1)[1],
            where=problems[0].split(": ", 1)[0],
            next_step=f"{len(problems) - 1} more: " + "; ".join(problems[1:4]) if len(problems) > 1 else None,
            details={"problems": problems},
        )


def _check_imports(imports: Mapping[str, int]) -> None:
    for domain, version in imports.items():
        domain = "" if domain == "ai.onnx" else domain
        if domain not in _known_versions():
            continue
        oldest, newest = OLDEST_OPSET if domain == "" else 1, _newest(domain)
        if not oldest <= version <= newest:
            raise ModelError(
                "GO106",
                f"this opset of domain '{domain or 'ai.onnx'}' is not supported",
                found=version,
                expected=f"{oldest} to {newest}, which the installed onnx {onnx.__version__} knows",
                next_step=f"Install a newer onnx, one with opset {version}."
                if version > newest
                else f"Export the model again with opset {CANONICAL_OPSET}, or convert it with "
                "onnx.version_converter.",
            )


def _unknown(unknown: Mapping[tuple[str, str, int], list[str]]) -> ModelError:
    listed: list[dict[str, object]] = []
    shown: list[str] = []
    for index, ((domain, op_type, version), nodes) in enumerate(unknown.items()):
        first = _known_versions()[domain].get(op_type)
        name = f"{domain}.{op_type}" if domain else op_type
        if first is None:
            close = (
                difflib.get_close_matches(op_type[:100], _known_versions()[domain], n=3, cutoff=0.6)
                if index < MAX_SUGGESTIONS
                else []
            )
            reason = f"close: {', '.join(close)}" if close else "no such operator"
        elif first > version:
            reason = f"new in opset {first}, the model imports {version}"
        else:
            reason = f"removed in opset {version} or before"
        listed.append({"operator": name, "reason": reason, "nodes": nodes[:MAX_LISTED], "count": len(nodes)})
        shown.append(f"{name[:80]} ({reason})")
    more = len(shown) - MAX_SUGGESTIONS
    return ModelError(
        "GO106",
        "unknown operators",
        where=next(iter(unknown.values()))[0],
        found=", ".join(shown[:MAX_SUGGESTIONS]) + (f" and {more} more" if more > 0 else ""),
        expected="operators of the imported opsets",
        next_step="A custom operator needs a domain of its own, not the default one.",
        details={"operators": listed},
    )


def _malformed(node: Node, known: Signature) -> Iterator[str]:
    """What `node` has or lacks against its signature."""
    inputs = list(node.inputs)
    while inputs and inputs[-1] is None:
        inputs.pop()
    outputs = list(node.outputs)
    while outputs and not outputs[-1].name and not outputs[-1].uses():
        outputs.pop()
    for kind, given, count, (low, high) in (
        # One that is left out by an empty name counts for what the operator asks at least: Loop(limit, "").
        ("inputs", len(node.inputs), len(inputs), known.input_range),
        ("outputs", len(outputs), len(outputs), known.output_range),
    ):
        if not low <= given or not count <= high:
            bounds = f"at least {low}" if high > 1 << 20 else f"{low}" if low == high else f"{low} to {high}"
            yield f"it has {count} {kind}; expected {bounds}"
    for index, formal in enumerate(known.inputs[: len(node.inputs)]):
        if node.inputs[index] is None and formal.required:
            yield f"required input {index} '{formal.name}' is left out"
    for name, attr in node.attributes.items():
        expected = known.attributes.get(name)
        if expected is None:
            if not name.startswith("__"):
                close = difflib.get_close_matches(name[:100], known.attributes, n=1)
                yield f"unknown attribute '{name[:100]}'" + (f"; did you mean '{close[0]}'?" if close else "")
        elif int(attr.type) != expected and not (attr.is_ref() and attr.type == AttributeType.UNDEFINED):
            yield f"attribute '{name}' is {attr.type.name}; expected {AttributeType(expected).name}"
        elif attr.type == AttributeType.STRING and not attr.is_ref() and not isinstance(attr.value, str):
            yield f"attribute '{name}' is not UTF-8 text"
    for name in sorted(known.required - set(node.attributes)):
        yield f"required attribute '{name}' is missing"
    if node.op_type == "Constant" and not node.domain and len(node.attributes) != 1:
        yield f"it has {len(node.attributes)} values; expected exactly one"


def type_text(type_: object) -> str | None:
    """A type as operator definitions spell it (``seq(tensor(float))``), or None if it is not known."""
    if isinstance(type_, TensorType):
        return f"tensor({type_.dtype.name.lower()})" if type_.dtype else None
    if isinstance(type_, (SequenceType, OptionalType)):
        inner = type_text(type_.elem_type)
        if inner is None:
            return None
        return f"{'seq' if isinstance(type_, SequenceType) else 'optional'}({inner})"
    return None


def check_types(model: Model) -> None:
    """Check that the types of every node's inputs are types that its operator takes together.

    Inputs whose type is not known are passed over. Linear in the size of the model.

    Raises ModelError GO110.
    """
    for graph in walk_graphs(model.graph):
        for node in graph:
            domain = "" if node.domain == "ai.onnx" else node.domain
            version = model.opset_imports.get(domain)
            if domain in _known_versions() and version is not None:
                known = signature(domain, node.op_type, version)
                if known is not None:
                    _check_node_types(node, known)


def _check_node_types(node: Node, known: Signature) -> None:
    bound: dict[str, tuple[str, int]] = {}
    for index, value in enumerate(node.inputs):
        found = type_text(value.type) if value is not None else None
        formal = known.input(index)
        if found is None or formal is None or value is None:
            continue
        if found not in formal.types:
            raise _wrong_type(node, index, value, found, _shorten(formal.types))
        if formal.variadic and not formal.homogeneous:
            continue
        first, position = bound.setdefault(formal.variable, (found, index))
        if first != found:
            raise _wrong_type(node, index, value, found, f"{first}, as input {position} is")


def _shorten(types: frozenset[str]) -> str:
    names = sorted(types)
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _wrong_type(node: Node, index: int, value: Value, found: str, expected: str) -> ModelError:
    return ModelError(
        "GO110",
        f"input {index} '{value.name}' is of a type that the operator does not take here",
        where=describe(node),
        found=found,
        expected=expected,
        next_step="Insert a Cast, or export the model again.",
    )
