"""fold-scales: constant factors and shifts go into the weights that are near."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from graphopt.ir import Model, Node, Value
from graphopt.ir.edit import remove_unused_initializers
from graphopt.ir.query import attribute, constant, is_op, rank, static_shape
from graphopt.passes._channels import (
    LINEAR,
    absorb,
    channel_axis,
    channel_count,
    channel_vector,
    input_channel_axis,
    input_channel_count,
    rescale,
)
from graphopt.passes._matching import (
    attributes_of,
    is_float,
    limits,
    made_for,
    numpy_dtype,
    produced_by,
    scalar_factor,
    split_constant,
)
from graphopt.passes.raise_gelu import match_gelu
from graphopt.transform import Changes, Exactness, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement, Rule

ARITHMETIC = ("Mul", "Div", "Add", "Sub")
MOVEMENT = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten")
MAX_MOVES = 4


def _affine_step(node: Node) -> tuple[Value, Value, float, bool] | NoMatch:
    """(x, the constant, the sign of x, whether it multiplies) of arithmetic with one float constant."""
    if not is_op(node, *ARITHMETIC) or len(node.inputs) != 2:
        return NoMatch("no arithmetic", node.name)
    a, b = node.inputs
    if node.op_type in ("Mul", "Add"):
        found = split_constant(node)
    elif node.op_type == "Sub" and split_constant(node) == (b, a):
        found = (b, a) if a is not None and b is not None else None
    else:
        found = split_constant(node) if split_constant(node) == (a, b) else None
    if found is None or not is_float(found[1]):
        return NoMatch("no single float constant operand", node.name)
    x, by = found
    return x, by, -1.0 if node.op_type == "Sub" and by is a else 1.0, node.op_type in ("Mul", "Div")


def _factor_and_shift(node: Node, axis: int, channels: int) -> tuple[Value, np.ndarray, np.ndarray] | NoMatch:
    """(x, f, s) such that `node` is ``f * x + s`` with one number for each entry of `axis`."""
    step = _affine_step(node)
    if isinstance(step, NoMatch):
        return step
    x, by, sign, multiplies = step
    result_rank = rank(node.outputs[0])
    if result_rank is None or rank(x) != result_rank or x.shape is None:
        return NoMatch("the rank is not known, or the constant raises it", x.name)
    vector = channel_vector(by, result_rank, axis, channels)
    if vector is None or x.shape.dims[axis] != channels:
        return NoMatch("the operand is not one constant per channel", by.name)
    with np.errstate(divide="ignore"):
        factor = 1.0 / vector if node.op_type == "Div" else vector
    if not np.all(np.isfinite(factor)):
        return NoMatch("the constant is not finite, or zero in a division", by.name)
    ones, zeros = np.ones(channels), np.zeros(channels)
    if multiplies:
        return x, factor, zeros
    return x, sign * ones, -vector if node.op_type == "Sub" and sign > 0 else vector


@rule(*LINEAR)
def linear_of_arithmetic(node: Node, rewriter: Rewriter) -> Replacement:
    """MatMul(f * x + s, w) = Gemm(x, f * w, s @ w), and so for Conv where no padding can be seen."""
    inner = made_for(node.inputs[0], node, *ARITHMETIC)
    if isinstance(inner, NoMatch):
        return inner
    axis, channels = input_channel_axis(node), input_channel_count(node)
    if axis is None or channels is None:
        return NoMatch("the weight is not constant or the rank is unknown", node.name)
    if not isinstance(match_gelu(inner), NoMatch) or _ends_normalization(inner, 3):
        return NoMatch("it ends a Gelu or a normalization that runtimes know as a whole", inner.name)
    found = _factor_and_shift(inner, axis, channels)
    if isinstance(found, NoMatch):
        return found
    return absorb(node, *found, rewriter)


def _ends_normalization(node: Node, depth: int) -> bool:
    """Whether `node` scales or shifts what is divided by a root."""
    step = _affine_step(node)
    x = node.inputs[0] if isinstance(step, NoMatch) else step[0]
    inner = produced_by(x, *ARITHMETIC, "Cast")
    if inner is None or depth == 0:
        return False
    if is_op(inner, "Mul", "Div") and any(
        produced_by(v, "Sqrt", "Reciprocal", "Pow", "Div") is not None for v in inner.inputs
    ):
        return True
    return _ends_normalization(inner, depth - 1)


@rule("Mul", "Div")
def scale_behind_bias_or_movement(node: Node, rewriter: Rewriter) -> Replacement:
    """f * Transpose(Reshape(x @ w + b)) = Transpose(Reshape(x @ (f * w) + f * b)), f a constant."""
    step = _affine_step(node)
    if isinstance(step, NoMatch):
        return step
    y, by = step[:2]
    moves: list[Node] = []
    below, user = y, node
    while len(moves) < MAX_MOVES and produced_by(below, *MOVEMENT) is not None:
        move = made_for(below, user, *MOVEMENT)
        if isinstance(move, NoMatch):
            return move
        if move.inputs[0] is None:
            return NoMatch("its input is missing", move.name)
        moves.append(move)
        below, user = move.inputs[0], move
    if moves and scalar_factor(by, y) is None:
        return NoMatch("what is moved is scaled by more than a number", by.name)
    scaled = _scaled_sum(below, user, by, node, rewriter) or _scaled_linear(below, user, by, node, rewriter)
    if isinstance(scaled, NoMatch):
        return scaled
    if not moves and is_op(below.producer(), *LINEAR):
        return NoMatch("it is next to the weight: fuse-conv-bn takes it")
    for move in reversed(moves):
        scaled = rewriter.op(move.op_type, scaled, *move.inputs[1:], stem=move.name, **attributes_of(move))
    return scaled


def _scaled_linear(y: Value, user: Node, by: Value, root: Node, rewriter: Rewriter) -> Value | NoMatch:
    linear = made_for(y, user, *LINEAR)
    if isinstance(linear, NoMatch):
        return linear
    axis, channels, result_rank = channel_axis(linear), channel_count(linear), rank(y)
    if axis is None or channels is None or result_rank is None:
        return NoMatch("the weight is not constant or the rank is unknown", linear.name)
    # Behind a change of shape the constant is a number, whatever its rank.
    number = scalar_factor(by, root.inputs[0] if root.inputs[1] is by else root.inputs[1])
    vector = (
        np.full(channels, number) if number is not None else channel_vector(by, result_rank, axis, channels)
    )
    if vector is None:
        return NoMatch("the operand is not one constant per channel", by.name)
    with np.errstate(divide="ignore"):
        factor = 1.0 / vector if root.op_type == "Div" else vector
    if not np.all(np.isfinite(factor)):
        return NoMatch("the constant is not finite, or zero in a division", by.name)
    return rescale(linear, factor, np.zeros(channels), rewriter)


def _scaled_sum(y: Value, user: Node, by: Value, root: Node, rewriter: Rewriter) -> Value | NoMatch | None:
    """`y`, a sum of a linear result and a constant, scaled; None if it is no such sum."""
    total = produced_by(y, "Add")
    found = None if total is None else split_constant(total)
    if total is None or found is None or produced_by(found[0], *LINEAR) is None:
        return None
    if isinstance(refusal := made_for(y, user, "Add"), NoMatch):
        return refusal
    product, bias = found
    shape = static_shape(bias)
    if shape is None or rank(product) != rank(y) or any(dim != 1 for dim in shape[:-1]):
        return NoMatch("the bias is not one constant per channel", bias.name)
    added, factor = constant(bias), constant(by)
    if added is None or factor is None or not is_float(bias):
        return NoMatch("the bias is not a small float constant", bias.name)
    scaled = _scaled_linear(product, total, by, root, rewriter)
    if isinstance(scaled, NoMatch):
        return scaled
    wide = factor.astype(np.float64)
    # A factor for each channel has the axes of the product, or fewer.
    wide = wide.reshape(()) if wide.size == 1 else wide.reshape(-1)
    with np.errstate(over="ignore"):
        product64 = (
            added.astype(np.float64) / wide if root.op_type == "Div" else added.astype(np.float64) * wide
        )
        narrow = np.asarray(product64).astype(added.dtype)
    if not np.all(np.isfinite(narrow)):
        return NoMatch("the folded bias overflows its type", bias.name)
    return rewriter.op("Add", scaled, rewriter.const(narrow, "bias"), stem=total.name)


@rule(*ARITHMETIC)
def arithmetic_of_normalization(node: Node, rewriter: Rewriter) -> Replacement:
    """f * LayerNormalization(x, w, b) + s = LayerNormalization(x, f * w, f * b + s)."""
    step = _affine_step(node)
    if isinstance(step, NoMatch):
        return step
    y = step[0]
    inner = made_for(
        y, node, "LayerNormalization", "RMSNormalization", "InstanceNormalization", "BatchNormalization"
    )
    if isinstance(inner, NoMatch):
        return inner
    if any(v.uses() or v.is_graph_output() for v in inner.outputs[1:]) or attribute(
        inner, "training_mode", 0
    ):
        return NoMatch("its statistics are used", inner.name)
    layer = inner.op_type in ("LayerNormalization", "RMSNormalization")
    weight, result_rank = constant(inner.inputs[1]), rank(y)
    if weight is None or weight.ndim != 1 or result_rank is None or result_rank < 2:
        return NoMatch("its weight is not a constant vector", inner.name)
    if layer and int(attribute(inner, "axis", -1)) % result_rank != result_rank - 1:
        return NoMatch("it normalizes several axes", inner.name)
    found = _factor_and_shift(node, result_rank - 1 if layer else 1, weight.size)
    if isinstance(found, NoMatch):
        return found
    _, factor, shift = found
    new_weight = weight.astype(np.float64) * factor
    bias = inner.inputs[2] if len(inner.inputs) > 2 else None
    old = np.zeros(weight.size) if bias is None else constant(bias)
    if old is None or old.shape != weight.shape:
        return NoMatch("its bias is not a constant vector", inner.name)
    new_bias: np.ndarray | None = old.astype(np.float64) * factor + shift
    if bias is None and not np.any(shift):
        new_bias = None
    elif inner.op_type == "RMSNormalization":
        return NoMatch("it has no bias", inner.name)
    results = []
    for array in (new_weight, new_bias):
        narrow = None if array is None else array.astype(weight.dtype)
        if narrow is not None and not np.all(np.isfinite(narrow)):
            return NoMatch("the folded weight overflows its type", inner.name)
        results.append(None if narrow is None else rewriter.const(narrow, "weight"))
    return rewriter.op(
        inner.op_type, inner.inputs[0], *results, *inner.inputs[3:], stem=inner.name, **attributes_of(inner)
    )


@rule("MatMul")
def product_of_scaled_operands(node: Node, rewriter: Rewriter) -> Replacement:
    """(f * a) @ (g * b) = (f * g * a) @ b, with two moderate numbers f and g."""
    factors = []
    operands = []
    for value in node.inputs:
        scaled = made_for(value, node, "Mul", "Div")
        if isinstance(scaled, NoMatch):
            return scaled
        step = _affine_step(scaled)
        if isinstance(step, NoMatch):
            return step
        x, by = step[:2]
        number = scalar_factor(by, x)
        if not number or rank(x) is None:
            return NoMatch("an operand is not scaled by a number", by.name)
        factors.append(1.0 / number if scaled.op_type == "Div" else number)
        operands.append(x)
    dtype = numpy_dtype(node.outputs[0])
    if dtype is None or not all(_is_moderate(f, dtype) for f in (*factors, factors[0] * factors[1])):
        return NoMatch("the factors are so large or small that the product might overflow", node.name)
    factor = rewriter.const(np.asarray(factors[0] * factors[1], dtype), "scale")
    return rewriter.op("MatMul", rewriter.op("Mul", operands[0], factor), operands[1], **attributes_of(node))


def _is_moderate(factor: float, dtype: np.dtype) -> bool:
    """Whether scaling by `factor` early or late makes no difference to what overflows in practice."""
    reach = 2.0**3 if float(limits(dtype).max) < 1e6 else 2.0**20
    return 1 / reach**2 <= abs(factor) <= (1.0 if reach < 10 else reach)


@dataclasses.dataclass(frozen=True)
class FoldScales(RulePass):
    """Fold constant factors and shifts into the weights of what takes or made them.

    given:  float[N, 8] x
    before: y = Mul(Add(MatMul(Mul(x, 2.0), float[8, 4] 0.5), float[4] 3.0), 2.0)
    after:  y = Add(MatMul(x, float[8, 4] 2.0), float[4] 6.0)

    Before Conv, ConvTranspose, Gemm and MatMul, one number per input channel; behind them also
    through a bias that is added, and, for a single number, through Reshape, Transpose, Squeeze and
    Unsqueeze; behind LayerNormalization, RMSNormalization, InstanceNormalization and
    BatchNormalization. What is between must have no other user, and weights must be constant: a
    large one that is used elsewhere, too, is not copied. A shift before a convolution that pads stays.

    Spec: https://onnx.ai/onnx/operators/onnx__LayerNormalization.html
    """

    exactness = Exactness.REASSOCIATES
    rules: ClassVar[tuple[Rule, ...]] = (
        linear_of_arithmetic,
        scale_behind_bias_or_movement,
        arithmetic_of_normalization,
        product_of_scaled_operands,
    )

    def run(self, model: Model) -> Changes:
        """Apply the rules and drop the constants that nothing uses now."""
        changes = super().run(model)
        if changes.modified:
            remove_unused_initializers(model.graph)
        return changes
