"""The operators that are ensembles of decision trees; how they are walked is in :mod:`.ml_tree_tables`.

Spec: https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsemble.html , and the pages of the older two.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from graphopt.lowering.xla.emit import Context
from graphopt.lowering.xla.ops import lowers
from graphopt.lowering.xla.ops.ml_scores import (
    DOMAIN,
    TRANSFORMS,
    floats,
    integer_labels,
    rows_of,
    transformed,
)
from graphopt.lowering.xla.ops.ml_tree_tables import (
    AGGREGATES,
    LEAF,
    MEMBER,
    MODES,
    Floats,
    Trees,
    floats_of,
    leaf_table,
)

Array = Any
Ints = tuple[int, ...] | None


def _by_id(
    ctx: Context,
    nodes: dict[str, Any],
    splits: np.ndarray,
    leaves: tuple[Ints, Ints, Ints, np.ndarray],
    targets: int,
    how: str,
) -> Trees:
    """The tables of an ensemble of the older operators, whose nodes are named by tree and node number."""
    trees, ids = (np.array(nodes[k] or (), np.int64) for k in ("nodes_treeids", "nodes_nodeids"))
    names = nodes["nodes_modes"] or ()
    count = len(names)
    lists = [np.array(nodes[k] or (), np.int64) for k in ("nodes_truenodeids", "nodes_falsenodeids")]
    features = np.array(nodes["nodes_featureids"] or (), np.int64)
    nan = np.array(nodes["nodes_missing_value_tracks_true"] or (0,) * count, np.int64)
    if not count or any(a.size != count for a in (trees, ids, *lists, features, splits, nan)):
        raise ctx.unsupported("the lists of nodes differ in length, or are empty")
    unknown = set(names) - {*MODES[:MEMBER], "LEAF"}
    if unknown:
        raise ctx.unsupported("no such mode of a node", found=", ".join(sorted(unknown)))
    modes = np.array([LEAF if name == "LEAF" else MODES.index(name) for name in names], np.int32)
    place = {pair: i for i, pair in enumerate(zip(trees.tolist(), ids.tolist(), strict=True))}
    itself = np.arange(count)
    try:
        yes, no = (
            np.array([
                i if modes[i] == LEAF else place[tree, child]
                for i, tree, child in zip(itself, trees.tolist(), children.tolist(), strict=True)
            ])
            for children in lists
        )  # fmt: skip
        at = np.array([place[pair] for pair in zip(leaves[0] or (), leaves[1] or (), strict=True)], np.int64)
    except KeyError as error:
        raise ctx.unsupported("a node is missing", found=f"tree and node {error}") from error
    weights, given = leaf_table(ctx, at, leaves[2] or (), leaves[3], (count, targets), how)
    _, roots = np.unique(trees, return_index=True)
    features = np.where(modes == LEAF, 0, features)
    return Trees(features, splits, modes, yes, no, nan > 0, roots, weights, given)


@lowers(
    "TreeEnsembleRegressor",
    since=(1, 3, 5),
    domain=DOMAIN,
    ignores=("nodes_hitrates", "nodes_hitrates_as_tensor"),  # they are for speed only
)
def tree_ensemble_regressor(
    ctx: Context,
    x: Array,
    *,
    aggregate_function: str = "SUM",
    base_values: Floats = None,
    base_values_as_tensor: np.ndarray | None = None,
    n_targets: int | None = None,
    nodes_falsenodeids: Ints = None,
    nodes_featureids: Ints = None,
    nodes_missing_value_tracks_true: Ints = None,
    nodes_modes: tuple[str, ...] | None = None,
    nodes_nodeids: Ints = None,
    nodes_treeids: Ints = None,
    nodes_truenodeids: Ints = None,
    nodes_values: Floats = None,
    nodes_values_as_tensor: np.ndarray | None = None,
    post_transform: str = "NONE",
    target_ids: Ints = None,
    target_nodeids: Ints = None,
    target_treeids: Ints = None,
    target_weights: Floats = None,
    target_weights_as_tensor: np.ndarray | None = None,
) -> Array:
    """The leaves' weights aggregated by target, plus base_values, transformed: float32[N, targets]."""
    rows = floats(rows_of(ctx, x))
    targets = 1 if n_targets is None else n_targets
    if aggregate_function not in AGGREGATES:
        raise ctx.unsupported("no such aggregate_function", found=aggregate_function)
    weights = floats_of(target_weights, target_weights_as_tensor)
    nodes = {
        "nodes_treeids": nodes_treeids,
        "nodes_nodeids": nodes_nodeids,
        "nodes_modes": nodes_modes,
        "nodes_truenodeids": nodes_truenodeids,
        "nodes_falsenodeids": nodes_falsenodeids,
        "nodes_featureids": nodes_featureids,
        "nodes_missing_value_tracks_true": nodes_missing_value_tracks_true,
    }
    splits = floats_of(nodes_values, nodes_values_as_tensor)
    given = (target_treeids, target_nodeids, target_ids, weights)
    trees = _by_id(ctx, nodes, splits, given, targets, aggregate_function)
    scores = trees.aggregate(trees.leaves(ctx, rows), rows.dtype, aggregate_function)
    base = floats_of(base_values, base_values_as_tensor)
    if base.size not in (0, targets):
        raise ctx.unsupported("base_values is not of the number of targets", found=base.size)
    if base.size:
        scores = scores + jnp.asarray(base, rows.dtype)
    return transformed(ctx, scores, post_transform).astype(np.float32)


@lowers(
    "TreeEnsembleClassifier",
    since=(1, 3, 5),
    domain=DOMAIN,
    ignores=("nodes_hitrates", "nodes_hitrates_as_tensor"),  # they are for speed only
)
def tree_ensemble_classifier(
    ctx: Context,
    x: Array,
    *,
    base_values: Floats = None,
    base_values_as_tensor: np.ndarray | None = None,
    class_ids: Ints = None,
    class_nodeids: Ints = None,
    class_treeids: Ints = None,
    class_weights: Floats = None,
    class_weights_as_tensor: np.ndarray | None = None,
    classlabels_int64s: Ints = None,
    classlabels_strings: tuple[str, ...] | None = None,
    nodes_falsenodeids: Ints = None,
    nodes_featureids: Ints = None,
    nodes_missing_value_tracks_true: Ints = None,
    nodes_modes: tuple[str, ...] | None = None,
    nodes_nodeids: Ints = None,
    nodes_treeids: Ints = None,
    nodes_truenodeids: Ints = None,
    nodes_values: Floats = None,
    nodes_values_as_tensor: np.ndarray | None = None,
    post_transform: str = "NONE",
) -> tuple[Array, Array]:
    """The label of the best class, and the transformed sum of the leaves' weights: int64[N], float32[N, C].

    Of two classes only one may have weights. They are then of the second one: more than 0 (1/2 where no
    weight is negative) is the second label, and the first class scores the opposite. The specification says
    nothing of this; it is what ONNX Runtime does, and what the two runtimes disagree on is not taken.
    """
    rows = floats(rows_of(ctx, x))
    labels = integer_labels(ctx, classlabels_int64s, classlabels_strings)
    weights = floats_of(class_weights, class_weights_as_tensor)
    nodes = {
        "nodes_treeids": nodes_treeids,
        "nodes_nodeids": nodes_nodeids,
        "nodes_modes": nodes_modes,
        "nodes_truenodeids": nodes_truenodeids,
        "nodes_falsenodeids": nodes_falsenodeids,
        "nodes_featureids": nodes_featureids,
        "nodes_missing_value_tracks_true": nodes_missing_value_tracks_true,
    }
    splits = floats_of(nodes_values, nodes_values_as_tensor)
    given = (class_treeids, class_nodeids, class_ids, weights)
    trees = _by_id(ctx, nodes, splits, given, labels.size, "SUM")
    scores = trees.aggregate(trees.leaves(ctx, rows), rows.dtype, "SUM")
    base = floats_of(base_values, base_values_as_tensor)
    one_sided = labels.size == 2 and len(set(class_ids or ())) == 1
    if base.size not in (0, labels.size) or labels.size < 2 or (one_sided and base.size):
        raise ctx.unsupported("such base_values, or a single class", found=f"{base.size}, {labels.size}")
    if base.size:
        scores = scores + jnp.asarray(base, rows.dtype)
    if not one_sided:
        best = jnp.argmax(scores, 1)
        return jnp.asarray(labels)[best], transformed(ctx, scores, post_transform).astype(np.float32)
    return _two_classes(ctx, scores, weights, labels, (class_ids or (0,))[0], post_transform)


def _two_classes(
    ctx: Context, scores: Array, weights: np.ndarray, labels: np.ndarray, given: int, transform: str
) -> tuple[Array, Array]:
    score = scores[:, given]
    positive = bool((weights >= 0).all())
    second = score > jnp.asarray(0.5 if positive else 0, score.dtype)
    label = jnp.where(second, jnp.asarray(labels[1]), jnp.asarray(labels[0]))
    if given == 1:
        pair = transformed(ctx, scores, transform)
    elif transform == "NONE":
        pair = jnp.stack((1 - score if positive else -score, score), 1)
    elif transform == "LOGISTIC":
        pair = transformed(ctx, jnp.stack((-score, score), 1), transform)
    else:
        raise ctx.unsupported("a transform that is not defined for the weights of one class", found=transform)
    return label, pair.astype(np.float32)


@lowers("TreeEnsemble", since=(5,), domain=DOMAIN, ignores=("nodes_hitrates",))  # they are for speed only
def tree_ensemble(
    ctx: Context,
    x: Array,
    *,
    aggregate_function: int = 1,
    leaf_targetids: Ints,
    leaf_weights: np.ndarray,
    membership_values: np.ndarray | None = None,
    n_targets: int | None = None,
    nodes_falseleafs: Ints,
    nodes_falsenodeids: Ints,
    nodes_featureids: Ints,
    nodes_missing_value_tracks_true: Ints = None,
    nodes_modes: np.ndarray,
    nodes_splits: np.ndarray,
    nodes_trueleafs: Ints,
    nodes_truenodeids: Ints,
    post_transform: int = 0,
    tree_roots: Ints,
) -> Array:
    """The leaves' weights aggregated by target and transformed: [N, targets] of the type of x.

    A child is a node, or a leaf, which has its own numbering; leaves follow the nodes in the tables.
    """
    inner, leaves = len(nodes_featureids or ()), len(leaf_targetids or ())
    children = []
    for ids, flags in ((nodes_truenodeids, nodes_trueleafs), (nodes_falsenodeids, nodes_falseleafs)):
        places, leaf = np.array(ids, np.int64), np.array(flags, np.int64) != 0
        if places.size != inner or leaf.size != inner or (places < 0).any():
            raise ctx.unsupported("the lists of nodes differ in length")
        if (places >= np.where(leaf, leaves, inner)).any():
            raise ctx.unsupported("a child is not there")
        children.append(np.where(leaf, places + inner, places))
    if not 0 <= aggregate_function < len(AGGREGATES) or not 0 <= post_transform < len(TRANSFORMS):
        raise ctx.unsupported("no such aggregate_function or post_transform")
    how, own = AGGREGATES[aggregate_function], np.arange(inner, inner + leaves)
    roots = np.array(tree_roots, np.int64)
    if not roots.size or not 0 <= roots.min() <= roots.max() < inner or nodes_modes.size != inner:
        raise ctx.unsupported("a root or a mode is not there")
    dtype = np.float64 if x.dtype == np.float64 else np.float32
    targets = max(leaf_targetids or (0,)) + 1 if n_targets is None else n_targets
    weights, given = leaf_table(
        ctx, own, leaf_targetids or (), leaf_weights.reshape(-1).astype(dtype), (inner + leaves, targets), how
    )
    fill = np.zeros(leaves)
    trees = Trees(
        np.concatenate((np.array(nodes_featureids, np.int64), fill.astype(np.int64))),
        np.concatenate((nodes_splits.reshape(-1).astype(dtype), fill)),
        np.concatenate((nodes_modes.reshape(-1).astype(np.int32), np.full(leaves, LEAF, np.int32))),
        np.concatenate((children[0], own)),
        np.concatenate((children[1], own)),
        np.concatenate((np.array(nodes_missing_value_tracks_true or (0,) * inner) != 0, fill != 0)),
        roots,
        weights,
        given,
        _members(ctx, nodes_modes, membership_values),
    )
    rows = rows_of(ctx, x).astype(dtype)
    scores = trees.aggregate(trees.leaves(ctx, rows), dtype, how)
    return transformed(ctx, scores, TRANSFORMS[post_transform]).astype(x.dtype)


def _members(ctx: Context, modes: np.ndarray, values: np.ndarray | None) -> dict[int, np.ndarray]:
    """The set of each node that asks for membership: the values between NaNs, in the nodes' order."""
    nodes = np.flatnonzero(modes.reshape(-1) == MEMBER).tolist()
    numbers = np.zeros(0) if values is None else values.reshape(-1).astype(np.float64)
    ends = np.flatnonzero(np.isnan(numbers)).tolist()
    if len(ends) < len(nodes):
        raise ctx.unsupported("a node's set of members is missing", found=len(ends), expected=len(nodes))
    starts = [0, *(end + 1 for end in ends)]
    return {
        node: numbers[begin:end]
        for node, begin, end in zip(nodes, starts[: len(nodes)], ends[: len(nodes)], strict=True)
    }
