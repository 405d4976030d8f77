"""select-global-pools: the mean of a convolution's planes is GlobalAveragePool, which keeps its layout."""

from __future__ import annotations

import dataclasses

from graphopt.ir import DataType, Node, Value
from graphopt.ir.query import attribute, is_op, static_shape
from graphopt.passes._moments import reduced_axes
from graphopt.transform import Exactness, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

BLOCK = 8
"""ONNX Runtime keeps the channels of convolutions in blocks of 8 or 16 where their number is a multiple."""

BLOCKED = frozenset(
    """Add AveragePool BatchNormalization Clip HardSigmoid HardSwish LeakyRelu MaxPool Mul Relu Sigmoid
    Sum Tanh""".split()
)
MAX_STEPS = 4


@rule("ReduceMean")
def mean_of_planes(node: Node, rewriter: Rewriter) -> Replacement:
    """ReduceMean(x, axes = [2, 3]) = GlobalAveragePool(x), for the result x of a convolution."""
    x = node.inputs[0]
    if x is None or x.dtype != DataType.FLOAT or x.shape is None or len(x.shape) != 4:
        return NoMatch("not of float32 and rank 4")
    if reduced_axes(node) != (2, 3) or not attribute(node, "keepdims", 1):
        return NoMatch("it is not over the two axes of planes, which stay", node.name)
    if any(not isinstance(dim, int) or dim == 0 for dim in x.shape.dims[2:]):
        return NoMatch("the planes may be empty", x.name)
    if not _is_in_blocks(x):
        return NoMatch("it is not the result of a convolution into whole blocks of channels", x.name)
    return rewriter.op("GlobalAveragePool", x)


def _is_in_blocks(x: Value) -> bool:
    """Whether `x` comes from a convolution through operators that keep ONNX Runtime's blocks of channels."""
    value: Value | None = x
    for _ in range(MAX_STEPS):
        node = None if value is None else value.producer()
        if node is None or node.domain:
            return False
        if is_op(node, "Conv"):
            shape = static_shape(node.inputs[1])
            return shape is not None and len(shape) == 4 and shape[0] % BLOCK == 0
        if node.op_type not in BLOCKED:
            return False
        value = node.inputs[0]
    return False


@dataclasses.dataclass(frozen=True)
class SelectGlobalPools(RulePass):
    """Take the mean of the planes that a convolution made by GlobalAveragePool.

    given:  float[1, 3, 8, 8] x; c = Relu(Conv(x, float[8, 3, 1, 1] 0.5))
    before: y = ReduceMean(c, [2, 3])
    after:  y = GlobalAveragePool(c)

    ONNX Runtime's CPU provider keeps convolutions in blocks of channels, and reorders them for a ReduceMean
    but not for a pool: 3 to 8 % of an EfficientNet or MobileNetV3. Alone, a pool takes 1.2 to 1.7 times as
    long as ReduceMean, so what is not near a convolution stays.

    Spec: https://onnx.ai/onnx/operators/onnx__GlobalAveragePool.html
    """

    exactness = Exactness.REASSOCIATES
    rules = (mean_of_planes,)
