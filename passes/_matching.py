"""What several passes ask of a match: who made a value, for whom alone, and which number it is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import ml_dtypes
import numpy as np

from graphopt.ir import DataType, Node, Value
from graphopt.ir.query import constant, constant_tensor, is_op, only_use, rank, scalar
from graphopt.transform import NoMatch

FLOATS = frozenset({"FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE"})
NUMBER_TOLERANCE = 1e-4


def is_float(value: Value | None) -> bool:
    """Whether `value` is known to be a float16, bfloat16, float32 or float64 tensor."""
    return value is not None and value.dtype is not None and value.dtype.name in FLOATS


def is_activation_type(value: Value | None, opset: int) -> bool:
    """Whether activation functions of `opset` take the type of `value`, and runtimes have kernels for it.

    Not float64: ONNX Runtime has none for most of them. bfloat16 is a type of theirs since opset 22.
    """
    if value is None or value.dtype is None or not is_float(value) or value.dtype == DataType.DOUBLE:
        return False
    return opset >= 22 or value.dtype != DataType.BFLOAT16


def made_for(value: Value | None, user: Node, *op_types: str) -> Node | NoMatch:
    """The node of one of `op_types` that makes `value`, in the graph of `user` and for it alone."""
    producer = None if value is None else value.producer()
    if producer is None or value is None or not is_op(producer, *op_types):
        return NoMatch(f"no {' or '.join(op_types)} there", value.name if value is not None else None)
    if producer.graph is not user.graph:
        return NoMatch(f"the {producer.op_type} stands in another graph", value.name)
    if only_use(value) is not user:
        return NoMatch(f"the result of the {producer.op_type} is used elsewhere", value.name)
    return producer


def produced_by(value: Value | None, *op_types: str) -> Node | None:
    """The node that makes `value`, if it is one of `op_types`, however many use it."""
    producer = None if value is None else value.producer()
    return producer if is_op(producer, *op_types) else None


def split_constant(node: Node) -> tuple[Value, Value] | None:
    """(the other operand, the constant operand) of a commutative binary `node` with one constant."""
    if len(node.inputs) != 2:
        return None
    a, b = node.inputs
    if a is None or b is None:
        return None
    if constant_tensor(b) is not None:
        return None if constant_tensor(a) is not None else (a, b)
    return (b, a) if constant_tensor(a) is not None else None


def scalar_factor(value: Value | None, other: Value | None) -> float | None:
    """The number of a one-element constant that cannot raise the rank of `other`, else None."""
    number = scalar(value)
    if number is None or isinstance(number, bool):
        return None
    own, others = rank(value), rank(other)
    if own is None or (own > 0 and (others is None or own > others)):
        return None
    return float(number)


def finite_power(base: float, exponent: float) -> float | None:
    """``base ** exponent``, or None if that is zero or beyond any float."""
    try:
        found = float(base**exponent)
    except (ZeroDivisionError, OverflowError):
        return None
    return found if found and math.isfinite(found) else None


def is_about(found: float | None, wanted: float, dtype: np.dtype | None = None) -> bool:
    """Whether `found` is `wanted` within 1e-4, or within one unit in the last place of a coarser `dtype`."""
    if found is None or not np.isfinite(found):
        return False
    tolerance = NUMBER_TOLERANCE
    if dtype is not None and dtype.itemsize == 2:
        tolerance = max(tolerance, float(limits(dtype).eps))
    return abs(found - wanted) <= tolerance * abs(wanted)


def numpy_dtype(value: Value) -> np.dtype | None:
    """The numpy dtype of `value`, or None if unknown."""
    return None if value.dtype is None else value.dtype.numpy()


def limits(dtype: np.dtype) -> Any:
    """What ``finfo`` says of a float `dtype`, bfloat16 included."""
    finfo: Any = ml_dtypes.finfo
    return finfo(dtype)


def attributes_of(node: Node) -> dict[str, Any]:
    """The attributes of `node`, as keyword arguments for a node like it."""
    return dict(node.attributes)


def leaves_the_pattern(nodes: Iterable[Node], root: Node) -> Value | None:
    """A value made inside the pattern `nodes` that is used outside of it, or None.

    The outputs of `root` are the result of the pattern and may be used anywhere.
    """
    inside = {*nodes, root}
    for node in inside - {root}:
        for output in node.outputs:
            if output.is_graph_output() or any(use.node not in inside for use in output.uses()):
                return output
    return None


def numbers(value: Value | None) -> np.ndarray | None:
    """The numbers of a constant of any size: for weights that a rewrite uses up at once."""
    return constant(value, max_elements=1 << 62)
