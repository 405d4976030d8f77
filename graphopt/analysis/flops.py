"""Operations of one node, by operator, from its shapes and attributes.

Conventions: a multiply-add is two; a reduction one for each element that it reads; any other
elementwise function one for each element of its result; moving data none.
"""

from __future__ import annotations

from collections.abc import Callable

from graphopt.analysis.amount import Amount
from graphopt.ir import Node, Value
from graphopt.ir.query import attribute

Formula = Callable[[Node], "Amount | None"]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


MOVES = _names(
    "Cast CastLike Compress Concat Constant ConstantOfShape DepthToSpace Expand EyeLike Flatten Gather "
    "GatherElements GatherND Identity NonZero OneHot Pad Range Reshape ReverseSequence ScatterElements "
    "ScatterND Shape Size Slice SpaceToDepth Split Squeeze Tile Transpose Trilu Unsqueeze Where BitCast "
    "TensorScatter SplitToSequence ConcatFromSequence SequenceAt SequenceConstruct SequenceEmpty "
    "SequenceInsert SequenceErase SequenceLength Optional OptionalGetElement OptionalHasElement "
    "CenterCropPad Col2Im"
)
"""Operators that compute nothing, or nothing but addresses."""

ELEMENTWISE = _names(
    "Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Ceil "
    "Celu Clip Cos Cosh DequantizeLinear Div Dropout DynamicQuantizeLinear Elu Equal Erf Exp Floor Gelu "
    "Greater GreaterOrEqual HardSigmoid HardSwish IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min "
    "Mish Mod Mul Neg Not Or PRelu Pow QuantizeLinear Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin "
    "Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Xor QuickGelu FastGelu BiasGelu "
    "CumSum CumProd SwiGLU"
)

REDUCTIONS = _names(
    "ArgMax ArgMin ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd "
    "ReduceSum ReduceSumSquare GlobalAveragePool GlobalMaxPool GlobalLpPool"
)

PER_ELEMENT = {
    "BatchNormalization": 2,  # scale and shift
    "Softmax": 5,  # maximum, difference, exponential, sum, quotient
    "LogSoftmax": 5,
    "Hardmax": 2,
    "LayerNormalization": 7,  # mean, difference, square, its mean, quotient, scale, shift
    "InstanceNormalization": 7,
    "GroupNormalization": 7,
    "MeanVarianceNormalization": 5,
    "SkipLayerNormalization": 8,
    "RMSNormalization": 4,  # square, its mean, quotient, scale
    "SimplifiedLayerNormalization": 4,
    "SkipSimplifiedLayerNormalization": 5,
    "LpNormalization": 3,
    "RotaryEmbedding": 3,  # two products and a sum
}
"""Operations for each element of the first input."""

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def flops(node: Node) -> Amount | None:
    """Operations of `node`, which holds no graphs; None where shapes or the operator are unknown."""
    if node.domain not in ("", "com.microsoft"):
        return None
    formula = _FORMULAS.get(node.op_type)
    if formula is not None:
        return formula(node)
    if node.op_type in MOVES:
        return Amount.of(0)
    if node.op_type in ELEMENTWISE:
        return _elements(node.outputs[0])
    if node.op_type in REDUCTIONS:
        return _elements(_input(node, 0))
    if node.op_type in PER_ELEMENT:
        elements = _elements(_input(node, 0))
        return None if elements is None else elements * PER_ELEMENT[node.op_type]
    return None


def _input(node: Node, index: int) -> Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _dims(value: Value | None) -> list[int | str] | None:
    if value is None or value.shape is None:
        return None
    return [d if isinstance(d, int) else str(d.value) for d in value.shape.dims]


def _elements(value: Value | None) -> Amount | None:
    dims = _dims(value)
    return None if dims is None else Amount.size(dims)


def _matmul(node: Node) -> Amount | None:
    """2·M·N·K, times the batch, which is that of the result."""
    left, result = _dims(_input(node, 0)), _elements(node.outputs[0])
    if not left or result is None:
        return None
    transposed = node.op_type == "FusedMatMul" and bool(attribute(node, "transA", 0)) and len(left) > 1
    return result * Amount.size([left[-2] if transposed else left[-1]]) * 2


def _gemm(node: Node) -> Amount | None:
    """2·M·N·K, and one for each element that C is added to."""
    left, result = _dims(_input(node, 0)), _elements(node.outputs[0])
    if left is None or len(left) != 2 or result is None:
        return None
    total = result * Amount.size([left[0] if attribute(node, "transA", 0) else left[1]]) * 2
    return total + result if _input(node, 2) is not None else total


def _conv(node: Node) -> Amount | None:
    """2·(elements of the result)·(C/group)·(kernel), and the bias."""
    at = 3 if node.op_type == "QLinearConv" else 1
    bias = {"QLinearConv": 8, "ConvInteger": 99, "DeformConv": 3}.get(node.op_type, 2)
    kernel, result = _dims(_input(node, at)), _elements(node.outputs[0])
    if kernel is None or len(kernel) < 2 or result is None:
        return None
    total = result * Amount.size(kernel[1:]) * 2
    return total + result if _input(node, bias) is not None else total


def _conv_transpose(node: Node) -> Amount | None:
    """2·(elements of the input)·(M/group)·(kernel), and the bias."""
    given, kernel, result = _elements(_input(node, 0)), _dims(_input(node, 1)), _elements(node.outputs[0])
    if given is None or kernel is None or len(kernel) < 2 or result is None:
        return None
    total = given * Amount.size(kernel[1:]) * 2
    return total + result if _input(node, 2) is not None else total


def _pool(node: Node) -> Amount | None:
    """One for each element of each window."""
    result, kernel = _elements(node.outputs[0]), attribute(node, "kernel_shape")
    return None if result is None or kernel is None else result * Amount.size([int(k) for k in kernel])


def _recurrent(node: Node) -> Amount | None:
    """For each step and direction: gates·2·H·(I + H) and, per gate and unit, a bias and a function."""
    x, w, r = _dims(_input(node, 0)), _dims(_input(node, 1)), _dims(_input(node, 2))
    if x is None or w is None or r is None or len(x) != 3 or len(w) != 3 or len(r) != 3:
        return None
    gates = GATES[node.op_type]
    steps = Amount.size([x[0], x[1], r[0]])
    hidden = Amount.size([r[2]])
    products = hidden * (Amount.size([x[2]]) + hidden) * (2 * gates)
    return steps * (products + hidden * (3 * gates))


def _einsum(node: Node) -> Amount | None:
    """Elements of the space of all labels, two for each operand but the first."""
    equation = str(attribute(node, "equation") or "").replace(" ", "")
    terms = equation.split("->")[0].split(",")
    if "." in equation or len(terms) != len(node.inputs):
        return None
    sizes: dict[str, int | str] = {}
    for term, value in zip(terms, node.inputs, strict=True):
        dims = _dims(value)
        if dims is None or len(dims) != len(term):
            return None
        for label, dim in zip(term, dims, strict=True):
            if sizes.get(label, 1) == 1:
                sizes[label] = dim
    return Amount.size(sizes.values()) * max(2 * (len(terms) - 1), 1)


def _attention(node: Node) -> Amount | None:
    """2·B·H·Sq·Sk·(Dqk + Dv) for the two products, 5 for each score for the softmax.

    ONNX's own Attention only: that of com.microsoft has other operands.
    """
    q, k, v = _dims(_input(node, 0)), _dims(_input(node, 1)), _dims(_input(node, 2))
    if node.domain or q is None or k is None or v is None or len(q) != len(k) or len(q) not in (3, 4):
        return None
    if len(q) == 4:
        heads, queries, keys = Amount.size([q[1]]), q[2], k[2]
        width = Amount.size([q[3]]) + Amount.size([v[3]])
    else:
        count, kv_count = int(attribute(node, "q_num_heads") or 0), int(attribute(node, "kv_num_heads") or 0)
        if count < 1 or kv_count < 1 or not isinstance(q[2], int) or not isinstance(v[2], int):
            return None
        heads, queries, keys = Amount.of(count), q[1], k[1]
        width = Amount.of(q[2] // count + v[2] // kv_count)
    past = _dims(_input(node, 4))
    seen = Amount.size([keys]) + (
        Amount.size([past[2]]) if past is not None and len(past) == 4 else Amount.of(0)
    )
    scores = heads * Amount.size([q[0], queries]) * seen
    return scores * width * 2 + scores * 5


def _resize(node: Node) -> Amount | None:
    """Nearest moves only; linear and cubic take 2 or 4 multiply-adds for each resized axis."""
    mode = str(attribute(node, "mode", "nearest"))
    given, result = _dims(_input(node, 0)), _dims(node.outputs[0])
    if mode == "nearest":
        return Amount.of(0)
    if given is None or result is None or len(given) != len(result):
        return None
    taps = 1
    for before, after in zip(given, result, strict=True):
        if before != after:
            taps *= 4 if mode == "cubic" else 2
    return Amount.size(result) * (2 * taps)


_FORMULAS: dict[str, Formula] = {
    "MatMul": _matmul,
    "FusedMatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul,
    "Gemm": _gemm,
    "FusedGemm": _gemm,
    "Conv": _conv,
    "FusedConv": _conv,
    "ConvInteger": _conv,
    "QLinearConv": _conv,
    "DeformConv": _conv,
    "CausalConvWithState": _conv,
    "ConvTranspose": _conv_transpose,
    "AveragePool": _pool,
    "MaxPool": _pool,
    "LpPool": _pool,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "Einsum": _einsum,
    "Attention": _attention,
    "Resize": _resize,
}
