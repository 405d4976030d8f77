"""Partition: maximal XLA segments, with host segments between them for what XLA cannot express.

Strings, image decoding, results as large as the data says, forms without a lowering: such nodes run on
the host. What depends on a shape that only the host finds out runs there too, since XLA programs have
fixed shapes. All other nodes keep to XLA, in as few segments as their order allows.

A control-flow node that cannot be one XLA program may be driven by the host: it reads the condition, and
runs the branch or body, which is a partition of its own.

A partition is made for given input shapes (and values, where the model needs to know them): one trace
finds every node that must leave, with its reason (see :mod:`graphopt.lowering.xla.discovery`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from graphopt.errors import LoweringError
from graphopt.ir import DataType, Graph, GraphView, Model, Node, TensorType, Value
from graphopt.ir.edit import add_initializer
from graphopt.ir.query import captured_values, is_op, static_shape
from graphopt.lowering.xla import bounded
from graphopt.lowering.xla.discovery import (
    Discovery,
    Driven,
    Region,
    dim_sizes,
    is_constant,
    is_tensor,
    structural_host_nodes,
    used_values,
)
from graphopt.lowering.xla.driven import drive
from graphopt.lowering.xla.emit import Emitter, Operand
from graphopt.lowering.xla.program import Program, Structs, lax_precision_of, result_of

__all__ = ["HostNode", "Partition", "Segment", "partition", "segment_program", "structural_host_nodes"]

ISLAND_ELEMENTS = 4096
"""Integer arithmetic up to this size stays on the host if all of it comes from there and goes there."""

Where = Literal["host", "xla", "driven"]

_KINDS: tuple[Where, ...] = ("host", "xla", "driven")


@dataclasses.dataclass(frozen=True)
class HostNode:
    """A node that runs on the host, and why.

    Attributes:
        node: its name; of a nested one, the outermost node that holds it.
    """

    node: str
    op_type: str
    domain: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """The row as a JSON-ready dict, with the keys that placements have for every target."""
        row = {"node": self.node, "op": self.op_type, "provider": "host", "kind": "fallback"}
        return {**row, **({"domain": self.domain} if self.domain else {}), "reason": self.reason}


@dataclasses.dataclass(frozen=True)
class Segment:
    """Nodes that run together, in the model's order, between which nothing is transferred.

    Attributes:
        inputs: values that are fed to it: the region's inputs, and outputs of earlier segments.
        outputs: values that later segments or the region's outputs take.
        driven: of a control-flow node that the host drives, its bodies.
    """

    where: Where
    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    driven: Driven | None = None


@dataclasses.dataclass(frozen=True)
class Partition:
    """A model, or a body in it, cut into segments, in the order in which they run.

    Attributes:
        outputs: the values that it gives.
        host: the nodes that run on the host, in the model's order, those of bodies behind their node.
        known: values that follow from the shapes (and values) that the partition was made for.
        structs: shapes and types of the values that XLA computes or is fed.
        weights: the initializers that are arguments of XLA segments.
        scopes: the scope of each node of the model.
    """

    model: Model
    segments: tuple[Segment, ...]
    outputs: tuple[Value, ...]
    host: tuple[HostNode, ...]
    known: Mapping[Value, np.ndarray]
    structs: Mapping[Value, Any]
    weights: Mapping[str, Value]
    scopes: Mapping[Node, str]

    def programs(self) -> Iterator[tuple[Partition, Segment]]:
        """Every segment of XLA with the partition that holds it, those of bodies in their node's place."""
        for segment in self.segments:
            if segment.where == "xla":
                yield self, segment
            for body in segment.driven.bodies if segment.driven is not None else ():
                yield from body.programs()

    def transfers(self) -> dict[str, Any]:
        """What crosses between the host and the device: values and bytes each way.

        Bytes are None where a size depends on data. Each body that the host drives counts once.
        """
        moves = _Moves()
        self._count(moves, set())
        return {
            "xla_segments": moves.xla,
            "host_segments": moves.host,
            "to_host": moves.down.to_json(),
            "to_device": moves.up.to_json(),
        }

    def _count(self, moves: _Moves, on_device: set[Value]) -> None:
        """Add up what moves here, where `on_device` are the outer values that XLA computed."""
        device = on_device | {v for s in self.segments if s.where == "xla" for v in s.outputs}
        host = {v for s in self.segments if s.where != "xla" for v in s.outputs}
        read = {v for s in self.segments if s.where == "host" for v in s.inputs}
        for segment in self.segments:
            moves.xla += segment.where == "xla"
            moves.host += segment.where == "host"
            if segment.driven is not None:
                node = segment.driven.node
                read.update(v for v in node.inputs[: 1 if node.op_type == "If" else 2] if v is not None)
                for body in segment.driven.bodies:
                    body._count(moves, device)
        down = read & device
        up = {v for s in self.segments if s.where == "xla" for v in s.inputs} & host
        moves.down.add(len(down), self._bytes(down))
        moves.up.add(len(up), self._bytes(up))

    def _bytes(self, values: Iterable[Value]) -> int | None:
        sizes = [struct_bytes(self.structs.get(v)) for v in values]
        return None if any(s is None for s in sizes) else sum(s for s in sizes if s is not None)


@dataclasses.dataclass
class _Moved:
    values: int = 0
    bytes_: int | None = 0

    def add(self, values: int, bytes_: int | None) -> None:
        self.values += values
        self.bytes_ = None if bytes_ is None or self.bytes_ is None else self.bytes_ + bytes_

    def to_json(self) -> dict[str, int | None]:
        return {"values": self.values, "bytes": self.bytes_}


@dataclasses.dataclass
class _Moves:
    xla: int = 0
    host: int = 0
    down: _Moved = dataclasses.field(default_factory=_Moved)
    up: _Moved = dataclasses.field(default_factory=_Moved)


def struct_bytes(struct: Any) -> int | None:
    """The bytes of a value of this shape and type (of a sequence: of its items); None if unknown."""
    if struct is None:
        return None
    leaves = jax.tree.leaves(bounded.outside_struct(struct))
    size: int = sum(math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in leaves)
    return size


def host_rows(
    region: Region, reasons: Mapping[Node, str], driven: Mapping[Node, Driven] | None = None
) -> tuple[HostNode, ...]:
    """The nodes of the host as rows, in the model's order; constants, which are no work, left out.

    Of a node that it drives, a row says so, and the rows of its bodies follow.
    """
    rows: list[HostNode] = []
    for node in region.graph:
        found = (driven or {}).get(node)
        reason = reasons.get(node)
        if found is not None:
            reason = f"the host drives it, and runs its {_BODIES[node.op_type]} in segments: {found.reason}"
        if reason is not None and not is_op(node, "Constant"):
            rows.append(HostNode(node.name or "", node.op_type, node.domain or "", reason))
        for body in found.bodies if found is not None else ():
            rows.extend(body.host)
    return tuple(rows)


_BODIES = {"If": "branches", "Loop": "body", "Scan": "body"}


def partition(
    model: Model,
    inputs: Structs,
    *,
    constants: Mapping[str, np.ndarray] | None = None,
    precision: str | None = None,
) -> Partition:
    """Cut `model` for inputs of these shapes and types.

    Args:
        inputs: a ShapeDtypeStruct (of a sequence: a list of them) for each input that is fed and
            that XLA can hold.
        constants: inputs whose values are known.
        precision: as in :func:`graphopt.lowering.xla.program.build_program`.

    Raises:
        StaticOperandRequired: the value of an input must be known first (its ``inputs``).
    """
    constants = constants or {}
    main = Region.main(model)
    found = Discovery(
        model,
        main,
        {v: inputs[v.name or ""] for v in main.inputs if v.name in inputs and v.name not in constants},
        {v: constants[v.name or ""] for v in main.inputs if v.name in constants},
        precision,
        sizes=dim_sizes(model, inputs, constants),
        drive=lambda outer, node, reason: drive(outer, node, reason, _cut),
    )
    return _cut(found)


def _cut(found: Discovery) -> Partition:
    """The partition of a region, from the trace of it."""
    found.run()
    _keep_islands(found)
    segments = _segments(found)
    rows = host_rows(found.region, found.host, found.driven)
    return Partition(
        found.model,
        segments,
        found.region.outputs,
        rows,
        found.known,
        found.structs,
        found.weights,
        found.scopes,
    )


def segment_program(cut: Partition, segment: Segment, *, precision: str | None = None) -> Program:
    """The program of one XLA segment: from its inputs by name to its outputs by name."""
    used = {v for n in segment.nodes for v in used_values(n)}
    weights = {n: v for n, v in cut.weights.items() if v in used}
    lax_precision = lax_precision_of(precision)

    def main(weights: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
        emitter = Emitter(cut.model, weights, precision=lax_precision, scopes=cut.scopes)
        env: dict[Value, Operand] = dict(cut.known)
        env.update((v, bounded.inside(cut.structs[v], inputs[v.name or ""])) for v in segment.inputs)
        for node in segment.nodes:
            emitter.emit(node, env)
        return {v.name or "": result_of(emitter.lookup(v, env)) for v in segment.outputs}

    given = {v.name or "": bounded.outside_struct(cut.structs[v]) for v in segment.inputs}
    return Program(cut.model, main, weights, given, {})


def host_model(cut: Partition, segment: Segment) -> Model:
    """One host segment as a model of its own; weights are shared, not copied."""
    constants = dict.fromkeys(
        v for n in segment.nodes for v in used_values(n) if is_constant(v) and v not in segment.inputs
    )
    view = GraphView(
        list(segment.inputs),
        list(segment.outputs),
        nodes=segment.nodes,
        initializers=tuple(constants),
        opset_imports=cut.model.opset_imports,
        name=cut.model.graph.name,
    )
    graph = view.clone()
    for value, original in zip(graph.inputs, segment.inputs, strict=True):
        struct = cut.structs.get(original)
        if value.type is None and struct is not None and not isinstance(struct, list):
            dtype = np.int64 if bounded.has_count(struct) else struct.dtype
            value.type = TensorType(DataType.from_numpy(np.dtype(dtype)))
    _write_out_biases(graph)
    return Model(graph, ir_version=cut.model.ir_version or 10)


BIAS, CACHE = 2, 4
"""Inputs of com.microsoft Attention."""


def _write_out_biases(graph: Graph) -> None:
    """Give ONNX Runtime's own Attention with a cache the bias that is left out: zeros.

    ONNX Runtime 1.31 ends the process on one with a cache and without a bias.
    """
    for node in graph.all_nodes():
        if not is_op(node, "Attention", domain="com.microsoft") or len(node.inputs) <= CACHE:
            continue
        weights = node.inputs[1]
        if node.inputs[CACHE] is None or node.inputs[BIAS] is not None or weights is None:
            continue
        shape = static_shape(weights)
        if shape is None or weights.dtype is None:
            raise LoweringError(
                "GO201",
                "ONNX Runtime cannot run Attention with a cache, no bias and weights of unknown shape",
                where=f"{node.op_type} {node.name!r}",
            )
        zeros = np.zeros(shape[-1], weights.dtype.numpy())
        name = f"{node.name}/no_bias"
        node.replace_input_with(BIAS, add_initializer(graph, name, zeros))


def _keep_islands(found: Discovery) -> None:
    """Leave small integer arithmetic on the host where it comes from there and goes back there.

    A shape that the host computes and uses is not worth two transfers.
    """
    away = {**found.host, **found.driven}
    nodes = [n for n in found.region.graph if n not in away and not _is_known(n, found.known)]
    on_host = {v for n in found.host for v in n.outputs}
    fed: set[Node] = set()
    for node in nodes:
        data = [v for v in node.inputs if v is not None and v not in found.known and not v.is_initializer()]
        if data and all(v in on_host for v in data) and _is_small_arithmetic(node, found.structs):
            fed.add(node)
            on_host.update(node.outputs)
    given = set(found.region.outputs)
    taken = set(found.host)
    for node in reversed(nodes):
        users = {use.node for v in node.outputs for use in v.uses()}
        if node in fed and users <= taken and not any(v in given for v in node.outputs):
            taken.add(node)
            found.host[node] = "small arithmetic between nodes of the host"


def _is_small_arithmetic(node: Node, structs: Mapping[Value, Any]) -> bool:
    if captured_values(node) or is_op(node, "If", "Loop", "Scan"):
        return False
    outputs: list[Any] = [structs.get(v) for v in node.outputs]
    return all(
        is_tensor(s) and np.dtype(s.dtype).kind in "iub" and math.prod(s.shape) <= ISLAND_ELEMENTS
        for s in outputs
    )


def _is_known(node: Node, known: Mapping[Value, np.ndarray]) -> bool:
    return bool(node.outputs) and all(v in known or not v.name for v in node.outputs)


def _segments(found: Discovery) -> tuple[Segment, ...]:
    """Level by level: as few changes between host and device as the order of the nodes allows.

    Levels are in turn the host's, XLA's and those of nodes that the host drives. A node is on the first
    level of its kind that is not before those of the nodes that it takes values from.
    """
    level_of: dict[Value, int] = {}
    levels: dict[int, list[Node]] = {}
    for node in found.region.graph:
        if _is_known(node, found.known):
            continue
        level = kind = 0 if node in found.host else 2 if node in found.driven else 1
        for earlier in (level_of[v] for v in used_values(node) if v in level_of):
            level = max(level, earlier + (kind - earlier) % len(_KINDS))
        levels.setdefault(level, []).append(node)
        level_of.update(dict.fromkeys(node.outputs, level))
    groups: list[tuple[Where, list[Node]]] = []
    for level in sorted(levels):
        where = _KINDS[level % len(_KINDS)]
        parts = [[n] for n in levels[level]] if where == "driven" else [levels[level]]
        groups.extend((where, part) for part in parts)
    taken: dict[Value, set[int]] = {v: {len(groups)} for v in found.region.outputs}
    for index, (_, nodes) in enumerate(groups):
        for value in (v for n in nodes for v in used_values(n)):
            taken.setdefault(value, set()).add(index)
    segments = (_segment(where, index, nodes, taken, found) for index, (where, nodes) in enumerate(groups))
    return tuple(s for s in segments if s.outputs)  # what nothing takes need not run


def _segment(
    where: Where, index: int, nodes: Sequence[Node], taken: Mapping[Value, set[int]], found: Discovery
) -> Segment:
    made = {v for n in nodes for v in n.outputs}
    inputs: dict[Value, None] = {}
    for value in (v for n in nodes for v in used_values(n)):
        if is_constant(value) or value in made or (where == "xla" and value in found.known):
            continue
        inputs.setdefault(value)
    outputs = [v for n in nodes for v in n.outputs if taken.get(v, set()) - {index} and v not in found.known]
    driven = found.driven[nodes[0]] if where == "driven" else None
    return Segment(where, tuple(nodes), tuple(inputs), tuple(outputs), driven)
