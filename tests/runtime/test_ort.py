"""Sessions of ONNX Runtime: feeds are checked, fallbacks are told, errors are ours, all types run."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

from graphopt.errors import ArtifactError, FeedError, ModelError, PolicyError, UnsupportedError
from graphopt.runtime.devices import cuda_device_count
from graphopt.runtime.feeds import check_feeds
from graphopt.runtime.ort import PLAN_SCHEMA, OrtSession

no_gpu = pytest.mark.skipif(cuda_device_count() > 0, reason="describes a machine without a GPU")
AFFINE = "g (float[N, 3] x, float[N, 1] b) => (float[N, 3] y) { y = Add(x, b) }"


def model_bytes(text: str, opset: int = 19) -> bytes:
    header = f'<ir_version: 10, opset_import: ["" : {opset}]>\n'
    return onnx.parser.parse_model(header + text).SerializeToString()


def affine() -> OrtSession:
    return OrtSession(model_bytes(AFFINE))


def test_outputs_come_by_name() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    session = affine()
    np.testing.assert_array_equal(session.run({"x": x, "b": [[1], [2.5]]})["y"], x + np.array([[1], [2.5]]))
    assert session.providers == ["CPUExecutionProvider"]
    assert session.fallbacks == []
    assert session.output_names == ["y"]


GOOD: dict[str, Any] = {"x": np.zeros((2, 3), np.float32), "b": np.zeros((2, 1), np.float32)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((2, 3))}, "found float64, expected float32"),
        ({"x": np.zeros((2, 3), ">f4")}, "found >f4, expected float32"),
        ({"x": np.zeros((2, 3), np.int32)}, "found int32, expected float32"),
        ({"x": np.zeros(3, np.float32)}, "wrong rank: found 1 [3], expected 2 [N, 3]"),
        ({"x": np.zeros((2, 4), np.float32)}, "found [2, 4], expected [N, 3] (axis 1)"),
        ({"b": np.zeros((5, 1), np.float32)}, "found N=5 on axis 0, expected 2 as in 'x'"),
        ({"bb": 1.0}, "'bb' is not an input: did you mean 'b'?"),
        ({"x": [[True, False, True]] * 2}, "found a Python bool"),
        ({"x": [[1, 2], [3]]}, "cannot be read as an array"),
        ({"x": [[1e300] * 3] * 2}, "out of the range of float32"),
        ({"x": "text"}, "wrong type"),
    ],
)
def test_a_feed_that_does_not_fit_says_how(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FeedError) as caught:
        affine().run({**GOOD, **change})
    assert caught.value.code == "GO603"
    assert message in str(caught.value)


def test_everything_wrong_is_listed_at_once() -> None:
    with pytest.raises(FeedError) as caught:
        affine().run({"y": 1.0, "x": np.zeros(3, np.float32)})
    text = str(caught.value)
    assert "3 feeds do not fit" in text
    assert "'b' is missing" in text
    assert "'y' is not an input" in text
    assert "wrong rank" in text


@pytest.mark.parametrize(
    ("dtype", "value", "fits"),
    [
        ("int64", 3, True),
        ("int8", 127, True),
        ("int8", 128, False),
        ("uint8", -1, False),
        ("int64", 1.0, False),
        ("float32", 3, True),
        ("bfloat16", 0.1, True),
        ("float16", 1e5, False),
        ("bool", True, True),
        ("bool", 1, False),
        ("int64", [], True),
        ("int64", np.int64(3), True),
        ("int64", np.int32(3), False),
        ("int64", 2**70, False),
        ("string", ["a", "b"], True),
        ("string", ["a", 3], True),  # numpy itself makes this an array of two strings
        ("string", np.array(["a", 3], object), False),
        ("string", b"a", False),
        ("complex64", 1j, True),
        ("float32", 1j, False),
    ],
)
def test_python_values_take_the_declared_type_only_without_loss(dtype: str, value: Any, fits: bool) -> None:
    specs = [("x", dtype, None)]
    if not fits:
        with pytest.raises(FeedError):
            check_feeds(specs, {"x": value})
        return
    array = check_feeds(specs, {"x": value})["x"]
    assert array.dtype == (np.dtype(object) if dtype == "string" else np.dtype(dtype))
    assert array.shape == np.asarray(value).shape


def test_anonymous_dimensions_are_independent() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 19]> g (float[A] x, float[B] z) => (float[C] y) '
        "{ y = Concat<axis=0>(x, z) }"
    )
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].ClearField("dim_param")
    found = OrtSession(model.SerializeToString()).run(
        {"x": np.zeros(2, np.float32), "z": np.ones(3, np.float32)}
    )
    assert found["y"].tolist() == [0, 0, 1, 1, 1]


def test_an_initializer_that_may_be_overridden_is_optional() -> None:
    session = OrtSession(
        model_bytes("g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1.0, 2.0}> { y = Add(x, w) }")
    )
    x = np.zeros(2, np.float32)
    assert session.run({"x": x})["y"].tolist() == [1, 2]
    assert session.run({"x": x, "w": np.full(2, 5, np.float32)})["y"].tolist() == [5, 5]


@pytest.mark.parametrize(
    ("onnx_type", "dtype", "number"),
    [
        ("bfloat16", ml_dtypes.bfloat16, 16),
        ("float8e4m3fn", ml_dtypes.float8_e4m3fn, 17),
        ("float8e5m2", ml_dtypes.float8_e5m2, 19),
    ],
)
def test_types_without_a_numpy_form_in_onnxruntime_round_trip(
    onnx_type: str, dtype: Any, number: int
) -> None:
    session = OrtSession(
        model_bytes(
            f"g ({onnx_type}[N, 2] x) => (float[N, 2] y, {onnx_type}[N, 2] z) "
            f"{{ y = Cast<to = 1>(x)  z = Cast<to = {number}>(y) }}"
        )
    )
    x = np.array([[0.5, -2.0], [1.5, 3.0]]).astype(dtype)
    found = session.run({"x": x.T})  # not contiguous
    np.testing.assert_array_equal(found["y"], x.T.astype(np.float32))
    assert found["z"].dtype == dtype
    np.testing.assert_array_equal(found["z"].view(np.uint8), np.array(x.T, order="C").view(np.uint8))
    assert session.run({"x": np.zeros((0, 2), dtype)})["z"].shape == (0, 2)


def test_strings_and_sequences() -> None:
    session = OrtSession(model_bytes("g (string[N] x) => (string[N] y) { y = Identity(x) }"))
    assert session.run({"x": np.array(["ab", "c"])})["y"].tolist() == ["ab", "c"]
    session = OrtSession(model_bytes("g (float[N] x) => (seq(float[N]) y) { y = SequenceConstruct(x, x) }"))
    assert [a.tolist() for a in session.run({"x": np.ones(1, np.float32)})["y"]] == [[1], [1]]
    with pytest.raises(UnsupportedError, match="GO202"):
        OrtSession(model_bytes("g (seq(float[N]) x) => (float[M] y) { y = ConcatFromSequence<axis=0>(x) }"))


def test_a_failing_run_is_one_line() -> None:
    session = OrtSession(model_bytes("g (float[N] x, float[M] z) => (float[K] y) { y = Add(x, z) }"))
    with pytest.raises(ModelError) as caught:
        session.run({"x": np.zeros(2, np.float32), "z": np.zeros(3, np.float32)})
    assert caught.value.code == "GO604"
    assert "\n" not in str(caught.value)
    assert "Add" in str(caught.value)


@pytest.mark.parametrize("model", [b"no model", b""])
def test_what_is_no_model_is_refused(model: bytes) -> None:
    with pytest.raises(ModelError) as caught:
        OrtSession(model)
    assert caught.value.code == "GO604"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="GO604"):
        OrtSession(tmp_path / "none.onnx")


def plan(**changes: Any) -> dict[str, Any]:
    providers = [["CUDAExecutionProvider", {"device_id": "0"}], ["CPUExecutionProvider", {}]]
    return {"schema": PLAN_SCHEMA, "providers": providers, "session_options": {}, **changes}


@no_gpu
def test_without_a_gpu_the_fallback_is_told_and_the_screen_stays_clean(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(model_bytes(AFFINE))
    wanted = [("TensorrtExecutionProvider", {}), "CUDAExecutionProvider", "NoProvider"]
    script = (
        "import sys, numpy as np; from graphopt.runtime.ort import OrtSession\n"
        f"s = OrtSession(sys.argv[1], {wanted})\n"
        "s.run({'x': np.zeros((2, 3), np.float32), 'b': np.zeros((2, 1), np.float32)})\n"
        "assert s.providers == ['CPUExecutionProvider'], s.providers\n"
        "assert len(s.fallbacks) == 3 and all(': ' in f for f in s.fallbacks), s.fallbacks\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "m.onnx")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@no_gpu
def test_strict_refuses_a_fallback() -> None:
    with pytest.raises(PolicyError) as caught:
        OrtSession(model_bytes(AFFINE), plan(), strict=True)
    assert caught.value.code == "GO501"
    assert "CUDAExecutionProvider" in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "graphopt.report/1"},
        {"providers": [["TensorrtExecutionProvider", {"trt_extra_plugin_lib_paths": "evil.so"}]]},
        {"providers": [["TensorrtExecutionProvider", {"trt_engine_cache_path": "../elsewhere"}]]},
        {"providers": [["TensorrtExecutionProvider", {"trt_engine_cache_path": "/tmp"}]]},
        {"session_options": {"config_entries": {"session.load_model_format": "ORT"}}},
    ],
)
def test_a_plan_sets_only_what_graphopt_sets(changes: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError) as caught:
        OrtSession(model_bytes(AFFINE), plan(**changes))
    assert caught.value.code == "GO602"


def test_threads_share_a_session() -> None:
    session = affine()

    def run(i: int) -> bool:
        x = np.full((i + 1, 3), i, np.float32)
        return bool((session.run({"x": x, "b": np.ones((i + 1, 1), np.float32)})["y"] == i + 1).all())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(64)))


def test_assignment_says_where_nodes_went() -> None:
    session = OrtSession(model_bytes(AFFINE), record_assignment=True)
    assert set(session.assignment().values()) == {"CPUExecutionProvider"}


def test_device_count_agrees_with_the_driver() -> None:
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        assert cuda_device_count() == 0
        return
    count = ctypes.c_int()
    assert cuda_device_count() == (
        count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0
    )
