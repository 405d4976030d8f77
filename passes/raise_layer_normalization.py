"""raise-layer-normalization: mean, variance and division written out become LayerNormalization."""

from __future__ import annotations

import dataclasses

import numpy as np

from graphopt.ir import DataType, Node, Value
from graphopt.ir.query import SMALL_CONSTANT_ELEMENTS, attribute, constant, element_count
from graphopt.passes._matching import attributes_of, made_for, split_constant
from graphopt.passes._moments import Moments, aligned, match_normalization
from graphopt.passes._normalized import fitted_parameter, layer_below, moved_axes, normalized_shape
from graphopt.transform import Exactness, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

NEEDED_OPSET = 17


@rule("Div", "Mul")
def normalization(node: Node, rewriter: Rewriter) -> Replacement:
    """(x - E[x]) / sqrt(Var[x] + e) = LayerNormalization(x, 1, epsilon=e), with transpositions if need be."""
    if rewriter.opset < NEEDED_OPSET:
        return NoMatch(f"needs opset {NEEDED_OPSET}")
    found = match_normalization(node)
    if isinstance(found, NoMatch):
        return found
    x, axes = found.x, found.axes
    if x.dtype not in (DataType.FLOAT, DataType.FLOAT16, DataType.BFLOAT16):
        return NoMatch("LayerNormalization computes in float32, which is not the input's precision", x.name)
    shape = normalized_shape(x, axes)
    if shape is None or element_count(shape) > SMALL_CONSTANT_ELEMENTS:
        return NoMatch("the normalized dimensions are unknown or very large", x.name)
    scale = rewriter.const(np.full(shape, found.coefficient, x.dtype.numpy()), "scale")
    moved, moved_back = moved_axes(x, axes)
    y = rewriter.op("Transpose", x, perm=moved) if moved_back else x
    y = rewriter.op("LayerNormalization", y, scale, axis=-len(axes), epsilon=found.epsilon)
    y = rewriter.op("Transpose", y, perm=moved_back) if moved_back else y
    for factor in found.factors:
        y = rewriter.op("Mul", y, factor)
    return y


@rule("Add", "Sub")
def deviation_times_scale(node: Node, rewriter: Rewriter) -> Replacement:
    """x * s + (b - E[x] * s) = (x - E[x]) * s + b, and x * s - E[x] * s = (x - E[x]) * s."""
    if is_sub := node.op_type == "Sub":
        pairs = [(node.inputs[0], node.inputs[1])]
    else:
        pairs = [(node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])]
    for scaled_x, rest in pairs:
        shift = None
        user = node
        if not is_sub:
            difference = made_for(rest, node, "Sub")
            if isinstance(difference, NoMatch):
                continue
            (shift, rest), user = difference.inputs, difference
        left, right = made_for(scaled_x, node, "Mul"), made_for(rest, user, "Mul")
        if isinstance(left, NoMatch) or isinstance(right, NoMatch):
            continue
        parts = _common_factor(left, right)
        if parts is None:
            continue
        x, mean, s = parts
        product = rewriter.op("Mul", rewriter.op("Sub", x, mean), s)
        return product if is_sub else rewriter.op("Add", product, shift)
    return NoMatch("not a value and its mean with the same factor")


def _common_factor(left: Node, right: Node) -> tuple[Value, Value, Value] | None:
    """(x, m, s) if `left` is ``x * s`` and `right` is ``m * s`` for a mean m of x that meets its slices."""
    for x, s in (left.inputs, left.inputs[::-1]):
        for mean, other in (right.inputs, right.inputs[::-1]):
            if s is None or other is not s or x is None or mean is None:
                continue
            seen = Moments()
            found = seen.mean(mean)
            if isinstance(found, NoMatch) or found[0] is not x:
                continue
            if aligned(mean, x, found[1]) and seen.out_of_place(*found) is None:
                return x, mean, s
    return None


@rule("Mul")
def scale(node: Node, rewriter: Rewriter) -> Replacement:
    """LayerNormalization(x, c) * s = LayerNormalization(x, c * s), for a scalar c."""
    found = layer_below(node)
    if isinstance(found, NoMatch):
        return found
    layer, parameter, transpose = found
    if len(layer.inputs) > 2 and layer.inputs[2] is not None:
        return NoMatch("a bias was added before", layer.name)
    old = constant(layer.inputs[1])
    if old is None or not old.size or not np.all(old == old.flat[0]):
        return NoMatch("it has another scale", layer.name)
    fitted = fitted_parameter(parameter, layer, transpose, rewriter, float(old.flat[0]))
    if isinstance(fitted, NoMatch):
        return fitted
    return _like(layer, transpose, rewriter, layer.inputs[0], fitted)


@rule("Add", "Sub")
def bias(node: Node, rewriter: Rewriter) -> Replacement:
    """LayerNormalization(x, s) + b = LayerNormalization(x, s, b)."""
    found = layer_below(node)
    if isinstance(found, NoMatch):
        return found
    layer, parameter, transpose = found
    if len(layer.inputs) > 2 and layer.inputs[2] is not None:
        return NoMatch("it has a bias", layer.name)
    sign = 1.0
    if node.op_type == "Sub":
        if split_constant(node) != (node.inputs[0], parameter):
            return NoMatch("it is not a constant that is subtracted", node.name)
        sign = -1.0
    fitted = fitted_parameter(parameter, layer, transpose, rewriter, sign)
    if isinstance(fitted, NoMatch):
        return fitted
    return _like(layer, transpose, rewriter, layer.inputs[0], layer.inputs[1], fitted)


def _like(layer: Node, transpose: Node | None, rewriter: Rewriter, *inputs: Value | None) -> Value:
    """`layer` with other `inputs`, and `transpose` after it again."""
    y = rewriter.op("LayerNormalization", *inputs, stem=layer.name, **attributes_of(layer))
    if transpose is None:
        return y
    return rewriter.op("Transpose", y, stem=transpose.name, **attributes_of(transpose))


@rule("Cast")
def half_precision(node: Node, rewriter: Rewriter) -> Replacement:
    """Cast(LayerNormalization(Cast(x: f16, f32), s, b), f16) = LayerNormalization(x, s, b)."""
    layer = made_for(node.inputs[0], node, "LayerNormalization")
    if isinstance(layer, NoMatch):
        return layer
    widened = made_for(layer.inputs[0], layer, "Cast")
    if isinstance(widened, NoMatch):
        return widened
    x = widened.inputs[0]
    if x is None or x.dtype not in (DataType.FLOAT16, DataType.BFLOAT16):
        return NoMatch("the input is not of half precision", widened.name)
    if x.dtype != node.outputs[0].dtype or layer.outputs[0].dtype != DataType.FLOAT:
        return NoMatch("the types before, inside and after do not fit", node.name)
    if int(attribute(layer, "stash_type", 1)) != 1:
        return NoMatch("its statistics are not of float32", layer.name)
    if any(v.uses() or v.is_graph_output() for v in layer.outputs[1:]):
        return NoMatch("its statistics are used", layer.name)
    narrow = []
    for value in (v for v in layer.inputs[1:] if v is not None):
        wide = constant(value)
        if wide is None or not np.array_equal(wide.astype(x.dtype.numpy()).astype(wide.dtype), wide):
            return NoMatch("the scale or the bias is applied in float32", layer.name)
        narrow.append(rewriter.const(wide.astype(x.dtype.numpy()), "parameter"))
    return rewriter.op("LayerNormalization", x, *narrow, stem=layer.name, **attributes_of(layer))


@dataclasses.dataclass(frozen=True)
class RaiseLayerNormalization(RulePass):
    """Recognise layer normalization that is written out in means, differences and roots.

    given:  float[N, 4] x; float[4] s; float[4] b
    before: d = Sub(x, ReduceMean(x, [-1])); v = ReduceMean(Mul(d, d), [-1]);
            y = Add(Mul(Div(d, Sqrt(Add(v, 0.5))), s), b)
    after:  y = LayerNormalization<epsilon = 0.5>(x, s, b)

    The mean may be a sum divided by the number of its elements, the variance E[x²] - E[x]², and both may be
    reshaped on the way. The epsilon is a positive scalar constant, and nothing in between is used elsewhere.
    Over axes that are not the last ones, x is transposed and the result back. Scale and bias join if they
    have the normalized shape.

    Spec: https://onnx.ai/onnx/operators/onnx__LayerNormalization.html (since version 17)
    """

    exactness = Exactness.REASSOCIATES
    rules = (normalization, scale, bias, deviation_times_scale, half_precision)
