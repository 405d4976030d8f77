"""raise-gelu: the Gaussian error linear unit written out, exact or with tanh, becomes Gelu."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

import numpy as np

from graphopt.ir import DataType, Node, Value
from graphopt.ir.query import is_op, rank, same_shape
from graphopt.passes._matching import is_about, is_float, numpy_dtype, scalar_factor, split_constant
from graphopt.passes._products import Monomial, factor_of, monomial
from graphopt.passes._upgrading import UpgradingPass
from graphopt.transform import Exactness, NoMatch, Rewriter, rule
from graphopt.transform.rule import Replacement

NEEDED_OPSET = 20
CUBIC = 0.044715


@rule("Mul", "Div")
def gelu(node: Node, rewriter: Rewriter) -> Replacement:
    """0.5 x (1 + erf(x / sqrt(2))) = Gelu(x), and with tanh, in any order."""
    found = match_gelu(node)
    if isinstance(found, NoMatch):
        return found
    if rewriter.opset < NEEDED_OPSET:
        return NoMatch(f"needs opset {NEEDED_OPSET}")
    x, approximate = found
    return rewriter.op("Gelu", x, approximate=approximate)


def match_gelu(node: Node) -> tuple[Value, str] | NoMatch:
    """(x, "none" or "tanh") if `node` is the last multiplication of a Gelu of x."""
    product = monomial(node)
    if product is None:
        return NoMatch("not a product")
    if len(product.powers) != 2 or set(product.powers.values()) != {1}:
        return NoMatch("not a product of two values")
    dtype = numpy_dtype(node.outputs[0])
    # ONNX Runtime has no kernel for Gelu of float64.
    if dtype is None or not is_float(node.outputs[0]) or node.outputs[0].dtype == DataType.DOUBLE:
        return NoMatch("not of float32 or half precision")
    first, second = product.powers
    for x, bell in ((first, second), (second, first)):
        inner = _bell(bell)
        if inner is None:
            continue
        if not is_about(product.coefficient * inner.shift, 0.5, dtype):
            return NoMatch("the product is not halved", node.name)
        if not is_about(abs(inner.slope), abs(inner.shift), dtype):
            return NoMatch("the two terms under the product are not of one size", bell.name)
        if not _keeps_shape(x, node):
            return NoMatch("the result has not the shape of the input", x.name)
        if inner.function.op_type == "Erf":
            return _erf_form(x, inner.function, inner.slope / inner.shift, dtype)
        return _tanh_form(x, inner.function, math.copysign(inner.scale, inner.slope / inner.shift), dtype)
    return NoMatch("no 1 + erf or 1 + tanh among the factors")


def _keeps_shape(x: Value, node: Node) -> bool:
    found = rank(x)
    return found is not None and (
        found == rank(node.outputs[0]) or same_shape(x.shape, node.outputs[0].shape)
    )


@dataclasses.dataclass(frozen=True)
class _Bell:
    """``shift + slope * function(scale * u)`` for an Erf or Tanh that only this sum uses.

    A Sigmoid of v is ``1/2 + 1/2 * tanh(v / 2)``: its scale is 1/2.
    """

    shift: float
    slope: float
    function: Node
    scale: float = 1.0


def _bell(value: Value) -> _Bell | None:
    """What `value`, which is used once, is as a shifted and scaled Erf or Tanh, or None."""
    total = value.producer()
    if total is None or len(value.uses()) != 1 or value.is_graph_output():
        return None
    if is_op(total, "Sigmoid"):
        return _Bell(0.5, 0.5, total, 0.5)
    operands = split_constant(total) if is_op(total, "Add", "Sub") else None
    shift = scalar_factor(operands[1], operands[0]) if operands is not None else None
    if operands is None or not shift or (is_op(total, "Sub") and operands[1] is not total.inputs[0]):
        return None
    term = factor_of(operands[0], total)
    if len(term.powers) != 1 or set(term.powers.values()) != {1}:
        return None
    (result,) = term.powers
    function = result.producer()
    if function is None or not is_op(function, "Erf", "Tanh") or function.graph is not total.graph:
        return None
    if len(result.uses()) != 1 or result.is_graph_output():
        return None
    return _Bell(shift, -term.coefficient if is_op(total, "Sub") else term.coefficient, function)


def _erf_form(x: Value, erf: Node, sign: float, dtype: np.dtype) -> tuple[Value, str] | NoMatch:
    """Whether the argument of `erf` is ``x / sqrt(2)``, or ``-x / sqrt(2)`` for a negative `sign`."""
    argument = erf.inputs[0]
    if argument is None:
        return NoMatch("erf has no argument")
    inner = factor_of(argument, erf)
    coefficient = math.copysign(1, sign) * inner.coefficient
    if not inner.is_power_of(x, 1) or not is_about(coefficient, math.sqrt(0.5), dtype):
        return NoMatch("the argument of erf is not x / sqrt(2)", argument.name)
    return x, "none"


def _tanh_form(x: Value, tanh: Node, scale: float, dtype: np.dtype) -> tuple[Value, str] | NoMatch:
    """Whether `scale` times the argument of `tanh` is ``sqrt(2 / pi) * (x + 0.044715 * x³)``."""
    argument = tanh.inputs[0]
    if argument is None:
        return NoMatch("tanh has no argument")
    outer = factor_of(argument, tanh)
    linear = cubic = None
    for value in outer.powers:
        coefficients = _odd_polynomial(value, x, tanh)
        if coefficients is not None and outer.powers[value] == 1:
            rest = Monomial(outer.coefficient * scale, outer.powers - _once(value))
            degree, low, high = coefficients
            if (degree == 1 and not rest.powers) or (degree == 0 and rest.is_power_of(x, 1)):
                linear, cubic = rest.coefficient * low, rest.coefficient * high
                break
    if linear is None or cubic is None:
        return NoMatch("the argument of tanh is not a polynomial of x", argument.name)
    if not is_about(linear, math.sqrt(2 / math.pi), dtype) or not is_about(cubic / linear, CUBIC, dtype):
        return NoMatch("the polynomial under tanh has other coefficients", argument.name)
    return x, "tanh"


def _odd_polynomial(value: Value, x: Value, tanh: Node) -> tuple[int, float, float] | None:
    """(1, a, b) of ``a * x + b * x³``, (0, a, b) of ``a + b * x²``, or None.

    The sum must be used once: by the product under `tanh`, or by `tanh` itself.
    """
    total = value.producer()
    if not is_op(total, "Add") or total is None or total.graph is not tanh.graph:
        return None
    if len(value.uses()) != 1 or value.is_graph_output() or len(total.inputs) != 2:
        return None
    operands = split_constant(total)
    if operands is not None:
        number = scalar_factor(operands[1], operands[0])
        square = factor_of(operands[0], total)
        return (0, number, square.coefficient) if number is not None and square.is_power_of(x, 2) else None
    a, b = total.inputs
    if a is None or b is None:
        return None
    terms = [factor_of(a, total) if a is not x else Monomial(1.0, _once(x))]
    terms.append(factor_of(b, total) if b is not x else Monomial(1.0, _once(x)))
    for low, high in (terms, terms[::-1]):
        if low.is_power_of(x, 1) and high.is_power_of(x, 3):
            return 1, low.coefficient, high.coefficient
    return None


def _once(x: Value) -> Counter[Value]:
    return Counter({x: 1})


@dataclasses.dataclass(frozen=True)
class RaiseGelu(UpgradingPass):
    """Recognise Gelu, exact and with tanh, however its products are associated.

    given:  float[N] x; opset 20
    before: y = Mul(Mul(x, Add(Erf(Div(x, 1.4142135)), 1.0)), 0.5)
    after:  y = Gelu(x)

    ``x * Sigmoid(v)`` with twice the polynomial of tanh is the same, and so is ``1 - erf(-x / sqrt(2))``.
    Constants are compared within 1e-4, or one unit in the last place of float16 and bfloat16.

    Options:
        upgrade: raise the model's opset to 20, where Gelu is, if there is one to raise.

    Spec: https://onnx.ai/onnx/operators/onnx__Gelu.html (since version 20)
    """

    needed_opset = NEEDED_OPSET
    exactness = Exactness.REASSOCIATES
    rules = (gelu,)

    @staticmethod
    def matches(node: Node) -> bool:
        """Whether Gelu is written out here."""
        return is_op(node, *gelu.op_types) and not isinstance(match_gelu(node), NoMatch)
