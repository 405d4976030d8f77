"""Whether a dimension may be padded: a proof that the real part of every result stays what it was.

A model compiled for batch 8 serves a batch of 5 when three more rows are fed and the results' rows of
these are dropped. That is right only if nothing in the model looks across the batch. :func:`prove_padding`
walks the optimised graph and proves, operator by operator, that what a value holds at the real indices of
the dimension depends on the inputs at real indices only, whatever stands in the rest; and follows where in
every result the dimension ends up, through transposes, splits and merges of axes. An operator, or a form of
one, that there is no rule for proves nothing. Sizes that become numbers (a mean that divides by ``Shape(x)``)
are followed too.

What the proof takes for granted: shape inference, and that rows that are run add no error of their own. The
session therefore feeds copies of the last real row, which no operator can dislike more than the row itself.
"""

from __future__ import annotations

from graphopt.analysis.padding import control, layout, operators, pointwise
from graphopt.analysis.padding.result import PaddedAxis, Padding
from graphopt.analysis.padding.states import Context, Leak, State, Tag
from graphopt.analysis.padding.walk import walk
from graphopt.errors import UnsupportedError
from graphopt.ir import Model, Node, SymbolicDim, TensorType, Value
from graphopt.ir.provenance import origins
from graphopt.ir.shapes import infer_afresh

_RULE_MODULES = (control, layout, operators, pointwise)
"""Importing them registers their rules."""

MAX_ORIGINS = 3


def prove_padding(model: Model, dim: str, largest: int) -> Padding:
    """The proof that `model` may be run with the dimension `dim` padded, to `largest` at most.

    Args:
        dim: a symbol in the shapes of the inputs.

    Raises:
        UnsupportedError: GO210, that cannot be proven; it names the first node that stands in the way.
    """
    work = model.clone()
    context = Context(dim, largest, infer_afresh(work))
    graph = work.graph
    for value in graph.inputs:
        if value.shape is None:
            continue
        symbols = [str(d.value) for d in value.shape.dims if isinstance(d, SymbolicDim)]
        context.independent.update(name for name in symbols if name != dim)
        if dim in symbols and not isinstance(value.type, TensorType):
            raise _refused(Leak(None, f"the input {value.name!r} is no tensor"), dim)
        context.states[value] = State({axis: Tag() for axis in padded_axes(value, dim)})
    walk(graph, context)
    leaks = [s.leak for v in graph.outputs if (s := context.state(v)).leak is not None]
    if leaks:
        order: dict[Node | None, int] = {node: place for place, node in enumerate(graph.all_nodes())}
        raise _refused(min(leaks, key=lambda leak: order.get(leak.node, -1)), dim)
    inputs = {v.name or "": axes for v in graph.inputs if (axes := padded_axes(v, dim))}
    outputs = {v.name or "": _cuts(v, context.state(v), context) for v in graph.outputs}
    return Padding(dim, inputs, {name: cuts for name, cuts in outputs.items() if cuts})


def padded_axes(value: Value, dim: str) -> tuple[int, ...]:
    """The axes of `value` whose size is the dimension `dim`."""
    dims = () if value.shape is None else value.shape.dims
    return tuple(a for a, d in enumerate(dims) if isinstance(d, SymbolicDim) and d.value == dim)


def _cuts(value: Value, state: State, context: Context) -> tuple[PaddedAxis, ...]:
    if state.counts:
        raise _refused(
            Leak(value.producer(), "the output holds sizes, which padding changes"), context.padded
        )
    unknown = [n for tag in state.tags.values() for n in tag.outer.names if n not in context.independent]
    if unknown or any(not n.isidentifier() for tag in state.tags.values() for n in tag.outer.names):
        raise _refused(
            Leak(value.producer(), "where it lies in the output depends on unknown sizes"), context.padded
        )
    return tuple(
        PaddedAxis(axis, tag.outer.factor, tag.outer.names) for axis, tag in sorted(state.tags.items())
    )


def _refused(leak: Leak, dim: str) -> UnsupportedError:
    """The proof's failure as an error for people."""
    node = leak.node
    where = None
    if node is not None:
        sources = [name for name in origins(node) if name != node.name]
        came = f" (from {', '.join(sources[:MAX_ORIGINS])})" if sources else ""
        where = f"{node.op_type} {node.name!r}{came}"
    at = "" if leak.axis is None else f", on axis {leak.axis}"
    return UnsupportedError(
        "GO210",
        f"padding the dimension {dim!r} could change results: {leak.why}{at}",
        where=where,
        expected=f"that no node looks across {dim!r}",
        next_step=f"Compile an artifact for each size (--dim {dim}=8), or take feeds of exactly these sizes "
        "only (--buckets exact).",
        details={
            "dim": dim,
            "node": None if node is None else node.name,
            "op": None if node is None else node.op_type,
            "axis": leak.axis,
            "why": leak.why,
        },
    )


__all__ = ["PaddedAxis", "Padding", "padded_axes", "prove_padding"]
