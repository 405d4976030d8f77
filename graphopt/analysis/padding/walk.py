"""The walk over a graph that proves, node by node, what padding leaves alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from graphopt.analysis.padding.sizes import mentions, size_of
from graphopt.analysis.padding.states import COUNTS, FIXED, Context, Leak, Refusal, State
from graphopt.ir import Graph, Node, SymbolicDim, Value
from graphopt.ir.query import captured_values, is_deterministic, subgraphs

Rule = Callable[[Node, Context], State | Sequence[State]]

RULES: dict[tuple[str, str], Rule] = {}
"""By domain and operator. A rule is asked when an input depends on the padded dimension.

It gives the state of every output (one state: of all), or raises Refusal."""

_ARITHMETIC = frozenset(
    """
    Abs Add And Cast Ceil Concat Div Equal Floor Greater GreaterOrEqual Identity Less LessOrEqual Max
    Min Mod Mul Neg Not Or Pow Sqrt Sub Sum Where
    """.split()
)
"""Operators that make numbers of numbers, in a shape that does not depend on them."""

_REARRANGING = frozenset(
    """
    Expand Flatten Gather ReduceMax ReduceMin ReduceProd ReduceSum Reshape Slice Split Squeeze Transpose
    Unsqueeze
    """.split()
)
"""Operators of which that holds for the first input."""


def rule(*op_types: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register the decorated function as the rule of these operators."""

    def register(function: Rule) -> Rule:
        for op_type in op_types:
            RULES[domain, op_type] = function
        return function

    return register


_MALFORMED = (IndexError, KeyError, TypeError, ValueError, ArithmeticError, AttributeError)
"""What rules raise on nodes that are not as their operator says; to prove nothing is always a safe answer."""


def walk(graph: Graph, context: Context) -> None:
    """Prove what can be proven of every node of `graph`, in order."""
    for node in graph:
        step(node, context)


def step(node: Node, context: Context) -> None:
    """Record the states of the outputs of `node`."""
    outer = captured_values(node) if any(True for _ in subgraphs(node)) else []
    given = [context.state(v) for v in (*node.inputs, *outer) if v is not None]
    leak = next((s.leak for s in given if s.leak is not None), None)
    if leak is not None:
        states: Sequence[State] = [State(leak=leak)] * len(node.outputs)
    elif all(s.fixed for s in given):
        states = [FIXED] * len(node.outputs)
    else:
        try:
            states = _proven(node, given, context)
        except Refusal as refusal:
            states = [State(leak=Leak(node, refusal.why, refusal.axis))] * len(node.outputs)
        except _MALFORMED:
            states = [State(leak=Leak(node, "it has a form that no rule expects"))] * len(node.outputs)
    for value, state in zip(node.outputs, states, strict=True):
        _record(node, value, state, context)


def _proven(node: Node, given: Iterable[State], context: Context) -> Sequence[State]:
    domain, op = node.domain or "", node.op_type
    if not is_deterministic(node):
        raise Refusal("it draws random numbers, and how many changes all of them")
    counting = {i for i, v in enumerate(node.inputs) if context.state(v).counts}
    if counting and domain == "" and (op in _ARITHMETIC or (op in _REARRANGING and counting == {0})):
        others = [context.of(node, i) for i in range(len(node.inputs)) if i not in counting]
        if all(s.fixed for s in others):
            return [COUNTS] * len(node.outputs)
    found = RULES.get((domain, op))
    if found is None:
        raise Refusal("nothing is known of how this operator treats padding")
    if not counting <= _TAKES_COUNTS.get((domain, op), frozenset()):
        raise Refusal(f"it computes with the size of {context.padded!r}")
    states = found(node, context)
    return [states] * len(node.outputs) if isinstance(states, State) else states


_TAKES_COUNTS = {
    ("", "ConstantOfShape"): frozenset({0}),
    ("", "Expand"): frozenset({1}),
    ("", "Range"): frozenset({1}),
    ("", "Reshape"): frozenset({1}),
    ("", "Resize"): frozenset({3}),
    ("", "Slice"): frozenset({1, 2}),
    ("", "Tile"): frozenset({1}),
}
"""The inputs of operators whose rules look at the sizes that they are given there."""


def _record(node: Node, value: Value, state: State, context: Context) -> None:
    """Keep a state, after a look at whether inference contradicts it."""
    if state.counts:
        known = context.elements(value)
        if known is not None and all(_is_independent(d, context) for d in known):
            state = FIXED  # of all sizes in a shape, those of other dimensions were taken
    problem = None if state.leak is not None else _contradiction(value, state, context)
    if problem is not None:
        state = State(leak=Leak(node, problem))
    context.states[value] = state
    if state.leak is None and value.shape is not None:
        for axis, dim in enumerate(value.shape.dims):
            if axis not in state.tags and isinstance(dim, SymbolicDim):
                context.independent.add(str(dim.value))


def _contradiction(value: Value, state: State, context: Context) -> str | None:
    """What inference says of the shape that a rule's result does not agree with."""
    if value.shape is None:
        return None
    for axis, dim in enumerate(value.shape.dims):
        tag = state.tags.get(axis)
        text = "" if isinstance(dim, int) else str(dim.value)
        if tag is None and mentions(text, context.padded):
            size = size_of(dim, context.padded, context.largest)
            if size is not None and context.padded not in size.names:
                continue  # min(1, batch)
            return f"its result's axis {axis} has the size {text}, which depends on {context.padded!r}"
        if tag is not None and (isinstance(dim, int) or context.is_independent_symbol(text)):
            return f"its result's axis {axis} has the size {dim}, which does not depend on {context.padded!r}"
    return None


def _is_independent(dim: int | SymbolicDim, context: Context) -> bool:
    return isinstance(dim, int) or context.is_independent_symbol(str(dim.value))
