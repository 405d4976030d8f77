"""arrange-kernels: kernels lie channels last, and are read as before."""

from __future__ import annotations

from rewriting import arrays, check_declines, check_rewrite

from graphopt.ir.query import static_shape
from graphopt.passes.arrange_kernels import ArrangeKernels

TEXT = (
    "g (float[2, 4, 9, 9] x, float[O, I, K, L] w) => (float[2, P, Q, R] y) { y = Conv <ATTRIBUTES> (x, w) }"
)


def test_channels_last() -> None:
    text = TEXT.replace("ATTRIBUTES", "strides = [2, 1], pads = [1, 0, 0, 1]")
    model, _ = check_rewrite(ArrangeKernels(), text, "Transpose Conv", weights=arrays(w=(6, 4, 3, 2)))
    assert static_shape(model.graph[0].inputs[0]) == (3, 2, 4, 6)


def test_groups_stay() -> None:
    text = TEXT.replace("ATTRIBUTES", "group = 2")
    check_declines(ArrangeKernels(), text, "over all channels", weights=arrays(w=(6, 2, 3, 3)))


def test_computed_kernels_stay() -> None:
    text = TEXT.replace("ATTRIBUTES", "strides = [1, 1]")
    check_declines(ArrangeKernels(), text, "no constant")
