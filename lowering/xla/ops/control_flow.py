"""If, Loop and Scan.

What is known at compile time decides first: a known condition emits one branch in place, a known
trip count becomes a scan. Loops whose carried shapes change are unrolled when they are short. What
remains has to keep its shapes, or is refused with GO205.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.errors import LoweringError, UnsupportedError
from graphopt.ir import Graph, Value
from graphopt.ir.query import attribute, constant, is_op
from graphopt.lowering.xla.emit import (
    Context,
    Operand,
    StaticOperandRequired,
    as_array,
    describe,
    graph_inputs_behind,
)
from graphopt.lowering.xla.ops import lowers

Array = Any
Ints = tuple[int, ...] | None

UNROLLED_TRIPS = 16
"""Loops of up to this many iterations may be unrolled."""

SPECIALISED_ELEMENTS = 16
"""Integer inputs of up to this many elements are worth a program of their own per value."""

_CONTROL_FLOW = (16, 19, 21, 23, 24, 25)


class _CarryChanges(Exception):
    """A loop's state has another shape, type or structure after an iteration than before it."""


@lowers("If", since=_CONTROL_FLOW)
def if_(ctx: Context, cond: Array, *, then_branch: Graph, else_branch: Graph) -> tuple[Operand, ...]:
    """The outputs of then_branch if cond, else of else_branch.

    A known condition emits that branch alone. Otherwise both branches must give the same shapes.

    Raises:
        UnsupportedError: GO205, the branches' results differ in shape or type.

    Spec: https://onnx.ai/onnx/operators/onnx__If.html
    """
    known = ctx.known(0)
    if known is not None:
        branch = then_branch if bool(known.reshape(-1)[0]) else else_branch
        return tuple(ctx.subgraph(branch, []))
    seen: dict[str, str] = {}

    def emit(name: str, branch: Graph) -> tuple[Any, ...]:
        results = tuple(_strong(as_array(o)) for o in ctx.subgraph(branch, []))
        seen[name] = _signature(results)
        if len(set(seen.values())) > 1:
            raise UnsupportedError(
                "GO205",
                "the branches give results of different shapes",
                where=describe(ctx.node),
                found=f"then: {seen['then']}; else: {seen['else']}",
            )
        return results

    try:
        return lax.cond(  # type: ignore[no-any-return]
            jnp.reshape(cond, ()), lambda: emit("then", then_branch), lambda: emit("else", else_branch)
        )
    except StaticOperandRequired:
        raise
    except UnsupportedError as error:
        raise _specialised(ctx, 0, error) from error


def _specialised(ctx: Context, index: int, error: UnsupportedError) -> UnsupportedError:
    """`error`, or that input `index` must be known, where that is a sensible way out.

    It is if all that the input is computed from are scalars or a few integers, like a sampling rate;
    nobody wants a program for each image.
    """
    inputs = graph_inputs_behind(ctx.node.inputs[index], ctx.emitter.model.graph)
    values = {v.name: v for v in ctx.emitter.model.graph.inputs}
    if not inputs or not all(_is_parameter(values[name]) for name in inputs):
        return error
    return StaticOperandRequired(
        f"input {index} must be known at compile time: {error.message}",
        inputs=inputs,
        where=describe(ctx.node),
        found=error.found,
        next_step="Bind it with --constant NAME=VALUE.",
    )


def _is_parameter(value: Value) -> bool:
    if value.shape is None or value.dtype is None:
        return False
    dims = value.shape.dims
    if not dims:
        return True
    known = all(isinstance(d, int) for d in dims)
    small = known and math.prod(int(d) for d in dims if isinstance(d, int)) <= SPECIALISED_ELEMENTS
    return small and value.dtype.numpy().kind in "iub"


def _strong(tree: Any) -> Any:
    """Arrays with settled (not weak) types, so that loops and branches agree on them."""
    return jax.tree.map(lambda x: lax.convert_element_type(x, x.dtype), tree)


def _signature(tree: Any) -> str:
    """Shapes and types of a tree of arrays, as messages show them."""

    def show(x: Any) -> str:
        return f"{x.dtype}[{','.join(map(str, x.shape))}]"

    return ", ".join(
        f"sequence({', '.join(map(show, item))})" if isinstance(item, list) else
        "none" if item is None else show(item)
        for item in tree
    )  # fmt: skip


def _through_identities(value: Value) -> Value:
    producer = value.producer()
    while producer is not None and is_op(producer, "Identity") and producer.inputs[0] is not None:
        value = producer.inputs[0]
        producer = value.producer()
    return value


def _stays_true(body: Graph) -> bool:
    """Whether the condition that `body` returns is true as long as the one it is given is."""
    value = _through_identities(body.outputs[0])
    if value is body.inputs[1]:
        return True
    number = constant(value, max_elements=1)
    if number is None and is_op(value.producer(), "Constant"):
        producer = value.producer()
        tensor = attribute(producer, "value") if producer is not None else None
        number = None if tensor is None else tensor.numpy()
    return number is not None and bool(number.reshape(-1)[0])


@lowers("Loop", since=_CONTROL_FLOW)
def loop(ctx: Context, m: Array | None, cond: Array | None, *v_initial: Any, body: Graph) -> tuple[Any, ...]:
    """Run body while its condition holds, at most m times; stack what it emits beyond the states.

    Raises:
        UnsupportedError: GO205, shapes change or the number of stacked results is not known.

    Spec: https://onnx.ai/onnx/operators/onnx__Loop.html
    """
    states = [ctx.operand(2 + i) for i in range(len(v_initial))]
    emission = _Loop(ctx, body, states)
    trips, start = ctx.known(0), ctx.known(1)
    trip_count = None if trips is None else max(int(trips.reshape(-1)[0]), 0)
    started = cond is None or (start is not None and bool(start.reshape(-1)[0]))
    if start is not None and not started:
        trip_count = 0  # the condition is false from the start
    fixed = trip_count is not None and (trip_count == 0 or (started and _stays_true(body)))
    problem: LoweringError | _CarryChanges
    try:
        if fixed and trip_count is not None:
            return emission.scan(trip_count)
        if not emission.stacks:
            return emission.while_(m, cond)
        problem = _CarryChanges("the number of iterations is not known, so neither is the results' shape")
    except (_CarryChanges, StaticOperandRequired) as error:
        problem = error
    if started and (not fixed or (trip_count or 0) <= UNROLLED_TRIPS):
        unrolled = emission.unroll(trip_count if m is None or trip_count is not None else -1)
        if unrolled is not None:
            return unrolled
    if isinstance(problem, StaticOperandRequired):
        if problem.inputs:
            raise problem
        refused: UnsupportedError = problem
    else:
        refused = UnsupportedError("GO205", str(problem), where=describe(ctx.node))
    # A number of iterations, or a first condition, that is fed may be all that was missing.
    if m is not None and trips is None:
        raise _specialised(ctx, 0, refused)
    raise refused if cond is None or start is not None else _specialised(ctx, 1, refused)


class _Loop:
    """The ways to emit one Loop. States that the body hands on unchanged are kept out of the carry."""

    def __init__(self, ctx: Context, body: Graph, states: Sequence[Operand]) -> None:
        self.ctx, self.body, self.states = ctx, body, list(states)
        count = len(states)
        self.stacks = len(body.outputs) - 1 - count
        self.carried = [
            i for i in range(count) if _through_identities(body.outputs[1 + i]) is not body.inputs[2 + i]
        ]

    def _emit(self, iteration: Any, cond: Any, carry: Sequence[Any]) -> tuple[Operand, list[Any], list[Any]]:
        """One iteration: the condition, all states and the stacked results."""
        states = list(self.states)
        for index, value in zip(self.carried, carry, strict=True):
            states[index] = value
        results = self.ctx.subgraph(self.body, [iteration, cond, *states])
        for index in range(len(states)):
            if index in self.carried:
                states[index] = results[1 + index]
        return results[0], states, results[1 + len(states) :]

    def _initial(self) -> list[Any]:
        return [_strong(as_array(self.states[i])) for i in self.carried]

    def _next(self, carry: Sequence[Any], states: Sequence[Any]) -> list[Any]:
        """The carry after an iteration. Raises _CarryChanges if its shapes differ from before."""
        after = [_strong(as_array(states[i])) for i in self.carried]
        for index, old, new in zip(self.carried, carry, after, strict=True):
            before, now = _signature([old]), _signature([new])
            if before != now:
                raise _CarryChanges(
                    f"state {index} changes its shape in an iteration, from {before} to {now}"
                )
        return after

    def _finish(self, carry: Sequence[Any]) -> list[Any]:
        states = list(self.states)
        for index, value in zip(self.carried, carry, strict=True):
            states[index] = value
        return states

    def scan(self, trip_count: int) -> tuple[Any, ...]:
        """A fixed number of iterations."""

        def step(carry: list[Any], iteration: Array) -> tuple[list[Any], list[Any]]:
            _, states, stacked = self._emit(iteration, np.array(True), carry)
            return self._next(carry, states), [as_array(s) for s in stacked]

        iterations = lax.iota(np.int64, trip_count)
        final, stacked = lax.scan(step, self._initial(), iterations)
        return (*self._finish(final), *stacked)

    def while_(self, limit: Array | None, cond: Array | None) -> tuple[Any, ...]:
        """Iterations as long as the data says so; nothing may be stacked."""

        def test(carry: tuple[Array, Array, list[Any]]) -> Array:
            more = carry[1]
            return more if limit is None else more & (carry[0] < jnp.reshape(limit, ()).astype(np.int64))

        def step(carry: tuple[Array, Array, list[Any]]) -> tuple[Array, Array, list[Any]]:
            iteration, more, values = carry
            again, states, _ = self._emit(iteration, more, values)
            following = jnp.reshape(as_array(again), ()).astype(np.bool_)
            return iteration + jnp.ones((), np.int64), following, self._next(values, states)

        start = jnp.ones((), np.bool_) if cond is None else jnp.reshape(cond, ()).astype(np.bool_)
        _, _, final = lax.while_loop(test, step, (jnp.zeros((), np.int64), start, self._initial()))
        return tuple(self._finish(final))

    def unroll(self, trip_count: int | None) -> tuple[Any, ...] | None:
        """One copy of the body for each iteration, with everything known that can be known.

        Args:
            trip_count: the most iterations; None for no limit, -1 for one that is not known.

        Returns:
            None if it is not known when the loop ends, or only after too many iterations.
        """
        if trip_count == -1:
            return None
        carry = [self.states[i] for i in self.carried]
        stacks: list[list[Any]] = [[] for _ in range(self.stacks)]
        more: Operand = np.array(True)
        iteration = 0
        while trip_count is None or iteration < trip_count:
            if iteration >= UNROLLED_TRIPS:
                return None
            self.ctx.charge_unrolled(self.body)
            more, states, stacked = self._emit(np.array(iteration, np.int64), more, carry)
            if not isinstance(more, np.ndarray):
                if not _stays_true(self.body):
                    return None
                more = np.array(True)
            carry = [states[i] for i in self.carried]
            for items, item in zip(stacks, stacked, strict=True):
                items.append(item)
            iteration += 1
            if not bool(more.reshape(-1)[0]):
                break
        return (*self._finish(carry), *(self._stack(items) for items in stacks))

    def _stack(self, items: list[Any]) -> Array:
        if not items:
            raise UnsupportedError(
                "GO205", "a loop that does not run gives stacked results without a shape",
                where=describe(self.ctx.node),
            )  # fmt: skip
        shapes = {tuple(item.shape) for item in items}
        if len(shapes) > 1:
            raise UnsupportedError(
                "GO205", "iterations give stacked results of different shapes",
                where=describe(self.ctx.node), found=", ".join(map(str, sorted(shapes))),
            )  # fmt: skip
        if all(isinstance(item, np.ndarray) and item.dtype != object for item in items):
            return np.stack(items)
        return jnp.stack([as_array(item) for item in items])


@lowers("Scan", since=_CONTROL_FLOW)
def scan(
    ctx: Context,
    *initial_state_and_scan_inputs: Any,
    body: Graph,
    num_scan_inputs: int,
    scan_input_axes: Ints = None,
    scan_input_directions: Ints = None,
    scan_output_axes: Ints = None,
    scan_output_directions: Ints = None,
) -> tuple[Any, ...]:
    """Run body over slices of the scan inputs, carrying states; stack what it emits.

    Spec: https://onnx.ai/onnx/operators/onnx__Scan.html
    """
    operands = initial_state_and_scan_inputs
    count = len(operands) - num_scan_inputs
    outputs = len(body.outputs) - count
    initial = [_strong(x) for x in operands[:count]]
    in_axes = scan_input_axes or (0,) * num_scan_inputs
    in_directions = scan_input_directions or (0,) * num_scan_inputs
    out_axes, out_directions = scan_output_axes or (0,) * outputs, scan_output_directions or (0,) * outputs
    slices = [
        _along(jnp.moveaxis(x, axis, 0), direction)
        for x, axis, direction in zip(operands[count:], in_axes, in_directions, strict=True)
    ]

    def step(carry: list[Any], at: list[Any]) -> tuple[list[Any], list[Any]]:
        results = [_strong(as_array(o)) for o in ctx.subgraph(body, [*carry, *at])]
        before, now = _signature(carry), _signature(results[:count])
        if before != now:
            raise UnsupportedError(
                "GO205", "states change their shapes", where=describe(ctx.node), found=now, expected=before
            )
        return results[:count], results[count:]

    final, stacked = lax.scan(step, initial, slices)
    emitted = [
        jnp.moveaxis(_along(y, direction), 0, axis)
        for y, axis, direction in zip(stacked, out_axes, out_directions, strict=True)
    ]
    return (*final, *emitted)


def _along(x: Array, direction: int) -> Array:
    """x, reversed along its first axis if the direction is 1."""
    return jnp.flip(x, 0) if direction else x
