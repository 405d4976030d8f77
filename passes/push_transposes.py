"""push-transposes: move Transpose down to where it meets another and both disappear."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from graphopt.ir import Node, Value
from graphopt.ir.query import attribute, constant, constant_tensor, ints, is_op, only_use, rank
from graphopt.passes._matching import attributes_of, produced_by
from graphopt.transform import Exactness, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

_UNARY = """
    Abs Acos Acosh Asin Asinh Atan Atanh Cast Ceil Celu Clip Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid
    HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign
    Sin Sinh Softplus Softsign Sqrt Tan Tanh ThresholdedRelu
"""
_VARIADIC = """
    Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or PRelu Pow Sub Sum
    Where Xor
"""
_REDUCTIONS = """
    ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare
"""
UNARY, VARIADIC, REDUCTIONS = (frozenset(names.split()) for names in (_UNARY, _VARIADIC, _REDUCTIONS))
WITH_AXIS = frozenset({"Softmax", "LogSoftmax", "Hardmax"})
MAX_LOOK_AHEAD = 64
MAX_CONSTANT_ELEMENTS = 1 << 20


def permutation(transpose: Node) -> tuple[int, ...] | None:
    """The permutation of `transpose`: axis i of the result is axis ``perm[i]`` of the input."""
    perm = attribute(transpose, "perm")
    if perm is not None:
        return tuple(perm)
    found = rank(transpose.inputs[0])
    return None if found is None else tuple(reversed(range(found)))


def _above(value: Value | None, user: Node) -> tuple[Value, tuple[int, ...]] | NoMatch:
    """(x, perm) if `value` is ``Transpose(x, perm)`` in the graph of `user` and used by it alone."""
    transpose = produced_by(value, "Transpose")
    if transpose is None or value is None:
        return NoMatch("no Transpose above")
    x, perm = transpose.inputs[0], permutation(transpose)
    if x is None or perm is None:
        return NoMatch("the permutation is unknown", transpose.name)
    if value.is_graph_output() or any(use.node is not user for use in value.uses()):
        return NoMatch("the transposed value is used elsewhere", value.name)
    if transpose.graph is not user.graph:
        return NoMatch("the Transpose stands in another graph", transpose.name)
    return x, perm


def _moves(node: Node | None) -> bool:
    """Whether a Transpose can be moved from the first input of `node` to its output."""
    if node is None or (node.domain or "") or len(node.outputs) != 1:
        return False
    if node.op_type in UNARY or node.op_type in WITH_AXIS:
        return True
    if node.op_type == "Pad":
        return ints(node.inputs[1]) is not None
    if node.op_type == "Slice":
        return all(v is None or constant_tensor(v) is not None for v in node.inputs[1:])
    if node.op_type in VARIADIC:
        return sum(constant_tensor(v) is None for v in node.inputs) == 1
    return False


def _pays(value: Value) -> bool:
    """Whether a Transpose that makes `value` meets another, or a reduction, by moving down."""
    for _ in range(MAX_LOOK_AHEAD):
        user = only_use(value)
        if user is None or user.graph is not _graph_of(value):
            return False
        if is_op(user, "Transpose", *REDUCTIONS):
            return True
        if user.op_type in VARIADIC or is_op(user, "Concat"):
            others = [v for v in user.inputs if v is not value and constant_tensor(v) is None]
            if others and all(_comes_down(v) for v in others):
                return True
        if not _moves(user):
            return False
        value = user.outputs[0]
    return False


def _comes_down(value: Value | None) -> bool:
    """Whether a Transpose stands above `value`, with only what it can move through in between."""
    for _ in range(MAX_LOOK_AHEAD):
        producer = None if value is None else value.producer()
        if value is None or producer is None or only_use(value) is None:
            return False
        if is_op(producer, "Transpose"):
            return True
        if not _moves(producer):
            return False
        value = next((v for v in producer.inputs if constant_tensor(v) is None), None)
    return False


def _graph_of(value: Value) -> object:
    producer = value.producer()
    return None if producer is None else producer.graph


@rule("Transpose")
def transpose_of_transpose(node: Node, rewriter: Rewriter) -> Replacement:
    """Transpose(Transpose(x, p), q) = Transpose(x, p[q]), or x where that is the identity."""
    perm = permutation(node)
    x = node.inputs[0]
    if perm is None or x is None:
        return NoMatch("the permutation is unknown", node.name)
    inner = produced_by(x, "Transpose")
    first = permutation(inner) if inner is not None else None
    if inner is None or first is None or inner.inputs[0] is None:
        return NoMatch("no Transpose above")
    combined = tuple(first[i] for i in perm)
    source = inner.inputs[0]
    if combined != tuple(range(len(combined))):
        return rewriter.op("Transpose", source, perm=combined)
    if node.outputs[0].is_graph_output() and source.producer() is None:
        return NoMatch("it carries an input to a graph output", source.name)
    return source


@rule(*sorted(UNARY | WITH_AXIS))
def one_operand(node: Node, rewriter: Rewriter) -> Replacement:
    """f(Transpose(x)) = Transpose(f(x)), for f elementwise or along one axis."""
    found = _above(node.inputs[0], node)
    if isinstance(found, NoMatch):
        return found
    x, perm = found
    if not _pays(node.outputs[0]):
        return NoMatch("it would meet no other Transpose", node.name)
    attributes = attributes_of(node)
    if node.op_type in WITH_AXIS:
        axis = int(attribute(node, "axis", -1))
        return _transposed(
            rewriter.op(node.op_type, x, **(attributes | {"axis": perm[axis]})), perm, rewriter
        )
    return _transposed(rewriter.op(node.op_type, x, *node.inputs[1:], **attributes), perm, rewriter)


@rule(*sorted(VARIADIC))
def several_operands(node: Node, rewriter: Rewriter) -> Replacement:
    """f(Transpose(a), Transpose(b), c) = Transpose(f(a, b, c')), with c' the constant c turned back."""
    found = _common(node)
    if isinstance(found, NoMatch):
        return found
    operands, perm, count = found
    if count == 1 and not _pays(node.outputs[0]):
        return NoMatch("it would meet no other Transpose", node.name)
    turned: list[Value | None] = []
    for value in operands:
        if constant_tensor(value) is None:
            turned.append(value)
            continue
        back = _turned_back(value, perm, rewriter)
        if isinstance(back, NoMatch):
            return back
        turned.append(back)
    return _transposed(rewriter.op(node.op_type, *turned, **attributes_of(node)), perm, rewriter)


@rule("Concat")
def concat(node: Node, rewriter: Rewriter) -> Replacement:
    """Concat(Transpose(a), Transpose(b), axis=i) = Transpose(Concat(a, b, axis=perm[i]))."""
    found = _common(node)
    if isinstance(found, NoMatch):
        return found
    operands, perm, count = found
    if count != len(operands):
        return NoMatch("an operand is constant")
    if count == 1 and not _pays(node.outputs[0]):
        return NoMatch("it would meet no other Transpose", node.name)
    axis = attribute(node, "axis")
    return _transposed(rewriter.op("Concat", *operands, axis=perm[axis]), perm, rewriter)


def _common(node: Node) -> tuple[list[Value], tuple[int, ...], int] | NoMatch:
    """(what is transposed, and the constants, in order; the one permutation; how many are transposed)."""
    operands: list[Value] = []
    perms: list[tuple[int, ...]] = []
    seen: set[Value] = set()
    for value in node.inputs:
        if value is None:
            return NoMatch("an operand is missing")
        if constant_tensor(value) is not None:
            operands.append(value)
            continue
        found = _above(value, node)
        if isinstance(found, NoMatch):
            return found
        operands.append(found[0])
        perms.append(found[1])
        seen.add(value)
    if not perms or any(perm != perms[0] for perm in perms):
        return NoMatch("the permutations differ, or there is none")
    return operands, perms[0], len(seen)


def _turned_back(value: Value, perm: tuple[int, ...], rewriter: Rewriter) -> Value | NoMatch:
    """The constant c' with ``Transpose(c', perm)`` = `value`, as far as broadcasting sees."""
    own = rank(value)
    if own is None or own > len(perm):
        return NoMatch("a constant raises the rank", value.name)
    data = constant(value, max_elements=MAX_CONSTANT_ELEMENTS)
    if data is None:
        return NoMatch("a constant is too large to be turned", value.name)
    if data.size == 1:
        return value
    full = data.reshape((1,) * (len(perm) - data.ndim) + data.shape)
    return rewriter.const(np.ascontiguousarray(full.transpose(np.argsort(perm))), "turned")


@rule(*sorted(REDUCTIONS))
def reduction(node: Node, rewriter: Rewriter) -> Replacement:
    """Reduce(Transpose(x), axes) = Transpose(Reduce(x, perm[axes])): less is moved, or nothing."""
    found = _above(node.inputs[0], node)
    if isinstance(found, NoMatch):
        return found
    x, perm = found
    given = node.inputs[1] if len(node.inputs) > 1 else None
    axes = ints(given) if given is not None else ()
    if axes is None:
        return NoMatch("the axes are not constant", node.name)
    if not axes and attribute(node, "noop_with_empty_axes", 0):
        return NoMatch("it reduces nothing", node.name)
    reduced = {a % len(perm) for a in axes} or set(range(len(perm)))
    moved = rewriter.const(np.array(sorted(perm[a] for a in reduced), np.int64), "axes") if axes else None
    result = rewriter.op(node.op_type, x, moved, **attributes_of(node))
    if attribute(node, "keepdims", 1):
        # Axes of extent 1 may stand in any order.
        if len(perm) - len(reduced) <= 1 and all(_same_place(a, perm, reduced) for a in range(len(perm))):
            return result
        return _transposed(result, perm, rewriter)
    left = [perm[a] for a in range(len(perm)) if a not in reduced]
    order = sorted(left)
    return _transposed(result, tuple(order.index(a) for a in left), rewriter)


def _same_place(axis: int, perm: Sequence[int], reduced: set[int]) -> bool:
    """Whether an axis that is kept comes from the same place."""
    return axis in reduced or perm[axis] == axis


@rule("Pad")
def pad(node: Node, rewriter: Rewriter) -> Replacement:
    """Pad(Transpose(x), pads, axes) = Transpose(Pad(x, pads, perm[axes]))."""
    found = _above(node.inputs[0], node)
    if isinstance(found, NoMatch):
        return found
    x, perm = found
    if not _pays(node.outputs[0]):
        return NoMatch("it would meet no other Transpose", node.name)
    given = node.inputs[3] if len(node.inputs) > 3 else None
    axes = tuple(range(len(perm))) if given is None else ints(given)
    if axes is None:
        return NoMatch("the axes are not constant", node.name)
    value = node.inputs[2] if len(node.inputs) > 2 else None
    moved = rewriter.const(np.array([perm[a] for a in axes], np.int64), "axes")
    result = rewriter.op("Pad", x, node.inputs[1], value, moved, **attributes_of(node))
    return _transposed(result, perm, rewriter)


@rule("Slice")
def slice_(node: Node, rewriter: Rewriter) -> Replacement:
    """Slice(Transpose(x), axes) = Transpose(Slice(x, perm[axes]))."""
    found = _above(node.inputs[0], node)
    if isinstance(found, NoMatch):
        return found
    x, perm = found
    if not _pays(node.outputs[0]):
        return NoMatch("it would meet no other Transpose", node.name)
    starts = ints(node.inputs[1])
    given = node.inputs[3] if len(node.inputs) > 3 else None
    axes = ints(given) if given is not None else tuple(range(len(starts or ())))
    if starts is None or axes is None or node.inputs[1] is None or node.inputs[1].dtype is None:
        return NoMatch("the axes or the starts are not constant", node.name)
    moved = rewriter.const(np.array([perm[a] for a in axes], node.inputs[1].dtype.numpy()), "axes")
    steps = node.inputs[4] if len(node.inputs) > 4 else None
    return _transposed(rewriter.op("Slice", x, *node.inputs[1:3], moved, steps), perm, rewriter)


@rule("Split")
def split(node: Node, rewriter: Rewriter) -> Replacement:
    """Split(Transpose(x), axis) = Transpose of each Split(x, perm[axis]), where each is transposed again."""
    found = _above(node.inputs[0], node)
    if isinstance(found, NoMatch):
        return found
    x, perm = found
    if any(not is_op(only_use(v), "Transpose") for v in node.outputs):
        return NoMatch("a part is not transposed again", node.name)
    axis = int(attribute(node, "axis", 0))
    parts = rewriter.ops(
        "Split",
        x,
        *node.inputs[1:],
        outputs=len(node.outputs),
        **(attributes_of(node) | {"axis": perm[axis]}),
    )
    return [_transposed(part, perm, rewriter) for part in parts]


def _transposed(value: Value, perm: Sequence[int], rewriter: Rewriter) -> Value:
    if tuple(perm) == tuple(range(len(perm))):
        return value
    return rewriter.op("Transpose", value, perm=tuple(perm))


@dataclasses.dataclass(frozen=True)
class PushTransposes(RulePass):
    """Move Transpose down through elementwise operators until it meets another or a reduction.

    given:  float[1, 4, 5, 6] x
    before: y = Transpose<perm = [0, 3, 1, 2]>(Relu(Transpose<perm = [0, 2, 3, 1]>(x)))
    after:  y = Relu(x)

    Cost: a Transpose moves only where it ends in another one, joins its like at an operator with
    several operands, or is left with a reduced tensor; so their number never grows and no larger
    tensor is moved. It ends because each step moves a Transpose down or removes one.

    Spec: https://onnx.ai/onnx/operators/onnx__Transpose.html
    """

    exactness = Exactness.REASSOCIATES
    rules = (
        transpose_of_transpose,
        one_operand,
        several_operands,
        concat,
        reduction,
        pad,
        slice_,
        split,
    )
