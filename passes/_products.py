"""Products as monomials: ``c * a * b * b``, whichever way a graph associates and spells them."""

from __future__ import annotations

import dataclasses
from collections import Counter

from graphopt.ir import Node, Value
from graphopt.ir.query import is_op, only_use, rank
from graphopt.passes._matching import finite_power, scalar_factor

MAX_FACTORS = 16
MAX_NODES = 10
"""A product of more nodes is no activation function; the bound keeps the search linear in the graph."""


@dataclasses.dataclass(frozen=True)
class Monomial:
    """``coefficient * product(value ** power)``, elementwise.

    Attributes:
        powers: the factors that are no scalar constants, with their powers.
    """

    coefficient: float
    powers: Counter[Value]

    def is_power_of(self, x: Value, power: int) -> bool:
        """Whether this is ``coefficient * x ** power``."""
        return self.powers == Counter({x: power})


def monomial(root: Node) -> Monomial | None:
    """The product that `root` (Mul, Neg, Div by a scalar constant, Pow by 2 or 3) computes, or None.

    Factors are followed through nodes of the same graph that serve this product alone, so dropping the
    product drops them. Scalar constants must not raise the rank of what they multiply.
    """
    product = _Product(root)
    if not product.expand(root, 1):
        return None
    return Monomial(product.coefficient, product.powers)


def factor_of(value: Value, user: Node) -> Monomial:
    """`value`, which is used by `user`, as a product; as itself if it is none of `user` alone."""
    producer = value.producer()
    if producer is not None and producer.graph is user.graph and _serves_only(value, user):
        found = monomial(producer)
        if found is not None:
            return found
    return Monomial(1.0, Counter({value: 1}))


def _serves_only(value: Value, user: Node) -> bool:
    """Whether all uses of `value`, of which a square has two, are in `user`."""
    return not value.is_graph_output() and all(use.node is user for use in value.uses())


class _Product:
    def __init__(self, root: Node) -> None:
        self.root = root
        self.coefficient = 1.0
        self.powers: Counter[Value] = Counter()
        self.nodes = 0

    def expand(self, node: Node, power: int) -> bool:
        """Multiply ``node ** power`` in; False if `node` is no product."""
        self.nodes += 1
        if self.nodes > MAX_NODES:
            return False
        if is_op(node, "Neg") and node.inputs[0] is not None:
            self.coefficient *= (-1) ** power
            return self.add(node.inputs[0], node, power)
        if len(node.inputs) != 2:
            return False
        a, b = node.inputs
        if a is None or b is None:
            return False
        if is_op(node, "Mul"):
            for value, other in ((a, b), (b, a)):
                number = scalar_factor(value, other)
                if number is not None:
                    return self._scale(number, power) and self.add(other, node, power)
            if a is b:
                return self.add(a, node, 2 * power)
            return rank(a) is not None and self.add(a, node, power) and self.add(b, node, power)
        number = scalar_factor(b, a)
        if is_op(node, "Div") and number:
            return self._scale(number, -power) and self.add(a, node, power)
        if is_op(node, "Pow") and number in (2.0, 3.0):
            return self.add(a, node, power * int(number))
        return False

    def _scale(self, number: float, power: int) -> bool:
        """Multiply ``number ** power`` in; False if no float holds it."""
        scale = finite_power(number, power)
        self.coefficient *= scale or 0.0
        return scale is not None

    def add(self, value: Value, user: Node, power: int) -> bool:
        producer = value.producer()
        inner = (
            producer is not None
            and producer.graph is self.root.graph
            and only_use(value) is user
            and producer.op_type in ("Mul", "Div", "Pow", "Neg")
        )
        if inner and producer is not None and power < MAX_FACTORS:
            before = self.coefficient, Counter(self.powers)
            if self.expand(producer, power):
                return True
            self.coefficient, self.powers = before
        self.powers[value] += power
        return sum(self.powers.values()) <= MAX_FACTORS
