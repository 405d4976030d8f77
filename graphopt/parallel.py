"""Work that child processes do, some at once: threads here wait for them, and an interrupt reaches all."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")
Tick = Callable[[float], None]
REFRESH_S = 0.25


class Stopped(Exception):
    """Another piece failed, or the user interrupted: end the child."""


def run_all(
    work: Sequence[Callable[[Tick], T]],
    *,
    jobs: int | None = None,
    finished: Callable[[int, int], None] | None = None,
    tick: Tick | None = None,
) -> list[T]:
    """Do every piece of `work`, and return the results in its order.

    Args:
        work: functions that wait for a child process; each calls what it is given often, with the seconds
            since its start, and lets the exception through that this may raise.
        jobs: pieces at once; as many as there are processors if not given.
        finished: called in this thread with (pieces that are done, pieces) when one is.
        tick: called in this thread with the seconds since the start; may raise to stop.

    Raises:
        Exception: what a piece raised first. The others are stopped, and those that wait never start.
    """
    if len(work) == 1:
        return [work[0](tick or _nothing)]
    stop = threading.Event()
    started = time.monotonic()

    def check(_: float) -> None:
        if stop.is_set():
            raise Stopped

    with ThreadPoolExecutor(jobs or os.cpu_count() or 1, thread_name_prefix="compile") as pool:
        futures = [pool.submit(piece, check) for piece in work]
        try:
            waiting: set[Future[T]] = set(futures)
            while waiting:
                done, waiting = wait(waiting, timeout=REFRESH_S, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                if done and finished is not None:
                    finished(len(work) - len(waiting), len(work))
                if tick is not None:
                    tick(time.monotonic() - started)
        except BaseException:  # children end at their next tick
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return [future.result() for future in futures]


def _nothing(_: float) -> None:
    """Nobody listens."""
