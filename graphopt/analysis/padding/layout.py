"""Rules of operators that move elements: the padded dimension must stay whole, and its place known."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.analysis.padding.pointwise import keep
from graphopt.analysis.padding.sizes import ONE, Size, product
from graphopt.analysis.padding.states import FIXED, Context, Refusal, State, Tag, constant_ints, operand
from graphopt.analysis.padding.walk import rule
from graphopt.ir import Node, SymbolicDim
from graphopt.ir.query import attribute, ints, same_dim

FAR = 2**31 - 1
"""A Slice that ends there or beyond takes all there is, whatever the sizes of other dimensions."""


@rule("Shape")
def shape_of(node: Node, context: Context) -> State:
    """The sizes of some axes."""
    rank = context.rank(node.inputs[0])
    start, end, _ = slice(attribute(node, "start", 0), attribute(node, "end", None)).indices(rank)
    touched = any(axis in context.of(node, 0).tags for axis in range(start, end))
    return State(counts=True) if touched else FIXED


@rule("Size")
def element_count(node: Node, context: Context) -> State:
    """The product of all sizes."""
    return State(counts=True)


@rule("Transpose")
def transpose(node: Node, context: Context) -> State:
    """Axes change places."""
    rank = context.rank(node.inputs[0])
    order = attribute(node, "perm", None) or tuple(reversed(range(rank)))
    tags = context.of(node, 0).tags
    return State({new: tags[old] for new, old in enumerate(order) if old in tags})


@rule("Squeeze")
def squeeze(node: Node, context: Context) -> State:
    """Axes of length 1 go."""
    state, rank = context.of(node, 0), context.rank(node.inputs[0])
    axes = constant_ints(node, 1)
    if axes is None:
        axes = [a for a, d in enumerate(context.dims(node.inputs[0])) if a not in state.tags and d == 1]
        if any(not isinstance(d, int) for d in context.dims(node.inputs[0])):
            raise Refusal("it takes out every axis that happens to be 1", min(state.tags, default=None))
    for axis in sorted({a % rank for a in axes}, reverse=True):
        if axis in state.tags:
            raise Refusal(f"it takes out the axis of {context.padded!r}, as if it were 1", axis)
        state = state.without(axis)
    return state


@rule("Unsqueeze")
def unsqueeze(node: Node, context: Context) -> State:
    """Axes of length 1 come in, at places counted in the result."""
    state, axes = context.of(node, 0), constant_ints(node, 1)
    rank = context.rank(node.inputs[0]) + len(axes)
    for axis in sorted(a % rank for a in axes):
        state = state.with_axis(axis)
    return state


@rule("Flatten")
def flatten(node: Node, context: Context) -> State:
    """The axes before one, and those from it on, become one each."""
    value = node.inputs[0]
    rank = context.rank(value)
    axis = attribute(node, "axis", 1)
    axis = axis + rank if axis < 0 else axis
    parts = [context.volume(value, range(axis)), context.volume(value, range(axis, rank))]
    return _regrouped(node, context, parts)


@rule("Reshape")
def reshape(node: Node, context: Context) -> State:
    """The same elements in the same order, grouped into other axes."""
    if context.of(node, 1).tags:
        raise Refusal("its shape is computed from padded numbers")
    return _regrouped(node, context, _target(node, context))


def _target(node: Node, context: Context) -> list[Size]:
    """The sizes that a Reshape asks for, or else those that inference knows."""
    value, asked = node.inputs[0], context.elements(operand(node, 1))
    if asked is None:
        return [context.as_size(dim) for dim in context.dims(node.outputs[0])]
    if attribute(node, "allowzero", 0) and 0 in asked:
        raise Refusal("it makes an empty tensor")
    sizes = [
        context.size(value, i) if dim == 0 else context.as_size(1 if dim == -1 else dim)
        for i, dim in enumerate(asked)
    ]
    if -1 in asked:
        rest = context.volume(value, range(context.rank(value))).divided(product(sizes))
        if rest is None:
            raise Refusal(f"it takes {context.padded!r} apart", min(context.of(node, 0).tags, default=None))
        sizes[list(asked).index(-1)] = rest
    return sizes


def _regrouped(node: Node, context: Context, target: Sequence[Size]) -> State:
    """Where the padded dimension is when elements in order are grouped into axes of the sizes `target`."""
    value, padded = node.inputs[0], context.padded
    rank = context.rank(value)
    tags = context.of(node, 0).tags
    places = sorted(tags)
    axes = [axis for axis, size in enumerate(target) for _ in range(size.names.count(padded))]
    known = {name for axis in range(rank) for name in context.size(value, axis).names} | {padded}
    if any(n not in known and not context.is_independent_symbol(n) for s in target for n in s.names):
        raise Refusal(
            "its result's shape is not known by the model's dimensions", places[0] if places else None
        )
    if len(axes) != len(places) or len(set(axes)) != len(axes):
        raise Refusal(f"it does not keep {padded!r} in an axis of its own", places[0] if places else None)
    found: dict[int, Tag] = {}
    for old, new in zip(places, axes, strict=True):
        before = context.volume(value, range(old)) * tags[old].outer
        after = tags[old].inner * context.volume(value, range(old + 1, rank))
        outer = before.divided(product(target[:new]))
        rest = target[new].divided(Size(1, (padded,)))
        inner = None if outer is None or rest is None else rest.divided(outer)
        if outer is None or inner is None or inner * product(target[new + 1 :]) != after:
            raise Refusal(f"it interleaves {padded!r} with other dimensions", old)
        found[new] = Tag(outer, inner)
    return State(found)


@rule("Expand")
def expand(node: Node, context: Context) -> State:
    """Axes of length 1 are repeated."""
    value, result = node.inputs[0], node.outputs[0]
    if context.of(node, 1).tags:
        raise Refusal("its shape is computed from padded numbers")
    tags, dims = context.of(node, 0).tags, context.dims(value)
    shift = context.rank(result) - len(dims)
    found: dict[int, Tag] = {}
    for axis, dim in enumerate(context.dims(result)):
        here = axis - shift
        if here in tags:
            if context.new_axis(dim, axis) is None or context.as_size(dim) != context.size(value, here):
                raise Refusal(f"it expands {context.padded!r} to another size", here)
            found[axis] = tags[here]
        elif here < 0 or dims[here] == 1:
            tag = context.new_axis(dim, axis)
            found |= {} if tag is None else {axis: tag}
        elif not same_dim(dim, dims[here]):
            raise Refusal("its result's shape is not known by the model's dimensions")
    return State(found)


@rule("ConstantOfShape")
def constant_of_shape(node: Node, context: Context) -> State:
    """One number everywhere."""
    if context.of(node, 0).tags:
        raise Refusal("its shape is computed from padded numbers")
    tags = {axis: context.new_axis(dim, axis) for axis, dim in enumerate(context.dims(node.outputs[0]))}
    return State({axis: tag for axis, tag in tags.items() if tag is not None})


@rule("Tile")
def tile(node: Node, context: Context) -> State:
    """Copies one behind another along each axis."""
    if context.of(node, 1).tags:
        raise Refusal("how often it repeats is computed from padded numbers")
    value, repeats = node.inputs[0], context.elements(operand(node, 1))
    if repeats is None or value is None:
        raise Refusal("how often it repeats is not known")
    tags = dict(context.of(node, 0).tags)
    for axis, count in enumerate(repeats):
        if axis in tags:
            times = context.as_size(count, axis)
            if context.padded in times.names or not context.is_independent(times):
                raise Refusal(f"it repeats {context.padded!r} as often as a size says", axis)
            tags[axis] = Tag(times * tags[axis].outer, tags[axis].inner)
        else:
            new = context.new_axis(count, axis)
            tags |= {} if new is None else {axis: Tag(ONE, new.inner * context.size(value, axis))}
    return State(tags)


@rule("Slice")
def slice_of(node: Node, context: Context) -> State:
    """Parts of some axes."""
    value, padded = node.inputs[0], context.padded
    starts, ends = (context.elements(operand(node, i)) for i in (1, 2))
    rank, tags = context.rank(value), dict(context.of(node, 0).tags)
    axes = [a % rank for a in constant_ints(node, 3, tuple(range(rank if starts is None else len(starts))))]
    if starts is None or ends is None:
        context.fixed(node, 1, 2, 4)
        return keep(node, context, axes, why=f"it takes a part of {padded!r}, from where is not known")
    if any(context.of(node, i).tags for i in (1, 2, 4)):
        raise Refusal("where it starts and ends is computed from padded numbers")
    steps = constant_ints(node, 4, (1,) * len(starts))
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        bounds = (start, end)
        if axis in tags:
            size = context.size(value, axis)
            most = size.factor * context.largest if size.names == (padded,) else FAR
            whole = end >= most if isinstance(end, int) else context.as_size(end, axis) == size
            if step == 1 and start == 0 and whole:
                continue
            if step == 1 and bounds == (0, 1) and tags[axis].outer == ONE:
                del tags[axis]  # the first element: there is one, nobody pads from nothing
                continue
            raise Refusal(f"it takes a part of {padded!r}", axis)
        if _counts(bounds, context):
            if start != 0 or step != 1:
                raise Refusal(f"it cuts by the size of {padded!r}", axis)
            tag = context.new_axis(context.dims(node.outputs[0])[axis], axis)
            tags |= {} if tag is None else {axis: tag}
    return State(tags)


def _counts(bounds: Sequence[int | SymbolicDim], context: Context) -> bool:
    return any(not isinstance(d, int) and not context.is_independent_symbol(str(d.value)) for d in bounds)


@rule("Concat")
def concat(node: Node, context: Context) -> State:
    """Tensors one behind another along an axis, and alike on the others."""
    rank = context.rank(node.inputs[0])
    axis = attribute(node, "axis") % rank
    states = [context.state(v) for v in node.inputs]
    if any(axis in state.tags for state in states):
        raise Refusal(f"it puts something behind {context.padded!r}", axis)
    if any(state.tags != states[0].tags for state in states):
        raise Refusal(f"operands of other sizes meet {context.padded!r}", min(max(states, key=_tags).tags))
    return states[0]


def _tags(state: State) -> int:
    return len(state.tags)


@rule("Split")
def split(node: Node, context: Context) -> State:
    """Parts of one axis."""
    return keep(node, context, [attribute(node, "axis", 0)], fixed=(1,), why=f"it splits {context.padded!r}")


@rule("Pad")
def pad(node: Node, context: Context) -> State:
    """Numbers before and behind some axes."""
    pads, rank = constant_ints(node, 1), context.rank(node.inputs[0])
    axes = [a % rank for a in constant_ints(node, 3, tuple(range(rank)))]
    moved = {a for i, a in enumerate(axes) if pads[i] or pads[i + len(axes)]}
    return keep(node, context, moved, fixed=(2,), why=f"it pads {context.padded!r} too")


@rule("Gather")
def gather(node: Node, context: Context) -> State:
    """Slices of the data along an axis, at places that the indices name."""
    data, indices = node.inputs[0], node.inputs[1]
    rank, width = context.rank(data), context.rank(indices)
    axis = attribute(node, "axis", 0) % rank
    state, places = context.of(node, 0), context.of(node, 1)
    found = {a + axis: tag for a, tag in places.tags.items()}
    for a, tag in state.tags.items():
        if a == axis:
            chosen = ints(indices)
            if chosen is None or any(chosen) or tag.outer != ONE:
                raise Refusal(f"it picks along {context.padded!r}", axis)
            continue  # the first element: there is one, nobody pads from nothing
        found[a if a < axis else a + width - 1] = tag
    return State(found)


@rule("GatherElements", "ScatterElements")
def gather_elements(node: Node, context: Context) -> State:
    """Every element is taken from, or put to, another place on one axis."""
    axis = attribute(node, "axis", 0) % context.rank(node.inputs[0])
    states = [context.state(v) for v in node.inputs]
    if any(axis in state.tags for state in states):
        raise Refusal(f"it picks along {context.padded!r}", axis)
    if any(state.tags != states[0].tags for state in states):
        raise Refusal(f"operands of other sizes meet {context.padded!r}", min(max(states, key=_tags).tags))
    return states[0]


@rule("GatherND")
def gather_nd(node: Node, context: Context) -> State:
    """Slices of the data at places that vectors of indices name, for each element of a batch."""
    data, indices = (context.of(node, i) for i in (0, 1))
    batch, rank = attribute(node, "batch_dims", 0), context.rank(node.inputs[1])
    depth = context.dims(node.inputs[1])[-1]
    if not isinstance(depth, int) or rank - 1 in indices.tags:
        raise Refusal("how many axes it indexes is not known")
    found = {a: tag for a, tag in indices.tags.items() if a < rank - 1}
    for axis, tag in data.tags.items():
        if batch <= axis < batch + depth:
            raise Refusal(f"it picks along {context.padded!r}", axis)
        if axis >= batch + depth:
            found[axis - depth + rank - 1 - batch] = tag
    if any(data.tags.get(axis) != indices.tags.get(axis) for axis in range(batch)):
        raise Refusal(f"operands of other sizes meet {context.padded!r}", 0)
    return State(found)
