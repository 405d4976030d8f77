"""Losses."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from graphopt.lowering.xla.numerics import log_softmax
from graphopt.lowering.xla.ops import lowers
from graphopt.lowering.xla.ops.matmul import accumulator

Array = Any


@lowers("NegativeLogLikelihoodLoss", since=(13, 22))
def negative_log_likelihood_loss(
    input: Array,
    target: Array,
    weight: Array | None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Array:
    """-weight[t] * input[n, t] for each target t; mean divides by the sum of the weights used.

    Shapes: ``input: [N, C, *D]``, ``target: [N, *D]``, ``weight: [C]``.
    Spec: https://onnx.ai/onnx/operators/onnx__NegativeLogLikelihoodLoss.html
    """
    wide = accumulator(input.dtype)
    return _loss(input.astype(wide), target, weight, ignore_index, reduction).astype(input.dtype)


def _loss(
    scores: Array, target: Array, weight: Array | None, ignore_index: int | None, reduction: str
) -> Array:
    target = target.astype(np.int64)
    counted = None if ignore_index is None else target != ignore_index
    index = target if counted is None else jnp.where(counted, target, jnp.zeros((), np.int64))
    picked = jnp.take_along_axis(scores, index[:, None], axis=1, mode="clip")[:, 0]
    weights = (
        jnp.ones(target.shape, scores.dtype)
        if weight is None
        else jnp.take(weight.astype(scores.dtype), index, mode="clip")
    )
    if counted is not None:
        weights = jnp.where(counted, weights, jnp.zeros((), scores.dtype))
        picked = jnp.where(counted, picked, jnp.zeros((), scores.dtype))
    loss = -picked * weights
    if reduction == "none":
        return loss
    total = jnp.sum(loss)
    return total if reduction == "sum" else total / jnp.sum(weights)


@lowers("SoftmaxCrossEntropyLoss", since=(13,))
def softmax_cross_entropy_loss(
    scores: Array,
    labels: Array,
    weights: Array | None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> tuple[Array, Array]:
    """The negative log-likelihood of log_softmax(scores) over the classes; also those log-probabilities.

    Spec: https://onnx.ai/onnx/operators/onnx__SoftmaxCrossEntropyLoss.html
    """
    log_prob = log_softmax(scores.astype(accumulator(scores.dtype)), 1)
    loss = _loss(log_prob, labels, weights, ignore_index, reduction)
    return loss.astype(scores.dtype), log_prob.astype(scores.dtype)
