"""Pooling over regions against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from checking import check_op, make_model, run_xla

from graphopt.errors import UnsupportedError

RANDOM = np.random.default_rng(0)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
BOXES = np.array([[0, 0, 9, 9], [2.3, 1.1, 7.7, 8.9], [-3, 4, 5, 30], [5, 5, 5.2, 5.1]], np.float32)


def inputs() -> dict[str, np.ndarray]:
    x = RANDOM.standard_normal((2, 3, 10, 12)).astype(np.float32)
    return {"x": x, "rois": BOXES, "batch": np.array([0, 1, 1, 0], np.int64)}


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("transform", ["half_pixel", "output_half_pixel"])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_roi_align(mode: str, transform: str, sampling_ratio: int) -> None:
    check_op(
        "RoiAlign",
        inputs(),
        constant=() if sampling_ratio else ("rois",),
        mode=mode,
        coordinate_transformation_mode=transform,
        sampling_ratio=sampling_ratio,
        output_height=3,
        output_width=4,
        spatial_scale=0.9,
        **CLOSE,
    )


def test_adaptive_sampling_of_computed_regions_is_refused() -> None:
    model, feeds = make_model("RoiAlign", inputs())
    with pytest.raises(UnsupportedError, match=r"GO202.*sampling_ratio"):
        run_xla(model, feeds)


def test_max_roi_pool() -> None:
    rois = np.concatenate([np.array([[0], [1], [1], [0]], np.float32), np.round(BOXES)], 1)
    operands = {"x": inputs()["x"], "rois": rois}
    check_op("MaxRoiPool", operands, pooled_shape=[3, 2], spatial_scale=0.5)
    check_op("MaxRoiPool", operands, pooled_shape=[4, 5])
