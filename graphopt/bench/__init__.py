"""Measuring: interleaved runs, percentiles, ratios with their spread, peak memory."""

from __future__ import annotations

from graphopt.bench.measure import Series, interleave, percentile, ratio
from graphopt.bench.memory import peak_growth_bytes
from graphopt.bench.search import Axis, Found, Journal, Point, Trial, search

__all__ = [
    "Axis",
    "Found",
    "Journal",
    "Point",
    "Series",
    "Trial",
    "interleave",
    "peak_growth_bytes",
    "percentile",
    "ratio",
    "search",
]
