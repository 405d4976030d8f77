"""Verification: feeds, a reference to run them on, and the comparison of results.

Names are loaded on first use: the child process that runs the reference imports this package too.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "Answers": "verifier",
    "Bisection": "bisect",
    "Blame": "bisect",
    "Comparison": "comparison",
    "Failure": "judge",
    "Judge": "judge",
    "Reduction": "reduce",
    "PassChecker": "pass_check",
    "ReferenceProcess": "reference_process",
    "Tolerance": "comparison",
    "VerifyReport": "verifier",
    "bisect_pipeline": "bisect",
    "compare": "comparison",
    "exact_feeds": "judge",
    "generate_feeds": "feeds",
    "load_feeds": "feed_files",
    "reduce_failure": "reduce",
    "reduce_model": "reduce",
    "run_reference": "reference",
    "run_reference_on_all": "reference",
    "verify": "verifier",
    "write_reproducer": "reproducer",
}

__all__ = [
    "Answers",
    "Bisection",
    "Blame",
    "Comparison",
    "Failure",
    "Judge",
    "PassChecker",
    "Reduction",
    "ReferenceProcess",
    "Tolerance",
    "VerifyReport",
    "bisect_pipeline",
    "compare",
    "exact_feeds",
    "generate_feeds",
    "load_feeds",
    "reduce_failure",
    "reduce_model",
    "run_reference",
    "run_reference_on_all",
    "verify",
    "write_reproducer",
]

if TYPE_CHECKING:
    from graphopt.verification.bisect import Bisection, Blame, bisect_pipeline
    from graphopt.verification.comparison import Comparison, Tolerance, compare
    from graphopt.verification.feed_files import load_feeds
    from graphopt.verification.feeds import generate_feeds
    from graphopt.verification.judge import Failure, Judge, exact_feeds
    from graphopt.verification.pass_check import PassChecker
    from graphopt.verification.reduce import Reduction, reduce_failure, reduce_model
    from graphopt.verification.reference import run_reference, run_reference_on_all
    from graphopt.verification.reference_process import ReferenceProcess
    from graphopt.verification.reproducer import write_reproducer
    from graphopt.verification.verifier import Answers, VerifyReport, verify


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
