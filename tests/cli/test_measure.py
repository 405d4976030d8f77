"""Measuring: turns, percentiles, ratios, memory."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from graphopt.bench import Series, interleave, percentile, ratio, throughput


def test_candidates_take_turns() -> None:
    calls: list[str] = []
    series = interleave(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, runs=50, warmup=2, clock=lambda: 0.0
    )
    assert calls[:4] == ["a", "a", "b", "b"]
    rounds = [tuple(calls[i : i + 2]) for i in range(4, len(calls), 2)]
    assert len(rounds) == 50
    assert set(rounds) == {("a", "b"), ("b", "a")}, "each round calls both, in an order of its own"
    assert [len(s.seconds) for s in series] == [50, 50]


def test_only_the_call_is_timed() -> None:
    now = [0.0]

    def work(seconds: float) -> None:
        now[0] += seconds

    a, b = interleave(
        {"a": lambda: work(2.0), "b": lambda: work(1.0)},
        runs=5,
        clock=lambda: now[0],
        progress=lambda done, rounds: work(100.0),
    )
    assert a.seconds == (2.0,) * 5
    assert b.seconds == (1.0,) * 5
    assert ratio(a, b) == (2.0, 2.0, 2.0)


def test_time_decides_when_rounds_do_not() -> None:
    now = [0.0]

    def work() -> None:
        now[0] += 1.0

    (series,) = interleave({"a": work}, seconds=25.0, warmup=1, clock=lambda: now[0])
    assert len(series.seconds) == 25


def test_percentiles_are_those_of_numpy() -> None:
    seconds = np.random.default_rng(0).gamma(2.0, size=1001)
    series = Series("a", tuple(seconds))
    assert percentile(series.seconds, 99) == pytest.approx(np.sort(seconds)[990])
    assert series.median == pytest.approx(np.sort(seconds)[500])


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        drift = random.lognormal(0.0, 1.0, 100)  # what slows a round slows both
        base = Series("a", tuple(2.0 * drift * random.lognormal(0.0, 0.1, 100)))
        other = Series("b", tuple(drift * random.lognormal(0.0, 0.1, 100)))
        _, low, high = ratio(base, other)
        covered += low <= 2.0 <= high
    assert 0.92 <= covered / 400 <= 0.99


def test_a_call_settles_before_it_is_timed() -> None:
    calls: list[str] = []
    interleave(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")},
        runs=3,
        warmup=1,
        settle=1,
        clock=lambda: 0.0,
    )
    turns = [calls[i : i + 2] for i in range(2, len(calls), 2)]
    assert len(turns) == 6
    assert all(first == second for first, second in turns)


def test_enough_ends_it_but_not_before_the_least_rounds() -> None:
    (series,) = interleave({"a": lambda: None}, runs=5, seconds=1e9, enough=lambda found: True)
    assert len(series.seconds) == 5
    (series,) = interleave(
        {"a": lambda: None}, runs=5, seconds=1e9, enough=lambda found: len(found[0].seconds) >= 9
    )
    assert len(series.seconds) == 9


PEAK = """
from graphopt.bench import peak_bytes
before = peak_bytes()
blob = bytes(bytearray(64 << 20))
del blob
print(before, peak_bytes())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the account of memory is Linux's")
def test_peak_memory_counts_what_was_there_for_a_moment_only_and_nothing_of_the_parent() -> None:
    ballast = np.ones(200 << 20, np.uint8)
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before < ballast.nbytes
    assert (120 << 20) < after - before < (200 << 20)  # the array and its copy


def test_throughput_counts_all_callers_and_gives_their_errors() -> None:
    lock = threading.Lock()
    total = [0]

    def call() -> None:
        time.sleep(0.002)
        with lock:
            total[0] += 1

    rates = throughput({"a": call, "b": call}, callers=4, seconds=0.4)
    assert {name: len(found) for name, found in rates.items()} == {"a": 4, "b": 4}
    assert total[0] >= 50
    assert all(300 < rate <= 2100 for found in rates.values() for rate in found)
    with pytest.raises(ZeroDivisionError):
        throughput({"a": lambda: 1 // 0}, callers=2, seconds=0.1)
