"""raise-global-average-pool."""

from __future__ import annotations

import pytest
from checking import check_pass

from graphopt.passes.raise_global_average_pool import RaiseGlobalAveragePool

FRAME = """g (float[N, 3, 6, 5] x, float[N, 3, H, W] z, float[4, 3, 1, 1] w) => (float[A, B, C, D] y)
    <int64[2] hw = {{2, 3}}, int64[2] back = {{-1, -2}}, int64[2] cw = {{1, 3}}, float one = {{1.0}}> {{ {nodes} }}"""


def framed(nodes: str) -> str:
    return FRAME.format(nodes=nodes)


@pytest.mark.parametrize("axes", ["hw", "back"])
@pytest.mark.parametrize("near", ["r = Identity(c)", "r = Relu(c)", "s = Sigmoid(c) r = Mul(c, s)"])
def test_behind_a_convolution(axes: str, near: str) -> None:
    source = framed(f"c = Conv(x, w) {near} y = ReduceMean(r, {axes})")
    if "Identity" in near:
        source = framed(f"r = Conv(x, w) y = ReduceMean(r, {axes})")
    after = source.replace(f"ReduceMean(r, {axes})", "GlobalAveragePool(r)")
    check_pass(RaiseGlobalAveragePool(), before=source, after=after)


@pytest.mark.parametrize(
    "nodes",
    [
        "y = ReduceMean(x, hw)",
        "r = Exp(x) y = ReduceMean(r, hw)",
        "r = Conv(x, w) y = ReduceMean(r, cw)",
        "r = Conv(z, w) y = ReduceMean(r, hw)",
        "r = Conv(x, w) m = ReduceMean<keepdims = 0>(r, hw) y = Unsqueeze(m, hw)",
        "r = Conv(x, w) y = ReduceMax(r, hw)",
    ],
)
def test_near_misses(nodes: str) -> None:
    check_pass(RaiseGlobalAveragePool(), before=framed(nodes), dims={"H": 3, "W": 2})
