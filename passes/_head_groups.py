"""Which heads of attention stand and fall together: channels that a Reshape divides into heads."""

from __future__ import annotations

import numpy as np

from graphopt.ir import Model, Node, SymbolicDim, Value
from graphopt.ir.query import attribute, constant_tensor, ints, is_op, rank, same_dim
from graphopt.passes._channel_groups import ChannelGroups

SIZES = frozenset(
    "Gather Slice Unsqueeze Squeeze Concat Cast Mul Div Equal Where "
    "ConstantOfShape Identity Shape Reshape".split()
)
"""Operators that compute a shape from another one."""


class HeadGroups(ChannelGroups):
    """The units of a model whose channels of one head are tied together.

    `heads` are the units that stand for a whole head, each with its channels; `targets` are the
    Reshape and Expand operators whose target may name the number of heads.
    """

    def __init__(self, model: Model) -> None:
        self.heads: dict[int, np.ndarray] = {}
        self.targets: list[tuple[Node, int, np.ndarray]] = []
        self.divided: list[Node] = []
        self.attentions: list[tuple[Node, str, np.ndarray]] = []
        self._sizes: dict[Value, np.ndarray] = {}
        self._places: dict[Value, tuple[int, int]] = {}
        super().__init__(model)
        for value, units in self._sizes.items():
            if value.is_graph_output() or any(use.node.graph is not model.graph for use in value.uses()):
                self._freeze(units, "their number is an output, or a body uses it")

    def _visit(self, node: Node) -> None:
        if self._sized(node):
            return
        labelled = [v for v in node.inputs if v is not None and v in self.labels]
        if not labelled or node.domain:
            super()._visit(node)
            return
        done = False
        if is_op(node, "Reshape") and node.inputs[0] in self.labels:
            done = self._reshaped(node)
        elif is_op(node, "Expand") and node.inputs[0] in self.labels:
            done = self._expanded(node)
        elif is_op(node, "Attention"):
            done = self._attention(node)
        elif is_op(node, "MatMul") and constant_tensor(node.inputs[1]) is None:
            done = self._products(node)
        elif is_op(node, "Concat"):
            done = self._joined(node)
        elif is_op(node, "Split"):
            done = self._divided(node)
        if not done:
            super()._visit(node)

    # --- numbers of heads that are computed

    def _sized(self, node: Node) -> bool:
        """Follow what is computed from the number of heads; it may only end in a target."""
        if is_op(node, "Shape") and node.inputs[0] in self.labels:
            self._measured(node)
            return True
        for index, value in enumerate(node.inputs):
            if value is None or value not in self._sizes:
                continue
            units = self._sizes[value]
            if is_op(node, "Reshape", "Expand") and index == 1:
                continue
            if node.domain or node.op_type not in SIZES:
                self._freeze(units, f"{node.op_type} uses their number")
                continue
            if node.op_type == "Gather" and not self._takes_number(node, value):
                continue
            before = self._sizes.get(node.outputs[0])
            self._sizes[node.outputs[0]] = units if before is None else np.concatenate([before, units])
        return False

    def _measured(self, node: Node) -> None:
        """Shape of a labelled value: a Gather of the other sizes alone does not see the number of heads."""
        axis, units = self.labels[node.inputs[0]]  # type: ignore[index]
        all_axes = range(rank(node.inputs[0]) or 0)
        taken = all_axes[slice(attribute(node, "start", 0), attribute(node, "end", None))]
        if axis in taken:
            self._sizes[node.outputs[0]] = units
            self._places[node.outputs[0]] = (axis - taken.start, len(taken))

    def _takes_number(self, node: Node, value: Value) -> bool:
        """Whether a Gather from the sizes of a labelled value takes the labelled one."""
        chosen = ints(node.inputs[1])
        if chosen is None or value not in self._places or node.inputs[0] is not value:
            return True
        position, size = self._places[value]
        return any(i % size == position for i in chosen)

    # --- operators

    def _reshaped(self, node: Node) -> bool:
        x, y = node.inputs[0], node.outputs[0]
        if x is None or x.shape is None or y.shape is None:
            return False
        axis, units = self.labels[x]
        old, new = list(x.shape.dims), list(y.shape.dims)
        after = old[axis + 1 :]
        for start in range(len(new)):
            for count in (1, 2, 3):
                if _product(new[start : start + count]) == units.size and _same(new[start + count :], after):
                    return self._split_heads(
                        node, start, [int(d) for d in new[start : start + count] if isinstance(d, int)]
                    )
        for taken in range(1, len(after) + 1):
            inner = _product(after[:taken])
            if inner is None:
                break
            start = len(new) - (len(after) - taken) - 1
            if start >= 0 and new[start] == units.size * inner and _same(new[start + 1 :], after[taken:]):
                self._target(node, start, np.repeat(units, inner))
                return True
        return False

    def _split_heads(self, node: Node, start: int, parts: list[int]) -> bool:
        """Divide channels into heads and their channels; three parts are kinds (Q, K, V), heads, channels."""
        units = self.labels[node.inputs[0]][1]  # type: ignore[index]
        if len(parts) == 1:
            self._target(node, start, units)
            return True
        if 1 in parts[-2:]:
            return False
        grid = units.reshape((*parts,) if len(parts) == 3 else (1, *parts))
        for kind in grid:
            self._tie_rows(kind)
            self._tie(grid[-1, :, 0], kind[:, 0])
        self._target(node, start + len(parts) - 2, grid[-1, :, 0])
        return True

    def _tie_rows(self, rows: np.ndarray) -> None:
        """Make every row of channels a head."""
        for row in rows:
            self._tie(np.repeat(row[:1], row.size - 1), row[1:])
            self.heads[int(row[0])] = row

    def _target(self, node: Node, axis: int, units: np.ndarray) -> None:
        self.labels[node.outputs[0]] = (axis, units)
        self.targets.append((node, axis, units))

    def _expanded(self, node: Node) -> bool:
        x, y = node.inputs[0], node.outputs[0]
        if x is None or x.shape is None or y.shape is None:
            return False
        axis, units = self.labels[x]
        axis += len(y.shape) - len(x.shape)
        if y.shape[axis] != units.size:
            return False
        self._target(node, axis, units)
        return True

    def _products(self, node: Node) -> bool:
        """MatMul of two computed operands, head by head: the result's heads are those of the second one."""
        result = rank(node.outputs[0])
        if result is None:
            return False
        found: list[np.ndarray] = []
        places: set[int] = set()
        for value in node.inputs:
            size = rank(value)
            if value is None or size is None:
                return False
            if value in self.labels:
                axis, units = self.labels[value]
                places.add(axis + result - size)
                found.append(units)
        if len(places) != 1 or (axis := places.pop()) >= result - 2:
            return False
        for value in node.inputs:
            own = axis - result + (rank(value) or 0)
            if value not in self.labels and own >= 0 and value.shape[own] != 1:  # type: ignore[union-attr, index]
                return False
        if found[0].size != found[-1].size:
            return False
        self._tie(found[0], found[-1])
        self.labels[node.outputs[0]] = (axis, found[-1])
        return True

    def _joined(self, node: Node) -> bool:
        """Concat along another axis: all parts have the same heads."""
        labels = [self.labels.get(v) for v in node.inputs if v is not None]
        first, size = labels[0], rank(node.outputs[0])
        if first is None or size is None or int(attribute(node, "axis", 0)) % size == first[0]:
            return False
        if any(one is None or one[0] != first[0] or one[1].size != first[1].size for one in labels):
            return False
        for one in labels:
            assert one is not None
            self._tie(first[1], one[1])
        self.labels[node.outputs[0]] = first
        return True

    def _divided(self, node: Node) -> bool:
        """Split along the channels themselves: merged Q, K and V projections."""
        x = node.inputs[0]
        size = rank(x)
        if x is None or x not in self.labels or size is None:
            return False
        axis, units = self.labels[x]
        if int(attribute(node, "axis", 0)) % size != axis:
            return False
        sizes = [v.shape[axis] if v.shape is not None else None for v in node.outputs]
        if not all(isinstance(s, int) for s in sizes) or sum(sizes) != units.size:  # type: ignore[arg-type]
            return False
        start = 0
        for value, count in zip(node.outputs, sizes, strict=True):
            self.labels[value] = (axis, units[start : start + int(count)])  # type: ignore[arg-type]
            start += int(count)  # type: ignore[arg-type]
        self.divided.append(node)
        return True

    def _attention(self, node: Node) -> bool:
        """The operator Attention: query heads go with the key and value head that they read."""
        labels = [self.labels.get(v) if v is not None else None for v in node.inputs[:3]]
        if any(one is None for one in labels) or any(v is not None for v in node.inputs[4:]):
            return False
        if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
            return False
        flat = rank(node.inputs[0]) == 3
        if any(one[0] != (2 if flat else 1) for one in labels if one is not None):
            return False
        q, k, v = (one[1] for one in labels if one is not None)
        if flat:
            numbers = [int(attribute(node, n, 0)) for n in ("q_num_heads", "kv_num_heads")]
            if not all(numbers) or v.size % numbers[1] or v.size // numbers[1] < 2:
                return False
            rows = [u.reshape(n, -1) for u, n in ((q, numbers[0]), (k, numbers[1]), (v, numbers[1]))]
            for row in rows:
                self._tie_rows(row)
            q, k, v = (row[:, 0] for row in rows)
        if q.size % v.size or k.size != v.size:
            return False
        times = q.size // v.size
        mask = node.inputs[3] if len(node.inputs) > 3 else None
        if mask is not None and not self._masked(node, mask, q):
            return False
        self._tie(v, k)
        self._tie(np.repeat(v, times), q)
        result = np.repeat(v, times)
        if flat:
            self.attentions += [(node, "q_num_heads", q), (node, "kv_num_heads", v)]
            result = np.repeat(result, rows[2].shape[1])
        self.labels[node.outputs[0]] = (2 if flat else 1, result)
        return True

    def _masked(self, node: Node, mask: Value, units: np.ndarray) -> bool:
        size = rank(mask)
        if size is None or mask in self.labels:
            return False
        if size < 3 or mask.shape[size - 3] == 1:  # type: ignore[index]
            return True
        own = mask.shape[size - 3] == units.size  # type: ignore[index]
        return own and self._constant(node, 3, size - 3, units)


def _product(dims: list[int | SymbolicDim]) -> int | None:
    if not dims or not all(isinstance(d, int) for d in dims):
        return None
    return int(np.prod([int(d) for d in dims if isinstance(d, int)], dtype=np.int64))


def _same(a: list[int | SymbolicDim], b: list[int | SymbolicDim]) -> bool:
    return len(a) == len(b) and all(same_dim(x, y) for x, y in zip(a, b, strict=True))
