"""fuse-bias: a constant added to a convolution or a matrix product is its bias."""

from __future__ import annotations

import dataclasses

import numpy as np

from graphopt.ir import Model, Node, Value
from graphopt.ir.edit import remove_unused_initializers
from graphopt.ir.query import attribute, rank
from graphopt.passes._channels import channel_count, channel_vector, rescale
from graphopt.passes._matching import attributes_of, is_float, made_for, numbers, split_constant
from graphopt.transform import Changes, Exactness, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement


def _addend(node: Node) -> tuple[Value, Value, float] | NoMatch:
    """(the other operand, the constant, +1 or -1) of an Add, or of a Sub of a constant."""
    found = split_constant(node)
    if found is None:
        return NoMatch("no single constant operand")
    if node.op_type == "Sub" and found[1] is not node.inputs[1]:
        return NoMatch("the result is subtracted from the constant", found[1].name)
    return (*found, -1.0 if node.op_type == "Sub" else 1.0)


@rule("Add", "Sub")
def bias_of_conv(node: Node, rewriter: Rewriter) -> Replacement:
    """Conv(x, w, b) + c = Conv(x, w, b + c), with one constant c per channel."""
    addend = _addend(node)
    if isinstance(addend, NoMatch):
        return addend
    y, other, sign = addend
    conv = made_for(y, node, "Conv", "ConvTranspose")
    if isinstance(conv, NoMatch):
        return conv
    channels, result_rank = channel_count(conv), rank(y)
    if channels is None or result_rank is None:
        return NoMatch("the weight is not constant or the rank is unknown", conv.name)
    vector = channel_vector(other, result_rank, 1, channels)
    if vector is None or not np.all(np.isfinite(vector)):
        return NoMatch("the operand is not one finite constant per channel", other.name)
    return rescale(conv, np.ones(channels), sign * vector, rewriter)


@rule("Add", "Sub")
def bias_of_gemm(node: Node, rewriter: Rewriter) -> Replacement:
    """alpha * A @ B + beta * C + c = Gemm(A, B, beta * C + c), with constant C and c."""
    addend = _addend(node)
    if isinstance(addend, NoMatch):
        return addend
    y, other, sign = addend
    gemm = made_for(y, node, "Gemm")
    if isinstance(gemm, NoMatch):
        return gemm
    added = numbers(other)
    if added is None or not is_float(other) or added.ndim > 2:
        return NoMatch("the constant is not a float matrix, vector or scalar", other.name)
    if not _broadcasts_into(added.shape, y):
        return NoMatch("adding the constant would change the shape", other.name)
    total = np.asarray(sign * added.astype(np.float64))
    old = gemm.inputs[2] if len(gemm.inputs) > 2 else None
    if old is not None:
        previous = numbers(old)
        if previous is None:
            return NoMatch("C is computed at run time", old.name)
        total = total + float(attribute(gemm, "beta", 1.0)) * previous.astype(np.float64)
        if total.size > max(added.size, previous.size):
            return NoMatch("the sum of the two constants is larger than each", old.name)
    with np.errstate(over="ignore", invalid="ignore"):
        bias = np.asarray(total).astype(added.dtype)
    if not np.all(np.isfinite(bias)):
        return NoMatch("the sum of the constants overflows its type", other.name)
    attributes = {k: v for k, v in attributes_of(gemm).items() if k != "beta"}
    return rewriter.op(
        "Gemm", gemm.inputs[0], gemm.inputs[1], rewriter.const(bias, "bias"), stem=gemm.name, **attributes
    )


def _broadcasts_into(shape: tuple[int, ...], y: Value) -> bool:
    """Whether a constant of `shape` added to `y` leaves the shape of `y` as it is."""
    if y.shape is None or len(shape) > len(y.shape):
        return False
    own = list(y.shape.dims)[len(y.shape) - len(shape) :]
    return all(dim in (1, mine) for dim, mine in zip(shape, own, strict=True))


@dataclasses.dataclass(frozen=True)
class FuseBias(RulePass):
    """Make a constant that is added to the result of Conv, ConvTranspose or Gemm their bias.

    given:  float[1, 3, 8, 8] x; w = float[2, 3, 1, 1] 0.5
    before: y = Add(Conv(x, w), [[[1.0]], [[2.0]]])
    after:  y = Conv(x, w, [1.0, 2.0])

    To a convolution one number per channel is added. The result must have no other user. A bias that is
    there must be constant, and is added.

    Spec: https://onnx.ai/onnx/operators/onnx__Conv.html
    """

    exactness = Exactness.REASSOCIATES
    rules = (bias_of_conv, bias_of_gemm)

    def run(self, model: Model) -> Changes:
        """Apply the rules and drop the constants that nothing uses now."""
        changes = super().run(model)
        if changes.modified:
            remove_unused_initializers(model.graph)
        return changes
