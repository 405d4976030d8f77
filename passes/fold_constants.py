"""fold-constants: what depends on constants only is computed once, now."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import onnx_ir

from graphopt.ir import DataType, Graph, Model, Node, TensorProtocol, Value
from graphopt.ir.edit import Namer, add_initializer, remove_dead, replace_value
from graphopt.ir.evaluate import EvaluationError, evaluable_ops, evaluate, opset_of
from graphopt.ir.query import (
    constant_tensor,
    element_count,
    is_deterministic,
    is_op,
    static_shape,
    subgraphs,
)
from graphopt.passes._weight_layout import LAYOUT_OPS, feeds_matrix_products, promise
from graphopt.transform import Changes, Exactness, Pass
from graphopt.transform.pipeline import initializer_bytes

SMALL_BYTES = 1 << 16
"""The growth that even a tiny model is allowed."""

SMALL_OPERAND_BYTES = 256
"""What operands of at most this size free is not counted."""

EVALUATION_HEADROOM = 4
"""How much more than `max_bytes` the operands of one evaluation may take."""

# A quantised weight is meant to stay small: targets fuse its DequantizeLinear.
_KEPT_OPS = frozenset({"DequantizeLinear"})


@dataclasses.dataclass(frozen=True)
class FoldConstants(Pass):
    """Replace nodes whose inputs are all constants by their results.

    Initializers that a caller may override are no constants. Random operators and DequantizeLinear
    stay. A change of layout (Transpose, Reshape, Cast, Concat, Slice, …) of a weight that is used nowhere
    else costs nothing and is folded at any size, without reading the weight before it is needed.

    Transcendental functions may be rounded differently than on the target; all else is exact.

    given:  float[N, 3] x
    before: y = MatMul(x, Transpose<perm = [1, 0]>([[1.0, 2.0, 3.0]]))
    after:  y = MatMul(x, [[1.0], [2.0], [3.0]])

    Attributes:
        max_bytes: the largest result that is computed here.
        growth: how far all initializers together may grow, as a fraction of what they were.
        tied: fold the Transpose of a weight that is used elsewhere, too, for a matrix product, and do not
            count the copy: runtimes prepare constant operands only (a head that shares the embedding).
    """

    max_bytes: int = 1 << 20
    growth: float = 0.1
    tied: bool = True
    exactness = Exactness.REASSOCIATES

    def run(self, model: Model) -> Changes:
        """Fold in the order of the graph, so that one sweep reaches everything."""
        return _Folder(model, self).run()


class _Folder:
    """One sweep: the budget, and what was found on the way."""

    def __init__(self, model: Model, options: FoldConstants) -> None:
        self.model = model
        self.max_bytes = options.max_bytes
        self.tied = options.tied
        self.changes = Changes()
        self.namer = Namer(model.graph)
        self.budget = max(int(initializer_bytes(model) * options.growth), SMALL_BYTES)
        self.shares: dict[Value, tuple[int, int]] = {}
        self.operands: dict[Value, None] = {}

    def run(self) -> Changes:
        for node in list(_nodes_in_order(self.model.graph)):
            self._visit(node)
        # Asked once at the end: a constant may have thousands of users, and each asking lists them.
        for operand in self.operands:
            if operand.name is not None and not operand.uses() and not operand.is_graph_output():
                self.model.graph.initializers.pop(operand.name, None)
        return self.changes

    def _visit(self, node: Node) -> None:
        if node.graph is None or not node.inputs or all(v is None for v in node.inputs):
            return
        tensors = [None if v is None else constant_tensor(v) for v in node.inputs]
        if any(v is not None and t is None for v, t in zip(node.inputs, tensors, strict=True)):
            return
        if is_op(node, "Identity") and node.outputs[0].is_graph_output():
            return  # it carries a constant straight to an output
        try:
            results = self._results(node, tensors)
        except EvaluationError as error:
            self.changes.declined[f"{node.op_type}: {error}"] += 1
            return
        self._replace(node, results)
        self.changes.counts[node.op_type] += 1

    def _results(self, node: Node, tensors: list[TensorProtocol | None]) -> list[TensorProtocol]:
        """The results of `node`, computed or promised, paid for from the budget."""
        if (node.domain or "") != "" or node.op_type not in evaluable_ops() or any(subgraphs(node)):
            raise EvaluationError("its operator is not folded")
        if node.op_type in _KEPT_OPS:
            raise EvaluationError("a quantised weight stays quantised")
        if not is_deterministic(node):
            raise EvaluationError("it is random")
        if any(t is not None and t.dtype == DataType.STRING for t in tensors):
            raise EvaluationError("strings are not folded")
        freed = self._freed_bytes(node)
        sizes = [_declared_bytes(value) for value in node.outputs]
        if any(size is None for size in sizes):
            known = 0
        else:
            known = sum(size for size in sizes if size is not None)
            if known - freed > self.budget and not self._may_copy(node):
                raise EvaluationError("the weights would grow beyond the budget")
        operands = sum(t.nbytes for t in tensors if t is not None)
        if known > self.max_bytes or operands > EVALUATION_HEADROOM * self.max_bytes:
            results = self._promise(node, tensors)
        else:
            results = self._compute(node, tensors)
        growth = sum(t.nbytes for t in results) - freed
        if growth > self.budget:
            if not self._may_copy(node):
                raise EvaluationError("the weights would grow beyond the budget")
            return results
        self.budget -= max(growth, 0)
        return results

    def _freed_bytes(self, node: Node) -> int:
        """The bytes of its operands that `node` answers for.

        An operand that only nodes use which are about to be folded themselves goes with the last of
        them: each of them has a share, by the size of its result.
        """
        own = sum(_declared_bytes(value) or 0 for value in node.outputs)
        total = 0.0
        for value in dict.fromkeys(node.inputs):
            if value is None:
                continue
            if value not in self.shares:
                self.shares[value] = self._share(value)
            freed, results = self.shares[value]
            total += freed * own / results if results else freed
        return math.floor(total)

    def _share(self, value: Value) -> tuple[int, int]:
        """(the bytes that go with `value`, the bytes of the results of all its users)."""
        tensor = constant_tensor(value)
        if tensor is None or tensor.nbytes <= SMALL_OPERAND_BYTES or value.is_graph_output():
            return 0, 0
        users = dict.fromkeys(value.consumers())
        if len(users) > 1 and not all(_will_fold(user, self.max_bytes) for user in users):
            return 0, 0
        return int(tensor.nbytes), sum(_declared_bytes(v) or 0 for user in users for v in user.outputs)

    def _compute(self, node: Node, tensors: list[TensorProtocol | None]) -> list[TensorProtocol]:
        arrays = [None if t is None else t.numpy() for t in tensors]
        results = evaluate(node, arrays, opset=opset_of(self.model, node), max_bytes=self.max_bytes)
        if len(results) != len(node.outputs):
            raise EvaluationError("the number of results is not that of its outputs")
        made: list[TensorProtocol] = []
        for value, array in zip(node.outputs, results, strict=True):
            if array.dtype == object or (value.dtype is not None and value.dtype.numpy() != array.dtype):
                raise EvaluationError("the result has another type than its output")
            shape = static_shape(value)
            if shape is not None and shape != array.shape:
                raise EvaluationError("the result has another shape than its output")
            made.append(onnx_ir.tensor(np.ascontiguousarray(array).reshape(array.shape), dtype=value.dtype))
        return made

    def _promise(self, node: Node, tensors: list[TensorProtocol | None]) -> list[TensorProtocol]:
        """The results of a layout change, to be computed when somebody reads them."""
        promised = promise(node, tensors, opset_of(self.model, node))
        if promised is None:
            raise EvaluationError("operands or result are over max-bytes")
        return promised

    def _may_copy(self, node: Node) -> bool:
        """Whether `node` turns a weight that is used elsewhere, too, into the operand of products."""
        return self.tied and is_op(node, "Transpose") and feeds_matrix_products(node.outputs[0])

    def _replace(self, node: Node, results: list[TensorProtocol]) -> None:
        self.operands.update((v, None) for v in node.inputs if v is not None)
        for value, tensor in zip(node.outputs, results, strict=True):
            if not value.uses() and not value.is_graph_output():
                continue
            stem = value.name or f"{node.name}/folded"
            if value.is_graph_output():
                stem = f"{stem}/folded"
            name = stem if stem == value.name else self.namer.value(stem)
            if stem == value.name:
                value.name = None
            tensor.name = name
            replace_value(value, add_initializer(self.model.graph, name, tensor))
        remove_dead([node])


def _nodes_in_order(graph: Graph) -> Iterator[Node]:
    for node in graph:
        yield node
        for sub in subgraphs(node):
            yield from _nodes_in_order(sub)


def _will_fold(node: Node, max_bytes: int) -> bool:
    """Whether `node` has what it takes to be folded, as far as can be seen without doing it."""
    if (node.domain or "") != "" or node.op_type not in evaluable_ops() - _KEPT_OPS:
        return False
    if any(v is not None and constant_tensor(v) is None for v in node.inputs) or not is_deterministic(node):
        return False
    sizes = [_declared_bytes(value) for value in node.outputs]
    return all(size is not None and (size <= max_bytes or node.op_type in LAYOUT_OPS) for size in sizes)


def _declared_bytes(value: Value) -> int | None:
    shape = static_shape(value)
    if shape is None or value.dtype is None or value.dtype == DataType.STRING:
        return None
    return math.ceil(element_count(shape) * float(value.dtype.itemsize))
