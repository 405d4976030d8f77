"""Shrink a failing model to the few nodes that make it fail: delta debugging on the IR.

Nodes are cut away first: what they made for the rest becomes an input, fed with what was observed. So every
subset of the nodes is a valid model, whose parts hold the numbers that they held in the whole. Then outputs
are dropped, nodes bypassed, branches taken for their If, sizes shrunk, and data replaced by seeded numbers.

Source: A. Zeller, R. Hildebrandt, Simplifying and Isolating Failure-Inducing Input, IEEE TSE 28(2), 2002.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError, UsageError
from graphopt.ir import Model, Node, TensorType
from graphopt.ir.io import load
from graphopt.ir.provenance import ORIGIN_KEY
from graphopt.transform import Pipeline
from graphopt.transform.pipeline import count_nodes, initializer_bytes
from graphopt.verification import reduction_moves as moves
from graphopt.verification.bisect import Bisection, Blame, Say
from graphopt.verification.feeds import Feeds, generate_feeds
from graphopt.verification.judge import CRASH, Failure, Judge, crash, same_sort
from graphopt.verification.reference_process import ReferenceProcess

SECONDS = 60.0
ROUNDS = 3
RADII = (0, 1, 2, 4)
OBSERVE_ALL_BYTES = 4 << 20
"""Models with at most this much of weights are small enough to observe all of their values at once."""

Predicate = Callable[[Model, Feeds], bool]
"""Whether a model (in canonical form, the callee's own) fails on the feeds in the way that is looked for."""


@dataclasses.dataclass
class Reduction:
    """A small model that fails like the one it was made from.

    Attributes:
        feeds: inputs that it fails on.
        nodes_before, nodes: nodes of the model given, and of this one, nested ones included.
        tries: how many models were tried.
        finished: whether everything was tried in the time there was.
        pipeline: what makes it fail, where that is a pipeline.
        failure: how it fails, then.
        blame: what the bisection of the model given found, then.
    """

    model: Model
    feeds: Feeds
    nodes_before: int
    tries: int
    seconds: float
    finished: bool
    pipeline: Pipeline | None = None
    failure: Failure | None = None
    blame: Blame | None = None

    @property
    def nodes(self) -> int:
        """Nodes that are left, nested ones included."""
        return count_nodes(self.model)

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON-ready dict (schema ``graphopt.reduce/1``), without the model and arrays."""
        return {
            "schema": "graphopt.reduce/1",
            "nodes_before": self.nodes_before,
            "nodes": self.nodes,
            "tries": self.tries,
            "seconds": self.seconds,
            "finished": self.finished,
            "pipeline": None if self.pipeline is None else str(self.pipeline),
            "failure": None if self.failure is None else self.failure.to_json(),
            "blame": None if self.blame is None else self.blame.to_json(),
        }


def reduce_model(
    process: ReferenceProcess,
    model: Model,
    feeds: Feeds,
    predicate: Predicate,
    *,
    hint: Iterable[str] = (),
    seconds: float = SECONDS,
    say: Say | None = None,
) -> Reduction:
    """The smallest model found that `predicate` holds for.

    Args:
        model: in canonical form; it stays as it is.
        hint: names of nodes that likely matter: they are tried alone, then with what is around them.
        seconds: when to stop.

    Raises:
        UsageError: GO704, `predicate` does not hold for `model`.
    """
    work = _Reducer(process, model, feeds, predicate, seconds, say)
    if not work.holds(model, feeds):
        raise UsageError(
            "GO704", "the model does not fail in the way that is looked for, so there is nothing to reduce"
        )
    work.cut_around(set(hint))
    for _ in range(ROUNDS):
        before = work.adopted
        work.cut_nodes()
        work.drop_outputs()
        work.take_branches()
        work.bypass_nodes()
        if work.adopted == before or work.late:
            break
    work.fix_shapes()
    work.shrink_sizes()
    work.replace_data()
    return Reduction(
        model=_without_provenance(work.model),
        feeds=work.feeds,
        nodes_before=count_nodes(model),
        tries=work.tries,
        seconds=time.monotonic() - work.started,
        finished=not work.late,
    )


class _Reducer:
    """The smallest failing model so far, and the moves that are tried on it."""

    def __init__(
        self,
        process: ReferenceProcess,
        model: Model,
        feeds: Feeds,
        predicate: Predicate,
        seconds: float,
        say: Say | None,
    ) -> None:
        self.model, self.feeds = model, feeds
        self.tries = self.adopted = 0
        self.started = time.monotonic()
        self._deadline = self.started + seconds
        self._process = process
        self._predicate = predicate
        self._say = say
        self._observed: dict[str, np.ndarray] = {}

    @property
    def late(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self._deadline

    def holds(self, model: Model, feeds: Feeds) -> bool:
        """Whether `model` is valid and fails."""
        self.tries += 1
        try:
            return self._predicate(load(model), feeds)
        except GraphoptError:
            return False

    def _try(self, move: Callable[[], tuple[Model, Feeds] | None]) -> bool:
        """Adopt what `move` makes if it still fails. Once the time is up, nothing is made any more."""
        candidate = None if self.late else move()
        if candidate is None or not self.holds(*candidate):
            return False
        # As it will be when it is read from a file: with shapes inferred anew.
        self.model, self.feeds = load(candidate[0]), candidate[1]
        self._observed = {}
        self.adopted += 1
        if self._say is not None:
            self._say(f"reduce: {count_nodes(self.model)} nodes", 0, 0)
        return True

    def cut_around(self, names: set[str]) -> None:
        """Keep the nodes called `names`, with as little around them as still fails."""
        top = {node.name: node for node in self.model.graph}
        core = {
            name
            for name, node in top.items()
            if name in names or any(inner.name in names for inner in moves.nested_nodes(node))
        }
        if not core:
            return
        seen: set[str | None] = set()
        for radius in RADII:
            keep = _grown(top, core, radius)
            if keep == seen or len(keep) == len(top):
                return
            seen = keep
            for static in (False, True):
                if self._try(functools.partial(self._cut, {name or "" for name in keep}, static)):
                    return

    def _cut(self, keep: set[str], static: bool = False) -> tuple[Model, Feeds] | None:
        return moves.cut(self.model, keep, self.feeds, self._observe, static=static)

    def cut_nodes(self) -> None:
        """Cut away nodes, half of them at a time, then fewer."""
        kept = [node.name or "" for node in self.model.graph]
        size = (len(kept) + 1) // 2
        while len(kept) > 1 and not self.late:
            start, shorter = 0, False
            while start < len(kept):
                rest = kept[:start] + kept[start + size :]
                if rest and self._try(functools.partial(self._cut, set(rest))):
                    left = {node.name for node in self.model.graph}
                    kept = [name for name in rest if name in left]
                    shorter = True
                else:
                    start += size
            if size == 1 and not shorter:
                return
            size = max(size // 2, 1)

    def _observe(self, names: list[str]) -> Mapping[str, np.ndarray]:
        missing = [name for name in names if name not in self._observed]
        if missing:
            everything = initializer_bytes(self.model) <= OBSERVE_ALL_BYTES
            self._observed |= self._run_for(None if everything else set(missing))
        return self._observed

    def _run_for(self, names: set[str] | None) -> dict[str, np.ndarray]:
        """The arrays of the values of the main graph called `names`; None: of all tensors."""
        model = self.model.clone()
        values = [
            value
            for node in model.graph
            for value in node.outputs
            if isinstance(value.type, TensorType) and (names is None or value.name in names)
        ]
        model.graph.outputs.clear()
        model.graph.outputs.extend(values)
        try:
            return dict(self._process.run(model, [self.feeds])[0])
        except GraphoptError:
            return {}

    def drop_outputs(self) -> None:
        """Keep one output if one is enough, else drop those that are not needed."""
        names = [value.name or "" for value in self.model.graph.outputs]
        if len(names) < 2:
            return
        for name in names:
            if self._try(functools.partial(moves.with_outputs, self.model, {name}, self.feeds)):
                return
        for name in names:
            rest = {value.name or "" for value in self.model.graph.outputs} - {name}
            self._try(functools.partial(moves.with_outputs, self.model, rest, self.feeds))

    def take_branches(self) -> None:
        """Put a branch in place of its If."""
        for name, branch in moves.branches(self.model):
            self._try(functools.partial(moves.take_branch, self.model, name, branch, self.feeds))

    def bypass_nodes(self) -> None:
        """Make users of a node use what it used."""
        for name, out, position in moves.bypasses(self.model):
            self._try(functools.partial(moves.bypass, self.model, name, out, position, self.feeds))

    def fix_shapes(self) -> None:
        """Declare the shapes of the feeds."""
        self._try(functools.partial(moves.with_fixed_shapes, self.model, self.feeds))

    def shrink_sizes(self) -> None:
        """Make axes shorter."""
        for size in moves.sizes(self.model, self.feeds):
            for smaller in dict.fromkeys((2, min(4, size - 1), (size + 1) // 2)):
                move = functools.partial(moves.shrink, self.model, size, smaller, self.feeds)
                if smaller < size and any(
                    self._try(functools.partial(move, numbers=numbers)) for numbers in (True, False)
                ):
                    break

    def replace_data(self) -> None:
        """Replace weights, then inputs, by seeded numbers: the owner's data is nobody else's business."""
        names = moves.weights(self.model)
        if names and not self._try(functools.partial(moves.seeded, self.model, names, self.feeds)):
            for name in names:
                self._try(functools.partial(moves.seeded, self.model, [name], self.feeds))
        sizes = {
            str(dim.value): self.feeds[value.name].shape[axis]
            for value in self.model.graph.inputs
            if value.name in self.feeds and value.shape is not None
            for axis, dim in enumerate(value.shape.dims)
            if not isinstance(dim, int)
        }
        try:
            generated = generate_feeds(self.model, dims=sizes)
        except GraphoptError:
            return
        self._try(lambda: (self.model, generated))


def _grown(top: Mapping[str | None, Node], core: set[str | None], radius: int) -> set[str | None]:
    """`core` and the nodes of the main graph at most `radius` values away from it."""
    found = set(core)
    edge = [top[name] for name in core]
    for _ in range(radius):
        near: list[Node] = []
        for node in edge:
            near += [p for v in node.inputs if v is not None and (p := v.producer()) is not None]
            near += [user for v in node.outputs for user in v.consumers()]
        edge = [node for node in near if node.name not in found and top.get(node.name) is node]
        found.update(node.name for node in edge)
    return found


def _without_provenance(model: Model) -> Model:
    result = model.clone()
    for node in result.graph.all_nodes():
        node.metadata_props.pop(ORIGIN_KEY, None)
    return result


def reduce_failure(
    process: ReferenceProcess,
    model: Model,
    pipeline: Pipeline,
    bisection: Bisection,
    *,
    precision: str | None = None,
    seconds: float = SECONDS,
    say: Say | None = None,
) -> Reduction:
    """Reduce the model that `bisection` found to fail, so that the same pass fails on it in the same way.

    Raises:
        UsageError: GO704, nothing fails, or it does not fail when it is done again.
    """
    blame = bisection.blame
    if blame is None:
        raise UsageError("GO704", "the pipeline does not fail on this model, so there is nothing to reduce")
    alone = Pipeline([blame.pass_])
    starts: Sequence[tuple[Model, Pipeline, str | None]] = (
        (blame.model, alone, blame.rule),
        (blame.model_before_pass, alone, blame.rule),
        (model, pipeline, None),
    )
    # The applications that follow the bad one may break the model in another way.
    wanted = (blame.failure, blame.whole)
    indices = dict.fromkeys(failure.feeds_index for failure in wanted)
    started = time.monotonic()
    for (start, passes, rule), index in itertools.product(starts, indices):
        predicate = fails_like(process, passes, wanted, rule, precision)
        feeds = bisection.feeds_list[index]
        left = max(seconds - (time.monotonic() - started), 1.0)
        try:
            result = reduce_model(process, start, feeds, predicate, hint=blame.removed, seconds=left, say=say)
        except UsageError:
            continue
        result.pipeline, result.blame = passes, blame
        result.nodes_before = count_nodes(model)
        result.failure = outcome(process, load(result.model), passes, result.feeds, precision)[0]
        return result
    raise UsageError(
        "GO704",
        "the failure does not appear again when the same passes run again",
        found=blame.failure.message,
    )


def fails_like(
    process: ReferenceProcess,
    pipeline: Pipeline,
    wanted: Sequence[Failure],
    rule: str | None = None,
    precision: str | None = None,
) -> Predicate:
    """Whether `pipeline` breaks a model in the way of one of `wanted`, with `rule` among what it applied."""

    def predicate(model: Model, feeds: Feeds) -> bool:
        failure, applied = outcome(process, model, pipeline, feeds, precision)
        if failure is None or not any(same_sort(failure, each) for each in wanted):
            return False
        return rule is None or failure.kind == CRASH or rule in applied

    return predicate


def outcome(
    process: ReferenceProcess, model: Model, pipeline: Pipeline, feeds: Feeds, precision: str | None = None
) -> tuple[Failure | None, set[str]]:
    """How `pipeline` breaks `model`, which it leaves as it is; and the rules that were applied.

    Raises:
        ModelError: GO604, the model itself does not run.
    """
    try:
        after, report = pipeline.run(model.clone())
    except MemoryError:
        raise
    except Exception as error:
        process.run(model, [feeds])
        return crash(error), set()
    if not any(record.modified for record in report.passes):
        return None, set()
    applied = {name for record in report.passes for name in record.counts}
    return Judge(process, model, [feeds]).failure(after, report.exactness, precision), applied
