"""quantize-weights: both forms against the numbers that they stand for, ONNX Runtime and onnx.reference."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir
import pytest
from checking import check_interface, run_onnxruntime
from onnx.reference import ReferenceEvaluator
from rewriting import arrays, check_declines, operators, with_weights

from graphopt.errors import UsageError
from graphopt.ir import LazyTensor
from graphopt.passes.quantize_weights import QuantizeWeights
from graphopt.transform import Pipeline

MATMUL = "g (float[N, 5, 72] x, float[72, 24] w) => (float[N, 5, 24] y) { y = MatMul(x, w) }"
GEMM = """g (float[3, 72] x, float[24, 72] t, float[24] b) => (float[3, 24] y) {
    y = Gemm <transB = 1> (x, t, b) }"""
WEIGHTS = arrays(w=(72, 24), t=(24, 72), b=(24,))


def rounded(weight: np.ndarray, bits: int, block: int, symmetric: bool) -> np.ndarray:
    """What the blocks of `weight` [terms, rows] stand for, number by number."""
    result = np.empty_like(weight)
    for row in range(weight.shape[1]):
        for start in range(0, weight.shape[0], block):
            part = weight[start : start + block, row].astype(np.float64)
            if symmetric:
                scale, zero = np.float32(part[np.argmax(np.abs(part))] / -(1 << bits - 1)), 1 << bits - 1
            else:
                low, high = min(part.min(), 0), max(part.max(), 0)
                scale = np.float32((high - low) / ((1 << bits) - 1))
                zero = int(np.rint(-low / scale))
            levels = np.clip(np.rint(part.astype(np.float32) / scale) + zero, 0, (1 << bits) - 1)
            result[start : start + block, row] = (levels - zero) * scale
    return result


@pytest.mark.parametrize("form", ["matmulnbits", "dequantize"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [16, 32])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_product_is_that_of_the_rounded_weight(form: str, bits: int, block: int, symmetric: bool) -> None:
    for source, key, transposed in ((MATMUL, "w", False), (GEMM, "t", True)):
        weights = {k: v for k, v in WEIGHTS.items() if f" {k}," in source or f" {k})" in source}
        model = with_weights(source, weights)
        original = model.clone()
        pass_ = QuantizeWeights(bits=bits, block=block, symmetric=symmetric, form=form)
        assert pass_.run(model).modified
        assert not pass_.run(model).modified, "the pass is not idempotent"
        check_interface(original, model)
        onnx.checker.check_model(onnx_ir.to_proto(model), full_check=True)
        assert (model.opset_imports[""] == 21) == (form == "dequantize")
        assert any(isinstance(v.const_value, LazyTensor) for v in model.graph.initializers.values())
        feeds = arrays(1, x=(2, 5, 72) if key == "w" else (3, 72))
        weight = weights[key].T if transposed else weights[key]
        expected = feeds["x"] @ rounded(weight, bits, block, symmetric) + weights.get("b", np.float32(0))
        np.testing.assert_allclose(run_onnxruntime(model, feeds)["y"], expected, rtol=1e-4, atol=1e-4)
        if form == "dequantize":
            found = ReferenceEvaluator(onnx_ir.to_proto(model)).run(None, feeds)[0]
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_operators_of_each_form() -> None:
    for form, after in (
        ("matmulnbits", ["MatMulNBits", "Add"]),
        ("dequantize", ["DequantizeLinear", "Gemm"]),
    ):
        model = with_weights(GEMM, {k: WEIGHTS[k] for k in "tb"})
        QuantizeWeights(form=form).run(model)
        assert operators(model) == after


def test_a_shared_weight_is_stored_once() -> None:
    source = """g (float[3, 72] x, float[72, 24] w) => (float[3, 24] y) {
        a = MatMul(x, w) n = Neg(x) b = MatMul(n, w) y = Sub(a, b) }"""
    model = with_weights(source, {"w": WEIGHTS["w"]})
    QuantizeWeights().run(model)
    assert len(model.graph.initializers) == 2


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("g (float[3, 72] x, float[72, 24] v) => (float[3, 24] y) { y = MatMul(x, v) }", "no constant"),
        ("g (float[72] x, float[72, 24] w) => (float[24] y) { y = MatMul(x, w) }", "no matrix"),
        ("g (float[3, 8] x, float[8, 8] s) => (float[3, 8] y) { y = MatMul(x, s) }", "small"),
        ("g (float[3, 72] x, float[72, 24] n) => (float[3, 24] y) { y = MatMul(x, n) }", "not finite"),
        (
            "g (float[3, 72] x, float[72, 24] w) => (float[3, 24] y) { y = Gemm <alpha = 2.0> (x, w) }",
            "scales",
        ),
    ],
)
def test_declines(source: str, reason: str) -> None:
    weights = arrays(w=(72, 24), s=(8, 8), n=(72, 24))
    weights["n"][3, 4] = np.inf
    used = {k: v for k, v in weights.items() if f" {k})" in source}
    check_declines(QuantizeWeights(), source, reason, weights=used)


def test_options() -> None:
    text = "quantize-weights{bits=8 block=128 form=dequantize symmetric=false keep=head}"
    assert str(Pipeline.parse(text)) == text
    for wrong in ("bits=3", "block=24", "form=other", "accuracy-level=9", 'keep="("'):
        with pytest.raises(UsageError, match="GO303"):
            Pipeline.parse(f"quantize-weights{{{wrong}}}")
