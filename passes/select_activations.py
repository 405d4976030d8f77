"""select-activations: ONNX Runtime's operators for Gelu with its bias, Gelu by tanh, and x sigmoid(c x)."""

from __future__ import annotations

import dataclasses

from graphopt.ir import Model, Node, Value
from graphopt.ir.query import attribute, only_use, rank, same_dim
from graphopt.passes._matching import is_float, produced_by
from graphopt.passes._onnxruntime import DOMAIN, select
from graphopt.passes._products import factor_of
from graphopt.passes.raise_gelu import match_gelu
from graphopt.transform import Changes, Exactness, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement


@rule("Mul", "Div")
def gelu_from_parts(node: Node, rewriter: Rewriter) -> Replacement:
    """0.5 x (1 + erf(x / sqrt(2))) = com.microsoft.Gelu(x), and with tanh FastGelu(x)."""
    found = match_gelu(node)
    if isinstance(found, NoMatch):
        return found
    x, approximate = found
    return rewriter.op("Gelu" if approximate == "none" else "FastGelu", x, domain=DOMAIN)


@rule("Gelu")
def gelu_of_sum(node: Node, rewriter: Rewriter) -> Replacement:
    """Gelu(x + b) = BiasGelu(x, b) for a vector b, and FastGelu(x, b) for the form with tanh."""
    tanh = attribute(node, "approximate", "none") == "tanh"
    return _with_bias(node, rewriter, "FastGelu" if tanh else "BiasGelu")


@rule("Gelu", "FastGelu", domain=DOMAIN)
def contrib_gelu_of_sum(node: Node, rewriter: Rewriter) -> Replacement:
    """com.microsoft.Gelu(x + b) = BiasGelu(x, b), and FastGelu(x + b) = FastGelu(x, b)."""
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        return NoMatch("it has a bias", node.name)
    return _with_bias(node, rewriter, "FastGelu" if node.op_type == "FastGelu" else "BiasGelu")


def _with_bias(node: Node, rewriter: Rewriter, op_type: str) -> Replacement:
    total = produced_by(node.inputs[0], "Add")
    if total is None or total.graph is not node.graph or only_use(total.outputs[0]) is not node:
        return NoMatch("no sum that only the Gelu uses", node.name)
    a, b = total.inputs
    for x, bias in ((a, b), (b, a)):
        if x is None or bias is None or x.shape is None or bias.shape is None:
            continue
        # A vector as long as the last axis: the sum has the shape of x.
        if rank(bias) == 1 and rank(x) != 0 and same_dim(bias.shape.dims[0], x.shape.dims[-1]):
            return rewriter.op(op_type, x, bias, domain=DOMAIN)
    return NoMatch("what is added is no vector along the last axis", total.name)


@rule("Mul")
def quick_gelu(node: Node, rewriter: Rewriter) -> Replacement:
    """x sigmoid(c x) = QuickGelu(x, alpha=c), which is SiLU for c = 1."""
    for x, gate in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
        sigmoid = produced_by(gate, "Sigmoid")
        if x is None or gate is None or sigmoid is None or sigmoid.graph is not node.graph:
            continue
        if only_use(gate) is not node:
            return NoMatch("the sigmoid is used elsewhere", gate.name)
        argument = sigmoid.inputs[0]
        if argument is None or not is_float(x):
            return NoMatch("not of a float type", x.name)
        alpha = _slope(argument, sigmoid, x)
        if alpha is None:
            return NoMatch("the argument of the sigmoid is not the other factor", argument.name)
        return rewriter.op("QuickGelu", x, domain=DOMAIN, alpha=alpha)
    return NoMatch("no sigmoid among the factors")


def _slope(argument: Value, sigmoid: Node, x: Value) -> float | None:
    """c, if `argument` is ``c * x``."""
    if argument is x:
        return 1.0
    inner = factor_of(argument, sigmoid)
    return inner.coefficient if inner.is_power_of(x, 1) else None


@dataclasses.dataclass(frozen=True)
class SelectActivations(RulePass):
    """Choose ONNX Runtime's Gelu, BiasGelu, FastGelu and QuickGelu for activation functions in parts.

    given:  float[N] x
    before: y = Mul(x, Sigmoid(x))
    after:  y = com.microsoft.QuickGelu<alpha = 1.0>(x)

    The parts serve the activation alone; a bias is a vector along the last axis.

    Options:
        provider: whose kernels are asked for, cpu or cuda.

    Spec: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.BiasGelu
    """

    provider: str = "cpu"

    exactness = Exactness.REASSOCIATES
    rules = (gelu_from_parts, gelu_of_sum, contrib_gelu_of_sum, quick_gelu)

    def run(self, model: Model) -> Changes:
        """Apply the rules where the provider has the kernel."""
        return select(model, self.rules, self.provider)
