"""Debug pipelines: explain a rule, bisect a pipeline that changes answers, reduce the model that shows it."""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.driver import Prepared, prepare
from graphopt.errors import UsageError
from graphopt.ir import Model
from graphopt.ir.io import load
from graphopt.target import Target
from graphopt.transform import Pass, Pipeline
from graphopt.transform.explain import Explanation, explain_pipeline

if TYPE_CHECKING:
    from graphopt.verification import Bisection, Reduction

Say = Callable[[str, int, int], None]
Feeds = Mapping[str, Any]
NEAR_NAMES = 3


def explain(
    source: Any,
    subject: str,
    node: str | None = None,
    target: str | Target | None = None,
    level: int = 2,
    pipeline: str | Pipeline | None = None,
    **settings: Any,
) -> Explanation:
    """Whether a rule, or the rules of a pass, apply; else the nearest miss, and the value it failed on.

    Args:
        source, target, level, pipeline, settings: as of :func:`graphopt.optimize`.
        subject: a rule or a pass. One that the pipeline does not have is tried at its end.
        node: a node's name, the name of an output of it, or that of a node of the file that it stands
            for. None: all nodes.

    Raises:
        UsageError: GO703, there is no such rule, pass or node; the nearest names are in the message.
    """
    work = prepare(source, target, level, pipeline, **settings)
    is_rule, passes, notes = _find_subject(work.pipeline, subject)
    found = explain_pipeline(work.model, passes, subject, rule=is_rule, node=node, notes=notes)
    if node is not None and not found.attempts and node not in found.known_names:
        raise _unknown(f"there is no node {node!r}", node, found.known_names)
    return found


def _find_subject(pipeline: Pipeline, subject: str) -> tuple[bool, Pipeline, list[str]]:
    """Whether `subject` is a rule, and the pipeline with it."""
    passes = list(pipeline)
    if any(isinstance(p, Pass) and p.pass_name() == subject for p in passes):
        return False, pipeline, []
    if any(item.name == subject for p in passes for item in getattr(p, "rules", ())):
        return True, pipeline, []
    registry = importlib.import_module("graphopt.passes")
    classes = {name: registry.find(name) for name in registry.names()}
    rules = {item.name: cls for cls in classes.values() for item in getattr(cls, "rules", ())}
    cls = classes.get(subject) or rules.get(subject)
    if cls is None:
        raise _unknown(f"there is no rule or pass {subject!r}", subject, [*classes, *rules])
    note = f"the pass {cls.pass_name()} is not in this pipeline: it was tried after its last pass"
    return subject not in classes, Pipeline([*passes, cls()]), [note]


def _unknown(message: str, name: str, known: Any) -> UsageError:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=NEAR_NAMES, cutoff=0.5)
    near += [n for n in names if name.lower() in n.lower() and n not in near][:NEAR_NAMES]
    return UsageError(
        "GO703",
        message,
        expected=" or ".join(repr(n) for n in near) if near else None,
        next_step="`graphopt passes` lists passes and rules, `graphopt inspect` nodes.",
    )


def bisect(
    source: Any,
    target: str | Target | None = None,
    level: int = 2,
    pipeline: str | Pipeline | None = None,
    *,
    data: str | os.PathLike[str] | None = None,
    feeds: Sequence[Feeds] | None = None,
    seed: int = 0,
    runtime_optimized: bool = False,
    say: Say | None = None,
    **settings: Any,
) -> Bisection:
    """The first pass that breaks the model (results, validity, or by raising), and the bad application in it.

    Args:
        source, target, level, pipeline, settings: as of :func:`graphopt.optimize`.
        data: a file or folder of feeds (see :func:`graphopt.verification.load_feeds`).
        feeds: sets of inputs; by default some are generated, with other sizes and special numbers, too.
        seed: of generated feeds.
        runtime_optimized: run the models with ONNX Runtime's own optimisations, which may break what a
            pass leaves; results are then held to the rounding of another order of sums.

    Raises:
        GraphoptError: the model is broken, or does not run itself.
    """
    verification = importlib.import_module("graphopt.verification")
    work = prepare(source, target, level, pipeline, **settings)
    with verification.ReferenceProcess(optimized=runtime_optimized) as process:
        return _bisect(process, work, data, feeds, seed, say)


def _bisect(
    process: Any,
    work: Prepared,
    data: str | os.PathLike[str] | None,
    feeds: Sequence[Feeds] | None,
    seed: int,
    say: Say | None,
) -> Bisection:
    verification = importlib.import_module("graphopt.verification")
    given = _given_feeds(work.model, data, feeds)
    if given is None:
        sets, special = verification.exact_feeds(process, work.bound, seed=seed)
    else:
        sets, special = given, frozenset()
    found: Bisection = verification.bisect_pipeline(
        process, work.model, work.pipeline, sets, special=special, precision=work.precision, say=say
    )
    return found


def _given_feeds(
    model: Model, data: str | os.PathLike[str] | None, feeds: Sequence[Feeds] | None
) -> list[dict[str, np.ndarray]] | None:
    if feeds is not None:
        return [{name: np.asarray(array) for name, array in one.items()} for one in feeds]
    if data is None:
        return None
    verification = importlib.import_module("graphopt.verification")
    names = [value.name or "" for value in model.graph.inputs]
    dtypes = {value.name: value.dtype.numpy() for value in model.graph.inputs if value.dtype is not None}

    def typed(name: str, array: np.ndarray) -> np.ndarray:
        """Types that numpy's files do not know come as raw bytes."""
        wanted = dtypes.get(name)
        raw = wanted is not None and array.dtype.kind == "V" and array.dtype.itemsize == wanted.itemsize
        return array.view(wanted) if raw and wanted is not None else array

    return [
        {name: typed(name, array) for name, array in one.items()}
        for one in verification.load_feeds(data, inputs=names)
    ]


def reduce(
    source: Any,
    predicate: Callable[[Model, dict[str, np.ndarray]], bool] | None = None,
    target: str | Target | None = None,
    level: int = 2,
    pipeline: str | Pipeline | None = None,
    *,
    data: str | os.PathLike[str] | None = None,
    feeds: Sequence[Feeds] | None = None,
    seed: int = 0,
    seconds: float = 60.0,
    runtime_optimized: bool = False,
    output: str | os.PathLike[str] | None = None,
    say: Say | None = None,
    **settings: Any,
) -> Reduction:
    """The smallest model found that fails as `source` does.

    Args:
        source, target, level, pipeline, settings: as of :func:`graphopt.optimize`.
        predicate: whether a model fails on some feeds; then no pipeline is run. It is called with models
            of its own, in canonical form. None: what fails is the pipeline, as :func:`bisect` finds.
        data, feeds, seed, runtime_optimized: as of :func:`bisect`; for a predicate the first set is used.
        seconds: when to stop with what was reached.
        output: a folder to write the reproducer to.

    Raises:
        UsageError: GO704, nothing fails.
        GraphoptError: the model is broken, or does not run itself.
    """
    verification = importlib.import_module("graphopt.verification")
    with verification.ReferenceProcess(optimized=runtime_optimized) as process:
        if predicate is not None:
            model = load(source)
            given = _given_feeds(model, data, feeds)
            one = given[0] if given else verification.generate_feeds(model, seed=seed)
            result: Reduction = verification.reduce_model(
                process, model, one, predicate, seconds=seconds, say=say
            )
        else:
            work = prepare(source, target, level, pipeline, **settings)
            found = _bisect(process, work, data, feeds, seed, say)
            result = verification.reduce_failure(
                process,
                work.model,
                work.pipeline,
                found,
                precision=work.precision,
                seconds=seconds,
                say=say,
            )
        if output is not None:
            verification.write_reproducer(
                output,
                result,
                precision=settings.get("precision"),
                runtime_optimized=runtime_optimized,
            )
    return result
