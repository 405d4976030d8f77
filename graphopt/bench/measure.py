"""Latencies of several candidates in one run, side by side.

A machine's speed drifts (clocks, other work), so candidates take turns, in an order that is drawn
anew for each round, and are compared within the rounds: what slows a round slows all of it.
"""

from __future__ import annotations

import dataclasses
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

QUANTILE = 1.96
"""Of the normal distribution, for an interval of 95 %."""


@dataclasses.dataclass(frozen=True)
class Series:
    """The latencies of one candidate, in seconds, one for each round."""

    name: str
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median latency, in seconds."""
        return percentile(self.seconds, 50)

    def to_json(self) -> dict[str, Any]:
        """Percentiles in seconds, and calls per second at the mean latency."""
        mean = float(np.mean(self.seconds))
        return {
            "name": self.name,
            "runs": len(self.seconds),
            "p50_s": self.median,
            "p90_s": percentile(self.seconds, 90),
            "p99_s": percentile(self.seconds, 99),
            "min_s": min(self.seconds),
            "mean_s": mean,
            "calls_per_s": 1.0 / mean if mean else None,
        }


def percentile(seconds: Sequence[float], percent: float) -> float:
    """The latency that `percent` per cent of the runs do not exceed (interpolated)."""
    return float(np.percentile(np.asarray(seconds), percent))


def interleave(
    candidates: Mapping[str, Callable[[], object]],
    *,
    runs: int | None = None,
    seconds: float | None = None,
    warmup: int = 3,
    settle: int = 0,
    seed: int = 0,
    enough: Callable[[list[Series]], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Series]:
    """Call the candidates in turns and time every call.

    Args:
        candidates: what to call, by name.
        runs: rounds; each calls every candidate once.
        seconds: stop after this time instead, but not before 10 rounds (or `runs`, where both are given).
        warmup: calls of each candidate before the clock starts.
        settle: calls before each one that is timed: they take what the candidate before it left behind
            (its threads, which go on spinning for a while, and caches).
        seed: of the order in which candidates are called within a round.
        enough: asked after each round from the least number on whether what was measured will do.
        progress: called with (round, rounds) as the rounds go by; rounds is 0 when time decides.
    """
    for call in candidates.values():
        for _ in range(warmup):
            call()
    order = list(candidates)
    draw = random.Random(seed)
    timings: dict[str, list[float]] = {name: [] for name in candidates}
    least = runs if runs is not None else 10
    done, begun = 0, clock()
    while done < least or (seconds is not None and clock() - begun < seconds):
        if enough is not None and done >= least and enough(_series(timings)):
            break
        if progress is not None:
            progress(done, 0 if seconds is not None else least)
        draw.shuffle(order)
        for name in order:
            call = candidates[name]
            for _ in range(settle):
                call()
            started = clock()
            call()
            timings[name].append(clock() - started)
        done += 1
    return _series(timings)


def _series(timings: Mapping[str, Sequence[float]]) -> list[Series]:
    return [Series(name, tuple(found)) for name, found in timings.items()]


def ratio(base: Series, other: Series, quantile: float = QUANTILE) -> tuple[float, float, float]:
    """How many times as fast as `base` `other` is: the median over rounds, and its 95 % interval.

    Another `quantile` of the normal distribution gives another interval: 3.29 that of 99.9 %.

    The interval is that between order statistics of the rounds' ratios, which supposes nothing about
    how latencies are distributed. Both series must come from one :func:`interleave`.
    """
    ratios = np.sort(np.asarray(base.seconds) / np.asarray(other.seconds))
    spread = quantile * math.sqrt(len(ratios)) / 2
    low = max(math.floor(len(ratios) / 2 - spread), 0)
    high = min(math.ceil(len(ratios) / 2 + spread), len(ratios) - 1)
    return float(np.median(ratios)), float(ratios[low]), float(ratios[high])
