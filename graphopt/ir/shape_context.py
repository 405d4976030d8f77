"""What shape inference may remember and read, bounded: a file decides how much there would be.

Arithmetic on shapes can double the length of an expression, the size of a number and the count of
followed elements with every node.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from onnx_shape_inference import SYM_DATA_KEY, ShapeInferenceContext

from graphopt.ir import DataType, Node, Shape, SymbolicDim, TensorType, Value
from graphopt.ir.query import attribute, is_op

MAX_EXPRESSION_CHARACTERS = 256
MAX_FOLLOWED_ELEMENTS = 1024
MAX_READ_ELEMENTS = 1 << 14
MAX_RANK = 64


class BoundedContext(ShapeInferenceContext):  # type: ignore[misc]  # the package is untyped
    """A context that follows the elements of short integer tensors only, in short expressions.

    Attributes:
        extents: vectors whose symbolic elements all are sizes of dimensions, so never negative.
    """

    extents: set[Value]

    def forget(self, value: Value) -> None:
        """Drop what is known of the elements of `value`."""
        self._symbolic_values.pop(value, None)
        self.extents.discard(value)

    def get_symbolic_value(self, value: Value) -> list[int | SymbolicDim] | None:
        """What is known of the elements of `value`: of a default that a caller may override, nothing."""
        if value.is_graph_input() and value not in self._symbolic_values:
            return None
        return super().get_symbolic_value(value)  # type: ignore[no-any-return]

    def set_symbolic_value(self, value: Value, data: list[int | SymbolicDim]) -> None:
        """Remember `data` as the elements of `value`, unless they are many or long."""
        if len(data) > MAX_FOLLOWED_ELEMENTS or any(map(is_excessive, data)):
            self._symbolic_values.pop(value, None)
            return
        super().set_symbolic_value(value, data)
        # What is followed is known to this context; it does not belong into the user's model.
        value.metadata_props.pop(SYM_DATA_KEY, None)

    def bound_shape(self, value: Value) -> None:
        """Forget of the shape of `value` what no tensor has or nobody would read."""
        if value.shape is not None and len(value.shape) > MAX_RANK:
            value.shape = None
        if value.shape is not None and any(map(is_excessive, value.shape.dims)):
            dims = [self.new_symbolic_dim() if is_excessive(d) else d for d in value.shape.dims]
            value.shape = Shape(dims)


def is_excessive(dim: int | SymbolicDim) -> bool:
    """Whether `dim` is no int64, or an expression that nobody would read."""
    if isinstance(dim, int):
        return not -(2**63) <= dim < 2**63
    return dim.value is not None and len(dim.value) > MAX_EXPRESSION_CHARACTERS


@contextmanager
def fixed_numbers_only(node: Node) -> Iterator[None]:
    """Within it, large constants and defaults that a caller may override have shapes only."""
    hidden = {
        value: value.const_value
        for value in node.inputs
        if value is not None
        and value.const_value is not None
        and (value.is_graph_input() or value.const_value.size > MAX_READ_ELEMENTS)
    }
    try:
        for value in hidden:
            value.const_value = None
        yield
    finally:
        for value, tensor in hidden.items():
            value.const_value = tensor


def infer_long_concat(node: Node) -> bool:
    """Infer a Concat of vectors that are too long for following their elements; False if it is none."""
    if not is_op(node, "Concat") or attribute(node, "axis") not in (0, -1) or None in node.inputs:
        return False
    lengths: list[int | SymbolicDim] = []
    dtype: DataType | None = None
    for value in node.inputs:
        if value is None or value.shape is None or len(value.shape) != 1:
            return False
        lengths.append(value.shape.dims[0])
        dtype = dtype or value.dtype
    if not any(isinstance(d, int) and d > MAX_FOLLOWED_ELEMENTS for d in lengths) or dtype is None:
        return False
    total: int | SymbolicDim = 0
    for length in lengths:
        total = total + length
    node.outputs[0].type = TensorType(dtype)
    node.outputs[0].shape = Shape([total])
    return True
