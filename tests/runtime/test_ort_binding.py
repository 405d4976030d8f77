"""Runs with buffers that stay: the same answers, kept by who asked for them, also for many threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx.parser
import pytest

from graphopt.errors import FeedError, UnsupportedError
from graphopt.runtime.ort import OrtSession
from graphopt.runtime.tensorrt_cache import engine_folder


def session(text: str) -> OrtSession:
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> {text}')
    return OrtSession(model.SerializeToString())


FIXED = "g (float[2, 3] x, int64[2] i) => (float[2, 3] y, int64[2] j) { y = Exp(x) j = Neg(i) }"


def feeds(seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {"x": draw.standard_normal((2, 3)).astype(np.float32), "i": draw.integers(0, 9, 2)}


def test_results_are_those_of_a_plain_run_and_stay() -> None:
    plain = session(FIXED)
    bound = plain.bind()
    first, second = feeds(0), feeds(1)
    kept = bound.run(first)
    bound.run(second)
    for found, (name, expected) in zip(kept, plain.run(first).items(), strict=True):
        np.testing.assert_array_equal(found, expected, name)


def test_threads_may_share_a_binding() -> None:
    bound = session(FIXED).bind()

    def right(seed: int) -> bool:
        fed = feeds(seed)
        y, j = bound.run({"x": np.asfortranarray(fed["x"]), "i": fed["i"]})
        return np.allclose(y, np.exp(fed["x"]), rtol=1e-6) and bool((j == -fed["i"]).all())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(right, range(200)))


@pytest.mark.parametrize(
    "text",
    [
        "g (float[N] x) => (float[N] y) { y = Exp(x) }",
        "g (string[2] x) => (string[2] y) { y = Identity(x) }",
        "g (float[4] x) => (int64[1, N] y) { y = NonZero(x) }",
    ],
)
def test_what_has_no_buffer_of_a_fixed_size_is_refused(text: str) -> None:
    with pytest.raises(UnsupportedError, match="GO202"):
        session(text).bind()


def test_a_session_that_captures_checks_its_feeds(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = session(FIXED)
    monkeypatch.setattr(bound, "_binding", bound.bind())
    np.testing.assert_array_equal(bound.run(feeds(3))["j"], -feeds(3)["i"])
    with pytest.raises(FeedError):
        bound.run({"x": np.zeros((2, 2), np.float32), "i": np.zeros(2, np.int64)})


# --- TensorRT's engines ------------------------------------------------------------------------------------


def test_engines_are_kept_by_what_they_are_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE_DIR", str(tmp_path / "cache"))
    model = tmp_path / "model.onnx"
    model.write_bytes(b"one")
    base = engine_folder(model, {"trt_fp16_enable": "False"}, ("A",))
    assert base.is_dir()
    assert (tmp_path / "cache") in base.parents
    assert engine_folder(model, {"trt_fp16_enable": "False"}, ("A",)) == base
    assert engine_folder(b"one", {"trt_fp16_enable": "False"}, ("A",)) == base
    others = {
        engine_folder(model, {"trt_fp16_enable": "True"}, ("A",)),
        engine_folder(model, {"trt_fp16_enable": "False"}, ("B",)),
        engine_folder(b"two", {"trt_fp16_enable": "False"}, ("A",)),
    }
    (tmp_path / "model.onnx.data").write_bytes(b"weights")
    others.add(engine_folder(model, {"trt_fp16_enable": "False"}, ("A",)))
    monkeypatch.setattr("graphopt.runtime.tensorrt_cache.onnxruntime_version", lambda: (9, 9))
    others.add(engine_folder(b"one", {"trt_fp16_enable": "False"}, ("A",)))
    assert len(others | {base}) == 6
