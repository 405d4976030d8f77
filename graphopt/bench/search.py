"""Search for the fastest choices: one axis at a time, resumable, and the same again for the same seed.

The search knows nothing about models. It asks for measurements (:data:`Attempt`) and remembers them in a
:class:`Journal`, so that a search that was cut off goes on where it stood, and one that is run again with
the same journal decides the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from graphopt.errors import OutputError, UsageError

SCHEMA = "graphopt.tuning/1"
MAX_STATE_BYTES = 64 << 20
ROUNDS = 3
"""How often all axes are gone through: a choice may pay only after another one was made."""

Choice = str | int | None
Point = dict[str, Choice]
"""Axis → the value chosen on it."""


@dataclasses.dataclass(frozen=True)
class Axis:
    """One thing that may be chosen.

    Attributes:
        values: the choices; the first is what is chosen if nobody searches.
        title: what it is, for people.
    """

    name: str
    values: tuple[Choice, ...]
    title: str = ""


@dataclasses.dataclass(frozen=True)
class Trial:
    """What became of one candidate.

    Attributes:
        point: its choices.
        outcome: ``base`` (the first one that may be compared with), ``faster``, ``no gain`` (slower, or no
            difference was seen), ``refused`` (it gives other results), ``failed`` (it does not compile or
            run) or ``crashed`` (the process ended while it was tried).
        against: the choices that it was measured against.
        speedup: how many times as fast as those: the median of the rounds' ratios.
        interval: of that median, 95 %.
        p50_s: its median latency, in seconds.
        rounds: how many rounds were measured.
        reason: why it was refused or failed.
    """

    point: Point
    outcome: str
    against: Point | None = None
    speedup: float | None = None
    interval: tuple[float, float] | None = None
    p50_s: float | None = None
    rounds: int = 0
    reason: str | None = None

    @property
    def passed(self) -> bool:
        """Whether it may be used: it runs and gives the right results."""
        return self.outcome in ("base", "faster", "no gain")

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Trial:
        """The trial that :meth:`to_json` wrote. Raises TypeError or ValueError for anything else."""
        interval = row.get("interval")
        found = cls(**{**row, "interval": None if interval is None else (interval[0], interval[1])})
        if not isinstance(found.point, dict) or not isinstance(found.outcome, str):
            raise TypeError("a trial has a point and an outcome")
        return found


Attempt = Callable[[Point, Point | None], Trial | None]
"""Try a point against the best so far (None: there is none yet); None: there is no time for it."""


class Journal:
    """The trials of a search, in a file that is replaced whole after each of them.

    Args:
        path: the file; None: nothing is written.
        key: what the search is about (model, data, device, versions, seed …). A file of another key is
            refused: its measurements say nothing about this search.

    Raises:
        UsageError: GO701, the file is of another search, or is none.
    """

    def __init__(self, path: Path | None, key: Mapping[str, Any]) -> None:
        self._path = path
        self._key = dict(key)
        self.trials: list[Trial] = []
        self.resumed = 0
        if path is not None and os.path.lexists(path):
            self._read(path)

    def find(self, point: Point) -> Trial | None:
        """What is known about `point`."""
        return next((trial for trial in self.trials if trial.point == point), None)

    @contextlib.contextmanager
    def trying(self, point: Point) -> Iterator[None]:
        """Note in the file that `point` is being tried, so that it is known if the process ends there.

        An exception, also an interrupt, takes the note back: then the point is not to blame.
        """
        self._write(running=point)
        try:
            yield
        finally:
            self._write()

    def add(self, trial: Trial) -> None:
        """Remember `trial`."""
        self.trials.append(trial)
        self._write()

    def _read(self, path: Path) -> None:
        try:
            if not path.is_file() or path.stat().st_size > MAX_STATE_BYTES:
                raise ValueError("no plain file, or too large")
            body = json.loads(path.read_text(encoding="utf-8"))
            if body["schema"] != SCHEMA:
                raise ValueError(f"schema {body['schema']!r}")
            key, trials, running = body["key"], [Trial.from_json(t) for t in body["trials"]], body["running"]
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise UsageError(
                "GO701",
                "not the state of a search, or it is damaged",
                where=str(path),
                found=error,
                next_step="Remove the file to start anew, or name another one with --state.",
            ) from error
        other = sorted(name for name in {*key, *self._key} if key.get(name) != self._key.get(name))
        if other:
            raise UsageError(
                "GO701",
                "the state is of another search",
                where=str(path),
                found=f"another {', '.join(other)}",
                next_step="Remove the file to start anew, or name another one with --state.",
                details={name: [key.get(name), self._key.get(name)] for name in other},
            )
        self.trials, self.resumed = trials, len(trials)
        if running is not None:
            self.add(Trial(dict(running), "crashed", reason="the process ended while this was tried"))

    def _write(self, running: Point | None = None) -> None:
        if self._path is None:
            return
        body = {
            "schema": SCHEMA,
            "key": self._key,
            "trials": [trial.to_json() for trial in self.trials],
            "running": running,
        }
        try:
            handle, scratch = tempfile.mkstemp(prefix=f".{self._path.name}-", dir=self._path.parent)
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump(body, stream, indent=1)
                stream.write("\n")
            os.replace(scratch, self._path)
        except OSError as error:
            raise OutputError(
                "GO111",
                f"the state of the search cannot be written: {error.strerror}",
                where=str(self._path),
                next_step="Name another file with --state.",
            ) from error


@dataclasses.dataclass
class Found:
    """What a search ended with.

    Attributes:
        best: the fastest point; None if no candidate passed.
        base: the point that all of it started from (the first that passed).
        complete: whether everything was tried; False: the time was up.
        steps: the points that were the best in their time, from the base on.
    """

    best: Point | None
    base: Point | None
    complete: bool
    steps: list[Point] = dataclasses.field(default_factory=list)


def search(axes: Sequence[Axis], journal: Journal, attempt: Attempt, seed: int = 0) -> Found:
    """Look for the fastest point, from the first value of every axis on.

    Axes are gone through in their order, up to three times, their values in an order drawn from `seed`; a
    candidate is the best point so far with one value changed, and becomes the best if it is faster. What
    the journal knows is not tried again. If the starting point itself does not pass, the first candidate
    that does takes its place.
    """
    start: Point = {axis.name: axis.values[0] for axis in axes}
    draw = random.Random(seed)
    orders = {axis.name: draw.sample(axis.values[1:], len(axis.values) - 1) for axis in axes}
    found = Found(None, None, complete=False)
    for candidate in _candidates(start, axes, orders, found):
        trial = journal.find(candidate)
        if trial is None:
            with journal.trying(candidate):
                trial = attempt(candidate, found.best)
            if trial is None:
                return found
            journal.add(trial)
        if trial.passed and found.best is None:
            found.base = found.best = candidate
            found.steps.append(candidate)
        elif trial.outcome == "faster" and trial.against == found.best:
            found.best = candidate
            found.steps.append(candidate)
    found.complete = True
    return found


def _candidates(
    start: Point, axes: Sequence[Axis], orders: Mapping[str, Sequence[Choice]], found: Found
) -> Iterator[Point]:
    """The points to try, each made from the best one that is `found` by then."""
    yield dict(start)
    known = [start]
    for _ in range(ROUNDS):
        before = found.best
        for axis in axes:
            for value in (*orders[axis.name], axis.values[0]):
                candidate = {**(found.best or start), axis.name: value}
                if candidate not in known:
                    known.append(candidate)
                    yield candidate
        if found.best == before:
            return
