"""What ONNX Runtime decided, in the place of what was predicted, and where the two differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from graphopt.lowering.cuda.placement import CPU, NodePlacement, PlacementSummary


def reconcile(placements: Sequence[NodePlacement], actual: Mapping[str, Any]) -> list[NodePlacement]:
    """`placements` with the providers that ONNX Runtime chose.

    A node that ONNX Runtime folded or fused keeps its prediction: it is part of another one now. Where the
    provider is not the predicted one, `predicted` says which that was.

    Args:
        actual: as :func:`graphopt.runtime.ort_assignment.assignment` gives it.
    """
    chosen: Mapping[str, str] = actual["nodes"]
    return [_settled(placement, chosen.get(placement.node)) for placement in placements]


def _settled(placement: NodePlacement, provider: str | None) -> NodePlacement:
    if provider is None or provider == placement.provider:
        return placement
    if provider != CPU:
        return dataclasses.replace(
            placement, provider=provider, kind="accelerator", predicted=placement.provider, engine=None
        )
    if placement.kind in ("folded", "shape"):
        return dataclasses.replace(placement, provider=provider, predicted=placement.provider)
    return dataclasses.replace(
        placement,
        provider=provider,
        kind="fallback",
        reason="ONNX Runtime put it on the CPU, although the accelerator was expected to take it",
        predicted=placement.provider,
        engine=None,
    )


def settled_summary(
    summary: PlacementSummary, placements: Sequence[NodePlacement], actual: Mapping[str, Any]
) -> PlacementSummary:
    """`summary` with the copies and engines that ONNX Runtime made; what it does not tell stays predicted."""
    copies = actual.get("copies")
    return dataclasses.replace(
        summary,
        copies=summary.copies if copies is None else int(copies),
        engines=int(actual["engines"]),
        disagreements=sum(p.predicted is not None for p in placements),
    )


def left_on_cpu(rows: Sequence[Mapping[str, Any]], chosen: Mapping[str, str]) -> list[dict[str, Any]]:
    """The rows of a placement whose nodes a session runs on the CPU though that is not where they belong.

    Args:
        rows: a placement, JSON-ready.
        chosen: node name → provider, of the session.
    """
    return [
        {**row, "provider": CPU, "kind": "fallback"}
        for row in rows
        if chosen.get(row["node"]) == CPU and row["kind"] not in ("shape", "folded")
    ]
