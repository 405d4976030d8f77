"""select-rms-parts: RMS normalization in parts, in the one spelling that ONNX Runtime fuses."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np

from graphopt.ir import DataType, Node, Value
from graphopt.ir.query import is_op, only_use, rank
from graphopt.passes._matching import attributes_of, made_for, scalar_factor, split_constant
from graphopt.passes._moments import reduced_axes
from graphopt.passes._quotients import quotient
from graphopt.transform import Exactness, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement


@rule("Mul", "Div")
def root_mean_square(node: Node, rewriter: Rewriter) -> Replacement:
    """x * (1 / sqrt(E[x * x] + e)) = x / sqrt(E[x ** 2] + e)."""
    product = quotient(node)
    if product is None or product.coefficient != 1.0:
        return NoMatch("not a quotient")
    leaf = next((v for v, power in product.powers.items() if power == Fraction(-1, 2)), None)
    shifted = leaf.producer() if leaf is not None else None
    operands = split_constant(shifted) if is_op(shifted, "Add") and shifted is not None else None
    if leaf is None or shifted is None or operands is None or scalar_factor(operands[1], operands[0]) is None:
        return NoMatch("no root of a value and an epsilon below")
    mean = made_for(operands[0], shifted, "ReduceMean")
    square = mean if isinstance(mean, NoMatch) else made_for(mean.inputs[0], mean, "Mul")
    if isinstance(mean, NoMatch) or isinstance(square, NoMatch):
        return NoMatch("under the root is no mean of a product of its own", leaf.name)
    x = square.inputs[0]
    if x is None or square.inputs[1] is not x or product.powers.get(x) != 1:
        return NoMatch("what is divided is not what is squared", node.name)
    if x.dtype != DataType.FLOAT or reduced_axes(mean) != ((rank(x) or 0) - 1,):
        return NoMatch("not of float32, or not over the last axis", x.name)
    factors = [v for v in product.powers if v is not x and v is not leaf]
    if only_use(leaf) is None or any(product.powers[v] != 1 for v in factors):
        return NoMatch("the mean is used elsewhere, or the result divided further", leaf.name)
    if not factors and not _is_scaled(node.outputs[0]):
        return NoMatch("ONNX Runtime fuses it with a scale only", node.name)
    power = rewriter.op("Pow", x, rewriter.const(np.float32(2), "two"))
    again = rewriter.op("ReduceMean", power, *mean.inputs[1:], **attributes_of(mean))
    root = rewriter.op("Sqrt", rewriter.op("Add", again, operands[1]))
    y = rewriter.op("Div", x, root)
    for factor in factors:
        y = rewriter.op("Mul", y, factor)
    return y


def _is_scaled(y: Value) -> bool:
    user = only_use(y)
    return user is not None and is_op(user, "Mul")


@dataclasses.dataclass(frozen=True)
class SelectRmsParts(RulePass):
    """Spell RMS normalization as ONNX Runtime looks for it, for models that stay below opset 23.

    given:  float[N, 4] x; w = float[4] 0.5
    before: r = Reciprocal(Sqrt(Add(ReduceMean(Mul(x, x), [-1]), 0.5))); y = Mul(Mul(x, r), w)
    after:  y = Mul(Div(x, Sqrt(Add(ReduceMean(Pow(x, 2.0), [-1]), 0.5))), w)

    ONNX Runtime makes one SimplifiedLayerNormalization of it, which takes 0.4 to 0.7 of the time; of a square
    that is a product, or of a reciprocal, it makes nothing. canonicalize-arithmetic writes the product.

    Spec: https://arxiv.org/abs/1910.07467
    """

    exactness = Exactness.REASSOCIATES
    rules = (root_mean_square,)
