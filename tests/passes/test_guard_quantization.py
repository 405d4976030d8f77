"""guard-quantization against ONNX Runtime, which breaks what is not guarded."""

from __future__ import annotations

import multiprocessing

import numpy as np
import onnx_ir
import onnxruntime
import pytest
from checking import check_pass, model_from, random_feeds, run_onnxruntime

from graphopt.driver import optimize
from graphopt.ir import Model
from graphopt.passes.guard_quantization import GuardQuantization

PASS = GuardQuantization()
CAPTURED = """g (float[N, 4] x, bool c) => (float[M] y) <float s = {0.25}, uint8 z = {3}, int64[1] a = {-1}> {
    u = Abs(x) q = QuantizeLinear(u, s, z) @
    y = If(c) <then_branch = t () => (float[B] p) { p = Neg(m) }, else_branch = e () => (float[C] r) { r = Exp(m) }> }"""
OUTPUT = (
    "g (float[N, 4] x) => (float[A, B] y, uint8[C] q) <float s = {0.25}, uint8 z = {3}, int64[1] a = {-1}>"
)


def optimised_run(model: bytes, feeds: dict[str, np.ndarray], results: object) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    results.put(session.run(None, feeds))  # type: ignore[attr-defined]


def answers(model: Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray] | None:
    """What ONNX Runtime gives with its optimisations on, or None if it dies or refuses."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    child = context.Process(
        target=optimised_run, args=(onnx_ir.to_proto(model).SerializeToString(), feeds, results)
    )
    child.start()
    child.join(60)
    return results.get() if child.exitcode == 0 else None


@pytest.mark.parametrize("behind", ["t = Transpose(@)", "r = Transpose(@) t = Reshape(r, a)"])
def test_an_output_that_is_quantised_behind_a_transpose(behind: str) -> None:
    quantized = " q = QuantizeLinear(t, s, z) }"
    check_pass(
        PASS,
        before=f"{OUTPUT} {{ y = Abs(x) {behind.replace('@', 'y')} {quantized}",
        after=f"{OUTPUT} {{ v = Abs(x) y = Identity(v) {behind.replace('@', 'v')} {quantized}",
    )


@pytest.mark.parametrize(
    "body",
    [
        "y = Abs(x) t = Reshape(y, a) q = QuantizeLinear(t, s, z)",
        "y = Abs(x) t = Transpose(y) n = Neg(t) q = QuantizeLinear(n, s, z)",
        "v = Abs(x) y = Identity(v) t = Transpose(v) q = QuantizeLinear(t, s, z)",
        "y = Abs(x) n = Neg(y) t = Transpose(n) q = QuantizeLinear(t, s, z)",
    ],
)
def test_other_outputs_stay(body: str) -> None:
    check_pass(PASS, before=f"{OUTPUT} {{ {body} }}")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "d = DequantizeLinear(q, s, z) m = Reshape(d, a)",
            "r = Reshape(q, a) m = DequantizeLinear(r, s, z)",
        ),
        (
            "d = DequantizeLinear(q, s, z) t = Transpose(d) m = Reshape(t, a)",
            "t = Transpose(q) r = Reshape(t, a) m = DequantizeLinear(r, s, z)",
        ),
        (
            "d = DequantizeLinear(q, s, z) t = Reshape(d, a) n = Exp(t) i = Identity(t) m = Squeeze(i)",
            "r = Reshape(q, a) t = DequantizeLinear(r, s, z) n = Exp(t) i = Identity(t) m = Squeeze(i)",
        ),
    ],
)
def test_moved_numbers_that_a_branch_takes(before: str, after: str) -> None:
    check_pass(PASS, before=CAPTURED.replace("@", before), after=CAPTURED.replace("@", after), dims={"N": 2})


@pytest.mark.parametrize(
    "body",
    [
        "m = DequantizeLinear(q, s, z)",
        "d = DequantizeLinear(q, s, z) m = Neg(d)",
        "d = DequantizeLinear(q, s, z) t = Reshape(d, a) m = Neg(t)",
        "d = DequantizeLinear(q, s, z) t = Reshape(d, a) n = Neg(t) m = Squeeze(n)",
    ],
)
def test_what_a_branch_may_take(body: str) -> None:
    source = CAPTURED.replace("@", body)
    check_pass(PASS, before=source)
    model = model_from(source)
    assert answers(model, random_feeds(model, {"N": 3})) is not None


INT8 = "g (float[N, 4] x) => (float[A] y) <float s = {0.25}, @ z = {3}, int64[1] a = {-1}> { q = QuantizeLinear(x, s, z)"
PLAIN = f"{INT8} d = DequantizeLinear(q, s, z) y = Reshape(d, a) }}"


@pytest.mark.parametrize(
    "body",
    [
        "r = Reshape(d, a) p = QuantizeLinear(r, s, z) y = DequantizeLinear(p, s, z)",
        "t = Transpose(d) r = Reshape(t, a) p = QuantizeLinear(r, s, z) y = DequantizeLinear(p, s, z)",
        "r = Reshape(d, a) n = Neg(r) e = Exp(r) y = Add(n, e)",
        "n = Neg(d) y = Reshape(n, a)",
    ],
)
def test_int8_that_onnxruntime_takes_at_opset_21(body: str) -> None:
    source = f"{INT8} d = DequantizeLinear(q, s, z) {body} }}".replace("@", "int8")
    check_pass(PASS, before=source, opset=21)
    model = model_from(source, 21)
    assert answers(model, random_feeds(model, {"N": 3})) is not None


@pytest.mark.parametrize(
    ("body", "after"),
    [
        ("r = Reshape(d, a) y = Neg(r)", "r = Reshape(q, a) d = DequantizeLinear(r, s, z) y = Neg(d)"),
        (
            "t = Transpose(d) r = Reshape(t, a) n = Neg(r) e = Exp(r) y = Add(n, e)",
            "t = Transpose(q) d = DequantizeLinear(t, s, z) r = Reshape(d, a) n = Neg(r) e = Exp(r) y = Add(n, e)",
        ),
    ],
)
def test_int8_that_onnxruntime_refuses_at_opset_21(body: str, after: str) -> None:
    source = f"{INT8} d = DequantizeLinear(q, s, z) {body} }}".replace("@", "int8")
    check_pass(PASS, before=source, after=f"{INT8} {after} }}".replace("@", "int8"), opset=21)
    model = model_from(source, 21)
    feeds = random_feeds(model, {"N": 3})
    assert answers(model, feeds) is None
    PASS.run(model)
    assert answers(model, feeds) is not None


def test_int8_that_is_moved_from_opset_21_on() -> None:
    after = f"{INT8} r = Reshape(q, a) y = DequantizeLinear(r, s, z) }}"
    check_pass(PASS, before=PLAIN.replace("@", "int8"), after=after.replace("@", "int8"), opset=21)
    check_pass(PASS, before=PLAIN.replace("@", "uint8"), opset=21)
    check_pass(PASS, before=PLAIN.replace("@", "int8"), opset=20)
    channels = PLAIN.replace("float s = {0.25}, @ z = {3}", "float[1] s = {0.25}, int8[1] z = {3}")
    check_pass(PASS, before=channels, opset=21, run=False)


DEQUANTIZED = """g (float[N, 4] x) => (float[A, B] y, float[B, A] o) <float s = {0.25}, uint8 z = {3}> {
    y = Abs(x) t = Transpose(y) q = QuantizeLinear(t, s, z) d = DequantizeLinear(q, s, z) o = Neg(d) }"""


@pytest.mark.parametrize("target", [None, "cpu", "cuda"])
@pytest.mark.parametrize(
    ("source", "opset"),
    [
        (DEQUANTIZED, 18),
        (CAPTURED.replace("@", "d = DequantizeLinear(q, s, z) m = Reshape(d, a)"), 18),
        (PLAIN.replace("@", "int8"), 21),
    ],
)
def test_onnxruntime_answers_alike_with_its_optimisations(
    source: str, opset: int, target: str | None
) -> None:
    model = model_from(source, opset)
    feeds = random_feeds(model, {"N": 3}) | ({"c": np.array(True)} if "bool c" in source else {})
    wanted = list(run_onnxruntime(model, feeds).values())
    found = answers(optimize(model, target).model, feeds)
    assert found is not None
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
