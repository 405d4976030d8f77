"""The reference: exact answers, in a process of its own that a model may kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir
import pytest
from onnx.backend.test.case.node import collect_testcases

from graphopt.errors import ModelError
from graphopt.ir.io import load
from graphopt.verification.array_files import read_arrays, write_arrays
from graphopt.verification.comparison import compare
from graphopt.verification.reference import run_reference, run_reference_on_all

BACKEND_TESTS = (
    "test_add",
    "test_bitwise_and_i32_2d",
    "test_cast_FLOAT_to_DOUBLE",
    "test_conv_with_strides_padding",
    "test_cumsum_1d",
    "test_gather_0",
    "test_lstm_defaults",
    "test_matmul_3d",
    "test_softmax_axis_1",
    "test_strnormalizer_nostopwords_nochangecase",
    "test_top_k",
    "test_where_example",
)
GENERATED = Path(__file__).parents[2] / "samples" / "generated"


def model_of(text: str, opset: int = 19) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\n' + text)


DIVIDE = model_of("g (int32[N] x, int32[N] d) => (int32[N] y) { y = Div(x, d) }")


def test_a_model_that_kills_its_process_is_an_error_that_names_the_signal() -> None:
    feeds = {"x": np.array([-(2**31)], np.int32), "d": np.array([-1], np.int32)}
    with pytest.raises(ModelError) as caught:
        run_reference(DIVIDE, feeds)
    assert caught.value.code == "GO604"
    assert "SIGFPE" in str(caught.value)


def test_child_and_process_agree_for_every_kind_of_value() -> None:
    model = model_of(
        "g (string[N] s, bool[N] b, float16[N] h, float[N] f, int64 i) => "
        "(string[N] s2, bool[N] b2, float16[N] h2, seq(float[N]) q, int64 i2) "
        "{ s2 = Identity(s) b2 = Not(b) h2 = Neg(h) q = SequenceConstruct(f, f) i2 = Neg(i) }"
    )
    feeds = {
        "s": np.array(["a", "longer"], object),
        "b": np.array([True, False]),
        "h": np.array([1, np.nan], np.float16),
        "f": np.array([1, np.inf], np.float32),
        "i": np.array(7),
    }
    apart = run_reference(model, feeds)
    here = run_reference(model, feeds, isolate=False)
    assert apart.engine == here.engine
    assert apart.engine.startswith("ONNX Runtime")
    assert apart.note is None
    assert apart["s2"].tolist() == ["a", "longer"]
    assert apart["i2"].shape == ()
    assert compare(here, apart).ok


def test_bfloat16_and_float8_travel() -> None:
    model = model_of(
        "g (bfloat16[N] x, float8e4m3fn[N] z) => (bfloat16[N] y, float8e4m3fn[N] w) "
        "{ y = Identity(x) w = Identity(z) }"
    )
    x = np.array([0.5, -3], ml_dtypes.bfloat16)
    found = run_reference(model, {"x": x, "z": x.astype(ml_dtypes.float8_e4m3fn)})
    assert (found["y"].dtype, found["y"].tolist()) == (x.dtype, x.tolist())
    assert found["w"].dtype == ml_dtypes.float8_e4m3fn


@pytest.mark.parametrize("isolate", [True, False])
def test_an_opset_that_onnxruntime_lacks_goes_to_onnx_reference(isolate: bool) -> None:
    opset = onnx.defs.onnx_opset_version()
    model = model_of("g (float[N] x) => (float[N] y) { y = Relu(x) }", opset)
    found = run_reference(model, {"x": np.array([-1, 2], np.float32)}, isolate=isolate)
    assert found["y"].tolist() == [0, 2]
    if not found.engine.startswith("ONNX Runtime"):
        assert found.engine.startswith("onnx.reference")
        assert "opset" in (found.note or "")


def test_a_newer_file_format_is_no_reason_to_leave_onnxruntime(tmp_path: Path) -> None:
    weights = np.arange(2000, dtype=np.float32)
    model = model_of("g (float[2000] x) => (float[2000] y) { y = Add(x, w) }")
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    model.ir_version = onnx.IR_VERSION
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.bin", size_threshold=0)
    found = run_reference(path, {"x": np.zeros(2000, np.float32)}, isolate=False)
    assert found.engine.startswith("ONNX Runtime")
    np.testing.assert_array_equal(found["y"], weights)


def test_an_operator_that_nobody_has_is_an_error_with_both_reasons() -> None:
    with pytest.raises(ModelError) as caught:
        run_reference(model_of("g (float[N] x) => (float[N] y) { y = NoSuch(x) }"), {}, isolate=False)
    assert "ONNX Runtime: " in str(caught.value)
    assert "onnx.reference: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_memory_and_time_are_limited() -> None:
    grow = model_of("g (int64[1] n) => (float[K] y) { y = ConstantOfShape(n) }")
    with pytest.raises(ModelError, match="GO604"):
        run_reference(grow, {"n": np.array([1 << 34])}, memory_bytes=4 << 30)
    endless = model_of(
        "g (int64 n) => (int64 y) <bool go = {1}> { y = Loop(n, go, n) <body = b (int64 i, bool c, int64 v) "
        "=> (bool c2, int64 v2) { c2 = Identity(c) v2 = Identity(v) }> }"
    )
    with pytest.raises(ModelError, match="stopped after 2 s"):
        run_reference(endless, {"n": np.array(2**62)}, timeout_s=2)


def test_models_are_taken_in_every_form(tmp_path: Path) -> None:
    path = GENERATED / "mnist-cnn.onnx"
    proto = onnx.load(path)
    model = load(path)
    name = model.graph.inputs[0].name or ""
    shape = [d if isinstance(d, int) else 2 for d in model.graph.inputs[0].shape or ()]
    feeds = {name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    outside = tmp_path / "outside.onnx"
    onnx_ir.save(onnx_ir.from_proto(proto), outside, external_data="outside.bin")
    forms: list[Any] = [path, str(path), path.read_bytes(), proto, model, outside, load(outside)]
    results = [run_reference(form, feeds, isolate=False) for form in forms]
    for result in results[1:]:
        assert compare(results[0], result).ok


def test_several_runs_share_a_child() -> None:
    feeds = [{"x": np.array([i], np.int32), "d": np.array([2], np.int32)} for i in (4, 6)]
    assert [run["y"].tolist() for run in run_reference_on_all(DIVIDE, feeds)] == [[2], [3]]


def test_array_files_keep_every_type(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "a/b:0": np.zeros((0, 3), np.float16),
        "../x": np.array(1 + 2j, np.complex64),
        "i4": np.array([-8, 7], ml_dtypes.int4),
        "f8": np.array([0.5], ml_dtypes.float8_e5m2),
        "s": np.array([["ü", ""]], object),
        "q": [np.ones(2), np.zeros((1, 1), bool)],
        "": np.array(3),
    }
    write_arrays(tmp_path / "x", arrays)
    found = read_arrays(tmp_path / "x")
    assert list(found) == list(arrays)
    for name, value in arrays.items():
        for old, new in zip(
            value if name == "q" else [value], found[name] if name == "q" else [found[name]], strict=True
        ):
            assert (new.dtype, new.shape, new.tolist()) == (old.dtype, old.shape, old.tolist())


def _array(value: Any) -> Any:
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


@pytest.mark.slow
def test_agrees_with_the_backend_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX's own expected outputs for a few operators; collecting the suite is what takes long."""
    # The suite may be stamped with an opset that ONNX Runtime does not call final yet.
    monkeypatch.setenv("ALLOW_RELEASED_ONNX_OPSET_ONLY", "0")
    cases = {case.name: case for case in collect_testcases(None) if case.name in BACKEND_TESTS}
    assert sorted(cases) == sorted(BACKEND_TESTS)
    engines = []
    for name, case in cases.items():
        names = [value.name for value in case.model.graph.input]
        for inputs, outputs in case.data_sets:
            feeds = dict(zip(names, map(_array, inputs), strict=True))
            found = run_reference(case.model, feeds, isolate=False)
            engines.append(found.engine.split()[0])
            assert compare(dict(zip(found, map(_array, outputs), strict=True)), found).ok, name
    assert engines.count("ONNX") >= len(cases) // 2  # the others are newer than ONNX Runtime
