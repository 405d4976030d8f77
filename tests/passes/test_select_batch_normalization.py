"""select-batch-normalization against ONNX Runtime, with and without its own optimisations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from checking import random_feeds
from rewriting import arrays, check_declines, check_rewrite, with_weights

from graphopt.passes.select_batch_normalization import SelectBatchNormalization

PASS = SelectBatchNormalization()
WEIGHTS = arrays(w=(16, 3, 3, 3), v=(16, 16, 3, 3), many=(16, 1, 1), wide=(6,)) | {
    "one": np.array([1.5], np.float32),
    "zero": np.float32(-0.5),
    "hole": np.float32(np.inf),
}
CONV = """c = com.microsoft.FusedConv<activation = "HardSwish", pads = [1, 1, 1, 1]>(x, w)"""


def source(body: str, outputs: str = "", kind: str = "float") -> str:
    shapes = {k: list(v.shape) or "" for k, v in WEIGHTS.items()}
    names = ", ".join(f"{kind}{shape} {name}" for name, shape in shapes.items())
    return f"g ({kind}[N, 3, H, 6] x, {names}) => ({kind}[N, 16, H, 6] y{outputs}) {{ {body} }}"


@pytest.mark.parametrize(
    "body",
    [
        "p = Mul(c, one) y = Add(p, zero)",
        "p = Mul(many, c) y = Add(many, p)",
        "p = Mul(c, many) y = Add(p, one)",
    ],
)
@pytest.mark.parametrize("conv", [CONV, "c = Conv<pads = [1, 1, 1, 1]>(x, w)"])
def test_rewrites(body: str, conv: str) -> None:
    kind = "FusedConv" if "Fused" in conv else "Conv"
    check_rewrite(PASS, source(f"{conv} {body}"), [kind, "BatchNormalization"], weights=WEIGHTS)


def test_the_runtime_keeps_its_layout(tmp_path: Path) -> None:
    text = source(f"{CONV} p = Mul(c, one) q = Add(p, zero) y = Conv<pads = [1, 1, 1, 1]>(q, v)")
    reorders, results = [], []
    for changed in (False, True):
        model = with_weights(text, WEIGHTS)
        if changed:
            assert PASS.run(model).modified
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        session = onnxruntime.InferenceSession(
            onnx_ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        kept = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
        reorders.append(sum("Reorder" in op for op in kept))
        results.append(session.run(None, {"x": random_feeds(model)["x"]})[0])
    assert reorders[1] < reorders[0] or reorders == [
        0,
        0,
    ]  # a machine without blocked kernels reorders nothing
    np.testing.assert_allclose(results[1], results[0], rtol=1e-4, atol=1e-4)


NEAR_MISSES = {
    "the product is an output": (
        f"{CONV} p = Mul(c, one) y = Add(p, zero)",
        ", float[N, 16, H, 6] p",
        "used elsewhere",
    ),
    "no convolution": (
        "c = Conv(x, w) r = Relu(c) p = Mul(r, one) y = Add(p, zero)",
        "",
        "from a convolution",
    ),
    "a factor for each column": (f"{CONV} p = Mul(c, wide) y = Add(p, zero)", "", "one number per channel"),
    "an infinite shift": (f"{CONV} p = Mul(c, one) y = Add(p, hole)", "", "not finite"),
    "no factor": (f"{CONV} y = Add(c, one)", "", "no Mul"),
    "a factor that is computed": (
        f"{CONV} m = ReduceMax(x) p = Mul(c, m) y = Add(p, zero)",
        "",
        "no constant factor",
    ),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_misses(case: str) -> None:
    body, outputs, reason = NEAR_MISSES[case]
    text = source(body, outputs)
    if case == "no convolution":
        text = text.replace("float[N, 16, H, 6] y", "float[N, 16, I, 4] y")
    check_declines(PASS, text, reason, weights=WEIGHTS)


def test_other_ranks() -> None:
    text = """g (float[1, 3, 9] x, float[4, 3, 3] k, float[1] f) => (float[1, 4, 7] y) {
        c = Conv(x, k) p = Mul(c, f) y = Add(p, f) }"""
    check_declines(PASS, text, "not known to be an image", weights=arrays(k=(4, 3, 3), f=(1,)))
