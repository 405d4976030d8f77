"""infer-shapes: types and shapes are computed anew."""

from __future__ import annotations

import dataclasses

from graphopt.ir import Model, Shape, Value, shapes
from graphopt.ir.query import walk_graphs
from graphopt.transform import Changes, Pass


@dataclasses.dataclass(frozen=True)
class InferShapes(Pass):
    """Infer types and shapes again, and keep the result if any became more precise.

    given:  float[6] x
    before: float[A, B] y = Reshape(x, [2, 3])
    after:  float[2, 3] y = Reshape(x, [2, 3])

    As here, more is known of a result once the operand that gives its shape has been folded.
    """

    def run(self, model: Model) -> Changes:
        """Infer, compare, and restore what was there if nothing was learnt."""
        changes = Changes()
        values = _values(model)
        before = [(value, value.type, value.shape) for value in values]
        shapes.infer_shapes(model)
        for value, type_, shape in before:
            if type_ is None and value.type is not None:
                changes.counts["type"] += 1
            if _is_more_precise(value.shape, shape):
                changes.counts["shape"] += 1
        if not changes.modified:
            # Unknown dimensions were given other names: nobody gains by that.
            for value, type_, shape in before:
                value.type, value.shape = type_, shape
        return changes


def _values(model: Model) -> list[Value]:
    return [
        value
        for graph in walk_graphs(model.graph)
        for value in (*graph.inputs, *(output for node in graph for output in node.outputs))
    ]


def _is_more_precise(new: Shape | None, old: Shape | None) -> bool:
    if new is None:
        return False
    if old is None:
        return True
    return len(new) == len(old) and any(
        isinstance(n, int) and not isinstance(o, int) for n, o in zip(new.dims, old.dims, strict=True)
    )
