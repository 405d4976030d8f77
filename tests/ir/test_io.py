"""Reading and writing models: every kind of source, external data, atomic and faithful saves."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from checking import run_onnxruntime
from onnx import TensorProto, helper, numpy_helper

from graphopt.errors import ModelError, OutputError
from graphopt.ir import LazyTensor, Model, TensorType, text
from graphopt.ir.check import check_model
from graphopt.ir.external import MappedTensor, TransposedTensor
from graphopt.ir.io import load, read, save

TEXT = """<ir_version: 10, opset_import: ["" : 18]>
g (float[N, 4] x) => (float[N, 4] y) <float[4] w = {1.0, 2.0, 3.0, 4.0}> {
    a = Mul(x, w)
    y = Relu(a)
}"""


def weighted(elements: int = 4096, seed: int = 0) -> onnx.ModelProto:
    """A model whose output is x + w."""
    weight = np.random.default_rng(seed).standard_normal(elements).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"], "add")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [elements])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [elements])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def weight_of(model: Model) -> np.ndarray:
    tensor = model.graph.initializers["w"].const_value
    assert tensor is not None
    return tensor.numpy()


def written_externally(folder: Path, name: str = "m.onnx", seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save(load(weighted(seed=seed)), folder / name, external_data=True)
    return folder / name


def test_every_kind_of_source_gives_the_same_model(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(TEXT)
    onnx.save(proto, tmp_path / "a.onnx")
    (tmp_path / "a.onnxtxt").write_text(TEXT)
    (tmp_path / "a.txt").write_text(TEXT)
    onnx.save(proto, tmp_path / "a.textproto", format="textproto")
    onnx.save(proto, tmp_path / "a.json", format="json")
    sources = [
        proto,
        proto.SerializeToString(),
        TEXT,
        onnx_ir.from_proto(proto),
        tmp_path,
        *(tmp_path / f"a.{suffix}" for suffix in ("onnx", "onnxtxt", "txt", "textproto", "json")),
        str(tmp_path / "a.onnx"),
    ]
    expected = text.canonical(load(TEXT))
    for source in sources:
        assert text.canonical(load(source)) == expected, source
        check_model(load(source))


def test_folder_with_several_models_needs_one_called_model(tmp_path: Path) -> None:
    onnx.save(weighted(), tmp_path / "a.onnx")
    onnx.save(weighted(), tmp_path / "b.onnx")
    with pytest.raises(ModelError, match="exactly one model") as caught:
        load(tmp_path)
    assert caught.value.found == "a.onnx, b.onnx"
    onnx.save(weighted(8), tmp_path / "model.onnx")
    assert load(tmp_path).graph.inputs[0].shape == [8]


@pytest.mark.parametrize("kind", ["proto", "model"])
def test_source_in_memory_is_never_changed(kind: str) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 13]>
        g (float[2] x) => (float[2] z) {
            z = Relu(y)
            y = ai.onnx.Add(x, c)
            c = Constant <value = float[2] {1.0, 2.0}> ()
        }"""
    )
    before = proto.SerializeToString(deterministic=True)
    if kind == "proto":
        load(proto)
        assert proto.SerializeToString(deterministic=True) == before
        return
    model = read(proto)
    written = onnx_ir.to_proto(model).SerializeToString(deterministic=True)
    loaded = load(model)
    assert loaded is not model
    assert onnx_ir.to_proto(model).SerializeToString(deterministic=True) == written


def test_read_keeps_the_model_as_it_was_written() -> None:
    model = read(
        """<ir_version: 8, opset_import: ["" : 13]>
        g (float[2] x) => (float[2] y) { c = Constant <value = float {1.0}> () y = Add(x, c) }"""
    )
    assert [n.op_type for n in model.graph] == ["Constant", "Add"]
    assert model.opset_imports == {"": 13}


def test_round_trip_keeps_answers_and_bytes(tmp_path: Path) -> None:
    model = load(weighted())
    save(model, tmp_path / "a.onnx")
    save(model, tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    again = load(tmp_path / "a.onnx")
    save(again, tmp_path / "c.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "c.onnx").read_bytes()
    feeds = {"x": np.ones(4096, np.float32)}
    np.testing.assert_array_equal(run_onnxruntime(again, feeds)["y"], run_onnxruntime(weighted(), feeds)["y"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "b.onnx", "c.onnx"]


@pytest.mark.parametrize("suffix", ["onnxtxt", "textproto", "json"])
def test_text_forms_are_written_and_read(tmp_path: Path, suffix: str) -> None:
    model = load(TEXT)
    save(model, tmp_path / f"a.{suffix}")
    assert text.structurally_equal(load(tmp_path / f"a.{suffix}"), model)


def test_external_data_is_mapped_and_understood_by_onnx_runtime(tmp_path: Path) -> None:
    import onnxruntime

    path = written_externally(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert path.stat().st_size < 2000
    assert isinstance(load(path).graph.initializers["w"].const_value, MappedTensor)
    np.testing.assert_array_equal(weight_of(load(path)), weight_of(load(weighted())))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"x": np.zeros(4096, np.float32)})
    np.testing.assert_array_equal(result, weight_of(load(weighted())))
    onnx.checker.check_model(str(path), full_check=True)


def test_external_data_is_written_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphopt.ir.save.EXTERNAL_ABOVE_BYTES", 1000)
    save(load(weighted()), tmp_path / "big.onnx")
    save(load(weighted(8)), tmp_path / "small.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["big.onnx", "big.onnx.data", "small.onnx"]


@pytest.mark.parametrize("external", [True, False])
def test_saving_elsewhere_copies_the_weights(tmp_path: Path, external: bool) -> None:
    source = written_externally(tmp_path / "from")
    model = load(source)
    (tmp_path / "to").mkdir()
    save(model, tmp_path / "to" / "n.onnx", external_data=external)
    for file in (tmp_path / "from").iterdir():
        file.unlink()
    np.testing.assert_array_equal(weight_of(load(tmp_path / "to" / "n.onnx")), weight_of(load(weighted())))
    # The first model's map outlives its file.
    np.testing.assert_array_equal(weight_of(model), weight_of(load(weighted())))


def test_model_is_saved_over_the_files_it_is_mapped_from(tmp_path: Path) -> None:
    path = written_externally(tmp_path)
    expected = weight_of(load(weighted()))
    model = load(path)
    # A second tensor in front moves the old one to another offset.
    extra = onnx_ir.tensor(np.full(5000, 7, np.float32), name="aaa")
    value = onnx_ir.Value(name="aaa", type=TensorType(extra.dtype), shape=extra.shape, const_value=extra)
    old = model.graph.initializers.pop("w")
    model.graph.register_initializer(value)
    model.graph.register_initializer(old)
    for _ in range(3):
        save(model, path, external_data=True)
        np.testing.assert_array_equal(weight_of(model), expected)
        np.testing.assert_array_equal(weight_of(load(path)), expected)
    save(model, path, external_data=False)
    np.testing.assert_array_equal(weight_of(load(path)), expected)


@pytest.mark.parametrize("streamed", [False, True])
def test_weights_of_every_type_survive_external_data(
    tmp_path: Path, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if streamed:
        monkeypatch.setattr("graphopt.ir.save.STREAMED_ABOVE_BYTES", 0)
    types = [
        t
        for t in TensorProto.DataType.values()
        if t not in (TensorProto.UNDEFINED, TensorProto.STRING) and not _is_six_bits(t)
    ]
    tensors = []
    for dtype in types:
        name = TensorProto.DataType.Name(dtype)
        values = np.arange(4096) % 2
        tensors.append(helper.make_tensor(name, dtype, [4096], values.tolist()))
    tensors.append(helper.make_tensor("STRING", TensorProto.STRING, [2], [b"a", b"b"]))
    tensors.append(numpy_helper.from_array(np.zeros((0, 4096), np.float32), "EMPTY"))
    outputs = [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tensors]
    graph = helper.make_graph([], "g", [], outputs, tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=13)
    save(load(proto), tmp_path / "m.onnx", external_data=True)
    loaded = load(tmp_path / "m.onnx")
    save(loaded, tmp_path / "inline.onnx", external_data=False)
    inline = load(tmp_path / "inline.onnx")
    mapped = 0
    for tensor in tensors:
        found = loaded.graph.initializers[tensor.name].const_value
        assert found is not None
        expected = onnx_ir.serde.deserialize_tensor(tensor)
        np.testing.assert_array_equal(found.numpy(), expected.numpy(), err_msg=tensor.name)
        copied = inline.graph.initializers[tensor.name].const_value
        assert copied is not None
        np.testing.assert_array_equal(copied.numpy(), expected.numpy(), err_msg=tensor.name)
        mapped += isinstance(found, MappedTensor)
    assert mapped == len([t for t in types if onnx_ir.DataType(t).bitwidth >= 2])


def _is_six_bits(dtype: int) -> bool:
    return onnx_ir.DataType(dtype).bitwidth == 6


def test_external_data_of_attributes_and_subgraphs_is_found_and_copied(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 18]>
        g (bool b, float[600] x) => (float[600] y) {
            y = If (b) <
                then_branch = t () => (float[600] p) <float[600] v> { p = Add(x, v) },
                else_branch = e () => (float[600] q) {
                    c = Constant <value = float[1] {0.0}> () q = Add(x, c) }
            >
        }"""
    )
    weight = np.arange(600, dtype=np.float32)
    branch = proto.graph.node[0].attribute[0].g
    del branch.initializer[:]
    branch.initializer.append(numpy_helper.from_array(weight, "v"))
    constant = proto.graph.node[0].attribute[1].g.node[0].attribute[0]
    constant.t.CopyFrom(numpy_helper.from_array(weight * 2, "c"))
    onnx.save(
        proto,
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="d.bin",
        size_threshold=0,
        convert_attribute=True,
    )
    (tmp_path / "to").mkdir()
    save(read(tmp_path / "m.onnx"), tmp_path / "to" / "n.onnx", external_data=False)
    (tmp_path / "d.bin").unlink()
    model = load(tmp_path / "to" / "n.onnx")
    for condition, expected in ((True, weight), (False, weight * 2)):
        feeds = {"b": np.array(condition), "x": np.zeros(600, np.float32)}
        np.testing.assert_array_equal(run_onnxruntime(model, feeds)["y"], expected)


def test_lazy_weights_are_evaluated_one_at_a_time(tmp_path: Path) -> None:
    alive: list[int] = []
    model = load(weighted(4096))
    for index in range(4):

        def make(index: int = index) -> onnx_ir.TensorProtocol:
            alive.append(index)
            return onnx_ir.tensor(np.full(4096, index, np.float32))

        lazy = LazyTensor(
            make, dtype=onnx_ir.DataType.FLOAT, shape=onnx_ir.Shape([4096]), name=f"l{index}", cache=False
        )
        model.graph.register_initializer(
            onnx_ir.Value(name=f"l{index}", type=TensorType(lazy.dtype), shape=lazy.shape, const_value=lazy)
        )
    save(model, tmp_path / "m.onnx", external_data=True)
    assert alive == [0, 1, 2, 3]
    loaded = load(tmp_path / "m.onnx")
    for index in range(4):
        tensor = loaded.graph.initializers[f"l{index}"].const_value
        assert tensor is not None
        assert set(tensor.numpy().tolist()) == {float(index)}


def test_a_single_file_is_written_without_its_weights_in_memory_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proto = weighted(4096)
    proto.metadata_props.add(key="who", value="me")
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    model = load(proto)
    turned = TransposedTensor(onnx_ir.tensor(matrix))
    model.graph.register_initializer(
        onnx_ir.Value(name="t", type=TensorType(turned.dtype), shape=turned.shape, const_value=turned)
    )
    save(model, tmp_path / "whole.onnx")
    monkeypatch.setattr("graphopt.ir.save.STREAMED_ABOVE_BYTES", 0)
    monkeypatch.setattr("graphopt.ir.external.CHUNK_BYTES", 8)
    save(model, tmp_path / "streamed.onnx")
    whole, streamed = (onnx.load(tmp_path / f"{name}.onnx") for name in ("whole", "streamed"))
    assert streamed == whole
    np.testing.assert_array_equal(numpy_helper.to_array(streamed.graph.initializer[1]), matrix.T)
    with pytest.raises(OutputError):
        save(model, tmp_path / "missing" / "m.onnx")


def sparse_model(folder: Path, elements: int) -> Path:
    """A model over a sparse data file of `elements` floats."""
    with open(folder / "w.data", "wb") as file:
        file.truncate(elements * 4)
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[elements], data_location=1)
    tensor.external_data.add(key="location", value="w.data")
    proto = weighted(4)
    proto.graph.initializer[0].CopyFrom(tensor)
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [elements]))
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    return folder / "m.onnx"


def test_three_gigabytes_of_weights_are_not_read(tmp_path: Path) -> None:
    path = sparse_model(tmp_path, 3 * 2**28)
    load(weighted())  # whatever is imported on first use
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = load(path)
    assert weight_of(model)[-1] == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_large_weights_cannot_be_put_into_one_file(tmp_path: Path) -> None:
    model = load(sparse_model(tmp_path, 3 * 2**28))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(OutputError, match="external_data=True") as caught:
        save(model, tmp_path / "n.onnx", external_data=False)
    assert caught.value.code == "GO111"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "w.data"]


@pytest.mark.parametrize(
    ("external", "failing"),
    [
        (True, "os.replace"),
        (True, "second os.replace"),
        (True, "os.fsync"),
        (False, "os.replace"),
        (False, "os.fsync"),
    ],
)
def test_failed_save_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: bool, failing: str
) -> None:
    path = written_externally(tmp_path) if external else tmp_path / "m.onnx"
    if not external:
        save(load(weighted()), path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    calls = []
    real = os.replace

    def fail(*arguments: object) -> None:
        calls.append(arguments)
        if failing.startswith("second") and len(calls) != 2:
            real(*arguments)  # type: ignore[arg-type]
            return
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(failing.removeprefix("second "), fail)
    with pytest.raises(OutputError, match="No space left") as caught:
        save(load(weighted(seed=1)), path, external_data=external)
    assert caught.value.code == "GO111"
    monkeypatch.undo()
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_interrupted_weight_leaves_what_was_there(tmp_path: Path) -> None:
    path = written_externally(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    model = load(weighted(seed=1))

    def interrupt() -> onnx_ir.TensorProtocol:
        raise KeyboardInterrupt

    lazy = LazyTensor(
        interrupt, dtype=onnx_ir.DataType.FLOAT, shape=onnx_ir.Shape([4096]), name="l", cache=False
    )
    model.graph.register_initializer(
        onnx_ir.Value(name="l", type=TensorType(lazy.dtype), shape=lazy.shape, const_value=lazy)
    )
    with pytest.raises(KeyboardInterrupt):
        save(model, path, external_data=True)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_killed_save_leaves_what_was_there(tmp_path: Path) -> None:
    path = written_externally(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    program = """
import os, signal, sys
import onnx_ir
from graphopt.ir import LazyTensor, Shape, TensorType, Value
from graphopt.ir.io import load, save

model = load(sys.argv[1])
lazy = LazyTensor(
    lambda: os.kill(os.getpid(), signal.SIGKILL), dtype=onnx_ir.DataType.FLOAT, shape=Shape([4096]), name="z"
)
value = Value(name="z", type=TensorType(lazy.dtype), shape=lazy.shape, const_value=lazy)
model.graph.register_initializer(value)
save(model, sys.argv[1], external_data=True)
"""
    killed = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    left = {p.name: p.read_bytes() for p in tmp_path.iterdir() if not p.name.startswith(".")}
    assert left == before
    load(path)


def test_unwritable_places_are_named(tmp_path: Path) -> None:
    model = load(TEXT)
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    for place in (
        tmp_path / "none" / "m.onnx",
        tmp_path,
        tmp_path / "file" / "m.onnx",
        tmp_path / "pipe",
        tmp_path / ("n" * 300),
        Path("/proc/m.onnx"),
        "nul\0.onnx",
    ):
        with pytest.raises(OutputError) as caught:
            save(model, place)
        assert caught.value.code == "GO111"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "pipe"]


def test_saving_follows_links_and_keeps_permissions(tmp_path: Path) -> None:
    save(load(TEXT), tmp_path / "real.onnx")
    os.chmod(tmp_path / "real.onnx", 0o640)
    (tmp_path / "link.onnx").symlink_to("real.onnx")
    save(load(weighted(8)), tmp_path / "link.onnx")
    assert (tmp_path / "link.onnx").is_symlink()
    assert load(tmp_path / "real.onnx").graph.inputs[0].shape == [8]
    assert stat.S_IMODE((tmp_path / "real.onnx").stat().st_mode) == 0o640


def test_hub_cache_of_links_is_read(tmp_path: Path) -> None:
    """A download cache keeps files by their hash, and a folder of links that have their names."""
    written_externally(tmp_path / "blobs")
    (tmp_path / "snapshot").mkdir()
    for name in ("m.onnx", "m.onnx.data"):
        (tmp_path / "blobs" / name).rename(tmp_path / "blobs" / name[::-1])
        (tmp_path / "snapshot" / name).symlink_to(tmp_path / "blobs" / name[::-1])
    expected = weight_of(load(weighted()))
    np.testing.assert_array_equal(weight_of(load(tmp_path / "snapshot" / "m.onnx")), expected)


def test_what_onnx_records_beside_the_graph_survives(tmp_path: Path) -> None:
    proto = weighted()
    proto.doc_string, proto.producer_name, proto.model_version, proto.domain = "doc", "me", 7, "org.x"
    helper.set_model_props(proto, {"k": "v", "a": json.dumps({"\u2028": "\x07"})})
    proto.graph.doc_string = "graph doc"
    proto.graph.node[0].doc_string = "node doc"
    proto.graph.node[0].metadata_props.add(key="pkg.torch.onnx.name_scopes", value="layer")
    proto.graph.input[0].doc_string = "input doc"
    proto.graph.input[0].type.denotation = "IMAGE"
    annotation = proto.graph.quantization_annotation.add(tensor_name="x")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="w")
    proto.graph.initializer[0].doc_string = "weight doc"
    proto.graph.initializer[0].metadata_props.add(key="k", value="v")
    save(load(proto), tmp_path / "m.onnx", external_data=True)
    save(load(tmp_path / "m.onnx"), tmp_path / "m.onnx", external_data=False)
    again = onnx.load(tmp_path / "m.onnx")
    assert again.graph.initializer[0].doc_string == "weight doc"
    assert again.graph.initializer[0].metadata_props == proto.graph.initializer[0].metadata_props
    for field in ("doc_string", "producer_name", "model_version", "domain", "metadata_props"):
        assert (
            sorted(map(str, getattr(again, field))) == sorted(map(str, getattr(proto, field)))
            if (field == "metadata_props")
            else getattr(again, field) == getattr(proto, field)
        )
    assert again.graph.doc_string == "graph doc"
    assert again.graph.node[0].doc_string == "node doc"
    assert "layer" in {p.value for p in again.graph.node[0].metadata_props}
    assert again.graph.input[0].doc_string == "input doc"
    assert again.graph.input[0].type.denotation == "IMAGE"
    assert again.graph.quantization_annotation == proto.graph.quantization_annotation
