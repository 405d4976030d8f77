"""Linear models and support vector machines of ai.onnx.ml.

Spec: https://onnx.ai/onnx/operators/ , one page for each operator.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.lowering.xla.emit import Context
from graphopt.lowering.xla.ops import lowers
from graphopt.lowering.xla.ops.ml_scores import DOMAIN, floats, integer_labels, rows_of, transformed
from graphopt.lowering.xla.ops.ml_tree_tables import Floats

Array = Any
Ints = tuple[int, ...] | None
Strings = tuple[str, ...] | None


def _matrix(ctx: Context, coefficients: Floats, shape: tuple[int, int], dtype: Any) -> Array:
    numbers = np.array(coefficients or (), np.float32)
    if numbers.size != shape[0] * shape[1]:
        raise ctx.unsupported("the number of coefficients is wrong", found=numbers.size, expected=str(shape))
    return jnp.asarray(numbers.reshape(shape), dtype)


def _affine(ctx: Context, x: Array, rows: int, coefficients: Floats, intercepts: Floats) -> Array:
    """x times the coefficients, `rows` of them, plus the intercepts: [N, rows]."""
    weights = _matrix(ctx, coefficients, (rows, x.shape[1]), x.dtype)
    scores = jnp.matmul(x, weights.T, precision=ctx.precision)
    if not intercepts:
        return scores
    if len(intercepts) != rows:
        raise ctx.unsupported("the number of intercepts is wrong", found=len(intercepts), expected=rows)
    return scores + jnp.asarray(np.array(intercepts, np.float32), x.dtype)


@lowers("LinearRegressor", since=(1,), domain=DOMAIN)
def linear_regressor(
    ctx: Context,
    x: Array,
    *,
    coefficients: Floats = None,
    intercepts: Floats = None,
    post_transform: str = "NONE",
    targets: int = 1,
) -> Array:
    """x coefficients' + intercepts, transformed: float32[N, targets]."""
    scores = _affine(ctx, floats(rows_of(ctx, x)), targets, coefficients, intercepts)
    return transformed(ctx, scores, post_transform).astype(np.float32)


@lowers("LinearClassifier", since=(1,), domain=DOMAIN, ignores=("multi_class",))  # no implementation asks
def linear_classifier(
    ctx: Context,
    x: Array,
    *,
    classlabels_ints: Ints = None,
    classlabels_strings: Strings = None,
    coefficients: Floats,
    intercepts: Floats = None,
    post_transform: str = "NONE",
) -> tuple[Array, Array]:
    """The label of the best score, and the transformed scores: int64[N], float32[N, C].

    Of two classes only the second may have a score; the first has the opposite one.
    """
    rows = floats(rows_of(ctx, x))
    labels = integer_labels(ctx, classlabels_ints, classlabels_strings)
    count = len(coefficients or ()) // max(rows.shape[1], 1)
    if count not in (labels.size, 1) or labels.size < 2 or (count == 1 and labels.size != 2):
        raise ctx.unsupported(
            "the number of labels is not that of the scores", found=f"{labels.size}, {count}"
        )
    scores = _affine(ctx, rows, count, coefficients, intercepts)
    if count == 1:
        scores = _opposite(ctx, scores[:, 0], post_transform)
    best = jnp.argmax(scores, 1)
    return jnp.asarray(labels)[best], transformed(ctx, scores, post_transform).astype(np.float32)


def _opposite(ctx: Context, score: Array, transform: str) -> Array:
    """The scores of two classes from that of the second."""
    if transform not in ("NONE", "LOGISTIC"):
        raise ctx.unsupported("a transform that is not defined for a single score", found=transform)
    return jnp.stack((-score, score), 1)


def _kernel(ctx: Context, x: Array, vectors: Array, kind: str, params: Floats) -> Array:
    """The kernel of each row of x and each vector: [N, vectors]."""
    gamma, shift, degree = (jnp.asarray(p, x.dtype) for p in (params or (0.0, 0.0, 0.0)))
    if kind == "RBF":
        # Not by the binomial formula, which cancels.
        distance = jnp.sum(jnp.square(x[:, None, :] - vectors[None, :, :]), -1)
        return jnp.exp(-gamma * distance)
    dot = jnp.matmul(x, vectors.T, precision=ctx.precision)
    if kind == "LINEAR":
        return dot
    if kind == "SIGMOID":
        return jnp.tanh(gamma * dot + shift)
    power = (params or (0.0, 0.0, 0.0))[2]
    if kind != "POLY" or power != int(power) or power < 0:
        raise ctx.unsupported("no such kernel, or a degree that is not whole", found=f"{kind}, {degree}")
    return lax.integer_pow(gamma * dot + shift, int(power))


@lowers("SVMRegressor", since=(1,), domain=DOMAIN)
def svm_regressor(
    ctx: Context,
    x: Array,
    *,
    coefficients: Floats = None,
    kernel_params: Floats = None,
    kernel_type: str = "LINEAR",
    n_supports: int = 0,
    one_class: int = 0,
    post_transform: str = "NONE",
    rho: Floats = None,
    support_vectors: Floats = None,
) -> Array:
    """The kernels with the support vectors times the coefficients, plus rho; its sign alone for one class."""
    rows = floats(rows_of(ctx, x))
    shift = jnp.asarray((rho or (0.0,))[0], rows.dtype)
    if n_supports > 0:
        vectors = _matrix(ctx, support_vectors, (n_supports, rows.shape[1]), rows.dtype)
        weights = _matrix(ctx, coefficients, (n_supports, 1), rows.dtype)
        kernels = _kernel(ctx, rows, vectors, kernel_type, kernel_params)
    else:
        kernels, weights = rows, _matrix(ctx, coefficients, (rows.shape[1], 1), rows.dtype)
    scores = jnp.matmul(kernels, weights, precision=ctx.precision) + shift
    if one_class:
        scores = jnp.where(scores > 0, jnp.ones_like(scores), -jnp.ones_like(scores))
    if post_transform not in ("NONE", "LOGISTIC", "PROBIT"):
        raise ctx.unsupported("a transform that is not defined for a single score", found=post_transform)
    return transformed(ctx, scores, post_transform).astype(np.float32)


@lowers("SVMClassifier", since=(1,), domain=DOMAIN)
def svm_classifier(
    ctx: Context,
    x: Array,
    *,
    classlabels_ints: Ints = None,
    classlabels_strings: Strings = None,
    coefficients: Floats = None,
    kernel_params: Floats = None,
    kernel_type: str = "LINEAR",
    post_transform: str = "NONE",
    prob_a: Floats = None,
    prob_b: Floats = None,
    rho: Floats = None,
    support_vectors: Floats = None,
    vectors_per_class: Ints = None,
) -> tuple[Array, Array]:
    """The label, by votes of the pairs of classes, and the pairs' scores or the classes' probabilities.

    Without support vectors it is a linear model with one row of coefficients for each class.
    """
    rows = floats(rows_of(ctx, x))
    labels = integer_labels(ctx, classlabels_ints, classlabels_strings)
    count, supports = labels.size, sum(vectors_per_class or ())
    if count < 2:
        raise ctx.unsupported("a single class")
    if not supports:
        return _linear_svm(ctx, rows, labels, coefficients, rho, post_transform)
    if len(vectors_per_class or ()) != count or len(rho or ()) != count * (count - 1) // 2:
        raise ctx.unsupported("vectors_per_class or rho is not of the number of classes")
    if min(coefficients or (0.0,)) >= 0:
        raise ctx.unsupported("coefficients of one sign, whose meaning runtimes do not agree on")
    vectors = _matrix(ctx, support_vectors, (supports, rows.shape[1]), rows.dtype)
    kernels = _kernel(ctx, rows, vectors, kernel_type, kernel_params)
    table = np.array(coefficients, np.float32)
    if table.size != (count - 1) * supports:
        raise ctx.unsupported("the number of coefficients is wrong", found=table.size)
    scores, votes = _pairs(
        ctx, kernels, table.reshape(count - 1, supports), vectors_per_class or (), rho or ()
    )
    label = jnp.asarray(labels)[jnp.argmax(votes, 1)]
    if prob_a or prob_b:
        if len(prob_a or ()) != len(prob_b or ()) or len(prob_a or ()) != scores.shape[1]:
            raise ctx.unsupported("prob_a and prob_b do not have a number for each pair of classes")
        scores = _probabilities(scores, prob_a or (), prob_b or (), count)
    elif count == 2:
        scores = _opposite(ctx, scores[:, 0], post_transform)
    return label, transformed(ctx, scores, post_transform).astype(np.float32)


def _linear_svm(
    ctx: Context, rows: Array, labels: np.ndarray, coefficients: Floats, rho: Floats, transform: str
) -> tuple[Array, Array]:
    scores = _affine(ctx, rows, labels.size, coefficients, None)
    scores = scores + jnp.asarray((rho or (0.0,))[0], rows.dtype)
    if labels.size == 2 and len(rho or ()) == 1 and min(coefficients or (0.0,)) >= 0:
        raise ctx.unsupported("coefficients of one sign, whose meaning runtimes do not agree on")
    return jnp.asarray(labels)[jnp.argmax(scores, 1)], transformed(ctx, scores, transform).astype(np.float32)


def _pairs(
    ctx: Context, kernels: Array, table: np.ndarray, per_class: tuple[int, ...], rho: tuple[float, ...]
) -> tuple[Array, Array]:
    """The score of each pair of classes, and the votes for each class; a positive score is for the first.

    Row j - 1 of the table weighs the vectors of classes before j against j, row i those after i against i.
    """
    starts = np.concatenate(([0], np.cumsum(per_class)))
    count = len(per_class)
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    weights = np.zeros((kernels.shape[1], len(pairs)), np.float32)
    first, second = (np.zeros((len(pairs), count), np.float32) for _ in range(2))
    for pair, (i, j) in enumerate(pairs):
        weights[starts[i] : starts[i + 1], pair] = table[j - 1, starts[i] : starts[i + 1]]
        weights[starts[j] : starts[j + 1], pair] = table[i, starts[j] : starts[j + 1]]
        first[pair, i] = second[pair, j] = 1
    scores = jnp.matmul(kernels, jnp.asarray(weights, kernels.dtype), precision=ctx.precision)
    scores = scores + jnp.asarray(np.array(rho, np.float32), kernels.dtype)
    won = (scores > 0)[:, :, None]
    return scores, jnp.sum(jnp.where(won, jnp.asarray(first), jnp.asarray(second)), 1)


def _probabilities(scores: Array, prob_a: tuple[float, ...], prob_b: tuple[float, ...], count: int) -> Array:
    """The classes' probabilities from those of the pairs, by the second method of Wu, Lin and Weng (2004).

    The iteration is libsvm's, and ends for each row as it does there: after max(100, classes) rounds, or when
    the largest error is below 0.005 / classes.
    """
    dtype = scores.dtype
    a, b = (jnp.asarray(np.array(p, np.float32), dtype) for p in (prob_a, prob_b))
    smallest = jnp.asarray(1e-7, dtype)
    pair = jnp.clip(1 - jax.nn.sigmoid(scores * a + b), smallest, 1 - smallest)
    first, second = np.triu_indices(count, 1)
    r = jnp.zeros((scores.shape[0], count, count), dtype)
    r = r.at[:, first, second].set(pair).at[:, second, first].set(1 - pair)
    q = -jnp.swapaxes(r, 1, 2) * r
    diagonal = jnp.sum(r * r, 1)
    eye = jnp.eye(count, dtype=bool)
    q = jnp.where(eye, diagonal[:, None, :], q)

    def improve(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        step, p, _ = state
        qp = jnp.einsum("nij,nj->ni", q, p, precision=lax.Precision.HIGHEST)
        pqp = jnp.sum(p * qp, 1)
        running = jnp.max(jnp.abs(qp - pqp[:, None]), 1) >= jnp.asarray(0.005 / count, dtype)
        better, pq = p, qp
        for t in range(count):
            difference = (pqp - pq[:, t]) / q[:, t, t]
            scale = 1 + difference
            better = better.at[:, t].add(difference)
            pqp = (pqp + difference * (difference * q[:, t, t] + 2 * pq[:, t])) / (scale * scale)
            better = better / scale[:, None]
            pq = (pq + difference[:, None] * q[:, t, :]) / scale[:, None]
        return step + 1, jnp.where(running[:, None], better, p), jnp.any(running)

    def more(state: tuple[Array, Array, Array]) -> Array:
        return (state[0] < max(100, count)) & state[2]

    start = jnp.full((scores.shape[0], count), 1 / count, dtype)
    _, found, _ = lax.while_loop(more, improve, (jnp.zeros((), np.int32), start, jnp.ones((), bool)))
    return found
