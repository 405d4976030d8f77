"""One walk over a model: what every node is at this moment, with its values as numbers.

A :class:`Sight` keeps no node and no weight alive. What does not change from one walk to the next
(attributes, types) is recognised and not printed again, so that a walk costs a few microseconds a node.
"""

from __future__ import annotations

import dataclasses
import re
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

from graphopt.ir import Attr, AttributeType, Graph, Model, Node, SymbolicDim, TensorType, Value
from graphopt.ir.provenance import ORIGIN_KEY, origins

MAX_TEXT = 16_384
"""Longest name that is kept: one of 10 kB is shown in full, one of 1 MB is not."""

MAX_PRINTED = 200
"""Longest printed attribute."""

MAX_SCOPES = 12
_QUOTED = re.compile(r"'((?:[^'\\]|\\.){0,500})'|\"((?:[^\"\\]|\\.){0,500})\"")


class Strings:
    """Texts by number, each once."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        """The number of `text`, of which at most :data:`MAX_TEXT` characters are kept."""
        found = self._numbers.get(text)
        if found is None:
            kept = text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
            found = self._numbers.setdefault(kept, len(self.texts))
            if found == len(self.texts):
                self.texts.append(kept)
        return found


@dataclasses.dataclass(slots=True)
class Seen:
    """One node as a walk found it.

    Attributes:
        name: its name; of a node without one, what stands for it.
        named: whether the name is the model's own, or was made up.
        inputs, outputs: numbers of values; -1 for one that is left out.
        attributes: pairs of numbers of strings: name and printed value.
        origins: names of the original nodes that it stands for.
        proven: whether the origins are recorded, or follow from its name only.
        holder: index of the node whose body it lives in, -1 for the main graph.
        body: the attribute of the holder, and its place where that holds several graphs.
        scope: the modules around it, outermost first.
    """

    name: str
    named: bool
    op: str
    domain: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    attributes: tuple[tuple[int, int], ...]
    origins: tuple[str, ...]
    proven: bool
    holder: int
    body: tuple[str, int]
    scope: tuple[str, ...]

    @property
    def function(self) -> tuple[Any, ...]:
        """What is equal for nodes that apply the same operator with the same attributes."""
        return (self.op, self.domain, self.attributes)


@dataclasses.dataclass(slots=True)
class Body:
    """A nested graph: who holds it, and its formal inputs and outputs as numbers of values."""

    holder: int
    attribute: tuple[str, int]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class Sight:
    """Looks at a model again and again, and numbers its values and strings.

    Attributes:
        values: every version of every value, as the view has it.
        visits: nodes looked at so far, over all walks.
    """

    def __init__(self) -> None:
        self.strings = Strings()
        self.values: list[dict[str, Any]] = []
        self.tensors: dict[int, weakref.ref[Any]] = {}
        self.visits = 0
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._attributes: dict[int, tuple[Attr, tuple[int, int]]] = {}
        self._versions: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._tensors_seen = 0
        self._kinds: dict[Value, str] = {}
        self._walk: dict[Value, int] = {}
        self._origins: dict[str, tuple[str, ...]] = {}

    def look(self, model: Model, invented: frozenset[str] = frozenset()) -> tuple[list[Seen], list[Body]]:
        """Every node of `model` but constants, main graph first, and the nested graphs.

        Args:
            invented: names that the model does not have itself, but was given.
        """
        graph = model.graph
        self._kinds = _kinds(graph)
        seen: list[Seen] = []
        bodies: list[Body] = []
        work: list[tuple[Graph, int, tuple[str, int]]] = [(graph, -1, ("", 0))]
        for inner, holder, body in work:  # grows while it is walked
            if holder >= 0:
                formal = (tuple(self.value(v) for v in part) for part in (inner.inputs, inner.outputs))
                bodies.append(Body(holder, body, *formal))
            for node in inner:
                self.visits += 1
                if hidden_constant(node):
                    continue
                work.extend((g, len(seen), where) for g, where in _bodies(node))
                seen.append(self._node(node, holder, body, invented))
        self._kinds, self._walk = {}, {}
        return seen, bodies

    def interface(self, model: Model) -> tuple[list[int], list[int]]:
        """The numbers of the inputs and outputs of `model`, which was looked at last."""
        graph = model.graph
        self._kinds = _kinds(graph)
        inputs = [self.value(v) for v in graph.inputs if not v.is_initializer()]
        found = inputs, [self.value(v) for v in graph.outputs]
        self._kinds, self._walk = {}, {}
        return found

    def _node(self, node: Node, holder: int, body: tuple[str, int], invented: frozenset[str]) -> Seen:
        name = node.name or next((v.name for v in node.outputs if v.name), "") or node.op_type
        recorded = node.metadata_props.get(ORIGIN_KEY)
        named = bool(node.name) and name not in invented
        return Seen(
            name=name,
            named=named,
            op=node.op_type,
            domain=node.domain or "",
            inputs=tuple([-1 if v is None else self.value(v) for v in node.inputs]),
            outputs=tuple([-1 if not v.name and not v.uses() else self.value(v) for v in node.outputs]),
            attributes=tuple([self._attribute(a) for a in node.attributes.values() if not _is_graph(a)]),
            origins=(name,) if recorded is None else self._recorded(node, recorded),
            proven=recorded is not None,
            holder=holder,
            body=body,
            scope=scope_of(node),
        )

    def _recorded(self, node: Node, text: str) -> tuple[str, ...]:
        found = self._origins.get(text)
        if found is None:
            found = self._origins[text] = origins(node)
        return found

    def value(self, value: Value) -> int:
        """The number of `value` as it is now, found once in a walk."""
        number = self._walk.get(value)
        if number is None:
            number = self._walk[value] = self._number(value)
        return number

    def _number(self, value: Value) -> int:
        tensor, constant = _constant(value)
        kind = self._kinds.get(value) or ("init" if constant else "act")
        dtype = value.dtype
        shape = value.shape if tensor is None or value.shape is not None else tensor.shape
        dims = None if shape is None else tuple([_dim(d) for d in shape.dims])
        version = 0 if tensor is None else self._version(tensor)
        # An input or output is the same through all steps, even where its shape becomes known.
        key = (value.name, dtype, dims if kind in ("act", "init") else None, kind, version, type(value.type))
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.values)
            self.values.append(self._described(value, dims, kind, tensor))
            if tensor is not None:
                self.tensors[number] = weakref.ref(tensor)
        return number

    def _version(self, tensor: Any) -> int:
        """A number for this very tensor object, as long as it lives."""
        found = self._versions.get(id(tensor))
        if found is not None and found[0]() is tensor:
            return found[1]
        self._tensors_seen += 1
        self._versions[id(tensor)] = (weakref.ref(tensor), self._tensors_seen)
        return self._tensors_seen

    def _described(self, value: Value, dims: Any, kind: str, tensor: Any) -> dict[str, Any]:
        dtype = value.dtype if value.dtype is not None else getattr(tensor, "dtype", None)
        if dtype is None or dtype.name == "UNDEFINED":
            label = None
        else:
            label = "bool" if dtype.name == "BOOL" else dtype.short_name()
            if value.type is not None and not isinstance(value.type, TensorType):
                label = f"{type(value.type).__name__.removesuffix('Type').lower()}({label})"
        row: dict[str, Any] = {
            "n": self.strings(value.name or ""),
            "t": None,
            "d": None,
            "b": None,
            "k": kind,
        }
        row["t"] = None if label is None else self.strings(label)
        row["d"] = None if dims is None else list(dims)
        if label is not None and dims is not None and "(" not in label and label != "str":
            row["b"] = _bytes(dims, dtype)
        return row

    def _attribute(self, attribute: Attr) -> tuple[int, int]:
        known = self._attributes.get(id(attribute))
        if known is not None and known[0] is attribute:
            return known[1]
        pair = (self.strings(attribute.name), self.strings(printed(attribute)))
        self._attributes[id(attribute)] = (attribute, pair)
        return pair


def hidden_constant(node: Node) -> bool:
    """Whether `node` is a Constant that is shown as a weight of its users, not as a node."""
    return node.op_type == "Constant" and not node.domain and not node.outputs[0].is_graph_output()


def printed(attribute: Attr) -> str:
    """The value of `attribute` as text of at most :data:`MAX_PRINTED` characters."""
    if attribute.is_ref():
        return f"@{attribute.ref_attr_name}"
    value = attribute.value
    if attribute.type == AttributeType.TENSOR:
        return _tensor_text(value)
    if isinstance(value, (list, tuple)):
        tensors = attribute.type == AttributeType.TENSORS
        show = _tensor_text if tensors else str
        shown = [show(v)[:MAX_PRINTED] for v in value[: MAX_PRINTED // 2]]
        text = f"[{', '.join(shown)}{', …' if len(value) > len(shown) else ''}]"
    else:
        text = value[: MAX_PRINTED + 1] if isinstance(value, str) else str(value)
    return text if len(text) <= MAX_PRINTED else text[: MAX_PRINTED - 1] + "…"


def _tensor_text(tensor: Any) -> str:
    return f"tensor {tensor.dtype.name.lower()}{list(tensor.shape.dims)}"


def scope_of(node: Node) -> tuple[str, ...]:
    """The modules around `node`: by the exporter's metadata, else by the path in its name."""
    text = node.metadata_props.get("pkg.torch.onnx.name_scopes")
    if text is not None:
        return _torch_scopes(text, node.metadata_props.get("pkg.torch.onnx.class_hierarchy") or "")
    name = node.name or ""
    separator = "/" if "/" in name else "."
    parts = [p for p in name.split(separator, MAX_SCOPES + 2) if p][:-1][:MAX_SCOPES]
    return tuple(p[:MAX_PRINTED] for p in parts if p != node.op_type)


def _torch_scopes(names: str, classes: str) -> tuple[str, ...]:
    """``['', 'model', 'model.layers.0', 'matmul']`` as ``model``, ``layers.0``: the last is the node."""
    paths = _listed(names)[:-1]
    kinds = [kind.rpartition(".")[2] for kind in _listed(classes)]
    found: list[str] = []
    outer = ""
    for index, path in enumerate(paths[: MAX_SCOPES + 1]):
        own = path.removeprefix(f"{outer}.") if outer else path
        if own and path != outer:
            kind = kinds[index] if index < len(kinds) else ""
            found.append(f"{own} ({kind})" if kind else own)
        outer = path
    return tuple(found)


def _listed(text: str) -> list[str]:
    return [a or b for a, b in _QUOTED.findall(text[: 8 * MAX_PRINTED * MAX_SCOPES])]


def _bodies(node: Node) -> Iterator[tuple[Graph, tuple[str, int]]]:
    for attribute in node.attributes.values():
        if _is_graph(attribute):
            graphs = (
                [attribute.as_graph()] if attribute.type == AttributeType.GRAPH else attribute.as_graphs()
            )
            for index, graph in enumerate(graphs):
                yield graph, (attribute.name, index)


def _is_graph(attribute: Attr) -> bool:
    return attribute.type in (AttributeType.GRAPH, AttributeType.GRAPHS) and not attribute.is_ref()


def _kinds(graph: Graph) -> dict[Value, str]:
    """``in``, ``out`` or ``inout`` for the values of the interface."""
    outputs = set(graph.outputs)
    found = {v: "inout" if v in outputs else "in" for v in graph.inputs if not v.is_initializer()}
    return found | {v: "out" for v in graph.outputs if v not in found}


def _constant(value: Value) -> tuple[Any, bool]:
    """The tensor of `value`, if it has one to look at, and whether it is a constant."""
    if value.is_initializer():
        return value.const_value, True
    producer = value.producer()
    if producer is None or not hidden_constant(producer):
        return None, False
    attribute = producer.attributes.get("value")
    tensor = attribute is not None and attribute.type == AttributeType.TENSOR
    return (attribute.value if attribute is not None and tensor else None), True


def _dim(dim: int | SymbolicDim) -> int | str:
    return dim if isinstance(dim, int) else "?" if dim.value is None else str(dim.value)[:MAX_PRINTED]


def _bytes(dims: Sequence[int | str], dtype: Any) -> int | None:
    total = 1
    for dim in dims:
        if not isinstance(dim, int):
            return None
        total *= dim
    return int(total * dtype.bitwidth + 7) // 8
