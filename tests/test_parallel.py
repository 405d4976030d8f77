"""Pieces of work that wait for child processes: some at once, in order, and all stopped together."""

from __future__ import annotations

import threading
import time

import pytest

from graphopt.parallel import Stopped, Tick, run_all


def waiter(seconds: float, ended: list[str]) -> Tick:
    """A piece that ticks until its time is over, and notes how it ended."""

    def piece(tick: Tick) -> float:
        started = time.monotonic()
        try:
            while time.monotonic() - started < seconds:
                tick(time.monotonic() - started)
                time.sleep(0.01)
        except Stopped:
            ended.append("stopped")
            raise
        ended.append("done")
        return seconds

    return piece  # type: ignore[return-value]


def test_results_are_in_order_and_progress_is_told() -> None:
    ended: list[str] = []
    told: list[tuple[int, int]] = []
    work = [waiter(seconds, ended) for seconds in (0.3, 0.1, 0.2)]
    started = time.monotonic()
    assert run_all(work, jobs=3, finished=lambda *counts: told.append(counts)) == [0.3, 0.1, 0.2]  # type: ignore[arg-type]
    assert time.monotonic() - started < 0.55
    assert told[-1] == (3, 3) and told == sorted(told)
    assert ended == ["done"] * 3


def test_a_failure_stops_the_others() -> None:
    ended: list[str] = []

    def failing(tick: Tick) -> None:
        raise ValueError("no")

    started = time.monotonic()
    with pytest.raises(ValueError, match="no"):
        run_all([waiter(30, ended), failing, waiter(30, ended)], jobs=2)  # type: ignore[list-item]
    assert time.monotonic() - started < 10
    assert "done" not in ended
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("compile")]


def test_a_tick_that_raises_stops_all() -> None:
    ended: list[str] = []

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all([waiter(30, ended), waiter(30, ended)], jobs=2, tick=interrupt)  # type: ignore[list-item]
    assert ended == ["stopped", "stopped"]


def test_one_piece_needs_no_thread() -> None:
    assert run_all([lambda tick: threading.current_thread()]) == [threading.main_thread()]
    assert run_all([]) == []
