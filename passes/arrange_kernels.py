"""arrange-kernels: weights of convolutions are stored with their channels last, as a TPU reads them."""

from __future__ import annotations

import dataclasses

import numpy as np

from graphopt.ir import Node
from graphopt.ir.query import attribute, constant_tensor, only_use
from graphopt.passes._matching import attributes_of
from graphopt.transform import NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

IMAGE_RANK = 4
STORED, READ = (2, 3, 1, 0), (3, 2, 0, 1)


@rule("Conv")
def channels_last(node: Node, rewriter: Rewriter) -> Replacement:
    """Conv(x, w) = Conv(x, Transpose(w')), with w' = w with its axes in the order H, W, I, O."""
    weight = node.inputs[1]
    tensor = None if weight is None else constant_tensor(weight)
    if tensor is None or weight is None:
        return NoMatch("the weight is no constant")
    if len(tuple(tensor.shape.numpy())) != IMAGE_RANK or attribute(node, "group", 1) != 1:
        return NoMatch("it is no convolution of images over all channels")
    if only_use(weight) is not node:
        return NoMatch("the weight is used elsewhere, too", weight.name)
    stored = rewriter.const(np.ascontiguousarray(tensor.numpy().transpose(STORED)), "channels_last")
    read = rewriter.op("Transpose", stored, perm=READ)
    return rewriter.op("Conv", node.inputs[0], read, *node.inputs[2:], **attributes_of(node))


@dataclasses.dataclass(frozen=True)
class ArrangeKernels(RulePass):
    """Store kernels of convolutions as H, W, I, O, and say by a Transpose that they are O, I, H, W.

    given:  float[1, 3, 8, 8] x
    before: y = Conv(x, float[2, 3, 3, 3] 0.5)
    after:  y = Conv(x, Transpose<perm = [3, 2, 0, 1]>(float[3, 3, 3, 2] 0.5))

    XLA reads through the Transpose. A kernel that comes with its channels last is not rearranged inside of
    the convolution: by the TPU compiler's estimate that is a fifth of a fused 3x3 and 1x1 convolution.

    Spec: https://onnx.ai/onnx/operators/onnx__Conv.html
    """

    rules = (channels_last,)
