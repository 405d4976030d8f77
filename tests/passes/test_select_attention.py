"""select-attention against ONNX Runtime's Attention of opset 23."""

from __future__ import annotations

import numpy as np
import pytest
from rewriting import arrays, check_declines, check_rewrite, with_weights

from graphopt.passes.select_attention import SelectAttention

PASS = SelectAttention()
SHAPES = {f"w{n}": (8, 64) for n in "qkv"} | {f"b{n}": (64,) for n in "qkv"}
WEIGHTS = arrays(**SHAPES)
PROJECTIONS = " ".join(f"m{n} = MatMul(x, w{n}) {n} = Add(m{n}, b{n})" for n in "qkv")
PLAIN = " ".join(f"{n} = MatMul(x, w{n})" for n in "qkv")
HEADS = "q_num_heads = 2, kv_num_heads = 2"


def source(body: str, outputs: str = "", mask: str = "float[B, 1, S, S]", kind: str = "float") -> str:
    names = ", ".join(f"{kind}[{', '.join(map(str, s))}] {n}" for n, s in SHAPES.items())
    return (
        f"g ({kind}[B, S, 8] x, {kind}[B, S, 8] other, {mask} mask, {names}) => "
        f"({kind}[B, S, 64] y{outputs}) {{ {body} }}"
    )


@pytest.mark.parametrize(
    "body",
    [
        f"{PROJECTIONS} y = Attention<{HEADS}>(q, k, v)",
        f"{PLAIN} y = Attention<{HEADS}>(q, k, v)",
        f"{PROJECTIONS} y = Attention<{HEADS}, scale = 0.5>(q, k, v)",
        f"{PROJECTIONS} y = Attention<{HEADS}, is_causal = 1>(q, k, v)",
    ],
)
def test_self_attention(body: str) -> None:
    model, _ = check_rewrite(
        PASS, source(body), "Attention", weights=WEIGHTS, opset=23, dims={"S": 5, "B": 2}
    )
    (node,) = model.graph
    assert node.domain == "com.microsoft"
    assert node.outputs[0].shape is not None


@pytest.mark.parametrize("mask", ["float[1, 1, S, S]", "float[1, 2, S, S]", "float[B, 2, S, S]"])
def test_masks(mask: str) -> None:
    body = f"{PROJECTIONS} open = Sigmoid(mask) y = Attention<{HEADS}, scale = 0.5>(q, k, v, open)"
    check_rewrite(
        PASS, source(body, mask=mask), "Sigmoid Attention", weights=WEIGHTS, opset=23, dims={"S": 4, "B": 3}
    )


@pytest.mark.parametrize("closing", ["closed = Identity(mask)", "closed = Log(mask)"])
def test_a_mask_that_may_close_a_row_stays(closing: str) -> None:
    """The standard operator gives zeros there, ONNX Runtime's packed one NaN."""
    body = f"{PROJECTIONS} {closing} y = Attention<{HEADS}>(q, k, v, closed)"
    check_declines(PASS, source(body), "may close all keys", weights=WEIGHTS, opset=23)


SPLIT = "q, k, v = Split<axis = -1, num_outputs = 3>(p)"


@pytest.mark.parametrize("head", ["p = MatMul(x, packed)", "m = MatMul(x, packed) p = Add(m, long)"])
def test_a_projection_that_is_split(head: str) -> None:
    weights = arrays(packed=(8, 192), long=(192,))
    text = f"""g (float[B, S, 8] x, float[B, 1, S, S] mask, float[8, 192] packed, float[192] long) =>
        (float[B, S, 64] y) {{ {head} {SPLIT} open = Sigmoid(mask) y = Attention<{HEADS}>(q, k, v, open) }}"""
    check_rewrite(PASS, text, "Sigmoid Attention", weights=weights, opset=23, dims={"S": 4, "B": 2})
    swapped = text.replace("(q, k, v, open)", "(k, q, v, open)")
    check_declines(PASS, swapped, "no product with a constant", weights=weights, opset=23)


ATTENTION = f"y = Attention<{HEADS}>(q, k, v)"
NEAR_MISSES = {
    "cross attention": (
        f"{PLAIN.replace('k = MatMul(x', 'k = MatMul(other')} {ATTENTION}",
        "",
        "of one value",
    ),
    "a projection is an output": (f"{PROJECTIONS} {ATTENTION}", ", float[B, S, 64] k", "made for this alone"),
    "a product is an output": (f"{PROJECTIONS} {ATTENTION}", ", float[B, S, 64] mk", "is used elsewhere"),
    "a matrix is shared": (f"{PLAIN.replace('wk', 'wq')} {ATTENTION}", "", "matrix is used elsewhere"),
    "the bias is no vector": (
        f"{PLAIN.replace('q =', 'mq =')} q = Add(mq, mq) {ATTENTION}",
        "",
        "no constant vector",
    ),
    "causal with a mask": (
        f"{PLAIN} y = Attention<{HEADS}, is_causal = 1>(q, k, v, mask)",
        "",
        "the mask is not",
    ),
    "capped scores": (f"{PLAIN} y = Attention<{HEADS}, softcap = 2.0>(q, k, v)", "", "scores are capped"),
    "small heads": (
        f"{PLAIN} y = Attention<q_num_heads = 4, kv_num_heads = 4>(q, k, v)",
        "",
        "smaller than 32",
    ),
    "a projection of something else": (
        f"{PLAIN.replace('v = MatMul(x, wv)', 'mv = MatMul(x, wv) v = Relu(mv)')} {ATTENTION}",
        "",
        "no product with a constant",
    ),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_misses(case: str) -> None:
    body, outputs, reason = NEAR_MISSES[case]
    check_declines(PASS, source(body, outputs), reason, weights=WEIGHTS, opset=23)


@pytest.mark.parametrize(
    "mask", ["float[S, S]", "float[B, 1, 1, S]", "bool[B, 1, S, S]", "float[B, 1, S, T]"]
)
def test_masks_that_the_kernel_does_not_take(mask: str) -> None:
    text = source(f"{PLAIN} y = Attention<{HEADS}>(q, k, v, mask)", mask=mask)
    check_declines(PASS, text, "the mask is not", weights=WEIGHTS, opset=23)


def test_types_without_a_kernel() -> None:
    half = {k: v.astype(np.float16) for k, v in WEIGHTS.items()}
    text = source(f"{PLAIN} {ATTENTION}", kind="float16")
    check_declines(PASS, text, "cpu has no Attention of type float16", weights=half, opset=23)
    assert SelectAttention(provider="cuda").run(with_weights(text, half, 23)).modified
