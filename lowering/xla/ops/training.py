"""Optimisers: one update of the parameters of a model that trains itself.

All take a learning rate R, the number T of updates before, and then all parameters, all gradients and all
accumulated statistics, one after the other.

Spec: https://onnx.ai/onnx/operators/ , one page for each operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from graphopt.lowering.xla.emit import Context
from graphopt.lowering.xla.ops import lowers

Array = Any
DOMAIN = "ai.onnx.preview.training"


def _update(
    ctx: Context, inputs: tuple[Array, ...], kinds: int, rate: Array, step: Callable[..., tuple[Array, ...]]
) -> tuple[Array, ...]:
    """The results of `step` for each parameter, kind by kind: all new parameters, then all new statistics.

    Args:
        kinds: how many inputs there are for each parameter.
    """
    if len(inputs) % kinds:
        raise ctx.unsupported("the number of inputs is wrong", found=len(inputs), expected=f"{kinds} each")
    count = len(inputs) // kinds
    groups = [inputs[i::count] for i in range(count)]
    results = []
    for group in groups:
        wide = np.promote_types(rate.dtype, group[0].dtype)
        updated = step(*(x.astype(wide) for x in group), wide)
        results.append([y.astype(group[0].dtype) for y in updated])
    return tuple(result[kind] for kind in range(kinds - 1) for result in results)


def _one_minus_power(base: float, exponent: Array, dtype: Any) -> Array:
    """1 - base**exponent without cancellation."""
    if base == 0:
        return jnp.where(exponent == 0, 0, 1).astype(dtype)
    return -jnp.expm1(exponent.astype(dtype) * jnp.asarray(math.log(base), dtype))


@lowers("Adagrad", since=(1,), domain=DOMAIN)
def adagrad(
    ctx: Context,
    r: Array,
    t: Array,
    *inputs: Array,
    decay_factor: float = 0.0,
    epsilon: float = 1e-6,
    norm_coefficient: float = 0.0,
) -> tuple[Array, ...]:
    """H' = H + g², X' = X - R / (1 + T decay) g / (sqrt(H') + epsilon), with g = norm_coefficient X + G."""

    def step(x: Array, g: Array, h: Array, dtype: Any) -> tuple[Array, ...]:
        decay, norm, small = (jnp.asarray(c, dtype) for c in (decay_factor, norm_coefficient, epsilon))
        rate = r.astype(dtype) / (1 + t.astype(dtype) * decay)
        g = norm * x + g
        h = h + g * g
        return x - rate * g / (jnp.sqrt(h) + small), h

    return _update(ctx, inputs, 3, r, step)


@lowers("Adam", since=(1,), domain=DOMAIN)
def adam(
    ctx: Context,
    r: Array,
    t: Array,
    *inputs: Array,
    alpha: float = 0.9,
    beta: float = 0.999,
    epsilon: float = 1e-6,
    norm_coefficient: float = 0.0,
    norm_coefficient_post: float = 0.0,
) -> tuple[Array, ...]:
    """Adam: V' = mean of g, H' = mean of g², both exponential; X' = X - R' V' / (sqrt(H') + epsilon).

    R' = R sqrt(1 - beta**T) / (1 - alpha**T) for T > 0, else R; X' is scaled by 1 - norm_coefficient_post.
    """
    if alpha < 0 or beta < 0:
        raise ctx.unsupported("alpha and beta may not be negative", found=f"{alpha} and {beta}")

    def step(x: Array, g: Array, v: Array, h: Array, dtype: Any) -> tuple[Array, ...]:
        norm, post, small = (
            jnp.asarray(c, dtype) for c in (norm_coefficient, norm_coefficient_post, epsilon)
        )
        keep_v, add_v, keep_h, add_h = (jnp.asarray(c, dtype) for c in (alpha, 1 - alpha, beta, 1 - beta))
        g = norm * x + g
        v = keep_v * v + add_v * g
        h = keep_h * h + add_h * (g * g)
        correction = jnp.sqrt(_one_minus_power(beta, t, dtype)) / _one_minus_power(alpha, t, dtype)
        rate = r.astype(dtype) * jnp.where(t > 0, correction, jnp.ones((), dtype))
        x = x - rate * (v / (jnp.sqrt(h) + small))
        return (1 - post) * x, v, h

    return _update(ctx, inputs, 4, r, step)


@lowers("Momentum", since=(1,), domain=DOMAIN)
def momentum(
    ctx: Context,
    r: Array,
    t: Array,
    *inputs: Array,
    alpha: float,
    beta: float,
    mode: str,
    norm_coefficient: float,
) -> tuple[Array, ...]:
    """V' = alpha V + beta g (beta is 1 for T = 0); X' = X - R V', or X - R (g + alpha V') by Nesterov."""
    if mode not in ("standard", "nesterov"):
        raise ctx.unsupported("no such mode", found=mode, expected="standard or nesterov")

    def step(x: Array, g: Array, v: Array, dtype: Any) -> tuple[Array, ...]:
        keep, norm = jnp.asarray(alpha, dtype), jnp.asarray(norm_coefficient, dtype)
        add = jnp.where(t > 0, jnp.asarray(beta, dtype), jnp.ones((), dtype))
        g = norm * x + g
        v = keep * v + add * g
        return x - r.astype(dtype) * (g + keep * v if mode == "nesterov" else v), v

    return _update(ctx, inputs, 3, r, step)
