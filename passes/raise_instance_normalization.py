"""raise-instance-normalization: normalization of each channel's plane becomes InstanceNormalization."""

from __future__ import annotations

import dataclasses

import numpy as np

from graphopt.ir import DataType, Node, Value
from graphopt.ir.query import attribute, rank
from graphopt.passes._channels import channel_vector
from graphopt.passes._matching import made_for, split_constant
from graphopt.passes._moments import match_normalization
from graphopt.passes._normalized import is_unscaled
from graphopt.transform import Exactness, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

MAX_CHANNELS = 1 << 16


@rule("Div", "Mul")
def normalization(node: Node, rewriter: Rewriter) -> Replacement:
    """(x - E[x]) / sqrt(Var[x] + e) over all axes but the first two = InstanceNormalization(x, 1, 0)."""
    found = match_normalization(node)
    if isinstance(found, NoMatch):
        return found
    channels = _channels(found.x, found.axes)
    if isinstance(channels, NoMatch):
        return channels
    ones = np.full(channels, found.coefficient, found.x.dtype.numpy() if found.x.dtype else None)
    y = _instance(rewriter, found.x, ones, 0 * ones, found.epsilon)
    for factor in found.factors:
        y = rewriter.op("Mul", y, factor)
    return y


@rule("Mul")
def scale_of_channels(node: Node, rewriter: Rewriter) -> Replacement:
    """LayerNormalization(x, 1) * s = InstanceNormalization(x, s, 0), with one constant s per channel."""
    operands = split_constant(node)
    if operands is None:
        return NoMatch("no single constant operand")
    y, parameter = operands
    layer = made_for(y, node, "LayerNormalization")
    if isinstance(layer, NoMatch):
        return layer
    x = layer.inputs[0]
    count = rank(x)
    if x is None or count is None or not is_unscaled(layer):
        return NoMatch("the rank is unknown or it has other parameters", layer.name)
    if any(v.uses() or v.is_graph_output() for v in layer.outputs[1:]):
        return NoMatch("its statistics are used", layer.name)
    first = int(attribute(layer, "axis", -1)) % count
    channels = _channels(x, tuple(range(first, count)))
    if isinstance(channels, NoMatch):
        return channels
    vector = channel_vector(parameter, count, 1, channels)
    if vector is None or parameter.dtype != x.dtype:
        return NoMatch("the operand is not one constant per channel", parameter.name)
    scale = vector.astype(x.dtype.numpy() if x.dtype else None)
    return _instance(rewriter, x, scale, 0 * scale, float(attribute(layer, "epsilon", 1e-5)))


def _channels(x: Value, axes: tuple[int, ...]) -> int | NoMatch:
    """The number of channels of `x` if InstanceNormalization over `axes` takes it."""
    count = rank(x)
    if x.dtype != DataType.FLOAT:
        return NoMatch("InstanceNormalization is for float32 here", x.name)
    if count is None or count < 3 or x.shape is None or axes != tuple(range(2, count)):
        return NoMatch("it is not over all axes but those of samples and channels", x.name)
    channels = x.shape.dims[1]
    if not isinstance(channels, int) or not 0 < channels <= MAX_CHANNELS:
        return NoMatch("the number of channels is unknown or very large", x.name)
    return channels


def _instance(rewriter: Rewriter, x: Value, scale: np.ndarray, bias: np.ndarray, epsilon: float) -> Value:
    return rewriter.op(
        "InstanceNormalization",
        x,
        rewriter.const(scale, "scale"),
        rewriter.const(bias, "bias"),
        epsilon=epsilon,
    )


@dataclasses.dataclass(frozen=True)
class RaiseInstanceNormalization(RulePass):
    """Recognise instance normalization: the same over a plane, with parameters for each channel.

    given:  float[N, 2, 4, 4] x
    before: y = Mul(LayerNormalization<axis = 2>(x, float[4, 4] 1.0), [[[2.0]], [[3.0]]])
    after:  y = InstanceNormalization(x, [2.0, 3.0], [0.0, 0.0])

    It also takes what is written out in means, differences and roots where the plane's size is not known.
    The input is of float32 with a known number of channels.

    Spec: https://onnx.ai/onnx/operators/onnx__InstanceNormalization.html (since version 6)
    """

    exactness = Exactness.REASSOCIATES
    rules = (scale_of_channels, normalization)
