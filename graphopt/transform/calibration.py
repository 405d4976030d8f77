"""What values of a model were observed to be, and the passes that decide by it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

from graphopt.ir import Model
from graphopt.transform.base import Changes, Pass


@dataclasses.dataclass(frozen=True)
class ValueRange:
    """What one float value of a model was over all feeds.

    Attributes:
        low, high: the least and the greatest finite number.
        smallest: the smallest magnitude of a number that is not 0; infinity if there was none.
        nonfinite: whether there were NaN or infinities.
    """

    low: float
    high: float
    smallest: float
    nonfinite: bool = False

    @property
    def largest(self) -> float:
        """The largest finite magnitude."""
        return max(abs(self.low), abs(self.high))

    def union(self, other: ValueRange) -> ValueRange:
        """What both hold."""
        return ValueRange(
            min(self.low, other.low),
            max(self.high, other.high),
            min(self.smallest, other.smallest),
            self.nonfinite or other.nonfinite,
        )


Ranges = Mapping[str, ValueRange]
Observer = Callable[[Model, Collection[str]], Ranges]
"""Runs a model on calibration feeds and gives the ranges of the values named (of those it could see)."""


class CalibratedPass(Pass):
    """A pass that can use the ranges of the values of the model as it finds it.

    The pipeline asks it for the values that it wants to know (:meth:`wanted`), has the model observed
    and calls :meth:`run_with`; without calibration feeds it calls :meth:`run`.
    """

    def wanted(self, model: Model) -> list[str]:
        """The names of the values whose ranges are of use."""
        raise NotImplementedError

    def run_with(self, model: Model, ranges: Ranges | None) -> Changes:
        """Change `model` in place, knowing `ranges`; None if nothing was observed."""
        raise NotImplementedError

    def run(self, model: Model) -> Changes:
        """Change `model` in place without having observed it."""
        return self.run_with(model, None)


def observable(model: Model, dtype: Any) -> list[str]:
    """The values of `dtype` in the main graph that a run can show: inputs and results, not constants."""
    graph = model.graph
    inputs = [v for v in graph.inputs if not v.is_initializer()]
    results = [v for node in graph for v in node.outputs]
    return [v.name for v in (*inputs, *results) if v.name and v.dtype == dtype]
