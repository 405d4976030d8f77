"""Which nodes the TensorRT provider will take, in how many engines: an estimate from its parser's table."""

from __future__ import annotations

import csv
from functools import cache
from importlib import resources

from graphopt.ir import DataType, Graph, Model, Node
from graphopt.ir.query import subgraphs

_TYPE_NAMES = {
    DataType.FLOAT: "FP32",
    DataType.FLOAT16: "FP16",
    DataType.BFLOAT16: "BF16",
    DataType.FLOAT8E4M3FN: "FP8",
    DataType.INT4: "INT4",
    DataType.INT8: "INT8",
    DataType.UINT8: "UINT8",
    DataType.INT32: "INT32",
    DataType.INT64: "INT64",
    DataType.BOOL: "BOOL",
}

_TYPED_OPERAND = {"Where": 1, "OneHot": 2}
"""The operand whose type the table's types are about, where that is not the first."""


@cache
def parser_ops() -> dict[str, frozenset[str]]:
    """The operators that TensorRT's parser takes, with the types it takes them on (empty: not stated)."""
    text = (resources.files(__package__) / "tensorrt_parser_ops.tsv").read_text(encoding="utf-8")
    return {
        # One row of the source page says INF64, by mistake for INT64.
        row["op"]: frozenset((row["types"] or "").replace("INF64", "INT64").split(",")) - {""}
        for row in csv.DictReader(text.splitlines(), delimiter="\t")
        if row["supported"] == "Y"
    }


def why_not_tensorrt(node: Node) -> str | None:
    """Why TensorRT's parser does not take `node`, its subgraphs included; None if it does."""
    if (node.domain or "") not in ("", "ai.onnx"):
        return f"TensorRT's parser does not know the domain {node.domain}"
    types = parser_ops().get(node.op_type)
    if types is None:
        return f"TensorRT's parser does not support {node.op_type}"
    position = _TYPED_OPERAND.get(node.op_type, 0)
    operand = node.inputs[position] if position < len(node.inputs) else None
    if types and operand is not None and operand.dtype is not None:
        name = _TYPE_NAMES.get(operand.dtype, operand.dtype.name)
        if name not in types:
            return f"TensorRT's parser takes {node.op_type} on {', '.join(sorted(types))}, not on {name}"
    return None


def unsupported(model: Model) -> list[dict[str, str]]:
    """The nodes that TensorRT's parser does not take, each with the reason, JSON-ready."""
    return [
        {"node": node.name or "", "op_type": node.op_type, "domain": node.domain or "", "reason": reason}
        for node in model.graph.all_nodes()
        if node.op_type != "Constant" and (reason := why_not_tensorrt(node)) is not None
    ]


def partition(model: Model, folded: set[Node]) -> tuple[dict[Node, int], dict[Node, str]]:
    """The predicted TensorRT engine of each node, and why the others have none.

    An engine is a maximal run of supported nodes in the graph's order. The provider may split such a
    run further (where a cycle of engines would arise) or join two, so the number is an estimate. A
    control-flow node goes into an engine only with everything inside it. `folded` nodes are gone by
    the time that engines are made.
    """
    reasons: dict[Node, str] = {}
    engines: dict[Node, int] = {}
    _survey(model.graph, folded, reasons)
    _number(model.graph, folded, reasons, engines, 0)
    return engines, reasons


def _survey(graph: Graph, folded: set[Node], reasons: dict[Node, str]) -> bool:
    """Collect the reasons in `graph` and below; whether all of it is supported."""
    clean = True
    for node in graph:
        # Every nested graph is surveyed, so this must not stop at the first that is not supported.
        nested = [_survey(inner, folded, reasons) for inner in subgraphs(node)]
        reason = None if node in folded else why_not_tensorrt(node)
        if reason is None and not all(nested):
            reason = f"TensorRT takes {node.op_type} only whole, and not all nodes inside are supported"
        if reason is not None:
            reasons[node] = reason
            clean = False
    return clean


def _number(
    graph: Graph, folded: set[Node], reasons: dict[Node, str], engines: dict[Node, int], count: int
) -> int:
    """Number the engines of `graph` from `count` on; the number after the last."""
    running = False
    for node in graph:
        if node in folded:
            continue
        if node in reasons:
            running = False
            for inner in subgraphs(node):
                count = _number(inner, folded, reasons, engines, count)
            continue
        if not running:
            running = True
            count += 1
        _put(node, count - 1, folded, engines)
    return count


def _put(node: Node, engine: int, folded: set[Node], engines: dict[Node, int]) -> None:
    engines[node] = engine
    for graph in subgraphs(node):
        for inner in graph:
            if inner not in folded:
                _put(inner, engine, folded, engines)
