"""Hostile and broken models: every one ends in a GraphoptError that says where, soon and in little memory."""

from __future__ import annotations

import io
import os
import pickle
import random
import resource
import socket
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import Message
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from graphopt.errors import GraphoptError, ModelError, UnsupportedError
from graphopt.ir.check import check_model
from graphopt.ir.io import load, read

SECONDS = 20.0
MEGABYTES = 400

Case = Callable[[], Any]
CASES: dict[str, tuple[str, str, Case]] = {}


def case(code: str, says: str) -> Callable[[Case], Case]:
    """Register a function that builds a model which must be refused with `code` and a text with `says`."""

    def register(build: Case) -> Case:
        assert build.__name__ not in CASES
        CASES[build.__name__] = (code, says, build)
        return build

    return register


def valid() -> onnx.ModelProto:
    """y = Relu(x + w), in two nodes; what the cases break."""
    return onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 18]>
        g (float[N, 4] x) => (float[N, 4] y) <float[4] w = {1.0, 2.0, 3.0, 4.0}> {
            [first] a = Add(x, w)
            [second] y = Relu(a)
        }"""
    )


def broken(change: Callable[[onnx.ModelProto], Any]) -> onnx.ModelProto:
    model = valid()
    change(model)
    return model


def body(text: str, opset: int = 18) -> str:
    return f'<ir_version: 10, opset_import: ["" : {opset}, "my" : 1]>\n{text}'


def raises(source: Any, code: str, says: str) -> GraphoptError:
    """`source` is refused as it should be, in bounded time and memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    with pytest.raises(GraphoptError) as caught:
        load(source)
    assert time.monotonic() - start < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEGABYTES * 1024
    error = caught.value
    assert isinstance(error, (ModelError, UnsupportedError))
    assert error.code == code, str(error)
    assert says.lower() in str(error).lower()
    assert error.where or error.found or error.next_step
    assert len(str(error)) < 5000
    return error


# Files that are something else.


@case("GO103", "empty")
def empty_bytes() -> bytes:
    return b""


@case("GO102", "plain text")
def plain_text() -> bytes:
    return b"hello, this is not a model\n" * 10


@case("GO102", "PNG")
def png() -> bytes:
    return b"\x89PNG\r\n\x1a\n" + bytes(64)


@case("GO102", "HTML")
def html_page() -> bytes:
    return b"\n<!DOCTYPE html><html><body>404</body></html>"


@case("GO102", "git lfs pull")
def lfs_pointer() -> bytes:
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 17\n"


@case("GO102", "Export the model to ONNX")
def torch_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02.")
    return buffer.getvalue()


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.abort, ())


@case("GO102", "pickle")
def python_pickle() -> bytes:
    return pickle.dumps(_Bomb())


@case("GO102", "safetensors")
def safetensors_file() -> bytes:
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    return len(header).to_bytes(8, "little") + header + bytes(4)


@case("GO102", "TensorFlow Lite")
def tflite() -> bytes:
    return b"\x1c\x00\x00\x00TFL3" + bytes(40)


@case("GO102", "ONNX Runtime's own format")
def ort_format() -> bytes:
    return b"\x1c\x00\x00\x00ORTM" + bytes(40)


@case("GO102", "not an ONNX model")
def random_bytes() -> bytes:
    return random.Random(3).randbytes(4096)


@case("GO102", "graph")
def other_protobuf() -> bytes:
    return helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0]).SerializeToString()


@case("GO103", "cut off")
def truncated() -> bytes:
    return valid().SerializeToString()[:-20]


@case("GO102", "parsed")
def text_with_an_error() -> str:
    return body("g (float[2] x) => (float[2] y) { y = Relu(x }")


@case("GO102", "parsed")
def text_with_a_huge_number() -> str:
    return body("g (float[99999999999999999999999] x) => (float y) { y = Relu(x) }")


@case("GO102", "parsed")
def text_with_a_surrogate() -> str:
    return body("g (float[2] x) => (float[2] y) { y = Relu(\ud800) }")


@case("GO108", "nested")
def text_nested_deeply() -> str:
    return body("g (" + "seq(" * 100_000 + "float" + ")" * 100_000 + " x) => (float y) { y = Relu(x) }")


@case("GO101", "not something")
def wrong_kind_of_source() -> int:
    return 3


# Headers.


@case("GO102", "IR version")
def no_ir_version() -> onnx.ModelProto:
    return broken(lambda m: m.ClearField("ir_version"))


@case("GO106", "Install a newer onnx")
def ir_version_too_new() -> onnx.ModelProto:
    return broken(lambda m: setattr(m, "ir_version", 99))


@case("GO106", "IR version")
def ir_version_negative() -> onnx.ModelProto:
    return broken(lambda m: setattr(m, "ir_version", -(2**63)))


@case("GO106", "without importing")
def no_opset_import() -> onnx.ModelProto:
    return broken(lambda m: m.ClearField("opset_import"))


@case("GO106", "with opset 4611686018427387904")
def opset_too_new() -> onnx.ModelProto:
    return broken(lambda m: setattr(m.opset_import[0], "version", 2**62))


@case("GO106", "1 to")
def opset_too_old() -> onnx.ModelProto:
    return broken(lambda m: setattr(m.opset_import[0], "version", 0))


@case("GO106", "1 to")
def opset_negative() -> onnx.ModelProto:
    return broken(lambda m: setattr(m.opset_import[0], "version", -1))


@case("GO106", "two versions")
def opset_twice() -> onnx.ModelProto:
    return broken(lambda m: m.opset_import.add(domain="ai.onnx", version=13))


@case("GO112", "training")
def training_info() -> onnx.ModelProto:
    return broken(lambda m: m.training_info.add())


@case("GO103", "UTF-8")
def names_that_are_not_text() -> bytes:
    return valid().SerializeToString().replace(b"first", b"\xff\xfe\xfd\xfc\xfb")


# Names and order.


@case("GO105", "did you mean 'encoder.weight'")
def dangling_input() -> onnx.ModelProto:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].name = "encoder.weight"
        model.graph.node[0].input[1] = "encoder_weight"

    return broken(change)


@case("GO105", "defined twice")
def value_defined_twice() -> onnx.ModelProto:
    return broken(lambda m: m.graph.node.append(helper.make_node("Relu", ["x"], ["a"])))


@case("GO105", "defined twice")
def output_repeated_in_a_node() -> onnx.ModelProto:
    return broken(lambda m: m.graph.node.append(helper.make_node("Split", ["x"], ["p", "p"])))


@case("GO105", "defined twice")
def initializer_named_like_a_node_output() -> onnx.ModelProto:
    return broken(lambda m: m.graph.initializer.append(numpy_helper.from_array(np.ones(4), "a")))


@case("GO105", "two initializers")
def initializers_of_one_name() -> onnx.ModelProto:
    return broken(lambda m: m.graph.initializer.append(m.graph.initializer[0]))


@case("GO105", "no name")
def initializer_without_a_name() -> onnx.ModelProto:
    return broken(lambda m: m.graph.initializer.append(numpy_helper.from_array(np.ones(4))))


@case("GO105", "defined twice")
def input_twice() -> onnx.ModelProto:
    return broken(lambda m: m.graph.input.append(m.graph.input[0]))


@case("GO105", "listed twice")
def output_twice() -> onnx.ModelProto:
    return broken(lambda m: m.graph.output.append(m.graph.output[0]))


@case("GO105", "nothing produces")
def output_that_nothing_produces() -> onnx.ModelProto:
    return broken(lambda m: setattr(m.graph.output[0], "name", "yy"))


@case("GO105", "cycle")
def cycle() -> onnx.ModelProto:
    return broken(lambda m: m.graph.node[0].input.__setitem__(0, "y"))


@case("GO105", "cycle")
def cycle_through_a_subgraph() -> str:
    return body(
        """g (bool b, float[2] x) => (float[2] y) {
            y = If (b) <then_branch = t () => (float[2] p) { p = Relu(z) },
                        else_branch = e () => (float[2] q) { q = Relu(x) }>
            z = Relu(y)
        }"""
    )


@case("GO105", "no type")
def input_without_a_type() -> onnx.ModelProto:
    return broken(lambda m: m.graph.input[0].ClearField("type"))


@case("GO105", "quantization annotation")
def annotation_of_nothing() -> onnx.ModelProto:
    return broken(lambda m: m.graph.quantization_annotation.add(tensor_name="nothing"))


# Operators.


@case("GO106", "close: Relu")
def unknown_operator() -> str:
    return body("g (float[2] x) => (float[2] y) { y = Rellu(x) }")


@case("GO106", "new in opset 20")
def operator_newer_than_the_opset() -> str:
    return body("g (float[2] x) => (float[2] y) { y = Gelu(x) }")


@case("GO106", "removed")
def operator_older_than_the_opset() -> str:
    return body("g (float[1,1,2,2] x, float[4] s) => (float[1,1,2,2] y) { y = Upsample(x, s) }")


@case("GO106", "without importing it")
def domain_without_import() -> onnx.ModelProto:
    return broken(lambda m: setattr(m.graph.node[0], "domain", "ai.onnx.ml"))


@case("GO105", "expected 2")
def too_few_inputs() -> str:
    return body("g (float[2] x) => (float[2] y) { y = Add(x) }")


@case("GO105", "expected 1")
def too_many_outputs() -> str:
    return body("g (float[2] x) => (float[2] y) { y, z = Relu(x) }")


@case("GO105", "left out")
def required_input_left_out() -> onnx.ModelProto:
    return broken(lambda m: m.graph.node[0].input.__setitem__(0, ""))


@case("GO105", "'axis' is missing")
def required_attribute_missing() -> str:
    return body("g (float[2] x) => (float[4] y) { y = Concat(x, x) }")


@case("GO105", "expected INT")
def attribute_of_wrong_type() -> str:
    return body('g (float[2] x) => (float[4] y) { y = Concat<axis = "0">(x, x) }')


@case("GO105", "did you mean 'axis'")
def unknown_attribute() -> str:
    return body("g (float[2] x) => (float[4] y) { y = Concat<axis = 0, axes = 1>(x, x) }")


@case("GO105", "there twice")
def attribute_twice() -> onnx.ModelProto:
    node = helper.make_node("Concat", ["x", "x"], ["b"], axis=0)
    node.attribute.append(node.attribute[0])
    return broken(lambda m: m.graph.node.append(node))


@case("GO105", "type that it states")
def attribute_with_another_payload() -> onnx.ModelProto:
    node = helper.make_node("Concat", ["x", "x"], ["b"], axis=0)
    node.attribute[0].type = AttributeProto.INTS
    return broken(lambda m: m.graph.node.append(node))


@case("GO105", "no known type")
def attribute_without_a_type() -> onnx.ModelProto:
    node = helper.make_node("Concat", ["x", "x"], ["b"], axis=0)
    node.attribute[0].ClearField("type")
    return broken(lambda m: m.graph.node.append(node))


@case("GO105", "outside a function")
def attribute_of_no_function() -> onnx.ModelProto:
    node = helper.make_node("Concat", ["x", "x"], ["b"])
    node.attribute.add(name="axis", ref_attr_name="p", type=AttributeProto.INT)
    return broken(lambda m: m.graph.node.append(node))


@case("GO105", "UTF-8")
def attribute_that_is_not_text() -> onnx.ModelProto:
    node = helper.make_node("DepthToSpace", ["x"], ["b"], blocksize=1, mode=b"\xff")
    return broken(lambda m: m.graph.node.append(node))


@case("GO105", "exactly one")
def constant_without_a_value() -> str:
    return body("g () => (float y) { y = Constant() }")


@case("GO105", "no operator")
def node_without_an_operator() -> onnx.ModelProto:
    return broken(lambda m: m.graph.node[0].ClearField("op_type"))


# Types.


@case("GO110", "tensor(int64)")
def inputs_of_different_types() -> str:
    return body("g (float[2] x, int64[2] z) => (float[2] y) { y = Add(x, z) }")


@case("GO110", "tensor(bool)")
def type_that_the_operator_does_not_take() -> str:
    return body("g (bool[2] x) => (bool[2] y) { y = Relu(x) }")


@case("GO110", "declared with another type")
def output_of_another_type() -> str:
    return body("g (float[2] x) => (int64[2] y) { y = Relu(x) }")


@case("GO110", "declared element type")
def passed_through_output_of_another_type() -> str:
    return body("g (float[2] x) => (int64[2] x) { }")


@case("GO110", "its initializer")
def initializer_of_another_type_than_its_input() -> onnx.ModelProto:
    return broken(lambda m: m.graph.input.append(helper.make_tensor_value_info("w", TensorProto.INT64, [4])))


@case("GO105", "unknown element type")
def input_of_an_unknown_type() -> onnx.ModelProto:
    return broken(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 77))


@case("GO112", "zipmap")
def map_type() -> onnx.ModelProto:
    def change(model: onnx.ModelProto) -> None:
        model.graph.output[0].type.sequence_type.elem_type.map_type.key_type = TensorProto.INT64

    return broken(change)


@case("GO108", "nested")
def type_nested_deeply() -> onnx.ModelProto:
    def change(model: onnx.ModelProto) -> None:
        inner = model.graph.input[0].type
        inner.Clear()
        for _ in range(1000):
            inner = inner.sequence_type.elem_type
        inner.tensor_type.elem_type = 1

    return broken(change)


# Tensors.


def with_weight(**fields: Any) -> onnx.ModelProto:
    tensor = TensorProto(**{"name": "w", "data_type": TensorProto.FLOAT, "dims": [4], **fields})
    return broken(lambda m: m.graph.initializer[0].CopyFrom(tensor))


@case("GO107", "16 bytes")
def raw_data_too_short() -> onnx.ModelProto:
    return with_weight(raw_data=bytes(15))


@case("GO107", "16 bytes")
def raw_data_too_long() -> onnx.ModelProto:
    return with_weight(raw_data=bytes(17))


@case("GO107", "4 values")
def too_few_values() -> onnx.ModelProto:
    return with_weight(float_data=[1.0])


@case("GO107", "wrong field")
def values_in_the_wrong_field() -> onnx.ModelProto:
    return with_weight(int32_data=[1, 2, 3, 4])


@case("GO107", "0 values")
def no_data_for_a_huge_shape() -> onnx.ModelProto:
    return with_weight(dims=[2**29, 2**29])


@case("GO107", "memory")
def shape_beyond_memory() -> onnx.ModelProto:
    return with_weight(dims=[2**62, 2**62, 0])


@case("GO107", "negative")
def negative_dimension() -> onnx.ModelProto:
    return with_weight(dims=[-1, -4], float_data=[1.0] * 4)


@case("GO107", "number 1000")
def unknown_element_type() -> onnx.ModelProto:
    return with_weight(data_type=1000, raw_data=bytes(16))


@case("GO107", "number 0")
def undefined_element_type() -> onnx.ModelProto:
    return with_weight(data_type=0, raw_data=bytes(16))


@case("GO107", "raw data")
def strings_as_raw_data() -> onnx.ModelProto:
    return with_weight(data_type=TensorProto.STRING, raw_data=bytes(16))


@case("GO108", "rank")
def rank_beyond_numpy() -> onnx.ModelProto:
    return with_weight(dims=[1] * 65, float_data=[1.0])


@case("GO112", "segments")
def segmented_tensor() -> onnx.ModelProto:
    return with_weight(segment=TensorProto.Segment(begin=0, end=2), float_data=[1.0] * 4)


@case("GO112", "sparse")
def sparse_initializer() -> onnx.ModelProto:
    return broken(lambda m: m.graph.sparse_initializer.add())


@case("GO107", "16 bytes")
def attribute_tensor_too_short() -> onnx.ModelProto:
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[4], raw_data=bytes(3))
    return broken(lambda m: m.graph.node.append(helper.make_node("Constant", [], ["b"], value=tensor)))


# Limits.


def nested(depth: int) -> onnx.ModelProto:
    """If in If, `depth` deep, built from the outside in: protobuf copies no deep message."""

    def change(model: onnx.ModelProto) -> None:
        graph = model.graph
        for level in range(depth):
            node = graph.node.add(op_type="If", input=["x"], output=[f"p{level}"])
            graph = node.attribute.add(name="then_branch", type=AttributeProto.GRAPH).g
            graph.output.add(name=f"p{level + 1}")
        graph.node.add(op_type="Relu", input=["x"], output=[f"p{depth}"])

    return broken(change)


@case("GO108", "nested too deeply")
def subgraphs_nested_deeply() -> onnx.ModelProto:
    return nested(80)


@case("GO108", "nested too deeply")
def wire_format_nested_deeply() -> bytes:
    def message(number: int, data: bytes) -> bytes:
        size, prefix = len(data), bytearray([number << 3 | 2])
        while size > 127:
            prefix.append(size & 127 | 128)
            size >>= 7
        return bytes([*prefix, size]) + data

    graph = b""
    for _ in range(2000):
        graph = message(1, message(5, message(6, graph)))
    return b"\x08\x0a" + message(7, graph)


def function(name: str, calls: list[str]) -> onnx.FunctionProto:
    nodes = [
        helper.make_node(op, ["x" if i == 0 else f"v{i - 1}"], [f"v{i}"], domain="my" if op != "Relu" else "")
        for i, op in enumerate(calls)
    ]
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("my", 1)]
    return helper.make_function("my", name, ["x"], [f"v{len(calls) - 1}"], nodes, imports)


def calling(name: str, functions: list[onnx.FunctionProto]) -> onnx.ModelProto:
    def change(model: onnx.ModelProto) -> None:
        model.opset_import.add(domain="my", version=1)
        model.functions.extend(functions)
        model.graph.node[1].op_type, model.graph.node[1].domain = name, "my"

    return broken(change)


@case("GO108", "inlining")
def functions_that_double() -> onnx.ModelProto:
    return calling(
        "f0", [function(f"f{i}", [f"f{i + 1}"] * 2) for i in range(60)] + [function("f60", ["Relu"])]
    )


@case("GO108", "levels")
def functions_nested_deeply() -> onnx.ModelProto:
    return calling(
        "f0", [function(f"f{i}", [f"f{i + 1}"]) for i in range(3_000)] + [function("f3000", ["Relu"])]
    )


@case("GO108", "inlining")
def functions_with_huge_names() -> onnx.ModelProto:
    leaf = function("leaf", ["Relu"] * 100)
    leaf.node[0].name = "n" * 1_000_000
    return calling("top", [function("top", ["leaf"] * 1000), leaf])


@case("GO105", "circle")
def functions_that_recurse() -> onnx.ModelProto:
    return calling("f", [function("f", ["g"]), function("g", ["h"]), function("h", ["Relu", "f"])])


@case("GO105", "circle")
def function_that_calls_itself() -> onnx.ModelProto:
    return calling("f", [function("f", ["f"])])


@case("GO105", "defined twice")
def function_twice() -> onnx.ModelProto:
    return calling("f", [function("f", ["Relu"]), function("f", ["Relu"])])


@case("GO105", "inlined")
def function_called_with_too_many_inputs() -> onnx.ModelProto:
    model = calling("f", [function("f", ["Relu"])])
    model.graph.node[1].input.extend(["x", "x"])
    return model


@case("GO105", "missing")
def function_whose_parameter_is_not_given() -> onnx.ModelProto:
    broken_function = function("f", ["Relu"])
    node = helper.make_node("Concat", ["x", "x"], ["v0"])
    node.attribute.add(name="axis", ref_attr_name="axis", type=AttributeProto.INT)
    broken_function.node[0].CopyFrom(node)
    broken_function.attribute.append("axis")
    return calling("f", [broken_function])


@pytest.mark.parametrize("name", CASES)
def test_broken_model_is_refused(name: str) -> None:
    code, says, build = CASES[name]
    raises(build(), code, says)


def test_there_are_many_cases() -> None:
    assert len(CASES) >= 60


def test_all_unknown_operators_are_listed() -> None:
    error = raises(
        body("g (float[2] x) => (float[2] y) { a = Rellu(x) b = Sigmoidd(a) y = Gelu(b) }"),
        "GO106",
        "Sigmoidd",
    )
    assert [e["operator"] for e in error.details["operators"]] == ["Rellu", "Sigmoidd", "Gelu"]


def test_all_malformed_nodes_are_listed() -> None:
    error = raises(
        body("g (float[2] x) => (float[2] y) { a = Add(x) y = Relu<q = 1>(a) }"), "GO105", "unknown"
    )
    assert len(error.details["problems"]) == 2


# Files.


def write(folder: Path, data: bytes, name: str = "m.onnx") -> Path:
    (folder / name).write_bytes(data)
    return folder / name


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder", "missing", "loop", "nul", "long"])
def test_only_regular_files_are_opened(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path: Any = tmp_path / "m.onnx"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        monkeypatch.chdir(tmp_path)  # socket paths are short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("m.onnx")
    elif kind == "device":
        path = "/dev/zero"
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "nul":
        path = "a\0b.onnx"
    elif kind == "long":
        path = "a" * 5000
    raises(path, "GO101", "")


def test_file_over_protobufs_limit_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "m.onnx", "wb") as file:
        file.truncate(3 * 2**30)
    raises(tmp_path / "m.onnx", "GO108", "external data")


@pytest.mark.parametrize("suffix", ["textproto", "json", "onnxtxt"])
@pytest.mark.parametrize(
    "content", [b"", b"{{{{", b"\xff\xfe", b"[" * 100_000, b'{"graph":' * 100_000, b"graph {" * 100_000]
)
def test_broken_text_files_are_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    with pytest.raises(ModelError) as caught:
        load(write(tmp_path, content, f"m.{suffix}"))
    assert caught.value.code in ("GO102", "GO103", "GO108")


def external(folder: Path, size: int = 16, **entries: str) -> Path:
    """A model whose weight (16 bytes) is said to lie where `entries` say; w.bin has `size` bytes."""
    write(folder, bytes(size), "w.bin")
    model = with_weight(data_location=TensorProto.EXTERNAL)
    for key, value in {"location": "w.bin", **entries}.items():
        model.graph.initializer[0].external_data.add(key=key, value=value)
    return write(folder, model.SerializeToString())


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"location": "../w.bin"}, "inside the model's folder"),
        ({"location": "a/../../w.bin"}, "inside the model's folder"),
        ({"location": "/etc/passwd"}, "inside the model's folder"),
        ({"location": "C:\\w.bin"}, "inside the model's folder"),
        ({"location": "\\\\host\\w.bin"}, "inside the model's folder"),
        ({"location": ""}, "names no file"),
        ({"location": "w\0.bin"}, "names no file"),
        ({"location": "none.bin"}, "not there"),
        ({"location": "."}, "cannot be read"),
        ({"location": "pipe"}, "named pipe"),
        ({"location": "outside"}, "link out of"),
        ({"location": "folder/secret"}, "link out of"),
        ({"location": "hard"}, "hard link"),
        ({"offset": "-4"}, "offset"),
        ({"offset": "4"}, "ends after"),
        ({"offset": "99999999999999999999999"}, "offset"),
        ({"offset": "9223372036854775807"}, "ends after"),
        ({"offset": "٣"}, "offset"),
        ({"offset": "1e3"}, "offset"),
        ({"length": "15"}, "length"),
        ({"length": "-16"}, "length"),
        ({"length": "17"}, "length"),
        ({"what": "1"}, "unknown entries"),
    ],
)
def test_external_data_outside_its_bounds_is_refused(
    tmp_path: Path, entries: dict[str, str], says: str
) -> None:
    model_folder, other = tmp_path / "model", tmp_path / "other"
    model_folder.mkdir()
    other.mkdir()
    for name in ("secret", "linked"):
        write(other, bytes(64), name)
    os.mkfifo(model_folder / "pipe")
    (model_folder / "outside").symlink_to(other / "secret")
    (model_folder / "folder").symlink_to(other)
    (model_folder / "hard").hardlink_to(other / "linked")
    raises(external(model_folder, **entries), "GO104", says)


def test_external_data_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    raises(external(tmp_path, size=15), "GO104", "ends after")
    raises(external(tmp_path, size=0), "GO104", "ends after")


def test_external_data_needs_a_file(tmp_path: Path) -> None:
    path = external(tmp_path)
    load(path)
    raises(path.read_bytes(), "GO104", "by its path")
    raises(onnx.load(path, load_external_data=False), "GO104", "by its path")


def test_links_inside_the_folder_are_followed(tmp_path: Path) -> None:
    path = external(tmp_path, location="link")
    (tmp_path / "link").symlink_to("w.bin")
    weight = load(path).graph.initializers["w"].const_value
    assert weight is not None
    assert weight.numpy().tolist() == [0.0] * 4


# Shapes that grow with every node.


def _doubling_expression(count: int) -> str:
    steps = [f"p{i} = Add(a{i}, n) q{i} = Add(a{i}, m) a{i + 1} = Mul(p{i}, q{i})" for i in range(count)]
    return f"""g (float[N, M] x) => (float[K] y) <int64 i = {{0}}, int64 j = {{1}}, int64[1] z = {{0}}> {{
        s = Shape(x) n = Gather(s, i) m = Gather(s, j) a0 = Identity(n)
        {" ".join(steps)}
        d = Unsqueeze(a{count}, z) y = ConstantOfShape(d)
    }}"""


def _squared_number(count: int) -> str:
    steps = [f"a{i + 1} = Mul(a{i}, a{i})" for i in range(count)]
    return f"""g () => (float[K] y) <int64 i = {{3}}, int64[1] z = {{0}}> {{
        a0 = Identity(i)
        {" ".join(steps)}
        d = Unsqueeze(a{count}, z) y = ConstantOfShape(d)
    }}"""


def _doubling_vector(count: int) -> str:
    steps = [f"a{i + 1} = Concat <axis = 0> (a{i}, a{i})" for i in range(count)]
    return f"""g (float[N, M] x) => (int64[K] y) {{
        a0 = Shape(x)
        {" ".join(steps)}
        y = ReduceProd (a{count})
    }}"""


def _long_vector(count: int) -> str:
    return f"g (int64[{10**count}] x) => (int64[K] y) {{ a = Concat <axis = 0> (x, x) y = Mul(a, a) }}"


def _growing_rank(count: int) -> str:
    steps = [f"a{i + 1} = Unsqueeze(a{i}, z)" for i in range(count)]
    return f"""g (float[N] x) => (float[K] y) <int64[1] z = {{0}}> {{
        a0 = Neg(x)
        {" ".join(steps)}
        y = Neg(a{count})
    }}"""


def _nested_loops(count: int) -> str:
    text = f"p{count} = Concat <axis = 0> (v{count - 1}, v{count - 1})"
    for i in reversed(range(count)):
        text = f"""p{i} = Loop (n, , {f"v{i - 1}" if i else "x"}) <
            body = t (int64 i{i}, bool c{i}, float[k{i}] v{i}) => (bool d{i}, float[m{i}] p{i + 1}) {{
                d{i} = Identity(c{i}) {text}
            }}>"""
    return f"g (int64 n, float[2] x) => (float[N] p0) {{ {text} }}"


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (_doubling_expression, 40),
        (_squared_number, 60),
        (_doubling_vector, 40),
        (_long_vector, 14),
        (_growing_rank, 500),
        (_nested_loops, 15),
    ],
)
def test_growing_shapes_are_given_up(build: Callable[[int], str], count: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    check_model(load(body(build(count))))
    assert time.monotonic() - start < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEGABYTES * 1024


# Mutants.


def families() -> list[onnx.ModelProto]:
    """Small valid models of different kinds."""
    sources = [
        """g (bool b, float[2] x) => (float[2] y) {
            y = If (b) <then_branch = t () => (float[2] p) { p = Relu(x) },
                        else_branch = e () => (float[2] q) {
                            c = Constant <value_float = 1.0> () q = Add(x, c) }>
        }""",
        """g (int64 n, float[2] x) => (float[2] y, float[k, 2] s) {
            t = Constant <value = bool {1}> ()
            y, s = Loop (n, t, x) <
                body = l (int64 i, bool c, float[2] v) => (bool d, float[2] w, float[2] u) {
                d = Identity(c) w = Add(v, v) u = Relu(v) }>
        }""",
        """g (float[N, 3, 8, 8] x) => (float[N, M] y) <int64[2] s = {0, -1}, int64[4] d = {2, 3, 3, 3}> {
            w = ConstantOfShape (d)
            a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w)
            b = MaxPool <kernel_shape = [2, 2]> (a)
            y = Reshape(b, s)
        }""",
        """g (float[B, S, 2] x, int64[2] k) => (float[B, S, 2] y, seq(float[S]) z) <float[2] w = {1, 2}> {
            n = LayerNormalization <axis = -1> (x, w)
            h = Shape <start = 1> (n)
            r = ConstantOfShape (h)
            q, p = Split <axis = 0, num_outputs = 2> (r)
            e = ReduceSum (n, k)
            z = SequenceConstruct (e, e)
            y = Gelu (n)
        }""",
        """g (float[4] x) => (float[4] y) {
            y = my.f <alpha = 0.5> (x)
        }
        <domain: "my", opset_import: ["" : 20]>
        f <alpha> (v) => (r) { a = LeakyRelu <alpha = @alpha> (v) r = Add(a, v) }""",
    ]
    models = [onnx.parser.parse_model(body(source, 20)) for source in sources]
    for model in models:
        load(model)
    return models


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in value if field.is_repeated else [value]:
                yield from _messages(inner)


INTEGERS = (0, 1, -1, 2, 7, 100, 2**31 - 1, -(2**31))
WIDE_INTEGERS = (*INTEGERS, 2**31, 2**62, 2**63 - 1, -(2**63))


def mutate_field(model: onnx.ModelProto, generator: random.Random) -> None:
    """Change, drop or repeat one field somewhere in `model`."""
    everything = list(_messages(model))
    message: Any = generator.choice(everything)
    fields = [f for f, _ in message.ListFields()]
    if not fields:
        return
    field = generator.choice(fields)
    value = getattr(message, field.name)
    if field.is_repeated and len(value) and generator.random() < 0.3:
        del value[generator.randrange(len(value))]
    elif field.type == field.TYPE_MESSAGE:
        if field.is_repeated:
            value.add().CopyFrom(value[0])
        else:
            message.ClearField(field.name)
    else:
        new = _scalar(field, everything, generator)
        if not field.is_repeated:
            setattr(message, field.name, new)
        elif len(value):
            value[generator.randrange(len(value))] = new


def _scalar(field: Any, everything: list[Message], generator: random.Random) -> Any:
    if field.type == field.TYPE_STRING:
        texts = [
            x
            for m in everything
            for f, v in m.ListFields()
            if f.type == f.TYPE_STRING
            for x in (v if f.is_repeated else [v])
        ]
        return generator.choice([*texts, "", "\0", "\u202e", "n" * 10_000, "Add", "Identity", "ai.onnx"])
    if field.type == field.TYPE_BYTES:
        return generator.choice([b"", b"\xff\xfe", bytes(64)])
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return generator.choice([0.0, float("nan"), float("inf"), -1e30])
    if field.type == field.TYPE_ENUM:
        return generator.choice([v.number for v in field.enum_type.values])
    return generator.choice(INTEGERS if field.type == field.TYPE_INT32 else WIDE_INTEGERS)


def mutate_bytes(data: bytes, generator: random.Random) -> bytes:
    """Flip, insert, drop or cut bytes."""
    mutant = bytearray(data)
    for _ in range(generator.choice((1, 1, 3))):
        at, kind = generator.randrange(len(mutant)), generator.random()
        if kind < 0.7:
            mutant[at] = generator.choice((0, 1, 127, 128, 255, mutant[at] ^ 1 << generator.randrange(8)))
        elif kind < 0.8:
            del mutant[at]
        elif kind < 0.9:
            mutant[at:at] = generator.randbytes(2)
        else:
            del mutant[max(at, 1) :]
    return bytes(mutant)


@pytest.mark.parametrize("kind", ["fields", "bytes"])
def test_mutants_load_or_are_refused(kind: str) -> None:
    generator = random.Random(f"mutants of {kind}")
    models = families()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused: dict[str, int] = {}
    for number in range(1500):
        model = onnx.ModelProto()
        model.CopyFrom(generator.choice(models))
        if kind == "fields":
            for _ in range(generator.choice((1, 1, 2))):
                mutate_field(model, generator)
            source: Any = model
        else:
            source = mutate_bytes(model.SerializeToString(), generator)
        start = time.monotonic()
        try:
            loaded = load(source)
        except (ModelError, UnsupportedError) as error:
            refused[error.code] = refused.get(error.code, 0) + 1
        else:
            check_model(loaded)
            read(loaded)
        assert time.monotonic() - start < SECONDS, number
    assert 150 < sum(refused.values()) < 1500
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEGABYTES * 1024
