"""Sizes remembered between convolutions and pools are those that inference works out."""

from __future__ import annotations

import pytest
from checking import model_from

from graphopt.ir import shape_memo
from graphopt.ir.io import read
from graphopt.ir.shapes import infer_shapes

NODES = {
    "Conv<strides = [2, 1], pads = [1, 0, 1, 0]>(x, w)": "Conv<strides = [2, 1], pads = [1, 0, 1, 0]>(x2, w2)",
    "Conv<group = 4, dilations = [2, 2]>(x, d)": "Conv<group = 8, dilations = [2, 2]>(x2, d2)",
    "ConvTranspose<strides = [2, 2], group = 2>(x, w)": "ConvTranspose<strides = [2, 2], group = 2>(x2, w2)",
    "MaxPool<kernel_shape = [3, 3], ceil_mode = 1, strides = [2, 2]>(x)": (
        "MaxPool<kernel_shape = [3, 3], ceil_mode = 1, strides = [2, 2]>(x2)"
    ),
    "AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x)": (
        "AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x2)"
    ),
}


def shapes_of(*nodes: str) -> list[tuple[object, ...]]:
    lines = " ".join(f"y{i} = {node}" for i, node in enumerate(nodes))
    results = ", ".join(f"float[A{i}, B{i}, C{i}, D{i}] y{i}" for i in range(len(nodes)))
    model = model_from(
        f"""g (float[N, 4, H, W] x, float[M, 8, H, W] x2, float[6, 4, 3, 3] w, float[10, 8, 3, 3] w2,
        float[4, 1, 3, 3] d, float[8, 1, 3, 3] d2) => ({results}) {{ {lines} }}"""
    )
    infer_shapes(model)
    return [tuple(map(str, v.shape.dims)) for v in model.graph.outputs if v.shape is not None]


@pytest.mark.parametrize(("first", "second"), NODES.items())
def test_what_is_remembered_is_what_is_inferred(
    first: str, second: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shape_memo, "_known", {})
    with monkeypatch.context() as without:
        without.setattr(shape_memo, "MAX_FORMS", 0)
        expected = [shapes_of(first)[0], shapes_of(second)[0]]
    shape_memo._known.clear()
    assert shapes_of(first, second) == expected
    assert len(shape_memo._known) == 1


def test_other_sizes_and_attributes_are_other_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shape_memo, "_known", {})
    pools = [f"MaxPool<kernel_shape = [{k}, 3], strides = [{s}, 1]>(x)" for k in (2, 3) for s in (1, 2)]
    found = shapes_of(*pools)
    assert len(set(found)) == 4
    assert len(shape_memo._known) == 4


def test_sizes_that_get_names_of_their_own_are_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shape_memo, "_known", {})
    pool = 'AveragePool<kernel_shape = [3, 3], auto_pad = "SAME_UPPER", strides = [2, 2]>(x)'
    first, second = shapes_of(pool, pool)
    assert first[2:] != second[2:]
    assert not shape_memo._known


def test_the_indices_of_a_pool_are_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shape_memo, "_known", {})
    model = model_from(
        """g (float[N, 4, H, W] x) => (float[A, B, C, D] y, int64[E, F, G, I] z) {
        u = MaxPool<kernel_shape = [2, 2]>(x) y, z = MaxPool<kernel_shape = [2, 2]>(x) }"""
    )
    infer_shapes(model)
    assert [v.dtype.name for v in model.graph.outputs if v.dtype is not None] == ["FLOAT", "INT64"]
    assert len({str(v.shape) for v in model.graph.outputs}) == 1


def test_operators_without_inputs_are_inferred() -> None:
    model = read(
        '<ir_version: 10, opset_import: ["" : 18]> g (float[N] x) => (float[N] y, string[2] s) '
        '{ c = Constant <value = float {2.0}> () y = Mul (x, c) s = Constant <value_strings = ["a", "b"]> () }'
    )
    infer_shapes(model)
    found = {
        v.name: (str(v.dtype), v.shape.numpy()) for n in model.graph for v in n.outputs if v.name in "cs"
    }
    assert found == {"c": ("FLOAT", ()), "s": ("STRING", (2,))}
