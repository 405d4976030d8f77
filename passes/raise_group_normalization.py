"""raise-group-normalization: InstanceNormalization of groups of channels becomes GroupNormalization."""

from __future__ import annotations

import dataclasses

import numpy as np

from graphopt.ir import DataType, Node, Value
from graphopt.ir.query import attribute, constant, is_op, rank, same_dim, same_shape
from graphopt.passes._channels import channel_vector
from graphopt.passes._matching import attributes_of, made_for, split_constant
from graphopt.passes._upgrading import UpgradingPass
from graphopt.transform import Exactness, NoMatch, Rewriter, rule
from graphopt.transform.rule import Replacement

NEEDED_OPSET = 21


@rule("Reshape")
def grouped(node: Node, rewriter: Rewriter) -> Replacement:
    """Reshape(InstanceNormalization(Reshape(x, [N, G, -1]), s, b)) = GroupNormalization(x, s, b)."""
    found = match_groups(node)
    if isinstance(found, NoMatch):
        return found
    if rewriter.opset < NEEDED_OPSET:
        return NoMatch(f"needs opset {NEEDED_OPSET}")
    x, instance, parameters = found
    epsilon, groups = attribute(instance, "epsilon", 1e-5), parameters[0].size
    size = x.shape.dims[1] if x.shape is not None else 0
    assert isinstance(size, int)
    repeated = [rewriter.const(np.repeat(p, size // groups), "parameter") for p in parameters]
    return rewriter.op("GroupNormalization", x, *repeated, num_groups=groups, epsilon=epsilon)


def match_groups(node: Node) -> tuple[Value, Node, tuple[np.ndarray, np.ndarray]] | NoMatch:
    """(x, the InstanceNormalization, its parameters) if `node` gives a normalized x its shape again."""
    instance = made_for(node.inputs[0], node, "InstanceNormalization")
    if isinstance(instance, NoMatch):
        return instance
    split = made_for(instance.inputs[0], instance, "Reshape")
    if isinstance(split, NoMatch):
        return split
    x, inner = split.inputs[0], split.outputs[0]
    if x is None or x.shape is None or inner.shape is None or not same_shape(x.shape, node.outputs[0].shape):
        return NoMatch("the result has not provably the shape of the input", node.name)
    if x.dtype not in (DataType.FLOAT, DataType.FLOAT16, DataType.BFLOAT16):
        return NoMatch("not of float32 or half precision", x.name)
    if len(x.shape) < 3 or len(inner.shape) != 3 or not same_dim(x.shape.dims[0], inner.shape.dims[0]):
        return NoMatch("the reshaping does not keep the samples apart", split.name)
    channels, groups = x.shape.dims[1], inner.shape.dims[1]
    if not isinstance(channels, int) or not isinstance(groups, int) or groups <= 0 or channels % groups:
        return NoMatch("the groups are not of a known number of channels", split.name)
    scale, bias = constant(instance.inputs[1]), constant(instance.inputs[2])
    if scale is None or bias is None or scale.size != groups or bias.size != groups:
        return NoMatch("the parameters of the groups are not constant", instance.name)
    return x, instance, (scale, bias)


@rule("Mul", "Add")
def parameter(node: Node, rewriter: Rewriter) -> Replacement:
    """GroupNormalization(x, s, b) * t = GroupNormalization(x, s * t, b * t), and with + t accordingly."""
    operands = split_constant(node)
    if operands is None:
        return NoMatch("no single constant operand")
    y, other = operands
    group = made_for(y, node, "GroupNormalization")
    if isinstance(group, NoMatch):
        return group
    x, scale, bias = group.inputs[0], constant(group.inputs[1]), constant(group.inputs[2])
    count = rank(x)
    if x is None or count is None or scale is None or bias is None or rewriter.opset < NEEDED_OPSET:
        return NoMatch("its parameters are not constant, or it is of an older form", group.name)
    vector = channel_vector(other, count, 1, scale.size)
    if vector is None:
        return NoMatch("the operand is not one constant per channel", other.name)
    by_factor = is_op(node, "Mul")
    new_scale = scale.astype(np.float64) * (vector if by_factor else 1.0)
    new_bias = bias.astype(np.float64) * vector if by_factor else bias.astype(np.float64) + vector
    with np.errstate(over="ignore", invalid="ignore"):
        narrowed = [p.astype(scale.dtype) for p in (new_scale, new_bias)]
    if not all(np.all(np.isfinite(p)) for p in narrowed):
        return NoMatch("the new parameters are not finite in their type", other.name)
    constants = [rewriter.const(p, "parameter") for p in narrowed]
    return rewriter.op("GroupNormalization", x, *constants, stem=group.name, **attributes_of(group))


@dataclasses.dataclass(frozen=True)
class RaiseGroupNormalization(UpgradingPass):
    """Recognise group normalization as exporters write it, and take its parameters in.

    given:  float[N, 4, 6] x; opset 21
    before: n = InstanceNormalization(Reshape(x, [0, 2, -1]), [1.0, 1.0], [0.0, 0.0]);
            y = Add(Mul(Reshape(n, Shape(x)), float[4, 1] 2.0), float[4, 1] 3.0)
    after:  y = GroupNormalization<num_groups = 2>(x, float[4] 2.0, float[4] 3.0)

    The shapes of x and of the result are provably equal and the groups divide a known number of channels.
    ONNX Runtime has no kernel for it on CPU: what it makes of the operator's definition takes twice
    the time of the reshaped InstanceNormalization, so only XLA targets use this pass.

    Options:
        upgrade: raise the model's opset to 21, where the parameters are per channel, if there is a match.

    Spec: https://onnx.ai/onnx/operators/onnx__GroupNormalization.html (since version 21)
    """

    needed_opset = NEEDED_OPSET
    exactness = Exactness.REASSOCIATES
    rules = (grouped, parameter)

    @staticmethod
    def matches(node: Node) -> bool:
        """Whether group normalization is written out here."""
        return is_op(node, "Reshape") and not isinstance(match_groups(node), NoMatch)
