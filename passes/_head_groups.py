"""Which heads of attention stand and fall together: channels that a Reshape divides into heads."""

from __future__ import annotations

import numpy as np

from graphopt.ir import Model, Node, Value
from graphopt.ir.query import attribute, constant_tensor, ints, is_deterministic, is_op, rank
from graphopt.passes._axis_moves import moved_axis
from graphopt.passes._channel_groups import BINARY, UNARY, ChannelGroups
from graphopt.passes._units import Label, known_product, same_dims

MAX_USES = 8
MAX_MOVES = 4
"""How far the use of a Reshape's result is looked at."""


class HeadGroups(ChannelGroups):
    """The units of a model whose channels of one head are tied together.

    `heads` are the units that stand for a whole head, each with its channels. `attended` are the
    units of operands of attention: only they are heads and not just groups of channels.
    """

    def __init__(self, model: Model) -> None:
        self.heads: dict[int, np.ndarray] = {}
        self.attended: list[np.ndarray] = []
        self.attributes: list[tuple[Node, str, np.ndarray]] = []
        self._retraced: set[tuple[Node, int]] = set()
        super().__init__(model)

    def _followed(self, node: Node, labelled: int) -> bool:
        if is_op(node, "Reshape", "Expand") and node.inputs[0] in self.labels:
            own = self._expanded(node) if is_op(node, "Expand") else self._divided_by_heads(node)
        elif is_op(node, "Attention"):
            return self._attention(node)
        elif is_op(node, "RotaryEmbedding") and labelled == 1 and rank(node.inputs[0]) == 3:
            return self._rotated(node)
        else:
            own = is_op(node, "MatMul") and constant_tensor(node.inputs[1]) is None and self._products(node)
        return own or super()._followed(node, labelled)

    def _divided_by_heads(self, node: Node) -> bool:
        """Reshape that divides channels into heads, or merges an axis before the heads into theirs."""
        x, y = node.inputs[0], node.outputs[0]
        if x is None or x.shape is None or y.shape is None:
            return False
        (axis, units, tiled), old, new = self.labels[x], x.shape.dims, y.shape.dims
        behind = old[axis + 1 :]
        end = len(new) - len(behind)
        if end < 1 or not same_dims(new[end:], behind):
            return False
        for count in (2, 3):
            parts = [d for d in new[max(end - count, 0) : end] if isinstance(d, int)]
            if not tiled and len(parts) == count and known_product(parts) == units.size and 1 not in parts:
                self._target(node, 1, self._parted(y, end, units.reshape(parts)))
                return True
        return self._merged(node, end, units)

    def _parted(self, value: Value, end: int, grid: np.ndarray) -> Label:
        """The label of `value`, whose axes before `end` are those of `grid`: the channels of one axis.

        [H, C] are heads and their channels, [K, H, C] kinds of heads (Q, K and V), [H, K, C] heads of all
        kinds, [K, H·C] kinds only. Which axis is that of the kinds is told by what takes it apart.
        """
        if grid.ndim == 2:
            if _taken_apart(value, end - 2):
                for kind in grid:
                    self._tie(grid[-1], kind)
                return Label(end - 1, grid[-1])
            return Label(end - 2, self._heads(grid[None]))
        if _taken_apart(value, end - 2):
            return Label(end - 3, self._heads(grid.swapaxes(0, 1)))
        return Label(end - 2, self._heads(grid))

    def _merged(self, node: Node, end: int, units: np.ndarray) -> bool:
        """[.., B, H, ..] or [.., B, H·C, ..] to [.., B·H, ..] or [.., B·H, C, ..]: heads over and over.

        All axes before and behind are as they were, so this one has the product of the rest.
        """
        old, new = node.inputs[0].shape.dims, node.outputs[0].shape.dims  # type: ignore[union-attr]
        axis = self.labels[node.inputs[0]].axis  # type: ignore[index]
        if new[end - 1] == units.size:
            return False
        if end <= axis and same_dims(new[: end - 1], old[: end - 1]):
            self._target(node, 1, Label(end - 1, units, True))
            return True
        inner = new[end - 1]
        if not isinstance(inner, int) or inner < 2 or units.size % inner or units.size == inner:
            return False
        if not 2 <= end <= axis + 1 or not same_dims(new[: end - 2], old[: end - 2]):
            return False
        self._target(node, 1, Label(end - 2, self._heads(units.reshape(1, -1, inner)), True))
        return True

    def _heads(self, grid: np.ndarray) -> np.ndarray:
        """The units of heads, given their channels as [kind, head, channel]; kinds are such as Q, K and V."""
        for kind in grid:
            self._tie_rows(kind)
            self._tie(grid[-1, :, 0], kind[:, 0])
        return grid[-1, :, 0]

    def _tie_rows(self, rows: np.ndarray) -> None:
        """Make every row of channels a head."""
        for row in rows:
            self._tie(np.repeat(row[:1], row.size - 1), row[1:])
            self.heads.setdefault(int(row[0]), row)

    def _expanded(self, node: Node) -> bool:
        label, shape = self.labels[node.inputs[0]], node.outputs[0].shape  # type: ignore[index]
        before = rank(node.inputs[0])
        if shape is None or before is None or label.tiled:
            return False
        axis = label.axis + len(shape) - before
        if shape[axis] != label.units.size:
            return False
        self._target(node, 1, Label(axis, label.units))
        return True

    def _products(self, node: Node) -> bool:
        """MatMul of two computed operands, head by head: the result's heads are those of the second one."""
        size = rank(node.outputs[0])
        if (
            size is None
            or any(rank(v) is None for v in node.inputs)
            or not self.labels.keys() & set(node.inputs)
        ):
            return False
        found: list[Label] = []
        for value in node.inputs:
            if (label := self.labels.get(value)) is not None:  # type: ignore[arg-type]
                found.append(label._replace(axis=label.axis + size - rank(value)))  # type: ignore[operator]
        first, last = found[0], found[-1]
        if first.axis >= size - 2 or (first.axis, first.tiled) != (last.axis, last.tiled):
            return False
        if first.units.size != last.units.size:
            return False
        for index, value in enumerate(node.inputs):
            own = first.axis - size + rank(value)  # type: ignore[operator]
            if value in self.labels or own < 0 or value.shape[own] == 1:  # type: ignore[union-attr, index]
                continue
            if first.tiled or not self._entries(node, index, own, first.units):
                return False
        self._tie(first.units, last.units)
        self.labels[node.outputs[0]] = last
        if len(found) == 2:
            self.attended.append(last.units)
        return True

    def _rotated(self, node: Node) -> bool:
        """RotaryEmbedding of [B, S, H·C], whose attribute says H."""
        label, count = self.labels[node.inputs[0]], int(attribute(node, "num_heads", 0))  # type: ignore[index]
        if label.axis != 2 or label.tiled or count < 1 or label.units.size % count:
            return False
        rows = label.units.reshape(count, -1)
        self._tie_rows(rows)
        self.attributes.append((node, "num_heads", rows[:, 0]))
        self.labels[node.outputs[0]] = label
        return True

    def _attention(self, node: Node) -> bool:
        """The operator Attention: query heads go with the key and value head that they read.

        Spec: https://onnx.ai/onnx/operators/onnx__Attention.html
        """
        labels = [self.labels[v] for v in node.inputs[:3] if v is not None and v in self.labels]
        flat = rank(node.inputs[0]) == 3
        if any(v is not None for v in node.inputs[4:]) or any(
            v.uses() or v.is_graph_output() for v in node.outputs[1:]
        ):
            for label in labels:
                self._freeze(label.units, "the Attention has a cache, or its scores are an output")
            return False
        if len(labels) != 3 or any(one.tiled or one.axis != (2 if flat else 1) for one in labels):
            return False
        q, k, v = (one.units for one in labels)
        counts = [int(attribute(node, n, 0)) for n in ("q_num_heads", "kv_num_heads")]
        if flat:
            if not all(counts) or q.size % counts[0] or k.size % counts[1] or v.size % counts[1]:
                return False
            rows = q.reshape(counts[0], -1), k.reshape(counts[1], -1), v.reshape(counts[1], -1)
            for row in rows:
                self._tie_rows(row)
            channels = rows[2].shape[1]
            q, k, v = (row[:, 0] for row in rows)
        if q.size % v.size or k.size != v.size or not self._masked(node, q):
            return False
        shared = np.repeat(v, q.size // v.size)
        self._tie(v, k)
        self._tie(shared, q)
        for name, units, count in (("q_num_heads", q, counts[0]), ("kv_num_heads", v, counts[1])):
            if count:
                self.attributes.append((node, name, units))
        self.attended.append(shared)
        self.labels[node.outputs[0]] = Label(2, np.repeat(shared, channels)) if flat else Label(1, shared)
        return True

    def _masked(self, node: Node, units: np.ndarray) -> bool:
        """Whether the mask of an Attention has no axis of heads, or one that can be cut."""
        mask = node.inputs[3] if len(node.inputs) > 3 else None
        size = rank(mask)
        if mask is None or size is None:
            return mask is None
        if mask not in self.labels and (size < 3 or mask.shape[size - 3] == 1):  # type: ignore[index]
            return True
        return size >= 3 and self._entries(node, 3, size - 3, units)

    # --- biases, masks and scales with entries for each head

    def _entries(self, node: Node, index: int, axis: int, units: np.ndarray) -> bool:
        """Follow an operand back to the constants that its entries along `axis` come from, and cut those.

        What is met on the way gets a label, for all its users. One of them that was passed before
        without a label has not been asked whether it can do with fewer heads: then nothing is cut.
        """
        value = node.inputs[index]
        self._retraced.add((node, index))
        if value is None or value.shape is None or value.shape[axis] != units.size:
            return False
        if value in self.labels:
            label = self.labels[value]
            if label.tiled or label.axis != axis or label.units.size != units.size:
                return False
            self._tie(units, label.units)
            return True
        if constant_tensor(value) is not None:
            return self._constant(node, index, axis, units)
        maker = value.producer()
        if maker is None or maker.graph is not node.graph or maker.domain or len(maker.outputs) != 1:
            return False
        others = (use for use in value.uses() if use.node is not node and use.node in self.seen)
        if any((use.node, use.idx) not in self._retraced for use in others):
            return False
        self.labels[value] = Label(axis, units)
        return self._entries_of_operands(maker, axis, units)

    def _entries_of_operands(self, node: Node, axis: int, units: np.ndarray) -> bool:
        if node.op_type in UNARY and is_deterministic(node):
            return self._entries(node, 0, axis, units)
        if node.op_type in BINARY:
            size, found = rank(node.outputs[0]) or 0, True
            for index, value in enumerate(node.inputs):
                own = axis - size + (rank(value) or 0)
                if own >= 0 and (value is None or value.shape is None or value.shape[own] != 1):
                    found = found and self._entries(node, index, own, units)
            return found
        if node.inputs[0] in node.inputs[1:]:
            return False
        places = [a for a in range(rank(node.inputs[0]) or 0) if moved_axis(node, a) == axis]
        return len(places) == 1 and self._entries(node, 0, places[0], units)


def _taken_apart(value: Value, axis: int, depth: int = MAX_MOVES) -> bool:
    """Whether a user of `value`, or of what only moves its axes, takes entries of `axis` out of it."""
    uses = value.uses()
    if len(uses) > MAX_USES:
        return False
    for use in uses:
        node = use.node
        if use.idx != 0 or node.domain or rank(value) is None:
            continue
        if is_op(node, "Gather", "Split"):
            if int(attribute(node, "axis", 0)) % (rank(value) or 1) == axis:
                return True
        elif is_op(node, "Slice"):
            if len(node.inputs) > 3 and axis in {a % (rank(value) or 1) for a in ints(node.inputs[3]) or ()}:
                return True
        elif depth and is_op(node, "Transpose", "Unsqueeze", "Squeeze"):
            moved = moved_axis(node, axis)
            if moved is not None and _taken_apart(node.outputs[0], moved, depth - 1):
                return True
    return False
