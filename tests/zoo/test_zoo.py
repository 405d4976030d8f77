"""The model zoo: small networks of every common family, exported by both exporters of torch.

Whatever graphopt makes of one equals ONNX Runtime, its optimisations off, on the export as it came: at
every size that the export leaves free, on XLA at -O2 and -O0, and after ``optimize`` on ONNX Runtime.
`expected_failures.toml` lists the exports that torch refuses, with its error; `host_segments.toml` those
that leave XLA, and why. An entry that no longer holds fails the run.

Needs ``pip install 'graphopt[zoo]'``: `make test-zoo` does that.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from checking import check_interface
from expectations import reason_for, unmatched
from zoo.exports import NAMES, Export, ExportFailed, exported, missing

import graphopt
from graphopt.verification import VerifyReport, verify

pytestmark = [
    pytest.mark.zoo,
    pytest.mark.skipif(bool(missing()), reason="`make test-zoo` installs what the zoo needs, and runs it"),
]

EXPECTED = Path(__file__).parent / "expected_failures.toml"
HOST = Path(__file__).parent / "host_segments.toml"


@pytest.fixture(scope="module", params=NAMES)
def made(request: pytest.FixtureRequest) -> Export:
    """Each export in turn, for all tests before the next one; expected to fail where torch refuses it."""
    reason = reason_for(request.param, EXPECTED)
    try:
        export = exported(request.param)
    except ExportFailed as error:
        if reason is None or reason not in str(error):
            raise
        pytest.xfail(reason)
    if reason is not None:
        pytest.fail(f"it exports, but {EXPECTED.name} expects: {reason}")
    assert len(export.feeds) >= (2 if export.path.stem.endswith("dynamic") else 1)
    return export


def check(run: Any, made: Export) -> None:
    """`run` gives what the export gives on ONNX Runtime without optimisations, for each set of feeds."""
    report: VerifyReport = verify(run, made.path, feeds_list=made.feeds, isolate=False)
    assert report.note is None, f"the reference was not ONNX Runtime: {report.note}"
    assert report.ok, report.table()


@pytest.mark.parametrize("level", [2, 0])
def test_xla(made: Export, level: int) -> None:
    executable = graphopt.compile(made.path, target="xla-cpu", level=level)
    check(executable.run, made)
    reason = reason_for(made.path.stem, HOST)
    if reason is None:
        assert not executable.placement, f"it leaves XLA, and {HOST.name} does not say why"
    else:
        assert executable.placement, f"it runs on XLA, but {HOST.name} expects host segments: {reason}"


@pytest.mark.parametrize("target", [None, "cpu"], ids=["standard", "cpu"])
def test_optimized(made: Export, target: str | None, tmp_path: Path) -> None:
    result = graphopt.optimize(made.path, target=target)
    check_interface(graphopt.load(made.path), result.model)
    result.save(tmp_path / "optimized.onnx")
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            str(tmp_path / "optimized.onnx"), options, providers=["CPUExecutionProvider"]
        )
        names = [each.name for each in session.get_outputs()]

        def run(
            feeds: Mapping[str, np.ndarray], session: Any = session, names: Any = names
        ) -> dict[str, Any]:
            return dict(zip(names, session.run(names, feeds), strict=True))

        check(run, made)


@pytest.mark.parametrize("path", [EXPECTED, HOST], ids=lambda path: path.stem)
def test_every_expectation_matches_an_export(path: Path) -> None:
    assert not unmatched(path, NAMES)
