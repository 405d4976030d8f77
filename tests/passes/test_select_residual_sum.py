"""select-residual-sum against ONNX Runtime, whose own fusion it must keep off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from checking import check_pass
from rewriting import check_declines, check_rewrite, with_weights

from graphopt.passes.select_residual_sum import SelectResidualSum

PASS = SelectResidualSum()
WEIGHTS = {k: np.linspace(-1, 1, 8, dtype=np.float32) for k in ("bias", "scale", "shift")}


def source(body: str, outputs: str = "", kind: str = "float") -> str:
    names = ", ".join(f"float[8] {n}" for n in WEIGHTS)
    return f"g ({kind}[B, 3, 8] x, {kind}[B, 3, 8] r, {names}) => ({kind}[B, 3, 8] y{outputs}) {{ {body} }}"


def test_two_terms() -> None:
    head = "g (float[B, 3, 4] x, float[B, 3, 4] r, float[4] w) => (float[B, 3, 4] y) {"
    check_pass(
        PASS,
        before=f"{head} s = Add(x, r) y = LayerNormalization(s, w) }}",
        after=f"{head} s = Sum(x, r) y = LayerNormalization(s, w) }}",
    )


@pytest.mark.parametrize(
    "body",
    [
        "p = Add(x, bias) s = Add(p, r)",
        "p = Add(bias, x) s = Add(r, p)",
    ],
)
def test_the_bias_joins_in(body: str) -> None:
    model, _ = check_rewrite(
        PASS,
        source(f"{body} y = LayerNormalization(s, scale, shift)"),
        "Sum LayerNormalization",
        weights=WEIGHTS,
    )
    assert len(model.graph.node(0).inputs) == 3


def test_a_residual_that_is_used_again() -> None:
    body = "s = Add(x, r) n = LayerNormalization(s, scale, shift) h = Relu(n) y = Add(h, s)"
    check_rewrite(PASS, source(body), "Sum LayerNormalization Relu Add", weights=WEIGHTS)


def test_an_inner_sum_that_is_used_elsewhere_stays() -> None:
    body = "p = Add(x, bias) s = Add(p, r) y = LayerNormalization(s, scale, shift)"
    check_rewrite(PASS, source(body, ", float[B, 3, 8] p"), "Add Sum LayerNormalization", weights=WEIGHTS)


def test_the_runtime_makes_no_skip_layer_normalization_of_it(tmp_path: Path) -> None:
    text = source("p = Add(x, bias) s = Add(p, r) y = LayerNormalization(s, scale, shift)").replace(
        "B,", "2,"
    )
    for changed in (False, True):
        model = with_weights(text, WEIGHTS)
        if changed:
            assert PASS.run(model).modified
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        onnxruntime.InferenceSession(
            onnx_ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        kept = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
        assert ("SkipLayerNormalization" in kept) is not changed


def test_near_misses() -> None:
    check_declines(PASS, source("s = Add(x, r) y = Relu(s)"), "no LayerNormalization", weights=WEIGHTS)
    body = "s = Add(x, r) n = ReduceMean(s) y = Add(x, n)"
    check_declines(PASS, source(body), "no LayerNormalization", weights=WEIGHTS)
    half = "g (float16[2, 4] x, float16[4] w) => (float16[2, 4] y) { s = Add(x, x) y = LayerNormalization(s, w) }"
    check_declines(PASS, half, "float32 and float64")
