"""Partition: maximal XLA segments, with host segments between them for what XLA cannot express.

Strings, image decoding, results as large as the data says, forms without a lowering: such nodes run on
the host. What depends on a shape that only the host finds out runs there too, since XLA programs have
fixed shapes. All other nodes keep to XLA, in as few segments as their order allows.

A partition is made for given input shapes (and values, where the model needs to know them): one trace
finds every node that must leave, with its reason.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from graphopt.errors import GraphoptError
from graphopt.ir import DataType, GraphView, Model, Node, SymbolicDim, TensorType, Value
from graphopt.ir.query import captured_values, is_op
from graphopt.lowering.xla.dtypes import numpy_dtype
from graphopt.lowering.xla.emit import Emitter, Operand, StaticOperandRequired, as_array
from graphopt.lowering.xla.program import (
    Program,
    Structs,
    argument_weights,
    lax_precision_of,
    settings,
    struct_of,
    structs_of_weights,
)
from graphopt.lowering.xla.support import (
    Unsupported,
    describe_row,
    require_known,
    unsupported_by_node,
)

ISLAND_ELEMENTS = 4096
"""Integer arithmetic up to this size stays on the host if all of it comes from there and goes there."""

Where = Literal["xla", "host"]

_AT_THE_END = -1  # the level at which the model's outputs are taken


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
        inputs: values that are fed to it: the model's inputs, and outputs of earlier segments.
        outputs: values that later segments or the model's outputs take.
    """

    where: Where
    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


@dataclasses.dataclass(frozen=True)
class Partition:
    """One model cut into segments, in the order in which they run.

    Attributes:
        host: the nodes that run on the host, in the model's order.
        known: values that follow from the shapes (and values) that the partition was made for.
        structs: shapes and types of the values that XLA computes or is fed.
        weights: the initializers that are arguments of XLA segments.
    """

    model: Model
    segments: tuple[Segment, ...]
    host: tuple[HostNode, ...]
    known: Mapping[Value, np.ndarray]
    structs: Mapping[Value, Any]
    weights: Mapping[str, Value]

    def transfers(self) -> dict[str, Any]:
        """What crosses between the host and the device: values and bytes each way.

        Bytes are None where a size depends on data.
        """
        device = {v for s in self.segments if s.where == "xla" for v in s.outputs}
        down = {v for s in self.segments if s.where == "host" for v in s.inputs if v in device}
        host = {v for s in self.segments if s.where == "host" for v in s.outputs}
        up = {v for s in self.segments if s.where == "xla" for v in s.inputs if v in host}
        return {
            "xla_segments": sum(s.where == "xla" for s in self.segments),
            "host_segments": sum(s.where == "host" for s in self.segments),
            "to_host": {"values": len(down), "bytes": self._bytes(down)},
            "to_device": {"values": len(up), "bytes": self._bytes(up)},
        }

    def _bytes(self, values: Iterable[Value]) -> int | None:
        sizes = [struct_bytes(self.structs.get(v)) for v in values]
        return None if any(s is None for s in sizes) else sum(s for s in sizes if s is not None)


def struct_bytes(struct: Any) -> int | None:
    """The bytes of a value of this shape and type (of a sequence: of its items); None if unknown."""
    if struct is None:
        return None
    leaves = jax.tree.leaves(struct)
    size: int = sum(math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in leaves)
    return size


def structural_host_nodes(model: Model) -> dict[Node, str]:
    """The main graph's nodes that cannot be lowered whatever the shapes are, with the reason.

    A node whose subgraph holds such a node runs on the host as a whole.

    Raises:
        LoweringError: GO201, an operator that the host does not know either.
    """
    found = unsupported_by_node(model)
    require_known(found.values(), model.opset_imports)
    return {node: _because(node, rows) for node, rows in found.items()}


def host_rows(model: Model, reasons: Mapping[Node, str]) -> tuple[HostNode, ...]:
    """The nodes of the host as rows, in the model's order; constants, which are no work, left out."""
    return tuple(
        HostNode(n.name or "", n.op_type, n.domain or "", reasons[n])
        for n in model.graph
        if n in reasons and not is_op(n, "Constant")
    )


def _because(node: Node, rows: Sequence[Unsupported]) -> str:
    first = rows[0]
    inner = first.node != node.name
    return f"{first.reason} (its body holds {describe_row(first)})" if inner else first.reason


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
    found = _Discovery(model, inputs, constants or {}, precision)
    found.run()
    _keep_islands(model, found)
    segments = _segments(model, found)
    rows = host_rows(model, found.host)
    return Partition(model, segments, rows, found.known, found.structs, found.weights)


def segment_program(cut: Partition, segment: Segment, *, precision: str | None = None) -> Program:
    """The program of one XLA segment: from its inputs by name to its outputs by name."""
    used = {v for n in segment.nodes for v in _used(n)}
    weights = {n: v for n, v in cut.weights.items() if v in used}
    lax_precision = lax_precision_of(precision)

    def main(weights: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
        emitter = Emitter(cut.model, weights, precision=lax_precision)
        env: dict[Value, Operand] = {**cut.known, **{v: inputs[v.name or ""] for v in segment.inputs}}
        for node in segment.nodes:
            emitter.emit(node, env)
        return {v.name or "": as_array(emitter.lookup(v, env)) for v in segment.outputs}

    return Program(cut.model, main, weights, {v.name or "": cut.structs[v] for v in segment.inputs}, {})


def host_model(cut: Partition, segment: Segment) -> Model:
    """One host segment as a model of its own; weights are shared, not copied."""
    constants = dict.fromkeys(
        v
        for n in segment.nodes
        for v in _used(n)
        if v.is_initializer() and not v.is_graph_input() and v not in segment.inputs
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
            value.type = TensorType(DataType.from_numpy(np.dtype(struct.dtype)))
    return Model(graph, ir_version=cut.model.ir_version or 10)


class _Discovery:
    """One trace of the whole model that goes on behind nodes which cannot be traced."""

    def __init__(
        self, model: Model, inputs: Structs, constants: Mapping[str, np.ndarray], precision: str | None
    ) -> None:
        self.model = model
        self.inputs = dict(inputs)
        self.constants = constants
        self.precision = lax_precision_of(precision)
        self.weights = argument_weights(model)
        self.host: dict[Node, str] = structural_host_nodes(model)
        self.known: dict[Value, np.ndarray] = {}
        self.structs: dict[Value, Any] = {}
        self._opaque: set[Value] = set()  # of unknown shape, or of no type that XLA has
        self._from_host: set[Value] = set()
        self._sizes = _dim_sizes(model, inputs, constants)

    def run(self) -> None:
        with settings():
            jax.eval_shape(self._trace, structs_of_weights(self.weights), self.inputs)

    def _trace(self, weights: dict[str, Any], inputs: dict[str, Any]) -> None:
        emitter = Emitter(self.model, weights, precision=self.precision)
        env: dict[Value, Operand] = {}
        for value in self.model.graph.inputs:
            name = value.name or ""
            if name in self.constants or name in inputs:
                env[value] = self.constants[name] if name in self.constants else inputs[name]
                self._record(value, env[value])
            elif not value.is_initializer():
                self._opaque.add(value)
        for value in self.model.graph.initializers.values():
            if value.const_value is not None and value.const_value.dtype == DataType.STRING:
                self._opaque.add(value)
        for node in self.model.graph:
            if not self._stays(node, emitter, env):
                self._leave(node, env)

    def _stays(self, node: Node, emitter: Emitter, env: dict[Value, Operand]) -> bool:
        """Emit `node`, if XLA can run it; else note why not."""
        used = [v for v in (*node.inputs, *captured_values(node)) if v is not None]
        behind_host = any(v in self._from_host for v in used)
        if behind_host:
            self._from_host.update(node.outputs)
        if node in self.host:
            return False
        unknown = next((v for v in used if v in self._opaque), None)
        if unknown is not None:
            self.host[node] = f"it takes {unknown.name!r}, whose shape only the host finds out"
            return False
        try:
            emitter.emit(node, env)
        except StaticOperandRequired as error:
            if error.specialisable and error.inputs and not behind_host:
                raise
            self.host[node] = error.message
            return False
        except GraphoptError as error:
            self.host[node] = error.message
            return False
        for value in node.outputs:
            if value in env:
                self._record(value, env[value])
        return True

    def _record(self, value: Value, operand: Operand) -> None:
        if isinstance(operand, np.ndarray) and operand.dtype != object:
            self.known[value] = operand
        self.structs[value] = struct_of(operand)

    def _leave(self, node: Node, env: dict[Value, Operand]) -> None:
        """Go on behind a node of the host: with values of its results' shapes, where these are known."""
        for value in node.outputs:
            self._from_host.add(value)
            struct = self._struct_of(value)
            if struct is None:
                self._opaque.add(value)
            else:
                self.structs[value] = struct
                env[value] = jnp.zeros(struct.shape, struct.dtype)

    def _struct_of(self, value: Value) -> jax.ShapeDtypeStruct | None:
        if value.shape is None or value.dtype in (None, DataType.STRING):
            return None
        if not isinstance(value.type, TensorType):
            return None
        dims = [d if isinstance(d, int) else _size(d, self._sizes) for d in value.shape.dims]
        if any(d is None for d in dims):
            return None
        return jax.ShapeDtypeStruct(
            tuple(d for d in dims if d is not None), numpy_dtype(value.dtype, where=repr(value.name))
        )


def _is_array(operand: Any) -> bool:
    return hasattr(operand, "shape") and hasattr(operand, "dtype")


def _dim_sizes(model: Model, inputs: Structs, constants: Mapping[str, np.ndarray]) -> dict[str, int]:
    """What the symbolic dimensions of the inputs are."""
    sizes: dict[str, int] = {}
    for value in model.graph.inputs:
        array = constants.get(value.name or "", inputs.get(value.name or ""))
        if array is None or isinstance(array, list) or value.shape is None:
            continue
        for dim, size in zip(value.shape.dims, array.shape, strict=False):
            if isinstance(dim, SymbolicDim) and isinstance(dim.value, str):
                sizes[dim.value] = int(size)
    return sizes


def _size(dim: SymbolicDim, sizes: Mapping[str, int]) -> int | None:
    if not dim.value or not dim.free_symbols() <= sizes.keys():
        return None
    size = dim.evaluate(dict(sizes))
    return size if isinstance(size, int) and size >= 0 else None


def _keep_islands(model: Model, found: _Discovery) -> None:
    """Leave small integer arithmetic on the host where it comes from there and goes back there.

    A shape that the host computes and uses is not worth two transfers.
    """
    nodes = [n for n in model.graph if n not in found.host and not _is_known(n, found.known)]
    on_host = {v for n in found.host for v in n.outputs}
    fed: set[Node] = set()
    for node in nodes:
        data = [v for v in node.inputs if v is not None and v not in found.known and not v.is_initializer()]
        if data and all(v in on_host for v in data) and _is_small_arithmetic(node, found.structs):
            fed.add(node)
            on_host.update(node.outputs)
    taken = set(found.host)
    for node in reversed(nodes):
        users = {use.node for v in node.outputs for use in v.uses()}
        if node in fed and users <= taken and not any(v.is_graph_output() for v in node.outputs):
            taken.add(node)
            found.host[node] = "small arithmetic between nodes of the host"


def _is_small_arithmetic(node: Node, structs: Mapping[Value, Any]) -> bool:
    if captured_values(node) or is_op(node, "If", "Loop", "Scan"):
        return False
    outputs: list[Any] = [structs.get(v) for v in node.outputs]
    return all(
        _is_array(s) and np.dtype(s.dtype).kind in "iub" and math.prod(s.shape) <= ISLAND_ELEMENTS
        for s in outputs
    )


def _is_known(node: Node, known: Mapping[Value, np.ndarray]) -> bool:
    return bool(node.outputs) and all(v in known or not v.name for v in node.outputs)


def _segments(model: Model, found: _Discovery) -> tuple[Segment, ...]:
    """Level by level: as few changes between host and device as the order of the nodes allows.

    Even levels are the host's, odd ones XLA's. A node is on the first level of its kind that is not
    before those of the nodes that it takes values from.
    """
    level_of: dict[Value, int] = {}
    levels: dict[int, list[Node]] = {}
    for node in model.graph:
        if _is_known(node, found.known):
            continue
        level = 0 if node in found.host else 1
        for earlier in (level_of[v] for v in _used(node) if v in level_of):
            level = max(level, earlier if earlier % 2 == level % 2 else earlier + 1)
        levels.setdefault(level, []).append(node)
        level_of.update(dict.fromkeys(node.outputs, level))
    taken = {v: {_AT_THE_END} for v in model.graph.outputs}
    for level, nodes in levels.items():
        for value in (v for n in nodes for v in _used(n)):
            taken.setdefault(value, set()).add(level)
    segments = (
        _segment("xla" if level % 2 else "host", level, levels[level], level_of, taken, found)
        for level in sorted(levels)
    )
    return tuple(s for s in segments if s.outputs)  # what nothing takes need not run


def _used(node: Node) -> list[Value]:
    return [v for v in (*node.inputs, *captured_values(node)) if v is not None]


def _segment(
    where: Where,
    level: int,
    nodes: Sequence[Node],
    level_of: Mapping[Value, int],
    taken: Mapping[Value, set[int]],
    found: _Discovery,
) -> Segment:
    inputs: dict[Value, None] = {}
    for value in (v for n in nodes for v in _used(n)):
        constant = value.is_initializer() and not value.is_graph_input()
        if constant or level_of.get(value) == level or (where == "xla" and value in found.known):
            continue
        inputs.setdefault(value)
    outputs = [
        v for n in nodes for v in n.outputs if taken.get(v, {level}) - {level} and v not in found.known
    ]
    return Segment(where, tuple(nodes), tuple(inputs), tuple(outputs))
