"""The view: everything that the HTML report shows, as one JSON document (schema ``graphopt.view/1``).

A view is made of one model, of a model before and after, or of a pipeline run that a
:class:`~graphopt.viz.timeline.Timeline` watched. It holds plain text and numbers, and is linear in the
graph: every version of every node stands in it once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from graphopt.ir import Model, Value
from graphopt.ir.ingest import name_everything
from graphopt.ir.io import ModelSource, read
from graphopt.ir.shapes import infer_shapes
from graphopt.target import Device, Target, device_of
from graphopt.viz import heat
from graphopt.viz.ledger import Ledger
from graphopt.viz.picture import type_label
from graphopt.viz.timeline import Timeline

SCHEMA = "graphopt.view/1"
MAX_NAME = 200


@dataclasses.dataclass
class Measured:
    """What was found out about the last step beside its structure.

    Attributes:
        target: what it was compiled for.
        cost: cycles per node, as :attr:`graphopt.Executable.cost` has them.
        placement: where nodes run, as :attr:`graphopt.Executable.placement` has it.
        verification: a verification's report as JSON (schema ``graphopt.verify/1``).
        device: the device of the roofline; that of the target by default.
        precision: what the computation is narrowed to.
    """

    target: Target | None = None
    cost: Mapping[str, Any] | None = None
    placement: Sequence[Mapping[str, Any]] = ()
    verification: Mapping[str, Any] | None = None
    device: Device | None = None
    precision: str | None = None


Prepared = tuple[Model, frozenset[str]]
"""A model with names and shapes, and the names that were made up for its nodes."""


def model_view(
    before: Prepared,
    after: Prepared | None = None,
    *,
    title: str | None = None,
    facts: Sequence[tuple[str, str]] = (),
    measured: Measured | None = None,
) -> dict[str, Any]:
    """The view of a model as it is written, or of a model before and after.

    Args:
        before, after: as :func:`prepared` gives them; never changed.
        title: the heading; the graph's name by default.
        facts: further lines for the heading: label and text.
        measured: what is known of the last model.
    """
    timeline = Timeline()
    model, invented = before
    name = title or model.graph.name
    timeline.start(model, "original" if after is None else "before", invented=invented)
    if after is not None:
        model, invented = after
        timeline.compare(model, "after", invented)
        notes = interface_changes(before[0], model)
        timeline.ledger.steps[-1].facts |= {"notes": notes} if notes else {}
    return run_view(timeline, model, title=name, facts=facts, measured=measured)


def prepared(source: ModelSource) -> Prepared:
    """The model behind `source`, named and with the shapes that can be inferred.

    Raises:
        ModelError: it cannot be read.
    """
    model = read(source)
    named = {node.name for node in model.graph.all_nodes() if node.name}
    name_everything(model)  # the names that provenance refers to
    if not isinstance(source, Model):
        infer_shapes(model)
    return model, frozenset(n for node in model.graph.all_nodes() if (n := node.name or "") not in named)


def interface_changes(before: Model, after: Model) -> list[str]:
    """What differs in the inputs and outputs of two models, in words.

    A free dimension is as good as another of any name; one that became known or free is a change.
    """
    found = []
    for kind, old_values, new_values in (
        ("input", before.graph.inputs, after.graph.inputs),
        ("output", before.graph.outputs, after.graph.outputs),
    ):
        old, new = (
            {(v.name or "")[:MAX_NAME]: v for v in values if not v.is_initializer()}
            for values in (old_values, new_values)
        )
        found += [f"{kind} {name} is gone" for name in old if name not in new]
        found += [f"{kind} {name} is new" for name in new if name not in old]
        found += [
            f"{kind} {name} was {type_label(old[name])[:MAX_NAME]}, is {type_label(new[name])[:MAX_NAME]}"
            for name in old
            if name in new and _signature(old[name]) != _signature(new[name])
        ]
    return found


def _signature(value: Value) -> tuple[Any, ...]:
    dims = None if value.shape is None else tuple(d if isinstance(d, int) else "" for d in value.shape.dims)
    return (type(value.type), value.dtype, dims)


def run_view(
    timeline: Timeline,
    model: Model,
    *,
    title: str | None = None,
    facts: Sequence[tuple[str, str]] = (),
    measured: Measured | None = None,
) -> dict[str, Any]:
    """The view of a pipeline run.

    Args:
        timeline: what watched the run.
        model: the model at its end.
        measured: what is known of that model.
    """
    timeline.finish(model)
    ledger = timeline.ledger
    known = measured or Measured()
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "title": title or model.graph.name or "graph",
        "generator": _generator(),
        "facts": [[label, str(text)] for label, text in [*_facts(model), *facts]],
        "strings": ledger.strings.texts,
        "values": _values(timeline),
        "nodes": ledger.nodes,
        "groups": ledger.groups.rows,
        "subgraphs": ledger.subgraphs,
        "steps": _steps(ledger),
        "diff": {"pairs": difference(ledger)},
        "heat": _heat(timeline, known),
        "inputs": ledger.inputs,
        "outputs": ledger.outputs,
    }
    device = known.device or (device_of(known.target) if known.target is not None else None)
    line = heat.roofline(device, known.precision)
    if line is not None:
        document["roofline"] = line
    return document


def _generator() -> str:
    from graphopt import __version__

    return f"graphopt {__version__}"


def _facts(model: Model) -> list[tuple[str, str]]:
    opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in model.opset_imports.items())
    producer = " ".join(filter(None, (model.producer_name, model.producer_version)))
    found = [("graph", model.graph.name or ""), ("opset", opsets), ("producer", producer)]
    return [(label, text) for label, text in found if text]


def _values(timeline: Timeline) -> list[dict[str, Any]]:
    return [
        {**row, "stats": timeline.statistics[number]} if number in timeline.statistics else row
        for number, row in enumerate(timeline.ledger.sight.values)
    ]


def _steps(ledger: Ledger) -> list[dict[str, Any]]:
    return [{**step.facts, "add": step.added, "del": step.deleted} for step in ledger.steps]


def _heat(timeline: Timeline, known: Measured) -> list[dict[str, Any]]:
    ledger = timeline.ledger
    step, last = len(ledger.steps) - 1, ledger.steps[-1]
    found = heat.cost_maps(timeline.costs)
    found += heat.cycle_map(known.cost, step, last)
    if known.target is not None:
        found += heat.placement_map(known.placement, known.target, step, last)
    if known.verification is not None:
        makers = {
            ledger.strings.texts[ledger.sight.values[value]["n"]]: version
            for version in last.alive.values()
            for value in ledger.nodes[version]["out"]
            if value >= 0
        }
        found += heat.error_map(known.verification, step, last, makers)
    return found


def difference(ledger: Ledger) -> list[list[Any]]:
    """What became of each node of the first step, and where each of the last comes from, by keys.

    Several sources make a fused node, none an added one. A node with one source is the same if operator,
    attributes, operands that are constant and dtypes are; an equal name and provenance are as good.
    """
    if len(ledger.steps) < 2:
        return []
    first, last = ledger.steps[0].alive, ledger.steps[-1].alive
    print_of = {number: _fingerprint(ledger, number) for number in {*first.values(), *last.values()}}
    kept = _unmerged(ledger)
    rows: list[list[Any]] = []
    covered: set[int] = set()
    for key, number in last.items():
        node = ledger.nodes[number]
        sources = [k for k in node["f"] if k in first]
        covered.update(sources)
        equal = [k for k in sources if print_of[first[k]] == print_of[number]]
        if not sources:
            rows.append([-1, key, "added"])
        elif equal and (len(sources) == 1 or key in kept):
            rows.append([key if key in equal else equal[0], key, "same"])
        else:
            state = "fused" if len(sources) > 1 else "changed"
            rows.extend([k, key, state] for k in sources)
    rows.extend([key, -1, "removed"] for key in first if key not in covered)
    return rows


def _unmerged(ledger: Ledger) -> set[int]:
    """The keys that have the name and the recorded origins that they had in the first step.

    A node with several sources is one of them still if it was saved with its provenance before.
    """
    first, last = (
        {key: (node.name, node.origins) for node, key in zip(step.seen, step.keys, strict=True)}
        for step in (ledger.steps[0], ledger.steps[-1])
    )
    return {key for key, what in last.items() if first.get(key) == what}


def _fingerprint(ledger: Ledger, number: int) -> tuple[Any, ...]:
    """What a version computes: operator, attributes, constant operands and dtypes, not its shapes."""
    node, values = ledger.nodes[number], ledger.sight.values
    operands = tuple(
        None
        if v < 0
        else (values[v]["n"], values[v]["t"], str(values[v]["d"]))
        if values[v]["k"] == "init"
        else 0
        for v in node["in"]
    )
    dtypes = tuple(values[v]["t"] for v in node["out"] if v >= 0)
    attributes = tuple(sorted(tuple(pair) for pair in node.get("a", ())))
    return (node["o"], node["m"], attributes, operands, dtypes)
