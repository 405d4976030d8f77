"""The registry of op lowerings: one function per operator under one decorator.

At import every registration is checked against the ONNX schemas of the versions it names: the
function's positional parameters are the operator's inputs, its keyword-only parameters the
attributes, both in the schema's spelling (lower-cased). So a lowering that forgets an attribute,
or names one that does not exist, cannot be imported.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import numpy as np
import onnx.defs

from graphopt.errors import InvariantError
from graphopt.lowering.contrib import contrib_schemas

F = TypeVar("F", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class Lowering:
    """One operator's lowering.

    Attributes:
        since: the schema versions it implements, exactly.
        static: the operands that must be known at compile time; they arrive as numpy arrays.
        operands: the names of the formal inputs, in order.
        variadic: whether the last of `operands` takes all remaining inputs.
        wants_context: whether the function takes the emission context as its first argument.
        attributes: the attribute names it takes.
        defaults: those of floats, as the float32 that an attribute holds: 0.01 left out is 0.01 written.
    """

    domain: str
    op_type: str
    since: tuple[int, ...]
    static: frozenset[str]
    function: Callable[..., Any]
    operands: tuple[str, ...]
    variadic: bool
    wants_context: bool
    attributes: frozenset[str]
    defaults: dict[str, float]


class Registry:
    """The lowerings of one backend."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self._table: dict[tuple[str, str, int], Lowering] = {}

    def lowers(
        self,
        op_type: str,
        *,
        since: tuple[int, ...],
        static: tuple[str, ...] = (),
        domain: str = "",
        ignores: tuple[str, ...] = (),
    ) -> Callable[[F], F]:
        """Register the decorated function as the lowering of `op_type`.

        Args:
            since: the schema versions that it implements.
            static: inputs that must be known at compile time.
            ignores: attributes that do not matter to the result (say why beside it).
        """

        def decorate(function: F) -> F:
            lowering = _inspect(function, op_type, since, static, domain)
            _check_against_schema(lowering, frozenset(ignores))
            for version in since:
                key = (domain, op_type, version)
                if key in self._table:
                    raise InvariantError("GO901", f"two lowerings of {op_type}-{version} for {self.backend}")
                self._table[key] = lowering
            return function

        return decorate

    def find(self, domain: str, op_type: str, opset: int) -> Lowering | None:
        """The lowering of `op_type` as of opset version `opset`, or None."""
        version = schema_version(domain, op_type, opset)
        return None if version is None else self._table.get((domain, op_type, version))

    def entries(self) -> list[tuple[str, str, int]]:
        """All (domain, op type, schema version) that are registered, sorted."""
        return sorted(self._table)


@cache
def schema_version(domain: str, op_type: str, opset: int) -> int | None:
    """The since-version of the schema that `op_type` has at `opset`; None if there is none.

    What ONNX Runtime adds (com.microsoft, and a few of the default domain) is all of version 1.
    """
    if domain == "com.microsoft" or (domain, op_type) in contrib_schemas():
        return 1
    try:
        return int(onnx.defs.get_schema(op_type, opset, domain).since_version)
    except onnx.defs.SchemaError:
        return None


def _inspect(
    function: Callable[..., Any], op_type: str, since: tuple[int, ...], static: tuple[str, ...], domain: str
) -> Lowering:
    parameters = list(inspect.signature(function).parameters.values())
    wants_context = bool(parameters) and parameters[0].name == "ctx"
    if wants_context:
        parameters = parameters[1:]
    operands = [p for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    keywords = [p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    return Lowering(
        domain=domain,
        op_type=op_type,
        since=since,
        static=frozenset(static),
        function=function,
        operands=tuple(p.name for p in operands),
        variadic=any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in operands),
        wants_context=wants_context,
        attributes=frozenset(p.name for p in keywords),
        defaults={p.name: float(np.float32(p.default)) for p in keywords if isinstance(p.default, float)},
    )


def _check_against_schema(lowering: Lowering, ignores: frozenset[str]) -> None:
    where = f"{lowering.op_type} in {lowering.function.__module__}"
    if unknown := lowering.static - set(lowering.operands):
        raise InvariantError(
            "GO901", f"static operands that the function does not take: {unknown}", where=where
        )
    if (lowering.domain, lowering.op_type) in contrib_schemas():
        _check_against_contrib_schema(lowering, ignores, where)
        return
    if lowering.domain == "com.microsoft":
        raise InvariantError("GO901", f"ONNX Runtime has no {lowering.op_type}", where=where)
    known_attributes: set[str] = set()
    for version in lowering.since:
        try:
            schema = onnx.defs.get_schema(lowering.op_type, version, lowering.domain)
        except onnx.defs.SchemaError:
            continue  # an older onnx than the one this was written for
        if schema.since_version != version:
            raise InvariantError("GO901", f"{lowering.op_type} has no version {version}", where=where)
        inputs = [operand_name(i.name) for i in schema.inputs]
        if inputs != list(lowering.operands[: len(inputs)]):
            raise InvariantError(
                "GO901",
                "operand names differ from the schema",
                where=where,
                found=lowering.operands,
                expected=inputs,
            )
        attributes = set(schema.attributes)
        known_attributes |= attributes
        if missing := attributes - lowering.attributes - ignores:
            raise InvariantError("GO901", f"attributes are not handled: {sorted(missing)}", where=where)
    if known_attributes and (extra := lowering.attributes - known_attributes):
        raise InvariantError("GO901", f"attributes that no version has: {sorted(extra)}", where=where)


def _check_against_contrib_schema(lowering: Lowering, ignores: frozenset[str], where: str) -> None:
    schema = contrib_schemas()[lowering.domain, lowering.op_type]
    inputs = tuple(operand_name(name) for name in schema.inputs)
    if inputs != lowering.operands or schema.variadic != lowering.variadic:
        raise InvariantError(
            "GO901",
            "operand names differ from the schema",
            where=where,
            found=lowering.operands,
            expected=inputs,
        )
    if missing := schema.attributes - lowering.attributes - ignores:
        raise InvariantError("GO901", f"attributes are not handled: {sorted(missing)}", where=where)
    if extra := (lowering.attributes | ignores) - schema.attributes:
        raise InvariantError("GO901", f"attributes that no version has: {sorted(extra)}", where=where)


def operand_name(name: str) -> str:
    """A schema's input name as a Python parameter name (``X`` → ``x``, ``input`` stays)."""
    return name.lower()
