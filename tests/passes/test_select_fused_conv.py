"""select-fused-conv against ONNX Runtime, with and without its own optimisations."""

from __future__ import annotations

import numpy as np
import onnx_ir
import onnxruntime
import pytest
from checking import check_pass, model_from
from rewriting import arrays, check_declines, check_rewrite, operators, with_weights

from graphopt.passes.select_fused_conv import SelectFusedConv

PASS = SelectFusedConv()
WEIGHTS = arrays(w=(8, 2, 3, 3), b=(8,), m=(5, 6), c=(6,)) | {
    "lo": np.float32(-0.25),
    "hi": np.float32(0.5),
}
CONV = "c = Conv<group = 2, pads = [1, 0, 1, 0], strides = [2, 1]>(x, w, b)"
ACTIVATIONS = {
    "Relu": "Relu(c)",
    "Sigmoid": "Sigmoid(c)",
    "Tanh": "Tanh(c)",
    "LeakyRelu": "LeakyRelu<alpha = 0.125>(c)",
    "HardSigmoid": "HardSigmoid<alpha = 0.25>(c)",
    "HardSwish": "HardSwish(c)",
    "Clip": "Clip(c, lo, hi)",
}


def source(body: str, outputs: str = "") -> str:
    names = "float[8, 2, 3, 3] w, float[8] b, float lo, float hi"
    return f"g (float[N, 4, 9, H] x, {names}) => (float[A, 8, B, C] y{outputs}) {{ {body} }}"


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_conv(name: str) -> None:
    model, _ = check_rewrite(
        PASS, source(f"{CONV} y = {ACTIVATIONS[name]}"), "FusedConv", weights=WEIGHTS, dims={"H": 6}
    )
    assert model.graph.node(0).attributes["activation"].as_string() == name
    assert model.graph.outputs[0].shape is not None


@pytest.mark.parametrize("form", ["Relu(g)", "Sigmoid(g)", "Tanh(g)", "LeakyRelu<alpha = 0.125>(g)"])
def test_gemm(form: str) -> None:
    text = f"""g (float[N, 5] x, float[5, 6] m, float[6] c) => (float[N, 6] y) {{
        g = Gemm<alpha = 0.5>(x, m, c) y = {form} }}"""
    check_rewrite(PASS, text, "FusedGemm", weights={k: WEIGHTS[k] for k in "mc"})


def test_text() -> None:
    head = "g (float[N, 3, 8, 8] x, float[4, 3, 1, 1] w) => (float[N, 4, 8, 8] y) {"
    check_pass(
        PASS,
        before=f"{head} c = Conv<kernel_shape = [1, 1]>(x, w) y = Relu(c) }}",
        after=f"""{head} y = com.microsoft.FusedConv<kernel_shape = [1, 1], activation = "Relu">(x, w) }}""",
    )


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_numbers_that_are_none_and_the_blocked_layout(name: str) -> None:
    weights = WEIGHTS | {"w": np.ones((16, 1, 1, 1), np.float32)}
    text = f"""g (float[1, 16, 2, 4] x, float[16, 1, 1, 1] w, float lo, float hi) => (float[1, 16, 2, 4] y) {{
        c = Conv<group = 16>(x, w) y = {ACTIVATIONS[name]} }}"""
    weights = {k: weights[k] for k in ("w", "lo", "hi")}
    x = np.array([np.nan, np.inf, -np.inf, -0.0, 3e38, -3e38, 100, -100], np.float32)
    feeds = {"x": np.broadcast_to(x.reshape(1, 1, 2, 4), (1, 16, 2, 4)).copy()}
    model, _ = check_rewrite(PASS, text, "FusedConv", weights=weights, feeds=feeds)
    results = []
    for each in (with_weights(text, weights), model):
        session = onnxruntime.InferenceSession(
            onnx_ir.to_proto(each).SerializeToString(), providers=["CPUExecutionProvider"]
        )
        results.append(session.run(None, feeds)[0])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-6)


NEAR_MISSES = {
    "the Conv is an output": (f"{CONV} y = Relu(c)", ", float[A, 8, B, C] c", "used elsewhere"),
    "the Conv is used twice": (f"{CONV} s = Sigmoid(c) y = Mul(c, s)", "", "used elsewhere"),
    "one end alone": (f"{CONV} y = Clip(c, lo)", "", "two constants"),
    "ends that cross": (f"{CONV} y = Clip(c, hi, lo)", "", "two constants"),
    "an end that is computed": (
        f"{CONV} t = ReduceMax<keepdims = 0>(x) y = Clip(c, lo, t)",
        "",
        "two constants",
    ),
    "no Conv": ("c = AveragePool<kernel_shape = [1, 1]>(x) y = Relu(c)", "", "no Conv"),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_misses(case: str) -> None:
    body, outputs, reason = NEAR_MISSES[case]
    text = source(body, outputs)
    if case == "no Conv":
        text = text.replace("float[A, 8, B, C] y", "float[A, 4, B, C] y")
    check_declines(PASS, text, reason, weights=WEIGHTS)


def test_kernels_of_the_provider() -> None:
    half = "g (float16[1, 2, 4, 4] x, float16[2, 2, 1, 1] w) => (float16[1, 2, 4, 4] y) { c = Conv(x, w) y = Relu(c) }"
    check_declines(PASS, half, "cpu has no FusedConv of type float16")
    cuda = SelectFusedConv(provider="cuda")
    text = half.replace("float16", "float")
    check_declines(cuda, text.replace("Relu", "Sigmoid"), "cuDNN fuses Relu alone")
    model = model_from(text)
    assert cuda.run(model).modified
    assert operators(model) == ["FusedConv"]
