"""Upgrades from opsets 1 to 6, which ONNX Runtime has no kernels for.

The oracle is the same operation written for a later opset, or numpy.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
from ir.test_opset import (
    F32,
    IMAGE,
    PER_CHANNEL,
    Case,
    X,
    assert_same,
    i64,
    normal,
    run_ort,
    upgraded,
    value_info,
)
from onnx import helper

from graphopt.errors import ModelError
from graphopt.ir.ingest import normalize
from graphopt.ir.io import load
from graphopt.ir.opset import upgrade
from graphopt.ir.opset_adapters import ADAPTERS

POSITIVE = np.abs(X) + 0.5
FLAGS = X > 0
WHOLE = (X * 3).astype(np.int64)
ROW, COLUMN, MIDDLE = normal(4), normal(2), normal(3, 4)
BATCH = normal(3, 2, 4)
SEQUENCE = normal(5, 2, 3)


def recurrent(op: str, gates: int) -> tuple[Case, Case]:
    weights = [normal(1, gates * 2, 3), normal(1, gates * 2, 2)]
    old = Case(op, 1, [SEQUENCE, *weights], outputs=2, hidden_size=2, output_sequence=1)
    if op == "GRU":
        old = Case(op, 1, [SEQUENCE, *weights], outputs=2, hidden_size=2, direction="foward")
    return old, Case(op, 7, [SEQUENCE, *weights], outputs=2, hidden_size=2)


# The old form, and the same in opset 7 or later.
PAIRS: list[tuple[Case, Case]] = [
    *(
        (Case(op, 1, [POSITIVE], consumed_inputs=[0]), Case(op, 7, [POSITIVE]))
        for op in "Abs Ceil Elu Exp Floor HardSigmoid LeakyRelu Log Neg Reciprocal Relu Sigmoid Sqrt Tanh".split()
    ),
    (Case("Elu", 5, [X], alpha=0.3), Case("Elu", 7, [X], alpha=0.3)),
    (Case("Selu", 1, [X]), Case("Selu", 7, [X], alpha=1.6732, gamma=1.0507)),
    (Case("Selu", 1, [X], alpha=0.5, gamma=2.0), Case("Selu", 7, [X], alpha=0.5, gamma=2.0)),
    (Case("Clip", 1, [X], max=0.5, consumed_inputs=[0]), Case("Clip", 7, [X], max=0.5)),
    (Case("Dropout", 1, [X], is_test=1, consumed_inputs=[0]), Case("Dropout", 7, [X])),
    (Case("Dropout", 6, [X], is_test=1, ratio=0.9), Case("Dropout", 7, [X])),
    *(
        (Case(op, 1, [X, X + 1, POSITIVE], consumed_inputs=[0, 0, 0]), Case(op, 8, [X, X + 1, POSITIVE]))
        for op in ("Max", "Mean", "Min", "Sum")
    ),
    (
        Case("InstanceNormalization", 1, [IMAGE, COLUMN, COLUMN + 1], consumed_inputs=[0]),
        Case("InstanceNormalization", 7, [IMAGE, COLUMN, COLUMN + 1]),
    ),
    *(
        (
            Case("BatchNormalization", version, [BATCH, *PER_CHANNEL], is_test=1, epsilon=0.01, **more),
            Case("BatchNormalization", 7, [BATCH, *PER_CHANNEL], epsilon=0.01),
        )
        for version, more in ((1, {"consumed_inputs": [0, 0, 0, 1, 1]}), (6, {"spatial": 1}))
    ),
    (
        Case("BatchNormalization", 6, [BATCH, *PER_CHANNEL], momentum=0.6),
        Case(
            "BatchNormalization", 15, [BATCH, *PER_CHANNEL], momentum=0.6, training_mode=1, outputs=3, used=1
        ),
    ),
    (
        Case("BatchNormalization", 6, [BATCH, *PER_CHANNEL], momentum=0.6, outputs=5, used=3),
        Case("BatchNormalization", 15, [BATCH, *PER_CHANNEL], momentum=0.6, training_mode=1, outputs=3),
    ),
    recurrent("GRU", 3),
    recurrent("LSTM", 4),
    recurrent("RNN", 1),
    (Case("Cast", 1, [X], to="INT32"), Case("Cast", 7, [X], to=onnx.TensorProto.INT32)),
    (Case("Cast", 5, [X], to="float16"), Case("Cast", 7, [X], to=onnx.TensorProto.FLOAT16)),
    (Case("Concat", 1, [X, X]), Case("Concat", 7, [X, X], axis=1)),
    (Case("Concat", 3, [X, X], axis=2), Case("Concat", 7, [X, X], axis=2)),
    (Case("GlobalLpPool", 1, [IMAGE], p=3.0), Case("GlobalLpPool", 7, [IMAGE], p=3)),
    (
        Case("LpPool", 1, [IMAGE], p=1.0, kernel_shape=[2, 2]),
        Case("LpPool", 7, [IMAGE], p=1, kernel_shape=[2, 2]),
    ),
    (Case("LpPool", 1, [IMAGE], kernel_shape=[2, 3]), Case("LpPool", 7, [IMAGE], kernel_shape=[2, 3])),
    (
        Case("Pad", 1, [X], paddings=[0, 1, 2, 1, 0, 3], value=1.5),
        Case("Pad", 7, [X], pads=[0, 1, 2, 1, 0, 3], value=1.5),
    ),
    (Case("Reshape", 1, [X], shape=[0, -1]), Case("Reshape", 7, [X, i64(0, -1)])),
    (Case("Reshape", 1, [X], shape=[4, 6], consumed_inputs=[0]), Case("Reshape", 7, [X, i64(4, 6)])),
    (Case("Split", 1, [X], outputs=2, axis=2), Case("Split", 7, [X], outputs=2, axis=2)),
    (
        Case("Split", 1, [X, np.array([1, 3], F32)], outputs=2, axis=2),
        Case("Split", 7, [X], outputs=2, axis=2, split=[1, 3]),
    ),
    *(
        (Case("Tile", 1, [X, np.array(tiles, F32), np.array(axis, F32)]), Case("Tile", 7, [X, i64(*repeats)]))
        for tiles, axis, repeats in ((2, 1, (1, 2, 1)), (3, 0, (3, 1, 1)), (1, 2, (1, 1, 1)))
    ),
    *(
        (
            Case("Upsample", 1, [IMAGE], mode=old, height_scale=2.0, width_scale=3.0),
            Case("Upsample", 7, [IMAGE], mode=new, scales=[1.0, 1.0, 2.0, 3.0]),
        )
        for old, new in (("nearest", "nearest"), ("bilinear", "linear"))
    ),
    *(
        (Case("PRelu", version, [x, slope]), Case("PRelu", 7, [x, shaped]))
        for version in (1, 6)
        for x, slope, shaped in (
            (IMAGE, COLUMN, COLUMN.reshape(2, 1, 1)),
            (IMAGE, COLUMN[:1], COLUMN[:1]),
            (normal(5, 2), COLUMN, COLUMN),
            (normal(5), COLUMN[:1], COLUMN[:1]),
        )
    ),
]

BROADCASTS: list[tuple[np.ndarray, dict[str, int], tuple[int, ...]]] = [
    (X[..., ::-1].copy(), {}, X.shape),
    (ROW, {"broadcast": 1}, (4,)),
    (MIDDLE, {"broadcast": 1}, (3, 4)),
    (MIDDLE[:, 0].copy(), {"broadcast": 1, "axis": 1}, (3, 1)),
    (X[:, :, 0].copy(), {"broadcast": 1, "axis": 0}, (2, 3, 1)),
    (COLUMN, {"broadcast": 1, "axis": 0}, (2, 1, 1)),
    (MIDDLE, {"broadcast": 1, "axis": 1}, (3, 4)),
    (ROW, {"broadcast": 1, "axis": -1}, (4,)),
    (MIDDLE[:, 0].copy(), {"broadcast": 1, "axis": -2}, (3, 1)),
    (np.array(2.5, F32), {"broadcast": 1}, ()),
    (np.array([[2.5]], F32), {"broadcast": 1, "axis": 2}, (1, 1)),
    (np.array(2.5, F32), {"broadcast": 1, "axis": 1}, ()),
]
FUNCTIONS = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": lambda a, b: np.power(np.abs(a), b),
    "And": np.logical_and,
    "Or": np.logical_or,
    "Xor": np.logical_xor,
    "Equal": np.equal,
    "Greater": np.greater,
    "Less": np.less,
}


def check(case: Case, expected: list[np.ndarray], form: str) -> None:
    model = case.plain() if form == "plain" else case.hidden()
    feeds = dict(case.feeds) if form == "plain" else {**case.feeds, "cond": np.array(True)}
    for info, array in zip(model.graph.output, expected, strict=True):
        info.CopyFrom(value_info(info.name, array, dynamic=True))
    for to in (18, 21):
        assert_same(run_ort(upgraded(model, to), feeds), expected)


def expected_of(case: Case) -> list[Any]:
    model = case.plain()
    return run_ort(model, case.feeds)


@pytest.mark.parametrize(("old", "new"), PAIRS, ids=repr)
@pytest.mark.parametrize("form", ["plain", "hidden"])
def test_the_later_form_gives_the_same(old: Case, new: Case, form: str) -> None:
    check(old, expected_of(new), form)


@pytest.mark.parametrize("form", ["plain", "hidden"])
@pytest.mark.parametrize("op", sorted(FUNCTIONS))
def test_broadcasting(op: str, form: str) -> None:
    """Every arrangement that the specification draws, and that of equal shapes."""
    for b, attributes, shape in BROADCASTS:
        left, right = np.abs(X) if op == "Pow" else X, b
        if op in ("And", "Or", "Xor"):
            left, right = left > 0, np.asarray(right > 0)
        elif op == "Equal":
            left, right = np.rint(left).astype(np.int32), np.asarray(np.rint(right), np.int32)
        expected = FUNCTIONS[op](left, right.reshape(shape))
        for version in (1, 6) if op in ("Add", "Less") else (6,):
            check(Case(op, version, [left, right], **attributes), [expected], form)


@pytest.mark.parametrize("version", [1, 6])
@pytest.mark.parametrize("c", [normal(2, 4), ROW, normal(2, 1), normal(1)], ids=lambda c: str(c.shape))
def test_gemm(version: int, c: np.ndarray) -> None:
    a, b = normal(3, 2), normal(3, 4)
    case = Case("Gemm", version, [a, b, c], transA=1, alpha=0.5, beta=2.0, broadcast=int(c.shape != (2, 4)))
    check(case, [(0.5 * (a.T @ b) + 2 * c).astype(F32)], "plain")


def test_average_pool_leaves_out_the_padding() -> None:
    case = Case("AveragePool", 1, [IMAGE], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    new = Case("AveragePool", 7, [IMAGE], kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=0)
    check(case, expected_of(new), "plain")


@pytest.mark.parametrize("version", [1, 6])
def test_dropout_that_trains_still_does(version: int) -> None:
    """Training is the default: some elements are dropped, and the others scaled."""
    ones = np.ones((40, 50), F32)
    model = Case("Dropout", version, [ones], ratio=0.25).plain()
    model.graph.output[0].CopyFrom(value_info("y0", ones))
    [found] = run_ort(upgraded(model, 18), {"x0": ones})
    assert set(np.unique(found)) == {F32(0), F32(1 / 0.75)}
    assert math.isclose((found == 0).mean(), 0.25, abs_tol=0.05)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (Case("Cast", 1, [X], to="NUMBER"), "names no element type"),
        (Case("LpPool", 1, [IMAGE], p=2.5, kernel_shape=[2, 2]), "no integer"),
        (Case("LpPool", 1, [IMAGE]), "'kernel_shape' is missing"),
        (Case("BatchNormalization", 6, [BATCH, *PER_CHANNEL], spatial=0), "spatial=0"),
        (Case("BatchNormalization", 6, [BATCH, *PER_CHANNEL], is_test=1, outputs=3), "exists in no newer"),
        (Case("Dropout", 6, [X], outputs=2), "exists in no newer"),
    ],
    ids=repr,
)
def test_what_has_no_equal(case: Case, message: str) -> None:
    held = onnx_ir.from_proto(case.plain())
    with pytest.raises(ModelError, match=message):
        upgrade(held)


def test_every_first_step_is_run_by_a_test() -> None:
    ran = {case.op: case.version for case, _ in reversed(PAIRS)}
    ran |= dict.fromkeys(FUNCTIONS, 1) | {"Gemm": 1}
    missing = {
        (op, version)
        for op, version in ADAPTERS
        if version <= 7
        and min((c.version for c, _ in PAIRS if c.op == op), default=ran.get(op, 9)) >= version
    }
    assert missing == set()


def test_a_whole_model_is_ingested() -> None:
    """Initializers that are inputs, and steps of several opsets in one graph."""
    nodes = [
        helper.make_node("Reshape", ["x"], ["r"], shape=[0, 2, 2]),
        helper.make_node("Add", ["r", "bias"], ["s"], broadcast=1, axis=1),
        helper.make_node("Cast", ["s"], ["y"], to="DOUBLE"),
    ]
    bias = onnx.numpy_helper.from_array(np.array([1, 2], F32), "bias")
    x, y = (helper.make_tensor_value_info(n, t, s) for n, t, s in (("x", 1, [3, 4]), ("y", 11, [3, 2, 2])))
    graph = helper.make_graph(nodes, "old", [x, helper.make_tensor_value_info("bias", 1, [2])], [y], [bias])
    model = normalize(
        load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 1)], ir_version=3))
    )
    data = normal(3, 4)
    [found] = run_ort(onnx_ir.to_proto(model), {"x": data})
    np.testing.assert_allclose(found, data.reshape(3, 2, 2) + np.array([[1], [2]], F32), rtol=1e-6)
