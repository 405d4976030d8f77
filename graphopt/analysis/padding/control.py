"""Rules of control flow: the bodies are proven with what is known of their arguments."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.analysis.padding.states import FIXED, Context, Leak, Refusal, State, Tag, graph_of
from graphopt.analysis.padding.walk import rule, walk
from graphopt.ir import Graph, Node
from graphopt.ir.query import attribute


@rule("If")
def branch(node: Node, context: Context) -> Sequence[State]:
    """The same branch is taken in both runs, and both give results of the same form."""
    context.fixed(node, 0)
    found = []
    for name in ("then_branch", "else_branch"):
        graph = graph_of(node, name)
        walk(graph, context)
        found.append(_results(graph, context))
    return [_agreed(a, b) for a, b in zip(*found, strict=True)]


def _agreed(a: State, b: State) -> State:
    if a.leak is not None or b.leak is not None:
        return a if a.leak is not None else b
    if a != b:
        raise Refusal("its branches give results of different forms")
    return a


@rule("Loop")
def loop(node: Node, context: Context) -> Sequence[State]:
    """As many turns in both runs; what is carried keeps its form in every turn."""
    context.fixed(node, 0, 1)
    body = graph_of(node, "body")
    carried = [context.state(v) for v in node.inputs[2:]]
    results = _turn(body, [FIXED, FIXED, *carried], context)
    if not results[0].fixed:
        raise Refusal(f"when it ends depends on {context.padded!r}")
    _same_form(carried, results[1 : len(carried) + 1])
    return [*carried, *(_stacked(state, 0) for state in results[len(carried) + 1 :])]


@rule("Scan")
def scan(node: Node, context: Context) -> Sequence[State]:
    """One turn for each slice; turns over padding come last, and only what is carried shows them."""
    body = graph_of(node, "body")
    count = attribute(node, "num_scan_inputs")
    carried = [context.state(v) for v in node.inputs[:-count]]
    scanned = node.inputs[-count:]
    axes = attribute(node, "scan_input_axes", (0,) * count)
    slices, along = [], set()
    for value, axis in zip(scanned, axes, strict=True):
        state = context.state(value)
        axis = axis % context.rank(value)
        along.add(state.tags.get(axis))
        slices.append(State({a: tag for a, tag in state.tags.items() if a != axis}).without(axis))
    (steps, *others) = along
    backwards = any(
        (*attribute(node, "scan_input_directions", ()), *attribute(node, "scan_output_directions", ()))
    )
    if others or (steps is not None and (steps != Tag() or backwards)):
        raise Refusal(f"it runs over {context.padded!r}, but not from its first step on", axes[0])
    results = _turn(body, [*carried, *slices], context)
    _same_form(carried, results[: len(carried)])
    stacked = results[len(carried) :]
    places = attribute(node, "scan_output_axes", (0,) * len(stacked))
    ranks = [0 if v.shape is None else len(v.shape) for v in body.outputs[len(carried) :]]
    final = carried
    if steps is not None:
        final = [State(leak=Leak(node, f"its last state comes after the padded steps of {context.padded!r}"))]
        final = final * len(carried)
    return [
        *final,
        *(
            _stacked(state, place % (rank + 1), steps)
            for state, place, rank in zip(stacked, places, ranks, strict=True)
        ),
    ]


def _turn(body: Graph, arguments: Sequence[State], context: Context) -> list[State]:
    """The states of the body's results, given those of its arguments."""
    context.states.update(zip(body.inputs, arguments, strict=True))
    walk(body, context)
    return _results(body, context)


def _results(graph: Graph, context: Context) -> list[State]:
    return [context.state(value) for value in graph.outputs]


def _same_form(before: Sequence[State], after: Sequence[State]) -> None:
    for old, new in zip(before, after, strict=True):
        if new.leak is not None:
            raise Refusal(f"in its body: {new.leak.why}", new.leak.axis)
        if old != new:
            raise Refusal("what it carries changes its form")


def _stacked(state: State, axis: int, tag: Tag | None = None) -> State:
    """The state of the results of all turns, along a new axis."""
    if state.leak is not None:
        return state
    if state.counts:
        raise Refusal("it collects numbers computed from sizes")
    return state.with_axis(axis, tag)
