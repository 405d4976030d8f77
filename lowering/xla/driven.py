"""Control flow that the host drives: an If, Loop or Scan that cannot be one XLA program as a whole.

The host reads the condition, and runs the branch or body, which is a partition of its own: what XLA can
express in it stays there. A loop is driven only if its body gives XLA enough to do, since every turn
starts each of its segments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from graphopt.analysis.flops import flops
from graphopt.ir import DataType, Graph, Node, Value
from graphopt.ir.query import attribute, is_op, subgraphs
from graphopt.lowering.xla import bounded
from graphopt.lowering.xla.discovery import Discovery, Driven, Region, is_tensor

if TYPE_CHECKING:
    from graphopt.lowering.xla.partition import Partition

LOOP_FLOPS = 1 << 25
"""A loop is driven if XLA does this much in a turn.

Every turn starts each segment, which takes 0.05 to 1 ms on a CPU with two cores. A product and a Tanh between
strings took, driven and wholly on ONNX Runtime, 0.99 and 0.05 ms at 4e6 operations, 1.7 and 1.0 ms at 1.8e7,
1.7 and 1.8 ms at 3.4e7, 3.2 and 14 ms at 2.7e8.
"""

MOST_ROUNDS = 3

Cut = Callable[[Discovery], "Partition"]


def drive(outer: Discovery, node: Node, reason: str, cut: Cut) -> Driven | None:
    """How the host drives `node`, a node that XLA does not take; None if it should run there as a whole.

    Args:
        reason: why XLA does not take it.
        cut: makes the partition of a region.
    """
    if is_op(node, "If"):
        graphs: list[Graph] = [attribute(node, "then_branch"), attribute(node, "else_branch")]
        branches = tuple(_body(outer, graph, {}, cut) for graph in graphs)
        worth = any(True for branch in branches for _ in branch.programs())
        return Driven(node, branches, reason) if worth else None
    if is_op(node, "Loop"):
        body = _loop_body(outer, node, cut)
    elif is_op(node, "Scan"):
        body = _scan_body(outer, node, cut)
    else:
        return None
    return Driven(node, (body,), reason) if _work(body) >= LOOP_FLOPS else None


def _body(outer: Discovery, graph: Graph, structs: Mapping[Value, Any], cut: Cut) -> Partition:
    """The partition of a branch or body whose own inputs are of `structs`, as far as they are known."""
    region = Region.body(graph)
    known = {v: outer.known[v] for v in region.inputs if v in outer.known}
    inputs = {v: s for v, s in structs.items() if s is not None}
    inputs |= {v: outer.structs[v] for v in region.inputs if v in outer.structs and v not in known}
    return cut(
        Discovery(
            outer.model,
            region,
            inputs,
            known,
            outer.precision,
            sizes=outer.sizes,
            drive=outer.drive,
            outer=outer,
        )
    )


def _loop_body(outer: Discovery, node: Node, cut: Cut) -> Partition:
    graph: Graph = attribute(node, "body")
    number, more = jax.ShapeDtypeStruct((), np.int64), jax.ShapeDtypeStruct((), np.bool_)
    states = [_struct(outer, v) for v in node.inputs[2:]]
    return _settled(outer, graph, [number, more], states, [], cut, first=1)


def _scan_body(outer: Discovery, node: Node, cut: Cut) -> Partition:
    graph: Graph = attribute(node, "body")
    count = len(node.inputs) - int(attribute(node, "num_scan_inputs"))
    axes = attribute(node, "scan_input_axes") or (0,) * (len(node.inputs) - count)
    states = [_struct(outer, v) for v in node.inputs[:count]]
    slices = [_slice(_struct(outer, v), int(axis)) for v, axis in zip(node.inputs[count:], axes, strict=True)]
    return _settled(outer, graph, [], states, slices, cut, first=0)


def _settled(
    outer: Discovery,
    graph: Graph,
    before: Sequence[Any],
    states: list[Any],
    behind: Sequence[Any],
    cut: Cut,
    *,
    first: int,
) -> Partition:
    """The partition of a body whose states have the same shapes after a turn as before it.

    A state that has not counts as of unknown shape, which can change that of others.

    Args:
        before, behind: the shapes of the body's inputs around the states.
        first: the body's output that is the first state.
    """
    for turn in range(MOST_ROUNDS):
        if turn == MOST_ROUNDS - 1:
            states = [None] * len(states)
        found = _body(outer, graph, dict(zip(graph.inputs, [*before, *states, *behind], strict=True)), cut)
        after = [_of(found.structs, v) for v in graph.outputs[first:]]
        settled = [s if _same(s, new) else None for s, new in zip(states, after, strict=False)]
        if all(new is old for new, old in zip(settled, states, strict=True)):
            break
        states = settled
    return found


def _struct(outer: Discovery, value: Value | None) -> Any:
    return None if value is None else _of(outer.structs, value)


def _of(structs: Mapping[Value, Any], value: Value) -> Any:
    """The struct of a value as a state or slice; one whose size only the data says has none."""
    if value not in structs:
        return _constant_struct(value)
    struct = bounded.outside_struct(structs[value])
    return None if isinstance(struct, dict) else struct


def _constant_struct(value: Value) -> Any:
    tensor = value.const_value if value.is_initializer() else None
    if tensor is None or tensor.dtype == DataType.STRING:
        return None
    return jax.ShapeDtypeStruct(tuple(tensor.shape.numpy()), tensor.dtype.numpy())


def _slice(struct: Any, axis: int) -> Any:
    if not is_tensor(struct) or not struct.shape:
        return None
    axis %= len(struct.shape)
    return jax.ShapeDtypeStruct((*struct.shape[:axis], *struct.shape[axis + 1 :]), struct.dtype)


def _same(a: Any, b: Any) -> bool:
    return is_tensor(a) and is_tensor(b) and bool(a.shape == b.shape and a.dtype == b.dtype)


def _work(cut: Partition) -> int:
    """Operations of what XLA runs of a partition, free dimensions and loops inside it counted once."""
    return sum(_flops(node) for _, segment in cut.programs() for node in segment.nodes)


def _flops(node: Node) -> int:
    inner = [n for graph in subgraphs(node) for n in graph]
    if inner:
        return sum(_flops(n) for n in inner)
    amount = flops(node)
    return 0 if amount is None else amount.least
