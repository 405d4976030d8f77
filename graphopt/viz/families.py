"""Operators by family: what the colours of a picture mean."""

from __future__ import annotations

FAMILIES: dict[str, str] = {
    "linear": "products and convolutions",
    "normalization": "normalization",
    "activation": "activation",
    "pooling": "pooling and reduction",
    "arithmetic": "arithmetic and logic",
    "layout": "shape and layout",
    "conversion": "casts and quantization",
    "control": "control flow and sequences",
    "other": "other",
}

_MEMBERS: dict[str, str] = {
    "linear": """
        Conv ConvTranspose ConvInteger DeformConv MatMul MatMulInteger Gemm Einsum Attention RNN GRU LSTM
        QLinearConv QLinearMatMul MultiHeadAttention GroupQueryAttention FusedMatMul FusedConv FusedGemm
        MatMulNBits Det DFT STFT RotaryEmbedding
        LinearAttention CausalConvWithState
    """,
    "normalization": """
        BatchNormalization InstanceNormalization LayerNormalization GroupNormalization RMSNormalization
        SimplifiedLayerNormalization SkipLayerNormalization EmbedLayerNormalization LRN LpNormalization
        MeanVarianceNormalization
    """,
    "activation": """
        Relu LeakyRelu PRelu ThresholdedRelu Elu Selu Celu Gelu QuickGelu FastGelu BiasGelu HardSigmoid
        HardSwish Sigmoid Softmax LogSoftmax Hardmax Softplus Softsign Tanh Mish Swish Clip Shrink Dropout
        Erf SwiGLU
    """,
    "pooling": """
        MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool MaxRoiPool RoiAlign
        MaxUnpool ArgMax ArgMin TopK NonMaxSuppression CumSum CumProd ReduceL1 ReduceL2 ReduceLogSum
        ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare
        NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss
    """,
    "arithmetic": """
        Add Sub Mul Div Pow Mod Sqrt Reciprocal Exp Log Neg Abs Sign Floor Ceil Round Sin Cos Tan Asin Acos
        Atan Sinh Cosh Asinh Acosh Atanh Sum Mean Max Min And Or Xor Not Equal Greater GreaterOrEqual Less
        LessOrEqual Where IsNaN IsInf BitShift BitwiseAnd BitwiseOr BitwiseXor BitwiseNot
    """,
    "layout": """
        Reshape Transpose Squeeze Unsqueeze Flatten Concat Split Slice Gather GatherElements GatherND
        Scatter ScatterElements ScatterND TensorScatter Shape Size Expand Tile Pad Identity Constant
        ConstantOfShape Range OneHot EyeLike Trilu Resize Upsample GridSample AffineGrid CenterCropPad
        DepthToSpace SpaceToDepth Compress NonZero Unique ReverseSequence Col2Im
    """,
    "conversion": """
        Cast CastLike BitCast QuantizeLinear DequantizeLinear DynamicQuantizeLinear
    """,
    "control": """
        If Loop Scan Optional OptionalGetElement OptionalHasElement SequenceAt SequenceConstruct
        SequenceEmpty SequenceErase SequenceInsert SequenceLength SequenceMap SplitToSequence
        ConcatFromSequence
    """,
}

_FAMILY = {op: family for family, ops in _MEMBERS.items() for op in ops.split()}


def family_of(domain: str, op_type: str) -> str:
    """The family of an operator; ``other`` for one that is not known."""
    return _FAMILY.get(op_type, "other") if domain in ("", "com.microsoft") else "other"
