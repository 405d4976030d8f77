"""Find what breaks a model on its way through a pipeline: the pass, then the application of a rule in it.

Every pass is judged against the model before it. Inside the first bad one, the number of applications
that the pass is allowed is bisected: after one fewer the model is still right.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import onnx_ir.passes

from graphopt.errors import UsageError
from graphopt.ir import Model, Node
from graphopt.ir.provenance import origins
from graphopt.ir.query import subgraphs
from graphopt.ir.text import node_line
from graphopt.transform import Exactness, Pass, Pipeline, Rule, Watch
from graphopt.verification.feeds import Feeds
from graphopt.verification.judge import Failure, Judge, crash
from graphopt.verification.reference_process import ReferenceProcess

MAX_LINES = 24
MAX_LINE = 400
Say = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class Blame:
    """What broke the model.

    Attributes:
        failure: how it is broken after the bad application.
        whole: how it is broken after the whole pass.
        pass_index: the pass's place in the pipeline, from 0.
        pass_name: its pipeline text.
        rule: the rule; None for a pass without rules.
        node, op_type, origins: where the rule was applied (or raised), and the original nodes of that.
        application: the bad application of the pass, from 1.
        limit: the same, counted over the whole pipeline: ``--rule-limit`` one less gives a sound model.
        removed: the names of the nodes that the application took away.
        before, after: the lines of the neighbourhood, changed nodes marked with ``-`` and ``+``.
        model: the model right before the bad application.
        model_before_pass: the model before the pass.
    """

    failure: Failure
    whole: Failure
    pass_index: int
    pass_name: str
    rule: str | None
    node: str | None
    op_type: str | None
    origins: tuple[str, ...]
    application: int
    limit: int
    removed: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    pass_: onnx_ir.passes.PassBase = dataclasses.field(repr=False)
    model: Model = dataclasses.field(repr=False)
    model_before_pass: Model = dataclasses.field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """The blame as a JSON-ready dict, without models and arrays."""
        shown = ("pass_index", "rule", "node", "op_type", "application", "limit")
        return {
            "failure": self.failure.to_json(),
            "pass": self.pass_name,
            **{name: getattr(self, name) for name in shown},
            "origins": list(self.origins),
            "before": list(self.before),
            "after": list(self.after),
        }


@dataclasses.dataclass(frozen=True)
class Bisection:
    """What a bisection found.

    Attributes:
        blame: what is bad; None if nothing is.
        passes: how many passes were run.
        feeds_list: the sets of inputs that the passes were judged on.
    """

    blame: Blame | None
    passes: int
    feeds_list: list[Feeds] = dataclasses.field(repr=False)
    special: frozenset[int] = frozenset()

    @property
    def ok(self) -> bool:
        """Whether every pass left the answers alone."""
        return self.blame is None

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON-ready dict (schema ``graphopt.bisect/1``)."""
        return {
            "schema": "graphopt.bisect/1",
            "ok": self.ok,
            "passes": self.passes,
            "feeds": len(self.feeds_list),
            "blame": None if self.blame is None else self.blame.to_json(),
        }


class _Recorder(Watch):
    """Remembers the last application of a rule."""

    def __init__(self, limit: int | None = None) -> None:
        super().__init__(limit)
        self.last: tuple[Rule, Node, list[str], list[str]] | None = None

    def applied(self, item: Rule, node: Node, new: Sequence[Node], died: Sequence[Node]) -> None:
        super().applied(item, node, new, died)
        self.last = (item, node, [n.name or "" for n in new], [n.name or "" for n in died])


@dataclasses.dataclass
class _Stage:
    """One pass as it was run: the models around it, and what the pass did."""

    index: int
    pass_: onnx_ir.passes.PassBase
    before: Model
    after: Model | None
    seen: _Recorder
    steps_before: int
    failure: Failure | None = None

    @property
    def exactness(self) -> Exactness:
        return self.pass_.exactness if isinstance(self.pass_, Pass) else Exactness.REASSOCIATES


def bisect_pipeline(
    process: ReferenceProcess,
    model: Model,
    pipeline: Pipeline,
    feeds_list: Sequence[Feeds],
    *,
    special: frozenset[int] = frozenset(),
    precision: str | None = None,
    say: Say | None = None,
) -> Bisection:
    """The first bad pass of `pipeline` on `model`, and the first bad application in it.

    Args:
        model: stays as it is.
        feeds_list: sets of inputs; `special` ones are for bit-exact passes only (see Judge).
        precision: the narrowest type that lossy passes use.

    Raises:
        ModelError: GO604, the model itself does not run on the feeds.
        UsageError: an option of a pass does not fit the model.
    """
    first = judge = Judge(process, model, feeds_list, special)
    stages: list[_Stage] = []
    steps = 0
    current = model
    passes = list(pipeline)
    for index, pass_ in enumerate(passes):
        if say is not None:
            say(f"check {_text(pass_)}", index, len(passes))
        stage = _run(pass_, current, index, steps)
        if stage is None:
            continue
        stages.append(stage)
        if stage.after is not None:
            stage.failure = judge.failure(stage.after, stage.exactness, precision)
        if stage.failure is not None or stage.after is None:
            return Bisection(_blame(stage, judge, precision, say), index + 1, list(feeds_list), special)
        steps += stage.seen.count
        current = stage.after
        judge = Judge(process, current, feeds_list, special, judge.found)
    blame = None
    if stages:
        blame = _blame_sum(first, stages, precision, say)
    return Bisection(blame, len(passes), list(feeds_list), special)


def _blame_sum(judge: Judge, stages: list[_Stage], precision: str | None, say: Say | None) -> Blame | None:
    """The first pass after which the sum of what passes did is too much, though none of them did too much."""
    order = list(Exactness)

    def failure_after(index: int) -> Failure | None:
        model = stages[index].after
        assert model is not None
        loosest = max((s.exactness for s in stages[: index + 1]), key=order.index)
        return judge.difference(model, loosest, precision)

    low, high = -1, len(stages) - 1
    found = failure_after(high)
    if found is None:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        failure = failure_after(middle)
        if failure is None:
            low = middle
        else:
            high, found = middle, failure
    stages[high].failure = found
    return _blame(stages[high], None, precision, say)


def _run(pass_: onnx_ir.passes.PassBase, model: Model, index: int, steps: int) -> _Stage | None:
    """Run one pass on a copy of `model`; None if it changes nothing."""
    seen = _Recorder()
    try:
        after, report = Pipeline([pass_]).run(model.clone(), watch=seen)
    except (UsageError, MemoryError):  # an option is wrong, or the machine too small: not the pass
        raise
    except Exception as error:
        return _Stage(index, pass_, model, None, seen, steps, crash(error))
    if not report.passes[0].modified:
        return None
    return _Stage(index, pass_, model, after, seen, steps)


def _run_limited(stage: _Stage, limit: int) -> tuple[Model | None, _Recorder, Failure | None]:
    """The model after `limit` applications of the pass, or the failure if it raises."""
    if limit == 0:
        return stage.before, _Recorder(), None
    seen = _Recorder(limit)
    try:
        after, _ = Pipeline([stage.pass_]).run(stage.before.clone(), watch=seen)
    except Exception as error:
        return None, seen, crash(error)
    return after, seen, None


def _blame(stage: _Stage, judge: Judge | None, precision: str | None, say: Say | None) -> Blame:
    """Which application of the pass of `stage` is bad.

    Args:
        judge: None if the pass by itself does no more than it may: then all of it is to blame.
    """
    assert stage.failure is not None
    failure, seen = stage.failure, stage.seen
    crashed = stage.after is None and seen.trying is not None
    good, bad = 0, seen.count + 1 if stage.after is None else seen.count
    if seen.last is None or judge is None:
        good = bad - 1
    while bad - good > 1:
        middle = (good + bad) // 2
        if say is not None:
            say(f"bisect {_text(stage.pass_)}", middle, seen.count)
        after, _, found = _run_limited(stage, middle)
        if after is not None and judge is not None:
            found = judge.failure(after, stage.exactness, precision)
        if found is None:
            good = middle
        else:
            bad, failure, crashed = middle, found, after is None
    return _describe(stage, failure, bad, crashed)


def _describe(stage: _Stage, failure: Failure, application: int, crashed: bool) -> Blame:
    before, _, _ = _run_limited(stage, application - 1)
    after, seen, _ = _run_limited(stage, application)
    before = before or stage.before
    rule: Rule | None = None
    node: Node | None = None
    removed: list[str] = []
    added: list[str] = []
    if crashed and seen.trying is not None:
        rule, node = seen.trying
        removed = [node.name or ""]
    elif seen.last is not None:
        rule, node, added, removed = seen.last
    elif after is not None:
        old, new = ({n.name or "" for n in m.graph.all_nodes()} for m in (before, after))
        removed, added = sorted(old - new), sorted(new - old)
    return Blame(
        failure=failure,
        whole=stage.failure or failure,
        pass_index=stage.index,
        pass_name=_text(stage.pass_),
        rule=None if rule is None else rule.name,
        node=None if node is None else node.name,
        op_type=None if node is None else node.op_type,
        origins=() if node is None else origins(node),
        application=application,
        limit=stage.steps_before + application,
        removed=tuple(removed),
        before=tuple(neighbourhood(before, removed, "-")),
        after=tuple(neighbourhood(after, added, "+")) if after is not None else (),
        pass_=stage.pass_,
        model=before,
        model_before_pass=stage.before,
    )


def neighbourhood(model: Model, names: Iterable[str], mark: str) -> list[str]:
    """The lines of the nodes called `names`, marked, and of the nodes next to them, in the graph's order."""
    wanted = set(names)
    marked = [n for n in model.graph.all_nodes() if n.name in wanted]
    near: dict[Node, None] = {}
    for node in marked:
        near.update((p, None) for v in node.inputs if v is not None and (p := v.producer()) is not None)
        near.update((user, None) for v in node.outputs for user in v.consumers())
        near.update((inner, None) for graph in subgraphs(node) for inner in graph)
    chosen = set(marked[:MAX_LINES]) | set(list(near)[: MAX_LINES - min(len(marked), MAX_LINES)])
    lines = [
        f"{mark if node.name in wanted else ' '} {node_line(node)}"[:MAX_LINE]
        for node in model.graph.all_nodes()
        if node in chosen
    ]
    left = len(marked) + sum(n.name not in wanted for n in near) - len(lines)
    return [*lines, f"  … and {left} more nodes"] if left > 0 else lines


def _text(pass_: onnx_ir.passes.PassBase) -> str:
    return str(pass_) if isinstance(pass_, Pass) else type(pass_).__name__
