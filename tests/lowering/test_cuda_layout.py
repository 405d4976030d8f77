"""The estimate of Transposes that are left against what ONNX Runtime's layout pass leaves, on a double of CUDA."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import onnx_ir
import pytest
from checking import model_from
from cuda_double import ask, why_impossible

from graphopt.lowering.cuda.layout import residual_transposes

REASON = why_impossible()
HEADER = "g (float16[1, 8, 8, 8] x, float16[8, 8, 3, 3] w, float16[6] t) => (float16[1, 8, A, B] y)"
MODELS = {
    "one": "{ y = Conv(x, w) }",
    "chain": "{ a = Conv(x, w) b = Relu(a) c = Conv(b, w) y = Sigmoid(c) }",
    "residual": "{ a = Conv<pads = [1, 1, 1, 1]>(x, w) b = Relu(a) c = Conv<pads = [1, 1, 1, 1]>(b, w) y = Add(c, a) }",
    "pool": "{ a = Conv(x, w) b = MaxPool<kernel_shape = [2, 2]>(a) y = Conv(b, w) }",
    "softmax between": "{ a = Conv(x, w) b = Softmax<axis = 3>(a) y = Conv(b, w) }",
    "norm between": "{ a = Conv(x, w) b = LayerNormalization<axis = 3>(a, t) y = Conv(b, w) }",
    "two inputs": "{ a = Conv(x, w) b = Conv(x, w) y = Mul(a, b) }",
    "none": "{ y = Relu(x) }",
}
SCRIPT = """
import json, sys, tempfile
import onnx, onnxruntime
counts = []
for path in json.loads(sys.argv[1]):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with tempfile.NamedTemporaryFile(suffix=".onnx") as written:
        options.optimized_model_filepath = written.name
        providers = [("CUDAExecutionProvider", {"prefer_nhwc": "1"}), "CPUExecutionProvider"]
        onnxruntime.InferenceSession(path, options, providers=providers)
        counts.append(sum(n.op_type == "Transpose" for n in onnx.load(written.name).graph.node))
print(json.dumps(counts))
"""


@pytest.mark.skipif(REASON is not None, reason=f"no double of CUDA: {REASON}")
def test_the_estimate_is_what_onnxruntime_leaves() -> None:
    models = {name: model_from(f"{HEADER} {body}") for name, body in MODELS.items()}
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for index, model in enumerate(models.values()):
            paths.append(str(Path(folder, f"{index}.onnx")))
            Path(paths[-1]).write_bytes(onnx_ir.to_proto(model).SerializeToString())
        left = dict(zip(models, ask(SCRIPT, json.dumps(paths)), strict=True))
    # The constant weights of a model are turned when it is loaded; here they are inputs.
    assert {name: residual_transposes(model) for name, model in models.items()} == left
