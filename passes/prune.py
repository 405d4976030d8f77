"""prune: remove the channels or heads with the smallest weights, and everything that goes with them."""

from __future__ import annotations

import dataclasses

import numpy as np

from graphopt.errors import UsageError
from graphopt.ir import Model
from graphopt.ir.edit import remove_dead, remove_unused_initializers
from graphopt.ir.shapes import infer_shapes
from graphopt.passes._channel_groups import ChannelGroups
from graphopt.passes._group_cuts import Cutter
from graphopt.passes._head_groups import HeadGroups
from graphopt.passes._pruned_layers import PrunedLayers
from graphopt.passes._unit_norms import channel_norms, head_norms
from graphopt.transform import Changes, Exactness, Pass

NO_HEADS = (
    "no projection by constant floats is seen to be divided into heads of attention "
    "(prune before quantizing, and fold shapes by -O1)"
)


@dataclasses.dataclass(frozen=True)
class Prune(Pass):
    """Remove the channels or heads with the smallest weights, with all that makes and reads them.

    given:  float[1, 1, 8, 8] x
    before: y = Conv(Relu(Conv(x, [[[[3.0]]], [[[0.01]]]])), [[[[2.0]], [[0.02]]]])
    after:  y = Conv(Relu(Conv(x, [[[[3.0]]]])), [[[[2.0]]]])
    pass:   prune{sparsity=0.5}

    Channels that an Add ties together go together; biases, normalizations of each channel by itself,
    depthwise and transposed convolutions follow, and operators that leave the channels where they are
    or move them (Concat, Split, Transpose, Reshape, Resize, pooling). Layers that share weights lose the
    same. What reaches an output of the model, or an operator that mixes channels without weights or is
    not known, stays. The result is what the model gives if everything that reads a removed channel has
    weight 0 there. The norm of all weights of a channel decides, among those of the same layers.

    With ``structured=heads`` whole heads of attention go, of the operator and of its parts: their
    columns of the Q, K and V projections, their rows of the output projection, and their number wherever
    it is written; biases and masks with an axis of heads are followed to the constants that they come
    from. Query heads that share a key and value head go together. The result is the model with those
    rows of the output projection set to 0, up to rounding; the norm of the product of a head's value
    columns and output rows decides, among the heads of one layer. Heads with keys or values that are
    inputs or outputs of the model (caches) stay.

    Every shape is inferred again: a cut after which one is not the old one less what went is undone.

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
        norms = head_norms(groups) if isinstance(groups, HeadGroups) else channel_norms(groups)
        while True:
            changes.declined.clear()
            families, removed = self._chosen(groups, norms, changes)
            if not removed:
                return changes
            layers = PrunedLayers(groups, families)
            cutter = Cutter(model, groups, removed)
            cutter.cut()
            infer_shapes(model)
            wrong = cutter.unexpected()
            if not wrong:
                break
            cutter.undo()
            infer_shapes(model)
            groups.freeze(wrong, "a shape that depends on them is computed in a way that is not followed")
        changes.details = layers.rows(removed)
        gone = sum(row["before"] - row["after"] for row in changes.details)
        changes.counts[f"{self.structured.removesuffix('s')} removed"] = gone
        # What computed a number that is a constant now, and the weights as they were.
        remove_dead(list(model.graph))
        remove_unused_initializers(model.graph)
        return changes

    def _chosen(
        self, groups: ChannelGroups, norms: dict[int, float], changes: Changes
    ) -> tuple[list[list[int]], set[int]]:
        """The families that lose units, and the roots of those units."""
        families = self._candidates(groups, changes)
        removed: set[int] = set()
        for family in families:
            ranked = sorted(family, key=lambda root: (norms[root], root))
            removed.update(ranked[: min(int(len(ranked) * self.sparsity), len(ranked) - 1)])
        # No axis may become empty, whatever a family is spread over.
        root_of = groups.all_roots()
        for _, units, _ in groups.labels.values():
            roots = np.unique(root_of[units]).tolist()
            if roots and removed.issuperset(roots):
                removed.discard(max(roots, key=lambda root: norms[root]))
        return [family for family in families if not removed.isdisjoint(family)], removed

    def _candidates(self, groups: ChannelGroups, changes: Changes) -> list[list[int]]:
        """The families of units that can be removed."""
        frozen = groups.frozen_roots()
        reasons = list(frozen.values())
        order = {root: i for i, root in enumerate(frozen)}
        divided, heads = set(), set()
        if isinstance(groups, HeadGroups):
            divided = {groups.root(u) for u in groups.heads}
            heads = divided & {int(r) for units in groups.attended for r in groups.roots(units)}
        found = []
        for family in groups.families():
            if isinstance(groups, HeadGroups) and divided.isdisjoint(family):
                continue
            first = min((order[root] for root in family if root in order), default=None)
            if first is not None:
                changes.declined[f"{len(family)} {self.structured} stay: {reasons[first]}"] += 1
            elif not isinstance(groups, HeadGroups) or heads.issuperset(family):
                found.append(family)
            elif heads.isdisjoint(family):
                changes.declined[f"{len(family)} groups of channels stay: no attention compares them"] += 1
            else:
                changes.declined[f"{len(family)} groups of channels stay: not all of them are heads"] += 1
        if isinstance(groups, HeadGroups) and not found and not changes.declined:
            changes.declined[NO_HEADS] += 1
        return found
