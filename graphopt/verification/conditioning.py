"""How much of a difference rounding alone explains, measured on the model itself.

A model can blow up rounding errors: a deep network before a steep activation, a difference of large
sums. Then two correct runs differ by more than any fixed tolerance. What the computation rounds on
the way acts like a small change of its inputs (backward error), so the model is run again by the
same reference on inputs changed in their last bits, and what that changes in the outputs is the
scale of its rounding noise.

Source: N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 1.6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.verification.reference import Source, run_reference_on_all

CHANGE = 2.0**-22
"""Relative change of float32 inputs: two units in the last place."""

RUNS = 3
AMPLIFICATION = 4.0
"""A computation rounds at every step, not only at its inputs."""


def rounding_noise(
    model: Source, feeds: Mapping[str, Any], expected: Mapping[str, Any], **options: Any
) -> dict[str, float]:
    """The absolute error that rounding explains, for each floating-point output, by name.

    Args:
        expected: the outputs of `model` on `feeds`.
        options: of :func:`graphopt.verification.run_reference_on_all`.

    Returns:
        Zero for every output if no input is a float: then nothing can be changed by a little.
    """
    changed = nudged(feeds)
    return noise_of(run_reference_on_all(model, changed, **options), expected) if changed else {}


def noise_of(runs: Sequence[Mapping[str, Any]], expected: Mapping[str, Any]) -> dict[str, float]:
    """The absolute error that rounding explains, by output, from the outputs on :func:`nudged` inputs."""
    noise: dict[str, float] = {}
    for outputs in runs:
        for name, value in outputs.items():
            wanted = expected.get(name)
            if wanted is None or not (_is_nudgeable(value) and _is_nudgeable(wanted)):
                continue
            if wanted.shape != value.shape:
                continue
            with np.errstate(invalid="ignore"):
                difference = np.abs(value.astype(np.float64) - wanted.astype(np.float64))
            largest = float(np.max(difference, initial=0.0, where=np.isfinite(difference)))
            noise[name] = max(noise.get(name, 0.0), AMPLIFICATION * largest)
    return noise


def nudged(feeds: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Sets like `feeds` with every float changed in its last bits; none if no input is a float."""
    if not any(_is_nudgeable(value) for value in feeds.values()):
        return []
    return [_nudged(feeds, seed) for seed in range(RUNS)]


def _nudged(feeds: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """`feeds` with every float up or down by :data:`CHANGE`, at random."""
    generator = np.random.default_rng(seed)
    return {
        name: (value * (1 + CHANGE * generator.choice([-1.0, 1.0], value.shape))).astype(value.dtype)
        if _is_nudgeable(value)
        else value
        for name, value in feeds.items()
    }


def _is_nudgeable(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype in (np.float32, np.float64)
