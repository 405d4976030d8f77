"""Runs of a model with garbage in the padding of a dimension, held against runs without."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from checking import random_feeds, run_onnxruntime

from graphopt.analysis.padding import Padding, prove_padding
from graphopt.ir import Model
from graphopt.runtime.buckets import cut

Run = Callable[[Model, Mapping[str, np.ndarray]], dict[str, Any]]
REAL, PADDED = 3, 5
SIZES = {"S": 4}


def garbage(
    feeds: Mapping[str, np.ndarray], model: Model, dim: str, size: int, seed: int, *, finite: bool = False
) -> dict[str, np.ndarray]:
    """`feeds` with `dim` grown to `size`: floats that spread, integers that stay inside small tables."""
    generator = np.random.default_rng(seed)
    grown = dict(feeds)
    for value in model.graph.inputs:
        array = feeds[value.name or ""]
        for axis, d in enumerate(value.shape.dims if value.shape is not None else ()):
            if isinstance(d, int) or d.value != dim:
                continue
            shape = (*array.shape[:axis], size - array.shape[axis], *array.shape[axis + 1 :])
            if array.dtype.kind == "f":
                rows = generator.choice([7.0, -3e4] if finite else [np.nan, np.inf, -np.inf, 3e38], shape)
            else:
                rows = generator.integers(0, 2, shape)
            array = np.concatenate([array, rows.astype(array.dtype)], axis=axis)
        grown[value.name or ""] = array
    return grown


def check_proof(model: Model, run: Run = run_onnxruntime, *, finite: bool = False) -> Padding:
    """The proof for `N`, held against two runs; raises UnsupportedError where there is none."""
    dim, real, padded, seed = "N", REAL, PADDED, 0
    proof = prove_padding(model, dim, padded)
    feeds = random_feeds(model, {**SIZES, dim: real}, seed)
    wanted = run(model, feeds)
    found = run(model, garbage(feeds, model, dim, padded, seed, finite=finite))
    for name, expected in wanted.items():
        result = found[name]
        for axis in proof.outputs.get(name, ()):
            result = cut(result, axis, {**SIZES, dim: padded}, dim, real)
        assert result.shape == expected.shape, (name, result.shape, expected.shape)
        np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-6, err_msg=name)
    return proof
