"""What a command says: results on stdout, notes, logs and progress on stderr."""

from __future__ import annotations

import json as json_module
import math
import re
import sys
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 1000
"""Columns of a stream that is no terminal: nothing is cut off for a file or a pipe."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def clean(text: object) -> str:
    """`text` without control characters: a name in a model must not drive the user's terminal."""
    return _CONTROL.sub(lambda m: m.group().encode("unicode_escape").decode("ascii"), str(text))


class Output:
    """How one run of the command line talks.

    Args:
        json: one JSON document on stdout, no text.
        verbose: how often ``-v`` was given.
        quiet: no notes, no progress.
    """

    current: ClassVar[Output]

    def __init__(self, json: bool = False, verbose: int = 0, quiet: bool = False) -> None:
        self.json = json
        self.verbose = verbose
        self.quiet = quiet
        Output.current = self
        _configure_logging(verbose)

    @cached_property
    def stdout(self) -> Console:
        """The console of results."""
        return _console(sys.stdout)

    @cached_property
    def stderr(self) -> Console:
        """The console of everything else."""
        return _console(sys.stderr)

    def line(self, text: str = "", style: str = "") -> None:
        """One line of the result; nothing under ``--json``."""
        if not self.json:
            self.stdout.print(clean(text), style=style or None, soft_wrap=True)

    def facts(self, rows: Iterable[tuple[str, object]]) -> None:
        """Aligned ``name  value`` lines of the result, without the values that are None."""
        known = [(name, value) for name, value in rows if value is not None]
        width = max((len(name) for name, _ in known), default=0)
        for name, value in known:
            self.line(f"{name:{width}}  {value}")

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None
    ) -> None:
        """A table of the result. A column whose name starts with ``>`` is aligned to the right."""
        if self.json:
            return
        from rich import box
        from rich.table import Table

        shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for column in columns:
            right = column.startswith(">")
            shown.add_column(
                column.removeprefix(">"), justify="right" if right else "left", no_wrap=right, overflow="fold"
            )
        for row in rows:
            shown.add_row(*(clean(cell) for cell in row))
        if title:
            self.line()
            self.line(title, "bold")
        self.stdout.print(shown)

    def dump(self, document: dict[str, Any]) -> None:
        """Print `document` as the one JSON document on stdout."""
        sys.stdout.write(
            json_module.dumps(plain(document), indent=1, ensure_ascii=True, allow_nan=False) + "\n"
        )

    def document(self, schema: str, body: dict[str, Any]) -> None:
        """Print the result as JSON under ``--json``; else nothing."""
        if self.json:
            self.dump({"schema": schema, **{k: v for k, v in body.items() if k != "schema"}})

    def notes(self, notes: Iterable[str]) -> None:
        """What the user should know beside the result, on stderr."""
        for note in notes:
            if not self.quiet and not self.json:
                self.stderr.print(f"note: {clean(note)}", style="yellow", soft_wrap=True)

    def log(self, text: str) -> None:
        """A line on stderr under ``-v``."""
        if self.verbose and not self.quiet:
            self.stderr.print(clean(text), style="dim", soft_wrap=True)

    def error(self, lines: Iterable[tuple[str, str]]) -> None:
        """An error's lines, each with its style, on stderr."""
        for text, style in lines:
            self.stderr.print(clean(text), style=style or None, soft_wrap=True)


def _console(stream: Any) -> Console:
    from rich.console import Console

    class Pipe(Console):
        """A console that leaves a closed pipe to the command line's own exit."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    terminal = stream.isatty()
    return Pipe(file=stream, markup=False, emoji=False, highlight=False, width=None if terminal else WIDE)


def _configure_logging(verbose: int) -> None:
    """Libraries stay silent unless the user wants to hear them."""
    import logging
    import warnings

    if verbose > 1:
        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(name)s: %(message)s")
    else:
        logging.basicConfig(level=logging.CRITICAL, stream=sys.stderr)
        warnings.simplefilter("ignore")


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: numbers that are not finite become strings, arrays become lists."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, (str, int)):
        return value
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)


def size(count: float | None) -> str:
    """Bytes for people: ``1.5 MiB``."""
    if count is None:
        return "?"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def short(count: float | None) -> str:
    """A count for people: ``12.3 M``."""
    if count is None:
        return "?"
    for unit in ("", " k", " M", " G", " T"):
        if abs(count) < 1000 or unit == " T":
            return f"{count:.0f}" if not unit else f"{count:.3g}{unit}"
        count /= 1000
    raise AssertionError


def duration(seconds: float | None) -> str:
    """A time for people: ``12.3 ms``."""
    if seconds is None:
        return "?"
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if abs(seconds) >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def bar(share: float, width: int = 20) -> str:
    """A bar of a share between 0 and 1."""
    return "#" * max(0, min(width, round(share * width)))


def shape(dims: Sequence[object] | None) -> str:
    """A shape for people: ``[N, 3, 224]``; ``[?]`` where the rank is unknown."""
    return "[?]" if dims is None else "[" + ", ".join(str(d) for d in dims) + "]"
