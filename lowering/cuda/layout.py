"""How many transposes channels-last convolutions leave behind, as ONNX Runtime's layout pass would."""

from __future__ import annotations

from graphopt.ir import Model, Node, Value
from graphopt.ir.query import constant_tensor, is_op, rank, same_shape, static_shape
from graphopt.lowering.cuda.kernels import CONTRIB_DOMAIN

CONVOLUTIONS = ("Conv", "ConvTranspose")
CHANNELS_LAST = (*CONVOLUTIONS, "AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool")
CHANNELS_LAST_TOO = ("BatchNormalization", "DepthToSpace", "SpaceToDepth", "GridSample", "LRN")
"""Operators that the CUDA provider has kernels for in ONNX Runtime's own channels-last domain."""

_ANY = """
    Abs Add Cast Ceil Clip Concat Div Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity LeakyRelu Log Max
    LogSoftmax Min Mul Neg PRelu Pad Pow Reciprocal Relu Round Selu Sigmoid Slice Softmax Softplus Softsign
    Split Sqrt Sub Tanh Where
"""
ANY_LAYOUT = frozenset(_ANY.split())
"""Operators that a Transpose is moved through."""


def is_fused_conv(node: Node) -> bool:
    """Whether `node` is ONNX Runtime's convolution with an activation, which has no channels-last kernel."""
    return node.domain == CONTRIB_DOMAIN and node.op_type == "FusedConv"


def residual_transposes(model: Model) -> int:
    """An estimate of the Transposes that are left when convolutions work with channels last.

    A value that channels-last operators make, or that follows from those through operators of any layout, has
    channels last. A Transpose is left where such an operator reads a value that has not, once for each value,
    and where a value that has is read by anything else, or is an output.
    """
    last: set[Value] = set()
    entering: set[Value] = set()
    leaving: set[Value] = set()
    for node in model.graph.all_nodes():
        if _wants_last(node):
            source = node.inputs[0]
            if source is not None and source not in last:
                entering.add(source)
            last.update(v for v in node.outputs if rank(v) is not None)
        elif _passes_on(node, last):
            entering.update(v for v in node.inputs if v is not None and _must_follow(v, node, last))
            last.update(node.outputs)
        else:
            leaving.update(v for v in node.inputs if v is not None and v in last)
    leaving.update(v for v in model.graph.outputs if v in last)
    return len(entering) + len(leaving)


def _wants_last(node: Node) -> bool:
    return is_op(node, *CHANNELS_LAST, *CHANNELS_LAST_TOO) and (rank(node.inputs[0]) or 0) >= 3


def _passes_on(node: Node, last: set[Value]) -> bool:
    """Whether all that `node` computes with has channels last, or can be turned without a cost."""
    if node.domain or node.op_type not in ANY_LAYOUT:
        return False
    operands = [v for v in node.inputs if v is not None and constant_tensor(v) is None]
    following = [v for v in operands if v in last]
    return bool(following) and len(following) * 2 >= len(operands)


def _must_follow(value: Value, node: Node, last: set[Value]) -> bool:
    """Whether `value` has to be turned for `node`: it is computed, and as large as the result."""
    if value in last or constant_tensor(value) is not None or static_shape(value) == ():
        return False
    return same_shape(value.shape, node.outputs[0].shape)
