"""quantize: dynamic and static 8-bit products, against ONNX Runtime with and without its optimisations."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from checking import check_interface, run_onnxruntime
from rewriting import arrays, check_declines, operators, with_weights

from graphopt.errors import UsageError
from graphopt.ir import LazyTensor, Model
from graphopt.ir.provenance import origins
from graphopt.passes.quantize import Quantize
from graphopt.transform import Pipeline
from graphopt.verification.observation import observer

SMALL = {"min_elements": 1}
Weights = Mapping[str, np.ndarray]


def run_optimised(model: Model, feeds: Weights) -> dict[str, np.ndarray]:
    """The outputs under ONNX Runtime with all of its optimisations."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(onnx_ir.to_proto(model).SerializeToString(), options)
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, dict(feeds)), strict=True))


def check_quantized(
    pass_: Quantize, source: str, after: str, weights: Weights, feeds: Weights, tolerance: float = 0.03
) -> Model:
    """Quantise; check operators, validity, idempotence and, with and without fusion, the answers."""
    model = with_weights(source, weights)
    original = model.clone()
    model, report = Pipeline([pass_]).run(model, observe=observer([feeds]))
    assert operators(model) == after.split(), (operators(model), report.passes[0].declined)
    check_interface(original, model)
    onnx.checker.check_model(onnx_ir.to_proto(model), full_check=True)
    _, report = Pipeline([pass_]).run(model.clone(), observe=observer([feeds]))
    assert not report.passes[0].modified, "the pass is not idempotent"
    assert all(origins(node) for node in model.graph)
    expected = run_onnxruntime(original, feeds)
    for found in (run_onnxruntime(model, feeds), run_optimised(model, feeds)):
        for name, array in expected.items():
            scale = np.abs(array).max() if array.size else 0
            np.testing.assert_allclose(found[name], array, atol=tolerance * scale, err_msg=name)
            assert array.size == 0 or not np.array_equal(found[name], array), "nothing was quantised"
    return model


DYNAMIC = "DynamicQuantizeLinear MatMulInteger Cast Mul Mul"


@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("reduce_range", [True, False])
def test_dynamic_product(kind: str, per_channel: bool, reduce_range: bool) -> None:
    weights = arrays(w=(24, 16))
    weights["w"] *= np.geomspace(0.01, 1, 16, dtype=np.float32) if per_channel else 1
    weights["w"] += 0.2
    pass_ = Quantize(type=kind, per_channel=per_channel, reduce_range=reduce_range)
    source = "g (float[N, 5, 24] x, float[24, 16] w) => (float[N, 5, 16] y) { y = MatMul(x, w) }"
    model = check_quantized(pass_, source, DYNAMIC, weights, arrays(1, x=(2, 5, 24)))
    levels = model.graph.initializers[next(k for k in model.graph.initializers if kind in k)]
    assert isinstance(levels.const_value, LazyTensor)
    found = levels.const_value.numpy().astype(int)
    low, high = {"int8": (-127, 127), "uint8": (0, 255)}[kind]
    if reduce_range:
        low, high = {"int8": (-64, 64), "uint8": (0, 127)}[kind]
    assert found.min() >= low and found.max() <= high
    assert high in np.abs(found)


def test_scales_of_channels_are_independent() -> None:
    weights = {"w": np.concatenate([np.full((16, 1), 100.0), np.full((16, 1), 0.01)], 1).astype(np.float32)}
    source = "g (float[2, 16] x, float[16, 2] w) => (float[2, 2] y) { y = MatMul(x, w) }"
    feeds = {"x": np.ones((2, 16), np.float32)}
    errors = []
    for per_channel in (True, False):
        model = with_weights(source, weights)
        Quantize(per_channel=per_channel, **SMALL).run(model)
        errors.append(abs(run_onnxruntime(model, feeds)["y"][0, 1] / 0.16 - 1))
    assert errors[0] < 0.01
    assert errors[1] > 0.9


@pytest.mark.parametrize("transposed", [0, 1])
def test_dynamic_gemm(transposed: int) -> None:
    weights = arrays(w=(16, 24) if transposed else (24, 16), b=(16,))
    shape = "16, 24" if transposed else "24, 16"
    source = f"""g (float[3, 24] x, float[{shape}] w, float[16] b) => (float[3, 16] y) {{
        y = Gemm <transB = {transposed}, alpha = 0.5> (x, w, b) }}"""
    check_quantized(Quantize(), source, DYNAMIC + " Add", weights, arrays(1, x=(3, 24)))


def test_activations_are_quantised_once() -> None:
    source = """g (float[3, 24] x, float[24, 16] w, float[24, 16] v) => (float[3, 16] y, float[3, 16] z) {
        y = MatMul(x, w) z = MatMul(x, v) }"""
    after = DYNAMIC + " " + DYNAMIC.removeprefix("DynamicQuantizeLinear ")
    check_quantized(Quantize(), source, after, arrays(w=(24, 16), v=(24, 16)), arrays(1, x=(3, 24)))


@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_rows_of_a_table(kind: str, per_channel: bool) -> None:
    source = "g (int64[2, 3] i, float[40, 8] t) => (float[2, 3, 8] y) { y = Gather(t, i) }"
    middle = "Gather Sub " if kind == "uint8" else ""
    feeds = {"i": np.array([[0, 39, -1], [7, 7, 3]])}
    pass_ = Quantize(type=kind, per_channel=per_channel)
    check_quantized(pass_, source, f"Gather Cast {middle}Gather Mul", arrays(t=(40, 8)), feeds)


def test_bodies_are_quantised_in_dynamic_mode() -> None:
    source = """g (float[4, 16] x, float[16, 16] w) => (float[4, 16] r) <bool p = {1}> {
        a = MatMul(x, w)
        r = If (p) <
            then_branch = t () => (float[4, 16] y) { y = MatMul(x, w) },
            else_branch = e () => (float[4, 16] z) { z = Add(a, a) }
        > }"""
    after = f"{DYNAMIC} If {DYNAMIC} Add"
    check_quantized(Quantize(), source, after, arrays(w=(16, 16)), arrays(1, x=(4, 16)))


def test_empty_activations() -> None:
    source = "g (float[N, 16] x, float[16, 16] w) => (float[N, 16] y) { y = MatMul(x, w) }"
    check_quantized(Quantize(), source, DYNAMIC, arrays(w=(16, 16)), {"x": np.zeros((0, 16), np.float32)})


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("g (float[3, 16] x, float[16, 16] v) => (float[3, 16] y) { y = MatMul(x, v) }", "not a constant"),
        ("g (float[16] x, float[16, 16] w) => (float[16] y) { y = MatMul(x, w) }", "no product"),
        ("g (float[16, 3] x, float[16, 16] w) => (float[16, 3] y) { y = MatMul(w, x) }", "not a constant"),
        (
            "g (float[16, 3] x, float[16, 16] w) => (float[3, 16] y) { y = Gemm <transA = 1> (x, w) }",
            "transposed",
        ),
        (
            "g (float[3, 16] x, float[16, 16] w, float[16] b) => (float[3, 16] y) { y = Gemm <beta = 2.0> (x, w, b) }",
            "beta",
        ),
        ("g (float[3, 8] x, float[8, 8] s) => (float[3, 8] y) { y = MatMul(x, s) }", "small"),
        ("g (float[3, 16] x, float[16, 16] n) => (float[3, 16] y) { y = MatMul(x, n) }", "not finite"),
        ("g (double[3, 16] x, double[16, 16] d) => (double[3, 16] y) { y = MatMul(x, d) }", "not float32"),
        ("g (int64[3] i, float[16, 16] w) => (float[16, 3] y) { y = Gather <axis = 1> (w, i) }", "rows"),
    ],
)
def test_dynamic_declines(source: str, reason: str) -> None:
    weights = arrays(w=(16, 16), s=(8, 8), n=(16, 16)) | arrays(dtype=np.float64, d=(16, 16))
    weights["n"][3, 4] = np.nan
    check_declines(
        Quantize(),
        source,
        reason,
        weights={k: v for k, v in weights.items() if f" {k})" in source or f" {k}," in source},
    )


def test_sums_that_may_overflow_keep_float32() -> None:
    source = "g (float[1, 70000] x, float[70000, 1] w) => (float[1, 1] y) { y = MatMul(x, w) }"
    check_declines(Quantize(), source, "may exceed int32", weights=arrays(w=(70000, 1)))
    assert Quantize(reduce_range=True).run(with_weights(source, arrays(w=(70000, 1)))).modified


def test_kept_by_name() -> None:
    source = "g (float[3, 16] x, float[16, 16] w) => (float[3, 16] y) { y = MatMul(x, w) }"
    check_declines(Quantize(keep="MatMul|y"), source, "kept by name", weights=arrays(w=(16, 16)))


# --- static

PAIR = "QuantizeLinear DequantizeLinear"
CNN = """g (float[2, 3, 12, 12] x, float[8, 3, 3, 3] w, float[8] b, float[8, 1, 3, 3] d, float[8, 8, 1, 1] p,
    float[8] c, float[128, 10] f) => (float[2, 10] y) {
    c1 = Conv <pads = [1, 1, 1, 1]> (x, w, b)
    r1 = Relu(c1)
    c2 = Conv <pads = [1, 1, 1, 1], group = 8> (r1, d)
    c3 = Conv (c2, p, c)
    s = Add(r1, c3)
    m = MaxPool <kernel_shape = [3, 3], strides = [3, 3]> (s)
    l = Flatten(m)
    y = MatMul(l, f)
}"""


def cnn_weights() -> dict[str, np.ndarray]:
    weights = arrays(w=(8, 3, 3, 3), b=(8,), d=(8, 1, 3, 3), p=(8, 8, 1, 1), c=(8,), f=(128, 10))
    return {k: v * np.float32(0.3) for k, v in weights.items()}


@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_static_network(kind: str, per_channel: bool) -> None:
    dq = "DequantizeLinear"
    after = (
        f"{PAIR} {dq} {dq} Conv Relu {PAIR} {dq} Conv {PAIR} {dq} {dq} Conv {PAIR} Add {PAIR} "
        f"MaxPool {PAIR} Flatten {PAIR} {dq} MatMul"
    )
    pass_ = Quantize(mode="static", type=kind, per_channel=per_channel, **SMALL)
    model = check_quantized(pass_, CNN, after, cnn_weights(), arrays(1, x=(2, 3, 12, 12)), tolerance=0.06)
    pooled = {n.op_type: n for n in model.graph}
    # The result of a MaxPool has the scale of its operand.
    quantise = next(iter(pooled["MaxPool"].outputs[0].uses())).node
    assert quantise.inputs[1] is pooled["MaxPool"].inputs[0].producer().inputs[1]


def test_static_network_becomes_integer_kernels() -> None:
    model = with_weights(CNN, cnn_weights())
    feeds = arrays(1, x=(2, 3, 12, 12))
    model, _ = Pipeline([Quantize(mode="static", **SMALL)]).run(model, observe=observer([feeds]))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/optimised.onnx"
        onnxruntime.InferenceSession(onnx_ir.to_proto(model).SerializeToString(), options)
        found = [n.op_type for n in onnx.load(f"{folder}/optimised.onnx").graph.node]
    assert found.count("QLinearConv") == 3 and "Conv" not in found
    assert found.count("QLinearAdd") == 1 and "Relu" not in found


def test_static_needs_data() -> None:
    model = with_weights(CNN, cnn_weights())
    with pytest.raises(UsageError, match="needs calibration feeds"):
        Quantize(mode="static").run(model)


def test_a_bias_too_large_for_its_channel_is_kept() -> None:
    source = """g (float[2, 4] x, float[4, 2] w, float[2] b) => (float[2, 2] y) {
        y = Gemm(x, w, b) }"""
    weights = {"w": np.full((4, 2), 1e-12, np.float32), "b": np.array([1000.0, -1.0], np.float32)}
    weights["w"][:, 1] = 1
    feeds = arrays(1, x=(2, 4))
    model = with_weights(source, weights)
    original = model.clone()
    model, _ = Pipeline([Quantize(mode="static", **SMALL)]).run(model, observe=observer([feeds]))
    np.testing.assert_allclose(
        run_onnxruntime(model, feeds)["y"], run_onnxruntime(original, feeds)["y"], rtol=1e-2, atol=2e-2
    )


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("g (float[3, 16] x, float[16, 16] v) => (float[3, 16] y) { y = MatMul(x, v) }", "not a constant"),
        (
            "g (float[3, 16] x, float[16, 16] w) => (float[3, 16] y) { y = Gemm <alpha = 2.0> (x, w) }",
            "scales or transposes",
        ),
        (
            "g (float[3, 16] x, float[16, 16] w, float[3, 16] b) => (float[3, 16] y) { y = Gemm(x, w, b) }",
            "one constant per channel",
        ),
    ],
)
def test_static_declines(source: str, reason: str) -> None:
    model = with_weights(source, arrays(w=(16, 16)))
    feeds = arrays(1, x=(3, 16), v=(16, 16), b=(3, 16))
    model, report = Pipeline([Quantize(mode="static")]).run(model, observe=observer([feeds]))
    record = report.passes[0]
    assert not record.modified and any(reason in why for why in record.declined), record.declined


def test_options() -> None:
    text = "quantize{mode=static type=uint8 per-channel=false reduce-range=true min-elements=1 keep=head}"
    assert str(Pipeline.parse(text)) == text
    for wrong in ("mode=later", "type=int4", "activations=int8 type=uint8", 'keep="("'):
        with pytest.raises(UsageError, match="GO303"):
            Pipeline.parse(f"quantize{{{wrong}}}")
