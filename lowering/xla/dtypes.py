"""Element types: between ONNX, numpy and what XLA can hold."""

from __future__ import annotations

import numpy as np

from graphopt.errors import UnsupportedError
from graphopt.ir import DataType

# JAX names the floats of 6 bits, but XLA:CPU aborts the process on them (jaxlib 0.10).
NOT_IN_XLA = frozenset(
    DataType[name]
    for name in ("STRING", "UNDEFINED", "FLOAT6E2M3", "FLOAT6E3M2")
    if name in DataType.__members__
)


def numpy_dtype(dtype: DataType, *, where: str | None = None) -> np.dtype:
    """The numpy (or ml_dtypes) dtype of `dtype`. Raises UnsupportedError (GO202) where XLA has none."""
    if dtype in NOT_IN_XLA:
        raise UnsupportedError("GO202", f"XLA has no {dtype.name.lower()} tensors", where=where)
    return np.dtype(dtype.numpy())


def from_onnx(number: int, *, where: str | None = None) -> np.dtype:
    """The numpy dtype of an ONNX ``TensorProto.DataType`` number, as attributes carry it."""
    return numpy_dtype(DataType(number), where=where)


def is_float(dtype: np.dtype | type) -> bool:
    """Whether `dtype` is a floating-point type, bfloat16 and float8 included."""
    import jax.numpy as jnp

    return bool(jnp.issubdtype(dtype, jnp.floating))
