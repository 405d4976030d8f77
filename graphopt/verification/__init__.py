"""Verification: feeds, a reference to run them on, and the comparison of results.

Names are loaded on first use: the child process that runs the reference imports this package too.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "Comparison": "comparison",
    "Tolerance": "comparison",
    "VerifyReport": "verifier",
    "compare": "comparison",
    "generate_feeds": "feeds",
    "load_feeds": "feed_files",
    "run_reference": "reference",
    "run_reference_on_all": "reference",
    "verify": "verifier",
}

__all__ = [
    "Comparison",
    "Tolerance",
    "VerifyReport",
    "compare",
    "generate_feeds",
    "load_feeds",
    "run_reference",
    "run_reference_on_all",
    "verify",
]

if TYPE_CHECKING:
    from graphopt.verification.comparison import Comparison, Tolerance, compare
    from graphopt.verification.feed_files import load_feeds
    from graphopt.verification.feeds import generate_feeds
    from graphopt.verification.reference import run_reference, run_reference_on_all
    from graphopt.verification.verifier import VerifyReport, verify


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
