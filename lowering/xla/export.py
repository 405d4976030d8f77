"""The portable form of a program: StableHLO made by ``jax.export``, which any XLA device compiles."""

from __future__ import annotations

import dataclasses

import jax
from jax import export as jax_export

from graphopt.lowering.xla.program import Program, settings

PLATFORMS = ("cpu", "tpu", "cuda")


@dataclasses.dataclass(frozen=True)
class Exported:
    """A serialised program and its readable form.

    Attributes:
        data: what ``jax.export.deserialize`` takes.
        stablehlo: the module as MLIR text.
        hlo: the module as HLO text; None under symbolic dimensions, which HLO has no form for.
        symbolic: whether dimensions are free in it.
    """

    data: bytes
    stablehlo: str
    hlo: str | None
    symbolic: bool


def export_program(program: Program) -> Exported:
    """Trace `program` and serialise it for every platform; weights are arguments, not contents."""
    with settings():
        arguments = (program.weight_structs(), program.inputs)
        exported = jax_export.export(jax.jit(program.function), platforms=PLATFORMS)(*arguments)
        symbolic = not all(isinstance(d, int) for s in program.inputs.values() for d in s.shape)
        hlo = None
        if not symbolic:
            hlo = jax.jit(program.function).lower(*arguments).as_text("hlo")
        return Exported(bytes(exported.serialize(vjp_order=0)), exported.mlir_module(), hlo, symbolic)
