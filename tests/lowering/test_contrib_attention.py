"""ONNX Runtime's attention operators against its own kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
from checking import check_op, make_model, run_onnxruntime, run_xla

from graphopt.errors import UnsupportedError
from graphopt.ir.ingest import normalize

RANDOM = np.random.default_rng(0)
DOMAIN = {"domain": "com.microsoft"}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def normal(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(dtype)


def ints(*numbers: Any) -> np.ndarray:
    return np.array(numbers, np.int32)


def check_typed(
    op_type: str, inputs: dict[str, Any], outputs: list[str], *, skip: tuple[str, ...] = (), **attributes: Any
) -> None:
    """Compare with ONNX Runtime a node some of whose output types cannot be inferred: all are float."""
    arrays = {k: v for k, v in inputs.items() if v is not None}
    helper = onnx.helper
    node = helper.make_node(
        op_type, [k if v is not None else "" for k, v in inputs.items()], outputs, **DOMAIN, **attributes
    )
    graph = helper.make_graph(
        [node],
        "op",
        [
            helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for k, v in arrays.items()
        ],
        [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in outputs if n],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = normalize(onnx_ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=10)))
    found, wanted = run_xla(model, arrays), run_onnxruntime(model, arrays)
    for name in wanted:
        assert found[name].shape == wanted[name].shape
        if name not in skip:
            np.testing.assert_allclose(found[name], wanted[name], **CLOSE, err_msg=name)


MASKS: dict[str, Any] = {
    "none": None,
    "keys": ints([1, 1, 0, 1], [0, 1, 1, 1]),
    "nothing": ints([0, 0, 0, 0], [0, 1, 1, 1]),
    "pairs": RANDOM.integers(0, 2, (2, 4, 4)).astype(np.int32),
    "lengths": ints(2, 4),
    "ends and starts": ints(3, 4, 1, 2),
    "cumulated": ints(2, 4, 0, 4, 8, 0, 2, 6),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("causal", [0, 1])
def test_attention(mask: str, causal: int) -> None:
    inputs = {"input": normal(2, 4, 6), "weights": normal(6, 24), "bias": normal(24), "mask": MASKS[mask]}
    if mask != "cumulated":  # the kernel's row counts are for another attention
        check_op("Attention", inputs, 2, **DOMAIN, **CLOSE, num_heads=2, unidirectional=causal)
    inputs |= {"past": None, "attention_bias": normal(1, 2, 4, 4)}
    check_op(
        "Attention",
        inputs,
        1,
        **DOMAIN,
        **CLOSE,
        num_heads=2,
        unidirectional=causal,
        scale=0.3,
        mask_filter_value=-3.0,
    )


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("mask", [None, ints([1] * 6 + [0], [0] + [1] * 6), ints(5, 7)])
def test_attention_with_a_cache(causal: int, mask: np.ndarray | None) -> None:
    inputs = {
        "input": normal(2, 4, 6),
        "weights": normal(6, 24),
        "bias": normal(24),
        "mask": mask,
        "past": normal(2, 2, 2, 3, 4),
    }
    check_op("Attention", inputs, 2, **DOMAIN, **CLOSE, num_heads=2, unidirectional=causal)


def test_attention_with_values_of_their_own_size() -> None:
    inputs = {"input": normal(2, 4, 6), "weights": normal(6, 8 + 8 + 6), "bias": normal(22)}
    attributes = {"num_heads": 2, "qkv_hidden_sizes": [8, 8, 6]}
    check_op("Attention", inputs, 1, **DOMAIN, **CLOSE, **attributes)
    with pytest.raises(UnsupportedError, match="unlike sizes"):
        run_xla(*make_model("Attention", inputs, 2, **DOMAIN, **attributes))


def test_attention_without_a_bias() -> None:  # on which the kernel crashes
    inputs = {"input": normal(2, 4, 6), "weights": normal(6, 24), "bias": None}
    found = run_xla(*make_model("Attention", inputs, **DOMAIN, num_heads=2))
    wanted = run_xla(
        *make_model("Attention", {**inputs, "bias": np.zeros(24, np.float32)}, **DOMAIN, num_heads=2)
    )
    np.testing.assert_array_equal(found["y0"], wanted["y0"])


@pytest.mark.parametrize("attributes", [{"do_rotary": 1}, {"past_present_share_buffer": 1}])
def test_attention_forms_that_are_refused(attributes: dict[str, int]) -> None:
    inputs = {"input": normal(2, 4, 6), "weights": normal(6, 24), "bias": normal(24)}
    with pytest.raises(UnsupportedError):
        run_xla(*make_model("Attention", inputs, 2, **DOMAIN, num_heads=2, **attributes))
    with pytest.raises(UnsupportedError, match="mask"):
        run_xla(
            *make_model(
                "Attention", {**inputs, "mask": np.ones((2, 1, 8, 8), np.int32)}, **DOMAIN, num_heads=2
            )
        )


def operands(length: int = 4, keys: int = 4, bias: bool = True) -> dict[str, Any]:
    return {
        "query": normal(2, length, 8), "key": normal(2, keys, 8), "value": normal(2, keys, 6),
        "bias": normal(22) if bias else None, "mask": None, "attention_bias": None, "past_key": None, "past_value": None,
    }  # fmt: skip


@pytest.mark.parametrize("mask", [m for m in MASKS if m != "ends and starts"])
@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("bias", [False, True])
def test_multi_head_attention(mask: str, causal: int, bias: bool) -> None:
    inputs = {**operands(bias=bias), "mask": MASKS[mask]}
    check_op("MultiHeadAttention", inputs, 3, **DOMAIN, **CLOSE, num_heads=2, unidirectional=causal)


@pytest.mark.parametrize("shape", [(2, 2), (1, 2), (2, 1), (1, 1)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [0, 1])
def test_multi_head_attention_with_a_score_bias(shape: tuple[int, int], masked: bool, causal: int) -> None:
    inputs = {**operands(), "attention_bias": normal(*shape, 4, 4), "mask": MASKS["keys"] if masked else None}
    attributes = {"num_heads": 2, "unidirectional": causal, "scale": 0.7, "mask_filter_value": -2.0}
    check_op("MultiHeadAttention", inputs, **DOMAIN, **CLOSE, **attributes)
    check_typed("MultiHeadAttention", inputs, ["y", "", "", "qk"], **attributes)


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("masked", [False, True])
def test_multi_head_attention_with_a_cache(length: int, causal: int, masked: bool) -> None:
    past = {"past_key": normal(2, 2, 5, 4), "past_value": normal(2, 2, 5, 4)}
    mask = RANDOM.integers(0, 2, (2, 5 + length)).astype(np.int32) if masked else None
    inputs = {
        **operands(length, length),
        **past,
        "mask": mask,
        "value": normal(2, length, 8),
        "bias": normal(24),
    }
    check_op("MultiHeadAttention", inputs, 3, **DOMAIN, **CLOSE, num_heads=2, unidirectional=causal)


@pytest.mark.parametrize("bias", [False, True])
def test_cross_attention(bias: bool) -> None:
    check_op("MultiHeadAttention", operands(3, 5, bias), **DOMAIN, **CLOSE, num_heads=2)
    cached = {**operands(3, 5, False), "key": normal(2, 2, 5, 4), "value": normal(2, 2, 5, 4)}
    check_op(
        "MultiHeadAttention", {**cached, "bias": normal(24) if bias else None}, **DOMAIN, **CLOSE, num_heads=2
    )


@pytest.mark.parametrize("bias", [False, True])
def test_packed_operands_are_the_unpacked_ones(bias: bool) -> None:
    q, k, v = (normal(2, 4, 2, 3) for _ in range(3))
    flat = {
        "query": q.reshape(2, 4, 6),
        "key": k.reshape(2, 4, 6),
        "value": v.reshape(2, 4, 6),
        "bias": normal(18) if bias else None,
    }
    wanted = run_xla(*make_model("MultiHeadAttention", flat, **DOMAIN, num_heads=2))["y0"]
    qkv = {"query": np.stack((q, k, v), 3), "key": None, "value": None, "bias": flat["bias"]}
    np.testing.assert_allclose(
        run_xla(*make_model("MultiHeadAttention", qkv, **DOMAIN, num_heads=2))["y0"], wanted, **CLOSE
    )
    kv = {**flat, "key": np.stack((k, v), 3), "value": None}
    np.testing.assert_allclose(
        run_xla(*make_model("MultiHeadAttention", kv, **DOMAIN, num_heads=2))["y0"], wanted, **CLOSE
    )


def test_multi_head_attention_forms_that_are_refused() -> None:
    for inputs, attributes in (
        (operands(2, 4), {"unidirectional": 1}),
        ({**operands(), "past_key": normal(2, 2, 5, 4)}, {}),
        ({**operands(), "mask": ints([1, 1, 0], [1, 1, 1])}, {}),
        ({"query": normal(2, 4, 8)}, {}),
    ):
        with pytest.raises(UnsupportedError):
            run_xla(*make_model("MultiHeadAttention", inputs, **DOMAIN, num_heads=2, **attributes))


def test_gated_relative_position_bias() -> None:  # ONNX Runtime has no kernel for the CPU
    inputs = {
        "query": normal(2, 5, 12), "query_bias": normal(12), "rel_pos": normal(1, 3, 5, 5),
        "weight": normal(4, 8), "bias": normal(8), "eco_a": normal(1, 3, 1, 1),
    }  # fmt: skip
    query = (inputs["query"] + inputs["query_bias"]).reshape(2, 5, 3, 4).swapaxes(1, 2)
    gates = (query @ inputs["weight"] + inputs["bias"]).reshape(2, 3, 5, 2, 4).sum(-1)
    u, r = np.split(1 / (1 + np.exp(-gates)), 2, -1)
    wanted = (u * (r * inputs["eco_a"] - 1) + 2) * inputs["rel_pos"]
    found = run_xla(*make_model("GatedRelativePositionBias", inputs, **DOMAIN, num_heads=3))["y0"]
    np.testing.assert_allclose(found, wanted, **CLOSE)
