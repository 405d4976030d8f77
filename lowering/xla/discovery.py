"""Discovery: one trace that goes on behind what cannot be traced, and finds all that must leave XLA.

It covers a region: the main graph, or the body of a control-flow node that the host drives.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from graphopt.errors import GraphoptError
from graphopt.ir import DataType, Graph, Model, Node, SymbolicDim, TensorType, Value
from graphopt.ir.query import captured_by, captured_values
from graphopt.lowering.xla import bounded
from graphopt.lowering.xla.dtypes import numpy_dtype
from graphopt.lowering.xla.emit import Emitter, Operand, StaticOperandRequired, node_scopes
from graphopt.lowering.xla.program import (
    Structs,
    argument_weights,
    lax_precision_of,
    settings,
    struct_of,
    structs_of_weights,
)
from graphopt.lowering.xla.support import Unsupported, describe_row, require_known, unsupported_by_node

if TYPE_CHECKING:
    from graphopt.lowering.xla.partition import Partition


@dataclasses.dataclass(frozen=True)
class Region:
    """Nodes that are cut together, in order, and what flows in and out.

    Attributes:
        inputs: of the graph, and the values of outer graphs that it uses (initializers left out).
    """

    graph: Graph
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]

    @classmethod
    def main(cls, model: Model) -> Region:
        """The main graph."""
        return cls(model.graph, tuple(model.graph.inputs), tuple(model.graph.outputs))

    @classmethod
    def body(cls, graph: Graph) -> Region:
        """A body or branch of a control-flow node."""
        outer = [v for v in captured_by([graph]) if not is_constant(v)]
        return cls(graph, (*graph.inputs, *outer), tuple(graph.outputs))


@dataclasses.dataclass(frozen=True)
class Driven:
    """A control-flow node that the host drives: its bodies are partitions of their own.

    Attributes:
        bodies: of an If the branches, then first; of a Loop or Scan the body.
        reason: why XLA does not take the node as a whole.
    """

    node: Node
    bodies: tuple[Partition, ...]
    reason: str


Drive = Callable[["Discovery", Node, str], "Driven | None"]


def is_constant(value: Value) -> bool:
    """Whether `value` is an initializer that no caller can override."""
    return value.is_initializer() and not value.is_graph_input()


def used_values(node: Node) -> list[Value]:
    """What `node` takes, values that its bodies capture included."""
    return [v for v in (*node.inputs, *captured_values(node)) if v is not None]


def structural_host_nodes(model: Model, graph: Graph | None = None) -> dict[Node, str]:
    """The nodes of `graph` (the main one) that cannot be lowered whatever the shapes are, with the reason.

    A node whose subgraph holds such a node counts as one.

    Raises:
        LoweringError: GO201, an operator that the host does not know either.
    """
    found = unsupported_by_node(model, graph)
    require_known(found.values(), model.opset_imports)
    return {node: _because(node, rows) for node, rows in found.items()}


def _because(node: Node, rows: Sequence[Unsupported]) -> str:
    first = rows[0]
    inner = first.node != node.name
    return f"{first.reason} (its body holds {describe_row(first)})" if inner else first.reason


class Discovery:
    """What of a region leaves XLA, and the shapes and values that are known of the rest.

    Args:
        inputs: shapes and types of the region's inputs, as far as XLA can hold them.
        known: the values of those that are known.
        sizes: of symbolic dimensions, by name.
        drive: gives the way to run a control-flow node that XLA does not take as a whole, or None.
        outer: of the region around; None for the main graph, where what a node needs to know of a graph
            input raises StaticOperandRequired.

    Attributes:
        host: the nodes that run on the host, with the reason.
        driven: the control-flow nodes that it drives.
    """

    def __init__(
        self,
        model: Model,
        region: Region,
        inputs: Mapping[Value, Any],
        known: Mapping[Value, np.ndarray],
        precision: str | None,
        *,
        sizes: Mapping[str, int],
        drive: Drive,
        outer: Discovery | None = None,
    ) -> None:
        self.model = model
        self.region = region
        self.precision = precision
        self.weights: dict[str, Value] = argument_weights(model) if outer is None else outer.weights
        self.scopes: dict[Node, str] = node_scopes(model) if outer is None else outer.scopes
        self.host: dict[Node, str] = structural_host_nodes(model, region.graph)
        self.driven: dict[Node, Driven] = {}
        self.known: dict[Value, np.ndarray] = dict(known)
        self.structs: dict[Value, Any] = {**inputs, **{v: struct_of(a) for v, a in known.items()}}
        self.sizes = sizes
        self.from_host: set[Value] = set() if outer is None else set(outer.from_host)
        self._inputs = {v: s for v, s in inputs.items() if v not in known}
        self._specialises = outer is None
        self.drive = drive
        # Of unknown shape, or of no type that XLA has.
        given = {*self._inputs, *known}
        self._opaque = {v for v in region.inputs if v not in given and not v.is_initializer()}
        for graph in {model.graph, region.graph}:
            for value in graph.initializers.values():
                if value.const_value is not None and value.const_value.dtype == DataType.STRING:
                    self._opaque.add(value)

    def run(self) -> None:
        """Trace the region."""
        with settings():
            inputs = [bounded.outside_struct(s) for s in self._inputs.values()]
            jax.eval_shape(self._trace, structs_of_weights(self.weights), inputs)

    def _trace(self, weights: dict[str, Any], inputs: Sequence[Any]) -> None:
        emitter = Emitter(self.model, weights, precision=lax_precision_of(self.precision), scopes=self.scopes)
        env: dict[Value, Operand] = dict(self.known)
        for (value, struct), given in zip(self._inputs.items(), inputs, strict=True):
            env[value] = bounded.inside(struct, given)
        for node in self.region.graph:
            if not self._stays(node, emitter, env):
                self._leave(node, env)

    def _stays(self, node: Node, emitter: Emitter, env: dict[Value, Operand]) -> bool:
        """Emit `node`, if XLA can run it; else note why not."""
        used = used_values(node)
        behind_host = any(v in self.from_host for v in used)
        if behind_host:
            self.from_host.update(node.outputs)
        if node in self.host:
            return False
        unknown = next((v for v in used if v in self._opaque), None)
        if unknown is not None:
            self.host[node] = f"it takes {unknown.name!r}, whose shape only the host finds out"
            return False
        try:
            emitter.emit(node, env)
        except StaticOperandRequired as error:
            if error.specialisable and error.inputs and not behind_host and self._specialises:
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
        driven = self.drive(self, node, self.host[node])
        if driven is not None:
            self.driven[node] = driven
            del self.host[node]
        for value, agreed in zip(node.outputs, _agreed(driven, node), strict=True):
            self.from_host.add(value)
            inferred = self._struct_of(value)
            struct = agreed if inferred is None else inferred
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
        dims = [d if isinstance(d, int) else _size(d, self.sizes) for d in value.shape.dims]
        if any(d is None for d in dims):
            return None
        return jax.ShapeDtypeStruct(
            tuple(d for d in dims if d is not None), numpy_dtype(value.dtype, where=repr(value.name))
        )


def _agreed(driven: Driven | None, node: Node) -> Sequence[Any]:
    """Shapes and types of the results of an If whose branches are known to agree on them."""
    if driven is None or node.op_type != "If":
        return [None] * len(node.outputs)
    then, otherwise = (
        [bounded.outside_struct(cut.structs.get(v)) for v in cut.outputs] for cut in driven.bodies
    )
    return [a if is_tensor(a) and a == b else None for a, b in zip(then, otherwise, strict=True)]


def is_tensor(struct: Any) -> bool:
    """Whether a struct is one of a tensor, not of a sequence or of nothing."""
    return isinstance(struct, jax.ShapeDtypeStruct)


def dim_sizes(model: Model, inputs: Structs, constants: Mapping[str, np.ndarray]) -> dict[str, int]:
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
