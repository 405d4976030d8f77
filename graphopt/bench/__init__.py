"""Measuring: interleaved runs, percentiles, ratios with their spread, peak memory."""

from __future__ import annotations

from graphopt.bench.measure import Series, interleave, percentile, ratio
from graphopt.bench.memory import peak_bytes
from graphopt.bench.search import Axis, Found, Journal, Point, Trial, search
from graphopt.bench.throughput import throughput

__all__ = [
    "Axis",
    "Found",
    "Journal",
    "Point",
    "Series",
    "Trial",
    "interleave",
    "peak_bytes",
    "percentile",
    "ratio",
    "search",
    "throughput",
]
