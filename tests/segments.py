"""Models in ONNX text compiled for XLA with host segments, and compared with ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
from checking import run_onnxruntime

import graphopt
from graphopt.executable import Executable
from graphopt.ir.io import load

HEADER = '<ir_version: 10, opset_import: ["" : 20]>\n'


def compiled(source: str, **options: Any) -> Executable:
    """`source`, a graph without a header, compiled for ``xla-cpu``."""
    return graphopt.compile(HEADER + source, target="xla-cpu", **options)


def agrees(executable: Executable, source: str, feeds: dict[str, Any], *, atol: float = 1e-6) -> None:
    """Assert that it gives what ONNX Runtime gives for `source`: names, types, shapes and numbers."""
    expected = run_onnxruntime(load(HEADER + source), feeds)
    found = executable.run(feeds)
    assert list(found) == list(expected)
    for name, reference in expected.items():
        if reference.dtype == object:
            assert found[name].tolist() == reference.tolist(), name
            continue
        assert found[name].dtype == reference.dtype, name
        assert found[name].shape == reference.shape, name
        np.testing.assert_allclose(found[name], reference, rtol=1e-5, atol=atol, err_msg=name)
