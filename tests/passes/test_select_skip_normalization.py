"""select-skip-normalization against the parts, on the CPU provider, which has the kernels too."""

from __future__ import annotations

import pytest
from rewriting import arrays, check_declines, check_rewrite

from graphopt.passes.select_skip_normalization import SelectSkipNormalization

PASS = SelectSkipNormalization(provider="cpu")
WEIGHTS = arrays(scale=(8,), shift=(8,), bias=(8,), wide=(4, 8))
NAMES = "float[8] scale, float[8] shift, float[8] bias, float[4, 8] wide"
LAYER, RMS = "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"


def source(
    body: str, outputs: str = "float[B, 4, 8] y", x: str = "float[B, 4, 8] x", kind: str = "float"
) -> str:
    names = NAMES.replace("float", kind)
    return f"g ({x}, {kind}[B, 4, 8] r, {names}) => ({outputs}) {{ {body} }}"


@pytest.mark.parametrize(
    ("body", "after", "opset"),
    [
        ("s = Add(x, r) y = LayerNormalization(s, scale, shift)", LAYER, 18),
        ("s = Add(x, r) y = LayerNormalization<epsilon = 0.5>(s, scale, shift)", LAYER, 18),
        ("s = Add(x, r) y = LayerNormalization<axis = 2>(s, scale)", LAYER, 18),
        ("b = Add(x, bias) s = Add(b, r) y = LayerNormalization(s, scale, shift)", LAYER, 18),
        ("b = Add(bias, x) s = Add(r, b) y = LayerNormalization(s, scale)", LAYER, 18),
        ("s = Add(x, r) y = RMSNormalization(s, scale)", RMS, 23),
        ("b = Add(x, bias) s = Add(b, r) y = RMSNormalization<epsilon = 0.25>(s, scale)", RMS, 23),
    ],
)
def test_a_sum_and_its_normalization_are_one(body: str, after: str, opset: int) -> None:
    model, _ = check_rewrite(PASS, source(body), after, weights=WEIGHTS, opset=opset, dims={"B": 2})
    (node,) = model.graph
    assert len(node.outputs) == 1


@pytest.mark.parametrize(
    ("name", "opset", "after"), [("LayerNormalization", 18, LAYER), ("RMSNormalization", 23, RMS)]
)
def test_a_sum_that_goes_on_is_taken_from_there(name: str, opset: int, after: str) -> None:
    body = f"s = Add(x, r) n = {name}(s, scale) t = Relu(n) z = Add(s, t) m = {name}(z, scale) y = Add(m, z)"
    check_rewrite(
        PASS, source(body), [after, "Relu", after, "Add"], weights=WEIGHTS, opset=opset, dims={"B": 2}
    )


def test_a_sum_that_is_an_output() -> None:
    body = "s = Add(x, r) y = LayerNormalization(s, scale)"
    check_rewrite(
        PASS, source(body, "float[B, 4, 8] y, float[B, 4, 8] s"), LAYER, weights=WEIGHTS, dims={"B": 2}
    )


@pytest.mark.parametrize(
    ("body", "reason", "options"),
    [
        ("s = Add(x, r) y = LayerNormalization<axis = 1>(s, wide)", "more than the last axis", {}),
        ("s = Add(x, r) y = LayerNormalization(s, wide)", "no constant vector", {}),
        ("s = Add(x, r) q = Relu(bias) y = LayerNormalization(s, q)", "no constant vector", {}),
        ("s = Add(x, r) y = Relu(s)", "no normalization", {}),
        (
            "s = Add(x, r) a = LayerNormalization(s, scale) b = LayerNormalization(s, bias) y = Add(a, b)",
            "several",
            {},
        ),
        ("s = Add(x, r) y = LayerNormalization(s, scale)", "of one shape", {"x": "float[1, 1, 8] x"}),
        (
            "s = Add(x, r) y, m = LayerNormalization(s, scale)",
            "its mean",
            {"outputs": "float[B, 4, 8] y, float[B, 4, 1] m"},
        ),
    ],
)
def test_what_stays(body: str, reason: str, options: dict[str, str]) -> None:
    check_declines(PASS, source(body, **options), reason, weights=WEIGHTS)


def test_types_without_a_kernel_stay() -> None:
    text = source(
        "s = Add(x, r) y = LayerNormalization(s, scale)", "double[B, 4, 8] y", "double[B, 4, 8] x", "double"
    )
    weights = {name: array.astype("float64") for name, array in WEIGHTS.items()}
    check_declines(PASS, text, "of type double", weights=weights)
