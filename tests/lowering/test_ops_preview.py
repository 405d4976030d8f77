"""Operators of the preview domains against onnx.reference: attention with modifiers, optimisers."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir
import pytest
from checking import make_model, run_xla
from onnx import helper
from onnx.reference import ReferenceEvaluator

from graphopt.errors import UnsupportedError
from graphopt.ir import Model

RNG = np.random.default_rng(3)
F32 = np.float32
TRAINING = "ai.onnx.preview.training"


def normal(*shape: int, dtype: type = F32) -> np.ndarray:
    return RNG.normal(size=shape).astype(dtype)


def check(model: Model, feeds: dict[str, np.ndarray], *, rtol: float = 2e-5, atol: float = 1e-6) -> None:
    expected = ReferenceEvaluator(onnx_ir.to_proto(model)).run(None, dict(feeds))
    found = run_xla(model, feeds)
    for value, wanted in zip(model.graph.outputs, expected, strict=True):
        result = found[value.name or ""]
        assert result.shape == wanted.shape
        np.testing.assert_allclose(result.astype(float), wanted.astype(float), rtol=rtol, atol=atol)


def modifier(*nodes: onnx.NodeProto, dtype: int = onnx.TensorProto.FLOAT) -> onnx.GraphProto:
    info = [helper.make_tensor_value_info(n, dtype, [None] * 4) for n in ("in", "out")]
    return helper.make_graph(list(nodes), "modifier", info[:1], info[1:])


SOFT_CAP = (helper.make_node("Tanh", ["in"], ["out"]),)
HALVE = (helper.make_node("Mul", ["in", "in"], ["out"]),)


@pytest.mark.parametrize("heads", [(2, 2), (6, 2), (3, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_flex_attention(heads: tuple[int, int], dtype: type, scale: float | None) -> None:
    queries, shared = heads
    inputs = {
        "q": normal(2, queries, 3, 4, dtype=dtype),
        "k": normal(2, shared, 5, 4, dtype=dtype),
        "v": normal(2, shared, 5, 6, dtype=dtype),
    }
    number = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    attributes: dict[str, object] = {} if scale is None else {"scale": scale}
    attributes["score_mod"] = modifier(*SOFT_CAP, dtype=number)
    attributes["prob_mod"] = modifier(*HALVE, dtype=number)
    model, feeds = make_model("FlexAttention", inputs, domain="ai.onnx.preview", opset=26, **attributes)
    check(model, feeds)


def test_flex_attention_in_a_chosen_precision() -> None:
    inputs = {n: normal(1, 2, 3, 4).astype(np.float16) for n in "qkv"}
    model, feeds = make_model(
        "FlexAttention",
        inputs,
        domain="ai.onnx.preview",
        opset=26,
        softmax_precision=onnx.TensorProto.FLOAT16,
    )
    check(model, feeds, rtol=4e-3, atol=1e-3)


def test_a_modifier_must_keep_the_shape() -> None:
    shrink = (helper.make_node("ReduceMax", ["in"], ["out"]),)
    inputs = {n: normal(1, 1, 3, 4) for n in "qkv"}
    model, feeds = make_model(
        "FlexAttention", inputs, domain="ai.onnx.preview", opset=26, score_mod=modifier(*shrink)
    )
    with pytest.raises(UnsupportedError, match="must keep shape"):
        run_xla(model, feeds)


@pytest.mark.parametrize("op", ["Adagrad", "Adam", "Momentum", "Nesterov"])
@pytest.mark.parametrize("updates", [0, 1, 7])
@pytest.mark.parametrize("parameters", [1, 2])
def test_optimisers(op: str, updates: int, parameters: int) -> None:
    kinds = 4 if op == "Adam" else 3
    attributes: dict[str, object] = {"norm_coefficient": 0.1}
    if op == "Adagrad":
        attributes |= {"decay_factor": 0.2, "epsilon": 1e-3}
    elif op == "Adam":
        attributes |= {"alpha": 0.8, "beta": 0.95, "norm_coefficient_post": 0.05, "epsilon": 1e-3}
    else:
        mode = "nesterov" if op == "Nesterov" else "standard"
        attributes |= {"alpha": 0.8, "beta": 0.5, "mode": mode}
    inputs: dict[str, np.ndarray | None] = {"r": np.array(0.1, F32), "t": np.array(updates, np.int64)}
    for kind in range(kinds):
        for index in range(parameters):
            inputs[f"x{kind}_{index}"] = np.abs(normal(2, 3 + index))
    model, feeds = make_model(
        "Momentum" if op == "Nesterov" else op,
        inputs,
        (kinds - 1) * parameters,
        domain=TRAINING,
        **attributes,
    )
    check(model, feeds)


@pytest.mark.parametrize("center_point_box", [0, 1])
@pytest.mark.parametrize("seed", range(4))
def test_non_max_suppression(center_point_box: int, seed: int) -> None:
    """Random boxes, some of no area, some twice, and scores with ties."""
    from checking import check_op

    rng = np.random.default_rng(seed)
    boxes = rng.uniform(0, 1, (2, 20, 4)).astype(F32)
    boxes[:, 3] = boxes[:, 4]
    boxes[:, 5, 2:] = boxes[:, 5, :2]
    scores = rng.integers(0, 8, (2, 3, 20)).astype(F32) / 8
    inputs = {
        "boxes": boxes,
        "scores": scores,
        "max_output_boxes_per_class": np.array([[7], [20], [0], [3]][seed], np.int64),
        "iou_threshold": np.array([0.3], F32),
        "score_threshold": None if seed == 1 else np.array([0.25], F32),
    }
    check_op("NonMaxSuppression", inputs, center_point_box=center_point_box)
