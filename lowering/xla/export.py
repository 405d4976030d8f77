"""The portable form of a program: StableHLO made by ``jax.export``, which any XLA device compiles."""

from __future__ import annotations

import dataclasses
import re

import jax
from jax import export as jax_export

from graphopt.artifact import PADDED
from graphopt.errors import GraphoptError, UnsupportedError
from graphopt.ir import Model
from graphopt.lowering.xla.program import Program, build_program, settings, symbolic_shapes

PLATFORMS = ("cpu", "tpu", "cuda")


@dataclasses.dataclass(frozen=True)
class Exported:
    """A serialised program and its readable form.

    Attributes:
        data: what ``jax.export.deserialize`` takes.
        stablehlo: the module as MLIR text.
        hlo: the module as HLO text; None under symbolic dimensions, which HLO has no form for.
        symbolic: whether dimensions are free in it.
        padded: the outputs that are as large as the data says: padded, and the shape that counts.
    """

    data: bytes
    stablehlo: str
    hlo: str | None
    symbolic: bool
    padded: tuple[str, ...] = ()


class NotPortable(UnsupportedError):
    """XLA takes the program, but ``jax.export`` has no form to write it down in."""


_CLIPPED = re.compile(r"\bmin\((\w+), (\d+)\)")
MAX_CONSTRAINTS = 16


def export_model(model: Model, *, precision: str | None = None) -> tuple[Exported, list[str]]:
    """The portable program of `model`, free dimensions left symbolic, and what it assumes of them.

    A table of 128 position embeddings cut to the sequence's length is ``min(sequence, 128)`` rows
    long, and adding it to ``sequence`` rows only makes sense up to 128: when an operator needs the
    two to be the same length, ``sequence <= 128`` is assumed, and said.

    Raises:
        GraphoptError: a node cannot be traced for symbolic dimensions, or at all.
    """
    constraints: list[str] = []
    while True:
        shapes = symbolic_shapes(model, {}, constraints)
        try:
            return export_program(build_program(model, shapes, precision=precision)), constraints
        except GraphoptError as error:
            found = _CLIPPED.findall(str(error)) if "shapes" in str(error) else []
            new = [c for c in (f"{name} <= {size}" for name, size in found) if c not in constraints]
            if not new or len(constraints) >= MAX_CONSTRAINTS:
                raise
            constraints.append(new[0])


def export_program(program: Program) -> Exported:
    """Trace `program` and serialise it for every platform; weights are arguments, not contents."""
    with settings():
        arguments = (program.weight_structs(), program.inputs)
        exported = jax_export.export(jax.jit(program.function), platforms=PLATFORMS)(*arguments)
        symbolic = not all(isinstance(d, int) for s in jax.tree.leaves(program.inputs) for d in s.shape)
        hlo = None
        if not symbolic:
            hlo = jax.jit(program.function).lower(*arguments).as_text("hlo")
        try:
            data = bytes(exported.serialize(vjp_order=0))
        except KeyError as error:  # an element type that its file format does not number, such as int2
            raise NotPortable(
                "GO202", "jax.export cannot write a program with inputs or outputs of this type", found=error
            ) from error
        results = jax.tree.unflatten(exported.out_tree, exported.out_avals)
        padded = tuple(n for n, r in results.items() if isinstance(r, dict) and PADDED in r)
        return Exported(data, exported.mlir_module(), hlo, symbolic, padded)
