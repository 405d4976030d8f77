"""Counting n-grams of integers."""

from __future__ import annotations

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np

from graphopt.lowering.xla.emit import Context
from graphopt.lowering.xla.numerics import integer_limits
from graphopt.lowering.xla.ops import lowers

Array = Any
COMPARISONS = 1 << 34
"""How many comparisons of tokens one row may take."""


@lowers("TfIdfVectorizer", since=(9,))
def tfidf_vectorizer(
    ctx: Context,
    x: Array,
    *,
    max_gram_length: int,
    max_skip_count: int,
    min_gram_length: int,
    mode: str,
    ngram_counts: tuple[int, ...],
    ngram_indexes: tuple[int, ...],
    pool_int64s: tuple[int, ...] | None = None,
    pool_strings: tuple[str, ...] | None = None,
    weights: tuple[float, ...] | None = None,
) -> Array:
    """How often each n-gram of the pool is in each row: float32[out] or [N, out].

    The tokens of an n-gram may lie 1 to max_skip_count + 1 apart, all at the same distance; single tokens
    count once. IDF gives the weight of what occurs, TFIDF the weight times the count.

    Spec: https://onnx.ai/onnx/operators/onnx__TfIdfVectorizer.html
    """
    if pool_strings or not pool_int64s:
        raise ctx.unsupported("XLA has no strings, which the pool is")
    if mode not in ("TF", "IDF", "TFIDF") or x.ndim > 2:
        raise ctx.unsupported("no such mode, or an input of more than two axes", found=f"{mode}, {x.ndim}")
    width = max(ngram_indexes, default=0) + 1
    if mode != "TF" and weights and tuple(ngram_indexes) != tuple(range(len(weights))):
        # The specification numbers weights by the pool, all implementations by the output.
        raise ctx.unsupported("weights of n-grams that are not in the order of the output")
    rows = x.reshape((-1, x.shape[-1])) if x.ndim else x.reshape((1, 1))
    counts: Array = jnp.zeros((rows.shape[0], width), np.float32)
    for size, grams, columns in _pool(ctx, pool_int64s, ngram_counts, ngram_indexes):
        if not min_gram_length <= size <= max_gram_length:
            continue
        if rows.shape[1] * grams.size * (max_skip_count + 1) > COMPARISONS:
            raise ctx.unsupported("too many n-grams to compare", found=f"{len(grams)} of {size}")
        for distance in range(1, 2 if size == 1 else max_skip_count + 2):
            counts = counts.at[:, columns].add(_found(rows, grams, size, distance))
    if mode != "TF":
        scale = jnp.asarray(np.array(weights or (1.0,) * width, np.float32))
        counts = jnp.where(counts > 0, scale, jnp.zeros_like(counts)) if mode == "IDF" else counts * scale
    return counts if x.ndim == 2 else counts[0]


def _pool(
    ctx: Context, pool: tuple[int, ...], counts: tuple[int, ...], indexes: tuple[int, ...]
) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """For each length, the n-grams and their output columns; of equal ones the last counts."""
    found, number = [], 0
    starts = [*counts, len(pool)]
    for size, (begin, end) in enumerate(itertools.pairwise(starts), start=1):
        if not 0 <= begin <= end <= len(pool):
            raise ctx.unsupported("ngram_counts does not divide the pool")
        grams = [pool[at : at + size] for at in range(begin, begin + (end - begin) // size * size, size)]
        if number + len(grams) > len(indexes):
            raise ctx.unsupported("an n-gram has no index", found=len(indexes))
        columns = {gram: indexes[number + place] for place, gram in enumerate(grams)}
        number += len(grams)
        if columns:
            found.append(
                (size, np.array(list(columns), np.int64), np.array(list(columns.values()), np.int64))
            )
    return found


def _found(rows: Array, grams: np.ndarray, size: int, distance: int) -> Array:
    """How often each n-gram is in each row with its tokens `distance` apart: float32[N, grams]."""
    places = rows.shape[1] - (size - 1) * distance
    least, most = integer_limits(rows.dtype)
    usable = ((grams >= least) & (grams <= most)).all(1)
    if places <= 0:
        return jnp.zeros((rows.shape[0], len(grams)), np.float32)
    same: Array = jnp.asarray(usable)
    for token in range(size):
        window = rows[:, token * distance : token * distance + places, None]
        same = same & (window == jnp.asarray(grams[:, token].astype(rows.dtype)))
    return jnp.sum(same, 1).astype(np.float32)
