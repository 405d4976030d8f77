"""Sessions on XLA's CPU compiler."""

from __future__ import annotations

import numpy as np
from checking import model_from, run_xla


def test_reduction_fused_with_the_constant_it_starts_from() -> None:
    """XLA's fusions for YNNPACK gave 0 or infinity here, by turns (jaxlib 0.10)."""
    model = model_from("""
        agraph (float[1, 512, 13, 13] x) => (float[1, n] y)
        <float[1] c = {0.02}, int64[4] filters = {1000, 512, 1, 1}, int64[1] channels = {1000}> {
            w = Expand (c, filters)
            b = Expand (c, channels)
            features = Conv (x, w, b)
            active = Relu (features)
            pooled = GlobalAveragePool (active)
            y = Flatten (pooled)
        }""")
    x = np.random.default_rng(0).random((1, 512, 13, 13), np.float32)
    expected = np.full((1, 1000), 0.02 * x.sum(1).mean() + 0.02, np.float32)
    for _ in range(3):
        np.testing.assert_allclose(run_xla(model, {"x": x})["y"], expected, rtol=1e-5)
