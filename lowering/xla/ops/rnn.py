"""Recurrent layers as one scan over time for each direction.

The products with the inputs of all steps are taken at once, before the scan; only the products with
the state are inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.lowering.xla.emit import Context
from graphopt.lowering.xla.ops import lowers
from graphopt.lowering.xla.ops.matmul import accumulator

Array = Any
Activation = Callable[[Array], Array]
Step = Callable[[Array, tuple[Array, ...]], tuple[Array, ...]]
Floats = tuple[float, ...] | None


def _leaky_relu(x: Array, alpha: Array, _: Array) -> Array:
    return jnp.where(x < 0, alpha * x, x)


def _thresholded_relu(x: Array, alpha: Array, _: Array) -> Array:
    return jnp.where(x > alpha, x, jnp.zeros_like(x))


def _elu(x: Array, alpha: Array, _: Array) -> Array:
    return jnp.where(x < 0, alpha * jnp.expm1(jnp.minimum(x, jnp.zeros_like(x))), x)


def _hard_sigmoid(x: Array, alpha: Array, beta: Array) -> Array:
    return jnp.clip(alpha * x + beta, jnp.zeros_like(x), jnp.ones_like(x))


# name: (function of x, alpha and beta, default alpha, default beta); a None takes no such parameter
_ACTIVATIONS: dict[str, tuple[Callable[[Array, Array, Array], Array], float | None, float | None]] = {
    "relu": (lambda x, _, __: jnp.maximum(x, jnp.zeros_like(x)), None, None),
    "tanh": (lambda x, _, __: jnp.tanh(x), None, None),
    "sigmoid": (lambda x, _, __: jax.nn.sigmoid(x), None, None),
    "softsign": (lambda x, _, __: x / (jnp.ones_like(x) + jnp.abs(x)), None, None),
    "softplus": (lambda x, _, __: jax.nn.softplus(x), None, None),
    "affine": (lambda x, alpha, beta: alpha * x + beta, 1.0, 0.0),
    "leakyrelu": (_leaky_relu, 0.01, None),
    "thresholdedrelu": (_thresholded_relu, 1.0, None),
    "scaledtanh": (lambda x, alpha, beta: alpha * jnp.tanh(beta * x), 1.0, 1.0),
    "hardsigmoid": (_hard_sigmoid, 0.2, 0.5),
    "elu": (_elu, 1.0, None),
}


def _activations(
    ctx: Context, names: tuple[str, ...], alpha: Floats, beta: Floats, clip: float | None
) -> list[Activation]:
    """The activations; each takes the next alpha and beta of the lists if it has such a parameter."""
    alphas, betas = iter(alpha or ()), iter(beta or ())
    return [_activation(ctx, name, alphas, betas, clip) for name in names]


def _activation(
    ctx: Context, name: str, alphas: Iterator[float], betas: Iterator[float], clip: float | None
) -> Activation:
    entry = _ACTIVATIONS.get(name.lower())
    if entry is None:
        raise ctx.unsupported("an unknown activation", found=name, expected=", ".join(sorted(_ACTIVATIONS)))
    function, alpha, beta = entry
    alpha = None if alpha is None else next(alphas, alpha)
    beta = None if beta is None else next(betas, beta)

    def apply(x: Array) -> Array:
        if clip is not None:
            x = jnp.clip(x, jnp.asarray(-clip, x.dtype), jnp.asarray(clip, x.dtype))
        return function(x, jnp.asarray(alpha or 0.0, x.dtype), jnp.asarray(beta or 0.0, x.dtype))

    return apply


def _recur(
    ctx: Context,
    x: Array,
    w: Array,
    bias: Array | None,
    states: list[Array | None],
    sequence_lens: Array | None,
    *,
    hidden: Any,
    direction: str,
    layout: int,
    steps: Callable[[int], Step],
) -> tuple[Array, ...]:
    """Run every direction and return Y and the final states, in the asked layout.

    Shapes: ``x: [T, B, I]`` (layout 1: ``[B, T, I]``), ``w: [directions, gates * hidden, I]``,
    ``bias: [directions, gates * hidden]``, states ``[directions, B, hidden]`` (layout 1: B first).

    Args:
        states: the initial states; None starts from zeros.
        steps: for a direction's index, the function from one step's input products and the states
            to the new states. The first state is the output.
    """
    dtype, wide = x.dtype, accumulator(x.dtype)
    count = w.shape[0]
    if count != (2 if direction == "bidirectional" else 1):
        raise ctx.unsupported("weights do not fit the direction", found=f"{count} for {direction}")
    if layout:
        x = jnp.swapaxes(x, 0, 1)
        states = [None if s is None else jnp.swapaxes(s, 0, 1) for s in states]
    time, batch = x.shape[:2]
    active = None
    if sequence_lens is not None:
        active = (lax.iota(np.int64, time)[:, None] < sequence_lens.astype(np.int64)[None, :])[..., None]
    outputs, finals = [], []
    for index in range(count):
        products = jnp.einsum(
            "tbi,gi->tbg", x, w[index], precision=ctx.precision, preferred_element_type=wide
        )
        if bias is not None:
            products = products + bias[index].astype(wide)
        initial = tuple(
            jnp.zeros((batch, hidden), wide) if s is None else s[index].astype(wide) for s in states
        )
        backward = direction == "reverse" or index == 1
        final, output = _scan(steps(index), products, initial, active, backward)
        outputs.append(output)
        finals.append(final)
    y = jnp.stack(outputs, 1).astype(dtype)
    last = [jnp.stack(items, 0).astype(dtype) for items in zip(*finals, strict=True)]
    if layout:
        return jnp.transpose(y, (2, 0, 1, 3)), *(jnp.swapaxes(s, 0, 1) for s in last)
    return y, *last


def _scan(
    step: Step, products: Array, initial: tuple[Array, ...], active: Array | None, backward: bool
) -> tuple[tuple[Array, ...], Array]:
    """Scan over time. Past a sequence's end the states stay and the output is zero."""

    def body(states: tuple[Array, ...], at: Any) -> tuple[tuple[Array, ...], Array]:
        product, running = at
        new = step(product, states)
        if running is None:
            return new, new[0]
        new = tuple(jnp.where(running, a, b) for a, b in zip(new, states, strict=True))
        return new, jnp.where(running, new[0], jnp.zeros_like(new[0]))

    final, output = lax.scan(body, initial, (products, active), reverse=backward)
    return final, output


def _times_state(ctx: Context, h: Array, r: Array) -> Array:
    """h @ r' with r in the type of the state."""
    return jnp.matmul(h, r.T.astype(h.dtype), precision=ctx.precision)


def _split_bias(b: Array | None, gates: int) -> tuple[Array | None, Array | None]:
    """The input's and the state's half of ``b: [directions, 2 * gates * hidden]``."""
    if b is None:
        return None, None
    half = b.shape[1] // 2
    return b[:, :half], b[:, half:]


def _sum(a: Array | None, b: Array | None) -> Array | None:
    return None if a is None or b is None else a + b


@lowers("RNN", since=(14, 22), ignores=("hidden_size",))  # r's shape says the same
def rnn(
    ctx: Context,
    x: Array,
    w: Array,
    r: Array,
    b: Array | None,
    sequence_lens: Array | None,
    initial_h: Array | None,
    *,
    activations: tuple[str, ...] = ("Tanh", "Tanh"),
    activation_alpha: Floats = None,
    activation_beta: Floats = None,
    clip: float | None = None,
    direction: str = "forward",
    layout: int = 0,
) -> tuple[Array, ...]:
    """h = f(x w' + h r' + b) over time; returns all outputs and the last.

    Spec: https://onnx.ai/onnx/operators/onnx__RNN.html
    """
    functions = _activations(ctx, activations, activation_alpha, activation_beta, clip)

    def steps(index: int) -> Step:
        f = functions[index]
        return lambda product, states: (f(product + _times_state(ctx, states[0], r[index])),)

    return _recur(
        ctx, x, w, _sum(*_split_bias(b, 1)), [initial_h], sequence_lens,
        hidden=r.shape[-1], direction=direction, layout=layout, steps=steps,
    )  # fmt: skip


@lowers("GRU", since=(14, 22), ignores=("hidden_size",))  # r's shape says the same
def gru(
    ctx: Context,
    x: Array,
    w: Array,
    r: Array,
    b: Array | None,
    sequence_lens: Array | None,
    initial_h: Array | None,
    *,
    activations: tuple[str, ...] | None = None,
    activation_alpha: Floats = None,
    activation_beta: Floats = None,
    clip: float | None = None,
    direction: str = "forward",
    layout: int = 0,
    linear_before_reset: int = 0,
) -> tuple[Array, ...]:
    """h = (1 - z) n + z h with update gate z, reset gate r and candidate n; gates stand in that order.

    The candidate is g(x w' + (r h) r_n' + b), or with linear_before_reset g(x w' + b + r (h r_n' + rb)).
    Spec: https://onnx.ai/onnx/operators/onnx__GRU.html
    """
    names = activations or ("Sigmoid", "Tanh") * w.shape[0]
    functions = _activations(ctx, names, activation_alpha, activation_beta, clip)
    hidden = r.shape[-1]
    input_bias, state_bias = _split_bias(b, 3)

    def steps(index: int) -> Step:
        f, g = functions[2 * index : 2 * index + 2]
        r_gates, r_candidate = r[index, : 2 * hidden], r[index, 2 * hidden :]

        def step(product: Array, states: tuple[Array, ...]) -> tuple[Array, ...]:
            h = states[0]
            bias = None if state_bias is None else state_bias[index].astype(h.dtype)
            gates = product[:, : 2 * hidden] + _times_state(ctx, h, r_gates)
            candidate = product[:, 2 * hidden :]
            if bias is not None:
                gates = gates + bias[: 2 * hidden]
            z, reset = f(gates[:, :hidden]), f(gates[:, hidden:])
            inner = _times_state(ctx, h if linear_before_reset else reset * h, r_candidate)
            if bias is not None:
                inner = inner + bias[2 * hidden :]
            n = g(candidate + (reset * inner if linear_before_reset else inner))
            return ((jnp.ones_like(z) - z) * n + z * h,)

        return step

    return _recur(
        ctx, x, w, input_bias, [initial_h], sequence_lens,
        hidden=hidden, direction=direction, layout=layout, steps=steps,
    )  # fmt: skip


@lowers("LSTM", since=(14, 22), ignores=("hidden_size",))  # r's shape says the same
def lstm(
    ctx: Context,
    x: Array,
    w: Array,
    r: Array,
    b: Array | None,
    sequence_lens: Array | None,
    initial_h: Array | None,
    initial_c: Array | None,
    p: Array | None,
    *,
    activations: tuple[str, ...] | None = None,
    activation_alpha: Floats = None,
    activation_beta: Floats = None,
    clip: float | None = None,
    direction: str = "forward",
    input_forget: int = 0,
    layout: int = 0,
) -> tuple[Array, ...]:
    """c = f c + i g, h = o tanh(c); gates stand in the order i, o, f, c; p holds peepholes i, o, f.

    clip bounds the gates and the candidate, not the cell on its way to h: so does ONNX Runtime.
    Spec: https://onnx.ai/onnx/operators/onnx__LSTM.html
    """
    names = activations or ("Sigmoid", "Tanh", "Tanh") * w.shape[0]
    functions = _activations(ctx, names, activation_alpha, activation_beta, clip)
    unclipped = _activations(ctx, names, activation_alpha, activation_beta, None)
    hidden = r.shape[-1]

    def steps(index: int) -> Step:
        f, g = functions[3 * index : 3 * index + 2]
        h_of = unclipped[3 * index + 2]

        def step(product: Array, states: tuple[Array, ...]) -> tuple[Array, ...]:
            h, c = states
            gates = product + _times_state(ctx, h, r[index])
            i, o, forget, cell = (gates[:, k * hidden : (k + 1) * hidden] for k in range(4))
            peep = None if p is None else p[index].astype(h.dtype).reshape((3, hidden))
            if peep is not None:
                i, forget = i + peep[0] * c, forget + peep[2] * c
            i = f(i)
            forget = jnp.ones_like(i) - i if input_forget else f(forget)
            c = forget * c + i * g(cell)
            if peep is not None:
                o = o + peep[1] * c
            return f(o) * h_of(c), c

        return step

    return _recur(
        ctx, x, w, _sum(*_split_bias(b, 4)), [initial_h, initial_c], sequence_lens,
        hidden=hidden, direction=direction, layout=layout, steps=steps,
    )  # fmt: skip
