"""select-multi-head-attention against ONNX Runtime's Attention of opset 23, on the CPU provider."""

from __future__ import annotations

import numpy as np
import pytest
from rewriting import check_declines, check_rewrite, with_weights

from graphopt.passes.select_multi_head_attention import SelectMultiHeadAttention

PASS, CUDA = SelectMultiHeadAttention(provider="cpu"), SelectMultiHeadAttention()
HEADS = "q_num_heads = 2, kv_num_heads = 2"
ONE = f"y = Attention<{HEADS}>(q, k, v)"


def source(
    body: str,
    queries: str = "B, 4, 16",
    keys: str = "B, 6, 16",
    values: str | None = None,
    mask: str = "1, 1, 4, 6",
    kind: str = "float",
) -> str:
    values = values or keys
    return (
        f"g ({kind}[{queries}] q, {kind}[{keys}] k, {kind}[{values}] v, {kind}[{mask}] mask) => "
        f"({kind}[{queries}] y) {{ {body} }}"
    )


@pytest.mark.parametrize(
    ("body", "options"),
    [
        (ONE, {}),
        (f"y = Attention<{HEADS}, scale = 0.5>(q, k, v)", {}),
        (f"y = Attention<{HEADS}, is_causal = 1>(q, k, v)", {"keys": "B, 4, 16"}),
        (ONE, {"queries": "B, S, 16", "keys": "B, T, 16"}),
    ],
)
def test_heads_of_their_own(body: str, options: dict[str, str]) -> None:
    model, _ = check_rewrite(
        PASS, source(body, **options), "MultiHeadAttention", opset=23, dims={"B": 2, "S": 3, "T": 5}
    )
    (node,) = model.graph
    assert node.domain == "com.microsoft"


@pytest.mark.parametrize("mask", ["1, 1, 4, 6", "1, 2, 4, 6", "B, 1, 4, 6", "B, 2, 4, 6"])
def test_masks_that_are_added(mask: str) -> None:
    body = f"m = Sigmoid(mask) y = Attention<{HEADS}>(q, k, v, m)"
    check_rewrite(PASS, source(body, mask=mask), "Sigmoid MultiHeadAttention", opset=23, dims={"B": 2})


GROUPED = "y = Attention<q_num_heads = 4, kv_num_heads = 2, is_causal = 1>(q, k, v)"


@pytest.mark.parametrize("extra", ["", ", scale = 0.5"])
def test_heads_that_share_keys(extra: str) -> None:
    body = GROUPED.replace(">", f"{extra}>")
    text = source(body, queries="2, 5, 32", keys="2, 5, 16")
    check_rewrite(PASS, text, "GroupQueryAttention", opset=23)


@pytest.mark.parametrize(
    ("body", "reason", "options"),
    [
        (f"m = Log(mask) y = Attention<{HEADS}>(q, k, v, m)", "may close all keys", {}),
        (f"y = Attention<{HEADS}, softcap = 2.0>(q, k, v)", "scores are capped", {}),
        (f"y = Attention<{HEADS}, is_causal = 1>(q, k, v)", "another number than queries", {}),
        (f"m = Sigmoid(mask) y = Attention<{HEADS}>(q, k, v, m)", "does not span", {"mask": "1, 1, 1, 6"}),
        (f"m = Greater(mask, mask) y = Attention<{HEADS}>(q, k, v, m)", "an added one", {}),
        (ONE, "not known to be of one batch", {"keys": "C, 6, 16"}),
        (GROUPED, "are not known", {"queries": "B, 5, 32", "keys": "B, 5, 16"}),
        (GROUPED, "multiple of 8", {"queries": "2, 5, 16", "keys": "2, 5, 8"}),
        (GROUPED.replace(", is_causal = 1", ""), "not causal", {"queries": "2, 5, 32", "keys": "2, 5, 16"}),
    ],
)
def test_what_stays(body: str, reason: str, options: dict[str, str]) -> None:
    check_declines(PASS, source(body, **options), reason, opset=23)


def test_four_axes_and_other_sizes_of_values_stay() -> None:
    text = """g (float[2, 2, 4, 8] q, float[2, 2, 4, 8] k, float[2, 2, 4, 8] v) => (float[2, 2, 4, 8] y)
        { y = Attention(q, k, v) }"""
    check_declines(PASS, text, "not merged", opset=23)
    wide = source(ONE, values="B, 6, 32").replace("[B, 4, 16] y", "[B, 4, 32] y")
    check_declines(PASS, wide, "differ in size", opset=23)


@pytest.mark.parametrize(("kind", "made"), [("float", "Attention"), ("float16", "GroupQueryAttention")])
def test_shared_keys_on_cuda_are_of_16_bits(kind: str, made: str) -> None:
    text = source(GROUPED, queries="2, 5, 32", keys="2, 5, 16", kind=kind)
    model = with_weights(text, {}, 23)
    CUDA.run(model)
    assert [node.op_type for node in model.graph] == [made]
    if made == "GroupQueryAttention":
        lengths = next(iter(model.graph)).inputs[5]
        assert lengths is not None
        assert lengths.const_value is not None
        np.testing.assert_array_equal(lengths.const_value.numpy(), [4, 4])
