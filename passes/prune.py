"""prune: remove the channels or heads with the smallest weights, and everything that goes with them."""

from __future__ import annotations

import dataclasses
from collections import defaultdict

import numpy as np

from graphopt.errors import UsageError
from graphopt.ir import Model
from graphopt.ir.edit import remove_dead, remove_unused_initializers
from graphopt.ir.shapes import infer_shapes
from graphopt.passes._channel_groups import ChannelGroups
from graphopt.passes._group_cuts import Cutter, head_norms
from graphopt.passes._head_groups import HeadGroups
from graphopt.passes._matching import numbers
from graphopt.transform import Changes, Exactness, Pass


@dataclasses.dataclass(frozen=True)
class Prune(Pass):
    """Remove whole channels, those with the smallest weights, with all that makes and reads them.

    before: c = Conv(x, w[64, 3, 3, 3]);   y = Conv(Relu(c), v[8, 64, 3, 3])
    after:  c = Conv(x, w[32, 3, 3, 3]);   y = Conv(Relu(c), v[8, 32, 3, 3])

    Channels that an Add ties together go together; BatchNormalization, biases, depthwise convolutions,
    Concat, pooling and Flatten before a Gemm follow. What reaches an output of the model, or an operator
    that mixes channels without weights or is not known, stays. The result is what the model gives if
    everything that reads a removed channel has weight 0 there. The norm of all weights of a channel
    decides, among the channels of the same layers.

    With ``structured=heads`` whole heads of attention go: their columns of the Q, K and V projections,
    their rows of the output projection, the number of heads in Reshapes, attributes and per-head
    constants. Query heads that share a key and value head go together. The result is the model with
    those rows of the output projection set to 0, up to rounding; the norm of the product of a head's
    value columns and output rows decides, among the heads of one layer. Heads whose keys or values are
    model inputs or outputs (caches), or whose scores get a bias that is computed per head, stay.

    Options:
        sparsity: the share of the channels or heads of each group that goes; at least one stays.
        structured: what is removed: ``channels`` or ``heads``.
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
        if self.structured not in ("channels", "heads"):
            raise UsageError(
                "GO303",
                "a wrong option value",
                where="prune{structured}",
                found=self.structured,
                expected="channels, heads",
            )

    def run(self, model: Model) -> Changes:
        """Rank, choose and cut; what does not come out with the expected shapes is put back."""
        changes = Changes()
        groups = HeadGroups(model) if self.structured == "heads" else ChannelGroups(model)
        norms = head_norms(groups) if isinstance(groups, HeadGroups) else _channel_norms(groups)
        while True:
            changes.declined.clear()
            removed = self._chosen(groups, norms, changes)
            if not removed:
                break
            cutter = Cutter(model, groups, removed)
            cutter.cut()
            infer_shapes(model)
            wrong = cutter.unexpected()
            if not wrong:
                changes.counts[f"{self.structured.removesuffix('s')} removed"] = len(removed)
                break
            cutter.undo()
            groups.freeze(wrong, "a shape that depends on them is computed in a way that is not followed")
        if removed:
            remove_dead(list(model.graph))
        remove_unused_initializers(model.graph)
        infer_shapes(model)
        return changes

    def _chosen(self, groups: ChannelGroups, norms: dict[int, float], changes: Changes) -> set[int]:
        """The roots of the units to remove."""
        frozen = groups.frozen_roots()
        heads = {groups.root(u) for u in groups.heads} if isinstance(groups, HeadGroups) else None
        removed: set[int] = set()
        for family in groups.families():
            if heads is not None and not heads.intersection(family):
                continue
            if heads is not None and not heads.issuperset(family):
                changes.declined[f"{len(family)} groups of channels stay: not all are heads"] += 1
                continue
            why = next((frozen[root] for root in family if root in frozen), None)
            if why is not None:
                changes.declined[f"{len(family)} {self.structured} stay: {why}"] += 1
                continue
            ranked = sorted(family, key=lambda root: (norms[root], root))
            removed.update(ranked[: min(int(len(ranked) * self.sparsity), len(ranked) - 1)])
        # No axis may become empty, whatever a family is spread over.
        for _, units in groups.labels.values():
            roots = groups.roots(units)
            if all(int(r) in removed for r in roots):
                removed.discard(max((int(r) for r in roots), key=lambda root: norms[root]))
        return removed


def _channel_norms(groups: ChannelGroups) -> dict[int, float]:
    """The sum of the squares of all weights of each channel."""
    norms: dict[int, float] = defaultdict(float)
    for cut in groups.cuts:
        array = numbers(cut.node.inputs[cut.index]) if cut.is_weight else None
        if array is None:
            continue
        others = tuple(i for i in range(array.ndim) if i != cut.axis)
        for unit, square in zip(groups.roots(cut.units), _squares(array, others), strict=True):
            norms[int(unit)] += float(square)
    return norms


def _squares(array: np.ndarray, others: tuple[int, ...]) -> np.ndarray:
    return np.asarray(np.sum(np.square(array, dtype=np.float64), axis=others))
