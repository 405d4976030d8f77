"""What the XLA lowering cannot take, found by looking at the nodes only: all of it at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from graphopt.errors import LoweringError
from graphopt.ir import DataType, Graph, Model, Node
from graphopt.ir.operator_bodies import has_body
from graphopt.ir.query import subgraphs
from graphopt.lowering.registry import schema_version
from graphopt.lowering.xla.ops import load_all

MAX_LISTED = 20

HOST_DOMAINS = frozenset({"com.microsoft", "com.ms.internal.nhwc"})
"""Operators of ONNX Runtime, which the onnx package has no schemas of."""


@dataclasses.dataclass(frozen=True)
class Unsupported:
    """One node that the target does not take, and why."""

    node: str
    op_type: str
    domain: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """The row as a JSON-ready dict."""
        return dataclasses.asdict(self)


def unsupported_nodes(model: Model) -> list[Unsupported]:
    """Every node (nested ones included) that has no lowering, or holds strings."""
    return [row for rows in unsupported_by_node(model).values() for row in rows]


def unsupported_by_node(model: Model, graph: Graph | None = None) -> dict[Node, list[Unsupported]]:
    """The same by the nodes of `graph` (the main one): those that are, or hold, one that is unsupported."""
    registry = load_all()
    found: dict[Node, list[Unsupported]] = {}
    for outer in model.graph if graph is None else graph:
        for node in (outer, *(n for sub in subgraphs(outer) for n in sub.all_nodes())):
            reason = _reason(node, model.opset_imports, registry)
            if reason is not None:
                row = Unsupported(node.name or "", node.op_type, node.domain or "", reason)
                found.setdefault(outer, []).append(row)
    return found


def _reason(node: Node, opsets: Mapping[str, int], registry: Any) -> str | None:
    domain = node.domain or ""
    # Shape and Size are answered from the operand's shape, Constant from its attribute.
    if domain == "" and node.op_type in ("Shape", "Size", "Constant"):
        return None
    opset = opsets.get(domain, 1)
    if registry.find(domain, node.op_type, opset) is None and not has_body(node, opset):
        return "no XLA lowering for this operator"
    if any(v is not None and v.dtype == DataType.STRING for v in (*node.inputs, *node.outputs)):
        return "XLA has no string tensors"
    return None


def require_support(model: Model) -> None:
    """Raise LoweringError (GO201) naming all nodes that XLA does not take, or return."""
    _refuse(unsupported_nodes(model))


def require_known(rows: Iterable[Sequence[Unsupported]], opsets: Mapping[str, int]) -> None:
    """Raise LoweringError (GO201) naming all of `rows` that the host cannot run either, or return."""
    _refuse([row for group in rows for row in group if not _host_knows(row, opsets)])


def _host_knows(row: Unsupported, opsets: Mapping[str, int]) -> bool:
    """Whether the operator is one of ONNX, or may be one of ONNX Runtime's own."""
    known = row.domain in HOST_DOMAINS
    return known or schema_version(row.domain, row.op_type, opsets.get(row.domain, 1)) is not None


def _refuse(found: Sequence[Unsupported]) -> None:
    if not found:
        return
    shown = "; ".join(f"{describe_row(row)}: {row.reason}" for row in found[:MAX_LISTED]) + (
        f"; and {len(found) - MAX_LISTED} more" if len(found) > MAX_LISTED else ""
    )
    raise LoweringError(
        "GO201",
        f"{len(found)} node{'s' if len(found) > 1 else ''} cannot be lowered to XLA: {shown}",
        next_step="`graphopt check MODEL --target T` lists them; cpu and cuda run any ONNX model.",
        details={"unsupported": [row.to_json() for row in found]},
    )


def describe_row(row: Unsupported) -> str:
    """How messages name a row, like :func:`graphopt.lowering.xla.emit.describe`."""
    return f"{row.domain + '.' if row.domain else ''}{row.op_type} {row.node!r}"
