"""Which channels of a model stand and fall together.

Every channel that a Conv, Gemm or MatMul makes is a unit. Units are followed through operators that
treat channels alike; an Add of two results ties their units together, a Concat lines them up. What
mixes channels without weights, or is not known, freezes them: they cannot be removed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from graphopt.ir import Model, Node, Value
from graphopt.ir.query import attribute, constant_tensor, ints, is_op, same_dim, static_shape
from graphopt.passes._axis_moves import moved_axis

UNARY = frozenset(
    "Relu LeakyRelu Elu Selu Celu Sigmoid HardSigmoid HardSwish Tanh Softplus Softsign Mish Gelu Erf Abs "
    "Neg Exp Sqrt Clip Cast Identity Dropout ThresholdedRelu".split()
)
POOLS = frozenset("MaxPool AveragePool GlobalAveragePool GlobalMaxPool LpPool GlobalLpPool".split())
BINARY = frozenset("Add Sub Mul Div Max Min Pow PRelu Sum Where".split())


@dataclasses.dataclass(frozen=True)
class Cut:
    """An axis of a constant operand whose entries are of units; `is_weight` if it counts for their rank."""

    node: Node
    index: int
    axis: int
    units: np.ndarray
    is_weight: bool
    reads: bool = False
    """Whether the entries multiply the channels of the node's first operand."""


class ChannelGroups:
    """The units of the main graph of one model, and what has to be cut with each of them."""

    def __init__(self, model: Model) -> None:
        self.cuts: list[Cut] = []
        self.flattened: list[tuple[Node, np.ndarray]] = []
        self.labels: dict[Value, tuple[int, np.ndarray]] = {}
        self._parent: list[int] = []
        self._source: list[int] = []
        self._frozen: dict[int, str] = {}
        self._graph = model.graph
        self._weights: dict[tuple[Value, int], np.ndarray] = {}
        for node in model.graph:
            self._visit(node)
        self._freeze_other_users()
        for value, (_, units) in self.labels.items():
            if value.is_graph_output():
                self._freeze(units, "they reach an output of the model")
            elif any(use.node.graph is not model.graph for use in value.uses()):
                self._freeze(units, "a body uses them")

    def root(self, unit: int) -> int:
        """The unit that stands for all that are tied to `unit`."""
        while self._parent[unit] != unit:
            self._parent[unit] = self._parent[self._parent[unit]]
            unit = self._parent[unit]
        return unit

    def roots(self, units: Iterable[int]) -> np.ndarray:
        """The roots of several units."""
        return np.array([self.root(int(u)) for u in units], np.int64)

    def frozen_roots(self) -> dict[int, str]:
        """The roots of all units that cannot be removed, with the reason."""
        return {self.root(u): why for u, why in self._frozen.items()}

    def families(self) -> list[list[int]]:
        """Roots whose channels are made by the same layers: what is ranked together."""
        family: dict[int, int] = {}

        def find(x: int) -> int:
            while family.setdefault(x, x) != x:
                x = family[x]
            return x

        for unit, source in enumerate(self._source):
            family[find(source)] = find(self._source[self.root(unit)])
        members: dict[int, dict[int, None]] = {}
        for unit, source in enumerate(self._source):
            members.setdefault(find(source), {})[self.root(unit)] = None
        return [list(roots) for roots in members.values()]

    # --- building

    def _fresh(self, count: int) -> np.ndarray:
        start, source = len(self._parent), len(self._parent)
        self._parent.extend(range(start, start + count))
        self._source.extend([source] * count)
        return np.arange(start, start + count)

    def _tie(self, a: np.ndarray, b: np.ndarray) -> None:
        for x, y in zip(a, b, strict=True):
            self._parent[self.root(int(y))] = self.root(int(x))

    def freeze(self, roots: Iterable[int], why: str) -> None:
        """Keep the units that `roots` stand for."""
        for root in roots:
            self._frozen.setdefault(root, why)

    def _freeze(self, units: np.ndarray, why: str) -> None:
        for unit in units:
            self._frozen.setdefault(int(unit), why)

    def _visit(self, node: Node) -> None:
        labelled = [self.labels[v] for v in node.inputs if v is not None and v in self.labels]
        known = not node.domain
        if known and node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            done = self._weighted(node)
        elif not labelled:
            return
        elif known and node.op_type in UNARY | POOLS and node.inputs[0] in self.labels and len(labelled) == 1:
            axis, units = self.labels[node.inputs[0]]
            done = axis == 1 or node.op_type in UNARY
            if done:
                self.labels[node.outputs[0]] = (axis, units)
        elif is_op(node, "BatchNormalization"):
            done = self._normalized(node)
        elif known and node.op_type in BINARY:
            done = self._binary(node)
        elif is_op(node, "Concat"):
            done = self._concat(node)
        elif is_op(node, "Flatten", "Reshape"):
            done = self._flat(node)
        else:
            done = self._moved(node, len(labelled))
        unlabelled = [v for v in node.outputs[1:] if v not in self.labels]
        unused = not any(v.uses() or v.is_graph_output() for v in unlabelled)
        if not (done and unused):
            for _, units in labelled:
                self._freeze(units, f"{node.op_type} mixes them, or is not followed")
            for value in node.outputs:
                if value in self.labels:
                    self._freeze(self.labels[value][1], f"{node.op_type} is not followed")

    def _freeze_other_users(self) -> None:
        """A shared weight is cut for all its users or for none."""
        cut = {(c.node, c.index, c.axis) for c in self.cuts}
        for (value, axis), units in self._weights.items():
            if any((use.node, use.idx, axis) not in cut for use in value.uses()):
                self._freeze(units, "another operator uses the same weights")

    def _weigh(self, node: Node, axis: int, units: np.ndarray, *, reads: bool = False) -> None:
        """Cut `axis` of the weights of `node`, alike for all that share them."""
        weight = node.inputs[1]
        assert weight is not None
        self._tie(self._weights.setdefault((weight, axis), units), units)
        self.cuts.append(Cut(node, 1, axis, units, True, reads))

    def _moved(self, node: Node, labelled: int) -> bool:
        label = self.labels.get(node.inputs[0]) if node.inputs and node.inputs[0] is not None else None
        axis = moved_axis(node, label[0]) if label is not None and labelled == 1 else None
        if label is None or axis is None:
            return False
        for value in node.outputs:
            self.labels[value] = (axis, label[1])
        return True

    def _weighted(self, node: Node) -> bool:
        x, weight = node.inputs[0], node.inputs[1]
        shape = static_shape(weight) if constant_tensor(weight) is not None else None
        if x is None or shape is None or len(shape) < 2:
            return False
        label = self.labels.get(x)
        into, out, axis = 1, 0, 1
        if node.op_type == "Conv":
            group = int(attribute(node, "group", 1))
            if group != 1:
                return self._depthwise(node, label, shape, group)
        elif node.op_type == "ConvTranspose":
            if int(attribute(node, "group", 1)) != 1:
                return False
            into, out = 0, 1
        else:
            if len(shape) != 2 or x.shape is None or attribute(node, "transA", 0):
                return False
            if not attribute(node, "transB", 0):
                into, out = 0, 1
            axis = len(x.shape) - 1
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None and (constant_tensor(bias) is None or static_shape(bias) != (shape[out],)):
            return False
        if label is not None:
            if label[0] != axis or label[1].size != shape[into]:
                return False
            self._weigh(node, into, label[1], reads=True)
        units = self._fresh(shape[out])
        self.labels[node.outputs[0]] = (axis, units)
        self._weigh(node, out, units)
        if bias is not None:
            self.cuts.append(Cut(node, 2, 0, units, False))
        return True

    def _depthwise(
        self, node: Node, label: tuple[int, np.ndarray] | None, shape: tuple[int, ...], group: int
    ) -> bool:
        if label is None or label[0] != 1 or not group == shape[0] == label[1].size or shape[1] != 1:
            return False
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None and static_shape(bias) != (group,):
            return False
        self.labels[node.outputs[0]] = label
        self._weigh(node, 0, label[1])
        return bias is None or self._constant(node, 2, 0, label[1])

    def _constant(self, node: Node, index: int, axis: int, units: np.ndarray) -> bool:
        if constant_tensor(node.inputs[index]) is None:
            return False
        self.cuts.append(Cut(node, index, axis, units, False))
        return True

    def _normalized(self, node: Node) -> bool:
        label = self.labels.get(node.inputs[0])  # type: ignore[arg-type]
        if label is None or label[0] != 1 or attribute(node, "training_mode", 0):
            return False
        self.labels[node.outputs[0]] = label
        return all(self._constant(node, index, 0, label[1]) for index in range(1, 5))

    def _binary(self, node: Node) -> bool:
        result = node.outputs[0].shape
        places = []
        for index, value in enumerate(node.inputs):
            if value is None or value.shape is None or result is None:
                return False
            places.append((index, value, self.labels.get(value), len(result) - len(value.shape)))
        first = next((label[0] + shift, label[1]) for _, _, label, shift in places if label is not None)
        axis, units = first
        for index, value, label, shift in places:
            own = axis - shift
            if label is not None:
                if label[0] != own or label[1].size != units.size:
                    return False
                self._tie(units, label[1])
                continue
            size = value.shape[own] if own >= 0 and value.shape is not None else 1
            if size != 1 and (size != units.size or not self._constant(node, index, own, units)):
                return False
        self.labels[node.outputs[0]] = (axis, units)
        return True

    def _concat(self, node: Node) -> bool:
        rank = len(node.outputs[0].shape) if node.outputs[0].shape is not None else 0
        axis = int(attribute(node, "axis", 0)) % max(rank, 1)
        parts = [self.labels.get(v) for v in node.inputs if v is not None]
        if any(part is None or part[0] != axis for part in parts):
            return False
        self.labels[node.outputs[0]] = (axis, np.concatenate([p[1] for p in parts if p is not None]))
        return True

    def _flat(self, node: Node) -> bool:
        x, y = node.inputs[0], node.outputs[0]
        label = self.labels.get(x) if x is not None else None
        if x is None or label is None or label[0] != 1 or x.shape is None or y.shape is None:
            return False
        if len(y.shape) != 2 or not same_dim(x.shape[0], y.shape[0]):
            return False
        inner = x.shape.dims[2:]
        if not all(isinstance(d, int) for d in inner):
            return False
        times = int(np.prod([int(d) for d in inner if isinstance(d, int)], dtype=np.int64))
        if y.shape[1] != label[1].size * times or times == 0:
            return False
        units = np.repeat(label[1], times)
        if is_op(node, "Reshape"):
            target = ints(node.inputs[1])
            if target is None or len(target) != 2 or attribute(node, "allowzero", 0):
                return False
            self.flattened.append((node, units))
        elif int(attribute(node, "axis", 1)) not in (1, 1 - len(x.shape)):
            return False
        self.labels[y] = (1, units)
        return True
