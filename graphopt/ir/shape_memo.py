"""Sizes that convolutions and pools leave of free dimensions, worked out once for each form.

A network repeats the same few: of 265 convolutions that an OCR classifier's shapes are inferred for, a
dozen differ but for their channels. Each costs 2 ms of symbolic arithmetic, most of it the writing of
expressions.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable

from graphopt.ir import DataType, Node, Shape, SymbolicDim, TensorType
from graphopt.ir.query import attribute

MAX_FORMS = 4096
Dims = tuple[int | SymbolicDim, ...]

_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
_POOLS = frozenset({"AveragePool", "LpPool", "MaxPool"})
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FUNCTIONS = frozenset({"Max", "Min", "Mod", "ceiling", "floor", "max", "min"})
_known: dict[Hashable, Dims] = {}


def form_of(node: Node, version: int) -> Hashable | None:
    """What the sizes of the results of `node` depend on, channels aside; None where nothing is to gain."""
    if node.op_type not in _CONVOLUTIONS | _POOLS or _first_two(node) is None:
        return None
    sizes = [None if v is None or v.shape is None else v.shape.dims[2:] for v in node.inputs[:2]]
    texts = tuple(None if dims is None else tuple(map(_text, dims)) for dims in sizes)
    if texts[0] is None or None in texts[0] or all(isinstance(dim, int) for dim in texts[0]):
        return None
    attributes = []
    for name in sorted(set(node.attributes) - {"group"}):
        value = node.attributes[name].value
        attributes.append((name, tuple(value) if isinstance(value, (list, tuple)) else value))
    return node.op_type, version, tuple(attributes), texts


def recall(form: Hashable | None, node: Node) -> bool:
    """Give the results of `node` the shapes that `form` is known to lead to; False if it is not known."""
    if form is None:
        return False
    sizes, front, source = _known.get(form), _first_two(node), node.inputs[0]
    if sizes is None or front is None or source is None or source.dtype is None:
        return False
    for index, value in enumerate(node.outputs):
        value.type = TensorType(source.dtype if index == 0 else DataType.INT64)
        value.shape = Shape([*front, *sizes])
    return True


def remember(form: Hashable | None, node: Node) -> None:
    """Remember the sizes of the results of `node`, if they are made of its first input's alone."""
    if form is None:
        return
    front, source, shapes = _first_two(node), node.inputs[0], [v.shape for v in node.outputs]
    if front is None or source is None or source.shape is None or shapes[0] is None:
        return
    dims = tuple(shapes[0].dims)
    if any(shape is None or tuple(shape.dims) != dims for shape in shapes) or dims[:2] != front:
        return
    sizes = [_text(dim) for dim in dims[2:]]
    if None in sizes or not _names(sizes) <= _FUNCTIONS | _names(map(_text, source.shape.dims[2:])):
        return
    if len(_known) >= MAX_FORMS:
        _known.clear()
    _known[form] = dims[2:]


def _first_two(node: Node) -> Dims | None:
    """Batch and channels of the results, or None if they are not known to be plain."""
    shapes = [None if v is None else v.shape for v in node.inputs[:2]]
    source, weight = shapes[0], shapes[1] if len(shapes) > 1 else None
    if source is None or len(source) < 3:
        return None
    if node.op_type in _POOLS:
        return source.dims[0], source.dims[1]
    if weight is None or len(weight) != len(source):
        return None
    if node.op_type == "Conv":
        return source.dims[0], weight.dims[0]
    channels = weight.dims[1]
    return (
        (source.dims[0], channels * int(attribute(node, "group", 1))) if isinstance(channels, int) else None
    )


def _text(dim: int | SymbolicDim) -> int | str | None:
    return dim.value if isinstance(dim, SymbolicDim) else dim


def _names(dims: Iterable[int | str | None]) -> set[str]:
    return {name for dim in dims if isinstance(dim, str) for name in _NAME.findall(dim)}
