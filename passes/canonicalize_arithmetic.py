"""canonicalize-arithmetic: one spelling for arithmetic that has several with the same bits."""

from __future__ import annotations

import dataclasses

import numpy as np

from graphopt.ir import DataType, Node
from graphopt.ir.query import constant, constant_tensor
from graphopt.passes._matching import attributes_of, is_float, limits, scalar_factor
from graphopt.transform import NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement


@rule("Add", "Mul", "Equal", "And", "Or", "Xor")
def constant_to_the_right(node: Node, rewriter: Rewriter) -> Replacement:
    """c + x = x + c, and so for every commutative operator."""
    a, b = node.inputs
    if constant_tensor(a) is None or constant_tensor(b) is not None:
        return NoMatch("the left operand is not the only constant")
    return rewriter.op(node.op_type, b, a, **attributes_of(node))


@rule("Div")
def division_by_power_of_two(node: Node, rewriter: Rewriter) -> Replacement:
    """x / 2**k = x * 2**-k: both round the same real number once."""
    x, divisor = node.inputs
    values = constant(divisor)
    if values is None or not is_float(divisor) or constant_tensor(x) is not None:
        return NoMatch("the divisor is not a small float constant, or the only operand")
    mantissa, _ = np.frexp(values.astype(np.float64))
    if not np.all(np.abs(mantissa) == 0.5):
        return NoMatch("the divisor is not a power of two", divisor.name if divisor else None)
    with np.errstate(over="ignore"):  # of what overflows the next line says so
        inverse = np.asarray(1.0 / values.astype(np.float64)).astype(values.dtype)
    if not np.all(np.isfinite(inverse)) or not np.all(_normal(values) & _normal(inverse)):
        return NoMatch("the power of two or its inverse is not a normal number")
    return rewriter.op("Mul", x, rewriter.const(inverse, "reciprocal"))


def _normal(values: np.ndarray) -> np.ndarray:
    """Where `values` are not so small that a processor may flush them to zero."""
    return np.asarray(np.abs(values.astype(np.float64)) >= float(limits(values.dtype).smallest_normal))


@rule("Pow")
def square(node: Node, rewriter: Rewriter) -> Replacement:
    """x ** 2 = x * x, which is how runtimes compute it."""
    x, exponent = node.inputs
    if x is None or x.dtype not in (DataType.FLOAT, DataType.DOUBLE):
        return NoMatch("not float32 or float64")
    if scalar_factor(exponent, x) != 2.0:
        return NoMatch("the exponent is not the scalar 2", exponent.name if exponent else None)
    return rewriter.op("Mul", x, x)


@dataclasses.dataclass(frozen=True)
class CanonicalizeArithmetic(RulePass):
    """Spell equal arithmetic one way: constants on the right, products for divisions and squares.

    given:  float[N] x
    before: y = Add(1.0, Pow(Div(x, 8.0), 2.0))
    after:  a = Mul(x, 0.125); y = Add(Mul(a, a), 1.0)
    """

    rules = (constant_to_the_right, division_by_power_of_two, square)
