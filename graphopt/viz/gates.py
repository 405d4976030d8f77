"""Gates on what changed: ``nodes>+5%``, ``bytes>100M``, ``Transpose>+0``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import onnx

from graphopt.errors import UsageError
from graphopt.viz.families import family_of

METRICS: dict[str, str] = {
    "nodes": "nodes, nested ones included, Constants left out",
    "bytes": "bytes of weights",
    "flops": "operations, by shapes",
    "moved": "bytes read and written, by shapes",
    "cycles": "cycles that a target's compiler estimates",
}

_SCALES = {"": 1.0, "K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40}
_GATE = re.compile(
    r"\s*(?P<metric>[A-Za-z][A-Za-z0-9_.]*)\s*(?P<relation>>=|<=|>|<)\s*(?P<sign>[+-]?)\s*"
    r"(?P<number>\d{1,18}(?:\.\d{1,18})?)(?P<unit>%|[KMGT]?)\s*\Z"
)
EXPECTED = "METRIC>LIMIT, as in nodes>+5%, bytes>100M, cycles>+2%, Transpose>+0"


@dataclasses.dataclass(frozen=True)
class Gate:
    """A limit: of the value after, or, where it has a sign, of how much it changed.

    Attributes:
        limit: in the metric's unit, or in percent of the value before.
    """

    text: str
    metric: str
    relation: str
    change: bool
    percent: bool
    limit: float

    def judge(self, before: float, after: float) -> dict[str, Any]:
        """Whether the gate fails for a metric's values, JSON-ready."""
        found = after - before if self.change else after
        if self.percent:
            found = (100.0 * found / before) if before else (0.0 if found == 0 else float("inf") * found)
        failed = {
            ">": found > self.limit,
            ">=": found >= self.limit,
            "<": found < self.limit,
            "<=": found <= self.limit,
        }[self.relation]
        return {
            "gate": self.text,
            "metric": self.metric,
            "before": before,
            "after": after,
            "found": found,
            "unit": "%" if self.percent else "",
            "failed": failed,
        }


def parse_gate(text: str) -> Gate:
    """The gate that `text` describes.

    Raises:
        UsageError: GO701, it cannot be read, or gives a share of nothing.
    """
    match = _GATE.match(text)
    if match is None:
        raise UsageError(
            "GO701", "a gate cannot be read", where="--fail-on", found=repr(text), expected=EXPECTED
        )
    sign, unit = match["sign"], match["unit"]
    if unit == "%" and not sign:
        raise UsageError(
            "GO701",
            "a share needs a sign: it is a share of the value before",
            where="--fail-on",
            found=repr(text),
            expected=f"{match['metric']}{match['relation']}+{match['number']}%",
        )
    limit = float(match["number"]) * (1.0 if unit == "%" else _SCALES[unit])
    return Gate(
        text=text.strip(),
        metric=match["metric"],
        relation=match["relation"],
        change=bool(sign),
        percent=unit == "%",
        limit=-limit if sign == "-" else limit,
    )


def judge(
    gates: list[Gate], metrics: Mapping[str, Any], operators: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """What each of `gates` finds.

    Args:
        metrics: by name the values before and after; None for what is not known.
        operators: the same by operator, with its domain where that is not the standard one.

    Raises:
        UsageError: GO701, a metric is neither known nor an operator, or was not measured.
    """
    return [gate.judge(*_values(gate, metrics, operators)) for gate in gates]


def _values(gate: Gate, metrics: Mapping[str, Any], operators: Mapping[str, Any]) -> tuple[float, float]:
    if gate.metric in METRICS:
        before, after = metrics[gate.metric]
        if before is None or after is None:
            raise UsageError(
                "GO701",
                f"there is no number for {gate.metric} ({METRICS[gate.metric]})",
                where=f"--fail-on {gate.text}",
                found=f"{_shown(before)} before, {_shown(after)} after",
                next_step="Cycles are those of two artifacts that were compiled for a TPU."
                if gate.metric == "cycles"
                else "Bind free dimensions with --dim: operations have no number without.",
            )
        return float(before), float(after)
    named = [name for name in operators if gate.metric in (name, name.rpartition(".")[2])]
    if not named and not _is_operator(gate.metric):
        raise UsageError(
            "GO701",
            f"{gate.metric} is neither a metric nor an operator",
            where=f"--fail-on {gate.text}",
            expected=f"{', '.join(METRICS)}, or an operator such as Transpose",
        )
    return (
        float(sum(operators[name][0] for name in named)),
        float(sum(operators[name][1] for name in named)),
    )


def _is_operator(name: str) -> bool:
    domain, _, op = name.rpartition(".")
    if domain:
        return True
    return onnx.defs.has(op) or family_of("com.microsoft", op) != "other"


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"
