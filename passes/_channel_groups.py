"""Which channels of a model stand and fall together.

Every channel that a Conv, Gemm or MatMul makes is a unit. Units are followed through operators that
treat channels alike; an Add of two results ties their units together, a Concat lines them up. What
mixes channels without weights, or is not known, freezes them: they cannot be removed.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from graphopt.ir import Model, Node, Value
from graphopt.ir.query import (
    attribute,
    constant_tensor,
    is_deterministic,
    is_op,
    rank,
    static_shape,
)
from graphopt.passes._axis_moves import moved_axis
from graphopt.passes._units import Label, Units, known_product, same_dims

UNARY = frozenset(
    "Relu LeakyRelu Elu Selu Celu Sigmoid HardSigmoid HardSwish Swish Tanh Softplus Softsign Mish Gelu Erf "
    "Abs Neg Exp Log Sqrt Reciprocal Sin Cos Floor Ceil Round Sign Clip Cast Identity ThresholdedRelu "
    "IsNaN IsInf Not Dropout".split()
)
POOLS = frozenset("MaxPool AveragePool GlobalAveragePool GlobalMaxPool LpPool GlobalLpPool".split())
BINARY = frozenset(
    "Add Sub Mul Div Max Min Pow PRelu Sum Mean Where And Or Xor "
    "Equal Less LessOrEqual Greater GreaterOrEqual".split()
)
CONSTANTS_BY_CHANNEL = {"BatchNormalization": range(1, 5), "InstanceNormalization": range(1, 3)}
"""Normalizations of each channel by itself, and which of their operands have an entry for each."""


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


class ChannelGroups(Units):
    """The units of the main graph of one model, and what has to be cut with each of them."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.cuts: list[Cut] = []
        self.targets: list[tuple[Node, int, Label]] = []
        self.divided: list[Node] = []
        self.seen: set[Node] = set()
        self._graph = model.graph
        self._weights: dict[tuple[Value, int], np.ndarray] = {}
        for node in model.graph:
            self._visit(node)
            self.seen.add(node)
        self._freeze_other_users()
        for value, label in self.labels.items():
            if value.is_graph_output():
                self._freeze(label.units, "they reach an output of the model")
            elif any(use.node.graph is not model.graph for use in value.uses()):
                self._freeze(label.units, "a body uses them")
        for value, units in self.sizes.items():
            if value.is_graph_output() or any(use.node.graph is not model.graph for use in value.uses()):
                self._freeze(units, "their number is an output, or a body uses it")

    # --- building

    def _visit(self, node: Node) -> None:
        if is_op(node, "Shape") and node.inputs[0] in self.labels:
            self._measured(node)
            return
        self._computed(node)
        labelled = [self.labels[v] for v in node.inputs if v is not None and v in self.labels]
        weighted = not node.domain and node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")
        if not labelled and not weighted:
            return
        done = not node.domain and self._followed(node, len(labelled))
        unlabelled = [v for v in node.outputs[1:] if v not in self.labels]
        unused = not any(v.uses() or v.is_graph_output() for v in unlabelled)
        if not (done and unused):
            for label in labelled:
                self._freeze(label.units, f"{node.op_type} mixes them, or is not followed")
            for value in node.outputs:
                if value in self.labels:
                    self._freeze(self.labels[value].units, f"{node.op_type} is not followed")

    def _followed(self, node: Node, labelled: int) -> bool:
        """Label the outputs of `node`, which has `labelled` labelled inputs; False if that is not known."""
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            return self._weighted(node)
        if node.op_type in BINARY:
            return self._binary(node)
        if is_op(node, "Concat"):
            return self._concat(node) or self._joined(node)
        label = self.labels.get(node.inputs[0]) if node.inputs[0] is not None else None
        if label is None or labelled != 1:
            return False
        if is_op(node, "Dropout") and not is_deterministic(node):
            return False
        if node.op_type in UNARY or (node.op_type in POOLS and label.axis == 1):
            self.labels[node.outputs[0]] = label
            return True
        if node.op_type in CONSTANTS_BY_CHANNEL:
            return self._normalized(node, label)
        if is_op(node, "Flatten", "Reshape"):
            return self._reshaped(node)
        if self._moved(node, label):
            return True
        return self._divided(node) if is_op(node, "Split") else self._resized(node, label)

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

    def _moved(self, node: Node, label: Label) -> bool:
        axis = moved_axis(node, label.axis)
        if axis is None:
            return False
        for value in node.outputs:
            self.labels[value] = label._replace(axis=axis)
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
            if label.tiled or label.axis != axis or label.units.size != shape[into]:
                return False
            self._weigh(node, into, label.units, reads=True)
        units = self._fresh(shape[out])
        self.labels[node.outputs[0]] = Label(axis, units)
        self._weigh(node, out, units)
        if bias is not None:
            self.cuts.append(Cut(node, 2, 0, units, False))
        return True

    def _depthwise(self, node: Node, label: Label | None, shape: tuple[int, ...], group: int) -> bool:
        if label is None or label.axis != 1 or not group == shape[0] == label.units.size or shape[1] != 1:
            return False
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if label.tiled or (bias is not None and static_shape(bias) != (group,)):
            return False
        self.labels[node.outputs[0]] = label
        self._weigh(node, 0, label.units)
        return bias is None or self._constant(node, 2, 0, label.units)

    def _constant(self, node: Node, index: int, axis: int, units: np.ndarray) -> bool:
        if constant_tensor(node.inputs[index]) is None:
            return False
        self.cuts.append(Cut(node, index, axis, units, False))
        return True

    def _entries(self, node: Node, index: int, axis: int, units: np.ndarray) -> bool:
        """Whether the entries along `axis` of the unlabelled operand `index` can be cut with `units`."""
        return self._constant(node, index, axis, units)

    def _normalized(self, node: Node, label: Label) -> bool:
        operands = CONSTANTS_BY_CHANNEL[node.op_type]
        if label.tiled or label.axis != 1 or attribute(node, "training_mode", 0):
            return False
        if any(static_shape(node.inputs[index]) != label.units.shape for index in operands):
            return False
        self.labels[node.outputs[0]] = label
        return all(self._constant(node, index, 0, label.units) for index in operands)

    def _binary(self, node: Node) -> bool:
        size = rank(node.outputs[0])
        if size is None or any(rank(v) is None for v in node.inputs):
            return False
        # Axes are counted from the last one, as broadcasting does.
        places = [(v, self.labels.get(v), size - len(v.shape)) for v in node.inputs]  # type: ignore[union-attr, arg-type]
        first = next(
            label._replace(axis=label.axis + shift) for _, label, shift in places if label is not None
        )
        for index, (value, label, shift) in enumerate(places):
            own = first.axis - shift
            if label is not None:
                if label.axis != own or label.units.size != first.units.size or label.tiled != first.tiled:
                    return False
                self._tie(first.units, label.units)
                continue
            count = value.shape[own] if own >= 0 else 1  # type: ignore[union-attr, index]
            if count == 1:
                continue
            if first.tiled or count != first.units.size or not self._entries(node, index, own, first.units):
                self._freeze(
                    first.units, f"{node.op_type} takes a number for each from something that is no constant"
                )
                return False
        self.labels[node.outputs[0]] = first
        return True

    def _concat(self, node: Node) -> bool:
        """Concat of channels: those of all parts in a line."""
        size = rank(node.outputs[0])
        parts = [self.labels.get(v) for v in node.inputs if v is not None]
        if size is None or any(part is None or part.tiled for part in parts):
            return False
        axis = int(attribute(node, "axis", 0)) % size
        if any(part.axis != axis for part in parts if part is not None):
            return False
        self.labels[node.outputs[0]] = Label(axis, np.concatenate([p.units for p in parts if p is not None]))
        return True

    def _joined(self, node: Node) -> bool:
        """Concat along another axis: all parts have the same channels."""
        size = rank(node.outputs[0])
        parts = [self.labels.get(v) for v in node.inputs if v is not None]
        first = next(part for part in parts if part is not None)
        if size is None or int(attribute(node, "axis", 0)) % size == first.axis:
            return False
        for part in parts:
            if part is None or (part.axis, part.tiled, part.units.size) != (
                first.axis,
                first.tiled,
                first.units.size,
            ):
                self._freeze(first.units, "Concat joins them with something that keeps its size")
                return False
            self._tie(first.units, part.units)
        self.labels[node.outputs[0]] = first
        return True

    def _divided(self, node: Node) -> bool:
        """Split of the channels themselves, as of merged projections."""
        axis, units, tiled = self.labels[node.inputs[0]]  # type: ignore[index]
        if tiled or int(attribute(node, "axis", 0)) % (rank(node.inputs[0]) or 1) != axis:
            return False
        sizes = [v.shape[axis] if v.shape is not None else None for v in node.outputs]
        counts = [size for size in sizes if isinstance(size, int) and size > 0]
        if len(counts) != len(sizes) or sum(counts) != units.size:
            return False
        for value, part in zip(node.outputs, np.split(units, np.cumsum(counts)[:-1]), strict=True):
            self.labels[value] = Label(axis, part)
        self.divided.append(node)
        return True

    def _reshaped(self, node: Node) -> bool:
        """Reshape or Flatten that keeps the axis, or merges what is behind it into it.

        Both are told by the sizes behind the axis: they give the place of an entry among all numbers.
        """
        x, y = node.inputs[0], node.outputs[0]
        if x is None or x.shape is None or y.shape is None:
            return False
        label, old, new = self.labels[x], x.shape.dims, y.shape.dims
        behind = old[label.axis + 1 :]
        for taken in range(len(behind) + 1):
            inner, left = known_product(behind[:taken]), behind[taken:]
            if not inner:
                return False
            start = len(new) - len(left) - 1
            if start >= 0 and new[start] == label.units.size * inner and same_dims(new[start + 1 :], left):
                self._target(node, 1, Label(start, np.repeat(label.units, inner)))
                return True
        return False

    def _resized(self, node: Node, label: Label) -> bool:
        """Resize to given sizes, of which that of the units is their number."""
        if not is_op(node, "Resize") or len(node.inputs) < 4 or label.tiled:
            return False
        if attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
            return False
        if attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
            return False
        shape = node.outputs[0].shape
        if (
            shape is None
            or shape[label.axis] != label.units.size
            or attribute(node, "axes", None) is not None
        ):
            return False
        self._target(node, 3, label)
        return True

    def _target(self, node: Node, index: int, label: Label) -> None:
        """Label the result of a Reshape or the like, whose operand `index` may say the number of units."""
        self.labels[node.outputs[0]] = label
        self.targets.append((node, index, label))
