"""canonicalize-gates: one order for a value, its gate, and what both multiply (SiLU, GEGLU, SwiGLU)."""

from __future__ import annotations

import dataclasses

from graphopt.ir import Node, Value
from graphopt.ir.query import constant_tensor, is_op, rank
from graphopt.passes._matching import attributes_of, is_float, made_for, produced_by
from graphopt.transform import Exactness, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

ACTIVATIONS = ("Gelu", "HardSwish", "Mish", "Swish")


@rule("Mul")
def value_before_gate(node: Node, rewriter: Rewriter) -> Replacement:
    """Sigmoid(a x) * x = x * Sigmoid(a x)."""
    gate, x = node.inputs
    if x is None or not _is_gate_of(gate, x) or _is_gate_of(x, gate):
        return NoMatch("the left operand is not the gate of the right one")
    return rewriter.op("Mul", x, gate, **attributes_of(node))


@rule("Mul")
def gate_before_other(node: Node, rewriter: Rewriter) -> Replacement:
    """x * (Sigmoid(x) * y) = (x * Sigmoid(x)) * y."""
    for x, inner in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
        product = made_for(inner, node, "Mul")
        if x is None or isinstance(product, NoMatch) or not is_float(x):
            continue
        for gate, other in ((product.inputs[0], product.inputs[1]), (product.inputs[1], product.inputs[0])):
            # A gate that is multiplied elsewhere too is not this value's alone.
            if (
                other is x
                or not _is_gate_of(gate, x)
                or isinstance(made_for(gate, product, "Sigmoid"), NoMatch)
            ):
                continue
            return rewriter.op("Mul", rewriter.op("Mul", x, gate), other)
    return NoMatch("not a value times a product with its gate")


@rule("Mul")
def activation_before_other(node: Node, rewriter: Rewriter) -> Replacement:
    """y * f(x) = f(x) * y, for an activation f, SiLU included."""
    other, activated = node.inputs
    if other is None or constant_tensor(activated) is not None or rank(activated) is None:
        return NoMatch("an operand is constant or of unknown rank")
    if not _is_activation(activated) or _is_activation(other) or _is_gate_of(activated, other):
        return NoMatch("the right operand alone is no activation")
    return rewriter.op("Mul", activated, other, **attributes_of(node))


def _is_gate_of(gate: Value | None, x: Value | None) -> bool:
    """Whether `gate` is the Sigmoid of `x`, or of a multiple of it."""
    sigmoid = produced_by(gate, "Sigmoid")
    if sigmoid is None or x is None:
        return False
    argument = sigmoid.inputs[0]
    scaled = produced_by(argument, "Mul")
    return argument is x or (
        scaled is not None
        and any(a is x and constant_tensor(b) is not None for a, b in (scaled.inputs, scaled.inputs[::-1]))
    )


def _is_activation(value: Value | None) -> bool:
    product = produced_by(value, "Mul", *ACTIVATIONS)
    if product is None or not is_op(product, "Mul"):
        return product is not None
    x, gate = product.inputs
    return _is_gate_of(gate, x) or _is_gate_of(x, gate)


@dataclasses.dataclass(frozen=True)
class CanonicalizeGates(RulePass):
    """Spell gated products one way, so that whoever selects kernels sees one order.

    given:  float[N] x; float[N] y
    before: z = Mul(x, Mul(Sigmoid(x), y))
    after:  z = Mul(Mul(x, Sigmoid(x)), y)

    A value comes before its gate, and an activation (SiLU, Gelu, HardSwish, Mish) before what it multiplies.
    """

    exactness = Exactness.REASSOCIATES
    rules = (value_before_gate, gate_before_other, activation_before_other)
