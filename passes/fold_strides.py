"""fold-strides: a strided convolution of few channels becomes one of more channels with a smaller kernel."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from graphopt.ir import Model, Node, Value
from graphopt.ir.query import attribute, constant_tensor, only_use, static_shape
from graphopt.passes._matching import attributes_of
from graphopt.transform import Changes, Exactness, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement, apply_rules

MAX_CHANNELS = 4
"""A matrix unit sums over 128 channels at once; images have three."""

IMAGE_RANK = 4


@dataclasses.dataclass(frozen=True)
class _Columns:
    """The convolution along the folded axis: `taps` of groups of `stride` columns.

    Attributes:
        lead: zeros before the kernel, so that windows begin at a whole group.
        pads: groups of padding before and after.
    """

    stride: int
    taps: int
    lead: int
    pads: tuple[int, int]


@rule("Conv")
def folded(node: Node, rewriter: Rewriter) -> Replacement:
    """Conv(x, w, strides=[r, s]) = Conv(x', w', strides=[r, 1]), with s columns of x as channels of x'."""
    return _fold(node, rewriter, padded=False)


@rule("Conv")
def folded_and_padded(node: Node, rewriter: Rewriter) -> Replacement:
    """The same, with zeros added to a kernel that is not made of whole groups."""
    return _fold(node, rewriter, padded=True)


def _fold(node: Node, rewriter: Rewriter, *, padded: bool) -> Replacement:
    x, weight = node.inputs[:2]
    shape, out = static_shape(x), static_shape(node.outputs[0])
    tensor = None if weight is None else constant_tensor(weight)
    if x is None or shape is None or out is None or len(shape) != IMAGE_RANK or 0 in (*shape, *out):
        return NoMatch("it is no convolution of images of known size")
    if tensor is None or weight is None or only_use(weight) is not node:
        return NoMatch("the weight is no constant of its own")
    columns = _columns(node, shape, out, tensor.shape.numpy()[-1])
    if isinstance(columns, NoMatch):
        return columns
    size = tensor.shape.numpy()[-1]
    if not padded and columns.taps * columns.stride != size:
        return NoMatch("the kernel is not made of whole groups of columns")
    pads = tuple(attribute(node, "pads", None) or (0, 0, 0, 0))
    kernel = _folded_kernel(tensor.numpy(), columns)
    attributes = {k: v for k, v in attributes_of(node).items() if k != "auto_pad"} | {
        "kernel_shape": kernel.shape[2:],
        "strides": (attribute(node, "strides", (1, 1))[0], 1),
        "pads": (pads[0], columns.pads[0], pads[2], columns.pads[1]),
    }
    spread = _folded_columns(x, shape, columns.stride, rewriter)
    return rewriter.op("Conv", spread, rewriter.const(kernel, "folded"), *node.inputs[2:], **attributes)


def _columns(node: Node, shape: tuple[int, ...], out: tuple[int, ...], size: int) -> _Columns | NoMatch:
    """How the last axis is folded, or why it is not."""
    stride = int((attribute(node, "strides", None) or (1, 1))[-1])
    if stride < 2 or size < 2:
        return NoMatch("it has no stride, or no kernel, along the last axis")
    if attribute(node, "group", 1) != 1 or shape[1] > MAX_CHANNELS:
        return NoMatch("it has channels enough, or groups")
    if any(d != 1 for d in attribute(node, "dilations", None) or ()):
        return NoMatch("it is dilated")
    if attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return NoMatch("the padding follows from the size of the input")
    if shape[-1] % stride:
        return NoMatch("the columns are not whole groups")
    pads = attribute(node, "pads", None) or (0, 0, 0, 0)
    lead = -int(pads[1]) % stride
    taps = math.ceil((size + lead) / stride)
    begin = (int(pads[1]) + lead) // stride
    end = out[-1] - 1 + taps - shape[-1] // stride - begin
    if end < 0:
        return NoMatch("the last columns are not read")
    return _Columns(stride, taps, lead, (begin, end))


def _folded_kernel(kernel: np.ndarray, columns: _Columns) -> np.ndarray:
    """[O, I, H, W] as [O, s * I, H, taps], zeros put around W."""
    outputs, inputs, height, width = kernel.shape
    rest = columns.taps * columns.stride - columns.lead - width
    wide = np.pad(kernel, ((0, 0), (0, 0), (0, 0), (columns.lead, rest)))
    groups = wide.reshape((outputs, inputs, height, columns.taps, columns.stride))
    moved = groups.transpose((0, 4, 1, 2, 3))
    return np.ascontiguousarray(moved.reshape((outputs, columns.stride * inputs, height, columns.taps)))


def _folded_columns(x: Value, shape: tuple[int, ...], stride: int, rewriter: Rewriter) -> Value:
    """[N, C, H, W] as [N, s * C, H, W / s]."""
    batch, channels, height, width = shape
    groups = np.array([batch, channels, height, width // stride, stride], np.int64)
    taken_apart = rewriter.op("Reshape", x, rewriter.const(groups, "groups"))
    moved = rewriter.op("Transpose", taken_apart, perm=(0, 4, 1, 2, 3))
    target = np.array([batch, channels * stride, height, width // stride], np.int64)
    return rewriter.op("Reshape", moved, rewriter.const(target, "columns"))


@dataclasses.dataclass(frozen=True)
class FoldStrides(RulePass):
    """Make channels of the columns that a strided convolution of few channels steps over.

    given:  float[1, 3, 8, 8] x
    before: y = Conv<strides = [4, 4]>(x, float[2, 3, 4, 4] 0.5)
    after:  a = Transpose<perm = [0, 4, 1, 2, 3]>(Reshape(x, [1, 3, 8, 2, 4]));
            y = Conv<kernel_shape = [4, 1], strides = [4, 1], pads = [0, 0, 0, 0]>(
            Reshape(a, [1, 12, 8, 2]), float[2, 12, 4, 1] 0.5)

    Three channels leave a matrix unit idle for the most part: by the TPU compiler's estimate the first
    convolution of a ResNet takes 0.4 of the cycles afterwards. Sizes are known, and the columns are whole
    groups.

    Options:
        padded: also put zeros around a kernel that is not made of whole groups (7 columns at stride 2). A
            number of x that is not finite then makes NaN of a neighbouring result, too.

    Spec: https://onnx.ai/onnx/operators/onnx__Conv.html
    """

    padded: bool = False

    exactness = Exactness.REASSOCIATES

    rules = (folded,)

    def run(self, model: Model) -> Changes:
        """Fold what needs no zeros, or, if asked, what does, too."""
        return apply_rules(model, (folded_and_padded,) if self.padded else self.rules)
