"""prune: remove the channels with the smallest weights, and everything that goes with them."""

from __future__ import annotations

import dataclasses
from collections import defaultdict

import numpy as np
import onnx_ir

from graphopt.errors import UsageError
from graphopt.ir import LazyTensor, Model, Node, Shape, TensorProtocol, Value, tensor
from graphopt.ir.edit import Namer, add_initializer, remove_unused_initializers
from graphopt.ir.query import constant_tensor, ints
from graphopt.ir.shapes import infer_shapes
from graphopt.passes._channel_groups import ChannelGroups
from graphopt.passes._matching import numbers
from graphopt.transform import Changes, Exactness, Pass


@dataclasses.dataclass(frozen=True)
class Prune(Pass):
    """Remove whole channels, those with the smallest weights, with all that makes and reads them.

    given:  float[1, 1, 8, 8] x
    before: y = Conv(Relu(Conv(x, [[[[3.0]]], [[[0.01]]]])), [[[[2.0]], [[0.02]]]])
    after:  y = Conv(Relu(Conv(x, [[[[3.0]]]])), [[[[2.0]]]])
    pass:   prune{sparsity=0.5}

    Channels that an Add ties together go together; BatchNormalization, biases, depthwise convolutions,
    Concat, pooling and Flatten before a Gemm follow. What reaches an output of the model, or an operator
    that mixes channels without weights or is not known, stays. The result is what the model gives if
    everything that reads a removed channel has weight 0 there. The norm of all weights of a channel
    decides, among the channels of the same layers.

    Options:
        sparsity: the share of the channels of each group that goes; at least one stays.
        structured: what is removed: ``channels``.
    """

    sparsity: float = 0.5
    structured: str = "channels"

    exactness = Exactness.LOSSY

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise UsageError(
                "GO303",
                "a wrong option value",
                where="prune{sparsity}",
                found=self.sparsity,
                expected="0 to 1",
            )
        if self.structured != "channels":
            raise UsageError(
                "GO303",
                "a wrong option value",
                where="prune{structured}",
                found=self.structured,
                expected="channels",
            )

    def run(self, model: Model) -> Changes:
        """Rank, choose and cut."""
        changes = Changes()
        groups = ChannelGroups(model)
        removed = self._chosen(groups, changes)
        if removed:
            _cut(model, groups, removed)
            changes.counts["channel removed"] = len(removed)
            remove_unused_initializers(model.graph)
            infer_shapes(model)
        return changes

    def _chosen(self, groups: ChannelGroups, changes: Changes) -> set[int]:
        """The roots of the units to remove."""
        norms: dict[int, float] = defaultdict(float)
        for cut in groups.cuts:
            array = numbers(cut.node.inputs[cut.index]) if cut.is_weight else None
            if array is None:
                continue
            others = tuple(i for i in range(array.ndim) if i != cut.axis)
            for unit, square in zip(groups.roots(cut.units), _squares(array, others), strict=True):
                norms[int(unit)] += float(square)
        frozen = groups.frozen_roots()
        removed: set[int] = set()
        for family in groups.families():
            why = next((frozen[root] for root in family if root in frozen), None)
            if why is not None:
                changes.declined[f"{len(family)} channels stay: {why}"] += 1
                continue
            ranked = sorted(family, key=lambda root: (norms[root], root))
            removed.update(ranked[: min(int(len(ranked) * self.sparsity), len(ranked) - 1)])
        # No axis may become empty, whatever a family is spread over.
        for _, units in groups.labels.values():
            roots = groups.roots(units)
            if all(int(r) in removed for r in roots):
                removed.discard(max((int(r) for r in roots), key=lambda root: norms[root]))
        return removed


def _squares(array: np.ndarray, others: tuple[int, ...]) -> np.ndarray:
    return np.asarray(np.sum(np.square(array, dtype=np.float64), axis=others))


def _cut(model: Model, groups: ChannelGroups, removed: set[int]) -> None:
    def kept(units: np.ndarray) -> np.ndarray:
        return np.flatnonzero([int(r) not in removed for r in groups.roots(units)])

    namer = Namer(model.graph)
    axes: dict[tuple[Node, int], dict[int, np.ndarray]] = defaultdict(dict)
    for cut in groups.cuts:
        entries = kept(cut.units)
        if entries.size < cut.units.size:
            axes[cut.node, cut.index][cut.axis] = entries
    for (node, index), chosen in axes.items():
        value = node.inputs[index]
        assert value is not None
        new = _sliced(value, chosen, namer.value(f"{value.name}/pruned"))
        node.replace_input_with(index, add_initializer(model.graph, new.name or "", new))
        if node.op_type == "Conv" and index == 1 and int(node.attributes.get_int("group", 1)) > 1:
            node.attributes["group"] = onnx_ir.AttrInt64("group", int(new.shape[0]))  # type: ignore[arg-type]
    for node, units in groups.flattened:
        target = ints(node.inputs[1])
        if target is not None and target[1] > 0:
            data = np.array([target[0], kept(units).size], np.int64)
            name = namer.value(f"{node.name}/shape")
            node.replace_input_with(1, add_initializer(model.graph, name, data))


def _sliced(value: Value, chosen: dict[int, np.ndarray], name: str) -> TensorProtocol:
    """The constant `value` with only the `chosen` entries of some axes, taken when it is written."""
    source = constant_tensor(value)
    assert source is not None
    dims = [chosen[a].size if a in chosen else d for a, d in enumerate(source.shape.numpy())]

    def make() -> TensorProtocol:
        array = source.numpy()
        for axis, entries in chosen.items():
            array = np.take(array, entries, axis=axis)
        return tensor(array, dtype=source.dtype, name=name)

    return LazyTensor(make, dtype=source.dtype, shape=Shape(dims), name=name)
