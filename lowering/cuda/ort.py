"""Lower a model to a plan for ONNX Runtime: providers, their options, and where each node will run.

The graph is not changed: the optimised ONNX model is the program, and the plan says how to run it.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

from graphopt.errors import LoweringError
from graphopt.ir import Model
from graphopt.lowering.cuda import kernels
from graphopt.lowering.cuda import placement as placing
from graphopt.lowering.cuda import providers as choosing
from graphopt.lowering.cuda.reconcile import reconcile, settled_summary
from graphopt.target import Target

SCHEMA = "graphopt.ort-plan/1"
MOST_LISTED = 8


@dataclasses.dataclass(frozen=True)
class OrtPlan:
    """How ONNX Runtime is to run a model.

    Attributes:
        target: the target as text.
        providers: (name, options) in the order in which they take nodes; the last is the CPU.
        session_options: graph_optimization_level, intra_op_num_threads (None: ONNX Runtime's choice),
            log_severity_level and config_entries.
        placement: where each node is predicted to run.
        summary: the placement in numbers.
        reasons: provider → option → why it was chosen.
        notes: what the user should know.
        source: where the placement is from: a prediction by which table, or ONNX Runtime itself.
    """

    target: str
    providers: list[tuple[str, dict[str, str]]]
    session_options: dict[str, Any]
    placement: list[placing.NodePlacement]
    summary: placing.PlacementSummary
    reasons: dict[str, dict[str, str]]
    notes: list[str]
    source: str = "predicted"

    def to_json(self, *, nodes: bool = True) -> dict[str, Any]:
        """The plan as a JSON-ready dict (schema ``graphopt.ort-plan/1``).

        Args:
            nodes: include the placement of every single node.
        """
        return {
            "schema": SCHEMA,
            "target": self.target,
            "providers": [[name, dict(options)] for name, options in self.providers],
            "session_options": self.session_options,
            "placement_source": self.source,
            "summary": self.summary.to_json(),
            "reasons": self.reasons,
            "notes": list(self.notes),
            **({"placement": [p.to_json() for p in self.placement]} if nodes else {}),
        }


def lower_ort(
    model: Model,
    target: Target,
    *,
    strict: bool = False,
    precision: str | None = None,
    profiles: Mapping[str, tuple[int, int, int]] | None = None,
    device_id: int = 0,
) -> OrtPlan:
    """The plan by which ONNX Runtime runs `model` on `target`.

    Args:
        model: optimised, in canonical form.
        target: of kind ``cpu``, ``cuda`` or ``tensorrt``.
        strict: refuse nodes that are predicted to fall back to the CPU.
        precision: fp32 (also None), tf32, fp16 or bf16; casting the model is a pass, this only sets
            what the providers may do on their own.
        profiles: for TensorRT: dimension name → (min, opt, max).
        device_id: the GPU's number.

    Raises:
        PolicyError: GO501, in strict mode.
        LoweringError: GO202 for another kind of target, GO204 for an incomplete profile.
    """
    if target.kind not in placing.PROVIDERS:
        raise LoweringError(
            "GO202", "ONNX Runtime does not serve this target", found=target, expected="cpu, cuda or tensorrt"
        )
    choosing.check_precision(precision)
    placements = placing.predict(model, target)
    if strict:
        placing.check_strict(placements)
    summary = placing.summarize(model, placements)
    source = (
        "every node is the CPU provider's"
        if target.kind == "cpu"
        else f"predicted by the kernels of ONNX Runtime {kernels.cuda_table_version()}"
    )
    options, notes = choosing.choose(
        model,
        target,
        precision=precision,
        profiles=profiles,
        device_id=device_id,
        engines=summary.engines,
        shape_nodes=summary.nodes["shape"],
    )
    return OrtPlan(
        target=str(target),
        providers=[(name, chosen.values) for name, chosen in options.items()],
        session_options=choosing.session_options(),
        placement=placements,
        summary=summary,
        reasons={name: chosen.reasons for name, chosen in options.items() if chosen.reasons},
        notes=notes,
        source=source,
    )


def settle(plan: OrtPlan, actual: Mapping[str, Any], source: str) -> OrtPlan:
    """`plan` with the placement that ONNX Runtime chose (:mod:`graphopt.lowering.cuda.reconcile`)."""
    placements = reconcile(plan.placement, actual)
    nodes = {kind: sum(p.kind == kind for p in placements) for kind in placing.KINDS}
    counted = dataclasses.replace(
        plan.summary,
        nodes=nodes,
        providers=dict(Counter(p.provider for p in placements)),
        fallback_ops=dict(Counter(p.op for p in placements if p.kind == "fallback").most_common()),
    )
    summary = settled_summary(counted, placements, actual)
    return dataclasses.replace(plan, placement=placements, summary=summary, source=source)


def placement_notes(plan: OrtPlan) -> list[str]:
    """What a user should know about where the nodes of `plan` run."""
    summary, notes = plan.summary, []
    if summary.nodes["fallback"]:
        ops = ", ".join(f"{op} ({count})" for op, count in summary.fallback_ops.items())
        verb = "are predicted to fall" if summary.disagreements is None else "fall"
        notes.append(
            f"{summary.nodes['fallback']} nodes {verb} back to the CPU: {ops}; "
            f"{summary.copies} tensors are copied between host and device on each run."
        )
    if summary.disagreements:
        listed = [f"{p.op} {p.node!r} on {p.provider}" for p in plan.placement if p.predicted is not None]
        notes.append(
            f"ONNX Runtime put {summary.disagreements} nodes elsewhere than predicted: "
            f"{', '.join(listed[:MOST_LISTED])}{', …' if len(listed) > MOST_LISTED else ''}"
        )
    return notes
