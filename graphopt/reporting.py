"""The HTML report of a pipeline run or an executable: what every pass did, and what the result costs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graphopt import viz
from graphopt.errors import UsageError
from graphopt.ir import Model
from graphopt.ir.shapes import infer_shapes
from graphopt.target import Target, device_of
from graphopt.transform import Instrument, Report, Watch
from graphopt.viz import Measured, Timeline

if TYPE_CHECKING:
    from graphopt.driver import Prepared

Recall = Callable[[], tuple[Timeline, Model]]
"""Gives the timeline of a run and the model at its end."""


def page(
    recall: Recall,
    *,
    title: str | None = None,
    facts: Sequence[tuple[str, str]] = (),
    measured: Measured | None = None,
) -> str:
    """The HTML report of a pipeline run."""
    timeline, model = recall()
    passes = [step.facts["changed"] for step in timeline.ledger.steps[1:]]
    counted = [("passes", f"{sum(passes)} of {len(passes)} changed something")] if passes else []
    view = viz.run_view(timeline, model, title=title, facts=[*facts, *counted], measured=measured)
    return viz.to_html(view)


def recall_run(
    again: Callable[[], Prepared],
    report: Report,
    model: Model,
    instruments: Sequence[Instrument],
    rule_limit: int | None,
) -> tuple[Timeline, Model]:
    """The timeline of a run that is over: the one that watched it, or that of a second run.

    Args:
        again: gives the model and the pipeline as they were.
        report: of the run; passes that it says were undone are undone again.
        model: what came of the run.

    Raises:
        UsageError: GO701, a second run does something else: the source was changed meanwhile.
    """
    for instrument in instruments:
        if isinstance(instrument, viz.Timeline):
            return instrument, model
    timeline, work = viz.Timeline(), again()
    faults = iter([record.rolled_back for record in report.passes if record.modified])
    undone = any(record.rolled_back for record in report.passes)
    found, replayed = work.pipeline.run(
        work.model,
        instruments=[timeline],
        check=(lambda *_: next(faults, None)) if undone else None,
        watch=None if rule_limit is None else Watch(rule_limit),
        observe=work.observe,
    )
    if replayed.to_json(times=False) != report.to_json(times=False):
        raise UsageError(
            "GO701",
            "the model changed since it was optimised, so what the passes did cannot be shown",
            next_step="Give graphopt.optimize a graphopt.viz.Timeline() among the instruments.",
        )
    return timeline, found


def inline(model: Model, recall: Recall | None) -> str:
    """The report of a run as an element of a notebook; of a large model its drawing."""
    if recall is not None and viz.is_small(model):
        try:
            return viz.frame(page(recall))
        except UsageError:  # what the passes did cannot be told any more: the model can
            pass
    return viz.visualize(model)._repr_html_()


def write_run(
    recall: Recall,
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    target: str | Target | None = None,
    precision: str | None = None,
) -> None:
    """Write the HTML report of a pipeline run for `target` to `path` (see :func:`write_page`)."""
    chosen = None if target is None else Target.parse(target)
    known = Measured(device=None if chosen is None else device_of(chosen), precision=precision)
    facts = [] if chosen is None else [("target", str(chosen))]
    facts += [] if precision is None else [("precision", precision)]
    write_page(path, lambda: page(recall, title=title, facts=facts, measured=known))


def write_page(path: str | os.PathLike[str], make: Callable[[], str]) -> None:
    """Write what `make` makes to `path`, which is checked first.

    Raises:
        UsageError: GO701, the name does not end in ``.html``.
        OutputError: GO111, the file cannot be written.
    """
    check_page(path)
    viz.write(path, make())


def check_page(path: str | os.PathLike[str]) -> None:
    """Raise UsageError (GO701) unless `path` ends in ``.html``."""
    if viz.check_suffix(path) != ".html":
        raise UsageError(
            "GO701", "a report is an HTML file", where=str(path), expected="a file name that ends in .html"
        )


def measured(
    target: Target,
    cost: Mapping[str, Any] | None,
    placement: Sequence[Mapping[str, Any]],
    precision: str | None,
    verification: Mapping[str, Any] | None = None,
) -> Measured:
    """What an executable knows of its nodes, and a verification of it, for the report's heat maps."""
    return Measured(
        target=target, cost=cost, placement=placement, precision=precision, verification=verification
    )


def as_it_is(model: Model) -> tuple[Timeline, Model]:
    """The timeline of a model that nothing is known of but itself, with the shapes that can be inferred."""
    model = infer_shapes(model.clone())
    timeline = viz.Timeline()
    timeline.start(model)
    return timeline, model
