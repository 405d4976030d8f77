"""select-fused-conv: an activation function after Conv or Gemm becomes part of it."""

from __future__ import annotations

import dataclasses
from typing import Any

from graphopt.ir import Model, Node
from graphopt.ir.query import attribute, scalar
from graphopt.passes._matching import attributes_of, is_float, made_for
from graphopt.passes._onnxruntime import DOMAIN, select
from graphopt.transform import Changes, Exactness, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

ACTIVATIONS = ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Clip", "HardSigmoid", "HardSwish")
GEMM_ACTIVATIONS = ("Relu", "Sigmoid", "Tanh", "LeakyRelu")


@rule(*ACTIVATIONS)
def conv_with_activation(node: Node, rewriter: Rewriter) -> Replacement:
    """f(Conv(x, w, b)) = FusedConv(x, w, b, activation=f)."""
    conv = made_for(node.inputs[0], node, "Conv")
    if isinstance(conv, NoMatch):
        return conv
    if not is_float(conv.outputs[0]):
        return NoMatch("not of a float type", conv.name)
    parameters = _parameters(node)
    if isinstance(parameters, NoMatch):
        return parameters
    return rewriter.op(
        "FusedConv",
        *conv.inputs,
        domain=DOMAIN,
        stem=conv.name,
        **attributes_of(conv),
        activation=node.op_type,
        activation_params=parameters or None,
    )


@rule(*GEMM_ACTIVATIONS)
def gemm_with_activation(node: Node, rewriter: Rewriter) -> Replacement:
    """f(Gemm(a, b, c)) = FusedGemm(a, b, c, activation=f)."""
    gemm = made_for(node.inputs[0], node, "Gemm")
    if isinstance(gemm, NoMatch):
        return gemm
    if not is_float(gemm.outputs[0]):
        return NoMatch("not of a float type", gemm.name)
    slope: dict[str, Any] = {}
    if node.op_type == "LeakyRelu":
        slope["activation_alpha"] = float(attribute(node, "alpha", 0.01))
    return rewriter.op(
        "FusedGemm",
        *gemm.inputs,
        domain=DOMAIN,
        stem=gemm.name,
        **attributes_of(gemm),
        activation=node.op_type,
        **slope,
    )


def _parameters(node: Node) -> list[float] | NoMatch:
    """The numbers of the activation `node`, in the order in which FusedConv takes them."""
    if node.op_type == "LeakyRelu":
        return [float(attribute(node, "alpha", 0.01))]
    if node.op_type == "HardSigmoid":
        return [float(attribute(node, "alpha", 0.2)), float(attribute(node, "beta", 0.5))]
    if node.op_type != "Clip":
        return []
    ends = [scalar(v) for v in node.inputs[1:]]
    low, high = ends if len(ends) == 2 else (None, None)
    if low is None or high is None or not low <= high:
        return NoMatch("it does not clip between two constants", node.name)
    return [float(low), float(high)]


@dataclasses.dataclass(frozen=True)
class SelectFusedConv(RulePass):
    """Make FusedConv or FusedGemm of a Conv or Gemm and the activation function that alone uses it.

    given:  float[1, 3, 8, 8] x; w = float[2, 3, 1, 1] 0.5; b = [1.0, 2.0]
    before: y = Relu(Conv(x, w, b))
    after:  y = com.microsoft.FusedConv<activation = "Relu">(x, w, b)

    Relu, Sigmoid, Tanh, LeakyRelu, HardSigmoid, HardSwish and Clip between two constants after Conv; the
    first four after Gemm. The runtime gives FusedConv its blocked layout like any Conv. A residual that is
    added before the activation stays: FusedConv takes one, but not in that layout.

    Options:
        provider: whose kernels are asked for, cpu or cuda.

    Spec: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.FusedConv
    """

    provider: str = "cpu"

    exactness = Exactness.REASSOCIATES
    rules = (conv_with_activation, gemm_with_activation)

    def run(self, model: Model) -> Changes:
        """Apply the rules where the provider has the kernel."""
        return select(model, self.rules, self.provider)
