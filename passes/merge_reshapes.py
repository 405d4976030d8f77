"""merge-reshapes: one Reshape (Squeeze, Unsqueeze) in the place of a chain."""

from __future__ import annotations

import dataclasses

import numpy as np

from graphopt.ir import Node, Shape, Value
from graphopt.ir.query import attribute, constant_tensor, ints, is_op, rank, same_dim, same_shape
from graphopt.passes.merge_transposes import permutation
from graphopt.transform import NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

RESHAPING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def reshape_target(
    source: Shape | None, target: Shape | None, *, assume_nonempty: bool = False
) -> list[int] | None:
    """The constant second operand with which Reshape takes `source` to `target`, or None.

    A dimension is written as its number, as 0 where it is the same as in `source`, and one at most
    as -1. Beside -1 only positive numbers are used, unless no dimension is zero (`assume_nonempty`):
    next to a copied dimension of size zero, -1 would have no answer.
    """
    if target is None:
        return None
    entries: list[int | None] = []
    for position, dim in enumerate(target.dims):
        if isinstance(dim, int) and dim > 0:
            entries.append(dim)
        elif source is not None and position < len(source) and same_dim(dim, source.dims[position]):
            entries.append(0)
        else:
            entries.append(None)
    if None not in entries:
        return [e for e in entries if e is not None]
    if entries.count(None) > 1 or (0 in entries and not assume_nonempty):
        return None
    return [-1 if e is None else e for e in entries]


def _chain(node: Node) -> Node | NoMatch:
    middle = node.inputs[0]
    inner = None if middle is None else middle.producer()
    if inner is None or not is_op(inner, *RESHAPING):
        return NoMatch("the operand is not reshaped")
    return inner


@rule(*RESHAPING)
def reshape_back(node: Node, _: Rewriter) -> Replacement:
    """Reshape(Reshape(x)) = x if the shape is that of x again."""
    inner = _chain(node)
    if isinstance(inner, NoMatch):
        return inner
    x = inner.inputs[0]
    if x is None or not same_shape(x.shape, node.outputs[0].shape):
        return NoMatch("the shape is not provably that of the start", x.name if x is not None else None)
    return x


@rule("Unsqueeze")
def unsqueeze_of_unsqueeze(node: Node, rewriter: Rewriter) -> Replacement:
    """Unsqueeze(Unsqueeze(x, a), b) = Unsqueeze(x, a and b)."""
    inner = _chain(node)
    if isinstance(inner, NoMatch):
        return inner
    if not is_op(inner, "Unsqueeze"):
        return NoMatch("the operand is no Unsqueeze")
    x = inner.inputs[0]
    first, second, count = ints(inner.inputs[1]), ints(node.inputs[1]), rank(x)
    if first is None or second is None or count is None:
        return NoMatch("axes or rank are not known")
    middle_rank, final_rank = count + len(first), count + len(first) + len(second)
    new = {a % final_rank for a in second}
    kept = [i for i in range(final_rank) if i not in new]
    if len(kept) != middle_rank or len({a % middle_rank for a in first}) != len(first):
        return NoMatch("the axes are not valid")
    axes = sorted(new | {kept[a % middle_rank] for a in first})
    return rewriter.op("Unsqueeze", x, rewriter.const(np.array(axes, np.int64), "axes"))


@rule("Squeeze")
def squeeze_of_squeeze(node: Node, rewriter: Rewriter) -> Replacement:
    """Squeeze(Squeeze(x, a), b) = Squeeze(x, a and b)."""
    inner = _chain(node)
    if isinstance(inner, NoMatch):
        return inner
    if not is_op(inner, "Squeeze"):
        return NoMatch("the operand is no Squeeze")
    x = inner.inputs[0]
    first, second = _squeezed(inner), _squeezed(node)
    count = rank(x)
    if first is None or second is None or count is None:
        return NoMatch("axes or rank are not known")
    gone = {a % count for a in first}
    kept = [i for i in range(count) if i not in gone]
    if not kept:
        return NoMatch("the axes are not valid")
    axes = sorted(gone | {kept[a % len(kept)] for a in second})
    return rewriter.op("Squeeze", x, rewriter.const(np.array(axes, np.int64), "axes"))


def _squeezed(node: Node) -> tuple[int, ...] | None:
    return ints(node.inputs[1]) if len(node.inputs) > 1 else None


@rule(*RESHAPING)
def reshape_of_reshape(node: Node, rewriter: Rewriter) -> Replacement:
    """Reshape(Reshape(x, s), t) = Reshape(x, t') for Reshape, Flatten, Squeeze and Unsqueeze."""
    inner = _chain(node)
    if isinstance(inner, NoMatch):
        return inner
    x, y = inner.inputs[0], node.outputs[0]
    own = _target_without_copies(node)
    if own is not None:
        return rewriter.op("Reshape", x, own)
    target = reshape_target(x.shape if x is not None else None, y.shape)
    changed = unit_axes(x.shape, y.shape) if x is not None and target is None else None
    if changed is not None and x is not None:
        return _with_axes(changed, x, rewriter)
    if target is None:
        return NoMatch("the result's shape cannot be written as a constant", y.name)
    return rewriter.op("Reshape", x, rewriter.const(np.array(target, np.int64), "shape"))


def unit_axes(source: Shape | None, target: Shape | None) -> tuple[str, list[int]] | None:
    """("Unsqueeze" or "Squeeze", axes) if `source` and `target` differ in axes of size 1 only, else None."""
    if source is None or target is None or len(source) == len(target):
        return None
    long, short = (target, source) if len(target) > len(source) else (source, target)
    axes: list[int] = []
    for position, dim in enumerate(long.dims):
        matched = position - len(axes)
        if matched < len(short) and same_dim(dim, short.dims[matched]):
            continue
        if dim != 1:
            return None
        axes.append(position)
    if len(long) - len(axes) != len(short):
        return None
    return ("Unsqueeze" if long is target else "Squeeze"), axes


@rule("Reshape")
def reshape_of_unit_axes(node: Node, rewriter: Rewriter) -> Replacement:
    """Reshape(x, s) = Unsqueeze(x) or Squeeze(x), if s is computed but only adds or drops axes of size 1."""
    x = node.inputs[0]
    if x is None or constant_tensor(node.inputs[1]) is not None:
        return NoMatch("the target is a constant already")
    changed = unit_axes(x.shape, node.outputs[0].shape)
    if changed is None:
        return NoMatch("more may change than axes of size 1", node.outputs[0].name)
    return _with_axes(changed, x, rewriter)


def _with_axes(changed: tuple[str, list[int]], x: Value, rewriter: Rewriter) -> Value:
    op_type, axes = changed
    return rewriter.op(op_type, x, rewriter.const(np.array(axes, np.int64), "axes"))


def _moves_unit_axes(node: Node | None) -> bool:
    """Whether `node` is a Transpose that leaves the order of all axes but those of size 1."""
    x = node.inputs[0] if node is not None and is_op(node, "Transpose") and node.inputs else None
    perm = permutation(node) if node is not None and x is not None else None
    if x is None or perm is None or x.shape is None:
        return False
    moved = [axis for axis in perm if x.shape.dims[axis] != 1]
    return moved == sorted(moved)


@rule(*RESHAPING)
def reshape_of_unit_transpose(node: Node, rewriter: Rewriter) -> Replacement:
    """Reshape(Transpose(x)) = Reshape(x) if only axes of size 1 are moved."""
    middle = node.inputs[0]
    inner = None if middle is None else middle.producer()
    if inner is None or not _moves_unit_axes(inner):
        return NoMatch("the operand is no Transpose of axes of size 1")
    return _reshaped(inner.inputs[0], node, _target_without_copies(node), rewriter)


@rule("Transpose")
def unit_transpose_of_reshape(node: Node, rewriter: Rewriter) -> Replacement:
    """Transpose(Reshape(x)) = Reshape(x) if only axes of size 1 are moved."""
    middle = node.inputs[0]
    inner = None if middle is None else middle.producer()
    if inner is None or not is_op(inner, *RESHAPING) or not _moves_unit_axes(node):
        return NoMatch("the operand is not reshaped, or other axes are moved")
    return _reshaped(inner.inputs[0], node, None, rewriter)


def _reshaped(x: Value | None, node: Node, own: Value | None, rewriter: Rewriter) -> Replacement:
    """x, reshaped to what `node` makes of it; `own` is the target if that is known to be right."""
    target = None if own is not None or x is None else reshape_target(x.shape, node.outputs[0].shape)
    if own is None and target is None:
        return NoMatch("the result's shape cannot be written as a constant", node.name)
    return rewriter.op("Reshape", x, own or rewriter.const(np.array(target, np.int64), "shape"))


def _target_without_copies(node: Node) -> Value | None:
    """The constant target of a Reshape if it means the same for any operand of the same size."""
    if not is_op(node, "Reshape") or constant_tensor(node.inputs[1]) is None or attribute(node, "allowzero"):
        return None
    target = ints(node.inputs[1])
    return None if target is None or 0 in target else node.inputs[1]


@dataclasses.dataclass(frozen=True)
class MergeReshapes(RulePass):
    """Merge chains of Reshape, Flatten, Squeeze and Unsqueeze whose result can be written down.

    given:  float[N, 2, 3] x
    before: y = Reshape(Reshape(x, [0, 6]), [-1, 3, 2])
    after:  y = Reshape(x, [-1, 3, 2])

    Spec: https://onnx.ai/onnx/operators/onnx__Reshape.html
    """

    rules = (
        reshape_back,
        unsqueeze_of_unsqueeze,
        squeeze_of_squeeze,
        reshape_of_reshape,
        reshape_of_unit_axes,
        reshape_of_unit_transpose,
        unit_transpose_of_reshape,
    )
