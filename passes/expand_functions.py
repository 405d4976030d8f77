"""expand-functions: operators that a runtime does not know become what the standard defines them by."""

from __future__ import annotations

import dataclasses

import onnx
import onnx_ir.serde

from graphopt.errors import UnsupportedError
from graphopt.ir import Model, Node, Value
from graphopt.ir.operator_bodies import body_of, has_body
from graphopt.ir.opset import upgrade
from graphopt.ir.query import constant_tensor, is_deterministic, subgraphs
from graphopt.passes._matching import attributes_of
from graphopt.transform import Changes, Exactness, NoMatch, Pass, Rewriter
from graphopt.transform.rule import Replacement, Rule, apply_rules

TENSORRT = (
    "AffineGrid",
    "Attention",
    "BlackmanWindow",
    "CenterCropPad",
    "DynamicQuantizeLinear",
    "HammingWindow",
    "HannWindow",
    "NegativeLogLikelihoodLoss",
    "RMSNormalization",
    "RotaryEmbedding",
    "SoftmaxCrossEntropyLoss",
    "Swish",
)
"""What TensorRT's parser does not take, and the standard defines by other operators."""


def expanded(node: Node, rewriter: Rewriter) -> Replacement:
    """An operator = the function that its schema defines it by."""
    if not has_body(node, rewriter.opset) or not is_deterministic(node):
        return NoMatch("the standard does not define it by other operators", node.name)
    if any(v is not None and (v.type is None or v.dtype is None) for v in node.inputs):
        return NoMatch("the type of an operand is unknown", node.name)
    found = body_of(node, rewriter.opset, [_type_of(value) for value in node.inputs])
    if found is None:
        return NoMatch("it has no function for these types", node.name)
    model, inputs = found
    try:
        upgrade(model, rewriter.opset)
    except UnsupportedError:
        return NoMatch("its function is of an older opset", node.name)
    if any(True for inner in model.graph for _ in subgraphs(inner)):
        return NoMatch("its function has control flow", node.name)
    return _copied(model, dict(zip(inputs, node.inputs, strict=True)), node, rewriter)


def _copied(
    model: Model, given: dict[Value | None, Value | None], node: Node, rewriter: Rewriter
) -> Replacement:
    """The nodes of `model` made anew by `rewriter`, with `given` for its inputs."""
    made: dict[Value, Value | None] = {inner: outer for inner, outer in given.items() if inner is not None}

    def outside(value: Value | None) -> Value | None:
        if value is None:
            return None
        if value not in made:
            tensor = constant_tensor(value)
            assert tensor is not None, value
            made[value] = rewriter.const(tensor.numpy(), "function")
        return made[value]

    for inner in model.graph:
        operands = [outside(value) for value in inner.inputs]
        results = rewriter.ops(
            inner.op_type,
            *operands,
            outputs=len(inner.outputs),
            domain=inner.domain,
            **attributes_of(inner),
        )
        made.update(zip(inner.outputs, results, strict=True))
    results_given = iter([outside(value) for value in model.graph.outputs])
    return [next(results_given) if value.name else None for value in node.outputs]


def _type_of(value: Value | None) -> onnx.TypeProto | None:
    if value is None or value.type is None:
        return None
    return onnx_ir.serde.serialize_value(value).type


@dataclasses.dataclass(frozen=True)
class ExpandFunctions(Pass):
    """Write operators out by the functions that the standard defines them by.

    given:  float[N, 4] x; opset 24
    before: y = Swish<alpha = 2.0>(x)
    after:  y = Mul(x, Sigmoid(Mul(CastLike(2.0, x), x)))

    For runtimes that do not know an operator, but those that it stands for. What has control flow in its
    function, draws random numbers, or has operands of unknown type stays.

    Options:
        ops: the operators; by default those that TensorRT's parser does not take.

    Spec: https://onnx.ai/onnx/intro/concepts.html#functions
    """

    ops: tuple[str, ...] = TENSORRT

    exactness = Exactness.REASSOCIATES

    def run(self, model: Model) -> Changes:
        """Expand every node of the named operators."""
        return apply_rules(model, [Rule("expanded", self.ops, "", expanded)])
