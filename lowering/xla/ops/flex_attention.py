"""Attention whose scores and probabilities are modified by subgraphs."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp

from graphopt.ir import Graph
from graphopt.lowering.xla.dtypes import from_onnx, is_float
from graphopt.lowering.xla.emit import Context, as_array
from graphopt.lowering.xla.numerics import compute_dtype, softmax
from graphopt.lowering.xla.ops import lowers

Array = Any


@lowers("FlexAttention", since=(1,), domain="ai.onnx.preview")
def flex_attention(
    ctx: Context,
    q: Array,
    k: Array,
    v: Array,
    *,
    prob_mod: Graph | None = None,
    scale: float | None = None,
    score_mod: Graph | None = None,
    softmax_precision: int | None = None,
) -> Array:
    """prob_mod(softmax(score_mod(scale * q k'))) v, with key/value heads shared by groups of query heads.

    Shapes: ``q: [B, Hq, L, E]``, ``k: [B, Hkv, S, E]``, ``v: [B, Hkv, S, Ev]``; Hkv divides Hq. The subgraphs
    see ``[B, Hq, L, S]`` in softmax_precision, by default float32, float64 for float64.

    Spec: https://onnx.ai/onnx/operators/onnx_aionnxpreview_FlexAttention.html
    """
    if q.ndim != 4 or k.ndim != 4 or v.ndim != 4:
        raise ctx.unsupported("FlexAttention takes four axes", found=f"{q.ndim}, {k.ndim} and {v.ndim}")
    batch, heads, length, size = q.shape
    shared, keys = k.shape[1], k.shape[2]
    if heads % shared:
        raise ctx.unsupported("the query heads are no multiple of the key heads", found=f"{heads}, {shared}")
    if softmax_precision is None:
        wide = compute_dtype(q.dtype)
    else:
        wide = from_onnx(softmax_precision)
    if not is_float(wide):
        raise ctx.unsupported("softmax_precision is no floating-point type", found=wide.name)
    factor = 1 / math.sqrt(size) if scale is None else scale
    grouped = q.reshape((batch, shared, heads // shared, length, size))
    scores = jnp.einsum(
        "bhgqd,bhkd->bhgqk",
        grouped,
        k,
        precision=ctx.precision,
        preferred_element_type=compute_dtype(q.dtype),
    ).reshape((batch, heads, length, keys))
    scores = (scores * jnp.asarray(factor, scores.dtype)).astype(wide)
    if score_mod is not None:
        scores = _modified(ctx, score_mod, scores)
    # Below 32 bits the sum of the exponentials is kept in float32, as for Softmax.
    probabilities = softmax(scores.astype(compute_dtype(wide))).astype(wide)
    if prob_mod is not None:
        probabilities = _modified(ctx, prob_mod, probabilities)
    mixed = jnp.einsum(
        "bhgqk,bhkd->bhgqd",
        probabilities.reshape((batch, shared, heads // shared, length, keys)),
        v.astype(wide),
        precision=ctx.precision,
        preferred_element_type=compute_dtype(wide),
    )
    return mixed.reshape((batch, heads, length, v.shape[3])).astype(q.dtype)


def _modified(ctx: Context, graph: Graph, x: Array) -> Array:
    """The result of a modifier, which must keep shape and element type."""
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise ctx.unsupported("a modifier has one input and one output")
    result = as_array(ctx.subgraph(graph, [x])[0])
    if result.shape != x.shape or result.dtype != x.dtype:
        raise ctx.unsupported(
            "a modifier must keep shape and element type",
            found=f"{result.dtype}{list(result.shape)}",
            expected=f"{x.dtype}{list(x.shape)}",
        )
    return result
