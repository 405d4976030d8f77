"""The ONNX project's backend suite on the XLA lowering.

A case fails the run if it gives other results than the suite expects and `expected_failures.toml` does
not say why, and also if that file lists it and it passes. Cases with operators that have no lowering
are expected failures without being listed.
"""

from __future__ import annotations

import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from checking import run_xla
from onnx_backend.backend_cases import Case, all_cases, assert_similar

from graphopt.errors import GraphoptError
from graphopt.ir import Model
from graphopt.ir.io import load

pytestmark = pytest.mark.slow

EXPECTATIONS = Path(__file__).parent / "expected_failures.toml"


def expected_failures() -> dict[str, str]:
    """The reason for each name pattern."""
    groups = tomllib.loads(EXPECTATIONS.read_text(encoding="utf-8"))["group"]
    return {pattern: group["reason"] for group in groups for pattern in group["cases"]}


def reason_to_fail(name: str) -> str | None:
    """Why the case called `name` is expected to fail, or None."""
    return next((why for glob, why in expected_failures().items() if fnmatchcase(name, glob)), None)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each case; none are even loaded in a run that leaves slow tests out."""
    if "case" not in metafunc.fixturenames:
        return
    skipped = "not slow" in str(metafunc.config.getoption("markexpr"))
    cases = [] if skipped else all_cases()
    metafunc.parametrize("case", cases, ids=[f"{case.kind}-{case.name}" for case in cases])


def without_lowering(model: Model) -> list[str]:
    """The operators of `model` that XLA has no lowering for."""
    from graphopt.lowering.xla.support import unsupported_nodes

    return sorted({row.op_type for row in unsupported_nodes(model) if "no XLA lowering" in row.reason})


def test_backend_case(case: Case) -> None:
    reason = reason_to_fail(case.name)
    try:
        run_case(case)
    except (AssertionError, GraphoptError) as error:
        if reason is None:
            raise
        pytest.xfail(f"{reason} [{str(error).splitlines()[0][:80] if str(error) else type(error).__name__}]")
    if reason is not None:
        pytest.fail(f"it passes, but {EXPECTATIONS.name} expects it to fail: {reason}")


def run_case(case: Case) -> None:
    """Run all data sets of `case` and compare.

    Raises:
        AssertionError: other results than expected.
        GraphoptError: the model is refused.
    """
    proto = case.model
    model = load(proto)
    if missing := without_lowering(model):
        pytest.xfail(f"no lowering: {', '.join(missing)}")
    names = [value.name or "" for value in model.graph.inputs]
    results = [value.name or "" for value in model.graph.outputs]
    defaults = {v.name or "": v.const_value.numpy() for v in model.graph.inputs if v.const_value is not None}
    compared = 0
    for inputs, expected in case.data_sets(proto):
        found = run_xla(model, defaults | dict(zip(names, inputs, strict=False)))
        assert_similar([found[name] for name in results], expected, case.test.rtol, case.test.atol)
        compared += 1
    assert compared, "the case has no data"


def test_every_expectation_matches_a_case() -> None:
    names = [case.name for case in all_cases()]
    stale = [glob for glob in expected_failures() if not any(fnmatchcase(name, glob) for name in names)]
    assert not stale
