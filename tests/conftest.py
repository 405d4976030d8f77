"""Set-up that every test shares."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

import pytest

# Before anything imports JAX: the tests run on the CPU whatever the machine has.
os.environ["JAX_PLATFORMS"] = "cpu"

# One compile cache for all tests of a run, and never the user's. Workers of a run inherit it.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["GRAPHOPT_CACHE_DIR"] = tempfile.mkdtemp(prefix="graphopt-test-cache-")
    atexit.register(shutil.rmtree, os.environ["GRAPHOPT_CACHE_DIR"], ignore_errors=True)

# Each test in these is quick, but there are many of them, or each starts a process: `make check`,
# which people wait for, leaves them out.
LEFT_OUT_OF_CHECK = {
    "tests/cli/test_process.py",
    "tests/e2e/test_models.py",
    "tests/e2e/test_padded_models.py",
    "tests/e2e/test_samples_models.py",
    "tests/lowering/test_contrib_attention.py",
    "tests/lowering/test_cuda_assignment.py",
    "tests/lowering/test_cuda_layout.py",
    "tests/lowering/test_kernel_prediction.py",
    "tests/lowering/test_contrib_grouped_attention.py",
    "tests/lowering/test_contrib_linear.py",
    "tests/lowering/test_contrib_normalization.py",
    "tests/lowering/test_contrib_quantize.py",
    "tests/lowering/test_ops_attention.py",
    "tests/lowering/test_ops_conv.py",
    "tests/lowering/test_ops_elementwise.py",
    "tests/lowering/test_ops_normalization.py",
    "tests/lowering/test_ops_pool.py",
    "tests/lowering/test_ops_reduction.py",
    "tests/lowering/test_ops_resize.py",
    "tests/lowering/test_ops_rnn.py",
    "tests/lowering/test_ops_roi.py",
    "tests/lowering/test_ops_shape.py",
    "tests/lowering/test_ops_signal.py",
    "tests/properties/test_exporter_graphs.py",
    "tests/properties/test_operator_fuzz.py",
    "tests/test_tuning.py",
    "tests/viz/test_report_page.py",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of those files as slow."""
    for item in items:
        if item.nodeid.partition("::")[0] in LEFT_OUT_OF_CHECK:
            item.add_marker(pytest.mark.slow)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what a run of all tests left out, and which command runs it."""
    if terminalreporter.config.getoption("file_or_dir"):
        return
    stats = terminalreporter.stats
    ran = [r for key in ("passed", "failed", "error", "xfailed") for r in stats.get(key, [])]
    if not any(report.nodeid.startswith("tests/zoo/test_zoo.py") for report in ran):
        terminalreporter.section("left out")
        terminalreporter.line("the model zoo, exports of torch: `make test-zoo` installs torch and runs it")
