"""Driving an If, Loop or Scan from the host, over bodies that are functions.

A body takes values by name (of outer ones those that it captures) and gives its outputs in order. Values
stay where they are, on the device or the host; what decides is read.

Spec: https://onnx.ai/onnx/operators/ , If, Loop and Scan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.ir import DataType, Graph, Node, Value
from graphopt.ir.query import attribute

Values = Mapping[str, Any]
Body = Callable[[Values], Sequence[Any]]


@dataclasses.dataclass(frozen=True)
class Emitted:
    """What a body stacks: the name of the result, and what its items are if there are none.

    Attributes:
        shape: of an item, 0 where it is not known.
        axis, backwards: along which the items are stacked, and whether from the last one on.
    """

    name: str
    dtype: Any
    shape: tuple[int, ...]
    axis: int = 0
    backwards: bool = False

    def stack(self, items: Sequence[Any]) -> np.ndarray:
        """The items along an axis of their own."""
        if not items:
            return np.moveaxis(np.zeros((0, *self.shape), self.dtype), 0, self.axis)
        arrays = [np.asarray(item) for item in (reversed(items) if self.backwards else items)]
        return np.stack(arrays, axis=self.axis)


@dataclasses.dataclass(frozen=True)
class IfDriver:
    """The outputs of the first body if the condition holds, else of the second."""

    condition: str
    outputs: tuple[str, ...]

    def __call__(self, bodies: Sequence[Body], given: Values) -> dict[str, Any]:
        """The outputs by name."""
        then = bool(np.asarray(given[self.condition]).reshape(-1)[0])
        return dict(zip(self.outputs, bodies[0 if then else 1](given), strict=False))


@dataclasses.dataclass(frozen=True)
class LoopDriver:
    """The body while its condition holds, at most `limit` times.

    Attributes:
        limit, condition: the names of the first two inputs, None where they are absent.
        initial: the names of the states' first values.
        inputs: the names of the body's inputs: the turn's number, the condition, the states.
        finals: the names of the states' last values.
    """

    limit: str | None
    condition: str | None
    initial: tuple[str, ...]
    inputs: tuple[str, ...]
    finals: tuple[str, ...]
    emitted: tuple[Emitted, ...]

    def __call__(self, bodies: Sequence[Body], given: Values) -> dict[str, Any]:
        """The outputs by name."""
        limit = None if self.limit is None else int(np.asarray(given[self.limit]).reshape(-1)[0])
        more = self.condition is None or bool(np.asarray(given[self.condition]).reshape(-1)[0])
        states = [given[name] for name in self.initial]
        items: list[list[Any]] = [[] for _ in self.emitted]
        turn = 0
        while more and (limit is None or turn < limit):
            taken = (np.array(turn, np.int64), np.array(True), *states)
            again, *results = bodies[0]({**given, **dict(zip(self.inputs, taken, strict=True))})
            states = results[: len(states)]
            for kept, item in zip(items, results[len(states) :], strict=True):
                kept.append(item)
            more = bool(np.asarray(again).reshape(-1)[0])
            turn += 1
        stacked = {e.name: e.stack(kept) for e, kept in zip(self.emitted, items, strict=True)}
        return {**dict(zip(self.finals, states, strict=True)), **stacked}


@dataclasses.dataclass(frozen=True)
class ScanDriver:
    """The body over the slices of the scan inputs, states handed on.

    Attributes:
        initial: the names of the states' first values.
        scanned: the name, the axis, and whether it goes backwards, of each scan input.
        inputs: the names of the body's inputs: the states, the slices.
        finals: the names of the states' last values.
    """

    initial: tuple[str, ...]
    scanned: tuple[tuple[str, int, bool], ...]
    inputs: tuple[str, ...]
    finals: tuple[str, ...]
    emitted: tuple[Emitted, ...]

    def __call__(self, bodies: Sequence[Body], given: Values) -> dict[str, Any]:
        """The outputs by name."""
        sources = []
        for name, axis, backwards in self.scanned:
            slices = np.moveaxis(np.asarray(given[name]), axis, 0)
            sources.append(slices[::-1] if backwards else slices)
        states = [given[name] for name in self.initial]
        items: list[list[Any]] = [[] for _ in self.emitted]
        for turn in range(len(sources[0])):
            taken = (*states, *(np.ascontiguousarray(source[turn]) for source in sources))
            results = bodies[0]({**given, **dict(zip(self.inputs, taken, strict=True))})
            states = list(results[: len(states)])
            for kept, item in zip(items, results[len(states) :], strict=True):
                kept.append(item)
        stacked = {e.name: e.stack(kept) for e, kept in zip(self.emitted, items, strict=True)}
        return {**dict(zip(self.finals, states, strict=True)), **stacked}


def driver_of(node: Node) -> IfDriver | LoopDriver | ScanDriver:
    """What drives `node`, an If, Loop or Scan."""
    inputs = [None if v is None else v.name or None for v in node.inputs]
    outputs = [v.name or "" for v in node.outputs]
    if node.op_type == "If":
        return IfDriver(inputs[0] or "", tuple(outputs))
    body: Graph = attribute(node, "body")
    taken = tuple(v.name or "" for v in body.inputs)
    if node.op_type == "Loop":
        initial = tuple(name or "" for name in inputs[2:])
        emitted = _emitted(body.outputs[1 + len(initial) :], outputs[len(initial) :], (), ())
        return LoopDriver(inputs[0], inputs[1], initial, taken, tuple(outputs[: len(initial)]), emitted)
    count = len(inputs) - int(attribute(node, "num_scan_inputs"))
    initial = tuple(name or "" for name in inputs[:count])
    axes, turned = (
        attribute(node, f"scan_input_{what}") or (0,) * (len(inputs) - count)
        for what in ("axes", "directions")
    )
    scanned = tuple(
        (name or "", int(axis), bool(back))
        for name, axis, back in zip(inputs[count:], axes, turned, strict=True)
    )
    emitted = _emitted(
        body.outputs[count:],
        outputs[count:],
        attribute(node, "scan_output_axes") or (),
        attribute(node, "scan_output_directions") or (),
    )
    return ScanDriver(initial, scanned, taken, tuple(outputs[:count]), emitted)


def _emitted(
    values: Sequence[Value], names: Sequence[str], axes: Sequence[int], turned: Sequence[int]
) -> tuple[Emitted, ...]:
    """What a body stacks; results that the node does not list have no name."""
    found = []
    for index, value in enumerate(values):
        dtype = np.object_ if value.dtype in (None, DataType.STRING) else value.dtype.numpy()
        dims = () if value.shape is None else value.shape.dims
        found.append(
            Emitted(
                names[index] if index < len(names) else "",
                dtype,
                tuple(d if isinstance(d, int) else 0 for d in dims),
                axis=int(axes[index]) if axes else 0,
                backwards=bool(turned[index]) if turned else False,
            )
        )
    return tuple(found)
