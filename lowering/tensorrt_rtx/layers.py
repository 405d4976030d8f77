"""The layers of an engine, from what the builder tells of them, laid on the nodes of the model."""

from __future__ import annotations

import re
from typing import Any

from graphopt.ir import Model
from graphopt.ir.provenance import origins
from graphopt.ir.query import is_op

SEPARATOR = "\x1f"
_LINE = re.compile(r"(?:^|\n)Name: (.*?), LayerType: ([^,\n]*),", re.DOTALL)
_TACTIC = re.compile(r"TacticName: ([^,]*), StreamId")
# The builder marks what it rewrote behind the bracket: ``]__gemm_from_conv1x1``.
_NODE = re.compile(r"\[ONNX Layer: (.*)\]\w*\Z", re.DOTALL)
_DATATYPES = re.compile(r"Datatype: (\w+)")
_END = "\n\nI/O Tensors:"


def node_names(metadata: str) -> list[str]:
    """The ONNX nodes that a layer was made from, as the parser notes them."""
    found = (_NODE.search(part.strip()) for part in metadata.split(SEPARATOR))
    return list(dict.fromkeys(match.group(1) for match in found if match))


def read_layers(text: str, model: Model) -> list[dict[str, Any]]:
    """The layers in the order in which they run, JSON-ready.

    Each has its ``name``, ``kind`` (as the builder calls it: gemm, kgen, …), ``tactic``, the element
    ``types`` that it touches, the ``nodes`` of the optimised model that it computes, and their ``origins``,
    the nodes of the model as it was given. One that serves no node has no origins: copies, shapes.
    """
    by_name = {node.name: node for node in model.graph.all_nodes()}
    body = text.partition(_END)[0]
    starts = list(_LINE.finditer(body))
    rows = []
    for index, match in enumerate(starts):
        rest = body[match.end() : starts[index + 1].start() if index + 1 < len(starts) else len(body)]
        head, _, metadata = rest.rpartition(", Metadata: ")
        tactic = _TACTIC.search(head)
        nodes = [name for name in node_names(metadata) if name in by_name]
        rows.append(
            {
                "name": match.group(1),
                "kind": match.group(2),
                "tactic": tactic.group(1) if tactic else "",
                "types": sorted(set(_DATATYPES.findall(head))),
                "nodes": nodes,
                "origins": list(dict.fromkeys(o for name in nodes for o in origins(by_name[name]))),
            }
        )
    return rows


def without_layer(rows: list[dict[str, Any]], model: Model) -> list[str]:
    """The nodes that no layer names.

    They are shapes, constants, what the builder found to do nothing, and a few activations that it fused
    into a convolution which it then rewrote as a product: it forgets their names there.
    """
    served = {name for row in rows for name in row["nodes"]}
    return [
        node.name or ""
        for node in model.graph.all_nodes()
        if node.name not in served and not is_op(node, "Constant")
    ]
