"""TensorRT-RTX builds real engines here, with no GPU: for which models, of which layers, refusing what."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
from yolo import SIDE
from yolo import build as build_yolo

import graphopt
from graphopt import artifact
from graphopt.errors import GraphoptError, LoweringError, UnsupportedError
from graphopt.lowering.tensorrt_rtx import build
from graphopt.target import CAPABILITIES, Target

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "samples"))
from catalogue import samples  # noqa: E402

TARGET = "tensorrt-rtx:sm89,sm120"
MNIST = ROOT / "samples" / "generated" / "mnist-cnn.onnx"

pytestmark = [
    pytest.mark.tensorrt_rtx,
    pytest.mark.skipif(
        not build.installed(),
        reason="NOT TESTED: tensorrt_rtx is missing (pip install 'graphopt[tensorrt-rtx]')",
    ),
]


def ocr() -> tuple[Any, dict[str, Any]]:
    (item,) = samples(["ppocr-det"], folder=ROOT / "models")
    return item.path, {"shapes": item.shapes}


def yolo() -> tuple[Any, dict[str, Any]]:
    return build_yolo(), {"dims": {"batch": (1, 2, 8)}}


def encoder() -> tuple[Any, dict[str, Any]]:
    return MNIST.with_name("bert-tiny.onnx"), {"dims": {"batch": (1, 2, 8), "sequence": (1, 16, 64)}}


def decoder() -> tuple[Any, dict[str, Any]]:
    return MNIST.with_name("gpt-tiny.onnx"), {"dims": {"batch": 1, "sequence": (1, 16, 64)}}


MODELS = {"ocr": ocr, "yolo": yolo, "encoder": encoder, "decoder": decoder}


@functools.cache
def compiled(name: str, precision: str = "fp32") -> graphopt.Executable:
    source, options = MODELS[name]()
    return graphopt.compile(source, TARGET, precision=precision, **options)


# One of each in full, and each precision once: they take a second or two each.
CASES = [
    pytest.param(
        name,
        precision,
        marks=[pytest.mark.models, pytest.mark.slow] if name == "ocr" else [],
        id=f"{name}-{precision}",
    )
    for name, precision in [
        *((name, "fp32") for name in MODELS),
        ("ocr", "fp16"),
        ("yolo", "fp16"),
        ("yolo", "bf16"),
        ("decoder", "bf16"),
    ]
]


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_an_engine_computes_every_node(name: str, precision: str) -> None:
    executable = compiled(name, precision)
    names = {node.name for node in executable.model.graph.all_nodes() if node.op_type != "Constant"}
    served = {node for row in executable.kernels for node in row["nodes"]}
    rest = set(executable.manifest["engine"]["nodes_without_layer"])
    assert served | rest == names and not served & rest
    assert len(rest) <= len(names) // 5, rest
    # What does the work of the model is never among those that nothing computes.
    heavy = {
        n.name
        for n in executable.model.graph.all_nodes()
        if n.op_type in ("Conv", "MatMul", "Gemm", "Softmax")
    }
    assert heavy <= served
    assert executable.manifest["engine"]["bytes"] == len(executable.files[artifact.ENGINE]) > 100_000
    assert executable.memory is not None
    assert executable.memory["peak"] == executable.memory["weights"] + executable.memory["activations"] > 0


def test_kernels_know_the_nodes_that_a_person_drew() -> None:
    executable = compiled("encoder")
    drawn = {node.name for node in graphopt.load(encoder()[0]).graph.all_nodes()}
    gemms = [row for row in executable.kernels if row["kind"] == "gemm"]
    assert gemms and all(row["origins"] and set(row["origins"]) <= drawn for row in gemms)
    together = [row for row in gemms if len(row["nodes"]) == 3]
    assert any(
        {o.split("/")[-2] for o in row["origins"] if "MatMul" in o} == {"query", "key", "value"}
        for row in together
    )


def test_precision_is_what_was_asked_for() -> None:
    def types(precision: str) -> set[str]:
        rows = [
            row
            for row in compiled("yolo", precision).kernels
            if row["kind"] in ("correlation", "runtime_fusion")
        ]
        return {t for row in rows for t in row["types"]}

    assert types("fp32") <= {"Float", "Int64", "Int32", "Bool"}
    assert "Half" in types("fp16")
    assert "BFloat16" in types("bf16")


def test_profiles_are_the_ranges_that_were_given() -> None:
    executable = compiled("yolo")
    assert executable.manifest["engine"]["profile"] == {
        "image": [[n, 3, SIDE, SIDE] for n in (1, 2, 8)],
    }


def test_the_same_input_gives_the_same_engine(tmp_path: Path) -> None:
    one, two = (
        graphopt.compile(MNIST, TARGET, dims={"batch": (1, 4, 16)}, cache=False).save(tmp_path / name)
        for name in ("one", "two")
    )
    read = [json.loads((folder / artifact.MANIFEST).read_text()) for folder in (one, two)]
    assert read[0]["digest"] == read[1]["digest"]


def test_the_artifact_and_its_epcontext_model(tmp_path: Path) -> None:
    folder = graphopt.compile(MNIST, "tensorrt-rtx:sm89", dims={"batch": 4}).save(tmp_path / "art")
    wrapped = onnx.load(folder / artifact.CONTEXT)
    (node,) = wrapped.graph.node
    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert (node.domain, node.op_type) == ("com.microsoft", "EPContext")
    assert values["embed_mode"] == 0 and values["hardware_architecture"] == b"89"
    assert (folder / values["ep_cache_context"].decode()).is_file()
    assert (folder / values["onnx_model_filename"].decode()).is_file()
    original = onnx.load(folder / artifact.MODEL, load_external_data=False)
    assert [i.name for i in wrapped.graph.input] == [i.name for i in original.graph.input] == list(node.input)
    assert (
        [o.name for o in wrapped.graph.output] == [o.name for o in original.graph.output] == list(node.output)
    )
    # ONNX Runtime takes the node as its schema has it; what it lacks here is only who runs it.
    with pytest.raises(Exception, match=r"EPContext|NvTensorRTRTX") as error:
        onnxruntime.InferenceSession(str(folder / artifact.CONTEXT), providers=["CPUExecutionProvider"])
    assert "attribute" not in str(error.value).lower()
    loaded = graphopt.load_artifact(folder)
    assert loaded.target == Target.parse("tensorrt-rtx:sm89")
    assert loaded.kernels and loaded.manifest["engine"]["bytes"] == (folder / artifact.ENGINE).stat().st_size


def test_several_capabilities_leave_the_node_without_one() -> None:
    (node,) = onnx.ModelProto.FromString(compiled("yolo").files[artifact.CONTEXT]).graph.node
    assert "hardware_architecture" not in {a.name for a in node.attribute}


def test_a_second_compile_comes_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE_DIR", str(tmp_path))

    def compile_(**options: Any) -> tuple[bool, bytes]:
        made = graphopt.compile(
            MNIST, **{"target": "tensorrt-rtx:sm89", "dims": {"batch": (1, 4, 16)}, **options}
        )
        assert made.cache is not None
        return made.cache["hit"], made.files[artifact.ENGINE]

    first, second = compile_(), compile_()
    assert (first[0], second[0]) == (False, True) and first[1] == second[1]
    assert not compile_(target="tensorrt-rtx:sm120")[0]
    assert not compile_(dims={"batch": (1, 4, 17)})[0]
    assert not compile_(precision="tf32")[0]


def refusal(text: str, **options: Any) -> GraphoptError:
    with pytest.raises(GraphoptError) as error:
        graphopt.compile(text, "tensorrt-rtx:sm89", **options)
    return error.value


def test_unknown_operators_are_named_all_at_once() -> None:
    error = refusal(
        """<ir_version: 8, opset_import: ["": 18]> g (float[2, 3, 3] x) => (float[2] y, float[2] z)
        { a = Relu(x) y = Det(a) z = Det(x) }"""
    )
    assert error.code == "GO201"
    rows = error.details["unsupported"]
    assert [row["op_type"] for row in rows] == ["Det", "Det"]
    assert all(
        row["node"] in str(error) and row["reason"] == "TensorRT-RTX does not support Det" for row in rows
    )


def test_types_that_the_parser_refuses_are_named_all_at_once() -> None:
    """It looks at types while it builds the network, and stops there at the first."""
    error = refusal(
        """<ir_version: 10, opset_import: ["": 22]> g (bfloat16[2, 4] x) => (bfloat16[2, 4] y)
        { a = HardSwish(x) b = Relu(a) c = Mish(b) d = HardSwish(c) y = Add(d, b) }""",
        level=0,
    )
    assert [row["op_type"] for row in error.details["unsupported"]] == ["HardSwish", "Mish", "HardSwish"]
    assert "BF16" in error.details["unsupported"][0]["reason"]


def test_what_the_parser_refuses_in_bfloat16_keeps_float32() -> None:
    numbers = (", ".join(["0.1"] * 64), ", ".join(["0.1"] * 128))
    made = graphopt.compile(
        '<ir_version: 10, opset_import: ["": 18]> g (float[1, 8, 4, 4] x) => (float[1, 4, 8, 8] y) '
        "<float[8, 8, 1, 1] w = {" + numbers[0] + "}, float[8, 4, 2, 2] v = {" + numbers[1] + "}> "
        "{ a = Conv(x, w) b = HardSwish(a) c = Conv(b, w) y = ConvTranspose<strides = [2, 2]>(c, v) }",
        "tensorrt-rtx:sm89",
        precision="bf16",
    )
    assert made.kernels


def test_a_network_that_the_builder_refuses_names_the_node() -> None:
    error = None
    with pytest.raises(LoweringError) as caught:
        graphopt.compile(encoder()[0], "tensorrt-rtx:sm75", dims={"batch": 1, "sequence": 16})
    error = caught.value
    assert error.code == "GO206"
    assert "FP32 GEMM is not supported" in str(error.found)
    assert error.details["nodes"][0].endswith("MatMul") and error.details["nodes"][0] in str(error.where)


def test_shapes_computed_from_inputs_are_refused() -> None:
    error = refusal(
        '<ir_version: 8, opset_import: ["": 18]> g (float[2, 6] x, int64[2] s) => (float[N, M] y) { y = Reshape(x, s) }'
    )
    assert error.code == "GO203"
    assert "--constant s=" in (error.next_step or "")


def test_a_dimension_without_a_range_is_refused() -> None:
    error = refusal(
        '<ir_version: 8, opset_import: ["": 18]> g (float[N, 6] x) => (float[N, 6] y) { y = Relu(x) }'
    )
    assert error.code == "GO204"
    assert "N" in str(error.found)


def test_operators_newer_than_the_parser_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "NEWEST_OPSET", 13)
    error = refusal('<ir_version: 8, opset_import: ["": 18]> g (float[2] x) => (float[2] y) { y = Relu(x) }')
    assert error.code == "GO202"
    assert "opset 14" in str(error)


def test_it_has_a_page_like_every_executable(tmp_path: Path) -> None:
    executable = graphopt.compile(MNIST, "tensorrt-rtx:sm89", dims={"batch": (1, 4, 16)})
    executable.report(tmp_path / "page.html")
    assert "tensorrt-rtx:sm89" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_it_does_not_run_without_its_gpu() -> None:
    with pytest.raises(UnsupportedError, match="GO605") as error:
        compiled("yolo").run({})
    assert "sm89 or sm120" in str(error.value.expected)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_capability_builds(capability: str) -> None:
    made = graphopt.compile(
        MNIST,
        f"tensorrt-rtx:{capability}",
        dims={"batch": 1},
        precision="fp16" if capability == "sm75" else None,
    )
    assert made.kernels
