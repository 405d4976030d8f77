"""Calls per second when several callers share one session."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

TURNS = 4


def throughput(
    candidates: Mapping[str, Callable[[], object]],
    *,
    callers: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Calls per second of each candidate, in each of a few turns.

    Args:
        candidates: what to call, by name; may be called by several threads at once.
        callers: threads that call it, each as fast as it can.
        seconds: for all of it; candidates take turns.

    Raises:
        Exception: what a call raised.
    """
    share = seconds / (TURNS * len(candidates))
    found: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(TURNS):
        names = list(candidates)
        for name in names if turn % 2 == 0 else reversed(names):
            found[name].append(_rate(candidates[name], callers, share, clock))
    return found


def _rate(call: Callable[[], object], callers: int, seconds: float, clock: Callable[[], float]) -> float:
    """Calls per second of `callers` threads; those under way when the time is up are finished and count."""
    counts, errors = [0] * callers, list[BaseException]()
    ready = threading.Barrier(callers + 1)

    def work(index: int) -> None:
        try:
            ready.wait()
            end = clock() + seconds
            while True:
                call()
                counts[index] += 1
                if clock() >= end or errors:
                    return
        except BaseException as error:  # it belongs to whoever waits for this thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(callers)]
    for thread in threads:
        thread.start()
    ready.wait()
    started = clock()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return sum(counts) / max(clock() - started, 1e-9)
