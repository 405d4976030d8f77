"""Each operator on XLA in each version and element type that its schema allows, against both oracles.

`make test` tries one type for each version; with ``--every-type`` (`make test-types`) all are
tried. ``--update-results`` writes `types.json`, of which docs/operator-types.md is made.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import pytest
from onnx_backend.type_cases import TypeCase, schemas, type_cases
from onnx_backend.type_judge import DIFFERS, judge_types
from onnx_backend.type_results import Cell, differences, known_cells, may_differ

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("op_type", sorted(schemas()))
def test_types(
    op_type: str, request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    cases = [case for case in type_cases(op_type) if isinstance(case, TypeCase)]
    if not request.config.getoption("--every-type"):
        cases = sample(cases)
    updating = request.config.getoption("--update-results")
    wrong = []
    for case in cases:
        cell = Cell(case.op_type, case.version, case.variable, case.dtype)
        verdict = judge_types(case)
        record_property("cell", (*cell, verdict.kind))
        if verdict.kind == DIFFERS and may_differ(cell) is None:
            wrong.append((*cell, verdict.kind, verdict.why))
        elif not updating and known_cells().get(cell) != verdict.kind:
            wrong.append((*cell, f"types.json says {known_cells().get(cell)}", verdict.kind, verdict.why))
    assert not wrong, "if this is right: pytest tests/onnx_backend --every-type --update-results"


def sample(cases: list[TypeCase]) -> list[TypeCase]:
    """One case for each version, of another type variable and element type from version to version."""
    groups: dict[int, list[TypeCase]] = defaultdict(list)
    for case in cases:
        groups[case.version].append(case)
    return [group[version % len(group)] for version, group in groups.items()]


def test_every_difference_has_cells() -> None:
    cells = known_cells()
    assert {why for cell, kind in cells.items() if kind == DIFFERS and (why := may_differ(cell))} == set(
        differences().values()
    )
