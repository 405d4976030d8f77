"""Progress: a bar on a terminal for what takes over a second, plain lines under -v, else nothing."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING

from graphopt.cli.output import Output, clean

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

PATIENCE_S = 1.0
TICK_S = 10.0
REFRESH_S = 0.25


class Progress:
    """Hears of stages and shows them; give its :meth:`say` and :meth:`tick` to the driver.

    Use as a context manager: whatever it drew is gone when the work ends, in success or failure.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._started = time.monotonic()
        self._stage, self._step, self._steps = "", 0, 0
        self._ticked = self._advanced = 0.0
        self._bar: Bar | None = None
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Progress:
        if self._output.stderr.is_terminal and not self._output.quiet:
            self._timer = threading.Timer(PATIENCE_S, self._show)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._bar is not None:
                self._bar.stop()
                self._bar = None

    def say(self, stage: str, step: int = 0, steps: int = 0) -> None:
        """A stage begins; it is step `step` (from 0) of `steps`, if they are counted."""
        with self._lock:
            self._stage, self._step, self._steps = stage, step, steps
            self._ticked = 0.0
            counted = f" ({step + 1}/{steps})" if steps else ""
            self._output.log(f"[{time.monotonic() - self._started:7.2f} s] {stage}{counted}")
            self._update()

    def advance(self, step: int, steps: int) -> None:
        """The stage has done `step` of `steps` (0: nobody knows); cheap enough to call very often."""
        now = time.monotonic()
        if now - self._advanced >= REFRESH_S:
            self._advanced = now
            with self._lock:
                self._step, self._steps = step, steps
                self._update()

    def tick(self, seconds: float) -> None:
        """The stage has been running for `seconds`."""
        if seconds - self._ticked >= TICK_S:
            self._ticked = seconds
            self._output.log(
                f"[{time.monotonic() - self._started:7.2f} s] {self._stage}: {seconds:.0f} s so far"
            )

    def _show(self) -> None:
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        with self._lock:
            if self._timer is None:  # the work ended meanwhile
                return
            self._bar = Bar(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TimeElapsedColumn(),
                console=self._output.stderr,
                refresh_per_second=1 / REFRESH_S,
                transient=True,
            )
            self._bar.add_task("", total=None)
            self._update()
            self._bar.start()

    def _update(self) -> None:
        if self._bar is not None:
            self._bar.update(
                self._bar.task_ids[0],
                description=clean(self._stage),
                total=self._steps or None,
                completed=self._step,
            )
