"""merge-projections: products of one value with several weights become one product and a Split."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from graphopt.ir import Graph, Model, Node, Value
from graphopt.ir.edit import Namer, add_initializer, make_node, remove_dead, replace_value
from graphopt.ir.provenance import merge_origins
from graphopt.ir.query import constant_tensor, element_count, is_op, only_use, static_shape, walk_graphs
from graphopt.ir.shapes import Inference
from graphopt.passes._matching import is_float, numbers
from graphopt.transform import Changes, Exactness, Pass

MAX_PROJECTIONS = 8


@dataclasses.dataclass(frozen=True)
class Projection:
    """``x @ weight`` made by `product`, plus `bias` added by `total` where that is not None."""

    product: Node
    weight: Value
    total: Node | None
    bias: Value | None

    @property
    def result(self) -> Value:
        """What the projection is used as."""
        return (self.total or self.product).outputs[0]


@dataclasses.dataclass(frozen=True)
class MergeProjections(Pass):
    """Multiply one value with several weights, such as those of query, key and value, at once.

    given:  float[3, 2] x
    before: q = MatMul(x, [[1.0], [2.0]]); k = MatMul(x, [[3.0, 4.0], [5.0, 6.0]])
    after:  q, k = Split<axis = -1>(MatMul(x, [[1.0, 3.0, 4.0], [2.0, 5.0, 6.0]]), [1, 2])

    Weights are constants of two axes that nothing else uses; biases that are added to all are merged too.
    All shapes are known. The copies that Split makes cost more than one product saves where x has many
    rows, so the pass is for decoding.

    Options:
        max_rows: how many rows x may have; 0 for any number.

    Spec: https://onnx.ai/onnx/operators/onnx__MatMul.html, https://onnx.ai/onnx/operators/onnx__Split.html
    """

    max_rows: int = 16

    exactness = Exactness.REASSOCIATES

    def run(self, model: Model) -> Changes:
        """Merge wherever two or more projections take one value."""
        changes = Changes()
        namer: Namer | None = None
        inference: Inference | None = None
        for graph in walk_graphs(model.graph):
            for node in list(graph):
                if node.graph is None or not is_op(node, "MatMul"):
                    continue
                found = self._siblings(node, graph, changes)
                if len(found) < 2:
                    continue
                namer = namer or Namer(model.graph)
                inference = inference or Inference(model)
                _merge(found, graph, model, namer, inference)
                changes.counts["projections"] += 1
        return changes

    def _siblings(self, node: Node, graph: Graph, changes: Changes) -> list[Projection]:
        """The projections of the first operand of `node`, which is the first of them in the graph."""
        x = node.inputs[0]
        shape = static_shape(x)
        if x is None or not is_float(x) or len(x.uses()) < 2:
            return []
        if shape is None or len(shape) < 2 or 0 in shape:
            changes.declined["the shape of the input is not known"] += 1
            return []
        if self.max_rows and element_count(shape[:-1]) > self.max_rows:
            changes.declined["the input has many rows"] += 1
            return []
        users = [use.node for use in x.uses() if use.idx == 0 and is_op(use.node, "MatMul")]
        found = [p for user in users if user.graph is graph and (p := _projection(user)) is not None]
        if not found or all(p.product is not node for p in found) or len(found) > MAX_PROJECTIONS:
            return []
        biased = [p for p in found if p.bias is not None]
        if len(biased) != len(found):
            found = [Projection(p.product, p.weight, None, None) for p in found]
        return found


def _projection(product: Node) -> Projection | None:
    """`product` as a projection, if its weight is a constant that it alone uses."""
    weight = product.inputs[1]
    if weight is None or constant_tensor(weight) is None or only_use(weight) is not product:
        return None
    shape = static_shape(weight)
    if shape is None or len(shape) != 2 or 0 in shape:
        return None
    total = only_use(product.outputs[0])
    if total is None or not is_op(total, "Add") or total.graph is not product.graph:
        return Projection(product, weight, None, None)
    first, second = total.inputs
    bias = second if first is product.outputs[0] else first
    if bias is None or constant_tensor(bias) is None or static_shape(bias) != (shape[1],):
        return Projection(product, weight, None, None)
    return Projection(product, weight, total, bias)


def _merge(found: list[Projection], graph: Graph, model: Model, namer: Namer, inference: Inference) -> None:
    """Put one product, and one sum, before the first of the projections."""
    products = {p.product for p in found}
    first = next(node for node in graph if node in products)
    stem = first.name or "projections"
    nodes: list[Node] = []

    def add(op_type: str, *inputs: Value, outputs: int = 1, **attributes: int) -> list[Value]:
        names = [namer.value(f"{stem}/{op_type}:{i}") for i in range(outputs)]
        node = make_node(
            op_type, list(inputs), attributes, name=namer.node(f"{stem}/{op_type}"), output_names=names
        )
        inference.infer_node(node)
        nodes.append(node)
        return list(node.outputs)

    def joined(values: Iterable[Value | None], name: str) -> Value:
        arrays = [array for v in values if (array := numbers(v)) is not None]
        return add_initializer(model.graph, namer.value(f"{stem}/{name}"), np.concatenate(arrays, -1))

    x = first.inputs[0]
    assert x is not None
    result = add("MatMul", x, joined((p.weight for p in found), "weights"))[0]
    if found[0].bias is not None:
        result = add("Add", result, joined((p.bias for p in found), "biases"))[0]
    widths = [shape[1] for p in found if (shape := static_shape(p.weight)) is not None]
    sizes = add_initializer(model.graph, namer.value(f"{stem}/widths"), np.array(widths, np.int64))
    parts = add("Split", result, sizes, outputs=len(found), axis=-1)
    graph.insert_before(first, nodes)
    for projection, part in zip(found, parts, strict=True):
        replace_value(projection.result, part)
    died = remove_dead([p.total or p.product for p in found])
    merge_origins(nodes, died)
