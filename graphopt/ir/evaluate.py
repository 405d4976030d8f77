"""Evaluation of single nodes on known operands, by numpy, inside a budget.

Used to fold constants and to keep shape arithmetic out of compiled code. The size of a result is
known before anything is allocated; what has no defined result (division by zero, a cast that
overflows) is declined rather than guessed, so that it fails, or not, where the model runs.

Operators of shape arithmetic also work on arrays of symbolic dimensions (dtype object).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from graphopt.ir import AttributeType, DataType, Model, Node
from graphopt.ir.query import attribute, element_count, is_deterministic, static_shape
from graphopt.ir.shape_claims import slice_range

Array = np.ndarray
MAX_RANK = 32


class EvaluationError(Exception):
    """A node is not evaluated; the message says why."""


def evaluate(node: Node, inputs: Sequence[Array | None], *, opset: int, max_bytes: int) -> list[Array]:
    """The outputs of `node` on `inputs`.

    Args:
        inputs: one array for each input, None where an optional one is absent.
        opset: the version of the node's operator set.
        max_bytes: the largest result allowed, over all outputs together.

    Raises:
        EvaluationError: the result would be too large, is not defined, or has no numpy form here.
    """
    if any(
        a.type in (AttributeType.GRAPH, AttributeType.GRAPHS) or a.is_ref() for a in node.attributes.values()
    ):
        raise EvaluationError("it holds a subgraph")
    if not is_deterministic(node):
        raise EvaluationError("it is random")
    symbolic = any(a is not None and a.dtype == object for a in inputs)
    function = _TABLE.get(node.op_type) if (node.domain or "") == "" else None
    with np.errstate(all="ignore"):
        try:
            if function is not None:
                results = function(node, list(inputs), max_bytes)
            elif symbolic:
                raise EvaluationError("it has no form on symbolic dimensions")
            else:
                results = _by_reference(node, inputs, opset, max_bytes)
        except EvaluationError:
            raise
        # A RuntimeError is how onnx.reference says that it has no form of the operator for this version.
        except (ValueError, TypeError, IndexError, KeyError, ArithmeticError, RuntimeError) as error:
            raise EvaluationError(f"numpy cannot evaluate it: {error}") from error
    return [_settle(np.asarray(r)) for r in results]


def _settle(array: Array) -> Array:
    """An object array whose items are all plain integers becomes int64 again."""
    if array.dtype == object and all(isinstance(x, (int, np.integer)) for x in array.reshape(-1)):
        return array.astype(np.int64)
    return array


def _check_size(shape: Sequence[Any], itemsize: int, budget: int) -> None:
    if any(not isinstance(d, (int, np.integer)) for d in shape):
        raise EvaluationError("the result's shape is symbolic")
    if any(d < 0 for d in shape) or len(shape) > MAX_RANK:
        raise EvaluationError("the result's shape is not valid")
    if element_count([int(d) for d in shape]) * itemsize > budget:
        raise EvaluationError("the result is over the budget")


def _by_reference(node: Node, inputs: Sequence[Array | None], opset: int, budget: int) -> list[Array]:
    """Evaluate with the ONNX project's reference implementation (numpy), after a size check."""
    if (node.domain or "") != "":
        raise EvaluationError("its operator is not a standard one")
    if node.op_type not in _REFERENCE_OPS:
        raise EvaluationError("its operator is not folded")
    if node.op_type == "ReduceMean" and inputs[0] is not None and not inputs[0].size:
        raise EvaluationError("the mean of nothing is not defined")
    total = 0
    for output in node.outputs:
        shape = static_shape(output)
        if shape is None or output.dtype is None or output.dtype == DataType.STRING:
            raise EvaluationError("the size of the result is not known beforehand")
        total += element_count(shape) * max(1, int(output.dtype.itemsize))
    if total > budget:
        raise EvaluationError("the result is over the budget")
    results = _run_reference(node, inputs, opset)
    for output, result in zip(node.outputs, results, strict=False):
        if not isinstance(result, np.ndarray) and not np.isscalar(result):
            raise EvaluationError("the result is not a tensor")
        expected = None if output.dtype is None else output.dtype.numpy()
        if expected is not None and np.asarray(result).dtype != expected:
            raise EvaluationError("the reference implementation gives another type")
    return [np.asarray(r) for r in results]


def _run_reference(node: Node, inputs: Sequence[Array | None], opset: int) -> list[Any]:
    import onnx
    import onnx_ir.serde
    from onnx.reference import ReferenceEvaluator

    proto = onnx_ir.serde.serialize_node(node)
    proto.ClearField("metadata_props")
    feeds: dict[str, Array] = {}
    names = []
    for index, array in enumerate(inputs):
        names.append(f"i{index}" if array is not None else "")
        if array is not None:
            feeds[f"i{index}"] = array
    del proto.input[:]
    proto.input.extend(names)
    outputs = [f"o{i}" for i in range(len(proto.output))]
    del proto.output[:]
    proto.output.extend(outputs)
    graph = onnx.helper.make_graph(
        [proto],
        "node",
        [
            onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in feeds.items()
        ],
        [onnx.ValueInfoProto(name=n) for n in outputs],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    return list(ReferenceEvaluator(model).run(None, feeds))


# Deterministic numpy implementations whose results are defined for every input. Left out on
# purpose: casts and integer division, which are handled below, anything with state or loops.
_REFERENCE_OPS = frozenset(
    """
    Abs Acos Acosh And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BitwiseAnd
    BitwiseNot BitwiseOr BitwiseXor Ceil Clip Conv ConvTranspose Cos Cosh CumSum DepthToSpace
    DequantizeLinear Einsum Elu Erf Exp EyeLike Flatten Floor GatherElements GatherND Gelu Gemm
    GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish InstanceNormalization IsInf IsNaN
    LayerNormalization LeakyRelu Log LogSoftmax MatMul MaxPool Mish Neg OneHot PRelu Pad Pow
    QuantizeLinear Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean
    ReduceMin ReduceSum ReduceSumSquare Relu Round ScatterElements ScatterND Selu Sigmoid Sign Sin Sinh
    Softmax Softplus Softsign SpaceToDepth Sqrt Sum Tan Tanh ThresholdedRelu TopK Trilu Unique
    """.split()
)


def _elementwise(combine: Callable[..., Any]) -> Callable[[Node, list[Any], int], list[Array]]:
    def run(_: Node, inputs: list[Any], budget: int) -> list[Array]:
        shape = np.broadcast_shapes(*(a.shape for a in inputs))
        _check_size(shape, max(a.dtype.itemsize for a in inputs), budget)
        return [combine(*inputs)]

    return run


def _integer_division(a: Array, b: Array) -> Array:
    """Div: integers truncate toward zero. Division by zero and overflow are not defined."""
    if a.dtype == object or b.dtype == object:
        return np.asarray(a // b)  # dimensions are never negative
    if a.dtype.kind not in "iu":
        return np.asarray(a / b).astype(a.dtype, copy=False)
    _check_division(a, b)
    quotient = np.abs(a.astype(object)) // np.abs(b.astype(object))
    signed = quotient * np.sign(a).astype(object) * np.sign(b).astype(object)
    return np.asarray(signed).astype(a.dtype)


def _check_division(a: Array, b: Array) -> None:
    if not b.all():
        raise EvaluationError("it divides by zero")
    if a.dtype.kind == "i" and (a == np.iinfo(a.dtype).min).any() and (b == -1).any():
        raise EvaluationError("the division overflows")


def _mod(node: Node, inputs: list[Any], budget: int) -> list[Array]:
    a, b = inputs
    _check_size(np.broadcast_shapes(a.shape, b.shape), a.dtype.itemsize, budget)
    if a.dtype == object or b.dtype == object:
        return [np.asarray(a % b)]
    if a.dtype.kind in "iu":
        _check_division(a, b)
    return [np.fmod(a, b) if attribute(node, "fmod", 0) else np.mod(a, b)]


def _cast(node: Node, inputs: list[Any], budget: int) -> list[Array]:
    x = inputs[0]
    target = DataType(attribute(node, "to"))
    if target == DataType.STRING or x.dtype.kind in "OUS":
        if x.dtype == object and target == DataType.INT64:
            return [x]
        raise EvaluationError("a cast of strings or symbolic dimensions")
    dtype = np.dtype(target.numpy())
    _check_size(x.shape, dtype.itemsize, budget)
    if target.itemsize < 1 or target.name.startswith("FLOAT8"):
        raise EvaluationError("a cast to a narrow type depends on its rounding attributes")
    is_float = x.dtype.kind not in "iub"
    if dtype.kind in "iu" and is_float and not _fits(x, dtype):
        raise EvaluationError("the cast overflows")
    return [x.astype(dtype)]


def _fits(x: Array, dtype: np.dtype) -> bool:
    wide = x.astype(np.float64)
    limits = np.iinfo(dtype)
    return bool(
        np.isfinite(wide).all()
        and (wide > float(limits.min) - 1).all()
        and (wide < float(limits.max) + 1).all()
    )


def _gather(node: Node, inputs: list[Any], budget: int) -> list[Array]:
    data, indices = inputs
    axis = attribute(node, "axis", 0)
    if not -data.ndim <= axis < data.ndim:
        raise EvaluationError("the axis is out of range")
    axis %= data.ndim
    size = data.shape[axis]
    if indices.size and (indices.min() < -size or indices.max() >= size):
        raise EvaluationError("an index is out of range")
    _check_size((*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]), data.dtype.itemsize, budget)
    return [np.take(data, indices, axis=axis)]


def _concat(node: Node, inputs: list[Any], budget: int) -> list[Array]:
    if sum(a.nbytes for a in inputs) > budget:
        raise EvaluationError("the result is over the budget")
    return [np.concatenate(inputs, axis=attribute(node, "axis"))]


def _slice(_: Node, inputs: list[Any], budget: int) -> list[Array]:
    data, starts, ends, axes, steps = [*inputs, None, None][:5]
    if any(a is not None and a.dtype == object for a in (starts, ends, axes, steps)):
        raise EvaluationError("the bounds are symbolic")
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones(len(starts), np.int64) if steps is None else steps
    index = [slice(None)] * data.ndim
    for start, end, axis, step in zip(
        *(a.reshape(-1).tolist() for a in (starts, ends, axes, steps)), strict=True
    ):
        if step == 0 or not -data.ndim <= axis < data.ndim:
            raise EvaluationError("a step of zero or an axis out of range")
        taken = slice_range(data.shape[axis], start, end, step)
        stop = taken.stop if taken.stop >= 0 else None
        index[axis] = slice(taken.start, stop, step) if taken else slice(0, 0)
    result = data[tuple(index)]
    if result.nbytes > budget:
        raise EvaluationError("the result is over the budget")
    return [result.copy()]


def _axes(node: Node, inputs: list[Any], rank: int, position: int = 1) -> tuple[int, ...] | None:
    """Axes from input `position` or, before they were inputs, from the attribute; normalised."""
    given = inputs[position] if len(inputs) > position else attribute(node, "axes")
    if given is None:
        return None
    axes = [int(a) for a in np.asarray(given).reshape(-1)]
    if any(not -rank <= a < rank for a in axes):
        raise EvaluationError("an axis is out of range")
    return tuple(a % rank for a in axes)


def _squeeze(node: Node, inputs: list[Any], _: int) -> list[Array]:
    axes = _axes(node, inputs, inputs[0].ndim)
    return [np.squeeze(inputs[0], axis=axes)]


def _unsqueeze(node: Node, inputs: list[Any], _: int) -> list[Array]:
    given = inputs[1] if len(inputs) > 1 else np.array(attribute(node, "axes"))
    axes = _axes(node, inputs, inputs[0].ndim + np.asarray(given).size)
    return [np.expand_dims(inputs[0], axes or ())]


def _reshape(node: Node, inputs: list[Any], _: int) -> list[Array]:
    data, shape = inputs
    if shape.dtype == object:
        raise EvaluationError("the shape is symbolic")
    dims = [int(d) for d in shape.reshape(-1)]
    if not attribute(node, "allowzero", 0):
        dims = [data.shape[i] if d == 0 and i < data.ndim else d for i, d in enumerate(dims)]
    if len(dims) > MAX_RANK:
        raise EvaluationError("the rank is too large")
    return [data.reshape(dims)]


def _flatten(node: Node, inputs: list[Any], _: int) -> list[Array]:
    x, axis = inputs[0], attribute(node, "axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return [x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))]


def _transpose(node: Node, inputs: list[Any], _: int) -> list[Array]:
    return [np.ascontiguousarray(np.transpose(inputs[0], attribute(node, "perm")))]


def _where(_: Node, inputs: list[Any], budget: int) -> list[Array]:
    condition, x, y = inputs
    if condition.dtype == object:
        raise EvaluationError("the condition is symbolic")
    _check_size(np.broadcast_shapes(*(a.shape for a in inputs)), x.dtype.itemsize, budget)
    return [np.where(condition, x, y)]


def _range(_: Node, inputs: list[Any], budget: int) -> list[Array]:
    if any(a.dtype == object for a in inputs):
        raise EvaluationError("the bounds are symbolic")
    start, limit, delta = (a.reshape(-1)[0] for a in inputs)
    if delta == 0 or not all(np.isfinite(float(v)) for v in (start, limit, delta)):
        raise EvaluationError("the step is zero or a bound is not finite")
    wide = [v.item() for v in (start, limit, delta)]
    steps = (wide[1] - wide[0]) / wide[2]
    count = max(math.ceil(steps) if steps < 2**62 else 2**62, 0)
    if all(isinstance(v, int) for v in wide):
        count = max(-((wide[0] - wide[1]) // wide[2]), 0)
    _check_size((count,), inputs[0].dtype.itemsize, budget)
    if inputs[0].dtype.kind in "iu":
        return [np.array([wide[0] + i * wide[2] for i in range(count)], dtype=inputs[0].dtype)]
    return [(start + np.arange(count, dtype=inputs[0].dtype) * delta).astype(inputs[0].dtype)]


def _reduce(
    combine: Callable[..., Any], empty_is_defined: bool
) -> Callable[[Node, list[Any], int], list[Array]]:
    def run(node: Node, inputs: list[Any], budget: int) -> list[Array]:
        x = inputs[0]
        axes = _axes(node, inputs, x.ndim)
        if not axes:
            if attribute(node, "noop_with_empty_axes", 0):
                return [x]
            axes = tuple(range(x.ndim))
        if x.size == 0 and not empty_is_defined:
            raise EvaluationError("a reduction over nothing")
        if x.dtype == object and combine not in (np.prod, np.sum):
            raise EvaluationError("a reduction of symbolic dimensions")
        if x.nbytes > budget:
            raise EvaluationError("the operand is over the budget")
        result = np.asarray(combine(x, axis=axes, keepdims=bool(attribute(node, "keepdims", 1))))
        return [result if x.dtype == object else result.astype(x.dtype)]

    return run


def _constant_of_shape(node: Node, inputs: list[Any], budget: int) -> list[Array]:
    value = attribute(node, "value")
    fill = np.zeros(1, np.float32) if value is None else value.numpy().reshape(-1)
    shape = inputs[0].reshape(-1)
    _check_size(shape.tolist(), fill.dtype.itemsize, budget)
    return [np.full([int(d) for d in shape], fill[0], dtype=fill.dtype)]


def _expand(_: Node, inputs: list[Any], budget: int) -> list[Array]:
    x, shape = inputs
    if shape.dtype == object:
        raise EvaluationError("the shape is symbolic")
    target = np.broadcast_shapes(x.shape, tuple(int(d) for d in shape.reshape(-1)))
    _check_size(target, x.dtype.itemsize, budget)
    return [np.ascontiguousarray(np.broadcast_to(x, target))]


def _tile(_: Node, inputs: list[Any], budget: int) -> list[Array]:
    x, repeats = inputs
    if repeats.dtype == object:
        raise EvaluationError("the repeats are symbolic")
    counts = [int(r) for r in repeats.reshape(-1)]
    _check_size([d * r for d, r in zip(x.shape, counts, strict=True)], x.dtype.itemsize, budget)
    return [np.tile(x, counts)]


def _split(node: Node, inputs: list[Any], _: int) -> list[Array]:
    x = inputs[0]
    axis = attribute(node, "axis", 0)
    if not -x.ndim <= axis < x.ndim:
        raise EvaluationError("the axis is out of range")
    sizes = inputs[1] if len(inputs) > 1 else attribute(node, "split")
    if sizes is None:
        count = attribute(node, "num_outputs", len(node.outputs))
        step = -(-x.shape[axis] // count)
        sizes = [min(step, max(x.shape[axis] - i * step, 0)) for i in range(count)]
    bounds = np.cumsum([int(s) for s in np.asarray(sizes).reshape(-1)])
    if len(bounds) != len(node.outputs) or int(bounds[-1]) != x.shape[axis]:
        raise EvaluationError("the parts do not add up")
    return [np.ascontiguousarray(p) for p in np.split(x, [int(b) for b in bounds[:-1]], axis=axis)]


def _non_zero(_: Node, inputs: list[Any], budget: int) -> list[Array]:
    x = inputs[0]
    if x.dtype == object or x.nbytes * 8 * max(x.ndim, 1) > budget:
        raise EvaluationError("the result may be over the budget")
    return [np.array(np.nonzero(np.atleast_1d(x)), dtype=np.int64)]


def _shape_of(node: Node, inputs: list[Any], _: int) -> list[Array]:
    shape = inputs[0].shape
    rank = len(shape)
    start, end = attribute(node, "start", 0), attribute(node, "end", rank)
    start, end = (min(max(v + rank if v < 0 else v, 0), rank) for v in (start, end))
    return [np.array(shape[start:end] if end > start else (), dtype=np.int64)]


def _constant_node(node: Node, _: list[Any], budget: int) -> list[Array]:
    for name, dtype in (
        ("value_int", np.int64),
        ("value_ints", np.int64),
        ("value_float", np.float32),
        ("value_floats", np.float32),
    ):
        if name in node.attributes:
            return [np.array(node.attributes[name].value, dtype=dtype)]
    tensor = attribute(node, "value")
    if tensor is None or tensor.dtype == DataType.STRING or tensor.nbytes > budget:
        raise EvaluationError("the constant is not numeric or over the budget")
    return [tensor.numpy()]


def _comparison(combine: Callable[..., Any]) -> Callable[[Node, list[Any], int], list[Array]]:
    def run(_: Node, inputs: list[Any], budget: int) -> list[Array]:
        if any(a.dtype == object for a in inputs):
            raise EvaluationError("a comparison of symbolic dimensions")
        _check_size(np.broadcast_shapes(*(a.shape for a in inputs)), 1, budget)
        return [combine(*inputs)]

    return run


def _extreme(combine: Callable[..., Any]) -> Callable[[Node, list[Any], int], list[Array]]:
    def run(_: Node, inputs: list[Any], budget: int) -> list[Array]:
        if any(a.dtype == object for a in inputs):
            raise EvaluationError("a comparison of symbolic dimensions")
        _check_size(np.broadcast_shapes(*(a.shape for a in inputs)), inputs[0].dtype.itemsize, budget)
        result = inputs[0]
        for other in inputs[1:]:
            result = combine(result, other)
        return [result]

    return run


_TABLE: dict[str, Callable[[Node, list[Any], int], list[Array]]] = {
    "Add": _elementwise(np.add),
    "And": _comparison(np.logical_and),
    "Cast": _cast,
    "Concat": _concat,
    "Constant": _constant_node,
    "ConstantOfShape": _constant_of_shape,
    "Div": _elementwise(_integer_division),
    "Equal": _comparison(np.equal),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Greater": _comparison(np.greater),
    "GreaterOrEqual": _comparison(np.greater_equal),
    "Identity": lambda _, inputs, __: [inputs[0]],
    "Less": _comparison(np.less),
    "LessOrEqual": _comparison(np.less_equal),
    "Max": _extreme(np.maximum),
    "Min": _extreme(np.minimum),
    "Mod": _mod,
    "Mul": _elementwise(np.multiply),
    "Neg": _elementwise(np.negative),
    "NonZero": _non_zero,
    "Not": _comparison(np.logical_not),
    "Or": _comparison(np.logical_or),
    "Range": _range,
    "ReduceProd": _reduce(np.prod, True),
    "Reshape": _reshape,
    "Shape": _shape_of,
    "Size": lambda _, inputs, __: [np.array(inputs[0].size, dtype=np.int64)],
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Sub": _elementwise(np.subtract),
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
    "Xor": _comparison(np.logical_xor),
}


@cache
def evaluable_ops() -> frozenset[str]:
    """The standard operators that :func:`evaluate` may evaluate."""
    return frozenset(_TABLE) | _REFERENCE_OPS


def opset_of(model: Model, node: Node) -> int:
    """The operator-set version that `node` is to be read by."""
    return int(model.opset_imports.get(node.domain or "", 1))
