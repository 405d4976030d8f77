"""Predictions against what ONNX Runtime's own CUDA provider decides, on a double of the CUDA libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir
import pytest
from checking import model_from
from cuda_double import assigned, kernel_rows, why_impossible

import graphopt
from graphopt.ir import Model
from graphopt.ir.io import load
from graphopt.lowering.cuda import kernels
from graphopt.lowering.cuda.ort import lower_ort
from graphopt.lowering.cuda.placement import predict, summarize
from graphopt.platforms import onnxruntime_version
from graphopt.target import Target

REASON = why_impossible()
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=f"no double of CUDA: {REASON}"),
    pytest.mark.skipif(onnxruntime_version()[:2] != (1, 31), reason="the table is of ONNX Runtime 1.31"),
]
CUDA_TARGET = Target.parse("cuda")
SAMPLES = sorted((Path(__file__).parents[2] / "samples" / "generated").glob("*.onnx"))

IMAGE = "float[1, 3, 8, 8] x, float[4, 3, 3, 3] w"
TRANSPOSED = "float[1, 3, 8, 8] x, float[3, 4, 3, 3] w"
LSTM = "float[5, 2, 3] x, float[1, 16, 3] w, float[1, 16, 4] r"
GRU = "float[5, 2, 3] x, float[1, 12, 3] w, float[1, 12, 4] r"
ONE: dict[str, tuple[int, str, str]] = {
    "softmax fp16": (18, "float16[4, 4] x", "y = Softmax(x)"),
    "softmax bf16": (18, "bfloat16[4, 4] x", "y = Softmax(x)"),
    "add int64": (18, "int64[4] x", "y = Add(x, x)"),
    "add uint8": (18, "uint8[4] x", "y = Add(x, x)"),
    "matmul int64": (18, "int64[4, 4] x", "y = MatMul(x, x)"),
    "relu int32": (18, "int32[4] x", "y = Relu(x)"),
    "argmax int64": (18, "int64[4] x", "y = ArgMax(x)"),
    "argmax last": (18, "float[4, 4] x", "y = ArgMax<select_last_index = 1>(x)"),
    "asin": (18, "float[4] x", "y = Asin(x)"),
    "det": (18, "float[4, 4] x", "y = Det(x)"),
    "string": (18, "float[4] x", "y = Cast<to = 8>(x)"),
    "nms": (18, "float[1, 4, 4] x, float[1, 1, 4] s", "y = NonMaxSuppression(x, s)"),
    "fused matmul": (18, "float[4, 4] x", "y = com.microsoft.FusedMatMul(x, x)"),
    "cos 21": (21, "float[4] x", "y = Cos(x)"),
    "cos 22": (22, "float[4] x", "y = Cos(x)"),
    "topk 24": (24, "float[4] x", "k = Constant<value_ints = [1]>() y, i = TopK(x, k)"),
    "conv 18": (18, IMAGE, "y = Conv(x, w)"),
    "conv 22": (22, IMAGE, "y = Conv(x, w)"),
    "conv pads": (18, IMAGE, "y = Conv<pads = [0, 0, 1, 1]>(x, w)"),
    "convtranspose": (18, TRANSPOSED, "y = ConvTranspose<pads = [1, 1, 1, 1]>(x, w)"),
    "convtranspose pads": (18, TRANSPOSED, "y = ConvTranspose<pads = [0, 0, 1, 1]>(x, w)"),
    "convtranspose same": (18, TRANSPOSED, 'y = ConvTranspose<auto_pad = "SAME_UPPER">(x, w)'),
    "lstm": (18, LSTM, "y = LSTM<hidden_size = 4>(x, w, r)"),
    "lstm clip": (18, LSTM, "y = LSTM<hidden_size = 4, clip = 3.0>(x, w, r)"),
    "lstm forget": (18, LSTM, "y = LSTM<hidden_size = 4, input_forget = 1>(x, w, r)"),
    "lstm relu": (18, LSTM, 'y = LSTM<hidden_size = 4, activations = ["Sigmoid", "Tanh", "Relu"]>(x, w, r)'),
    "lstm peepholes": (18, LSTM + ", float[1, 12] p", "y = LSTM<hidden_size = 4>(x, w, r, , , , , p)"),
    "gru": (18, GRU, "y = GRU<hidden_size = 4>(x, w, r)"),
    "gru linear": (18, GRU, "y = GRU<hidden_size = 4, linear_before_reset = 1>(x, w, r)"),
    "gelu": (20, "float[4] x", "y = Gelu(x)"),
    "rms": (23, "float[2, 8] x, float[8] s", "y = RMSNormalization(x, s)"),
    "resize": (
        18,
        "float[1, 3, 8, 8] x",
        "r = Constant<value_floats = [1.0, 1.0, 2.0, 2.0]>() y = Resize(x, , r)",
    ),
    "gridsample": (20, "float[1, 3, 8, 8] x, float[1, 4, 4, 2] g", "y = GridSample(x, g)"),
    "einsum": (18, "float[4, 4] x", 'y = Einsum<equation = "ij,jk->ik">(x, x)'),
    "scatter": (18, "float[4] x, int64[2, 1] i, float[2] u", "y = ScatterND(x, i, u)"),
    "nonzero": (18, "float[4] x", "y = NonZero(x)"),
    "quantize": (
        21,
        "float[4] x, float s, uint8 z",
        "q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)",
    ),
}
WHOLE: dict[str, tuple[int, str]] = {
    "no copy": (18, "g (float[4] x) => (float[4] y) { a = Exp(x) y = Tanh(a) }"),
    "there and back": (18, "g (float[4] x) => (float[4] y) { a = Exp(x) b = Asin(a) y = Tanh(b) }"),
    "all on the CPU": (18, "g (float[4] x) => (float[4] y) { a = Asin(x) y = Acos(a) }"),
    "one out two in": (
        18,
        "g (float[4] x) => (float[4] y) { a = Exp(x) b = Asin(a) c = Acos(a) y = Add(b, c) }",
    ),
    "input on both": (18, "g (float[4] x) => (float[4] y, float[4] z) { y = Exp(x) z = Asin(x) }"),
    "flatten": (
        18,
        """g (float[N, 3, 4] x) => (float[A, B] y) <int64[1] last = {-1}> {
            s = Shape(x)
            zero = Constant<value_int = 0>()
            n = Gather(s, zero)
            axis = Constant<value_ints = [0]>()
            u = Unsqueeze(n, axis)
            target = Concat<axis = 0>(u, last)
            y = Reshape(x, target)
        }""",
    ),
    "shape to float": (
        18,
        "g (float[N, 3] x) => (float[N, 3] y) { s = Shape(x) f = Cast<to = 1>(s) m = ReduceMax(f) y = Mul(x, m) }",
    ),
    "branches": (
        19,
        """g (bool c, float[4] x) => (float[4] y) {
            y = If(c) <then_branch = t () => (float[4] a) { a = Exp(x) },
                       else_branch = e () => (float[4] b) { b = Asin(x) }>
        }""",
    ),
}


def single(opset: int, header: str, body: str) -> Model:
    return model_from(f"g ({header}) => (y) {{ {body} }}", opset)


def models() -> dict[str, Model]:
    found = {name: single(*text) for name, text in ONE.items()}
    found |= {name: model_from(text, opset) for name, (opset, text) in WHOLE.items()}
    for path in SAMPLES:
        found[f"{path.stem} as it is"] = load(path)
        found[f"{path.stem} optimised"] = graphopt.optimize(path, "cuda").model
        found[f"{path.stem} in fp16"] = graphopt.optimize(path, "cuda", precision="fp16").model
    return found


MODELS = models() if REASON is None else {}


@pytest.fixture(scope="module")
def real() -> dict[str, dict[str, Any]]:
    """What ONNX Runtime decides about each model, with its own constant folding only."""
    plan = lower_ort(model_from(WHOLE["no copy"][1]), CUDA_TARGET).to_json()
    plan["session_options"]["graph_optimization_level"] = "ORT_ENABLE_BASIC"
    asked = [(onnx_ir.to_proto(model).SerializeToString(), plan) for model in MODELS.values()]
    return dict(zip(MODELS, assigned(asked), strict=True))


def test_the_table_is_what_the_installed_provider_registers() -> None:
    text = Path(kernels.__file__ or "").with_name("ort_cuda_kernels.tsv").read_text(encoding="utf-8")
    written = [line.split("\t") for line in text.splitlines()[1:]]
    assert written == [["" if cell is None else str(cell) for cell in row] for row in kernel_rows()]


@pytest.mark.parametrize("name", MODELS)
def test_nodes_go_where_they_are_predicted_to(name: str, real: dict[str, dict[str, Any]]) -> None:
    found = real[name]
    assert "error" not in found, found
    assert found["fallbacks"] == []
    predicted = {p.node: p for p in predict(MODELS[name], CUDA_TARGET)}
    wrong = {
        node: (predicted[node].op, predicted[node].provider, provider, predicted[node].reason)
        for node, provider in found["nodes"].items()
        if node in predicted and predicted[node].provider != provider and predicted[node].kind != "folded"
    }
    assert wrong == {}


@pytest.mark.parametrize("name", MODELS)
def test_copies_are_counted_as_onnxruntime_inserts_them(name: str, real: dict[str, dict[str, Any]]) -> None:
    summary = summarize(MODELS[name], predict(MODELS[name], CUDA_TARGET))
    assert real[name]["copies"] == summary.copies
