"""Elementwise operators."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from graphopt.lowering.xla.ops import lowers

Array = Any


@lowers("Add", since=(14,))
def add(a: Array, b: Array) -> Array:
    """a + b, broadcasting both ways.

    Spec: https://onnx.ai/onnx/operators/onnx__Add.html
    """
    return jnp.add(a, b)


@lowers("Relu", since=(14,))
def relu(x: Array) -> Array:
    """max(x, 0).

    Spec: https://onnx.ai/onnx/operators/onnx__Relu.html
    """
    return jnp.maximum(x, jnp.zeros((), x.dtype))
