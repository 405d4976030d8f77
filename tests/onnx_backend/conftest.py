"""A summary of the backend suite at the end of the run."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

TEST = "test_backend_suite.py::test_backend_case"
TYPES = "test_type_sweep.py::test_types"


def pytest_addoption(parser: Any) -> None:
    """`--update-results` renews what docs/operators.md says of the cases that ran."""
    parser.addoption("--update-results", action="store_true", help="write results.json and types.json")
    parser.addoption("--every-type", action="store_true", help="all element types of older versions too")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many cases passed, and how many are expected to fail for each reason."""
    stats = terminalreporter.stats
    if terminalreporter.config.getoption("--update-results", default=False):
        _update_types(stats)
    passed = sum(TEST in r.nodeid for r in stats.get("passed", []) if r.when == "call")
    expected = [r for r in stats.get("xfailed", []) if TEST in r.nodeid]
    failed = sum(TEST in r.nodeid for r in stats.get("failed", []))
    if not passed and not expected and not failed:
        return
    if terminalreporter.config.getoption("--update-results", default=False):
        _update_results(stats)
    terminalreporter.section("ONNX backend suite on XLA")
    terminalreporter.line(f"{passed} passed, {len(expected)} failed as expected, {failed} failed")
    reasons = Counter(re.sub(r" \[.*|^reason: ", "", str(r.wasxfail)) for r in expected)
    for reason, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
        terminalreporter.line(f"{count:5d}  {reason}")


def _update_results(stats: dict[str, list[Any]]) -> None:
    from onnx_backend.backend_results import write_results

    def names(*outcomes: str) -> set[str]:
        reports = [r for outcome in outcomes for r in stats.get(outcome, []) if TEST in r.nodeid]
        return {r.nodeid.split("[", 1)[1].removesuffix("]") for r in reports if r.when == "call"}

    write_results(names("passed"), names("passed", "failed", "xfailed"))


def _update_types(stats: dict[str, list[Any]]) -> None:
    from onnx_backend.type_results import write_cells

    reports = [
        r
        for group in stats.values()
        for r in group
        if TYPES in getattr(r, "nodeid", "") and getattr(r, "when", "") == "call"
    ]
    cells = [tuple(v) for r in reports for k, v in r.user_properties if k == "cell"]
    if cells:
        write_cells(cells)
