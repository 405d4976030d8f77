"""Rules of contractions, and of operators that treat each element of a batch by itself."""

from __future__ import annotations

import re
from collections.abc import Sequence

from graphopt.analysis.padding.pointwise import keep
from graphopt.analysis.padding.sizes import ONE
from graphopt.analysis.padding.states import Context, Refusal, State, Tag, operand
from graphopt.analysis.padding.walk import rule
from graphopt.ir import Node, Value
from graphopt.ir.query import attribute, constant


@rule("MatMul", "MatMulInteger")
@rule("FusedMatMul", domain="com.microsoft")
def matmul(node: Node, context: Context) -> State:
    """Rows of the first by columns of the second, for each element of the batch."""
    if attribute(node, "transBatchA", 0) or attribute(node, "transBatchB", 0):
        raise Refusal("it transposes a batch")
    if node.op_type == "MatMulInteger":
        context.fixed(node, 2, 3)
    turned = (attribute(node, "transA", 0), attribute(node, "transB", 0))
    return _product(context, node.inputs[0], node.inputs[1], turned)


def _product(context: Context, a: Value | None, b: Value | None, turned: Sequence[int] = (0, 0)) -> State:
    left, right = _matrix(context, a, turned[0]), _matrix(context, b, turned[1])
    rank_a, rank_b = context.rank(a), context.rank(b)
    for tags, axis in ((left, -1), (right, -2 if rank_b > 1 else -1)):
        if axis in tags:
            raise Refusal(f"it adds up over {context.padded!r}", axis)
    if rank_a == 1 or rank_b == 1:
        # The vector's axis is gone; the other operand's are left.
        kept, gone, rank = (right, -2, rank_b) if rank_a == 1 else (left, -1, rank_a)
        return State({axis + rank: tag for axis, tag in kept.items()}).without(rank + gone)
    rank = max(rank_a, rank_b)
    found = {rank - 2: left[-2]} if -2 in left else {}
    found |= {rank - 1: right[-1]} if -1 in right else {}
    for axis in range(-rank, -2):
        met = [(v, tags) for v, tags, r in ((a, left, rank_a), (b, right, rank_b)) if -axis <= r]
        tagged = {tags[axis] for _, tags in met if axis in tags}
        if not tagged:
            continue
        if len(tagged) > 1 or any(axis not in tags and context.dims(v)[axis] != 1 for v, tags in met):
            raise Refusal(f"operands of other sizes meet {context.padded!r}", rank + axis)
        found[rank + axis] = tagged.pop()
    return State(found)


def _matrix(context: Context, value: Value | None, turned: int) -> dict[int, Tag]:
    """The tags of an operand by axes counted from the end, its last two in their mathematical order."""
    rank = context.rank(value)
    tags = {axis - rank: tag for axis, tag in context.state(value).tags.items()}
    if turned and rank > 1:
        other = {-1: -2, -2: -1}
        tags = {other.get(axis, axis): tag for axis, tag in tags.items()}
    return tags


@rule("Gemm")
@rule("FusedGemm", domain="com.microsoft")
def gemm(node: Node, context: Context) -> State:
    """A product of matrices and what is added to it."""
    turned = (attribute(node, "transA", 0), attribute(node, "transB", 0))
    state = _product(context, node.inputs[0], node.inputs[1], turned)
    added = operand(node, 2)
    if added is None:
        return state
    rank = context.rank(added)
    for axis, tag in enumerate(state.tags.get(a) for a in range(2 - rank, 2)):
        own = context.of(node, 2).tags.get(axis)
        if own != tag and not (own is None and context.dims(added)[axis] == 1):
            raise Refusal(f"operands of other sizes meet {context.padded!r}", axis)
    return state


@rule("QLinearMatMul")
def quantized_matmul(node: Node, context: Context) -> State:
    """A product of quantized operands; the scales of rows and columns are the model's."""
    context.fixed(node, 1, 2, 4, 5, 6, 7)
    return _product(context, node.inputs[0], node.inputs[3])


@rule("MatMulNBits", domain="com.microsoft")
def matmul_n_bits(node: Node, context: Context) -> State:
    """Rows by packed weights."""
    return keep(node, context, [-1], fixed=range(1, len(node.inputs)))


@rule("Einsum")
def einsum(node: Node, context: Context) -> State:
    """Sums over the letters that the result does not have."""
    equation = re.sub(r"\s", "", attribute(node, "equation"))
    terms, arrow, result = equation.partition("->")
    if not arrow or "." in equation:
        raise Refusal("its equation leaves its result, or some axes, open")
    found: dict[str, Tag] = {}
    seen: list[tuple[str, Tag | None, int]] = []
    for value, letters in zip(node.inputs, terms.split(","), strict=True):
        tags = context.state(value).tags
        seen += [(letter, tags.get(axis), axis) for axis, letter in enumerate(letters)]
        found |= {letters[axis]: tag for axis, tag in tags.items()}
    for letter, tag, axis in seen:
        if letter in found and tag != found[letter]:
            raise Refusal(f"operands of other sizes meet {context.padded!r}", axis)
        if letter in found and letter not in result:
            raise Refusal(f"it adds up over {context.padded!r}", axis)
    return State({axis: found[letter] for axis, letter in enumerate(result) if letter in found})


BATCHED: dict[str, dict[str, tuple[int, ...]]] = {
    "": {
        "AveragePool": (0,),
        "Col2Im": (0,),
        "Conv": (0,),
        "ConvInteger": (0,),
        "ConvTranspose": (0,),
        "DeformConv": (0, 2, 4),
        "DepthToSpace": (0,),
        "GlobalAveragePool": (0,),
        "GlobalLpPool": (0,),
        "GlobalMaxPool": (0,),
        "GridSample": (0, 1),
        "GroupNormalization": (0,),
        "InstanceNormalization": (0,),
        "LRN": (0,),
        "LpPool": (0,),
        "QLinearConv": (0,),
        "RoiAlign": (1, 2),
        "STFT": (0,),
        "SpaceToDepth": (0,),
    },
    "com.microsoft": {
        "EmbedLayerNormalization": (0, 1, 7, 8),
        "FusedConv": (0, 3),
        "GroupNorm": (0,),
        "GroupQueryAttention": (0, 1, 2, 3, 4, 5),
        "MultiHeadAttention": (0, 1, 2, 4, 5, 6, 7),
        "NhwcConv": (0,),
        "NhwcFusedConv": (0, 3),
        "NhwcMaxPool": (0,),
        "QLinearAveragePool": (0,),
        "QLinearGlobalAveragePool": (0,),
        "RotaryEmbedding": (0, 1),
    },
    "ai.onnx.ml": {
        "ArrayFeatureExtractor": (0,),
        "Imputer": (0,),
        "LinearClassifier": (0,),
        "LinearRegressor": (0,),
        "Normalizer": (0,),
        "SVMClassifier": (0,),
        "SVMRegressor": (0,),
        "Scaler": (0,),
        "TreeEnsemble": (0,),
        "TreeEnsembleClassifier": (0,),
        "TreeEnsembleRegressor": (0,),
    },
}
"""By operator the inputs whose first axis is that of the batch, as it is of every result."""


def batched(node: Node, context: Context) -> State:
    """Each element of the batch is computed from the same element of the inputs that have a batch."""
    return State({0: batch_tag(node, context, BATCHED[node.domain or ""][node.op_type])})


for _domain, _table in BATCHED.items():
    rule(*_table, domain=_domain)(batched)


def batch_tag(node: Node, context: Context, inputs: Sequence[int]) -> Tag:
    """The tag of the batch, the first axis of `inputs`. Raises Refusal if there are other tags."""
    if context.rank(node.inputs[inputs[0]]) < 2:
        raise Refusal("its input has no axis for a batch", 0)
    tags = set()
    for index, value in enumerate(node.inputs):
        found = context.state(value).tags
        if (index not in inputs and found) or context.state(value).counts:
            raise Refusal(f"its input {index} depends on {context.padded!r}", min(found, default=None))
        away = next((axis for axis in found if axis), None)
        if away is not None:
            raise Refusal(f"it works along {context.padded!r}, which is not its batch here", away)
        alone = index in inputs and value is not None and not found and context.rank(value) > 0
        if alone and (context.dims(value)[0] != 1 or not node.domain):  # ONNX Runtime's own broadcast
            raise Refusal(f"its input {index} has a batch of another size than {context.padded!r}", 0)
        tags |= set(found.values())
    if len(tags) != 1:
        raise Refusal(f"operands of other sizes meet {context.padded!r}", 0)
    return tags.pop()


@rule("MaxPool")
def max_pool(node: Node, context: Context) -> Sequence[State]:
    """The largest in each window, and its place, which is counted over the whole tensor."""
    tag = batch_tag(node, context, (0,))
    if len(node.outputs) > 1 and tag.outer != ONE:
        raise Refusal("its indices count over the whole tensor", 0)
    return [State({0: tag})] * len(node.outputs)


@rule("BatchNormalization")
def batch_normalization(node: Node, context: Context) -> State:
    """Each channel is scaled by statistics that the model holds."""
    if attribute(node, "training_mode", 0):
        raise Refusal(f"it takes mean and variance over {context.padded!r}", 0)
    return keep(node, context, [1], fixed=(1, 2, 3, 4))


@rule("Resize")
def resize(node: Node, context: Context) -> State:
    """Each axis is resampled by itself; one that keeps its size is left alone."""
    if "crop" in attribute(node, "coordinate_transformation_mode", "half_pixel"):
        raise Refusal("it crops")
    if attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Refusal("one scale depends on all sizes")
    value = node.inputs[0]
    tags = context.of(node, 0).tags
    context.fixed(node, 1, 2)
    if context.of(node, 3).tags:
        raise Refusal("its sizes are computed from padded numbers")
    given = attribute(node, "axes", None) or range(context.rank(value))
    scales, sizes = constant(operand(node, 2)), context.elements(operand(node, 3))
    for place, axis in enumerate(a % context.rank(value) for a in given):
        if axis not in tags:
            continue
        size = context.size(value, axis)
        by_scale = scales is not None and scales.size > place and scales.reshape(-1)[place] == 1
        by_size = sizes is not None and len(sizes) > place and context.as_size(sizes[place], axis) == size
        if not by_scale and not by_size:
            raise Refusal(f"it resizes {context.padded!r}", axis)
    for axis, dim in enumerate(context.dims(node.outputs[0]) if context.of(node, 3).counts else ()):
        if axis not in tags and context.new_axis(dim, axis) is not None:
            raise Refusal(f"it resizes to the size of {context.padded!r}", axis)
    return context.of(node, 0)


@rule("GRU", "LSTM", "RNN")
def recurrent(node: Node, context: Context) -> Sequence[State]:
    """Steps follow one another along one axis; each element of the batch by itself."""
    last = attribute(node, "layout", 0)
    axes = {0: 1 - last, 4: 0, 5: 1 - last, 6: 1 - last}
    tags = set()
    for index, value in enumerate(node.inputs):
        for axis, tag in context.state(value).tags.items():
            if axes.get(index) != axis:
                raise Refusal(f"it steps, or adds up, along {context.padded!r}", axis)
            tags.add(tag)
        if value is not None and index in axes and not context.state(value).tags:
            raise Refusal(
                f"its input {index} has a batch of another size than {context.padded!r}", axes[index]
            )
    if len(tags) != 1:
        raise Refusal(f"operands of other sizes meet {context.padded!r}", axes[0])
    (tag,) = tags
    return [State({2 - 2 * last if i == 0 else 1 - last: tag}) for i in range(len(node.outputs))]


@rule("RotaryEmbedding")
def rotary_embedding(node: Node, context: Context) -> State:
    """Each row is turned by the angle of its position, which is given, or its own row of the caches."""
    return State({0: batch_tag(node, context, (0, 1, 2) if operand(node, 3) is None else (0, 3))})


@rule("Attention")
def attention(node: Node, context: Context) -> Sequence[State]:
    """Softmax(Q K + mask) V for each element of the batch, and for each query."""
    padded, query = context.padded, context.rank(node.inputs[0]) - 2
    mask = operand(node, 3)
    width = 0 if mask is None else context.rank(mask)
    # By input the axis of the batch, and that of the queries. Those of a mask are counted from the end.
    places = {0: (0, query), 3: (width - 4, width - 2)} | dict.fromkeys((1, 2, 4, 5, 6), (0, -1))
    common: list[Tag | None] = [context.of(node, 0).tags.get(axis) for axis in (0, query)]
    for index, value in enumerate(node.inputs):
        tags = context.state(value).tags
        for axis in tags:
            if axis not in places.get(index, ()):
                raise Refusal(f"it {'adds up over' if index in (1, 2) else 'works along'} {padded!r}", axis)
        for axis, tag in zip(places.get(index, (-1, -1)), common, strict=True):
            broadcasts = index == 3 and value is not None and axis >= 0 and context.dims(value)[axis] == 1
            if value is not None and axis >= 0 and tags.get(axis) != tag and not broadcasts:
                raise Refusal(f"operands of other sizes meet {padded!r}", axis)
    if common[1] is not None and attribute(node, "is_causal", 0):
        raise Refusal("its mask depends on how many queries there are", query)
    batch = {} if common[0] is None else {0: common[0]}
    rows = [{} if common[1] is None else {axis: common[1]} for axis in (query, 2)]
    states = [State(batch | rows[0]), State(batch), State(batch), State(batch | rows[1])]
    return states[: len(node.outputs)]


@rule("ScatterND")
def scatter_nd(node: Node, context: Context) -> State:
    """Slices of the data are replaced at fixed places."""
    data, updates = context.of(node, 0), context.of(node, 2)
    context.fixed(node, 1)
    depth, rank = context.dims(node.inputs[1])[-1], context.rank(node.inputs[1])
    if not isinstance(depth, int) or any(axis < depth for axis in data.tags):
        raise Refusal(f"it puts slices in along {context.padded!r}", min(data.tags, default=None))
    if updates.tags != {axis - depth + rank - 1: tag for axis, tag in data.tags.items()}:
        raise Refusal(f"operands of other sizes meet {context.padded!r}", min(updates.tags, default=None))
    return data
