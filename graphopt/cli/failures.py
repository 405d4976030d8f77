"""Failures: what a user sees of an exception, and the exit code that it ends with."""

from __future__ import annotations

import errno
import os
import re
import sys
from typing import TYPE_CHECKING, Any

import typer

from graphopt.errors import EXIT_INTERNAL, EXIT_MODEL, EXIT_USAGE, GraphoptError, OutputError

if TYPE_CHECKING:
    from graphopt.cli.output import Output

EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
EXIT_BROKEN_PIPE = 141
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})
MAX_MESSAGE = 4000

_Usage: type[Exception] = typer.BadParameter.__mro__[2]  # ClickException, whichever package it lives in


class Terminated(KeyboardInterrupt):
    """SIGTERM: like Ctrl-C, with the exit code that shells give it."""


def report(error: BaseException, output: Output) -> int:
    """Tell the user about `error` on stderr (on stdout as JSON under ``--json``); return the exit code."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else EXIT_INTERNAL
    if isinstance(error, typer.Exit):
        return int(error.exit_code)
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        code = EXIT_TERMINATED if isinstance(error, Terminated) else EXIT_INTERRUPTED
        return _plain(output, "GO902", "Interrupted; nothing was written.", code)
    if isinstance(error, GraphoptError):
        return _graphopt_error(error, output)
    if isinstance(error, _Usage):
        return _usage_error(error, output)
    if isinstance(error, OSError) and error.errno in FULL:
        if not error.filename:  # a stream, so stdout: what is left to say goes to stderr
            close_stdout()
            output.json = False
        return _graphopt_error(
            OutputError("GO111", f"the output cannot be written: {error.strerror}", where=error.filename),
            output,
        )
    _traceback(error, output)
    if isinstance(error, MemoryError):
        return _plain(
            output,
            "GO903",
            "GO903 the machine has not enough memory for this; nothing was written.",
            EXIT_INTERNAL,
        )
    if isinstance(error, RecursionError):
        return _plain(output, "GO108", "GO108 the model is nested too deeply.", EXIT_MODEL)
    summary = f"{type(error).__name__}: {str(error).strip() or 'no message'}"
    return _plain(
        output,
        "GO901",
        f"GO901 internal error: {summary[:MAX_MESSAGE]}\n"
        "  This is a bug in graphopt: please report it, with the output of the same command under -v.",
        EXIT_INTERNAL,
    )


def close_stdout() -> int:
    """Point stdout at nothing, so that the interpreter's own flush at exit stays quiet, too."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, sys.stdout.fileno())
    except (OSError, ValueError):  # a stdout without a file descriptor has nothing to flush
        pass
    finally:
        os.close(devnull)
    return EXIT_BROKEN_PIPE


def _plain(output: Output, code: str, text: str, exit_code: int) -> int:
    if output.json:
        output.dump(_document(code, text.removeprefix(f"{code} "), exit_code))
    else:
        output.error([(text, "")])
    return exit_code


def _document(code: str, message: str, exit_code: int, kind: str = "Failure") -> dict[str, Any]:
    return {
        "schema": "graphopt.error/1",
        "code": code,
        "kind": kind,
        "message": message,
        "where": None,
        "found": None,
        "expected": None,
        "next_step": None,
        "exit_code": exit_code,
    }


def _graphopt_error(error: GraphoptError, output: Output) -> int:
    if output.json:
        output.dump(error.to_json())
        return error.exit_code
    lines = [(f"{error.code} {error.message.rstrip('.')}", "bold red")]
    for label, text in (
        ("where", error.where),
        ("found", error.found),
        ("expected", error.expected),
        ("next", error.next_step),
    ):
        if text:
            lines.append((f"  {label + ':':9} {text}", ""))
    limit = None if output.verbose else MAX_MESSAGE
    output.error([(text[:limit], style) for text, style in lines])
    _traceback(error, output)
    return error.exit_code


def _usage_error(error: Exception, output: Output) -> int:
    """What the argument parser found, with the usage line and the nearest flags."""
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    message = re.sub(r"\(Possible options: (.*)\)", r"Did you mean \1?", message)
    context = getattr(error, "ctx", None)
    if output.json:
        output.dump(_document("GO701", message, EXIT_USAGE, "UsageError"))
        return EXIT_USAGE
    if type(error).__name__ == "NoArgsIsHelpError":  # no command was given: the help is the answer
        output.error([(message, "")])
        return EXIT_USAGE
    lines = [(f"GO701 {message.rstrip('.')}", "bold red")]
    if context is not None:
        lines.append((f"  {'next:':9} {context.command_path} --help", ""))
    output.error(lines)
    return EXIT_USAGE


def _traceback(error: BaseException, output: Output) -> None:
    """The traceback, for whoever asked for it: -v for bugs, GRAPHOPT_DEBUG=1 for every error."""
    wanted = os.environ.get("GRAPHOPT_DEBUG") == "1" or (
        output.verbose and not isinstance(error, (GraphoptError, RecursionError))
    )
    if wanted:
        import traceback

        traceback.print_exception(error, file=sys.stderr)
