"""How many random graphs of what exporters write keep their answers, validity and interface.

    python benchmarks/odd_graphs.py [--first 10000] [--count 2000] [--passes 300] [--kind exporters|odd]

The graphs are those of tests/properties, with other seeds than the tests have. Each goes through the presets;
of the first `--passes`, each also through every pass alone and through shuffled pipelines. With `--compose`,
what comes out is also run with all optimisations of ONNX Runtime on. `--kind odd` takes graphs that are odder
than what exporters write. Each graph has a process of its own: one that dies is a failure, too. Prints every
seed that fails, with the reason, and the counts; exits 1 if any failed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

TESTS = Path(__file__).parent.parent / "tests"


def failure(check: Callable[..., None], seed: int, make: Callable[[int], object]) -> str | None:
    """Why `check` fails on the graph of `seed`, or None."""
    try:
        check(seed, make)
    except pytest.skip.Exception:
        return None
    except Exception as error:  # whatever goes wrong is what is counted here
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())[:300]
        return f"{type(error).__name__}: {text} ({Path(place.filename).name}:{place.lineno})"
    return None


def in_child(task: Callable[[IO[str]], None]) -> tuple[list[str], int]:
    """The lines that `task` writes in a process of its own, and the signal that it died of, or 0."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            with os.fdopen(writer, "w") as out:
                task(out)
        except BaseException:  # leaving in the ordinary way would wait for threads that a fork does not have
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as lines:
        found = lines.read().splitlines()
    return found, os.waitpid(child, 0)[1]


def failures(checks: list[Callable[..., None]], seed: int, make: Callable[[int], object]) -> list[str]:
    """What fails on the graph of `seed`; a process that dies on the original model is no failure."""
    import test_exporter_graphs as graphs

    def run_original(_: IO[str]) -> None:
        with contextlib.suppress(pytest.skip.Exception, Exception):
            graphs.changed_by_onnxruntime(*graphs.prepare(seed, make))

    def run_checks(out: IO[str]) -> None:
        for check in checks:
            print(f"seed {seed} {check.__name__}: {failure(check, seed, make) or ''}", file=out, flush=True)

    found, status = in_child(run_checks)
    bad = [line for line in found if not line.endswith(": ")]
    if status:
        if in_child(run_original)[1]:
            print(f"seed {seed}: ONNX Runtime dies of the original model", flush=True)
        else:
            name = checks[min(len(found), len(checks) - 1)].__name__
            bad.append(f"seed {seed} {name}: the process ended with status {status}")
    return bad


def main() -> int:
    """Run the graphs and print what failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=10_000)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--passes", type=int, default=300)
    parser.add_argument("--kind", choices=("exporters", "odd"), default="exporters")
    parser.add_argument("--compose", action="store_true")
    chosen = parser.parse_args()
    sys.path[:0] = [str(TESTS), str(TESTS / "properties")]
    import test_exporter_graphs as graphs

    bad, started = 0, time.perf_counter()
    for index, seed in enumerate(range(chosen.first, chosen.first + chosen.count)):
        checks = [graphs.test_presets]
        if index < chosen.passes:
            checks.append(graphs.test_passes_alone_and_shuffled)
        if chosen.compose:
            checks.append(graphs.test_composes_with_onnxruntime)
        for line in failures(checks, seed, graphs.KINDS[chosen.kind]):
            bad += 1
            print(line, flush=True)
        if sys.stderr.isatty() or (index + 1) % 100 == 0:
            ends = ("\r", "") if sys.stderr.isatty() else ("", "\n")
            text = f"{ends[0]}{index + 1} of {chosen.count}, {bad} failures"
            print(text, end=ends[1], file=sys.stderr, flush=True)
    print(f"{chosen.count} graphs, {bad} failures, {time.perf_counter() - started:.0f} s")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
