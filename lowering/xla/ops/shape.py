"""Operators that change the shape and not the numbers."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from graphopt.lowering.xla.ops import lowers

Array = Any


@lowers("Reshape", since=(14, 19, 21, 23, 24, 25), static=("shape",))
def reshape(data: Array, shape: np.ndarray, *, allowzero: int = 0) -> Array:
    """The same elements in another shape; 0 copies a dimension (unless allowzero), -1 infers one.

    Spec: https://onnx.ai/onnx/operators/onnx__Reshape.html
    """
    dims = list(shape.reshape(-1)) if shape.dtype == object else [int(d) for d in shape.reshape(-1)]
    if not allowzero:
        dims = [data.shape[i] if isinstance(d, int) and d == 0 else d for i, d in enumerate(dims)]
    return jnp.reshape(data, dims)
