"""lower-activations against ONNX Runtime: special values, sizes and near misses."""

from __future__ import annotations

import numpy as np
import pytest
from rewriting import arrays, check_declines, check_rewrite

from graphopt.passes.lower_activations import LowerActivations

NUMBERS = arrays(s=(64, 1, 1))
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e30, -1e30, 1e-40, -30.0, 19.5, 25.0, -1e-3]
FORMS = [
    ("y = Mish(x)", "Min Exp Add Mul Add Div Mul"),
    ("y = PRelu(x, s)", "Mul Greater Where"),
]


def source(body: str, shape: str = "N, 64, 16, 16", kind: str = "float") -> str:
    text = f"g (float[{shape}] x, float[64, 1, 1] s, float[64, 1, 1] t) => (float[{shape}] y) {{ {body} }}"
    return text.replace("float", kind)


@pytest.mark.parametrize(("body", "after"), FORMS)
def test_lowered(body: str, after: str) -> None:
    model, _ = check_rewrite(LowerActivations(), source(body), after, weights=NUMBERS, dims={"N": 2})
    assert model.graph.outputs[0].shape is not None


@pytest.mark.parametrize(("body", "after"), FORMS)
def test_special_values(body: str, after: str) -> None:
    x = np.zeros((1, 64, 16, 16), np.float32)
    x[0, :, 0, : len(SPECIAL)] = SPECIAL[:16]
    feeds = {"x": x, "t": np.ones((64, 1, 1), np.float32)}
    check_rewrite(LowerActivations(), source(body), after, weights=NUMBERS, feeds=feeds)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (source("y = PRelu(x, s)", "N, 64, 2, 2"), "known to be large"),
        (source("y = PRelu(x, s)", "N, 64, H, W"), "known to be large"),
        (source("y = PRelu(x, t)"), "slopes are computed"),
        (source("y = Mish(x)", kind="float16"), "not of float32"),
        (source("y = PRelu(x, s)", kind="double"), "not of float32"),
    ],
)
def test_what_stays(text: str, reason: str) -> None:
    weights = {} if text.startswith(("g (float16", "g (double")) else NUMBERS
    check_declines(LowerActivations(), text, reason, weights=weights)
