"""Bodies of If, Loop and Scan that are grown as the outer graph is: any idiom, over captured values too."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from exporter_graphs import Grower
from exporter_idioms import STEPS
from onnx import TensorProto, helper

INT64, BOOL = TensorProto.INT64, TensorProto.BOOL
DEEPEST = 2
INNER: list[Callable[[Grower], None]] = []
"""The steps of this file, which `exporter_profiles` mixes with all others."""


def inner(function: Callable[[Grower], None]) -> Callable[[Grower], None]:
    """Register a step that grows a body."""
    INNER.append(function)
    return function


def _depth(g: Grower) -> int:
    return int(getattr(g, "depth", 0))


def _inside(g: Grower, formals: Sequence[tuple[str, np.ndarray]] = ()) -> Grower:
    """A grower of a body inside `g`, on what the body sees at its first turn."""
    body = type(g)(0, g.opset)
    body.rng, body.depth, body.count = g.rng, _depth(g) + 1, g.count
    body.arrays = dict(g.arrays)
    some = [n for n in g.values if g.chance(0.7)]
    body.values = [*some, *(n for n, _ in formals)]
    body.arrays |= dict(formals)
    return body


def _fill(g: Grower, body: Grower, least: int = 1) -> list[str]:
    """Grow `body`; what it computed."""
    known = set(body.values)
    steps = [*STEPS, *(INNER if body.depth < DEEPEST else ())]
    for _ in range(g.pick(1, 2, 2, 3)):
        body.grow(steps)
    made = [v for v in body.values if v not in known and body.arrays[v].dtype != object]
    g.need(len(made) >= least)
    return made


def _info(g: Grower, name: str, array: np.ndarray) -> onnx.ValueInfoProto:
    """A declaration with the rank, or with nothing but the type."""
    shape = [None] * array.ndim if g.chance(0.7) else None
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape)


def _graph(
    g: Grower, label: str, body: Grower, formals: Sequence[tuple[str, np.ndarray]], outputs: Sequence[str]
) -> onnx.GraphProto:
    return helper.make_graph(
        body.nodes,
        label,
        [_info(g, n, a) for n, a in formals],
        [_info(g, n, body.arrays[n]) for n in outputs],
        body.initializers,
    )


def _copied(body: Grower, name: str) -> str:
    """An output of a body must be computed in it, and only once."""
    result = body.name("o")
    body.nodes.append(helper.make_node("Identity", [name], [result]))
    body.arrays[result] = body.arrays[name]
    return result


@inner
def grown_branches(g: Grower) -> None:
    """If: two grown branches; siblings use the same names; outputs may be captured or constants."""
    if g.chance(0.3):
        test = g.const(np.array(g.pick(True, False)))
    elif g.chance(0.3):
        test = g.value("b", full=True)
        g.need(g.arrays[test].size == 1)
    else:
        rank = g.op("Size", g.value("fi"))
        test = g.op(g.pick("Greater", "Less", "Equal"), rank, g.const(np.array(g.pick(0, 8, 24))))
    then, other = _inside(g), _inside(g)
    made = _fill(g, then)
    try:
        _fill(g, other)
    except Exception:  # a branch that computes nothing: it hands on what it captures
        other = _inside(g)
    pairs = []
    for _ in range(g.pick(1, 1, 2, 3)):
        left = made[-1 - min(int(g.rng.geometric(0.5)) - 1, len(made) - 1)]
        array = then.arrays[left]
        fits = [
            v
            for v in other.values
            if other.arrays[v].dtype == array.dtype and other.arrays[v].ndim == array.ndim
        ]
        right = g.pick(*fits[-3:]) if fits else other.const(np.zeros(array.shape, array.dtype))
        pairs.append((_copied(then, left) if g.chance(0.3) else left, _copied(other, right)))
    g.need(len({left for left, _ in pairs}) == len(pairs))
    g.count = max(then.count, other.count)
    g.op(
        "If",
        test,
        outputs=len(pairs),
        then_branch=_graph(g, "then", then, (), [p[0] for p in pairs]),
        else_branch=_graph(g, "else", other, (), [p[1] for p in pairs]),
    )


def _next(g: Grower, body: Grower, made: list[str], state: str) -> str:
    """What a carried value becomes: something of its shape, or itself."""
    like = body.arrays[state]
    fits = [v for v in made if body.arrays[v].dtype == like.dtype and body.arrays[v].shape == like.shape]
    if fits and g.chance(0.85):
        return _copied(body, fits[-1])
    if like.dtype.kind == "f" and g.chance(0.5):
        return str(body.op("Mul", state, body.const(np.array(g.pick(0.5, 1.0, -1.0), like.dtype))))
    return _copied(body, state)


@inner
def grown_loop(g: Grower) -> None:
    """Loop: for, while and endless-but-counted; carried values of any type; stacked outputs."""
    starts = [g.value("wnb") for _ in range(g.pick(0, 1, 1, 2))]
    turn, keep = g.name("i"), g.name("k")
    formals = [(turn, np.array(0)), (keep, np.array(True))]
    formals += [(g.name("s"), g.arrays[s]) for s in starts]
    body = _inside(g, formals)
    made = _fill(g, body)
    after = [_next(g, body, made, name) for name, _ in formals[2:]]
    trips = g.pick(0, 1, 1, 2, 3)
    stacked = [_copied(body, g.pick(*made[-3:])) for _ in range(g.pick(0, 1, 2))] if trips else []
    kind = g.pick("keep", "true", "count", "computed")
    if kind == "keep":
        again = _copied(body, keep)
    elif kind == "true":
        again = _copied(body, body.const(np.array(True)))
    elif kind == "count":
        again = str(body.op("Less", turn, body.const(np.array(g.pick(0, 1, 5)))))
    else:
        again = str(
            body.op(
                "And",
                keep,
                body.op("Less", body.op("Add", turn, body.const(np.array(1))), body.const(np.array(2))),
            )
        )
    g.need(after or stacked)
    g.count = body.count
    if g.chance(0.7):
        limit = g.const(np.array(trips))
    elif kind == "count" and g.chance(0.6):
        limit = ""
    else:
        shape = g.op("Shape", g.value("fi", minimum=1))
        limit = g.op("Gather", shape, g.const(np.array(0)))
        g.need(g.arrays[limit] < 8 and (g.arrays[limit] > 0 or not stacked))
    start = g.pick("", g.const(np.array(True)), g.const(np.array(bool(stacked) or g.chance(0.8))))
    graph = _graph(g, "body", body, formals, [again, *after, *stacked])
    g.op("Loop", limit, start, *starts, outputs=len(after) + len(stacked), body=graph)


@inner
def grown_scan(g: Grower) -> None:
    """Scan: any axis and direction, several states, items and results."""
    g.need(g.opset >= 9)
    items = [g.value("f", minimum=1, full=True)]
    axes = [int(g.rng.integers(-g.arrays[items[0]].ndim if g.opset >= 11 else 0, g.arrays[items[0]].ndim))]
    length = g.shape(items[0])[axes[0]]
    fits = [v for v in g.values if g.arrays[v].ndim and g.arrays[v].shape[0] == length]
    if fits and g.chance(0.4):
        items.append(g.pick(*fits))
        axes.append(0)
    starts = [g.value("fi") for _ in range(g.pick(0, 1, 2))]
    formals = [(g.name("s"), g.arrays[s]) for s in starts]
    formals += [
        (g.name("e"), np.asarray(np.take(g.arrays[i], 0, a))) for i, a in zip(items, axes, strict=True)
    ]
    body = _inside(g, formals)
    made = _fill(g, body)
    after = [_next(g, body, made, name) for name, _ in formals[: len(starts)]]
    stacked = [_copied(body, g.pick(*made[-3:])) for _ in range(g.pick(0, 1, 1, 2))]
    g.need(after or stacked)
    g.count = body.count
    extra: dict[str, list[int]] = {"scan_input_axes": axes}
    if g.chance(0.5):
        extra["scan_input_directions"] = [g.pick(0, 1) for _ in items]
    if stacked and g.chance(0.4):
        extra["scan_output_axes"] = [g.pick(0, body.arrays[s].ndim) for s in stacked]
    if stacked and g.chance(0.4):
        extra["scan_output_directions"] = [g.pick(0, 1) for _ in stacked]
    graph = _graph(g, "body", body, formals, [*after, *stacked])
    g.op(
        "Scan", *starts, *items, outputs=len(after) + len(stacked), body=graph,
        num_scan_inputs=len(items), **extra,
    )  # fmt: skip
