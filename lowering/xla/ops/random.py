"""Random numbers, by the counter-based generator of JAX (threefry).

A program is a function: run twice, it draws the same numbers. The key of a draw is the node's attribute
``seed``, so that equal seeds draw the same; a node without one, for which the specification has the runtime
choose, has a key made of its place in the model, so that every node draws other numbers. The streams are
those of no other runtime, only the distributions are. In a loop each iteration would draw the same, which is
why subgraphs are refused.

Spec: https://onnx.ai/onnx/operators/ , one page for each operator.
"""

from __future__ import annotations

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.lowering.xla.dtypes import from_onnx, is_float
from graphopt.lowering.xla.emit import Context
from graphopt.lowering.xla.numerics import compute_dtype
from graphopt.lowering.xla.ops import lowers

Array = Any


def _key(ctx: Context, seed: float | None) -> Array:
    """The key of the node's draws."""
    if ctx.node.graph is not ctx.emitter.model.graph:
        raise ctx.unsupported("a random operator in a subgraph would draw the same in every iteration")
    if seed is not None:
        number = int(np.float32(seed).view(np.uint32))
    else:
        place = next(i for i, node in enumerate(ctx.emitter.model.graph.all_nodes()) if node is ctx.node)
        number = zlib.crc32(f"{ctx.node.op_type} {place}".encode())
    return jax.random.key(number, impl="threefry2x32")


def _result_type(ctx: Context, input: Array, dtype: int | None) -> np.dtype:
    found = np.dtype(input.dtype) if dtype is None else from_onnx(dtype)
    if not is_float(found):
        raise ctx.unsupported("random numbers are of floating-point types", found=found.name)
    return found


def _normal(key: Array, shape: tuple[int, ...], dtype: np.dtype, mean: float, scale: float) -> Array:
    wide = compute_dtype(dtype)
    drawn = jax.random.normal(key, shape, wide)
    return (drawn * jnp.asarray(scale, wide) + jnp.asarray(mean, wide)).astype(dtype)


def _uniform(key: Array, shape: tuple[int, ...], dtype: np.dtype, low: float, high: float) -> Array:
    """Numbers of [low, high): what rounds up to `high` becomes the number below it."""
    wide = compute_dtype(dtype)
    start, stop = jnp.asarray(low, wide), jnp.asarray(high, wide)
    drawn = (start + (stop - start) * jax.random.uniform(key, shape, wide)).astype(dtype)
    first, last = jnp.asarray(low, dtype), jnp.asarray(high, dtype)
    return jnp.where((drawn >= last) & (first < last), lax.nextafter(last, first), drawn)


@lowers("RandomNormal", since=(1, 22))
def random_normal(
    ctx: Context,
    *,
    dtype: int = 1,
    mean: float = 0.0,
    scale: float = 1.0,
    seed: float | None = None,
    shape: tuple[int, ...],
) -> Array:
    """Normal numbers of the given mean and standard deviation."""
    return _normal(_key(ctx, seed), tuple(shape), _result_type(ctx, None, dtype), mean, scale)


@lowers("RandomNormalLike", since=(1, 22))
def random_normal_like(
    ctx: Context,
    input: Array,
    *,
    dtype: int | None = None,
    mean: float = 0.0,
    scale: float = 1.0,
    seed: float | None = None,
) -> Array:
    """Normal numbers in the shape of the input, and in its type where no other is given."""
    return _normal(_key(ctx, seed), input.shape, _result_type(ctx, input, dtype), mean, scale)


@lowers("RandomUniform", since=(1, 22))
def random_uniform(
    ctx: Context,
    *,
    dtype: int = 1,
    high: float = 1.0,
    low: float = 0.0,
    seed: float | None = None,
    shape: tuple[int, ...],
) -> Array:
    """Uniform numbers of [low, high)."""
    return _uniform(_key(ctx, seed), tuple(shape), _result_type(ctx, None, dtype), low, high)


@lowers("RandomUniformLike", since=(1, 22))
def random_uniform_like(
    ctx: Context,
    input: Array,
    *,
    dtype: int | None = None,
    high: float = 1.0,
    low: float = 0.0,
    seed: float | None = None,
) -> Array:
    """Uniform numbers of [low, high) in the shape of the input, and in its type where no other is given."""
    return _uniform(_key(ctx, seed), input.shape, _result_type(ctx, input, dtype), low, high)


@lowers("Bernoulli", since=(15, 22))
def bernoulli(ctx: Context, input: Array, *, dtype: int | None = None, seed: float | None = None) -> Array:
    """1 with the probability that the input gives, else 0."""
    wide = compute_dtype(input.dtype)
    drawn = jax.random.uniform(_key(ctx, seed), input.shape, wide) < input.astype(wide)
    return drawn.astype(input.dtype if dtype is None else from_onnx(dtype))


@lowers("Multinomial", since=(7, 22))
def multinomial(
    ctx: Context, input: Array, *, dtype: int = 6, sample_size: int = 1, seed: float | None = None
) -> Array:
    """Classes drawn by unnormalised log-probabilities: ``[N, classes]`` to ``[N, sample_size]``."""
    if input.ndim != 2 or not isinstance(input.shape[1], int) or input.shape[1] < 1 or sample_size < 1:
        raise ctx.unsupported("a matrix of classes and a positive sample_size are expected")
    logits = input.astype(compute_dtype(input.dtype))
    shape = (sample_size, input.shape[0])
    return jax.random.categorical(_key(ctx, seed), logits, shape=shape).T.astype(from_onnx(dtype))


@lowers("Dropout", since=(13, 22), static=("training_mode",))
def dropout(
    ctx: Context,
    data: Array,
    ratio: Array | None,
    training_mode: np.ndarray | None,
    *,
    seed: int | None = None,
) -> tuple[Array, Array]:
    """The operand itself and a mask of ones; in training each element is 0 with probability ratio.

    What is kept is scaled by 1 / (1 - ratio).
    """
    training = training_mode is not None and bool(training_mode.reshape(-1)[0])
    known = ctx.known(1) if ratio is not None else np.array(0.5)
    if not training or (known is not None and float(known.reshape(-1)[0]) == 0):
        return data, jnp.ones(data.shape, bool)
    wide = compute_dtype(data.dtype)
    drop = jnp.asarray(0.5, wide) if ratio is None else jnp.reshape(ratio, ()).astype(wide)
    mask = jax.random.uniform(_key(ctx, seed), data.shape, wide) >= drop
    kept = data.astype(wide) / (jnp.ones((), wide) - drop)
    return jnp.where(mask, kept, jnp.zeros((), wide)).astype(data.dtype), mask
