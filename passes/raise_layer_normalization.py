"""raise-layer-normalization: mean, variance and division written out become LayerNormalization."""

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
    only_use,
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
from graphopt.transform import Exactness, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

NEEDED_OPSET = 17


@rule("Div", "Mul")
def normalization(node: Node, rewriter: Rewriter) -> Replacement:
    """(x - E[x]) / sqrt(E[(x - E[x])²] + e) = LayerNormalization(x, 1, epsilon=e)."""
    if rewriter.opset < NEEDED_OPSET:
        return NoMatch(f"needs opset {NEEDED_OPSET}")
    pattern = [node]
    parts = _numerator_and_variance(node, pattern)
    if isinstance(parts, NoMatch):
        return parts
    deviation, shifted_variance = parts
    found = _variance(shifted_variance, pattern)
    if isinstance(found, NoMatch):
        return found
    x, mean, axis, epsilon = found
    centred = _plain(deviation, pattern)
    if not is_op(centred, "Sub") or centred is None or not _is_difference(centred, x, mean):
        return NoMatch("what is divided is not the deviation from the same mean", deviation.name)
    pattern.append(centred)
    if (outside := leaves_the_pattern(pattern, node)) is not None:
        return NoMatch("an intermediate value is used elsewhere", outside.name)
    if any(inner.graph is not node.graph for inner in pattern):
        return NoMatch("the pattern spans two graphs", node.name)
    if x.dtype not in (DataType.FLOAT, DataType.FLOAT16, DataType.BFLOAT16):
        return NoMatch("LayerNormalization computes in float32, which is not the input's precision", x.name)
    shape = _normalized_shape(x, axis)
    if shape is None or element_count(shape) > SMALL_CONSTANT_ELEMENTS:
        return NoMatch("the normalized dimensions are unknown or very large", x.name)
    ones = rewriter.const(np.ones(shape, x.dtype.numpy()), "scale")
    return rewriter.op("LayerNormalization", x, ones, axis=axis - _rank(x), epsilon=epsilon)


@rule("Mul")
def scale(node: Node, rewriter: Rewriter) -> Replacement:
    """LayerNormalization(x, 1) * s = LayerNormalization(x, s)."""
    found = _normalization_and_parameter(node)
    if isinstance(found, NoMatch):
        return found
    layer, parameter = found
    if len(layer.inputs) > 2 and layer.inputs[2] is not None:
        return NoMatch("a bias was added before", layer.name)
    old = constant(layer.inputs[1])
    if old is None or not np.all(old == 1):
        return NoMatch("it has another scale", layer.name)
    fitted = _fitted(parameter, layer, rewriter)
    if isinstance(fitted, NoMatch):
        return fitted
    return rewriter.op("LayerNormalization", layer.inputs[0], fitted, stem=layer.name, **attributes_of(layer))


@rule("Add")
def bias(node: Node, rewriter: Rewriter) -> Replacement:
    """LayerNormalization(x, s) + b = LayerNormalization(x, s, b)."""
    found = _normalization_and_parameter(node)
    if isinstance(found, NoMatch):
        return found
    layer, parameter = found
    if len(layer.inputs) > 2 and layer.inputs[2] is not None:
        return NoMatch("it has a bias", layer.name)
    fitted = _fitted(parameter, layer, rewriter)
    if isinstance(fitted, NoMatch):
        return fitted
    return rewriter.op(
        "LayerNormalization", *layer.inputs[:2], fitted, stem=layer.name, **attributes_of(layer)
    )


@rule("Cast")
def half_precision(node: Node, rewriter: Rewriter) -> Replacement:
    """Cast(LayerNormalization(Cast(x: f16, f32), 1), f16) = LayerNormalization(x, 1, stash_type=f32)."""
    layer = made_for(node.inputs[0], node, "LayerNormalization")
    if isinstance(layer, NoMatch):
        return layer
    widened = made_for(layer.inputs[0], layer, "Cast")
    if isinstance(widened, NoMatch):
        return widened
    x, ones = widened.inputs[0], constant(layer.inputs[1])
    if x is None or x.dtype not in (DataType.FLOAT16, DataType.BFLOAT16):
        return NoMatch("the input is not of half precision", widened.name)
    if x.dtype != node.outputs[0].dtype or layer.outputs[0].dtype != DataType.FLOAT:
        return NoMatch("the types before, inside and after do not fit", node.name)
    if ones is None or not np.all(ones == 1) or len([v for v in layer.inputs if v is not None]) > 2:
        return NoMatch("the scale or the bias is applied in float32", layer.name)
    if any(v.uses() for v in layer.outputs[1:]):
        return NoMatch("its statistics are used", layer.name)
    narrow = rewriter.const(ones.astype(x.dtype.numpy()), "scale")
    return rewriter.op("LayerNormalization", x, narrow, stem=layer.name, **attributes_of(layer))


def _rank(x: Value) -> int:
    found = rank(x)
    assert found is not None
    return found


def _numerator_and_variance(node: Node, pattern: list[Node]) -> tuple[Value, Value] | NoMatch:
    """(d, v) of ``d / sqrt(v)`` in any of its spellings; the nodes in between join `pattern`."""
    if len(node.inputs) != 2 or node.inputs[0] is None or node.inputs[1] is None:
        return NoMatch("an operand is missing")
    if node.op_type == "Div":
        variance = _under_root(node.inputs[1], 0.5, pattern)
        return (node.inputs[0], variance) if variance is not None else NoMatch("no square root below")
    for d, r in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
        variance = _under_reciprocal_root(r, pattern)
        if variance is not None and d is not None:
            return d, variance
    return NoMatch("no reciprocal square root")


def _under_root(value: Value | None, exponent: float, pattern: list[Node]) -> Value | None:
    """v of ``sqrt(v)`` or ``v ** exponent``."""
    root = produced_by(value, "Sqrt", "Pow")
    if root is None or (root.op_type == "Sqrt" and exponent != 0.5):
        return None
    if root.op_type == "Pow" and scalar_factor(root.inputs[1], root.inputs[0]) != exponent:
        return None
    pattern.append(root)
    return root.inputs[0]


def _under_reciprocal_root(value: Value | None, pattern: list[Node]) -> Value | None:
    """v of ``1 / sqrt(v)``."""
    inverse = produced_by(value, "Reciprocal", "Div", "Pow")
    if inverse is None:
        return None
    if inverse.op_type == "Pow":
        return _under_root(value, -0.5, pattern)
    if inverse.op_type == "Div" and scalar_factor(inverse.inputs[0], inverse.inputs[1]) != 1.0:
        return None
    variance = _under_root(inverse.inputs[-1], 0.5, pattern)
    if variance is not None:
        pattern.append(inverse)
    return variance


def _variance(value: Value, pattern: list[Node]) -> tuple[Value, Value, int, float] | NoMatch:
    """(x, its mean, first normalized axis, e) of ``E[(x - E[x])²] + e``."""
    shifted = produced_by(value, "Add")
    operands = split_constant(shifted) if shifted is not None else None
    if shifted is None or operands is None:
        return NoMatch("no epsilon is added to the variance", value.name)
    epsilon = scalar_factor(operands[1], operands[0])
    if epsilon is None or not 0 < epsilon < np.inf:
        return NoMatch("epsilon is not a positive scalar", operands[1].name)
    outer = produced_by(operands[0], "ReduceMean")
    if outer is None:
        return NoMatch("the variance is not a mean", operands[0].name)
    square = produced_by(outer.inputs[0], "Pow", "Mul")
    if square is None:
        return NoMatch("the variance is not the mean of a square", outer.name)
    if square.op_type == "Pow":
        if not is_about(scalar_factor(square.inputs[1], square.inputs[0]), 2.0):
            return NoMatch("the power is not 2", square.name)
    elif square.inputs[0] is not square.inputs[1]:
        return NoMatch("the product is not a square", square.name)
    pattern += [shifted, outer, square]
    centred = _plain(square.inputs[0], pattern)
    if centred is None or not is_op(centred, "Sub"):
        return NoMatch("what is squared is not a difference", square.name)
    x, mean = centred.inputs
    inner = produced_by(mean, "ReduceMean")
    if x is None or mean is None or inner is None or inner.inputs[0] is not x:
        return NoMatch("what is subtracted is not the mean of the same value", centred.name)
    pattern += [centred, inner]
    axis = _first_axis(inner, x)
    if axis is None or axis != _first_axis(outer, x):
        return NoMatch("the means are not over the same last axes, with keepdims", inner.name)
    return x, mean, axis, epsilon


def _is_difference(node: Node, x: Value, mean: Value) -> bool:
    """Whether `node` is ``x - mean``, perhaps a second such node beside the one that is squared."""
    return node.inputs[0] is x and node.inputs[1] is mean


def _plain(value: Value | None, pattern: list[Node]) -> Node | None:
    """The producer of `value`, seen through a Cast to the type that it has already."""
    node = None if value is None else value.producer()
    while is_op(node, "Cast") and node is not None and node.inputs[0] is not None:
        if node.inputs[0].dtype is None or node.inputs[0].dtype != node.outputs[0].dtype:
            break
        pattern.append(node)
        node = node.inputs[0].producer()
    return node


def _first_axis(reduce: Node, x: Value) -> int | None:
    """k if `reduce` is over the axes k, k+1, … last of `x` and keeps them as 1, else None."""
    x_rank = rank(x)
    if x_rank is None or x_rank == 0 or not attribute(reduce, "keepdims", 1):
        return None
    given = reduce.inputs[1] if len(reduce.inputs) > 1 else None
    if given is None:
        return None if attribute(reduce, "noop_with_empty_axes", 0) else 0
    axes = ints(given)
    if not axes:
        return None
    wanted = sorted({a + x_rank if a < 0 else a for a in axes})
    return wanted[0] if wanted == list(range(wanted[0], x_rank)) else None


def _normalized_shape(x: Value, axis: int) -> tuple[int, ...] | None:
    """The dimensions of `x` from `axis` on, if all are known and none is zero."""
    if x.shape is None:
        return None
    dims = x.shape.dims[axis:]
    known = tuple(d for d in dims if isinstance(d, int) and d > 0)
    return known if len(known) == len(dims) else None


def _normalization_and_parameter(node: Node) -> tuple[Node, Value] | NoMatch:
    """(the LayerNormalization, the other operand) of a binary `node`."""
    for y, parameter in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
        layer = produced_by(y, "LayerNormalization")
        if layer is None or y is None or parameter is None:
            continue
        if only_use(y) is not node or layer.graph is not node.graph or y is not layer.outputs[0]:
            return NoMatch("the normalized value is used elsewhere", y.name)
        if any(v.uses() or v.is_graph_output() for v in layer.outputs[1:]):
            return NoMatch("its statistics are used", y.name)
        return layer, parameter
    return NoMatch("no LayerNormalization there")


def _fitted(parameter: Value, layer: Node, rewriter: Rewriter) -> Value | NoMatch:
    """`parameter` in the shape of the normalized dimensions of `layer`."""
    x = layer.inputs[0]
    x_rank = rank(x)
    if x is None or x_rank is None:
        return NoMatch("the rank is unknown")
    axis = int(attribute(layer, "axis", -1)) % x_rank
    shape = _normalized_shape(x, axis)
    if shape is None or parameter.shape is None:
        return NoMatch("the shape of the parameter or of the normalized dimensions is unknown")
    own = tuple(parameter.shape.dims)
    if own == shape:
        return parameter
    if constant_tensor(parameter) is None:
        return NoMatch("the parameter is not of the normalized shape", parameter.name)
    if len(own) > x_rank:
        return NoMatch("the parameter raises the rank", parameter.name)
    core = own[max(len(own) - len(shape), 0) :]
    if any(dim != 1 for dim in own[: len(own) - len(core)]):
        return NoMatch("the parameter varies outside the normalized dimensions", parameter.name)
    data = constant(parameter)
    if data is None or any(
        dim not in (1, mine) for dim, mine in zip(core, shape[len(shape) - len(core) :], strict=True)
    ):
        return NoMatch("the parameter does not fit the normalized dimensions", parameter.name)
    if element_count(shape) > SMALL_CONSTANT_ELEMENTS:
        return NoMatch("the normalized dimensions are very large")
    return rewriter.const(
        np.ascontiguousarray(np.broadcast_to(data.reshape(data.shape[data.ndim - len(core) :]), shape)),
        "parameter",
    )


@dataclasses.dataclass(frozen=True)
class RaiseLayerNormalization(RulePass):
    """Recognise layer normalization that is written out in means, differences and roots.

    before: d = Sub(x, ReduceMean(x));  v = ReduceMean(Pow(d, 2))
            y = Add(Mul(Div(d, Sqrt(Add(v, e))), s), b)
    after:  y = LayerNormalization(x, s, b, epsilon=e)

    The means run over the same last axes with keepdims, e is a positive scalar constant, and nothing
    in between is used elsewhere. Scale and bias join if they have the normalized shape.

    Spec: https://onnx.ai/onnx/operators/onnx__LayerNormalization.html (since version 17)
    """

    exactness = Exactness.REASSOCIATES
    rules = (normalization, scale, bias, half_precision)
