"""The model of a picture: what a graph looks like, before anything is placed or drawn.

Plain data with text and numbers only, so that an SVG, an HTML page and a JSON export can be made
of the same picture. Weights are listed at the nodes that use them, they are not nodes themselves.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator
from typing import NamedTuple

from graphopt.ir import AttributeType, ExternalTensor, Graph, Model, Node, TensorType, Value
from graphopt.ir.provenance import origins
from graphopt.ir.query import element_count, static_shape

MAX_SCOPE_DEPTH = 8


class State(enum.Enum):
    """What became of a node between before and after; in `after`, where the node comes from."""

    SAME = "same"
    CHANGED = "changed"
    FUSED = "fused"
    REMOVED = "removed"
    ADDED = "added"


class Kind(enum.Enum):
    """What a node of the picture stands for."""

    OP = "op"
    INPUT = "input"
    OUTPUT = "output"
    GROUP = "group"


class TypedName(NamedTuple):
    """A value: its name, its type as ``f32[1,3,224,224]``, and its size in bytes where that is known."""

    name: str
    label: str
    bytes: int | None


@dataclasses.dataclass(frozen=True)
class PictureNode:
    """One box of a picture.

    Attributes:
        id: unique in its pane.
        kind: an operator, an input or output of a graph, or a group of collapsed nodes.
        op: the operator; for a group its scope.
        scope: the path in front of the last part of the name, ``("encoder", "layer.0")``.
        outputs: what it computes.
        constants: the weights that it uses.
        origins: the names of the original nodes that it stands for.
        body: which nested graph it belongs to, ``If 'x' then_branch``; empty for the main graph.
        fingerprint: equal for nodes that compute the same function of their inputs.
        state, matches: in a pair, what became of it and the ids of its counterparts.
        members: how many nodes the box stands for.
    """

    id: str
    kind: Kind
    op: str
    name: str
    domain: str = ""
    scope: tuple[str, ...] = ()
    outputs: tuple[TypedName, ...] = ()
    constants: tuple[TypedName, ...] = ()
    origins: tuple[str, ...] = ()
    body: str = ""
    fingerprint: tuple[object, ...] = ()
    state: State | None = None
    matches: tuple[str, ...] = ()
    members: int = 1

    @property
    def bytes(self) -> int | None:
        """Bytes of all outputs, or None if a shape is not known."""
        sizes = [v.bytes for v in self.outputs]
        return None if any(s is None for s in sizes) else sum(s for s in sizes if s is not None)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights that it uses, whoever else uses them too."""
        return sum(v.bytes or 0 for v in self.constants)


@dataclasses.dataclass(frozen=True)
class PictureEdge:
    """A value on its way from the box `source` to the box `target`."""

    source: str
    target: str
    name: str
    label: str
    bytes: int | None


@dataclasses.dataclass(frozen=True)
class Pane:
    """One graph as boxes and edges, in the order of execution.

    Attributes:
        node_count: operator nodes of the model, nested ones and Constants included.
        constant_count: how many of these are Constants, which are not drawn.
        weight_bytes: bytes of all constants, each counted once.
    """

    name: str
    nodes: tuple[PictureNode, ...]
    edges: tuple[PictureEdge, ...]
    node_count: int
    constant_count: int
    weight_bytes: int


@dataclasses.dataclass(frozen=True)
class Picture:
    """A graph, or a graph before and after a change."""

    title: str
    before: Pane
    after: Pane | None = None

    @property
    def panes(self) -> tuple[Pane, ...]:
        """The graphs shown, left to right."""
        return (self.before,) if self.after is None else (self.before, self.after)


def pane_of(model: Model) -> Pane:
    """The picture of `model`; nested graphs are drawn too, each as a piece of its own."""
    return _PaneBuilder(model).build()


def typed_name(value: Value) -> TypedName:
    """`value` as text, with its size where type and shape are known."""
    if value.const_value is not None:
        return TypedName(value.name or "", type_label(value), _constant_bytes(value))
    shape = static_shape(value)
    size = None
    if shape is not None and isinstance(value.type, TensorType) and value.dtype is not None:
        bits = 0 if value.dtype.name in ("STRING", "UNDEFINED") else value.dtype.bitwidth
        size = (element_count(shape) * bits + 7) // 8
    return TypedName(value.name or "", type_label(value), size)


def type_label(value: Value) -> str:
    """The type and shape of `value` as ``f32[batch,64]``; ``?`` for what is not known."""
    if value.type is None or value.dtype is None:
        return "?"
    dtype = "bool" if value.dtype.name == "BOOL" else value.dtype.short_name()
    if not isinstance(value.type, TensorType):
        kind = type(value.type).__name__.removesuffix("Type").lower()
        return f"{kind}({dtype})"
    if value.shape is None:
        return f"{dtype}[…]"
    dims = ("?" if d is None else str(d) for d in (getattr(d, "value", d) for d in value.shape.dims))
    return f"{dtype}[{','.join(dims)}]"


def scope_of(name: str) -> tuple[str, ...]:
    """The path in front of the last part of a node's name, at most 8 deep."""
    separator = "/" if "/" in name else "."
    parts = [p for p in name.split(separator, MAX_SCOPE_DEPTH + 2) if p]
    return tuple(parts[:-1][:MAX_SCOPE_DEPTH])


class _PaneBuilder:
    """Walks a model once, graph by graph."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._nodes: list[PictureNode] = []
        self._edges: dict[tuple[str, str, str], PictureEdge] = {}
        self._source: dict[Value, str] = {}
        self._constants: dict[Value, None] = {}
        self._holders: dict[Graph, tuple[str, Graph]] = {}  # the node that holds a graph, and its graph
        self._constant_nodes = 0

    def build(self) -> Pane:
        work = [(self._model.graph, "")]
        for graph, body in work:  # grows while it is walked
            work.extend(self._add_graph(graph, body))
        return Pane(
            name=self._model.graph.name or "",
            nodes=tuple(self._nodes),
            edges=tuple(self._edges.values()),
            node_count=sum(1 for n in self._nodes if n.kind is Kind.OP) + self._constant_nodes,
            constant_count=self._constant_nodes,
            weight_bytes=sum(_constant_bytes(v) or 0 for v in self._constants),
        )

    def _add_graph(self, graph: Graph, body: str) -> Iterator[tuple[Graph, str]]:
        for value in graph.inputs:
            if not value.is_initializer():
                self._source[value] = self._box(Kind.INPUT, "Input", value, body)
        inner: list[tuple[Graph, str]] = []
        for node in graph:
            if _is_hidden_constant(node):
                self._constant_nodes += 1
            else:
                inner.extend(self._add_node(node, graph, body))
        for value in graph.outputs:
            target = self._box(Kind.OUTPUT, "Output", value, body)
            self._connect(value, target, graph)
        yield from inner

    def _box(self, kind: Kind, op: str, value: Value, body: str) -> str:
        name = f"n{len(self._nodes)}"
        weights = (typed_name(value),) if kind is Kind.OUTPUT and _is_constant(value) else ()
        self._nodes.append(
            PictureNode(
                id=name,
                kind=kind,
                op=op,
                name=value.name or "",
                outputs=(typed_name(value),),
                constants=weights,
                body=body,
                fingerprint=(op, value.name),
            )
        )
        return name

    def _add_node(self, node: Node, graph: Graph, body: str) -> list[tuple[Graph, str]]:
        identity = f"n{len(self._nodes)}"
        constants = dict.fromkeys(v for v in node.inputs if v is not None and _is_constant(v))
        self._constants.update(constants)
        box = PictureNode(
            id=identity,
            kind=Kind.OP,
            op=node.op_type,
            name=node.name or "",
            domain=node.domain or "",
            scope=scope_of(node.name or ""),
            outputs=tuple(typed_name(v) for v in node.outputs if v.name),
            constants=tuple(typed_name(v) for v in constants),
            origins=origins(node),
            body=body,
            fingerprint=_fingerprint(node),
        )
        self._nodes.append(box)
        for value in node.inputs:
            if value is not None and not _is_constant(value):
                self._connect(value, identity, graph)
        for value in node.outputs:
            self._source[value] = identity
        found = []
        for attr in node.attributes.values():
            if attr.is_ref() or attr.type not in (AttributeType.GRAPH, AttributeType.GRAPHS):
                continue
            graphs = [attr.as_graph()] if attr.type == AttributeType.GRAPH else list(attr.as_graphs())
            for inner in graphs:
                self._holders[inner] = (identity, graph)
                found.append((inner, f"{node.op_type} {node.name!r} {attr.name}"))
        return found

    def _connect(self, value: Value, target: str, graph: Graph) -> None:
        """An edge for `value`; from an outer graph it leads to the node that holds the inner one."""
        source = self._source.get(value)
        if source is None:
            return
        producer = value.producer()
        home = producer.graph if producer is not None else value.graph
        while graph is not home and graph in self._holders:
            target, graph = self._holders[graph]
        if source != target:
            name, label, size = typed_name(value)
            self._edges.setdefault((source, target, name), PictureEdge(source, target, name, label, size))


def _is_hidden_constant(node: Node) -> bool:
    if node.op_type != "Constant" or (node.domain or "") != "":
        return False
    return not node.outputs[0].is_graph_output()


def _is_constant(value: Value) -> bool:
    producer = value.producer()
    return value.is_initializer() or (producer is not None and _is_hidden_constant(producer))


def _constant_bytes(value: Value) -> int | None:
    producer = value.producer()
    tensor = value.const_value
    if tensor is None and producer is not None:
        attr = producer.attributes.get("value")
        tensor = attr.as_tensor() if attr is not None and attr.type == AttributeType.TENSOR else None
    if tensor is None or tensor.dtype.name == "STRING":
        return None
    if isinstance(tensor, ExternalTensor) and tensor.length is not None:
        return tensor.length
    return tensor.nbytes


def _fingerprint(node: Node) -> tuple[object, ...]:
    """What the node computes: its operator, attributes, dtypes and constant operands, not its shapes."""
    attributes = []
    for attr in sorted(node.attributes.values(), key=lambda a: a.name):
        shown: object
        if attr.is_ref():
            shown = attr.ref_attr_name
        elif attr.type == AttributeType.TENSOR:
            tensor = attr.as_tensor()
            shown = (tensor.dtype.name, str(tensor.shape))
        elif attr.type in (AttributeType.GRAPH, AttributeType.GRAPHS):
            shown = None  # its nodes are compared one by one
        else:
            shown = str(attr.value)
        attributes.append((attr.name, attr.type.name, shown))
    operands = tuple(
        None if v is None else (v.name, type_label(v)) if _is_constant(v) else "value" for v in node.inputs
    )
    dtypes = tuple(v.dtype.name if v.dtype is not None else None for v in node.outputs if v.name)
    return (node.domain or "", node.op_type, tuple(attributes), operands, dtypes)
