"""Quotients with roots as monomials: ``c * a * b / sqrt(v)``, whichever way a graph spells them."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

from graphopt.ir import Node, Value
from graphopt.ir.query import is_op, only_use
from graphopt.passes._matching import finite_power, scalar_factor

MAX_NODES = 10
"""A quotient of more nodes is no normalization; the bound keeps the search linear in the graph."""

OPERATORS = ("Mul", "Div", "Reciprocal", "Sqrt", "Pow")
_EXPONENTS = {-1.0: Fraction(-1), -0.5: Fraction(-1, 2), 0.5: Fraction(1, 2)}


@dataclasses.dataclass
class Quotient:
    """``coefficient * product(value ** power)``, elementwise, for values that are not negative where rooted.

    Attributes:
        powers: the factors that are no scalar constants, with their powers.
        nodes: the nodes that compute it, the root first; all but the root serve it alone.
    """

    coefficient: float
    powers: dict[Value, Fraction]
    nodes: list[Node]


def quotient(root: Node) -> Quotient | None:
    """The quotient that `root` (Mul, Div, Reciprocal, Sqrt, Pow by 1/2, -1/2 or -1) computes, or None.

    Factors are followed through nodes of the same graph that serve this quotient alone. Whoever uses the
    answer checks that what stands under a root is not negative: ``sqrt(v)²`` is given as ``v``.
    """
    found = Quotient(1.0, {}, [])
    return found if _expand(found, root, Fraction(1)) else None


def _expand(found: Quotient, node: Node, power: Fraction) -> bool:
    """Multiply ``node ** power`` in; False, with `found` as it was, if `node` is no quotient."""
    if len(found.nodes) >= MAX_NODES or not is_op(node, *OPERATORS):
        return False
    factors = _factors(node)
    if factors is None:
        return False
    coefficient, terms = factors
    if coefficient <= 0 and power.denominator != 1:
        return False
    scale = finite_power(coefficient, float(power))
    if scale is None:
        return False
    found.nodes.append(node)
    found.coefficient *= scale
    for value, exponent in terms:
        producer = value.producer()
        inner = producer is not None and producer.graph is node.graph and only_use(value) is node
        if not (inner and producer is not None and _expand(found, producer, power * exponent)):
            total = found.powers.get(value, Fraction(0)) + power * exponent
            found.powers[value] = total
    return True


def _factors(node: Node) -> tuple[float, list[tuple[Value, Fraction]]] | None:
    """(scalar factor, [(value, power), …]) of one node, or None if it is no quotient."""
    a = node.inputs[0]
    if a is None:
        return None
    if node.op_type in ("Reciprocal", "Sqrt"):
        return 1.0, [(a, Fraction(-1) if node.op_type == "Reciprocal" else Fraction(1, 2))]
    b = node.inputs[1] if len(node.inputs) == 2 else None
    if b is None:
        return None
    left, right = scalar_factor(a, b), scalar_factor(b, a)
    if node.op_type == "Pow":
        exponent = _EXPONENTS.get(right) if right is not None else None
        return None if exponent is None else (1.0, [(a, exponent)])
    sign = Fraction(1 if node.op_type == "Mul" else -1)
    if right:
        scale = finite_power(right, float(sign))
        return None if scale is None else (scale, [(a, Fraction(1))])
    if left:
        return left, [(b, sign)]
    return 1.0, [(a, Fraction(1)), (b, sign)]
