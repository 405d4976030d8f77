"""What the models of ai.onnx.ml share: the transforms of scores, and labels from them."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from graphopt.lowering.xla.emit import Context
from graphopt.lowering.xla.numerics import softmax

Array = Any
DOMAIN = "ai.onnx.ml"
TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")

_ALMOST_ZERO = 1e-7
_WINITZKI = 0.147


def floats(x: Array) -> Array:
    """`x` as these operators compute with it: float64 stays, all else becomes float32."""
    return x if x.dtype == np.float64 else x.astype(np.float32)


def rows_of(ctx: Context, x: Array) -> Array:
    """`x` as a matrix of one row per example; a vector is one example."""
    if x.ndim > 2 or not x.ndim:
        raise ctx.unsupported("a matrix of examples is expected", found=f"{x.ndim} axes")
    return x if x.ndim == 2 else x[None, :]


def transformed(ctx: Context, scores: Array, transform: str) -> Array:
    """Scores ``[N, C]`` after a post_transform.

    SOFTMAX_ZERO keeps scores that are 0 at 0. PROBIT is by Winitzki's approximation of the inverse error
    function, as all implementations have it.
    """
    if transform == "NONE":
        return scores
    if transform == "SOFTMAX":
        return softmax(scores)
    if transform == "LOGISTIC":
        return jax.nn.sigmoid(scores)
    if transform == "SOFTMAX_ZERO":
        peak = jnp.max(scores, 1, keepdims=True)
        wide = jnp.abs(scores) > _ALMOST_ZERO
        terms = jnp.where(wide, jnp.exp(scores - peak), scores * jnp.exp(-peak))
        total = jnp.sum(terms, 1, keepdims=True)
        half = jnp.asarray(0.5, scores.dtype)
        return jnp.where(total == 0, half, terms / jnp.where(total == 0, jnp.ones_like(total), total))
    if transform == "PROBIT":
        return _probit(scores)
    raise ctx.unsupported("no such post_transform", found=transform, expected=", ".join(TRANSFORMS))


def _probit(p: Array) -> Array:
    def number(c: float) -> Array:
        return jnp.asarray(c, p.dtype)

    x = number(2) * p - number(1)
    rest = (number(1) - x) * (number(1) + x)
    log = jnp.log(jnp.where(rest == 0, number(1), rest))
    middle = number(2 / (math.pi * _WINITZKI)) + number(0.5) * log
    ratio = -log / number(_WINITZKI)
    total = jnp.sqrt(middle * middle + ratio)
    # total - middle, without its cancellation
    root = jnp.sqrt(jnp.where(middle > 0, ratio / (total + jnp.abs(middle)), total - middle))
    found = jnp.where(x < 0, -root, root) * number(math.sqrt(2))
    return jnp.where(rest == 0, number(0), found)


def integer_labels(
    ctx: Context, ints: tuple[int, ...] | None, strings: tuple[str, ...] | None, count: int | None = None
) -> np.ndarray:
    """The labels of the classes. Raises UnsupportedError for strings, which XLA has not."""
    if strings:
        raise ctx.unsupported("XLA has no strings, which the labels are")
    labels = np.array(ints or range(count or 0), np.int64)
    if not labels.size or (count is not None and labels.size != count):
        raise ctx.unsupported("the number of labels is not that of the classes", found=labels.size)
    return labels
