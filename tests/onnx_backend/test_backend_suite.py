"""The ONNX project's backend suite on XLA, through the public API: compile for ``xla-cpu``, and run.

A case fails the run if it gives other results than the suite expects and `expected_failures.toml` does
not say why, and also if that file lists it and it passes. `host_segments.toml` lists in the same way the
cases that pass with some of their nodes on the host: a case that leaves XLA unlisted fails, and so does
one that is listed and does not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from expectations import reason_for, unmatched
from onnx_backend.backend_cases import Case, all_cases, assert_similar

import graphopt
from graphopt.errors import GraphoptError

pytestmark = pytest.mark.slow

EXPECTATIONS = Path(__file__).parent / "expected_failures.toml"
HOST = Path(__file__).parent / "host_segments.toml"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each case; none are even loaded in a run that leaves slow tests out."""
    if "case" not in metafunc.fixturenames:
        return
    skipped = "not slow" in str(metafunc.config.getoption("markexpr"))
    cases = [] if skipped else all_cases()
    metafunc.parametrize("case", cases, ids=[f"{case.kind}-{case.name}" for case in cases])


def test_backend_case(case: Case, record_property: Callable[[str, object], None]) -> None:
    failing, leaving = reason_for(case.name, EXPECTATIONS), reason_for(case.name, HOST)
    try:
        away = run_case(case)
    except (AssertionError, GraphoptError) as error:
        if failing is None:
            raise
        pytest.xfail(f"{failing} [{str(error).splitlines()[0][:80] if str(error) else type(error).__name__}]")
    record_property("away", away)
    if failing is not None:
        pytest.fail(f"it passes, but {EXPECTATIONS.name} expects it to fail: {failing}")
    if away and leaving is None:
        pytest.fail(f"it leaves XLA, and {HOST.name} does not say why: {away}")
    if leaving is not None and not away:
        pytest.fail(f"it runs on XLA, but {HOST.name} expects host segments: {leaving}")


def run_case(case: Case) -> list[str]:
    """Run all data sets of `case` and compare; the operators that ran on the host.

    Raises:
        AssertionError: other results than expected.
        GraphoptError: the model is refused.
    """
    proto = case.model
    executable = graphopt.compile(proto, target="xla-cpu")
    names = [row["name"] for row in executable.inputs]
    compared = 0
    for inputs, expected in case.data_sets(proto):
        results = executable.run(dict(zip(names, inputs, strict=False)))
        found = [results[row["name"]] for row in executable.outputs]
        assert_similar(found, expected, case.test.rtol, case.test.atol)
        compared += 1
    assert compared, "the case has no data"
    return sorted({row["op"] for row in executable.placement})


@pytest.mark.parametrize("path", [EXPECTATIONS, HOST], ids=lambda path: path.stem)
def test_every_expectation_matches_a_case(path: Path) -> None:
    assert not unmatched(path, [case.name for case in all_cases()])
