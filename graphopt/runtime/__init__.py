"""Sessions: running compiled models."""

from __future__ import annotations

from graphopt.platforms import announce_to_jax

# An artifact is run without the lowering, so this may be the first import of JAX.
announce_to_jax()
