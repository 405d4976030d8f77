"""Predict which ONNX Runtime provider will run each node, and what that costs in copies.

The prediction follows the rules by which ONNX Runtime assigns nodes: providers in order, each taking
the nodes it has kernels for, nested graphs independently of the node that holds them. One thing it
does on purpose looks like a fallback and is none: arithmetic on shapes (a few int64 numbers that come
from Shape) stays on the CPU even where CUDA kernels exist, because the shapes are needed there and a
kernel launch costs more than the sum. Such nodes are counted apart, and strict mode accepts them.

It is made from the graph as it is handed over; ONNX Runtime still fuses and folds before it assigns.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from graphopt.errors import PolicyError
from graphopt.ir import DataType, Graph, Model, Node, Value
from graphopt.ir.query import constant_tensor, element_count, is_deterministic, static_shape, subgraphs
from graphopt.lowering.cuda import kernels, tensorrt
from graphopt.target import Target

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

PROVIDERS: dict[str, tuple[str, ...]] = {
    "cpu": (CPU,),
    "cuda": (CUDA, CPU),
    "tensorrt": (TENSORRT, CUDA, CPU),
}
"""The providers of each target kind, in the order in which they are offered the nodes."""

SMALL_ELEMENTS = 100
"""ONNX Runtime's own bound for tensors that are cheaper to handle on the CPU."""

_NEVER_ON_CPU = frozenset(
    {
        DataType.FLOAT16,
        DataType.BFLOAT16,
        DataType.FLOAT8E4M3FN,
        DataType.FLOAT8E4M3FNUZ,
        DataType.FLOAT8E5M2,
        DataType.FLOAT8E5M2FNUZ,
    }
)

_GROWING = frozenset({"ConstantOfShape", "Expand", "NonZero", "Pad", "Range", "Tile", "Upsample", "Resize"})
"""Operators whose result can be much larger than their operands."""

KINDS = ("accelerator", "shape", "folded", "fallback")
Kind = Literal["accelerator", "shape", "folded", "fallback"]


@dataclasses.dataclass(frozen=True)
class NodePlacement:
    """Where one node is predicted to run.

    Attributes:
        node: the node's name.
        kind: ``accelerator``: where the target wants it; ``shape``: arithmetic on shapes, on the CPU on
            purpose; ``folded``: computed once, when the session is created; ``fallback``: on the CPU
            because the accelerator cannot run it.
        reason: why it is not with the target's first provider; None if it is.
        inside: the control-flow node whose subgraph holds it, if any.
        engine: the number of its TensorRT engine.
        predicted: the provider that was predicted, where ONNX Runtime itself chose another one.
    """

    node: str
    op: str
    provider: str
    kind: Kind = "accelerator"
    reason: str | None = None
    inside: str | None = None
    engine: int | None = None
    predicted: str | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict without what is not set."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}


@dataclasses.dataclass(frozen=True)
class PlacementSummary:
    """The placement of a model in numbers.

    Attributes:
        nodes: number of nodes by kind (:data:`KINDS`).
        providers: number of nodes by provider.
        fallback_ops: operators that fall back, with their number.
        copies: tensors that are copied between host and device on each run, inputs and outputs of the
            model not counted.
        engines: number of TensorRT engines.
        disagreements: nodes that ONNX Runtime put elsewhere than predicted; None: it was not asked.
    """

    nodes: dict[str, int]
    providers: dict[str, int]
    fallback_ops: dict[str, int]
    copies: int
    engines: int
    disagreements: int | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return dataclasses.asdict(self)


def predict(model: Model, target: Target) -> list[NodePlacement]:
    """The predicted placement of every node, nested ones included, main graph first.

    Args:
        model: in canonical form, with inferred types.
        target: of kind ``cpu``, ``cuda`` or ``tensorrt``.
    """
    inside = _holders(model.graph)
    if target.kind == "cpu":
        return [
            NodePlacement(node.name or "", node.op_type, CPU, inside=None if holder is None else holder.name)
            for node, holder in inside.items()
        ]
    engines: dict[Node, int] = {}
    declined: dict[Node, str] = {}
    folded = _folded(inside)
    if target.kind == "tensorrt":
        engines, declined = tensorrt.partition(model, folded)
    settled = folded | engines.keys()
    off: dict[Node, str] = {}
    for node in inside:
        reason = None if node in settled else _why_off(node, model)
        if reason is not None and _is_inlined(node):
            declined[node] = "ONNX Runtime has no kernel for it and runs the nodes it is defined by"
        elif reason is not None:
            off[node] = reason
    graphs: dict[Graph, list[Node]] = {}
    for node in inside:
        if node.graph is not None:
            graphs.setdefault(node.graph, []).append(node)
    constants = {value for node in folded for value in node.outputs}
    kept: set[Node] = set()
    for graph, nodes in graphs.items():
        kept |= _kept_on_cpu(graph, nodes, off, settled, constants)
    on_cpu = kept | off.keys()
    shape = _shape_arithmetic([node for node in inside if node not in settled], on_cpu, constants)
    return [
        _placed(node, holder, engines, declined, off, on_cpu, shape, folded)
        for node, holder in inside.items()
    ]


def _folded(nodes: Iterable[Node]) -> set[Node]:
    """The nodes that ONNX Runtime computes when the session is created.

    All their inputs are constants; or they are the Shape of a value whose shape is fixed.
    """
    found: set[Node] = set()
    constants: set[Value] = set()
    for node in nodes:
        operands = [value for value in node.inputs if value is not None]
        known = (node.domain, node.op_type) == ("", "Shape") and static_shape(node.inputs[0]) is not None
        if known or (
            operands
            and all(value in constants or constant_tensor(value) is not None for value in operands)
            and not any(subgraphs(node))
            and is_deterministic(node)
        ):
            found.add(node)
            constants.update(node.outputs)
    return found


def _holders(graph: Graph, holder: Node | None = None) -> dict[Node, Node | None]:
    """Every node in order of execution, nested ones after the node that holds them, with that node."""
    found: dict[Node, Node | None] = {}
    for node in graph:
        found[node] = holder
        for inner in subgraphs(node):
            found.update(_holders(inner, node))
    return found


def _why_off(node: Node, model: Model) -> str | None:
    return kernels.why_no_cuda_kernel(node, model) or kernels.why_cuda_declines(node)


def _is_inlined(node: Node) -> bool:
    return (node.domain or "") == "" and node.op_type in kernels.INLINED_FUNCTIONS


def _placed(
    node: Node,
    holder: Node | None,
    engines: dict[Node, int],
    declined: dict[Node, str],
    off: dict[Node, str],
    on_cpu: set[Node],
    shape: set[Node],
    folded: set[Node],
) -> NodePlacement:
    provider, kind, reason = CUDA, "accelerator", declined.get(node)
    engine = engines.get(node)
    if engine is not None:
        provider, reason = TENSORRT, None
    elif node in folded:
        provider, kind = CPU, "folded"
        reason = "its result is fixed: ONNX Runtime computes it once, when it loads the model"
    elif node in shape:
        provider, kind = CPU, "shape"
        reason = "it computes a shape, which ONNX Runtime does on the CPU"
    elif node in on_cpu:
        provider, kind = CPU, "fallback"
        reason = off.get(node, "ONNX Runtime keeps it beside the CPU nodes that produce its inputs")
    elif holder is not None and holder in on_cpu:
        reason = f"it runs inside {holder.op_type} {holder.name!r}, which is on the CPU, and returns to it"
    return NodePlacement(
        node=node.name or "",
        op=node.op_type,
        provider=provider,
        kind=kind,  # type: ignore[arg-type]
        reason=reason,
        inside=None if holder is None else holder.name,
        engine=engine,
    )


def _kept_on_cpu(
    graph: Graph, nodes: Sequence[Node], off: dict[Node, str], settled: set[Node], constants: set[Value]
) -> set[Node]:
    """The nodes with CUDA kernels that ONNX Runtime leaves on the CPU all the same.

    `settled` nodes are not CUDA's any more, `constants` are the results of those that are folded.
    From every host-memory output (Shape, Size) on, in order: a node whose inputs are all on the host,
    small constants or inputs of the graph stays there, unless its kernel reads such inputs from the
    host anyway.
    """
    position = {node: index for index, node in enumerate(nodes)}
    formal_inputs = set(graph.inputs)
    host: set[Value] = set()
    queue: list[int] = []

    def push_consumers(value: Value) -> None:
        for use in value.uses():
            if use.node in position:
                heapq.heappush(queue, position[use.node])

    for node in nodes:
        if node not in off and node not in settled:
            for index in _host(kernels.HOST_OUTPUTS, node):
                host.add(node.outputs[index])
                push_consumers(node.outputs[index])
    kept: set[Node] = set()
    visited: set[int] = set()
    while queue:
        index = heapq.heappop(queue)
        if index in visited:
            continue
        visited.add(index)
        node = nodes[index]
        if node in settled:
            continue
        if node not in off and not _stays(node, host, formal_inputs, constants):
            continue
        if node not in off:
            kept.add(node)
        for value in node.outputs:
            host.add(value)
            push_consumers(value)
    return kept


def _stays(node: Node, host: set[Value], formal_inputs: set[Value], constants: set[Value]) -> bool:
    read_on_host = _host(kernels.HOST_INPUTS, node)
    for index, value in enumerate(node.inputs):
        if value is None or value.dtype in _NEVER_ON_CPU:
            return False
        if _is_small_constant(value) or value in formal_inputs or value in constants:
            continue
        if value not in host or index in read_on_host:
            return False
    return True


def _is_small_constant(value: Value) -> bool:
    return (
        value.is_initializer() and value.const_value is not None and value.const_value.size <= SMALL_ELEMENTS
    )


def _shape_arithmetic(nodes: Iterable[Node], on_cpu: set[Node], constants: set[Value]) -> set[Node]:
    """The CPU nodes whose operands all come from shapes or are constants, and whose results are tiny."""
    from_shapes: set[Value] = set()
    found: set[Node] = set()
    for node in nodes:
        if node not in on_cpu:
            from_shapes.update(node.outputs[index] for index in _host(kernels.HOST_OUTPUTS, node))
            continue
        operands = [
            v for v in node.inputs if v is not None and v not in constants and not _is_small_constant(v)
        ]
        if operands and all(v in from_shapes for v in operands) and all(_is_tiny(v) for v in node.outputs):
            found.add(node)
            from_shapes.update(node.outputs)
    return found


def _is_tiny(value: Value) -> bool:
    """Whether a value computed from shapes is a few numbers, as far as is known."""
    shape = static_shape(value)
    if shape is not None:
        return element_count(shape) <= SMALL_ELEMENTS
    producer = value.producer()
    return producer is not None and producer.op_type not in _GROWING


def summarize(model: Model, placements: Sequence[NodePlacement]) -> PlacementSummary:
    """The numbers of `placements`, which :func:`predict` made for `model`."""
    engines = {p.engine for p in placements if p.engine is not None}
    return PlacementSummary(
        nodes={kind: sum(p.kind == kind for p in placements) for kind in KINDS},
        providers=dict(Counter(p.provider for p in placements)),
        fallback_ops=dict(Counter(p.op for p in placements if p.kind == "fallback").most_common()),
        copies=_count_copies(model, placements),
        engines=len(engines),
    )


def _count_copies(model: Model, placements: Sequence[NodePlacement]) -> int:
    """The copies that ONNX Runtime inserts, graph by graph; constants are placed once, at load.

    A value is copied where it is produced, if a user on the other side asks for it, and otherwise in each
    graph where both sides use it. What a body uses of the graphs around it is used by the node that holds
    it, too.
    """
    provider_of = {p.node: p.provider for p in placements}
    folded = {p.node for p in placements if p.kind == "folded"}
    if set(provider_of.values()) <= {CPU}:
        return 0
    holders = _holders(model.graph)
    used: dict[tuple[Graph | None, Value], set[bool]] = {}
    for node in holders:
        if node.name in folded:
            continue
        for index, value in enumerate(node.inputs):
            if value is not None and not _is_constant(value, folded):
                on_host = _on_host(node, index, provider_of, kernels.HOST_INPUTS)
                _use(used, value, node, on_host, holders, provider_of)
    copies = 0
    for (graph, value), sides in used.items():
        producer = value.producer()
        if producer is not None and producer.graph is graph:
            index = next(i for i, output in enumerate(producer.outputs) if output is value)
            copies += (not _on_host(producer, index, provider_of, kernels.HOST_OUTPUTS)) in sides
        else:
            copies += len(sides) == 2
    return copies


def _is_constant(value: Value, folded: set[str]) -> bool:
    producer = value.producer()
    return constant_tensor(value) is not None or (producer is not None and (producer.name or "") in folded)


def _use(
    used: dict[tuple[Graph | None, Value], set[bool]],
    value: Value,
    node: Node,
    on_host: bool,
    holders: dict[Node, Node | None],
    provider_of: dict[str, str],
) -> None:
    """Note that `node` uses `value`, and so do the nodes that hold it, up to where `value` comes from."""
    while True:
        used.setdefault((node.graph, value), set()).add(on_host)
        producer = value.producer()
        home = value.graph if producer is None else producer.graph
        holder = holders[node]
        if home is node.graph or holder is None:
            return
        node, on_host = holder, provider_of[holder.name or ""] == CPU


def _on_host(node: Node, index: int, provider_of: dict[str, str], table: dict[str, tuple[int, ...]]) -> bool:
    """Whether the operand `index` of `node` is in host memory, by `table` for nodes on the device."""
    provider = provider_of[node.name or ""]
    return provider == CPU or (provider == CUDA and index in _host(table, node))


def _host(table: dict[str, tuple[int, ...]], node: Node) -> tuple[int, ...]:
    return () if node.domain else table.get(node.op_type, ())


def check_strict(placements: Sequence[NodePlacement]) -> None:
    """Refuse a placement with fallbacks; arithmetic on shapes is none.

    Raises:
        PolicyError: GO501, naming every node that is predicted to run off the accelerator.
    """
    refuse_fallbacks([p.to_json() for p in placements if p.kind == "fallback"])


def refuse_fallbacks(away: Sequence[Mapping[str, Any]]) -> None:
    """Raise PolicyError (GO501) that names every node of `away` (rows of a placement), if there are any."""
    if not away:
        return
    listing = "\n".join(f"  {p['op']} {p['node']!r}: {p.get('reason', 'no reason is known')}" for p in away)
    count = f"{len(away)} node{'s' if len(away) > 1 else ''}"
    raise PolicyError(
        "GO501",
        f"{count} would run on the CPU instead of the accelerator:\n{listing}\n",
        next_step="Without --strict (run: with --no-strict) that is accepted.",
        details={"nodes": [dict(p) for p in away]},
    )
