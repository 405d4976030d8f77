"""Decision trees as tables: all trees are walked at once, one level at a time.

A table has for each node the feature, the threshold, the comparison, and the nodes to go to. Every example
stands at one node of every tree; leaves lead to themselves, so that as many steps as the deepest tree has
levels bring all of them to leaves. A step is a few gathers from tables of the size of the model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.lowering.xla.emit import Context

Array = Any
Floats = tuple[float, ...] | None

MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER")
LEAF, MEMBER = -1, 6
COMPARISONS = (
    lambda x, t: x <= t,
    lambda x, t: x < t,
    lambda x, t: x >= t,
    lambda x, t: x > t,
    lambda x, t: x == t,
    lambda x, t: x != t,
)
TABLE_ELEMENTS = 1 << 26
"""How large the tables of one ensemble may be."""

AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")


@dataclasses.dataclass
class Trees:
    """The nodes of all trees, leaves included, and what each leaf gives.

    Attributes:
        modes: index into MODES, or LEAF.
        yes, no: the next node; a leaf's is itself.
        nan_yes: whether a NaN takes the first.
        roots: the first node of each tree.
        weights: [nodes, targets].
        given: [nodes, targets], where a leaf gives a weight at all.
        members: the sets of the nodes that ask for membership, by node.
    """

    features: np.ndarray
    splits: np.ndarray
    modes: np.ndarray
    yes: np.ndarray
    no: np.ndarray
    nan_yes: np.ndarray
    roots: np.ndarray
    weights: np.ndarray
    given: np.ndarray
    members: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)

    def depth(self, ctx: Context) -> int:
        """The number of steps from a root to the deepest leaf. Raises UnsupportedError for cycles."""
        count = len(self.modes)
        level = np.unique(self.roots)
        for steps in range(count + 1):
            inner = level[self.modes[level] != LEAF]
            if not inner.size:
                return steps
            level = np.unique(np.concatenate((self.yes[inner], self.no[inner])))
        raise ctx.unsupported("the trees have a cycle")

    def leaves(self, ctx: Context, x: Array) -> Array:
        """The leaf of every tree that every row of x ends in: int32[N, trees]."""
        if np.max(self.features, initial=0) >= x.shape[1] or np.min(self.features, initial=0) < 0:
            raise ctx.unsupported("a feature is not in the input", found=f"{x.shape[1]} features")
        start = jnp.broadcast_to(jnp.asarray(self.roots, np.int32), (x.shape[0], len(self.roots)))
        features, yes, no = (jnp.asarray(a, np.int32) for a in (self.features, self.yes, self.no))
        splits, modes = jnp.asarray(self.splits, x.dtype), jnp.asarray(self.modes, np.int32)
        nan_yes = jnp.asarray(self.nan_yes)
        used = sorted(set(self.modes.tolist()) - {LEAF})

        def step(_: Array, at: Array) -> Array:
            value = jnp.take_along_axis(x, features[at], 1, mode="clip")
            results = [self._compare(mode, value, splits[at], at) for mode in used]
            goes = results[0]
            for mode, result in zip(used[1:], results[1:], strict=True):
                goes = jnp.where(modes[at] == mode, result, goes)
            # The attribute decides for NaN, also where the comparison with one would hold (NEQ).
            goes = jnp.where(jnp.isnan(value), nan_yes[at], goes)
            return jnp.where(goes, yes[at], no[at])

        return lax.fori_loop(0, self.depth(ctx), step, start) if used else start

    def _compare(self, mode: int, value: Array, split: Array, at: Array) -> Array:
        if mode != MEMBER:
            return COMPARISONS[mode](value, split)
        widest = max((len(m) for m in self.members.values()), default=0)
        table = np.full((len(self.members) + 1, max(widest, 1)), np.nan)  # NaN equals nothing
        row = np.full(len(self.modes), len(self.members), np.int32)
        for index, (node, members) in enumerate(self.members.items()):
            table[index, : len(members)] = members
            row[node] = index
        sets = jnp.asarray(table, value.dtype)[jnp.asarray(row)[at]]
        return jnp.any(sets == value[..., None], -1)

    def aggregate(self, leaves: Array, dtype: Any, how: str) -> Array:
        """The weights of the leaves over all trees: [N, targets]; 0 for a target that no leaf gives."""
        weights = jnp.asarray(self.weights, dtype)
        if how in ("SUM", "AVERAGE"):
            total = jnp.sum(weights[leaves], 1)
            return total / jnp.asarray(len(self.roots), dtype) if how == "AVERAGE" else total
        given = jnp.asarray(self.given)[leaves]
        neutral = jnp.asarray(np.inf if how == "MIN" else -np.inf, dtype)
        reduce = jnp.min if how == "MIN" else jnp.max
        found = reduce(jnp.where(given, weights[leaves], neutral), 1, initial=neutral)
        return jnp.where(jnp.any(given, 1), found, jnp.zeros((), dtype))


def leaf_table(
    ctx: Context,
    nodes: np.ndarray,
    targets: Sequence[int],
    weights: np.ndarray,
    shape: tuple[int, int],
    how: str,
) -> tuple[np.ndarray, np.ndarray]:
    """The table of leaf weights, and where it is filled; several weights of one leaf are aggregated."""
    if shape[0] * shape[1] > TABLE_ELEMENTS:
        raise ctx.unsupported(
            "the table of leaves is too large", found=f"{shape[0]} nodes, {shape[1]} targets"
        )
    columns = np.array(targets, np.int64)
    if columns.size != nodes.size or weights.size != nodes.size:
        raise ctx.unsupported("the lists of leaves differ in length")
    if columns.size and not 0 <= columns.min() <= columns.max() < shape[1]:
        raise ctx.unsupported("a target is outside the number of targets", found=int(columns.max()))
    given = np.zeros(shape, bool)
    given[nodes, columns] = True
    if how in ("SUM", "AVERAGE"):
        table = np.zeros(shape, weights.dtype)
        np.add.at(table, (nodes, columns), weights)
    else:
        table = np.full(shape, np.inf if how == "MIN" else -np.inf, weights.dtype)
        (np.minimum if how == "MIN" else np.maximum).at(table, (nodes, columns), weights)
        table[~given] = 0
    return table, given


def floats_of(numbers: Floats, tensor: np.ndarray | None) -> np.ndarray:
    """An attribute that is a list of float32, or a tensor of them or of float64."""
    return np.array(numbers or (), np.float32) if tensor is None else tensor.reshape(-1)
