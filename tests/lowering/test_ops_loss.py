"""Losses against onnx.reference (ONNX Runtime has training kernels for some only)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checking import check_op

RANDOM = np.random.default_rng(0)
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.mark.parametrize("op", ["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize(
    ("weighted", "ignored", "spatial"),
    [(False, None, ()), (True, None, (3, 2)), (True, 1, (3,)), (True, -100, ()), (False, -100, (3, 2))],
)
def test_losses(
    op: str, reduction: str, weighted: bool, ignored: int | None, spatial: tuple[int, ...]
) -> None:
    labels = RANDOM.integers(0, 5, (4, *spatial))
    if ignored == -100:
        labels.reshape(-1)[0] = -100
    inputs = {
        "x": RANDOM.standard_normal((4, 5, *spatial)).astype(np.float32),
        "t": labels,
        "w": RANDOM.uniform(0.5, 2, 5).astype(np.float32) if weighted else None,
    }
    attributes: dict[str, Any] = {} if ignored is None else {"ignore_index": ignored}
    outputs = 2 if op.startswith("Softmax") else 1
    check_op(op, inputs, outputs, reference="onnx", reduction=reduction, **attributes, **CLOSE)
