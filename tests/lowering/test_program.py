"""What of a model is an argument of its program, and what is written into it."""

from __future__ import annotations

import numpy as np
from checking import model_from, run_onnxruntime, run_xla

from graphopt.lowering.xla.program import argument_weights


def test_small_constants_are_written_in_and_large_ones_fed() -> None:
    large = ", ".join("1.0" for _ in range(64))
    model = model_from(
        f"g (float[64] x) => (float[64] y) <float[64] w = {{{large}}}, float c = {{2.0}}> "
        "{ a = Mul(x, w)  y = Add(a, c) }"
    )
    assert list(argument_weights(model)) == ["w"]


def test_a_constant_nan_reaches_the_answer() -> None:
    model = model_from(
        "g (float[2, 3, 6, 6] x) => (float[2, 3, 6, 6] y) <float n = {nan}> { m = Add(x, n)  y = Exp(m) }"
    )
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype(np.float32)}
    np.testing.assert_array_equal(run_xla(model, feeds)["y"], run_onnxruntime(model, feeds)["y"])
    assert np.isnan(run_xla(model, feeds)["y"]).all()
