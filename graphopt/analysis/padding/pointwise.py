"""Rules of operators that work element by element, and of those that work along some axes only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphopt.analysis.padding.states import FIXED, Context, Refusal, State, Tag, constant_ints
from graphopt.analysis.padding.walk import rule
from graphopt.ir import Node, Value
from graphopt.ir.query import attribute

POINTWISE = """
Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast Ceil
Celu Clip Cos Cosh Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity
IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu
Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where
Xor
""".split()


def broadcast(context: Context, values: Iterable[Value | None]) -> State:
    """The state of what is computed of `values` element by element, as numpy broadcasts them."""
    tagged = [v for v in values if v is not None]
    rank = max(context.rank(v) for v in tagged)
    tags: dict[int, Tag] = {}
    for axis in range(rank):
        here = [(v, axis - rank + context.rank(v)) for v in tagged if axis - rank + context.rank(v) >= 0]
        found = {context.state(v).tags[a] for v, a in here if a in context.state(v).tags}
        if not found:
            continue
        others = [context.dims(v)[a] for v, a in here if a not in context.state(v).tags]
        if len(found) > 1 or any(dim != 1 for dim in others):
            raise Refusal(f"operands of other sizes meet {context.padded!r}", axis)
        tags[axis] = found.pop()
    return State(tags)


@rule(*POINTWISE)
@rule("BiasAdd", "BiasGelu", "FastGelu", "Gelu", "QuickGelu", domain="com.microsoft")
@rule("Binarizer", "CategoryMapper", "LabelEncoder", domain="ai.onnx.ml")
def pointwise(node: Node, context: Context) -> State:
    """Every element of the result comes from the elements at its place."""
    return broadcast(context, node.inputs)


@rule("CastLike")
def first_only(node: Node, context: Context) -> State:
    """The second input gives a type, not numbers."""
    return context.of(node, 0)


@rule("Dropout")
def dropout(node: Node, context: Context) -> State:
    """At inference the input itself (in training its draws refuse earlier)."""
    context.fixed(node, 1, 2)
    return context.of(node, 0)


def keep(
    node: Node, context: Context, closed: Iterable[int], *, fixed: Sequence[int] = (), why: str = ""
) -> State:
    """The first input's state, where it has no tags on the axes `closed`, which the operator works along."""
    rank = context.rank(node.inputs[0])
    state = context.of(node, 0)
    for axis in sorted(a % rank if rank else a for a in closed):
        if axis in state.tags:
            raise Refusal(why or f"it works along the axis that {context.padded!r} is padded on", axis)
    context.fixed(node, *fixed)
    return state


@rule("Hardmax", "LogSoftmax", "Softmax")
def softmax(node: Node, context: Context) -> State:
    """Rows are normalized along one axis."""
    return keep(node, context, [attribute(node, "axis", -1)], why=f"it normalizes over {context.padded!r}")


@rule("LpNormalization")
def lp_normalization(node: Node, context: Context) -> State:
    """Rows are divided by their norm along one axis."""
    return keep(node, context, [attribute(node, "axis", -1)], why=f"it normalizes over {context.padded!r}")


@rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def layer_normalization(node: Node, context: Context) -> State:
    """Mean and variance are of the last axes; the statistics that are also results keep the others."""
    rank = context.rank(node.inputs[0])
    axis = attribute(node, "axis", -1) % rank
    return keep(node, context, range(axis, rank), fixed=(1, 2), why=f"it normalizes over {context.padded!r}")


@rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain="com.microsoft")
def skip_layer_normalization(node: Node, context: Context) -> State:
    """LayerNormalization of a sum along the last axis."""
    state = broadcast(context, node.inputs[:2])
    rank = context.rank(node.inputs[0])
    if rank - 1 in state.tags or context.rank(node.inputs[1]) > rank:
        raise Refusal(f"it normalizes over {context.padded!r}", rank - 1)
    context.fixed(node, 2, 3, 4)
    return state


@rule("CumSum", "CumProd")
def cumulative(node: Node, context: Context) -> State:
    """Each element adds up those before it on one axis (or after it)."""
    (axis,) = constant_ints(node, 1)
    return keep(node, context, [axis], why=f"it adds up along {context.padded!r}")


@rule("TopK")
def top_k(node: Node, context: Context) -> State:
    """The largest of each row along one axis."""
    return keep(
        node,
        context,
        [attribute(node, "axis", -1)],
        fixed=(1,),
        why=f"it ranks the elements along {context.padded!r}",
    )


@rule("ReverseSequence")
def reverse_sequence(node: Node, context: Context) -> State:
    """Rows are reversed along the axis of time, each up to a length of its own."""
    batch, time = attribute(node, "batch_axis", 1), attribute(node, "time_axis", 0)
    state = keep(node, context, [time])
    if context.of(node, 1).tags.get(0) != state.tags.get(batch):
        raise Refusal("its lengths are of another size", batch)
    return state


REDUCTIONS = """
ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
ReduceSumSquare
""".split()


@rule(*REDUCTIONS)
def reduction(node: Node, context: Context) -> State:
    """Elements are put together along the axes given, or along all."""
    rank = context.rank(node.inputs[0])
    axes = attribute(node, "axes", None)
    axes = constant_ints(node, 1) if axes is None else axes
    if not axes and attribute(node, "noop_with_empty_axes", 0):
        return context.of(node, 0)
    return _reduced(node, context, axes or range(rank))


@rule("ArgMax", "ArgMin")
def argument(node: Node, context: Context) -> State:
    """The place of the largest along one axis."""
    return _reduced(node, context, [attribute(node, "axis", 0)])


def _reduced(node: Node, context: Context, axes: Iterable[int]) -> State:
    rank = context.rank(node.inputs[0])
    gone = sorted({a % rank for a in axes}, reverse=True)
    state = keep(node, context, gone, why=f"it reduces over {context.padded!r}")
    if not attribute(node, "keepdims", 1):
        for axis in gone:
            state = state.without(axis)
    return state


@rule("MeanVarianceNormalization")
def mean_variance(node: Node, context: Context) -> State:
    """Mean and variance are of the axes given; by default of the batch too."""
    return keep(
        node, context, attribute(node, "axes", (0, 2, 3)), why=f"it normalizes over {context.padded!r}"
    )


@rule("QuantizeLinear", "DequantizeLinear")
@rule("QuantizeLinear", "DequantizeLinear", domain="com.microsoft")
def quantize(node: Node, context: Context) -> State:
    """Each element is scaled, by a scale of its own channel."""
    context.fixed(node, 1, 2)
    if context.rank(node.inputs[1]) == 0:
        return context.of(node, 0)
    if context.rank(node.inputs[1]) > 1:
        raise Refusal("its scales are of blocks")
    return keep(node, context, [attribute(node, "axis", 1)])


@rule("QLinearAdd", "QLinearMul", domain="com.microsoft")
def quantized_pair(node: Node, context: Context) -> State:
    """Two quantized tensors element by element."""
    context.fixed(node, 1, 2, 4, 5, 6, 7)
    return broadcast(context, (node.inputs[0], node.inputs[3]))


@rule("QLinearLeakyRelu", "QLinearSigmoid", domain="com.microsoft")
def quantized_single(node: Node, context: Context) -> State:
    """A quantized tensor element by element."""
    return keep(node, context, (), fixed=range(1, len(node.inputs)))


@rule("DynamicQuantizeLinear")
def dynamic_quantize(node: Node, context: Context) -> State:
    """The scale is of the whole tensor."""
    raise Refusal(
        "its scale comes from the least and largest number of the whole tensor", _axis(context.of(node, 0))
    )


@rule("OneHot")
def one_hot(node: Node, context: Context) -> State:
    """Each index becomes a vector along a new axis."""
    context.fixed(node, 1, 2)
    rank = context.rank(node.inputs[0]) + 1
    return context.of(node, 0).with_axis(attribute(node, "axis", -1) % rank)


@rule("OneHotEncoder", domain="ai.onnx.ml")
def one_hot_encoder(node: Node, context: Context) -> State:
    """Each category becomes a vector along a new last axis."""
    return context.of(node, 0)


@rule("Trilu")
def trilu(node: Node, context: Context) -> State:
    """What is kept of a matrix is decided by the places in it, counted from its first corner."""
    state = context.of(node, 0)
    rank = context.rank(node.inputs[0])
    for axis in (rank - 2, rank - 1):
        if state.tags.get(axis, Tag()) != Tag():
            raise Refusal(f"{context.padded!r} is only a part of the axis that it counts along", axis)
    context.fixed(node, 1)
    return state


@rule("Range")
def counting(node: Node, context: Context) -> State:
    """start, start + delta, …: how many changes none of them."""
    context.fixed(node, 0, 2)
    tag = context.new_axis(context.dims(node.outputs[0])[0], 0)
    return FIXED if tag is None else State({0: tag})


def _axis(state: State) -> int | None:
    return min(state.tags, default=None)
