"""raise-hard-swish: clipped linear functions written out become HardSigmoid and HardSwish."""

from __future__ import annotations

import dataclasses

from graphopt.ir import Node, Value
from graphopt.ir.query import attribute, is_op, only_use, rank, scalar
from graphopt.passes._matching import (
    is_about,
    is_activation_type,
    made_for,
    numpy_dtype,
    produced_by,
    scalar_factor,
    split_constant,
)
from graphopt.passes._products import Monomial, factor_of, monomial
from graphopt.transform import Exactness, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

HARD_SWISH_OPSET = 14


@rule("Mul", "Div")
def hard_swish(node: Node, rewriter: Rewriter) -> Replacement:
    """x * clip(x + 3, 0, 6) / 6 = HardSwish(x), and x * HardSigmoid(x, 1/6, 1/2) = HardSwish(x)."""
    if rewriter.opset < HARD_SWISH_OPSET:
        return NoMatch(f"needs opset {HARD_SWISH_OPSET}")
    product = monomial(node)
    if product is None or len(product.powers) != 2 or set(product.powers.values()) != {1}:
        return NoMatch("not a product of two values")
    first, second = product.powers
    for x, gate in ((first, second), (second, first)):
        found = _gate(gate, node, product)
        if found is None:
            continue
        source, alpha, beta, top = found
        if source is not x:
            return NoMatch("the gate is of another value", gate.name)
        dtype = numpy_dtype(x)
        if not is_activation_type(x, rewriter.opset) or rank(x) is None or rank(x) != rank(node.outputs[0]):
            return NoMatch("the type or the rank is unknown", x.name)
        if not (is_about(alpha, 1 / 6, dtype) and is_about(beta, 0.5, dtype) and is_about(top, 1.0, dtype)):
            return NoMatch("the gate is not x / 6 + 1 / 2 between 0 and 1", gate.name)
        return rewriter.op("HardSwish", x)
    return NoMatch("no clip or HardSigmoid among the factors")


def _gate(value: Value, root: Node, product: Monomial) -> tuple[Value, float, float, float] | None:
    """(x, a, b, top) if ``coefficient * value`` is ``clip(a * x + b, 0, top)`` that only the product uses."""
    node = produced_by(value, "Clip", "HardSigmoid")
    if node is None or node.graph is not root.graph or len(value.uses()) != 1 or value.is_graph_output():
        return None
    if node.op_type == "HardSigmoid" and node.inputs[0] is not None:
        alpha, beta = float(attribute(node, "alpha", 0.2)), float(attribute(node, "beta", 0.5))
        scale = product.coefficient
        return node.inputs[0], alpha * scale, beta * scale, scale
    line = _clipped_line(node)
    if isinstance(line, NoMatch):
        return None
    x, alpha, beta, top = line
    return x, alpha * product.coefficient, beta * product.coefficient, top * product.coefficient


def _clipped_line(clip: Node) -> tuple[Value, float, float, float] | NoMatch:
    """(x, a, b, h) of ``clip(a * x + b, 0, h)`` with a > 0 and nothing in between used elsewhere."""
    if len(clip.inputs) != 3 or scalar(clip.inputs[1]) != 0:
        return NoMatch("it does not clip at 0", clip.name)
    top = scalar(clip.inputs[2])
    if top is None or not top > 0:
        return NoMatch("its upper end is not a positive constant", clip.name)
    total = made_for(clip.inputs[0], clip, "Add")
    if isinstance(total, NoMatch):
        return total
    operands = split_constant(total)
    beta = scalar_factor(operands[1], operands[0]) if operands is not None else None
    if operands is None or beta is None:
        return NoMatch("what is clipped is not a value plus a scalar", total.name)
    line = factor_of(operands[0], total)
    if len(line.powers) != 1 or set(line.powers.values()) != {1} or not line.coefficient > 0:
        return NoMatch("what is clipped is not a rising line", total.name)
    return next(iter(line.powers)), line.coefficient, beta, float(top)


@rule("Clip", "Div", "Mul")
def hard_sigmoid(node: Node, rewriter: Rewriter) -> Replacement:
    """clip(a x + b, 0, h) / h = HardSigmoid(x, alpha=a/h, beta=b/h)."""
    scale = 1.0
    clip = node
    if not is_op(node, "Clip"):
        product = monomial(node)
        if product is None or len(product.powers) != 1 or set(product.powers.values()) != {1}:
            return NoMatch("not one value times a scalar")
        value = next(iter(product.powers))
        producer = produced_by(value, "Clip")
        if producer is None or producer.graph is not node.graph or only_use(value) is None:
            return NoMatch("no clip of its own below", value.name)
        clip, scale = producer, product.coefficient
    line = _clipped_line(clip)
    if isinstance(line, NoMatch):
        return line
    x, alpha, beta, top = line
    dtype = numpy_dtype(x)
    if not is_activation_type(x, rewriter.opset):
        return NoMatch("not of a type that HardSigmoid takes", x.name)
    if not is_about(top * scale, 1.0, dtype):
        return NoMatch("the result does not end at 1", node.name)
    if rank(x) is None or rank(x) != rank(node.outputs[0]):
        return NoMatch("the rank is unknown", x.name)
    return rewriter.op("HardSigmoid", x, alpha=alpha * scale, beta=beta * scale)


@dataclasses.dataclass(frozen=True)
class RaiseHardSwish(RulePass):
    """Recognise HardSigmoid and HardSwish that are written out with Clip.

    given:  float[N] x
    before: y = Div(Mul(x, Clip(Add(x, 3.0), 0.0, 6.0)), 6.0)
    after:  y = HardSwish(x)

    Constants are compared within 1e-4, or one unit in the last place of float16 and bfloat16.

    Spec: https://onnx.ai/onnx/operators/onnx__HardSwish.html (since version 14)
    """

    exactness = Exactness.REASSOCIATES
    rules = (hard_swish, hard_sigmoid)
