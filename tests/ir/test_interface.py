"""A written model declares its inputs and outputs as the model that was loaded did."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import graphopt
from graphopt.ir import interface
from graphopt.ir.io import load, save

Dims = list[int | str | None]


def shapes_after(
    path: Path, given: Dims, declared: Dims, dims: dict[str, int] | None = None, op: str = "NonZero"
) -> tuple[Dims, Dims]:
    """The shapes of input and output in the file that is written of a model of one node."""
    result = TensorProto.INT64 if op == "NonZero" else TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, given)],
        [helper.make_tensor_value_info("y", result, declared)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    graphopt.optimize(model, dims=dims).save(path)
    written = onnx.load(path).graph
    x, y = (
        [
            d.dim_value if d.HasField("dim_value") else d.dim_param or None
            for d in v.type.tensor_type.shape.dim
        ]
        for v in (written.input[0], written.output[0])
    )
    return x, y


@pytest.mark.parametrize(
    ("given", "declared"),
    [
        (["N", 4], ["y_dim_0", 4]),
        (["batch size", 4], ["batch size", 4]),
        ([None, 4], [None, 4]),
        (["N", "N"], ["?", "max"]),
    ],
    ids=["another-name", "no-identifier", "unnamed", "reserved"],
)
def test_names_stay_as_they_were_declared(tmp_path: Path, given: Dims, declared: Dims) -> None:
    assert shapes_after(tmp_path / "m.onnx", given, declared, op="Relu") == (given, declared)


def test_a_size_that_inference_does_not_find_stays(tmp_path: Path) -> None:
    assert shapes_after(tmp_path / "m.onnx", [4], [1, 3]) == ([4], [1, 3])


def test_a_size_that_became_known_is_written(tmp_path: Path) -> None:
    bound = shapes_after(tmp_path / "m.onnx", ["N", 4], ["M", "K"], {"N": 2}, op="Relu")
    assert bound == ([2, 4], [2, 4])


def test_a_declared_rank_that_is_false_is_not_written(tmp_path: Path) -> None:
    assert shapes_after(tmp_path / "m.onnx", ["N", 4], ["N", 4, 1], op="Relu")[1] == ["N", 4]


def test_inside_shapes_are_what_is_known_and_a_copy_remembers(tmp_path: Path) -> None:
    model = load(
        """<ir_version: 8, opset_import: ["": 18]>
        g (float[N, 4] x) => (float[other, 4] y) { y = Relu(x) }"""
    )
    shape = model.graph.outputs[0].shape
    assert shape is not None and str(shape[0]) == "N"
    interface.record(model)  # what was declared first counts
    for name, options, expected in (("a", {}, "other"), ("b", {"declared": False}, "N")):
        save(model.clone(), tmp_path / name, **options)
        (output,) = onnx.load(tmp_path / name).graph.output
        assert output.type.tensor_type.shape.dim[0].dim_param == expected


def test_shapes_in_between_are_left_to_readers_but_for_what_they_cannot_infer(tmp_path: Path) -> None:
    model = load(
        """<ir_version: 8, opset_import: ["": 18, "com.other": 1]>
        g (float[N, 4] x) => (float[N, 4] y) <float[N, 4] b> {
            a = Relu(x) b = com.other.F(a) c = Relu(b) y = Exp(c)
        }"""
    )
    for options, expected in (({}, {"b"}), ({"declared": False}, {"a", "b"})):
        save(model, tmp_path / "m.onnx", **options)
        assert {info.name for info in onnx.load(tmp_path / "m.onnx").graph.value_info} >= expected
        if not options:
            assert len(onnx.load(tmp_path / "m.onnx").graph.value_info) == 1
