"""What a model costs by its shapes alone: operations, bytes moved, and their ratio, node by node.

Nothing is run and no weight is read. A multiply-add is two operations; every other elementwise
function counts as one operation for each element of its result, whatever it takes inside. Bytes are
those that a kernel of its own would read and write: fusion and caches save some. Free dimensions
stay symbols; a node whose cost cannot be told from its shapes has None.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from graphopt.analysis import flops as formulas
from graphopt.analysis.amount import Amount
from graphopt.ir import Graph, Model, Node, Value
from graphopt.ir.provenance import origins
from graphopt.ir.query import attribute, constant, subgraphs

VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape", "Size", "Constant"})
"""Operators that move no data: they give another view, or a fact about the shape."""

PARTIAL_READERS = frozenset({"Gather", "GatherND", "GatherElements", "Slice"})
"""Operators that read as much of their first input as they write."""


@dataclasses.dataclass(frozen=True)
class NodeCost:
    """The cost of one node, nested graphs included.

    Attributes:
        flops: arithmetic operations.
        read_bytes, written_bytes: bytes of operands and results.
    """

    node: str
    op_type: str
    domain: str
    origins: tuple[str, ...]
    flops: Amount | None
    read_bytes: Amount | None
    written_bytes: Amount | None

    @property
    def moved_bytes(self) -> Amount | None:
        """Bytes read and written."""
        if self.read_bytes is None or self.written_bytes is None:
            return None
        return self.read_bytes + self.written_bytes

    @property
    def intensity(self) -> float | None:
        """Operations for each byte moved, where both are plain numbers."""
        return intensity(self.flops, self.moved_bytes)

    def to_json(self) -> dict[str, Any]:
        """The cost as a JSON-ready dict; what depends on free dimensions is text, what is unknown None."""
        return {
            "node": self.node,
            "op_type": self.op_type,
            "domain": self.domain,
            "origins": list(self.origins),
            "flops": None if self.flops is None else self.flops.to_json(),
            "read_bytes": None if self.read_bytes is None else self.read_bytes.to_json(),
            "written_bytes": None if self.written_bytes is None else self.written_bytes.to_json(),
            "intensity": self.intensity,
        }


@dataclasses.dataclass(frozen=True)
class ModelCost:
    """The cost of a model: its nodes' in execution order, and the sums of what is known.

    Attributes:
        unknown: nodes whose operations cannot be told; the sums leave them out.
    """

    nodes: tuple[NodeCost, ...]
    flops: Amount
    moved_bytes: Amount
    unknown: tuple[str, ...]

    @property
    def intensity(self) -> float | None:
        """Operations for each byte moved, where both are plain numbers."""
        return intensity(self.flops, self.moved_bytes)

    def to_json(self) -> dict[str, Any]:
        """The sums and every node, JSON-ready."""
        return {
            "flops": self.flops.to_json(),
            "moved_bytes": self.moved_bytes.to_json(),
            "intensity": self.intensity,
            "unknown": list(self.unknown),
            "nodes": [n.to_json() for n in self.nodes],
        }


def intensity(flops: Amount | None, moved: Amount | None) -> float | None:
    """Operations for each byte, where both are plain numbers and something moves."""
    if flops is None or moved is None or flops.number is None or not moved.number:
        return None
    return flops.number / moved.number


def model_cost(model: Model) -> ModelCost:
    """The cost of every node of the main graph of `model`; one that holds graphs includes them."""
    nodes = tuple(node_cost(node) for node in model.graph)
    return ModelCost(
        nodes,
        Amount.total(n.flops for n in nodes if n.flops is not None),
        Amount.total(m for n in nodes if (m := n.moved_bytes) is not None),
        tuple(n.node for n in nodes if n.flops is None),
    )


def node_cost(node: Node) -> NodeCost:
    """The cost of one node.

    Of an If the dearer branch counts; the body of a Loop or Scan counts once for each turn, as far as
    the number of turns is known, and as the symbol ``turns(NAME)`` where it is not.
    """
    if any(True for _ in subgraphs(node)):
        flops, read, written = _nested(node)
    else:
        flops, read, written = formulas.flops(node), _read(node), _written(node)
    return NodeCost(node.name or "", node.op_type, node.domain or "", origins(node), flops, read, written)


def value_bytes(value: Value) -> Amount | None:
    """Bytes of a tensor; None where its shape or type is unknown or it holds strings."""
    if value.shape is None or value.dtype is None or value.dtype.name in ("STRING", "UNDEFINED"):
        return None
    bits = Amount.size(value.shape.dims) * value.dtype.bitwidth
    number = bits.number
    return Amount.of((number + 7) // 8) if number is not None else bits // 8


def _is_view(node: Node) -> bool:
    return not node.domain and node.op_type in VIEWS


def _read(node: Node) -> Amount | None:
    if _is_view(node):
        return Amount.of(0)
    operands: list[Value] = list(dict.fromkeys(v for v in node.inputs if v is not None))
    if not node.domain and node.op_type in PARTIAL_READERS and operands and node.inputs[0] is not None:
        operands = [v for v in operands if v is not node.inputs[0]] + [node.outputs[0]]
    return _sum(value_bytes(v) for v in operands)


def _written(node: Node) -> Amount | None:
    if _is_view(node):
        return Amount.of(0)
    return _sum(value_bytes(v) for v in node.outputs if v.name)


def _sum(amounts: Iterable[Amount | None]) -> Amount | None:
    known = list(amounts)
    return None if any(a is None for a in known) else Amount.total(a for a in known if a is not None)


Costs = tuple[Amount | None, Amount | None, Amount | None]


def _nested(node: Node) -> Costs:
    bodies = [_graph_cost(graph) for graph in subgraphs(node)]
    if node.op_type == "If":
        return max(
            bodies, key=lambda b: (-1 if b[0] is None else b[0].least, b[1] is not None and b[1].least)
        )
    turns = _turns(node)
    flops, read, written = (None if part is None else part * turns for part in bodies[0])
    return flops, read, written


def _graph_cost(graph: Graph) -> Costs:
    inner = [node_cost(node) for node in graph]
    return (
        _sum(n.flops for n in inner),
        _sum(n.read_bytes for n in inner),
        _sum(n.written_bytes for n in inner),
    )


def _turns(node: Node) -> Amount:
    """How often a body runs: a Loop's constant trip count, the length of a Scan, or a symbol."""
    if node.op_type == "Loop" and node.inputs and node.inputs[0] is not None:
        trips = constant(node.inputs[0], max_elements=1)
        if trips is not None and trips.size == 1 and int(trips.reshape(-1)[0]) >= 0:
            return Amount.of(int(trips.reshape(-1)[0]))
    if node.op_type == "Scan":
        count = int(attribute(node, "num_scan_inputs") or 0)
        axes = attribute(node, "scan_input_axes") or (0,)
        scanned = node.inputs[len(node.inputs) - count] if 0 < count <= len(node.inputs) else None
        if scanned is not None and scanned.shape is not None and axes[0] < len(scanned.shape):
            return Amount.size([scanned.shape.dims[axes[0]]])
    return Amount({(f"turns({node.name})",): 1})
