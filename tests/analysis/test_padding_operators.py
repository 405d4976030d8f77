"""Padding and the less usual operators: ONNX Runtime's own, quantized ones, ai.onnx.ml, and rare forms."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from checking import model_from, run_onnxruntime, run_xla
from onnx import TensorProto, helper
from padded_runs import PADDED, check_proof

from graphopt.analysis.padding import prove_padding
from graphopt.analysis.padding.operators import BATCHED
from graphopt.errors import UnsupportedError
from graphopt.ir import Model
from graphopt.ir.io import load

F, INT = TensorProto.FLOAT, TensorProto.INT64
Shape = list[object]


def one_node(
    op: str,
    inputs: dict[str, tuple[int, Shape] | np.ndarray | None],
    outputs: int = 1,
    *,
    domain: str = "",
    opset: int = 18,
    **attributes: object,
) -> Model:
    """A model of one node; arrays are constants, pairs of type and shape are fed."""
    node = helper.make_node(
        op,
        [name if given is not None else "" for name, given in inputs.items()],
        [f"y{i}" for i in range(outputs)],
        domain=domain,
        **attributes,
    )
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(n, *g) for n, g in inputs.items() if isinstance(g, tuple)],
        [onnx.ValueInfoProto(name=name) for name in node.output],
        [onnx.numpy_helper.from_array(g, n) for n, g in inputs.items() if isinstance(g, np.ndarray)],
    )
    imports = [helper.make_opsetid("", opset)]
    if domain:
        imports.append(helper.make_opsetid(domain, 1 if domain == "com.microsoft" else 3))
    return load(helper.make_model(graph, opset_imports=imports, ir_version=10))


def numbers(*shape: int, dtype: str = "float32") -> np.ndarray:
    return (np.arange(np.prod(shape, dtype=int)).reshape(shape) % 7 + 1).astype(dtype)


MS, ML = "com.microsoft", "ai.onnx.ml"
SCALE, ZERO = np.array(0.5, "float32"), np.array(3, "uint8")
X = (F, ["N", 4])
IMAGE = (F, ["N", 2, 4, 4])

PROVEN: dict[str, Model] = {
    "FusedMatMul": one_node("FusedMatMul", {"a": (F, [4, "N"]), "b": numbers(4, 3)}, domain=MS, transA=1),
    "BiasGelu": one_node("BiasGelu", {"a": X, "b": numbers(4)}, domain=MS),
    "SkipLayerNormalization": one_node(
        "SkipLayerNormalization",
        {"a": (F, ["N", 2, 4]), "b": (F, ["N", 2, 4]), "c": numbers(4), "d": numbers(4)},
        domain=MS,
    ),
    "FusedConv": one_node("FusedConv", {"a": IMAGE, "w": numbers(1, 2, 2, 2)}, domain=MS, activation="Relu"),
    "MultiHeadAttention": one_node(
        "MultiHeadAttention",
        {"q": (F, ["N", 3, 4]), "k": (F, ["N", 3, 4]), "v": (F, ["N", 3, 4])},
        domain=MS,
        num_heads=2,
    ),
    "MultiHeadAttention with a bias of all": one_node(
        "MultiHeadAttention",
        {
            **{name: (F, ["N", 3, 4]) for name in "qkv"},
            "b": None,
            "m": None,
            "r": numbers(1, 2, 3, 3),
        },
        domain=MS,
        num_heads=2,
    ),
    "RotaryEmbedding of com.microsoft": one_node(
        "RotaryEmbedding",
        {"x": (F, ["N", 3, 4]), "p": (INT, ["N", 3]), "c": numbers(8, 2), "s": numbers(8, 2)},
        domain=MS,
        num_heads=1,
    ),
    "EmbedLayerNormalization": one_node(
        "EmbedLayerNormalization",
        {
            "i": (TensorProto.INT32, ["N", 3]),
            "s": None,
            "w": numbers(5, 4),
            "p": numbers(8, 4),
            "t": None,
            "g": numbers(4),
            "b": numbers(4),
        },
        2,
        domain=MS,
    ),
    "QLinearAdd": one_node(
        "QLinearAdd",
        {
            "a": (TensorProto.UINT8, ["N", 4]),
            "as": SCALE,
            "az": ZERO,
            "b": (TensorProto.UINT8, ["N", 4]),
            "bs": SCALE,
            "bz": ZERO,
            "cs": SCALE,
            "cz": ZERO,
        },
        domain=MS,
    ),
    "QLinearSigmoid": one_node(
        "QLinearSigmoid",
        {"a": (TensorProto.UINT8, ["N", 4]), "as": SCALE, "az": ZERO, "cs": SCALE, "cz": ZERO},
        domain=MS,
    ),
    "QLinearMatMul": one_node(
        "QLinearMatMul",
        {
            "a": (TensorProto.UINT8, ["N", 4]),
            "as": SCALE,
            "az": ZERO,
            "b": numbers(4, 2, dtype="uint8"),
            "bs": SCALE,
            "bz": ZERO,
            "cs": SCALE,
            "cz": ZERO,
        },
    ),
    "QLinearConv": one_node(
        "QLinearConv",
        {
            "a": (TensorProto.UINT8, ["N", 2, 4, 4]),
            "as": SCALE,
            "az": ZERO,
            "b": numbers(1, 2, 2, 2, dtype="uint8"),
            "bs": SCALE,
            "bz": ZERO,
            "cs": SCALE,
            "cz": ZERO,
        },
    ),
    "MatMulInteger": one_node(
        "MatMulInteger", {"a": (TensorProto.UINT8, ["N", 4]), "b": numbers(4, 2, dtype="uint8")}
    ),
    "quantized channels": one_node(
        "QuantizeLinear", {"a": X, "s": numbers(4), "z": numbers(4, dtype="uint8")}, axis=1
    ),
    "Scaler": one_node("Scaler", {"a": X}, domain=ML, offset=[1.0] * 4, scale=[2.0] * 4),
    "Normalizer": one_node("Normalizer", {"a": X}, domain=ML, norm="L2"),
    "Binarizer": one_node("Binarizer", {"a": X}, domain=ML, threshold=0.5),
    "LinearRegressor": one_node("LinearRegressor", {"a": X}, domain=ML, coefficients=[1.0, 2.0, 3.0, 4.0]),
    "TreeEnsembleRegressor": one_node(
        "TreeEnsembleRegressor",
        {"a": X},
        domain=ML,
        n_targets=1,
        nodes_treeids=[0, 0, 0],
        nodes_nodeids=[0, 1, 2],
        nodes_featureids=[1, 0, 0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"],
        nodes_values=[0.0, 0.0, 0.0],
        nodes_truenodeids=[1, 0, 0],
        nodes_falsenodeids=[2, 0, 0],
        target_treeids=[0, 0],
        target_nodeids=[1, 2],
        target_ids=[0, 0],
        target_weights=[1.0, 2.0],
    ),
    "LabelEncoder": one_node(
        "LabelEncoder", {"a": (INT, ["N", 2])}, domain=ML, keys_int64s=[0, 1, 2], values_int64s=[5, 6, 7]
    ),
    "OneHotEncoder": one_node("OneHotEncoder", {"a": (INT, ["N"])}, domain=ML, cats_int64s=[0, 1, 2]),
    "ArrayFeatureExtractor": one_node(
        "ArrayFeatureExtractor", {"a": X, "i": np.array([2, 0], "int64")}, domain=ML
    ),
    "GRU, batch first": one_node(
        "GRU",
        {"x": (F, ["N", 3, 2]), "w": numbers(1, 6, 2), "r": numbers(1, 6, 2)},
        2,
        hidden_size=2,
        layout=1,
    ),
    "RNN with lengths": one_node(
        "RNN",
        {
            "x": (F, [3, "N", 2]),
            "w": numbers(1, 2, 2),
            "r": numbers(1, 2, 2),
            "b": None,
            "l": (TensorProto.INT32, ["N"]),
        },
        2,
        hidden_size=2,
    ),
    "ReverseSequence": one_node(
        "ReverseSequence", {"x": (F, ["N", 4]), "l": (INT, ["N"])}, batch_axis=0, time_axis=1
    ),
    "GridSample": one_node("GridSample", {"x": IMAGE, "g": (F, ["N", 2, 2, 2])}),
    "RoiAlign": one_node(
        "RoiAlign",
        {"x": numbers(3, 1, 4, 4), "r": (F, ["N", 4]), "i": (INT, ["N"])},
        output_height=1,
        output_width=1,
    ),
    "DepthToSpace": one_node("DepthToSpace", {"x": (F, ["N", 4, 2, 2])}, blocksize=2),
    "SpaceToDepth": one_node("SpaceToDepth", {"x": IMAGE}, blocksize=2),
    "ConvTranspose": one_node("ConvTranspose", {"x": IMAGE, "w": numbers(2, 1, 2, 2)}),
    "AveragePool": one_node("AveragePool", {"x": IMAGE}, kernel_shape=[2, 2]),
    "LpPool": one_node("LpPool", {"x": IMAGE}, kernel_shape=[2, 2]),
    "LRN": one_node("LRN", {"x": IMAGE}, size=1),
    "LpNormalization": one_node("LpNormalization", {"x": X}, axis=-1),
    "MeanVarianceNormalization": one_node("MeanVarianceNormalization", {"x": IMAGE}, axes=[2, 3]),
    "STFT": one_node(
        "STFT", {"x": (F, ["N", 8, 1]), "s": np.array(2, "int64"), "w": None, "l": np.array(4, "int64")}
    ),
    "CastLike": one_node("CastLike", {"x": X, "t": np.array([1], "float64")}),
    "PRelu": one_node("PRelu", {"x": X, "s": numbers(1)}),
    "GroupNormalization": one_node(
        "GroupNormalization", {"x": IMAGE, "s": numbers(2), "b": numbers(2)}, opset=21, num_groups=1
    ),
    "RMSNormalization": one_node("RMSNormalization", {"x": X, "s": numbers(4)}, opset=23),
    "RotaryEmbedding": one_node(
        "RotaryEmbedding",
        {"x": (F, ["N", 1, 3, 4]), "c": numbers(8, 2), "s": numbers(8, 2), "p": (INT, ["N", 3])},
        opset=23,
    ),
    "RotaryEmbedding with caches of its own": one_node(
        "RotaryEmbedding",
        {"x": (F, ["N", 1, 3, 4]), "c": (F, ["N", 3, 2]), "s": (F, ["N", 3, 2])},
        opset=23,
    ),
    "Attention with a past": one_node(
        "Attention",
        {
            "q": (F, ["N", 1, 2, 4]),
            "k": (F, ["N", 1, 2, 4]),
            "v": (F, ["N", 1, 2, 4]),
            "m": None,
            "pk": (F, ["N", 1, 3, 4]),
            "pv": (F, ["N", 1, 3, 4]),
        },
        3,
        opset=23,
        is_causal=1,
    ),
    "Resize by sizes of its own": model_from(
        """g (float[N, 1, 2, 2] x) => (float[N, 1, 4, 4] y) <int64[3] t = {1, 4, 4}> {
        n = Shape<end=1>(x) s = Concat<axis=0>(n, t) y = Resize<mode="linear">(x, , , s) }"""
    ),
}

REFUSED: dict[str, tuple[Model, str]] = {
    "LRN over channels is fine, over a padded image is not": (
        one_node("LRN", {"x": (F, [1, 2, "N", 4])}, size=3),
        "along",
    ),
    "DynamicQuantizeMatMul": (
        one_node(
            "DynamicQuantizeMatMul",
            {"a": X, "b": numbers(4, 2, dtype="uint8"), "s": SCALE},
            domain=MS,
        ),
        "nothing is known",
    ),
    "a row of features": (
        one_node("Normalizer", {"a": (F, ["N"])}, domain=ML, norm="L2"),
        "no axis for a batch",
    ),
    "keys of another batch": (
        one_node(
            "MultiHeadAttention",
            {"q": (F, ["N", 3, 4]), "k": (F, ["M", 3, 4]), "v": (F, ["M", 3, 4])},
            domain=MS,
            num_heads=2,
        ),
        "another size",
    ),
    "images that boxes choose": (
        one_node(
            "RoiAlign",
            {"x": (F, ["N", 1, 4, 4]), "r": (F, [2, 4]), "i": (INT, [2])},
            output_height=1,
            output_width=1,
        ),
        "input 0 depends",
    ),
    "images and their batch statistics": (
        one_node("MeanVarianceNormalization", {"x": IMAGE}),
        "normalizes over 'N', on axis 0",
    ),
    "time of another length": (
        one_node("ReverseSequence", {"x": (F, [4, "N"]), "l": (INT, [4])}, batch_axis=0, time_axis=1),
        "works along",
    ),
    "Resize to its size": (
        model_from(
            """g (float[1, 1, 2, 2] x, float[N] z) => (float[1, 1, 2, M] y) <int64[3] t = {1, 1, 2}> {
            n = Shape(z) s = Concat<axis=0>(t, n) y = Resize<mode="linear">(x, , , s) }"""
        ),
        "resizes to the size of",
    ),
    "windows of a signal": (
        one_node(
            "STFT", {"x": (F, [1, "N", 1]), "s": np.array(2, "int64"), "w": None, "l": np.array(2, "int64")}
        ),
        "works along",
    ),
    "an operator that nobody knows": (
        model_from(
            """<ir_version: 10, opset_import: ["" : 18, "acme" : 1]>
            g (float[N, 4] x) => (float[N, 4] y) { y = acme.Blend(x) }"""
        ),
        "nothing is known",
    ),
}


FINITE = {"Binarizer", "RoiAlign"}
"""ONNX Runtime refuses to run these on NaN."""

ON_XLA = {"GRU, batch first"}
"""ONNX Runtime does not implement this form."""


@pytest.mark.parametrize("case", PROVEN)
def test_what_is_proven_holds(case: str) -> None:
    check_proof(PROVEN[case], run_xla if case in ON_XLA else run_onnxruntime, finite=case in FINITE)


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    model, why = REFUSED[case]
    with pytest.raises(UnsupportedError, match="GO210") as caught:
        prove_padding(model, "N", PADDED)
    assert why in caught.value.message


def test_batched_operators_are_spelled_as_in_their_schemas() -> None:
    from graphopt.lowering.contrib import contrib_schemas

    for domain, table in BATCHED.items():
        for op, inputs in table.items():
            if (domain, op) in contrib_schemas():
                count = len(contrib_schemas()[domain, op].inputs)
            else:
                count = len(onnx.defs.get_schema(op, domain=domain).inputs)
            assert max(inputs) < count, op
