"""A timeline: what every pass of a pipeline run did to the graph, as an instrument that watches the run."""

from __future__ import annotations

import dataclasses
from typing import Any

import onnx_ir.passes

from graphopt.errors import UsageError
from graphopt.ir import AttributeType, Model
from graphopt.transform import Instrument, PassRecord
from graphopt.transform.pipeline import initializer_bytes
from graphopt.viz.heat import Costs, node_costs
from graphopt.viz.ledger import Ledger
from graphopt.viz.sight import hidden_constant
from graphopt.viz.statistics import rounded, statistics

MAX_NOTE = 2000


@dataclasses.dataclass
class Timeline(Instrument):
    """Records the graph before the first pass and what each pass changed.

    Give it to :func:`graphopt.optimize` or :func:`graphopt.compile` among the instruments, then to
    :func:`graphopt.viz.view.run_view`. It keeps structure only: names, types, operands and printed
    attributes of what changed, and bounded statistics of the weights; neither nodes nor weights.
    """

    ledger: Ledger = dataclasses.field(default_factory=Ledger)
    costs: dict[int, Costs] = dataclasses.field(default_factory=dict)
    statistics: dict[int, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def before_pass(self, index: int, total: int, pass_: onnx_ir.passes.PassBase, model: Model) -> None:
        """Record the graph as it is before the first pass.

        Raises:
            UsageError: GO701, the timeline has watched another run.
        """
        if index == 0 and len(self.ledger.steps) > 1:
            raise UsageError("GO701", "a timeline watches one run", next_step="Make another one.")
        if not self.ledger.steps:
            self.start(model)

    def after_pass(self, index: int, total: int, record: PassRecord, model: Model) -> None:
        """Record what the pass changed."""
        if record.modified and record.rolled_back is None:
            self.ledger.add(model, facts_of(record))
        else:
            self.ledger.repeat(facts_of(record))
        if index == total - 1:
            self.finish(model)

    def start(self, model: Model, label: str = "original", *, invented: frozenset[str] = frozenset()) -> None:
        """Record `model` as the first step."""
        self.ledger.add(model, model_facts(model, label), invented=invented)
        self._look_closer(model)

    def finish(self, model: Model) -> None:
        """Record what only the end is asked for: costs and statistics. Idempotent."""
        if not self.ledger.steps:
            self.start(model)
        elif len(self.ledger.steps) - 1 not in self.costs:
            self._look_closer(model)

    def compare(self, model: Model, label: str, invented: frozenset[str]) -> None:
        """Record `model`, which is another model than the first step's, as the last step."""
        self.ledger.add(model, model_facts(model, label), trusted=False, invented=invented)
        self._look_closer(model)

    def _look_closer(self, model: Model) -> None:
        """Costs of the nodes and statistics of the weights as they are now."""
        step = len(self.ledger.steps) - 1
        last = self.ledger.steps[-1]
        self.costs[step] = node_costs(model, last)
        tensors = (
            (number, tensor)
            for number, reference in self.ledger.sight.tensors.items()
            if number not in self.statistics and (tensor := reference()) is not None
        )
        self.statistics |= {n: rounded(row) for n, row in statistics(tensors).items()}


def model_facts(model: Model, label: str) -> dict[str, Any]:
    """What the view says of a step that is a model as it came: Constants count as weights, not as nodes."""
    nodes = constants = 0
    for node in model.graph.all_nodes():
        if hidden_constant(node):
            attribute = node.attributes.get("value")
            if attribute is not None and attribute.type == AttributeType.TENSOR:
                tensor = attribute.as_tensor()
                constants += 0 if tensor.dtype.name == "STRING" else tensor.nbytes
        else:
            nodes += 1
    return {"label": label, "changed": True, "nodes": nodes, "bytes": initializer_bytes(model) + constants}


def facts_of(record: PassRecord) -> dict[str, Any]:
    """What the view says of a pass."""
    facts: dict[str, Any] = {
        "label": record.name,
        "pass": record.name.partition("{")[0],
        "changed": record.modified and record.rolled_back is None,
        "why": [[rule, count] for rule, count in sorted(record.counts.items(), key=lambda c: (-c[1], c[0]))],
        "seconds": round(record.seconds, 6),
        "nodes": record.nodes_after,
        "bytes": record.bytes_after,
        "exactness": record.exactness,
    }
    if record.rolled_back is not None:
        facts["nodes"], facts["bytes"] = record.nodes_before, record.bytes_before
        facts["notes"] = [f"undone, it changes results: {record.rolled_back}"[:MAX_NOTE]]
    return facts
