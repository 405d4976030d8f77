"""select-global-pools: what is near a convolution, and what is not."""

from __future__ import annotations

import numpy as np
import pytest
from rewriting import arrays, check_declines, check_rewrite

from graphopt.passes.select_global_pools import SelectGlobalPools

NUMBERS = arrays(w=(8, 3, 3, 3), odd=(7, 3, 3, 3)) | {"axes": np.array([-1, 2]), "rows": np.array([2])}


def source(body: str, channels: str = "8", rows: str = "6", y: str = "1, 1") -> str:
    names = "float[8, 3, 3, 3] w, float[7, 3, 3, 3] odd, int64[2] axes, int64[1] rows"
    return f"g (float[N, 3, {rows}, 6] x, {names}) => (float[N, {channels}, {y}] y) {{ {body} }}"


@pytest.mark.parametrize(
    ("chain", "after"),
    [
        ("c = Conv(x, w)", "Conv"),
        ("a = Conv(x, w) c = Relu(a)", "Conv Relu"),
        ("a = Conv(x, w) s = Sigmoid(a) c = Mul(a, s)", "Conv Sigmoid Mul"),
    ],
)
def test_near_a_convolution(chain: str, after: str) -> None:
    check_rewrite(
        SelectGlobalPools(),
        source(f"{chain} y = ReduceMean(c, axes)"),
        f"{after} GlobalAveragePool",
        weights=NUMBERS,
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (source("y = ReduceMean(x, axes)", "3"), "not the result of a convolution"),
        (source("c = Conv(x, w) e = Erf(c) y = ReduceMean(e, axes)"), "not the result of a convolution"),
        (source("c = Conv(x, odd) y = ReduceMean(c, axes)", "7"), "whole blocks"),
        (source("c = Conv(x, w) y = ReduceMean(c, rows)", y="1, 4"), "axes of planes"),
        (
            source("c = Conv(x, w) y = ReduceMean <keepdims = 0> (c, axes)").replace(", 1, 1]", "]"),
            "axes of planes",
        ),
        (source("c = Conv(x, w) y = ReduceMean(c, axes)", rows="H"), "may be empty"),
    ],
)
def test_what_stays(text: str, reason: str) -> None:
    check_declines(SelectGlobalPools(), text, reason, weights=NUMBERS)
