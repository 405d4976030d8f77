"""The commands, registered in the order in which ``graphopt --help`` lists them, and the entry point."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, Any

import typer

from graphopt.cli import failures, options
from graphopt.cli.bench import bench
from graphopt.cli.bisect import bisect
from graphopt.cli.cache import cache
from graphopt.cli.check import check
from graphopt.cli.compile import compile_model
from graphopt.cli.diff import diff
from graphopt.cli.doctor import doctor
from graphopt.cli.explain import explain
from graphopt.cli.inspect import inspect
from graphopt.cli.optimize import optimize
from graphopt.cli.output import Output
from graphopt.cli.passes import passes
from graphopt.cli.plan import plan
from graphopt.cli.prune import prune
from graphopt.cli.quantize import quantize
from graphopt.cli.reduce import reduce
from graphopt.cli.run import run
from graphopt.cli.targets import targets
from graphopt.cli.tune import tune
from graphopt.cli.verify import verify
from graphopt.cli.visualize import visualize

PROGRAM = "graphopt"
COMPLETION = "_GRAPHOPT_COMPLETE"

app = typer.Typer(
    name=PROGRAM,
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.command("compile")(compile_model)
for command in (
    plan,
    optimize,
    quantize,
    prune,
    inspect,
    visualize,
    diff,
    check,
    run,
    verify,
    bench,
    tune,
    explain,
    bisect,
    reduce,
    passes,
    targets,
    cache,
    doctor,
):
    app.command()(command)


def _show_version(value: bool) -> None:
    if value:
        import graphopt

        print(f"{PROGRAM} {graphopt.__version__}")
        raise typer.Exit


@app.callback()
def graphopt_(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Compile ONNX models for CUDA, TensorRT and TPU; measure, explain and verify what was done.

    Results go to stdout, progress and notes to stderr. Every command takes --json.

    Exit codes: 0 ok, 1 internal error, 2 wrong usage, 3 the model is invalid or not supported,
    4 results differ or a pass is wrong, 5 --strict refused a fallback or --fail-on a difference.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: what follows the program's name; `sys.argv` by default.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        # Names in models are any text; a terminal that cannot show a character gets its escape.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    Output.current = Output(json="--json" in given)
    before = _on_terminate()
    try:
        code = _invoke(given)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return failures.close_stdout()
    except BaseException as error:  # the last line of defence: every failure ends as a message and a code
        return failures.report(error, Output.current)
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _invoke(arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    arguments = options.with_report_values(arguments)
    if COMPLETION in os.environ:  # a shell asks for completions
        command.main(args=arguments, prog_name=PROGRAM, complete_var=COMPLETION)
    # Not command.main: that would turn an interrupt into an exit code before it is told.
    with command.make_context(PROGRAM, arguments) as context:
        command.invoke(context)
    return 0


def _on_terminate() -> Any:
    """Make SIGTERM unwind the stack, so that children end and half-written files go.

    Returns the handler that was there, or None if none was set.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise failures.Terminated

    try:
        return signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread: the caller's program owns its signals
        return None
