"""What channels and heads are worth: the norms of their weights, by which they are ranked."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from graphopt.passes._channel_groups import ChannelGroups, Cut
from graphopt.passes._head_groups import HeadGroups
from graphopt.passes._matching import numbers


def channel_norms(groups: ChannelGroups) -> dict[int, float]:
    """The sum of the squares of all weights of each channel, by root."""
    norms: dict[int, float] = defaultdict(float)
    for cut in groups.cuts:
        array = numbers(cut.node.inputs[cut.index]) if cut.is_weight else None
        if array is None:
            continue
        others = tuple(i for i in range(array.ndim) if i != cut.axis)
        squares = np.asarray(np.sum(np.square(array, dtype=np.float64), axis=others))
        for unit, square in zip(groups.roots(cut.units), squares, strict=True):
            norms[int(unit)] += float(square)
    return norms


def head_norms(groups: HeadGroups) -> dict[int, float]:
    """The squared norm of the product of the value columns and the output rows of each head, by root.

    That product is what a head with uniform attention gives: the sizes of either factor alone say
    nothing, since one can be scaled against the other.
    """
    columns: dict[int, tuple[Cut, int]] = {}
    for cut in groups.cuts:
        if cut.is_weight and not cut.reads:
            columns.update({int(u): (cut, i) for i, u in enumerate(cut.units)})
    norms: dict[int, float] = defaultdict(float)
    for cut in groups.cuts:
        if not cut.reads or int(cut.units[0]) not in groups.heads:
            continue
        rows = numbers(cut.node.inputs[cut.index])
        size = groups.heads[int(cut.units[0])].size
        if rows is None or rows.ndim != 2:
            continue
        rows = np.moveaxis(rows, cut.axis, 0).astype(np.float64)
        for start in range(0, cut.units.size, size):
            head = int(cut.units[start])
            block = rows[start : start + size]
            value = _columns(groups.heads[head], columns) if head in groups.heads else None
            product = block if value is None or value.shape[1] != len(block) else value @ block
            norms[groups.root(head)] += float(np.sum(np.square(product)))
    return norms


def _columns(units: np.ndarray, columns: dict[int, tuple[Cut, int]]) -> np.ndarray | None:
    """The columns of a projection that make `units`."""
    if any(int(u) not in columns for u in units):
        return None
    cut = columns[int(units[0])][0]
    array = numbers(cut.node.inputs[cut.index])
    if array is None or array.ndim != 2 or any(columns[int(u)][0] is not cut for u in units):
        return None
    taken = np.take(array, [columns[int(u)][1] for u in units], axis=cut.axis).astype(np.float64)
    return np.moveaxis(taken, cut.axis, -1)
