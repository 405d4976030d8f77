"""The XLA lowering: ONNX operators as JAX, StableHLO for any XLA device, executables for TPU."""

from __future__ import annotations

from graphopt.platforms import announce_to_jax

announce_to_jax()
