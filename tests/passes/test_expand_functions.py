"""expand-functions against the operators themselves, under ONNX Runtime."""

from __future__ import annotations

import pytest
from checking import model_from
from rewriting import check_declines, check_rewrite, operators

from graphopt.lowering.cuda.placement import TENSORRT as PROVIDER
from graphopt.lowering.cuda.placement import predict
from graphopt.lowering.cuda.tensorrt import parser_ops
from graphopt.passes.expand_functions import TENSORRT, ExpandFunctions
from graphopt.passes.presets import pipeline_text
from graphopt.target import Target
from graphopt.transform import Pipeline

PASS = ExpandFunctions()
QKV = "float[2, 3, 8] q, float[2, 4, 8] k, float[2, 4, 8] v"
CASES: dict[str, tuple[int, str]] = {
    "Swish": (24, "g (float[N, 4] x) => (float[N, 4] y) { y = Swish<alpha = 2.0>(x) }"),
    "RMSNormalization": (
        23,
        "g (float[2, 4, 8] x, float[8] s) => (float[2, 4, 8] y) { y = RMSNormalization(x, s) }",
    ),
    "Attention": (
        23,
        f"g ({QKV}) => (float[2, 3, 8] y) {{ y = Attention<q_num_heads = 2, kv_num_heads = 2>(q, k, v) }}",
    ),
    "RotaryEmbedding": (
        23,
        """g (float[2, 2, 3, 8] x, float[5, 4] c, float[5, 4] s, int64[2, 3] p) => (float[2, 2, 3, 8] y)
        { y = RotaryEmbedding(x, c, s, p) }""",
    ),
    "CenterCropPad": (18, "g (float[4, 6] x, int64[2] s) => (float[A, B] y) { y = CenterCropPad(x, s) }"),
    "SoftmaxCrossEntropyLoss": (
        18,
        "g (float[2, 3] x, int64[2] t) => (float y) { y = SoftmaxCrossEntropyLoss(x, t) }",
    ),
    "DynamicQuantizeLinear": (
        18,
        "g (float[4, 3] x) => (uint8[4, 3] y, float s, uint8 z) { y, s, z = DynamicQuantizeLinear(x) }",
    ),
}


@pytest.mark.parametrize("op", CASES)
def test_an_operator_is_what_the_standard_defines_it_by(op: str) -> None:
    opset, text = CASES[op]
    model = model_from(text, opset)
    PASS.run(model.clone())
    expanded = model.clone()
    PASS.run(expanded)
    check_rewrite(PASS, text, operators(expanded), opset=opset)
    assert op not in operators(expanded)
    assert set(operators(expanded)) <= set(parser_ops()) | {"Identity"}


@pytest.mark.parametrize("op", ["Swish", "RMSNormalization", "Attention", "RotaryEmbedding"])
def test_tensorrt_then_takes_all_of_it(op: str) -> None:
    opset, text = CASES[op]
    target = Target.parse("tensorrt")
    before = model_from(text, opset)
    assert {p.provider for p in predict(before, target)} != {PROVIDER}
    after, _ = Pipeline.parse(pipeline_text(2, target)).run(before)
    assert {p.provider for p in predict(after, target)} == {PROVIDER}
    assert len(list(after.graph)) < 60


def test_only_operators_that_the_parser_lacks_are_expanded() -> None:
    assert not set(TENSORRT) & set(parser_ops())
    text = "g (float[2, 4] x, float[4] s) => (float[2, 4] y) { a = Gelu(x) y = LayerNormalization(a, s) }"
    assert not PASS.run(model_from(text, 20)).modified


@pytest.mark.parametrize(
    ("op", "opset", "text", "reason"),
    [
        ("Exp", 18, "g (float[4] x) => (float[4] y) { y = Exp(x) }", "does not define it"),
        ("Bernoulli", 15, "g (float[4] x) => (float[4] y) { y = Bernoulli(x) }", "does not define it"),
    ],
)
def test_what_stays(op: str, opset: int, text: str, reason: str) -> None:
    check_declines(ExpandFunctions(ops=(op,)), text, reason, opset=opset)


def test_origins_are_kept() -> None:
    from graphopt.ir.provenance import origins

    model = model_from(CASES["Swish"][1], 24)
    (name,) = [node.name for node in model.graph]
    PASS.run(model)
    assert {origins(node) for node in model.graph} == {(name,)}


def test_half_precision() -> None:
    text = CASES["RMSNormalization"][1].replace("float[", "float16[")
    model = model_from(text, 23)
    assert PASS.run(model).modified
    assert {v.dtype.name for v in model.graph.outputs if v.dtype is not None} == {"FLOAT16"}
