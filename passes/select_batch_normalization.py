"""select-batch-normalization: a scale and a shift between convolutions become one BatchNormalization."""

from __future__ import annotations

import dataclasses

import numpy as np

from graphopt.ir import Node, Value
from graphopt.ir.query import constant, is_op, rank, static_shape
from graphopt.passes._matching import made_for, split_constant
from graphopt.passes._onnxruntime import is_contrib
from graphopt.transform import Exactness, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

MAX_CHANNELS = 1 << 14


@rule("Add")
def scale_and_shift(node: Node, rewriter: Rewriter) -> Replacement:
    """f * Conv(x) + s = BatchNormalization(Conv(x), f, s, 0, 1), with one f and s per channel."""
    shift = split_constant(node)
    if shift is None:
        return NoMatch("no constant is added", node.name)
    product = made_for(shift[0], node, "Mul")
    if isinstance(product, NoMatch):
        return product
    scale = split_constant(product)
    if scale is None:
        return NoMatch("no constant factor", product.name)
    x = scale[0]
    conv = x.producer()
    if not is_op(conv, "Conv") and not is_contrib(conv, "FusedConv"):
        return NoMatch("what is scaled does not come from a convolution", x.name)
    shape = x.shape
    channels = None if shape is None or rank(x) != 4 else shape.dims[1]
    if not isinstance(channels, int) or not 0 < channels <= MAX_CHANNELS:
        return NoMatch("not known to be an image of few channels", x.name)
    if x.dtype is None or x.dtype.name != "FLOAT":
        return NoMatch("not of float32", x.name)
    factors, shifts = (_per_channel(value, channels) for value in (scale[1], shift[1]))
    if factors is None or shifts is None:
        return NoMatch("the scale or the shift is not finite, or not one number per channel", node.name)
    zeros, ones = np.zeros(channels, np.float32), np.ones(channels, np.float32)
    operands = [
        rewriter.const(numbers, stem)
        for numbers, stem in ((factors, "scale"), (shifts, "shift"), (zeros, "mean"), (ones, "variance"))
    ]
    return rewriter.op("BatchNormalization", x, *operands, epsilon=0.0)


def _per_channel(value: Value, channels: int) -> np.ndarray | None:
    """The finite numbers of a constant as one per channel of an NCHW image, or None."""
    shape = static_shape(value)
    if shape is None or len(shape) > 4:
        return None
    padded = (*((1,) * (4 - len(shape))), *shape)
    if padded not in ((1, 1, 1, 1), (1, channels, 1, 1)):
        return None
    found = constant(value, max_elements=MAX_CHANNELS)
    if found is None or not np.isfinite(found).all():
        return None
    return np.ascontiguousarray(np.broadcast_to(found.reshape(-1), (channels,)))


@dataclasses.dataclass(frozen=True)
class SelectBatchNormalization(RulePass):
    """Make one BatchNormalization of a constant scale and shift after a convolution with its activation.

    given:  float[1, 3, 8, 8] x; float[2, 3, 1, 1] w;
            c = com.microsoft.FusedConv<activation = "HardSwish">(x, w)
    before: y = Add(Mul(c, [[[2.0]], [[3.0]]]), [[[4.0]], [[5.0]]])
    after:  y = BatchNormalization<epsilon = 0.0>(c, [2.0, 3.0], [4.0, 5.0], [0.0, 0.0], [1.0, 1.0])

    ONNX Runtime runs it in the blocked layout of the convolutions around it, while for a Mul and an Add it
    first brings the image back into the plain one and then into the blocked one again. Scale and shift are
    finite, one number or one per channel, of float32.

    Spec: https://onnx.ai/onnx/operators/onnx__BatchNormalization.html
    """

    exactness = Exactness.REASSOCIATES
    rules = (scale_and_shift,)
