"""raise-rms-normalization: division by the root of the mean square becomes RMSNormalization."""

from __future__ import annotations

import dataclasses

import numpy as np

from graphopt.ir import DataType, Node, Value
from graphopt.ir.query import (
    SMALL_CONSTANT_ELEMENTS,
    attribute,
    constant,
    constant_tensor,
    element_count,
    ints,
    is_op,
    rank,
)
from graphopt.passes._matching import (
    attributes_of,
    is_about,
    leaves_the_pattern,
    made_for,
    produced_by,
    scalar_factor,
    split_constant,
)
from graphopt.passes._upgrading import UpgradingPass
from graphopt.transform import Exactness, NoMatch, Rewriter, rule
from graphopt.transform.rule import Replacement

NEEDED_OPSET = 23


@dataclasses.dataclass(frozen=True)
class RootMeanSquare:
    """``x / sqrt(E[x²] + epsilon)`` over the last axes from `axis` (negative) on, of sizes `shape`."""

    x: Value
    axis: int
    shape: tuple[int, ...]
    epsilon: float


@rule("Mul", "Div")
def normalization(node: Node, rewriter: Rewriter) -> Replacement:
    """x / sqrt(E[x²] + e) = RMSNormalization(x, 1, epsilon=e)."""
    found = match_rms(node)
    if isinstance(found, NoMatch):
        return found
    if rewriter.opset < NEEDED_OPSET:
        return NoMatch(f"needs opset {NEEDED_OPSET}")
    assert found.x.dtype is not None
    ones = rewriter.const(np.ones(found.shape, found.x.dtype.numpy()), "scale")
    return rewriter.op("RMSNormalization", found.x, ones, axis=found.axis, epsilon=found.epsilon)


def match_rms(node: Node) -> RootMeanSquare | NoMatch:
    """What `node` is the last multiplication or division of."""
    pattern = [node]
    for x, spread in (node.inputs, node.inputs[::-1]) if is_op(node, "Mul") else (node.inputs,):
        shifted = _under_root(spread, -1 if is_op(node, "Mul") else 1, pattern)
        if shifted is None or x is None:
            continue
        found = _mean_square(shifted, x, pattern)
        if isinstance(found, NoMatch):
            return found
        if (outside := leaves_the_pattern(pattern, node)) is not None:
            return NoMatch("an intermediate value is used elsewhere", outside.name)
        if any(inner.graph is not node.graph for inner in pattern):
            return NoMatch("the pattern spans two graphs", node.name)
        return found
    return NoMatch("no reciprocal square root")


def _under_root(value: Value | None, sign: int, pattern: list[Node]) -> Value | None:
    """v of ``sqrt(v)``, or of ``1 / sqrt(v)`` if `sign` is -1, in any spelling."""
    node = produced_by(value, "Sqrt", "Pow", "Reciprocal", "Div")
    if node is None:
        return None
    if is_op(node, "Pow"):
        exact = scalar_factor(node.inputs[1], node.inputs[0]) == 0.5 * sign
        pattern.append(node)
        return node.inputs[0] if exact else None
    if is_op(node, "Sqrt"):
        pattern.append(node)
        if sign == 1:
            return node.inputs[0]
        # sqrt(1 / v) is 1 / sqrt(v)
        return _inverted(produced_by(node.inputs[0], "Reciprocal", "Div"), pattern)
    below = _inverted(node, pattern) if sign == -1 else None
    return _under_root(below, 1, pattern)


def _inverted(node: Node | None, pattern: list[Node]) -> Value | None:
    """v if `node` is ``1 / v``."""
    if node is None:
        return None
    if is_op(node, "Div") and scalar_factor(node.inputs[0], node.inputs[1]) != 1.0:
        return None
    pattern.append(node)
    return node.inputs[-1]


def _mean_square(shifted: Value, x: Value, pattern: list[Node]) -> RootMeanSquare | NoMatch:
    """The parts of ``E[x²] + e``, which is `shifted`."""
    total = produced_by(shifted, "Add")
    operands = split_constant(total) if total is not None else None
    if total is None or operands is None:
        return NoMatch("no epsilon is added to the mean square", shifted.name)
    epsilon = scalar_factor(operands[1], operands[0])
    if epsilon is None or not 0 < epsilon < np.inf:
        return NoMatch("epsilon is not a positive scalar", operands[1].name)
    mean = produced_by(operands[0], "ReduceMean")
    if mean is None:
        return NoMatch("no mean under the root", operands[0].name)
    square = produced_by(mean.inputs[0], "Mul", "Pow")
    if square is None or square.inputs[0] is not x:
        return NoMatch("what is divided is not what is squared", mean.name)
    if is_op(square, "Mul") and square.inputs[1] is not x:
        return NoMatch("the product is not a square", square.name)
    if is_op(square, "Pow") and not is_about(scalar_factor(square.inputs[1], x), 2.0):
        return NoMatch("the power is not 2", square.name)
    pattern += [total, mean, square]
    if x.dtype not in (DataType.FLOAT, DataType.FLOAT16, DataType.BFLOAT16):
        return NoMatch("RMSNormalization computes in float32, which is not the input's precision", x.name)
    shape = _last_dimensions(mean, x)
    if shape is None or element_count(shape) > SMALL_CONSTANT_ELEMENTS:
        return NoMatch("the mean is not over last axes of known sizes, with keepdims", mean.name)
    return RootMeanSquare(x, -len(shape), shape, epsilon)


def _last_dimensions(mean: Node, x: Value) -> tuple[int, ...] | None:
    """The sizes of the last axes that `mean` is over, if it keeps them and they are known and not 0."""
    count = rank(x)
    axes = ints(mean.inputs[1]) if len(mean.inputs) > 1 else None
    if not count or not axes or x.shape is None or not attribute(mean, "keepdims", 1):
        return None
    wanted = sorted({a % count for a in axes})
    if any(not -count <= a < count for a in axes) or wanted != list(range(wanted[0], count)):
        return None
    dims = x.shape.dims[wanted[0] :]
    known = tuple(d for d in dims if isinstance(d, int) and d > 0)
    return known if len(known) == len(dims) else None


@rule("Mul")
def scale(node: Node, rewriter: Rewriter) -> Replacement:
    """RMSNormalization(x, 1) * s = RMSNormalization(x, s)."""
    for y, factor in (node.inputs, node.inputs[::-1]):
        layer = made_for(y, node, "RMSNormalization")
        if isinstance(layer, NoMatch) or factor is None:
            continue
        ones = constant(layer.inputs[1])
        if ones is None or not np.all(ones == 1):
            return NoMatch("it has another scale", layer.name)
        if ones.shape == tuple(factor.shape.dims if factor.shape is not None else ()):
            return _like(layer, rewriter, layer.inputs[0], factor)
        fitted = _fitted(factor, ones.shape, rank(layer.inputs[0]) or 0)
        if fitted is None:
            return NoMatch("the factor is not of the normalized shape", factor.name)
        return _like(layer, rewriter, layer.inputs[0], rewriter.const(fitted, "scale"))
    return NoMatch("no RMSNormalization for this product alone")


def _fitted(factor: Value, shape: tuple[int, ...], x_rank: int) -> np.ndarray | None:
    """A constant `factor` in `shape`, if it varies along these last axes only."""
    if constant_tensor(factor) is None or factor.shape is None:
        return None
    own = tuple(factor.shape.numpy())
    extra = len(own) - len(shape)
    core = own[max(extra, 0) :]
    if any(dim != 1 for dim in own[: max(extra, 0)]) or len(own) > x_rank:
        return None
    if any(d not in (1, e) for d, e in zip(core, shape[len(shape) - len(core) :], strict=True)):
        return None
    data = constant(factor)
    return None if data is None else np.ascontiguousarray(np.broadcast_to(data.reshape(core), shape))


@rule("Cast")
def half_precision(node: Node, rewriter: Rewriter) -> Replacement:
    """Cast(RMSNormalization(Cast(x: f16, f32), 1), f16) = RMSNormalization(x, 1, stash_type=f32)."""
    layer = made_for(node.inputs[0], node, "RMSNormalization")
    if isinstance(layer, NoMatch):
        return layer
    widened = produced_by(layer.inputs[0], "Cast")
    x, ones = widened.inputs[0] if widened is not None else None, constant(layer.inputs[1])
    if x is None or x.dtype not in (DataType.FLOAT16, DataType.BFLOAT16):
        return NoMatch("the input is not of half precision", layer.name)
    if x.dtype != node.outputs[0].dtype or layer.outputs[0].dtype != DataType.FLOAT:
        return NoMatch("the types before, inside and after do not fit", node.name)
    if ones is None or not np.all(ones == 1):
        return NoMatch("the scale is applied in float32", layer.name)
    return _like(layer, rewriter, x, rewriter.const(ones.astype(x.dtype.numpy()), "scale"))


def _like(layer: Node, rewriter: Rewriter, x: Value | None, factor: Value) -> Value:
    return rewriter.op("RMSNormalization", x, factor, stem=layer.name, **attributes_of(layer))


@dataclasses.dataclass(frozen=True)
class RaiseRmsNormalization(UpgradingPass):
    """Recognise root-mean-square normalization, however its square, root and quotient are spelled.

    given:  float[N, 4] x; float[4] s; opset 23
    before: r = Reciprocal(Sqrt(Add(ReduceMean(Mul(x, x), [-1]), 0.5))); y = Mul(Mul(x, r), s)
    after:  y = RMSNormalization<epsilon = 0.5>(x, s)

    The mean runs over last axes of known sizes with keepdims, the epsilon is a positive scalar constant,
    and nothing in between is used elsewhere. A scale joins if it has the normalized shape.

    Options:
        upgrade: raise the model's opset to 23, where RMSNormalization is, if there is one to raise.

    Spec: https://onnx.ai/onnx/operators/onnx__RMSNormalization.html (since version 23)
    """

    needed_opset = NEEDED_OPSET
    exactness = Exactness.REASSOCIATES
    rules = (normalization, scale, half_precision)

    @staticmethod
    def matches(node: Node) -> bool:
        """Whether root-mean-square normalization is written out here."""
        return is_op(node, "Mul", "Div") and not isinstance(match_rms(node), NoMatch)
