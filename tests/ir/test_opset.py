"""Opset upgrades: same results before and after, for every operator whose definition ever changed."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.defs
import onnx_ir
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graphopt.errors import InvariantError, ModelError, UsageError
from graphopt.ir import opset, provenance
from graphopt.ir.opset import CANONICAL_OPSET, COMPATIBLE, incompatibility, newest_opset, upgrade
from graphopt.ir.opset_adapters import ADAPTERS
from graphopt.ir.opset_draft import schema

ort = pytest.importorskip("onnxruntime")

F32 = np.float32
RNG = np.random.default_rng(7)
TARGETS = (18, 20, 21, 23)


def normal(*shape: int, dtype: Any = F32) -> np.ndarray:
    return RNG.normal(size=shape).astype(dtype)


def i64(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


# Running models


def run_ort(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def run_reference(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    return list(ReferenceEvaluator(model).run(None, feeds))


def upgraded(model: onnx.ModelProto, to: int) -> onnx.ModelProto:
    held = onnx_ir.from_proto(model)
    assert upgrade(held, to)
    assert held.opset_imports[""] == to
    result = onnx_ir.to_proto(held)
    onnx.checker.check_model(result, full_check=True)
    return result


def run_and_declare(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    """The results of `model`, which then declares its outputs as they are, with dynamic dimensions."""
    results = run_ort(model, feeds)
    for info, array in zip(model.graph.output, results, strict=True):
        info.CopyFrom(value_info(info.name, array, dynamic=True))
    return results


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for x, y in zip(found, expected, strict=True):
            assert_same(x, y)
        return
    if expected is None:
        assert found is None
        return
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    if expected.dtype.kind in "OUSb":
        assert (found == expected).all()
    else:
        kind = np.complex128 if expected.dtype.kind == "c" else np.float64
        np.testing.assert_allclose(found.astype(kind), expected.astype(kind), rtol=1e-6, atol=1e-6)


# Building models


def value_info(name: str, array: np.ndarray, *, dynamic: bool = False) -> onnx.ValueInfoProto:
    shape = [None] * array.ndim if dynamic else list(array.shape)
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[str],
    version: int,
    initializers: Sequence[tuple[str, np.ndarray]] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        inputs,
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in initializers],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(model)
    for here, there in zip(model.graph.output, inferred.graph.output, strict=True):
        here.CopyFrom(there)
    return model


class Case:
    """A node of an older opset with the arrays that it is fed.

    Args:
        outputs: how many outputs the node has.
        used: how many of them, from the first on, are used; by default all.
        constants: indices of inputs that are initializers rather than graph inputs.
        targets: the opsets to upgrade to; those that ONNX Runtime has kernels for.
    """

    def __init__(
        self,
        op: str,
        version: int,
        inputs: Sequence[np.ndarray | None],
        *,
        outputs: int = 1,
        used: int | None = None,
        constants: Sequence[int] = (),
        targets: Sequence[int] = TARGETS,
        **attributes: Any,
    ) -> None:
        self.op, self.version, self.targets = op, version, targets
        self.outputs = [f"y{i}" for i in range(outputs)]
        self.used = self.outputs[:used]
        self.constants, self.attributes = constants, attributes
        self.arrays = {f"x{i}": array for i, array in enumerate(inputs) if array is not None}
        self.names = [f"x{i}" if array is not None else "" for i, array in enumerate(inputs)]
        self.initializers = [(f"x{i}", self.arrays[f"x{i}"]) for i in constants]
        self.feeds = {n: a for n, a in self.arrays.items() if n not in dict(self.initializers)}

    def __repr__(self) -> str:
        text = ",".join(f"{k}={v}" for k, v in self.attributes.items() if not isinstance(v, onnx.GraphProto))
        return f"{self.op}-{self.version}({text})".replace(" ", "")

    def node(self, names: Sequence[str], outputs: Sequence[str]) -> onnx.NodeProto:
        return helper.make_node(self.op, names, outputs, name="blk/it", doc_string="why", **self.attributes)

    def plain(self) -> onnx.ModelProto:
        """The node alone, ranks and element types known."""
        inputs = [value_info(n, a) for n, a in self.feeds.items()]
        return model_of(
            [self.node(self.names, self.outputs)], inputs, self.used, self.version, self.initializers
        )

    def hidden(self) -> onnx.ModelProto:
        """The node behind an If, which hides ranks and element types, and in the branch of another."""
        inputs = [value_info(n, a, dynamic=True) for n, a in self.feeds.items()]
        inputs.append(value_info("cond", np.array(True)))
        behind = {n: f"{n}_behind" for n in self.feeds}

        def branches(make: Any) -> dict[str, onnx.GraphProto]:
            return {f"{side}_branch": make(side) for side in ("then", "else")}

        def pass_through(side: str) -> onnx.GraphProto:
            nodes = [helper.make_node("Identity", [n], [f"{n}_{side}"]) for n in behind]
            return helper.make_graph(
                nodes, side, [], [onnx.ValueInfoProto(name=f"{n}_{side}") for n in behind]
            )

        def body(side: str) -> onnx.GraphProto:
            results = [f"{o}_{side}" for o in self.outputs]
            node = self.node([behind.get(n, n) for n in self.names], results)
            return helper.make_graph(
                [node], side, [], [onnx.ValueInfoProto(name=r) for r in results[: len(self.used)]]
            )

        nodes = [
            helper.make_node("If", ["cond"], list(behind.values()), **branches(pass_through)),
            helper.make_node("If", ["cond"], self.used, **branches(body)),
        ]
        return model_of(nodes, inputs, self.used, self.version, self.initializers)


def scan_8_body() -> onnx.GraphProto:
    nodes = [helper.make_node("Add", ["s", "x"], ["s_out"]), helper.make_node("Mul", ["s", "x"], ["k"])]
    infos = [helper.make_tensor_value_info(n, 1, [3]) for n in ("s", "x", "s_out", "k")]
    return helper.make_graph(nodes, "body", infos[:2], infos[2:])


X = normal(2, 3, 4)
IMAGE = normal(1, 2, 4, 6)
BATCH = normal(3, 2, 4)
PER_CHANNEL = [normal(2), normal(2), normal(2), np.abs(normal(2))]
PER_POSITION = [normal(2, 4), normal(2, 4), normal(2, 4), np.abs(normal(2, 4))]
NO_SCALES = np.array([], F32)
SIZES = i64(1, 2, 7, 3)


def scales(*numbers: float) -> np.ndarray:
    return np.array([1, 1, *numbers], F32)


CASES = [
    Case("Slice", 7, [X], starts=[1, -3], ends=[3, 1000], axes=[1, 2]),
    Case("Slice", 9, [X], starts=[0, 1], ends=[1, -1]),
    Case("TopK", 9, [X], outputs=2, k=2, axis=1),
    Case("TopK", 7, [X], outputs=2, k=3),
    Case("Clip", 7, [X], min=-0.5, max=0.25),
    Case("Clip", 10, [X], max=0.5),
    Case("Clip", 8, [np.array([-np.inf, 1, np.inf], F32)]),
    Case("Clip", 8, [np.array([-np.inf, 1, np.inf], F32)], min=-3.4028234663852886e38, max=2.0),
    Case("Pad", 10, [X], pads=[0, 1, 2, 1, 0, 3], value=1.5),
    Case("Pad", 7, [X], pads=[0, 1, -1, 1, 0, 3]),
    Case("Pad", 9, [X], pads=[0, 1, 2, 1, 0, 3], mode="reflect"),
    Case("Dropout", 7, [X], ratio=0.3),
    Case("Dropout", 10, [X]),
    Case("Dropout", 10, [X], ratio=0.9),
    Case("Squeeze", 9, [normal(1, 3, 1)], axes=[0]),
    Case("Squeeze", 11, [normal(1, 3, 1)], axes=[-1]),
    Case("Squeeze", 12, [normal(1, 3, 1)]),
    Case("Unsqueeze", 8, [X], axes=[0, 4]),
    Case("Unsqueeze", 12, [X], axes=[-1, 1]),
    Case("Split", 7, [X], outputs=2, axis=2),
    Case("Split", 11, [X], outputs=3, axis=-1, split=[1, 2, 1]),
    Case("Split", 13, [X, i64(3, 1)], outputs=2, axis=-1),
    Case("Split", 13, [X], outputs=3, axis=1),
    Case("ReduceSum", 7, [X], axes=[1]),
    Case("ReduceSum", 12, [X], axes=[-1, 0], keepdims=0),
    Case("ReduceSum", 11, [X], keepdims=0),
    *(
        Case(op, version, [np.abs(X) + 0.1], **attributes)
        for op in sorted(op for op, step in ADAPTERS if step == 18 and op.startswith("Reduce"))
        for version, attributes in (
            (7, {"axes": [0, 2], "keepdims": 0}),
            (11, {"axes": [-2]}),
            (13, {"keepdims": 0}),
        )
    ),
    Case("Upsample", 7, [IMAGE], mode="nearest", scales=[1.0, 1.0, 2.0, 1.5]),
    Case("Upsample", 7, [IMAGE], mode="linear", scales=[1.0, 1.0, 2.0, 2.0]),
    Case("Upsample", 9, [IMAGE, scales(2.5, 3)], mode="nearest", constants=[1]),
    Case("Upsample", 9, [IMAGE, scales(2.5, 3)], mode="linear"),
    *(
        Case("Resize", 10, [IMAGE, scales(*pair)], constants=constants, mode=mode)
        for pair in ((2.0, 3.0), (0.6, 0.4), (2.3, 0.6), (1.0, 1.0))
        for mode in ("nearest", "linear")
        for constants in ((1,), ())
    ),
    Case("Resize", 11, [IMAGE, NO_SCALES, scales(2, 0.5)], mode="linear"),
    Case("Resize", 11, [IMAGE, NO_SCALES, NO_SCALES, SIZES], mode="linear", constants=[1, 2, 3]),
    Case(
        "Resize", 11, [IMAGE, NO_SCALES, NO_SCALES, SIZES], mode="cubic", constants=[2, 3], cubic_coeff_a=-0.5
    ),
    *(
        Case(
            "Resize",
            11,
            [IMAGE, NO_SCALES, scales(*pair)],
            constants=[1],
            coordinate_transformation_mode=mode,
            nearest_mode=nearest,
        )
        for pair in ((2.0, 3.0), (0.6, 0.4), (1.7, 0.9))
        for mode, nearest in (
            ("tf_half_pixel_for_nn", "floor"),
            ("tf_half_pixel_for_nn", "round_prefer_floor"),
            ("asymmetric", "floor"),
            ("align_corners", "ceil"),
            ("half_pixel", "round_prefer_ceil"),
        )
    ),
    Case("Resize", 13, [IMAGE, None, scales(0.7, 1.3)], mode="linear"),
    Case(
        "Resize",
        13,
        [IMAGE, np.array([0, 0, 0.2, 0.1, 1, 1, 0.9, 0.8], F32), None, SIZES],
        constants=[3],
        mode="linear",
        coordinate_transformation_mode="tf_crop_and_resize",
        extrapolation_value=9.0,
    ),
    *(
        Case(op, version, [array], **attributes)
        for op in ("Softmax", "LogSoftmax", "Hardmax")
        for version, array, attributes in (
            (7, X, {}),
            (11, X, {"axis": 0}),
            (11, X, {"axis": -2}),
            (12, X, {"axis": 2}),
            (12, X, {"axis": -1}),
            (9, normal(2, 5), {}),
            (9, normal(2, 5, 1, 1), {}),
            (11, normal(2, 1, 5, 1), {"axis": 1}),
        )
    ),
    Case("BatchNormalization", 7, [BATCH, *PER_CHANNEL]),
    Case("BatchNormalization", 7, [BATCH, *PER_CHANNEL], spatial=1, epsilon=0.01),
    Case("BatchNormalization", 8, [BATCH, *PER_POSITION], spatial=0, epsilon=0.01),
    Case("BatchNormalization", 9, [BATCH, *PER_CHANNEL], epsilon=0.01),
    Case("BatchNormalization", 9, [BATCH, *PER_CHANNEL], outputs=5, used=3, momentum=0.7),
    Case("Scatter", 9, [X, np.array([[[0, 2, 1, 1]]], np.int64), normal(1, 1, 4)], axis=1),
    Case("DFT", 17, [normal(2, 5, 3, 1)]),
    Case("DFT", 17, [normal(2, 5, 3, 2), np.array(6, np.int64)], axis=2, inverse=1),
    *(
        Case("GridSample", 16, [IMAGE, np.clip(normal(1, 3, 3, 2), -0.9, 0.9)], **attributes)
        for attributes in ({}, {"mode": "bilinear"}, {"mode": "bicubic"}, {"mode": "nearest"})
    ),
    Case(
        "RoiAlign",
        10,
        [IMAGE, np.array([[0, 0.5, 3, 3.2]], F32), i64(0)],
        output_height=2,
        output_width=2,
        sampling_ratio=2,
        targets=(18, 20, 21),
    ),
    Case("QuantizeLinear", 13, [X, np.array(0.1, F32), np.array(3, np.uint8)]),
    Case(
        "GroupNormalization",
        18,
        [normal(2, 4, 3, 2), normal(2), normal(2)],
        num_groups=2,
        epsilon=0.01,
        targets=(21, 23),
    ),
    Case("Erf", 9, [X]),
    Case(
        "Scan",
        8,
        [None, normal(2, 3), normal(2, 4, 3)],
        outputs=2,
        num_scan_inputs=1,
        body=scan_8_body(),
    ),
    Case(
        "Scan",
        8,
        [None, normal(2, 3), normal(2, 4, 3)],
        outputs=2,
        num_scan_inputs=1,
        directions=[1],
        body=scan_8_body(),
    ),
]

# For what ONNX Runtime has no kernels.
REFERENCE_CASES = [
    Case("Erf", 9, [i64(-3, 0, 1, 5)], targets=(18,)),
    Case("ReduceLogSumExp", 18, [np.abs(X), i64(0)], targets=(28,)),
    Case("QuantizeLinear", 13, [np.array([3, -70, 900], np.int32), np.array(2, F32)], targets=(18, 19, 21)),
    Case("ReduceLogSum", 18, [np.abs(X), i64(0)], targets=(28,)),
    Case("DFT", 17, [normal(2, 5, 3, 1)], onesided=1, targets=(18, 20, 28)),
]


@pytest.mark.parametrize("case", REFERENCE_CASES, ids=repr)
def test_results_stay_the_same_by_the_reference(case: Case) -> None:
    model = case.plain()
    expected = run_reference(model, case.feeds)
    for info, array in zip(model.graph.output, expected, strict=True):
        info.CopyFrom(value_info(info.name, array))
    for to in (to for to in case.targets if to <= newest_opset()):
        assert_same(run_reference(upgraded(model, to), case.feeds), expected)


@pytest.mark.parametrize("case", CASES, ids=repr)
@pytest.mark.parametrize("form", ["plain", "hidden"])
def test_results_stay_the_same(case: Case, form: str) -> None:
    model = case.plain() if form == "plain" else case.hidden()
    feeds = dict(case.feeds) if form == "plain" else {**case.feeds, "cond": np.array(True)}
    expected = run_and_declare(model, feeds)
    for to in case.targets:
        if to > case.version:
            assert_same(run_ort(upgraded(model, to), feeds), expected)


def single(case: Case, *, to: int) -> tuple[list[str], onnx.ModelProto]:
    """The operators of the upgraded model, in order, and the model."""
    model = upgraded(case.plain(), to)
    return [node.op_type for node in model.graph.node], model


@pytest.mark.skipif(newest_opset() < 28, reason="integers are taken up to opset 27")
def test_logarithms_of_integers_are_truncated() -> None:
    """By ONNX Runtime before; no runtime takes integers any more after, so the reference runs doubles."""
    data = np.array([[3, 70], [12, 9]], np.int32)
    log_sum = Case("ReduceLogSum", 13, [data], axes=[1], keepdims=0).plain()
    expected = run_and_declare(log_sum, {"x0": data})
    assert_same(run_reference(upgraded(log_sum, 28), {"x0": data}), expected)
    feeds = {"x0": data.astype(np.int64), "x1": i64(0)}
    log_sum_exp = Case("ReduceLogSumExp", 18, list(feeds.values())).plain()
    exact = np.log(np.exp(data.astype(float)).sum(0, keepdims=True)).astype(np.int64)
    log_sum_exp.graph.output[0].CopyFrom(value_info("y0", exact))
    assert_same(run_reference(upgraded(log_sum_exp, 28), feeds), [exact])


# What is emitted


def test_every_adapter_is_run_by_a_test() -> None:
    reached = {step for case in (*CASES, *REFERENCE_CASES) for step in steps_of(case)}
    # Steps up to opset 7 are those of test_opset_first.py.
    assert {(op, version) for op, version in ADAPTERS if version > 7} - reached == set()


def steps_of(case: Case) -> set[tuple[str, int]]:
    renamed = {"Upsample": "Resize"}
    names = {case.op, renamed.get(case.op, case.op)}
    last = max(case.targets)
    return {(op, version) for op, version in ADAPTERS if op in names and case.version < version <= last}


@pytest.mark.parametrize(
    ("shape", "axis", "expected"),
    [
        ((2, 3), 1, ["Softmax"]),
        ((2, 3, 4), -1, ["Softmax"]),
        ((2, 5, 1, 1), 1, ["Softmax"]),
        ((1, 1, 7), 0, ["Softmax"]),
        ((2, 3, 4), 1, ["Flatten", "Softmax", "Shape", "Reshape"]),
    ],
)
def test_softmax_is_wrapped_only_where_it_must_be(
    shape: tuple[int, ...], axis: int, expected: list[str]
) -> None:
    assert single(Case("Softmax", 11, [normal(*shape)], axis=axis), to=18)[0] == expected


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 3), (2, 3, 0)])
def test_softmax_of_nothing(shape: tuple[int, ...]) -> None:
    case = Case("Softmax", 11, [np.zeros(shape, F32)])
    assert run_ort(upgraded(case.plain(), 18), case.feeds)[0].shape == shape


def test_constant_scales_in_one_direction_need_one_resize() -> None:
    for pair in ((2.0, 3.0), (0.5, 0.4), (1.0, 1.0)):
        case = Case("Resize", 10, [IMAGE, scales(*pair)], constants=[1])
        assert single(case, to=18)[0] == ["Resize"]


def test_scales_that_a_caller_can_override_are_not_read() -> None:
    model = Case("Resize", 10, [IMAGE, scales(2, 2)], constants=[1]).plain()
    model.graph.input.append(value_info("x1", scales(2, 2)))
    feeds = {"x0": IMAGE, "x1": scales(0.6, 0.4)}
    expected = run_and_declare(model, feeds)
    assert_same(run_ort(upgraded(model, 18), feeds), expected)


def test_half_and_double_precision_bounds() -> None:
    for dtype in (np.float16, np.float64):
        case = Case("Clip", 10, [normal(5, dtype=dtype)], min=-0.5, max=1e30)
        ops, model = single(case, to=18)
        assert ops == ["Clip"]
        bounds = [numpy_helper.to_array(t) for t in model.graph.initializer]
        assert [b.dtype for b in bounds] == [dtype, dtype]
        assert bounds[1] == np.inf if dtype == np.float16 else bounds[1] == F32(1e30)
        assert_same(run_reference(model, case.feeds), [np.maximum(case.feeds["x0"], dtype(-0.5))])


# Structure


def test_names_interface_and_provenance_are_kept() -> None:
    held = onnx_ir.from_proto(Case("Softmax", 11, [X], axis=1).plain())
    (node,) = held.graph
    provenance.set_origins(node, ["drawn"])
    data, result = held.graph.inputs[0], held.graph.outputs[0]
    assert upgrade(held)
    assert held.graph.inputs[0] is data
    assert held.graph.outputs[0] is result
    assert result.producer() is node
    assert result.name == "y0"
    names = [n.name for n in held.graph]
    assert names == ["blk/it_Flatten", "blk/it_Softmax", "blk/it_Shape", "blk/it"]
    assert {provenance.origins(n) for n in held.graph} == {("drawn",)}
    assert {n.doc_string for n in held.graph} == {"why"}


def test_new_names_avoid_taken_ones() -> None:
    nodes = [
        helper.make_node("Squeeze", ["x"], ["a"], name="n", axes=[0]),
        helper.make_node("Squeeze", ["n_axes"], ["b"], name="n_Squeeze", axes=[0]),
    ]
    arrays = {"x": normal(1, 2), "n_axes": normal(1, 3)}
    model = model_of(nodes, [value_info(n, a) for n, a in arrays.items()], ["a", "b"], 11)
    expected = run_and_declare(model, arrays)
    result = upgraded(model, 18)
    assert len({t.name for t in result.graph.initializer} | set(arrays)) == 4
    assert_same(run_ort(result, arrays), expected)


def test_weights_are_the_same_tensors() -> None:
    weight = normal(4, 4)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Softmax", ["m"], ["y"])]
    held = onnx_ir.from_proto(model_of(nodes, [value_info("x", normal(2, 4))], ["y"], 9, [("w", weight)]))
    tensor = held.graph.initializers["w"].const_value
    assert upgrade(held)
    assert held.graph.initializers["w"].const_value is tensor


def test_ir_version_is_raised_only_for_new_constants() -> None:
    for case, expected in ((Case("Relu", 7, [X]), 3), (Case("Slice", 7, [X], starts=[0], ends=[1]), 4)):
        model = case.plain()
        model.ir_version = 3
        held = onnx_ir.from_proto(model)
        assert upgrade(held)
        assert held.ir_version == expected


def test_models_at_or_above_the_target_stay_as_they_are() -> None:
    for version in (18, 20, newest_opset()):
        held = onnx_ir.from_proto(Case("Relu", version, [X]).plain())
        before = onnx_ir.to_proto(held).SerializeToString()
        assert not upgrade(held)
        assert onnx_ir.to_proto(held).SerializeToString() == before


def test_upgrading_in_two_steps_is_upgrading_once() -> None:
    for case in CASES:
        if case.version < 18:
            once = onnx_ir.from_proto(case.plain())
            twice = onnx_ir.from_proto(case.plain())
            upgrade(once, 21)
            upgrade(twice, 18)
            upgrade(twice, 21)
            assert onnx_ir.to_proto(once) == onnx_ir.to_proto(twice), case


def test_outputs_without_a_name_do_not_train() -> None:
    model = Case("BatchNormalization", 9, [BATCH, *PER_CHANNEL], outputs=5, used=1).plain()
    trained = upgraded(model, 18)
    assert [a.name for a in trained.graph.node[0].attribute] == ["training_mode"]
    assert list(trained.graph.node[0].output) == ["y0", "y1", "y2"]
    model.graph.node[0].output[1:] = [""] * 4
    inferred = upgraded(model, 18)
    assert not inferred.graph.node[0].attribute
    assert list(inferred.graph.node[0].output) == ["y0"]


def test_ai_onnx_is_the_default_domain() -> None:
    model = Case("Slice", 9, [X], starts=[0], ends=[1]).plain()
    expected = run_and_declare(model, {"x0": X})
    model.opset_import[0].domain = "ai.onnx"
    assert_same(run_ort(upgraded(model, 18), {"x0": X}), expected)


def test_other_domains_are_left_alone() -> None:
    nodes = [
        helper.make_node("Softmax", ["x"], ["a"], axis=0),
        helper.make_node("Softmax", ["a"], ["y"], axis=2),
    ]
    model = model_of(nodes, [value_info("x", X)], [], 11)
    model.graph.node[0].domain = "com.acme"
    model.opset_import.append(helper.make_opsetid("com.acme", 3))
    held = onnx_ir.from_proto(model)
    assert upgrade(held)
    assert held.opset_imports == {"": 18, "com.acme": 3}
    assert held.graph[0].attributes["axis"].as_int() == 0


def nested_body_model() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A Loop whose body holds a Scan whose body holds an If, with old nodes at every level."""
    info = helper.make_tensor_value_info
    branch = helper.make_graph(
        [helper.make_node("Softmax", ["sum"], ["soft"], axis=0)], "branch", [], [info("soft", 1, None)]
    )
    other = helper.make_graph(
        [helper.make_node("Clip", ["sum"], ["total"], min=0.0)], "other", [], [info("total", 1, None)]
    )
    scan_body = helper.make_graph(
        [
            helper.make_node("Clip", ["element"], ["clipped"], min=-0.5, max=0.5),
            helper.make_node("Add", ["state", "clipped"], ["sum"]),
            helper.make_node("If", ["keep"], ["picked"], then_branch=branch, else_branch=other),
            helper.make_node("Add", ["sum", "picked"], ["state_out"]),
            helper.make_node("Identity", ["picked"], ["shown"]),
        ],
        "scan",
        [info("state", 1, [3]), info("element", 1, [3])],
        [info("state_out", 1, [3]), info("shown", 1, None)],
    )
    loop_body = helper.make_graph(
        [
            helper.make_node("Scan", ["carried", "table"], ["c", "s"], body=scan_body, num_scan_inputs=1),
            helper.make_node("Unsqueeze", ["s"], ["u"], axes=[0]),
            helper.make_node("Squeeze", ["u"], ["row"], axes=[0]),
            helper.make_node("Identity", ["keep"], ["keep_out"]),
        ],
        "loop",
        [info("i", 7, []), info("keep", 9, []), info("carried", 1, [3])],
        [info("keep_out", 9, []), info("c", 1, [3]), info("row", 1, None)],
    )
    nodes = [helper.make_node("Loop", ["trips", "go", "start"], ["end", "rows"], body=loop_body)]
    feeds = {
        "trips": np.array(3, np.int64),
        "go": np.array(True),
        "start": normal(3),
        "table": normal(4, 3),
    }
    return model_of(nodes, [value_info(n, a) for n, a in feeds.items()], ["end", "rows"], 10), feeds


@pytest.mark.parametrize("to", TARGETS)
def test_bodies_within_bodies(to: int) -> None:
    model, feeds = nested_body_model()
    expected = run_and_declare(model, feeds)
    result = upgraded(model, to)
    assert_same(run_ort(result, feeds), expected)
    assert not result.graph.initializer  # constants belong to the body that uses them


# Errors


def bad_nodes() -> dict[str, onnx.ModelProto]:
    sequence_lens = Case(
        "Scan",
        8,
        [i64(4, 2), normal(2, 3), normal(2, 4, 3)],
        outputs=2,
        num_scan_inputs=1,
        body=scan_8_body(),
    )
    no_inputs = Case("BatchNormalization", 7, [BATCH, *PER_POSITION], spatial=0).plain()
    del no_inputs.graph.node[0].input[:]
    return {
        "no such operator": Case("Affine", 7, [X], alpha=1.0).plain(),
        "operator of a later opset": Case("Gelu", 11, [X]).plain(),
        "operator removed before": Case("Upsample", 11, [IMAGE, scales(2, 2)]).plain(),
        "attribute missing": Case("Unsqueeze", 11, [X]).plain(),
        "attribute of another type": Case("Squeeze", 11, [X], axes=[0.5]).plain(),
        "mode of another type": Case("Resize", 10, [IMAGE, scales(2, 2)], mode=1).plain(),
        "inputs missing": no_inputs,
        "too many inputs": Case("Clip", 9, [X, X], max=1.0).plain(),
        "negative k": Case("TopK", 9, [X], outputs=2, k=-1).plain(),
        "lengths differ": Case("Slice", 9, [X], starts=[0], ends=[1, 2]).plain(),
        "mask used": Case("Dropout", 7, [X], outputs=2).plain(),
        "saved mean used": Case("BatchNormalization", 9, [BATCH, *PER_CHANNEL], outputs=5, used=4).plain(),
        "training per position": Case(
            "BatchNormalization", 7, [BATCH, *PER_POSITION], outputs=5, used=1, spatial=0
        ).plain(),
        "rounding without an equal": Case(
            "Resize",
            11,
            [IMAGE, NO_SCALES, scales(2, 2)],
            coordinate_transformation_mode="tf_half_pixel_for_nn",
            nearest_mode="ceil",
        ).plain(),
        "sequence lengths": sequence_lens.plain(),
    }


@pytest.mark.parametrize("name", bad_nodes())
def test_what_cannot_be_upgraded_is_named_and_leaves_the_model_alone(name: str) -> None:
    model = bad_nodes()[name]
    # A node before it that can be upgraded must not be, either.
    good = helper.make_node("Slice", ["x0"], ["unused"], starts=[0], ends=[1])
    if model.opset_import[0].version < 10:
        model.graph.node.insert(0, good)
    held = onnx_ir.from_proto(model)
    before = onnx_ir.to_proto(held).SerializeToString()
    with pytest.raises(ModelError, match=r"GO109 \w+ 'blk/it'"):
        upgrade(held)
    assert onnx_ir.to_proto(held).SerializeToString() == before


@pytest.mark.parametrize("version", [0, -1, newest_opset() + 1])
def test_unsupported_opsets(version: int) -> None:
    held = onnx_ir.from_proto(Case("Relu", version, [X]).plain())
    with pytest.raises(ModelError, match="GO106"):
        upgrade(held)


def test_missing_import() -> None:
    model = Case("Relu", 9, [X]).plain()
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("com.acme", 1))
    with pytest.raises(ModelError, match=r"GO106 Relu 'blk/it'"):
        upgrade(onnx_ir.from_proto(model))
    model.graph.node[0].domain = "com.acme"
    assert not upgrade(onnx_ir.from_proto(model))


def test_arguments_and_preconditions() -> None:
    model = Case("Relu", 9, [X]).plain()
    for to in (17, newest_opset() + 1):
        with pytest.raises(UsageError, match="GO701"):
            upgrade(onnx_ir.from_proto(model), to)
    local = helper.make_function(
        "acme", "F", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], [helper.make_opsetid("", 9)]
    )
    model.functions.append(local)
    with pytest.raises(InvariantError, match="GO901"):
        upgrade(onnx_ir.from_proto(model))


# The tables


def all_steps() -> set[tuple[str, int]]:
    history = collections.defaultdict(set)
    for known in onnx.defs.get_all_schemas_with_history():
        if known.domain == "":
            history[known.name].add(known.since_version)
    return {
        (name, version)
        for name, versions in history.items()
        for version in sorted(versions)[1:]
        if version > opset.OLDEST_OPSET
    }


def compatible_steps() -> list[tuple[str, int]]:
    return [(op, version) for version, names in COMPATIBLE.items() for op in names.split()]


def test_every_step_is_decided_exactly_once() -> None:
    """A newer onnx makes this test name the steps that somebody has to read and decide."""
    decided = [*compatible_steps(), *ADAPTERS]
    assert sorted(all_steps() - set(decided)) == []
    assert [step for step, count in collections.Counter(decided).items() if count > 1] == []
    known = {(op, version) for op, version in decided if version <= newest_opset()}
    assert sorted(known - all_steps()) == []


def test_compatible_steps_are_compatible_in_structure() -> None:
    differing = {
        (op, version): incompatibility(older, newer)
        for op, version in compatible_steps()
        if version <= newest_opset()
        and (older := schema(op, version - 1))
        and (newer := schema(op, version))
        and incompatibility(older, newer)
    }
    assert differing == {}


def test_structure_gives_away_most_steps_that_need_an_adapter() -> None:
    """Those that it does not give away changed the meaning only, which is why the tables exist."""
    silent = {
        (op, version)
        for op, version in ADAPTERS
        if version <= newest_opset()
        and (older := schema(op, version - 1))
        and (newer := schema(op, version))
        and incompatibility(older, newer) is None
    }
    assert silent == {
        ("GroupNormalization", 21),
        ("PRelu", 7),
        ("Resize", 13),
        ("RoiAlign", 16),
        ("Split", 18),
    }


def test_unknown_steps_are_judged_by_their_structure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opset, "ADAPTERS", {})
    monkeypatch.setattr(opset, "_compatible_at", lambda version: frozenset())
    upgraded(Case("MaxPool", 7, [X], kernel_shape=[2]).plain(), 18)
    for case, reason in (
        (Case("Slice", 9, [X], starts=[0], ends=[1]), "input 'starts' became required"),
        (Case("Clip", 10, [X], max=1.0), "attribute 'm.." + "' was removed"),
        (Case("Softmax", 11, [X]), "attribute 'axis' changed"),
        (Case("Upsample", 9, [IMAGE, scales(2, 2)]), "it was removed"),
        (Case("QuantizeLinear", 13, [X, np.array(0.1, F32)]), "must now be of one type"),
    ):
        with pytest.raises(ModelError, match=reason):
            upgrade(onnx_ir.from_proto(case.plain()), 19)


# The backend suite


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # overflows that the suite means
def test_backend_suite_gives_the_same_results() -> None:
    """Every node model of the suite, by ONNX Runtime where it has the operators, else by the reference."""
    from onnx.backend.test.case.node import collect_testcases

    compared = collections.Counter[int]()
    for case in collect_testcases(None):
        imports = {o.domain: o.version for o in case.model.opset_import}
        version = imports.get("", 0)
        if not opset.OLDEST_OPSET <= version < newest_opset() or case.model.functions or not case.data_sets:
            continue
        if "bernoulli" in case.name:  # random
            continue
        feeds = dict(zip((i.name for i in case.model.graph.input), case.data_sets[0][0], strict=True))
        to = CANONICAL_OPSET if version < CANONICAL_OPSET else newest_opset()
        held = onnx_ir.from_proto(case.model)
        upgrade(held, to)
        result = onnx_ir.to_proto(held)
        run = run_ort if to == CANONICAL_OPSET else run_reference
        try:
            expected = run(case.model, feeds)
        except Exception:  # whatever it is that this runtime lacks, it lacks before any upgrade
            continue
        assert_same(run(result, feeds), expected)
        compared[to] += 1
    assert compared[CANONICAL_OPSET] > 400
    assert compared[newest_opset()] > 800
