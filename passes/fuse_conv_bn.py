"""fuse-conv-bn: per-channel arithmetic after Conv, ConvTranspose, Gemm and MatMul becomes their weights."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from graphopt.ir import Model, Node, Value
from graphopt.ir.edit import remove_unused_initializers
from graphopt.ir.query import attribute, rank, static_shape
from graphopt.passes._channels import (
    LINEAR,
    absorb,
    channel_axis,
    channel_count,
    channel_vector,
    input_channel_axis,
    rescale,
)
from graphopt.passes._matching import is_float, made_for, numbers, split_constant
from graphopt.transform import Changes, Exactness, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement, Rule, apply_rules


def affine_of_normalization(node: Node) -> tuple[np.ndarray, np.ndarray] | NoMatch:
    """(factor, shift) in float64 [C] such that the BatchNormalization `node` is ``factor * x + shift``."""
    if attribute(node, "training_mode", 0):
        return NoMatch("it is in training mode")
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        return NoMatch("its statistics are used")
    shapes = {static_shape(v) for v in node.inputs[1:5]}
    columns = [numbers(v) for v in node.inputs[1:5]]
    if len(columns) != 4 or len(shapes) != 1:
        return NoMatch("its parameters differ in shape")
    found = [c.astype(np.float64) for c in columns if c is not None and c.ndim == 1]
    if len(found) != 4:
        return NoMatch("its parameters are not constant vectors")
    scale, bias, mean, variance = found
    variance = variance + float(attribute(node, "epsilon", 1e-5))
    if not np.all(variance > 0):
        return NoMatch("its variance plus epsilon is not positive")
    factor = scale / np.sqrt(variance)
    shift = bias - mean * factor
    if not (np.all(np.isfinite(factor)) and np.all(np.isfinite(shift))):
        return NoMatch("its parameters are not finite")
    return factor, shift


@rule("BatchNormalization")
def batch_normalization_of_linear(node: Node, rewriter: Rewriter) -> Replacement:
    """BatchNormalization(Conv(x, w, b)) = Conv(x, f * w, f * b + s)."""
    linear = made_for(node.inputs[0], node, *LINEAR)
    if isinstance(linear, NoMatch):
        return linear
    if channel_axis(linear) != 1:
        return NoMatch("the channels of the MatMul are not axis 1", linear.name)
    affine = affine_of_normalization(node)
    if isinstance(affine, NoMatch):
        return affine
    if channel_count(linear) != affine[0].size:
        return NoMatch("the weight is not constant or its channels differ", linear.name)
    return _with_other_results(node, rescale(linear, *affine, rewriter))


def _with_other_results(node: Node, value: Value | NoMatch) -> Replacement:
    return value if isinstance(value, NoMatch) else [value, *(None for _ in node.outputs[1:])]


@rule("Mul", "Div", "Add", "Sub")
def arithmetic_of_linear(node: Node, rewriter: Rewriter) -> Replacement:
    """f * Conv(x, w, b) + s = Conv(x, f * w, f * b + s), with one constant f and s per channel."""
    if node.op_type in ("Div", "Sub"):
        y, other, reverse = node.inputs[0], node.inputs[1], False
        if node.op_type == "Sub" and _made_by_linear(node.inputs[1]):
            y, other, reverse = other, y, True
    else:
        found = split_constant(node)
        if found is None:
            return NoMatch("no single constant operand")
        y, other, reverse = *found, False
    linear = made_for(y, node, *LINEAR)
    if isinstance(linear, NoMatch):
        return linear
    axis, channels, result_rank = channel_axis(linear), channel_count(linear), rank(y)
    if axis is None or channels is None or result_rank is None:
        return NoMatch("the weight is not constant or the rank is unknown", linear.name)
    vector = channel_vector(other, result_rank, axis, channels)
    if vector is None:
        return NoMatch("the operand is not one constant per channel", other.name if other else None)
    if not np.all(np.isfinite(vector)) or (node.op_type == "Div" and np.any(vector == 0)):
        return NoMatch("the constant is not finite, or zero in a division", other.name if other else None)
    zeros, ones = np.zeros(channels), np.ones(channels)
    if node.op_type == "Mul":
        return rescale(linear, vector, zeros, rewriter)
    if node.op_type == "Div":
        return rescale(linear, 1.0 / vector, zeros, rewriter)
    if node.op_type == "Add":
        return rescale(linear, ones, vector, rewriter)
    return rescale(linear, -ones if reverse else ones, vector if reverse else -vector, rewriter)


def _made_by_linear(value: Value | None) -> bool:
    """Whether a node with channel weights makes `value`."""
    producer = None if value is None else value.producer()
    return producer is not None and producer.op_type in LINEAR and not producer.domain


@rule(*LINEAR)
def linear_of_batch_normalization(node: Node, rewriter: Rewriter) -> Replacement:
    """Conv(f * x + s, w, b) = Conv(x, f * w, b + sum(w * s)), where no padding can be seen."""
    normalization = made_for(node.inputs[0], node, "BatchNormalization")
    if isinstance(normalization, NoMatch):
        return normalization
    if input_channel_axis(node) != 1:
        return NoMatch("the input channels are not axis 1", node.name)
    affine = affine_of_normalization(normalization)
    if isinstance(affine, NoMatch):
        return affine
    return absorb(node, normalization.inputs[0], *affine, rewriter)


@rule("BatchNormalization")
def standalone_batch_normalization(node: Node, rewriter: Rewriter) -> Replacement:
    """BatchNormalization(x) = f * x + s."""
    affine = affine_of_normalization(node)
    if isinstance(affine, NoMatch):
        return affine
    x = node.inputs[0]
    x_rank = rank(x)
    if x is None or x_rank is None or x_rank < 2 or x.dtype is None or not is_float(x):
        return NoMatch("the rank or the type of the input is unknown", x.name if x else None)
    shape = (-1, *(1,) * (x_rank - 2))
    factor, shift = (a.astype(x.dtype.numpy()).reshape(shape) for a in affine)
    if not (np.all(np.isfinite(factor)) and np.all(np.isfinite(shift))):
        return NoMatch("the folded parameters overflow the type", x.name)
    product = rewriter.op("Mul", x, rewriter.const(factor, "scale"))
    return _with_other_results(node, rewriter.op("Add", product, rewriter.const(shift, "shift")))


@dataclasses.dataclass(frozen=True)
class FuseConvBn(RulePass):
    """Fold BatchNormalization and per-channel constants into the weights of Conv, Gemm and their like.

    given:  float[1, 3, 8, 8] x; B = [1.0, 2.0]
    before: y = BatchNormalization<epsilon = 0.0>(Conv(x, float[2, 3, 1, 1] 0.5),
            [3.0, 3.0], B, [1.0, 0.0], [4.0, 4.0])
    after:  y = Conv(x, float[2, 3, 1, 1] 0.75, [-0.5, 2.0])

    With f = scale / sqrt(var + epsilon) the weights become w * f and the bias B - mean * f.
    Weights and parameters must be constants and the convolution have no other user. Products are
    computed in float64 and rounded once to the weight's type; a shared weight is copied, not changed.

    Options:
        standalone: also turn a BatchNormalization that nothing absorbs into Mul and Add.

    Spec: https://onnx.ai/onnx/operators/onnx__BatchNormalization.html
    """

    standalone: bool = False

    exactness = Exactness.REASSOCIATES
    rules: ClassVar[tuple[Rule, ...]] = (
        batch_normalization_of_linear,
        arithmetic_of_linear,
        linear_of_batch_normalization,
    )

    def run(self, model: Model) -> Changes:
        """Fold everywhere, then, if asked, split what is left; drop weights that nothing uses now."""
        changes = apply_rules(model, self.rules)
        if self.standalone:
            rest = apply_rules(model, (standalone_batch_normalization,))
            changes.counts.update(rest.counts)
            changes.declined.update(rest.declined)
        if changes.modified:
            remove_unused_initializers(model.graph)
        return changes
