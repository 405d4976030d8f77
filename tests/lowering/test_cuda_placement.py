"""Predicted placement against facts read off the kernel table and ONNX Runtime's assignment rules by hand."""

from __future__ import annotations

from pathlib import Path

import onnx.defs
import onnx_ir
import pytest
from checking import model_from

from graphopt.errors import PolicyError
from graphopt.ir.io import load
from graphopt.lowering.cuda import kernels
from graphopt.lowering.cuda.placement import (
    CPU,
    CUDA,
    TENSORRT,
    NodePlacement,
    check_strict,
    predict,
    summarize,
)
from graphopt.runtime.ort import OrtSession
from graphopt.target import Target

CUDA_TARGET, TRT_TARGET = Target.parse("cuda"), Target.parse("tensorrt")
SAMPLES = sorted((Path(__file__).parents[2] / "samples" / "generated").glob("*.onnx"))


def placed(text: str, opset: int = 18, target: Target = CUDA_TARGET) -> dict[str, NodePlacement]:
    """Placement by operator type; each may occur once."""
    found = predict(model_from(text, opset), target)
    by_op = {p.op: p for p in found}
    assert len(by_op) == len(found)
    return by_op


def one(body: str, opset: int = 18, header: str = "float[4, 4] x") -> NodePlacement:
    (placement,) = predict(model_from(f"g ({header}) => (y) {{ {body} }}", opset), CUDA_TARGET)
    return placement


# --- the table ---------------------------------------------------------------------------------------------


@pytest.fixture
def older(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ONNX Runtime of before the newer table."""
    monkeypatch.setattr(kernels, "onnxruntime_version", lambda: (1, 24, 0))


def test_the_tables_are_read_whole() -> None:
    table = kernels.cuda_kernels(new=False)
    assert sum(map(len, table.values())) == 334 + 67 + 31 + 2  # rows by domain, NonMaxSuppression's two
    assert table["", "Softmax"][0].types["T"] == {"bfloat16", "double", "float", "float16"}
    newer = kernels.cuda_kernels(new=True)
    assert sum(map(len, newer.values())) == 524
    assert set(table) < set(newer)


def test_the_installed_version_decides_which_table_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for version, new in (((1, 30, 9), False), ((1, 31, 0), True), ((2, 0, 0), True)):
        monkeypatch.setattr(kernels, "onnxruntime_version", lambda found=version: found)
        assert kernels.cuda_kernels() is kernels.cuda_kernels(new)
        assert kernels.cuda_table_version().startswith("1.31") == new


def test_every_type_parameter_of_the_table_is_one_that_a_kernel_match_looks_at() -> None:
    """A constraint under a name that no operand has would be ignored without a word."""
    for (domain, op), rows in kernels.cuda_kernels().items():
        for kernel in rows if domain == "" else ():
            try:
                schema = onnx.defs.get_schema(op, kernel.since_first, "")
            except onnx.defs.SchemaError:
                continue  # experimental operators of old, which no valid model holds
            formals = [*schema.inputs, *schema.outputs]
            known = {f.type_str for f in formals} | {f.name for f in formals}
            assert set(kernel.types) <= known, (op, kernel)


@pytest.mark.parametrize(
    ("opset", "provider"),
    [
        (18, CUDA),  # Conv 11…21
        (21, CUDA),
        (22, CUDA),  # Conv 22, open end
    ],
)
def test_conv_has_a_kernel_in_every_opset(opset: int, provider: str) -> None:
    placement = one("y = Conv(x, w)", opset, "float[1, 3, 8, 8] x, float[4, 3, 3, 3] w")
    assert (placement.provider, placement.reason) == (provider, None)


@pytest.mark.parametrize(
    ("op", "fits", "too_new"),
    [
        ("Cos(x)", 21, 22),  # Cos 7, open end; redefined in 22
        ("TopK", 23, 24),  # TopK 11, open end; redefined in 24
        ("GlobalAveragePool(x)", 21, 22),
    ],
)
@pytest.mark.usefixtures("older")
def test_an_open_end_does_not_reach_a_redefined_operator(op: str, fits: int, too_new: int) -> None:
    body = "k = Constant<value_ints = [1]>() y, i = TopK(x, k)" if op == "TopK" else f"y = {op}"
    header = "float[1, 3, 8, 8] x"
    assert one(body, fits, header).provider == CUDA
    placement = one(body, too_new, header)
    assert (placement.provider, placement.kind) == (CPU, "fallback")
    assert f"of opset {too_new}" in (placement.reason or "")


@pytest.mark.parametrize(
    ("body", "header", "provider", "word"),
    [
        ("y = Softmax(x)", "float16[4, 4] x", CUDA, ""),
        ("y = Softmax(x)", "bfloat16[4, 4] x", CUDA, ""),
        ("y = Add(x, x)", "int64[4] x", CUDA, ""),
        ("y = Add(x, x)", "uint8[4] x", CUDA, ""),
        ("y = Abs(x)", "int8[4] x", CUDA, ""),
        ("y = MatMul(x, x)", "int64[4, 4] x", CPU, "takes no int64 as T"),
        ("y = Relu(x)", "int32[4] x", CPU, "takes no int32 as T"),
        ("y = ArgMax(x)", "int64[4] x", CPU, "takes no int64"),
        ("y = Asin(x)", "float[4] x", CPU, "no CUDA kernel for Asin"),
        ("y = Det(x)", "float[4, 4] x", CPU, "no CUDA kernel for Det"),
        ("y = StringNormalizer(x)", "string[4] x", CPU, "no CUDA kernel for StringNormalizer"),
        ("y = Cast<to = 8>(x)", "float[4] x", CPU, "string"),
        ("y = NonMaxSuppression(x, s)", "float[1, 4, 4] x, float[1, 1, 4] s", CUDA, ""),
        ("y = com.microsoft.FusedMatMul(x, x)", "float[4, 4] x", CUDA, ""),
        ("y = com.microsoft.FusedMatMul(x, x)", "int8[4, 4] x", CPU, "takes no int8"),
        ("y = com.microsoft.NoSuchOperator(x)", "float[4] x", CPU, "no CUDA kernel"),
    ],
)
def test_types_and_operators(body: str, header: str, provider: str, word: str) -> None:
    placement = one(body, 18, header)
    assert placement.provider == provider, placement
    assert word in (placement.reason or "")
    assert (placement.kind == "fallback") == (provider == CPU)


LSTM = "float[5, 2, 3] x, float[1, 16, 3] w, float[1, 16, 4] r"
GRU = "float[5, 2, 3] x, float[1, 12, 3] w, float[1, 12, 4] r"


@pytest.mark.parametrize(
    ("body", "header", "provider"),
    [
        ("y = LSTM<hidden_size = 4>(x, w, r)", LSTM, CUDA),
        ("y = LSTM<hidden_size = 4, clip = 3.0>(x, w, r)", LSTM, CPU),
        ("y = LSTM<hidden_size = 4, input_forget = 1>(x, w, r)", LSTM, CPU),
        ("y = LSTM<hidden_size = 4, activations = ['Sigmoid', 'Tanh', 'Relu']>(x, w, r)", LSTM, CPU),
        ("y = LSTM<hidden_size = 4, activations = ['sigmoid', 'Tanh', 'Tanh']>(x, w, r)", LSTM, CUDA),
        ("y = LSTM<hidden_size = 4>(x, w, r, , , , , p)", LSTM + ", float[1, 12] p", CPU),
        ("y = GRU<hidden_size = 4>(x, w, r)", GRU, CPU),
        ("y = GRU<hidden_size = 4, linear_before_reset = 1>(x, w, r)", GRU, CUDA),
        ("y = ConvTranspose<pads = [1, 1, 1, 1]>(x, w)", "float[1, 3, 8, 8] x, float[3, 4, 3, 3] w", CUDA),
        ("y = ConvTranspose<pads = [0, 0, 1, 1]>(x, w)", "float[1, 3, 8, 8] x, float[3, 4, 3, 3] w", CPU),
        ("y = ConvTranspose<auto_pad = 'SAME_UPPER'>(x, w)", "float[1, 3, 8, 8] x, float[3, 4, 3, 3] w", CPU),
        ("y = Conv<pads = [0, 0, 1, 1]>(x, w)", "float[1, 3, 8, 8] x, float[4, 3, 3, 3] w", CUDA),
        ("y = ArgMax<select_last_index = 1>(x)", "float[4, 4] x", CPU),
    ],
)
def test_attributes_that_cudnn_does_not_have(body: str, header: str, provider: str) -> None:
    placement = one(body.replace("'", '"'), 18, header)
    assert placement.provider == provider, placement
    assert (placement.reason is None) == (provider == CUDA)


# --- shapes ------------------------------------------------------------------------------------------------

FLATTEN = """g (float[N, 3, 4] x) => (float[A, B] y) <int64[1] last = {-1}> {
    s = Shape(x)
    zero = Constant<value_int = 0>()
    n = Gather(s, zero)
    axis = Constant<value_ints = [0]>()
    u = Unsqueeze(n, axis)
    target = Concat<axis = 0>(u, last)
    y = Reshape(x, target)
}"""


def test_arithmetic_on_shapes_stays_on_the_cpu_and_is_no_fallback() -> None:
    found = placed(FLATTEN)
    assert {op: (p.provider, p.kind) for op, p in found.items()} == {
        "Shape": (CUDA, "accelerator"),
        "Gather": (CPU, "shape"),
        "Unsqueeze": (CPU, "shape"),
        "Concat": (CPU, "shape"),
        "Reshape": (CUDA, "accelerator"),
    }
    check_strict(list(found.values()))
    model = model_from(FLATTEN)
    summary = summarize(model, predict(model, CUDA_TARGET))
    assert summary.nodes == {"accelerator": 2, "shape": 3, "folded": 0, "fallback": 0}
    assert summary.copies == 0  # Shape's result and Reshape's target are in host memory anyway


def test_shape_arithmetic_without_a_cuda_kernel_is_no_fallback_either() -> None:
    found = placed(
        "g (float[N, 4] x) => (float[M] y) { s = Shape(x) n = ReduceProd<keepdims = 1>(s) y = Reshape(x, n) }"
    )
    assert found["ReduceProd"].kind == "shape"
    alone = one("y = ReduceProd(x)", 18, "int64[2] x")
    assert alone.kind == "fallback"
    assert "takes no int64" in (alone.reason or "")


def test_float16_is_never_kept_on_the_cpu() -> None:
    found = placed("g (float[N, 4] x) => (float16[2] y) { s = Shape(x) h = Cast<to = 10>(s) y = Neg(h) }")
    assert (found["Cast"].provider, found["Neg"].provider) == (CPU, CUDA)


def test_what_the_kernel_reads_from_the_host_keeps_it_on_the_device() -> None:
    found = placed("g (float[N, 4] x) => (float[A, B] y) { s = Shape(x) y = ConstantOfShape(s) }")
    assert found["ConstantOfShape"].provider == CUDA


def test_constants_are_folded_wherever_their_kernels_are() -> None:
    found = placed("g (float[4] x) => (float[4] y) <float[4] w = {1, 2, 3, 4}> { a = Asin(w) y = Add(x, a) }")
    assert (found["Asin"].kind, found["Add"].kind) == ("folded", "accelerator")
    check_strict(list(found.values()))


# --- copies ------------------------------------------------------------------------------------------------


def copies(text: str, opset: int = 18) -> int:
    model = model_from(text, opset)
    return summarize(model, predict(model, CUDA_TARGET)).copies


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("g (float[4] x) => (float[4] y) { a = Exp(x) y = Tanh(a) }", 0),
        ("g (float[4] x) => (float[4] y) { a = Exp(x) b = Asin(a) y = Tanh(b) }", 2),
        ("g (float[4] x) => (float[4] y) { a = Asin(x) y = Acos(a) }", 0),  # all on the CPU
        ("g (float[4] x) => (float[4] y) { a = Exp(x) b = Asin(a) c = Acos(a) y = Add(b, c) }", 3),
        ("g (float[4] x) => (float[4] y, float[4] z) { y = Exp(x) z = Asin(x) }", 1),  # x on both sides
    ],
)
def test_copies_between_host_and_device(text: str, count: int) -> None:
    assert copies(text) == count


# --- control flow ------------------------------------------------------------------------------------------

BRANCHES = """g (bool c, float[4] x) => (float[4] y) {
    y = If(c) <then_branch = t () => (float[4] a) { a = Exp(x) },
               else_branch = e () => (float[4] b) { b = Asin(x) }>
}"""


def test_nested_nodes_are_placed_and_say_where_they_are() -> None:
    found = placed(BRANCHES, 19)
    assert (found["If"].provider, found["If"].inside) == (CUDA, None)
    assert (found["Exp"].provider, found["Exp"].inside) == (CUDA, found["If"].node)
    assert found["Asin"].kind == "fallback"


@pytest.mark.usefixtures("older")
def test_a_control_flow_operator_newer_than_its_kernel_is_on_the_cpu_but_its_nodes_are_not() -> None:
    found = placed(BRANCHES, 21)  # If 19, open end; redefined in 21
    assert found["If"].kind == "fallback"
    assert found["Exp"].provider == CUDA
    assert "inside If" in (found["Exp"].reason or "")


# --- strict ------------------------------------------------------------------------------------------------


def test_strict_lists_every_fallback() -> None:
    model = model_from("g (float[4] x) => (float[4] y) { a = Asin(x) b = Exp(a) y = Acos(b) }")
    with pytest.raises(PolicyError) as caught:
        check_strict(predict(model, CUDA_TARGET))
    assert caught.value.code == "GO501"
    assert "2 nodes" in str(caught.value)
    assert "Asin" in str(caught.value)
    assert "Acos" in str(caught.value)
    assert [n["op"] for n in caught.value.details["nodes"]] == ["Asin", "Acos"]


# --- TensorRT ----------------------------------------------------------------------------------------------


def engines(text: str, opset: int = 18) -> tuple[list[str], int]:
    model = model_from(text, opset)
    found = predict(model, TRT_TARGET)
    return [p.provider for p in found], summarize(model, found).engines


def test_one_engine_takes_all_that_tensorrt_knows() -> None:
    assert engines("g (float[4] x) => (float[4] y) { a = Exp(x) y = Tanh(a) }") == ([TENSORRT] * 2, 1)
    assert engines(FLATTEN) == ([TENSORRT] * 5, 1)  # shapes included


def test_an_unsupported_node_splits_the_engine_and_runs_on_cuda_if_it_can() -> None:
    providers, count = engines("g (float[4, 4] x) => (float[4, 4] y) { a = Exp(x) b = Det(a) y = Add(a, b) }")
    assert (providers, count) == ([TENSORRT, CPU, TENSORRT], 2)
    providers, count = engines(
        "g (float[4, 4] x) => (double[4, 4] y) { a = Exp(x) d = Cast<to = 11>(a) y = Exp(d) }"
    )
    assert (providers, count) == ([TENSORRT, TENSORRT, CUDA], 1)


def test_control_flow_goes_into_an_engine_only_whole() -> None:
    whole = BRANCHES.replace("Asin", "Tanh")
    assert engines(whole) == ([TENSORRT] * 3, 1)
    split = BRANCHES.replace("Asin", "Det").replace("float[4]", "float[4, 4]")
    providers, count = engines(split)
    assert providers == [CUDA, TENSORRT, CPU]
    assert count == 1


# --- all samples -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: p.stem)
def test_samples_have_no_fallback(path: Path) -> None:
    model = load(path)
    for target in (CUDA_TARGET, TRT_TARGET):
        found = predict(model, target)
        assert sorted(p.node for p in found) == sorted(n.name or "" for n in model.graph.all_nodes())
        check_strict(found)


def test_the_cpu_takes_everything_on_the_cpu_target() -> None:
    model = load(SAMPLES[0])
    found = predict(model, Target.parse("cpu"))
    assert {(p.provider, p.kind) for p in found} == {(CPU, "accelerator")}
    assert summarize(model, found).copies == 0


FUNCTIONS = {
    "Bernoulli": (15, "g (float[4] x) => (float[4] y) { y = Bernoulli(x) }"),
    "CastLike": (19, "g (float[2] x, int64[1] t) => (int64[2] y) { y = CastLike(x, t) }"),
    "CenterCropPad": (18, "g (float[2, 3] x, int64[2] s) => (float[A, B] y) { y = CenterCropPad(x, s) }"),
    "GroupNormalization": (
        21,
        "g (float[1, 4, 2] x, float[4] s, float[4] b) => (float[1, 4, 2] y) "
        "{ y = GroupNormalization<num_groups = 2>(x, s, b) }",
    ),
    "HardSwish": (18, "g (float[4] x) => (float[4] y) { y = HardSwish(x) }"),
    "Mish": (18, "g (float[4] x) => (float[4] y) { y = Mish(x) }"),
    "NegativeLogLikelihoodLoss": (
        18,
        "g (float[2, 3] x, int64[2] t) => (float y) { y = NegativeLogLikelihoodLoss(x, t) }",
    ),
    "SoftmaxCrossEntropyLoss": (
        18,
        "g (float[2, 3] x, int64[2] t) => (float y) { y = SoftmaxCrossEntropyLoss(x, t) }",
    ),
    "Swish": (24, "g (float[4] x) => (float[4] y) { y = Swish(x) }"),
}


@pytest.mark.parametrize("op", sorted(kernels.INLINED_FUNCTIONS))
def test_onnxruntime_has_no_kernel_for_inlined_functions(op: str) -> None:
    """ONNX Runtime itself is asked: the node is gone once the session stands."""
    opset, text = FUNCTIONS[op]
    model = model_from(text, opset)
    plan = {
        "schema": "graphopt.ort-plan/1",
        "providers": [[CPU, {}]],
        "session_options": {"graph_optimization_level": "ORT_DISABLE_ALL"},
    }
    session = OrtSession(onnx_ir.to_proto(model).SerializeToString(), plan, record_assignment=True)
    groups = session._session.get_provider_graph_assignment_info()
    assert op not in {node.op_type for group in groups for node in group.get_nodes()}
    (placement,) = predict(model, CUDA_TARGET)
    assert placement.provider == CUDA
    has_kernel = kernels.why_no_cuda_kernel(next(iter(model.graph)), model) is None
    assert ("defined by" in (placement.reason or "")) != has_kernel
