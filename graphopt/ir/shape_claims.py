"""Shapes that the inference package assumes rather than proves, replaced by what is certain.

The package takes two different symbols that are broadcast together for equal (one may be 1), and a
slice with constant bounds for one inside its axis. Passes fold on the strength of a shape, so such
a dimension becomes a symbol of its own here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnx_shape_inference import ShapeInferenceContext

from graphopt.ir import Node, Shape, SymbolicDim, Value
from graphopt.ir.query import attribute, ints, is_op, same_dim

Dim = int | SymbolicDim
NewDim = Callable[[], SymbolicDim]

_BROADCASTING = frozenset(
    {"Add", "Sub", "Mul", "Div", "Mod", "Pow", "Max", "Min", "Mean", "Sum", "Where"}
    | {"And", "Or", "Xor", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor"}
    | {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}
)
_POOLS = frozenset({"MaxPool", "AveragePool", "LpPool"})
_MATRIX_PRODUCTS = frozenset({"MatMul", "MatMulInteger"})


def settle(node: Node, context: ShapeInferenceContext) -> None:
    """Replace the dimensions of the outputs of `node` that are merely assumed by fresh symbols."""
    if (node.domain or "") != "" or not node.outputs:
        return
    output, new_dim = node.outputs[0], context.new_symbolic_dim
    if is_op(node, "Reshape") and output.type is None and node.inputs[0] is not None:
        output.type = node.inputs[0].type  # the package leaves it out where the rank is not known
    if output.dtype is not None and output.dtype.name not in ("INT64", "INT32"):
        # Values are followed as integers: what a float or a boolean makes of them, nobody computed.
        for value in node.outputs:
            context._symbolic_values.pop(value, None)
            value.const_value = None
    _settle_numbers(output, context)
    if is_op(node, "If"):
        _settle_if(node)
    if output.shape is None:
        return
    if node.op_type in _BROADCASTING:
        _settle_broadcast(output, [v.shape for v in node.inputs if v is not None], new_dim)
    elif is_op(node, "Expand"):
        _settle_expand(node, output, context)
    elif node.op_type in _MATRIX_PRODUCTS:
        _settle_matrix_product(node, output, new_dim)
    elif is_op(node, "Slice"):
        _settle_slice(node, output, context)
    elif node.op_type in _POOLS:
        _settle_pool(node, output, context)
    elif node.op_type == "ConvTranspose":
        _settle_conv_transpose(node, output, new_dim)
    elif is_op(node, "Pad") and len(node.inputs) > 1:
        _settle_pad(node, output, context)
    elif is_op(node, "Squeeze"):
        _settle_squeeze(node, output)
    elif is_op(node, "Einsum"):
        _settle_einsum(node, output, new_dim)
    elif is_op(node, "Split") and len(node.inputs) > 1:
        _settle_split(node, context)
    elif is_op(node, "Unique"):
        _settle_unique(node, output)


def _settle_unique(node: Node, output: Value) -> None:
    """Along an axis the other axes stay; the package claims a vector."""
    axis, shape = attribute(node, "axis"), None if node.inputs[0] is None else node.inputs[0].shape
    if axis is None or output.shape is None:
        return
    if shape is None:
        output.shape = None
    elif len(output.shape) != len(shape) and -len(shape) <= axis < len(shape):
        dims = list(shape.dims)
        dims[axis] = output.shape.dims[0]
        output.shape = Shape(dims)


def _settle_if(node: Node) -> None:
    """What one branch gives says nothing of what the other does."""
    for name in ("then_branch", "else_branch"):
        for value, result in zip(node.outputs, attribute(node, name).outputs, strict=False):
            if result.shape is None:
                value.shape = None


def _settle_numbers(output: Value, context: ShapeInferenceContext) -> None:
    """An expression of symbols that comes to a number, such as ``n - n``, is that number."""
    dims = context._symbolic_values.get(output)
    if dims is None or not any(isinstance(d, SymbolicDim) and _is_number(d) for d in dims):
        return
    settled = [int(str(d.value)) if isinstance(d, SymbolicDim) and _is_number(d) else d for d in dims]
    context.set_symbolic_value(output, settled)


def _is_number(dim: SymbolicDim) -> bool:
    return dim.value is not None and dim.value.lstrip("-").isdigit()


def broadcast_dims(dims: Sequence[Dim]) -> Dim | None:
    """The size that `dims` broadcast to, or None where it depends on which of them are 1."""
    result: Dim = 1
    for dim in dims:
        if same_dim(result, dim) or dim == 1:
            continue
        if result == 1:
            result = dim
        elif isinstance(result, int) or isinstance(dim, int):
            # Only 1 and the number itself go with a number, and the result is the number.
            if isinstance(result, int) and isinstance(dim, int):
                return None
            result = result if isinstance(result, int) else dim
        elif _is_clamped(dim, result):
            continue
        elif _is_clamped(result, dim):
            result = dim
        else:
            return None
    return result


def _is_clamped(clamped: SymbolicDim, dim: SymbolicDim) -> bool:
    """Whether `clamped` is ``Min(n, dim)`` with n > 1: it is 1 or 0 only where `dim` is, too."""
    name = dim.value
    text = clamped.value or ""
    if name is None or not text.startswith("Min(") or not text.endswith(")"):
        return False
    arguments = [part.strip() for part in text[4:-1].split(",")]
    others = [part for part in arguments if part != name]
    return len(arguments) == 2 and len(others) == 1 and others[0].isdigit() and int(others[0]) > 1


def _settle_broadcast(output: Value, shapes: Sequence[Shape | None], new_dim: NewDim) -> None:
    known = [s for s in shapes if s is not None]
    if len(known) != len(shapes) or output.shape is None:
        return
    rank = len(output.shape)
    dims: list[Dim] = []
    for position in range(rank):
        across = [s.dims[position - rank] for s in known if len(s) >= rank - position]
        dim = broadcast_dims(across)
        dims.append(new_dim() if dim is None else dim)
    output.shape = Shape(dims)


def _settle_expand(node: Node, output: Value, context: ShapeInferenceContext) -> None:
    """An expanded axis is known where operand and target agree, or one of them is a number."""
    x = node.inputs[0]
    target = context.get_symbolic_value(node.inputs[1])
    if x is None or x.shape is None:
        output.shape = None  # the operand may have more axes than the target, and longer ones
        return
    if target is None:
        return
    sizes = [context.new_symbolic_dim() if isinstance(d, int) and d < 0 else d for d in target]
    _settle_broadcast(output, [x.shape, Shape(sizes)], context.new_symbolic_dim)


def _settle_matrix_product(node: Node, output: Value, new_dim: NewDim) -> None:
    shapes = [v.shape if v is not None else None for v in node.inputs[:2]]
    if any(s is None or len(s) < 2 for s in shapes) or output.shape is None or len(output.shape) < 3:
        return
    batch = Value(shape=Shape(output.shape.dims[:-2]))
    _settle_broadcast(batch, [Shape(s.dims[:-2]) for s in shapes if s is not None], new_dim)
    if batch.shape is not None:
        output.shape = Shape([*batch.shape.dims, *output.shape.dims[-2:]])


def _settle_squeeze(node: Node, output: Value) -> None:
    """Which axes go is not known where the axes are not, or, without any, where a size is open."""
    x = node.inputs[0]
    given = node.inputs[1] if len(node.inputs) > 1 else None
    if given is not None:
        open_rank = ints(given) is None
    else:
        open_rank = (
            x is not None and x.shape is not None and not all(isinstance(d, int) for d in x.shape.dims)
        ) and attribute(node, "axes") is None
    if open_rank:
        output.shape = None


def _settle_einsum(node: Node, output: Value, new_dim: NewDim) -> None:
    """A label that two operands have is known where they agree, or one of them is a number beyond 1.

    Runtimes broadcast an axis of size 1 against the same label of another operand, of which the text says
    nothing; the package, and ONNX's own inference, take the size of the first operand. Where that is
    1 or a symbol and the true size is another number, the size is left open, so that nobody contradicts it.
    """
    left, arrow, right = "".join(str(attribute(node, "equation", "")).split()).partition("->")
    if not arrow or output.shape is None:
        return
    across: dict[str, list[Dim]] = {}
    for value, term in zip(node.inputs, left.split(","), strict=False):
        for label, axis in _labelled(term):
            if value is not None and value.shape is not None:
                across.setdefault(label, []).append(value.shape.dims[axis])
    dims = list(output.shape.dims)
    for label, axis in _labelled(right):
        assumed, dim = dims[axis], broadcast_dims(across.get(label, []))
        agreed = dim is not None and (isinstance(assumed, SymbolicDim) or same_dim(dim, assumed))
        dims[axis] = dim if agreed and dim is not None else new_dim()
    output.shape = Shape(dims)


def _labelled(term: str) -> list[tuple[str, int]]:
    """The labels of an Einsum's term with their axes, which count from the end behind an ellipsis."""
    front, _, back = term.partition("...")
    return [*zip(front, range(len(front)), strict=True), *zip(back, range(-len(back), 0), strict=True)]


def _settle_slice(node: Node, output: Value, context: ShapeInferenceContext) -> None:
    """A number made of an axis of unknown size holds only if the bounds are inside it.

    Axes that are not sliced keep their size, whatever the bounds are; an axis of known size with
    constant bounds has exactly the length that the specification gives it.
    """
    x, new_dim = node.inputs[0], context.new_symbolic_dim
    if x is None or x.shape is None or output.shape is None or len(x.shape) != len(output.shape):
        return
    count = len(x.shape)
    given = node.inputs[3] if len(node.inputs) > 3 else None
    if any(v is not None and not _are_numbers(v, context) for v in node.inputs[3:5]):
        # Along which axes, or in which steps, is not known: the package takes the defaults instead.
        context._symbolic_values.pop(output, None)
        kept = ints(given)
        sliced = range(count) if kept is None else {axis % count for axis in kept}
        output.shape = Shape([new_dim() if i in sliced else d for i, d in enumerate(x.shape.dims)])
        return
    axes = ints(given)
    sliced = set(range(count)) if axes is None else {axis % count for axis in axes}
    lengths = _slice_lengths(node, x.shape, axes)
    dims: list[Dim] = []
    for axis, (before, after) in enumerate(zip(x.shape.dims, output.shape.dims, strict=True)):
        if axis not in sliced:
            dims.append(before)
        elif axis in lengths:
            dims.append(lengths[axis])
        elif isinstance(before, SymbolicDim) and isinstance(after, int) and after != 0:
            dims.append(new_dim())
        else:
            dims.append(after)
    output.shape = Shape(dims)


def _are_numbers(value: Value, context: ShapeInferenceContext) -> bool:
    """Whether the elements of `value` are known."""
    elements = context.get_symbolic_value(value)
    return ints(value) is not None or (elements is not None and all(isinstance(d, int) for d in elements))


def _slice_lengths(node: Node, shape: Shape, axes: Sequence[int] | None) -> dict[int, int]:
    """The length along each axis of known size, if all bounds are constant."""
    starts, ends = (ints(value) for value in node.inputs[1:3])
    if starts is None or ends is None or (axes is None and len(node.inputs) > 3 and node.inputs[3]):
        return {}
    given = node.inputs[4] if len(node.inputs) > 4 else None
    steps = [1] * len(starts) if given is None else ints(given)
    axes = range(len(starts)) if axes is None else axes
    if steps is None or not len(starts) == len(ends) == len(axes) == len(steps):
        return {}
    lengths = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = shape.dims[axis]
        if isinstance(size, int) and step:
            lengths[axis % len(shape)] = len(slice_range(size, start, end, step))
        elif step > 0 and end <= -(2**31):  # before the start of an axis of any size
            lengths[axis % len(shape)] = 0
    return lengths


def slice_range(size: int, start: int, end: int, step: int) -> range:
    """The indices that Slice takes of an axis of `size`: bounds are clamped, not wrapped.

    Going backward, a start before the axis is clamped to its first element (numpy takes nothing then).

    Spec: https://onnx.ai/onnx/operators/onnx__Slice.html
    """
    start, end = (x + size if x < 0 else x for x in (start, end))
    if step > 0:
        return range(min(max(start, 0), size), min(max(end, 0), size), step)
    if not size:
        return range(0)
    return range(min(max(start, 0), size - 1), min(max(end, -1), size - 1), step)


def _settle_pool(node: Node, output: Value, context: ShapeInferenceContext) -> None:
    """Forget sizes that the specification's versions and its implementations disagree on.

    Those are windows larger than the padded input, dilated windows under SAME padding, and, before
    version 22, with ``ceil_mode`` a last window that starts in the padding: it is dropped when the
    pool runs, but the inference of those versions counts it.
    """
    x = node.inputs[0]
    if x is None or x.shape is None or output.shape is None or len(x.shape) != len(output.shape):
        return
    spatial = len(x.shape) - 2
    same = attribute(node, "auto_pad") in ("SAME_UPPER", "SAME_LOWER")
    dilations = attribute(node, "dilations") or [1] * spatial
    strides = attribute(node, "strides") or [1] * spatial
    pads = attribute(node, "pads") or [0] * (2 * spatial)
    if attribute(node, "auto_pad") == "VALID":
        pads = [0] * (2 * spatial)
    old_ceil = bool(attribute(node, "ceil_mode")) and context.get_opset_version("") < 22
    dims = list(output.shape.dims)
    for axis in range(spatial):
        size, length = x.shape.dims[axis + 2], dims[axis + 2]
        if not isinstance(length, int) or not isinstance(size, int):
            continue
        # The formula without the drop gives one window more where that one would start in the padding.
        dropped = old_ceil and not same and length * strides[axis] >= size + pads[axis]
        window = (attribute(node, "kernel_shape")[axis] - 1) * dilations[axis] + 1
        padded = size + pads[axis] + pads[axis + spatial]
        dropped = dropped and -(-(padded - window) // strides[axis]) + 1 != length
        unclear = same and (dilations[axis] > 1 or (old_ceil and window < strides[axis]))
        if length <= 0 or dropped or unclear:
            dims[axis + 2] = context.new_symbolic_dim()
    for value in node.outputs:
        value.shape = Shape(dims)


def _settle_pad(node: Node, output: Value, context: ShapeInferenceContext) -> None:
    """Amounts that are followed symbolically count, too; amounts along unknown axes leave nothing known."""
    x = node.inputs[0]
    given = node.inputs[3] if len(node.inputs) > 3 else None
    if x is None or x.shape is None:
        return
    count = len(x.shape)
    axes = tuple(range(count)) if given is None else ints(given)
    amounts = context.get_symbolic_value(node.inputs[1])
    if axes is None:
        output.shape = Shape([context.new_symbolic_dim() for _ in range(count)])
    elif ints(node.inputs[1]) is None and amounts is not None and len(amounts) == 2 * len(axes):
        dims: list[Dim] = list(x.shape.dims)
        for position, axis in enumerate(axes):
            pair = (amounts[position], amounts[position + len(axes)])
            known = all(isinstance(d, int) or d.value is not None for d in pair)
            dims[axis] = dims[axis] + pair[0] + pair[1] if known else context.new_symbolic_dim()
        output.shape = Shape(dims)


def _settle_split(node: Node, context: ShapeInferenceContext) -> None:
    """Parts whose sizes are followed symbolically have those sizes; unknown sizes are not equal ones."""
    x, given = node.inputs[:2]
    if x is None or x.shape is None or given is None:
        return
    axis = int(attribute(node, "axis", 0))
    sizes = context.get_symbolic_value(given)
    if ints(given) is not None:
        return
    fits = sizes is not None and len(sizes) == len(node.outputs)
    for index, value in enumerate(node.outputs):
        size = sizes[index] if fits and sizes is not None else None
        known = isinstance(size, int) or (size is not None and size.value is not None)
        dims = list(x.shape.dims)
        dims[axis] = size if known and size is not None else context.new_symbolic_dim()
        value.shape = Shape(dims)
        context._symbolic_values.pop(value, None)


def _settle_conv_transpose(node: Node, output: Value, new_dim: NewDim) -> None:
    """Under SAME padding a window shorter than the stride leaves a size that is read in two ways."""
    weight = node.inputs[1]
    if (
        attribute(node, "auto_pad") not in ("SAME_UPPER", "SAME_LOWER")
        or attribute(node, "output_shape")
        or output.shape is None
        or weight is None
        or weight.shape is None
    ):
        return
    spatial = len(output.shape) - 2
    strides = attribute(node, "strides") or [1] * spatial
    dilations = attribute(node, "dilations") or [1] * spatial
    dims = list(output.shape.dims)
    for axis in range(spatial):
        kernel = weight.shape.dims[axis + 2]
        if not isinstance(kernel, int) or (kernel - 1) * dilations[axis] + 1 < strides[axis]:
            dims[axis + 2] = new_dim()
    output.shape = Shape(dims)
