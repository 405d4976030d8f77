"""Features of ai.onnx.ml: scaled, imputed, encoded and gathered.

Spec: https://onnx.ai/onnx/operators/ , one page for each operator.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from graphopt.lowering.xla.dtypes import is_float
from graphopt.lowering.xla.emit import Context
from graphopt.lowering.xla.numerics import integer_limits
from graphopt.lowering.xla.ops import lowers
from graphopt.lowering.xla.ops.ml_scores import DOMAIN, floats
from graphopt.lowering.xla.ops.ml_tree_tables import Floats

Array = Any
Ints = tuple[int, ...] | None


def _per_feature(ctx: Context, x: Array, numbers: Floats, neutral: float) -> Array:
    """One number for all features, or one for each of the last axis."""
    array = np.array(numbers or (neutral,), np.float32)
    if array.size not in (1, x.shape[-1] if x.ndim else 1):
        raise ctx.unsupported("an attribute is not of the number of features", found=array.size)
    return jnp.asarray(array if array.size > 1 else array[0], x.dtype)


@lowers("Scaler", since=(1,), domain=DOMAIN)
def scaler(ctx: Context, x: Array, *, offset: Floats = None, scale: Floats = None) -> Array:
    """(x - offset) * scale, per feature: float32."""
    x = floats(x)
    return ((x - _per_feature(ctx, x, offset, 0)) * _per_feature(ctx, x, scale, 1)).astype(np.float32)


@lowers("Normalizer", since=(1,), domain=DOMAIN)
def normalizer(ctx: Context, x: Array, *, norm: str = "MAX") -> Array:
    """Each row over its maximum, its sum of absolute values, or its length; where that is 0, as it is."""
    x = floats(x)
    if x.ndim not in (1, 2):
        raise ctx.unsupported("one or two axes are expected", found=x.ndim)
    if norm == "MAX":
        divisor = jnp.max(x, -1, keepdims=True, initial=-np.inf)
    elif norm == "L1":
        divisor = jnp.sum(jnp.abs(x), -1, keepdims=True)
    elif norm == "L2":
        divisor = jnp.sqrt(jnp.sum(x * x, -1, keepdims=True))
    else:
        raise ctx.unsupported("no such norm", found=norm)
    return (x / jnp.where(divisor == 0, jnp.ones_like(divisor), divisor)).astype(np.float32)


@lowers("Imputer", since=(1,), domain=DOMAIN)
def imputer(
    ctx: Context,
    x: Array,
    *,
    imputed_value_floats: Floats = None,
    imputed_value_int64s: Ints = None,
    replaced_value_float: float = 0.0,
    replaced_value_int64: int = 0,
) -> Array:
    """x with the value to replace (NaN is one) replaced, by one value for all features or one for each."""
    real = is_float(x.dtype)
    values = imputed_value_floats if real else imputed_value_int64s
    if not values or len(values) not in (1, x.shape[-1] if x.ndim else 1):
        raise ctx.unsupported("there is no imputed value for this type, or not one for each feature")
    if real:
        hole = (
            jnp.isnan(x)
            if math.isnan(replaced_value_float)
            else x == np.asarray(replaced_value_float, x.dtype)
        )
    else:
        least, most = integer_limits(x.dtype)
        if any(not least <= number <= most for number in (*values, replaced_value_int64)):
            raise ctx.unsupported("a value is outside the type", found=str(x.dtype))
        hole = x == jnp.asarray(replaced_value_int64, x.dtype)
    filled = jnp.asarray(np.array(values if len(values) > 1 else values[0]).astype(x.dtype))
    return jnp.where(hole, filled, x)


@lowers("Binarizer", since=(1,), domain=DOMAIN)
def binarizer(x: Array, *, threshold: float = 0.0) -> Array:
    """1 where x is greater than the threshold, else 0, in the type of x."""
    if is_float(x.dtype):
        return (x > jnp.asarray(threshold, x.dtype)).astype(x.dtype)
    least, most = integer_limits(x.dtype)
    if not threshold >= least:  # NaN is less than nothing
        return jnp.full(x.shape, 0 if math.isnan(threshold) else 1, x.dtype)
    # An integer is greater than a number if it is greater than its floor.
    return (x > jnp.asarray(min(math.floor(min(threshold, most)), most), x.dtype)).astype(x.dtype)


@lowers("ArrayFeatureExtractor", since=(1,), domain=DOMAIN)
def array_feature_extractor(ctx: Context, x: Array, y: Array) -> Array:
    """The features y of the last axis of x; a vector gives a matrix of one row."""
    if not x.ndim:
        raise ctx.unsupported("a scalar has no features")
    columns = jnp.reshape(y, (-1,))
    found = jnp.take(x, columns, axis=-1, mode="clip")
    return found[None, :] if x.ndim == 1 else found


@lowers("FeatureVectorizer", since=(1,), domain=DOMAIN)
def feature_vectorizer(ctx: Context, *x: Array, inputdimensions: Ints = None) -> Array:
    """The inputs side by side, each cut or filled with zeros to its dimension: float32[N, sum]."""
    if inputdimensions is None or len(inputdimensions) != len(x):
        raise ctx.unsupported("inputdimensions does not name a size for each input")
    parts = []
    for array, size in zip(x, inputdimensions, strict=True):
        if array.ndim not in (1, 2):
            raise ctx.unsupported("one or two axes are expected", found=array.ndim)
        matrix = (array[:, None] if array.ndim == 1 else array)[:, :size].astype(np.float32)
        parts.append(jnp.pad(matrix, ((0, 0), (0, size - matrix.shape[1]))))
    return jnp.concatenate(parts, 1)


@lowers("OneHotEncoder", since=(1,), domain=DOMAIN)
def one_hot_encoder(
    ctx: Context,
    x: Array,
    *,
    cats_int64s: Ints = None,
    cats_strings: tuple[str, ...] | None = None,
    zeros: int = 1,
) -> Array:
    """1 at the category that is the number, truncated to an integer, else 0, in a new last axis: float32."""
    if cats_strings:
        raise ctx.unsupported("XLA has no strings, which the categories are")
    if not cats_int64s or len(set(cats_int64s)) < len(cats_int64s):
        raise ctx.unsupported("there are no categories, or one is listed twice")
    if not zeros:
        raise ctx.unsupported("a number of no category is an error, which XLA cannot raise")
    categories = jnp.asarray(np.array(cats_int64s, np.int64))
    return (x.astype(np.int64)[..., None] == categories).astype(np.float32)


@lowers("LabelEncoder", since=(2, 4), domain=DOMAIN)
def label_encoder(
    ctx: Context,
    x: Array,
    *,
    default_float: float = -0.0,
    default_int64: int = -1,
    default_string: str = "_Unused",
    default_tensor: np.ndarray | None = None,
    keys_floats: Floats = None,
    keys_int64s: Ints = None,
    keys_strings: tuple[str, ...] | None = None,
    keys_tensor: np.ndarray | None = None,
    values_floats: Floats = None,
    values_int64s: Ints = None,
    values_strings: tuple[str, ...] | None = None,
    values_tensor: np.ndarray | None = None,
) -> Array:
    """The value of the key that x equals, the last one of equal keys, or the default; NaN equals NaN."""
    keys = _numbers(keys_tensor, keys_floats, keys_int64s)
    values = _numbers(values_tensor, values_floats, values_int64s)
    if keys is None or values is None or keys_strings or values_strings:
        raise ctx.unsupported("XLA has no strings, which keys or values are")
    if keys.size != values.size or not keys.size or keys.dtype != x.dtype:
        raise ctx.unsupported("keys and values differ in number, or keys and input in type")
    if default_tensor is not None:
        default = default_tensor.reshape(-1)[:1].astype(values.dtype)
    else:
        default = np.array([default_float if values.dtype.kind == "f" else default_int64]).astype(
            values.dtype
        )
    missing = jnp.asarray(default[0])
    holes = keys != keys  # noqa: PLR0124  (true of NaN only)
    # The first of the reversed ones is the last.
    keys, first = np.unique(keys[~holes][::-1], return_index=True)
    results = values[~holes][::-1][first]
    result: Array = jnp.broadcast_to(missing, x.shape)
    if keys.size:
        at = jnp.clip(jnp.searchsorted(jnp.asarray(keys), x), 0, keys.size - 1)
        result = jnp.where(jnp.asarray(keys)[at] == x, jnp.asarray(results)[at], missing)
    return jnp.where(jnp.isnan(x), jnp.asarray(values[holes][-1]), result) if holes.any() else result


def _numbers(tensor: np.ndarray | None, real: Floats, whole: Ints) -> np.ndarray | None:
    if tensor is not None:
        return tensor.reshape(-1) if tensor.dtype.kind in "iuf" else None
    if real:
        return np.array(real, np.float32)
    return np.array(whole, np.int64) if whole else None
