"""How operators take values with a bounded axis: exactly, whatever stands in the padding.

Elementwise operators, and those that treat the positions along the bounded axis apart, are computed on the
padding too. What combines positions masks it. A form that has no such rule is refused, and runs on the
host with the value cut to its size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.lowering.xla import bounded_sources  # noqa: F401  (registers its rules)
from graphopt.lowering.xla.bounded import Bounded, Case, Count, has_count, make, new_count, rule
from graphopt.lowering.xla.emit import as_array

Array = Any

_NOWHERE = np.iinfo(np.int64).min // 2
"""An index that scatters drop: out of range also when counted from the end."""


def _padded(case: Case) -> list[Any]:
    """The operands with their padding, for the node's ordinary lowering."""
    return [x.array if isinstance(x, Bounded) else x for x in case.operands]


def _shape(operand: Any) -> tuple[int, ...]:
    return tuple(operand.array.shape if isinstance(operand, Bounded) else operand.shape)


def _one_count(case: Case) -> Count:
    """The count of all bounded operands. Raises if they count different things."""
    counts = [x.count for x in case.bounded]
    if len({c.key for c in counts}) != 1:
        raise case.refuse()
    return counts[0]


def _only(case: Case, *indices: int) -> None:
    """Refuse the case if an operand outside `indices` is bounded."""
    if any(isinstance(x, Bounded) and i not in indices for i, x in enumerate(case.operands)):
        raise case.refuse()


def _same_axis(case: Case, count: Count, axis: int, results: Sequence[Any] | None = None) -> list[Any]:
    """The ordinary results on the padding, each bounded along `axis`."""
    results = case.lower(_padded(case)) if results is None else results
    return [r if r is None else make(case.ctx, as_array(r), count, axis) for r in results]


def _bounded_data(case: Case) -> Bounded:
    """Operand 0, which alone may be bounded here."""
    _only(case, 0)
    data = case.operands[0]
    if not isinstance(data, Bounded):
        raise case.refuse()
    return data


def _axis(case: Case, rank: int, default: int = 0) -> int:
    return int(case.attributes.get("axis", default)) % rank


@rule(
    *(
        "Abs Acos Acosh Add And Asin Asinh Atan Atanh BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr"
    ).split(),
    *("BitwiseXor Cast Ceil Celu Clip Cos Cosh Div Elu Equal Erf Exp Floor Gelu Greater").split(),
    *("GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max").split(),
    *(
        "Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin"
    ).split(),
    *("Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor").split(),
)
def elementwise(case: Case) -> list[Any]:
    """Along the bounded axis, counted from the last, others have the same count or are of size 1."""
    count = _one_count(case)
    place = {x.ndim - x.axis for x in case.bounded}
    if len(place) != 1:
        raise case.refuse()
    (behind,) = place
    for operand in case.operands:
        if operand is None or isinstance(operand, Bounded):
            continue
        shape = _shape(operand)
        if has_count(operand) or (len(shape) >= behind and shape[-behind] != 1):
            raise case.refuse()
    rank = max(len(_shape(x)) for x in case.operands if x is not None)
    return _same_axis(case, count, rank - behind)


@rule("CastLike")
def cast_like(case: Case) -> list[Any]:
    """Only the type of the second operand matters."""
    data = case.operands[0]
    if not isinstance(data, Bounded):
        return list(case.lower(_padded(case)))
    return _same_axis(case, data.count, data.axis)


@rule("Transpose")
def transpose(case: Case) -> list[Any]:
    """The bounded axis goes where the permutation puts it."""
    data = _bounded_data(case)
    perm = case.attributes.get("perm") or tuple(reversed(range(data.ndim)))
    return _same_axis(case, data.count, list(perm).index(data.axis))


@rule("Unsqueeze")
def unsqueeze(case: Case) -> list[Any]:
    """New axes move the bounded one."""
    data = _bounded_data(case)
    axes = case.static(1)
    assert axes is not None
    rank = data.ndim + axes.size
    new = {int(a) % rank for a in axes.reshape(-1)}
    kept = [i for i in range(rank) if i not in new]
    return _same_axis(case, data.count, kept[data.axis])


@rule("Squeeze")
def squeeze(case: Case) -> list[Any]:
    """Named axes go, but not the bounded one, which is of size 1 only if the data says so."""
    data = _bounded_data(case)
    axes = case.static(1)
    gone = set() if axes is None else {int(a) % data.ndim for a in axes.reshape(-1)}
    if axes is None or data.axis in gone:
        raise case.refuse()
    return _same_axis(case, data.count, data.axis - sum(a < data.axis for a in gone))


@rule("Reshape")
def reshape(case: Case) -> list[Any]:
    """The bounded axis stays as it is, or, as the outermost one, takes up or gives off inner ones."""
    _only(case, 0)
    data, shape = case.operands[0], case.static(1)
    assert shape is not None
    if not isinstance(data, Bounded):
        raise case.refuse()
    dims: list[Any] = list(shape.reshape(-1))
    if not case.attributes.get("allowzero", 0):
        dims = [data.dims[i] if _is(d, 0) else d for i, d in enumerate(dims)]
    open_ = [i for i, d in enumerate(dims) if isinstance(d, Count) or _is(d, -1)]
    if len(open_) != 1:
        raise case.refuse()
    (axis,) = open_
    fixed = [1 if i == axis else int(d) for i, d in enumerate(dims)]
    before, inner = math.prod(data.array.shape[: data.axis]), math.prod(data.array.shape[data.axis + 1 :])
    outer, behind = math.prod(fixed[:axis]), math.prod(fixed[axis + 1 :])
    if outer != before or not behind or inner % behind or (before != 1 and inner != behind):
        raise case.refuse()
    count = data.count * (inner // behind)
    if isinstance(dims[axis], Count) and dims[axis].key != count.key:
        raise case.refuse()
    fixed[axis] = count.limit
    return [make(case.ctx, jnp.reshape(data.array, fixed), count, axis)]


def _is(dim: Any, number: int) -> bool:
    return not isinstance(dim, Count) and int(dim) == number


@rule("Flatten")
def flatten(case: Case) -> list[Any]:
    """Rows that are bounded stay so; a bounded axis among others is not taken."""
    data = _bounded_data(case)
    axis = _axis(case, data.ndim + 1, 1)
    inner = math.prod(data.array.shape[data.axis + 1 : axis])
    if data.axis >= axis or math.prod(data.array.shape[: data.axis]) != 1 or not inner:
        raise case.refuse()
    return _same_axis(case, data.count * inner, 0)


@rule("Expand")
def expand(case: Case) -> list[Any]:
    """Other axes are broadcast, or an axis of size 1 to the count."""
    _only(case, 0)
    data, shape = case.operands[0], case.static(1)
    assert shape is not None
    dims = list(shape.reshape(-1))
    mine = list(data.dims) if isinstance(data, Bounded) else list(_shape(data))
    rank = max(len(dims), len(mine))
    dims, mine = [1] * (rank - len(dims)) + dims, [1] * (rank - len(mine)) + mine
    results: list[Any] = []
    for a, b in zip(dims, mine, strict=True):
        if isinstance(a, Count) or isinstance(b, Count):
            known = b if isinstance(a, Count) else a
            same = isinstance(known, Count) and isinstance(a, Count) and known.key == a.key
            if not same and (isinstance(known, Count) or int(known) != 1):
                raise case.refuse()
            results.append(a if isinstance(a, Count) else b)
        else:
            results.append(max(int(a), int(b)) if int(a) and int(b) else 0)
    counts = [i for i, d in enumerate(results) if isinstance(d, Count)]
    if len(counts) != 1:
        raise case.refuse()
    target = [d.limit if isinstance(d, Count) else d for d in results]
    array = as_array(data.array if isinstance(data, Bounded) else data)
    return [make(case.ctx, jnp.broadcast_to(array, target), results[counts[0]], counts[0])]


@rule("ConstantOfShape")
def constant_of_shape(case: Case) -> list[Any]:
    """A fill of a shape in which one size is a count."""
    shape = case.static(0)
    assert shape is not None
    counts = [i for i, d in enumerate(shape.reshape(-1)) if isinstance(d, Count)]
    if len(counts) != 1:
        raise case.refuse()
    count = shape.reshape(-1)[counts[0]]
    dims = np.array([d.limit if isinstance(d, Count) else int(d) for d in shape.reshape(-1)], np.int64)
    return _same_axis(case, count, counts[0], case.lower([dims]))


@rule("Range")
def range_(case: Case) -> list[Any]:
    """0, 1, ... below a count."""
    start, limit, delta = (case.static(i) for i in range(3))
    assert start is not None
    assert limit is not None
    assert delta is not None
    count = limit.reshape(-1)[0]
    if has_count(start) or has_count(delta) or not isinstance(count, Count):
        raise case.refuse()
    if int(start.reshape(-1)[0]) != 0 or int(delta.reshape(-1)[0]) != 1:
        raise case.refuse()
    return [make(case.ctx, lax.iota(np.int64, count.limit), count, 0)]


@rule("Concat")
def concat(case: Case) -> list[Any]:
    """Along another axis all have the same count; along the bounded one they are packed."""
    first = case.bounded[0] if case.bounded else None
    if first is None:
        raise case.refuse()
    axis = _axis(case, first.ndim)
    if any(x.axis != first.axis for x in case.bounded):
        raise case.refuse()
    if axis != first.axis:
        if len(case.bounded) != len(case.operands):
            raise case.refuse()
        return _same_axis(case, _one_count(case), first.axis)
    sizes = [_shape(x)[axis] for x in case.operands]
    result = jnp.zeros((), first.dtype)
    result = jnp.broadcast_to(result, (*_shape(first)[:axis], sum(sizes), *_shape(first)[axis + 1 :]))
    start: Array = jnp.zeros((), np.int64)
    for operand, size in zip(case.operands, sizes, strict=True):
        # Each overwrites the padding of the one before; its own ends within the sum of all bounds.
        array = as_array(operand.array if isinstance(operand, Bounded) else operand)
        result = lax.dynamic_update_slice_in_dim(result, array, start, axis)
        start = start + (operand.count.number if isinstance(operand, Bounded) else np.int64(size))
    return [make(case.ctx, result, new_count(case.ctx, start, sum(sizes)), axis)]


@rule("Slice")
def slice_(case: Case) -> list[Any]:
    """Along other axes; the first few along the bounded one."""
    data = _bounded_data(case)
    starts, ends, axes, steps = (case.static(i) for i in range(1, 5))
    assert starts is not None
    assert ends is not None
    if any(has_count(x) for x in (starts, ends)):
        raise case.refuse()
    places = range(starts.size) if axes is None else [int(a) % data.ndim for a in axes.reshape(-1)]
    strides = [1] * starts.size if steps is None else [int(s) for s in steps.reshape(-1)]
    count = data.count
    for start, end, axis, step in zip(starts.reshape(-1), ends.reshape(-1), places, strides, strict=True):
        if axis != data.axis:
            continue
        if start != 0 or step != 1 or end < 0:
            raise case.refuse()
        if end < count.limit:
            number = jnp.minimum(count.number, jnp.asarray(end, np.int64))
            count = new_count(case.ctx, number, int(end))
    return _same_axis(case, count, data.axis)


@rule("Split", "CumSum", "TopK", "ArgMax", "ArgMin", "Hardmax")
def along_another_axis(case: Case) -> list[Any]:
    """Along another axis than the bounded one; a sum of what came before also along it."""
    data = _bounded_data(case)
    default = {"TopK": -1, "Hardmax": -1}.get(case.node.op_type, 0)
    if case.node.op_type == "CumSum":
        where = case.static(1)
        assert where is not None
        axis = int(where.reshape(-1)[0]) % data.ndim
        if axis == data.axis and not case.attributes.get("reverse", 0):
            return _same_axis(case, data.count, data.axis)
    else:
        axis = _axis(case, data.ndim, default)
    if axis == data.axis:
        raise case.refuse()
    dropped = case.node.op_type in ("ArgMax", "ArgMin") and not case.attributes.get("keepdims", 1)
    return _same_axis(case, data.count, data.axis - (dropped and axis < data.axis))


@rule("Softmax", "LogSoftmax")
def softmax(case: Case) -> list[Any]:
    """Along the bounded axis the padding is -inf, which adds nothing."""
    data = _bounded_data(case)
    if _axis(case, data.ndim, -1) != data.axis:
        return _same_axis(case, data.count, data.axis)
    return _same_axis(case, data.count, data.axis, case.lower([data.filled(-np.inf)]))


@rule("LayerNormalization", "RMSNormalization")
def normalization(case: Case) -> list[Any]:
    """Over axes behind the bounded one."""
    data = _bounded_data(case)
    if _axis(case, data.ndim, -1) <= data.axis:
        raise case.refuse()
    return _same_axis(case, data.count, data.axis)


@rule(
    *("AveragePool BatchNormalization Conv ConvTranspose DepthToSpace GlobalAveragePool").split(),
    *("GlobalMaxPool GroupNormalization InstanceNormalization LRN MaxPool SpaceToDepth").split(),
)
def samples(case: Case) -> list[Any]:
    """Each sample of the first axis by itself."""
    data = _bounded_data(case)
    mixes = case.attributes.get("training_mode", 0) or (
        case.node.op_type == "MaxPool" and len(case.node.outputs) > 1
    )
    if data.axis != 0 or mixes:
        raise case.refuse()
    return _same_axis(case, data.count, 0)


@rule("RoiAlign")
def roi_align(case: Case) -> list[Any]:
    """Each region by itself."""
    _only(case, 1, 2)
    if len(case.bounded) != 2:
        raise case.refuse()
    return _same_axis(case, _one_count(case), 0)


@rule("MatMul")
def matmul(case: Case) -> list[Any]:
    """Rows or columns that are bounded, or samples of both operands or of one that the other shares."""
    count = _one_count(case)
    left, right = (_shape(x) for x in case.operands)
    if len(left) < 2 or len(right) < 2:
        if len(left) < 2 or isinstance(case.operands[1], Bounded) or case.bounded[0].axis == len(left) - 1:
            raise case.refuse()
        return _same_axis(case, count, case.bounded[0].axis)
    rank = max(len(left), len(right))
    behind = {x.ndim - x.axis for x in case.bounded}
    if len(behind) != 1:
        raise case.refuse()
    (place,) = behind
    if place <= 2:
        rows = isinstance(case.operands[0], Bounded)
        if len(case.bounded) != 1 or place != (2 if rows else 1):
            raise case.refuse()
        return _same_axis(case, count, rank - place)
    for operand, shape in zip(case.operands, (left, right), strict=True):
        if not isinstance(operand, Bounded) and len(shape) >= place and shape[-place] != 1:
            raise case.refuse()
    return _same_axis(case, count, rank - place)


@rule("Gemm")
def gemm(case: Case) -> list[Any]:
    """Rows of the first matrix."""
    data = _bounded_data(case)
    bias = case.operand(2)
    rows = 1 if case.attributes.get("transA", 0) else 0
    if data.axis != rows or (bias is not None and len(_shape(bias)) == 2 and _shape(bias)[0] != 1):
        raise case.refuse()
    return _same_axis(case, data.count, 0)


@rule("OneHot")
def one_hot(case: Case) -> list[Any]:
    """A new axis beside the bounded one."""
    data = _bounded_data(case)
    new = _axis(case, data.ndim + 1, -1)
    return _same_axis(case, data.count, data.axis + (new <= data.axis))


@rule("Gather")
def gather(case: Case) -> list[Any]:
    """Bounded places in the data, or places in bounded data; padding may be gathered into padding only."""
    data, indices = case.operands
    rank = len(_shape(data))
    axis = _axis(case, rank)
    if isinstance(data, Bounded) and axis == data.axis:
        places = as_array(indices.array if isinstance(indices, Bounded) else indices)
        size = data.count.number.astype(places.dtype)
        places = jnp.where(places < 0, places + size, places)
        places = jnp.clip(places, 0, jnp.maximum(size - 1, 0))
        results = case.lower([data.array, places])
        if not isinstance(indices, Bounded):
            return list(results)
        return _same_axis(case, indices.count, axis + indices.axis, results)
    if isinstance(data, Bounded) and isinstance(indices, Bounded):
        raise case.refuse()
    if isinstance(data, Bounded):
        moved = data.axis if data.axis < axis else data.axis + len(_shape(indices)) - 1
        return _same_axis(case, data.count, moved)
    return _same_axis(case, indices.count, axis + indices.axis)


@rule("GatherND")
def gather_nd(case: Case) -> list[Any]:
    """Bounded tuples of places in the data."""
    _only(case, 1)
    indices = case.operands[1]
    if (
        not isinstance(indices, Bounded)
        or indices.axis == indices.ndim - 1
        or case.attributes.get("batch_dims")
    ):
        raise case.refuse()
    return _same_axis(case, indices.count, indices.axis)


@rule("GatherElements")
def gather_elements(case: Case) -> list[Any]:
    """Places along another axis than the bounded one, of all of it."""
    data, indices = case.operands
    count = _one_count(case)
    if len(case.bounded) != 2 or data.axis != indices.axis or _axis(case, data.ndim) == data.axis:
        raise case.refuse()
    return _same_axis(case, count, data.axis)


@rule("ScatterND", "ScatterElements")
def scatter(case: Case) -> list[Any]:
    """Bounded updates at bounded places: those of the padding lie nowhere and are dropped."""
    _only(case, 1, 2)
    data, indices, updates = case.operands
    _one_count(case)
    if len(case.bounded) != 2 or indices.axis != updates.axis:
        raise case.refuse()
    if case.node.op_type == "ScatterND" and indices.axis == indices.ndim - 1:
        raise case.refuse()
    if indices.count.limit == 0:
        return [as_array(data)]
    places = Bounded(indices.array.astype(np.int64), indices.count, indices.axis).filled(_NOWHERE)
    return list(case.lower([data, places, updates.array]))


_NEUTRAL = {
    "ReduceSum": 0, "ReduceL1": 0, "ReduceL2": 0, "ReduceSumSquare": 0, "ReduceLogSum": 0, "ReduceProd": 1,
}  # fmt: skip


@rule(*_NEUTRAL, "ReduceMax", "ReduceMin", "ReduceLogSumExp", "ReduceMean")
def reduction(case: Case) -> list[Any]:
    """Over other axes; over the bounded one with the padding neutral."""
    data = _bounded_data(case)
    given = case.static(1)
    axes = [] if given is None else [int(a) % data.ndim for a in given.reshape(-1)]
    if not axes and case.attributes.get("noop_with_empty_axes", 0):
        return _same_axis(case, data.count, data.axis)
    axes = axes or list(range(data.ndim))
    if data.axis not in axes:
        dropped = 0 if case.attributes.get("keepdims", 1) else sum(a < data.axis for a in axes)
        return _same_axis(case, data.count, data.axis - dropped)
    kind, dtype = case.node.op_type, data.dtype
    if kind == "ReduceMean":
        return [_mean(case, data, axes)]
    neutral: float | None = _NEUTRAL.get(kind)
    if neutral is None:
        floating = jnp.issubdtype(dtype, jnp.floating)
        whole = jnp.issubdtype(dtype, jnp.integer) and kind != "ReduceLogSumExp"
        if not (floating or whole):
            raise case.refuse()
        low, high = (-np.inf, np.inf) if floating else (jnp.iinfo(dtype).min, jnp.iinfo(dtype).max)
        neutral = high if kind == "ReduceMin" else low
    return list(case.lower([data.filled(neutral), *case.operands[1:]]))


def _mean(case: Case, data: Bounded, axes: Sequence[int]) -> Array:
    if data.dtype not in (np.float32, np.float64):
        raise case.refuse()
    keepdims = bool(case.attributes.get("keepdims", 1))
    total = jnp.sum(data.filled(0), axis=tuple(axes), keepdims=keepdims)
    others = math.prod(
        size for axis, size in enumerate(data.array.shape) if axis in axes and axis != data.axis
    )
    return total / (data.count.number * np.int64(others)).astype(data.dtype)
