"""Random graphs keep their answers through every pipeline, every pass alone, and the XLA lowering."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from checking import check_interface, run_onnxruntime, run_xla

from graphopt import passes
from graphopt.ir.check import check_model
from graphopt.ir.io import load
from graphopt.passes import presets
from graphopt.target import Target
from graphopt.transform import Pipeline

sys.path.insert(0, str(Path(__file__).parent))
from random_graphs import random_model


def close(expected: dict[str, np.ndarray], actual: dict[str, np.ndarray], context: object) -> None:
    assert list(expected) == list(actual)
    for name, wanted in expected.items():
        found = np.asarray(actual[name])
        assert found.dtype == wanted.dtype, (context, name)
        assert found.shape == wanted.shape, (context, name)
        finite = np.abs(wanted[np.isfinite(wanted)]) if wanted.dtype.kind == "f" else np.zeros(1)
        scale = float(finite.max(initial=1e-3))
        np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-5 * scale, err_msg=f"{context} {name}")


@pytest.mark.parametrize("seed", range(40))
def test_pipelines(seed: int) -> None:
    proto, feeds = random_model(seed)
    expected = run_onnxruntime(proto, feeds)
    for level, target in (
        (0, None),
        (1, None),
        (2, None),
        (2, "xla-cpu"),
        (2, "cpu"),
        (2, "cuda"),
        (3, "tpu"),
    ):
        model = load(proto)
        original = model.clone()
        text = presets.pipeline_text(level, Target.parse(target) if target else None)
        model, _ = Pipeline(text).run(model)
        check_interface(original, model)
        check_model(model)
        onnx.checker.check_model(onnx_ir.to_proto(model), full_check=True)
        close(expected, run_onnxruntime(model, feeds), (seed, level, target))


@pytest.mark.parametrize("seed", range(100, 115))
def test_every_pass_alone(seed: int) -> None:
    proto, feeds = random_model(seed)
    expected = run_onnxruntime(proto, feeds)
    for name in passes.names():
        if name in ("narrow-float", "bind-dims", "quantize", "quantize-weights", "prune"):
            continue
        model = load(proto)
        model, report = Pipeline(name).run(model)
        onnx.checker.check_model(onnx_ir.to_proto(model), full_check=True)
        if report.passes[0].modified:
            close(expected, run_onnxruntime(model, feeds), (seed, name))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200, 240))
def test_xla(seed: int) -> None:
    proto, feeds = random_model(seed)
    expected = run_onnxruntime(proto, feeds)
    for level in (0, 2):
        model, _ = Pipeline(presets.pipeline_text(level, Target.parse("xla-cpu"))).run(load(proto))
        close(expected, run_xla(model, feeds), (seed, level))
