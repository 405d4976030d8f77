"""ONNX Runtime's own operators: which provider has a kernel for which type, and how a pass selects them."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.errors import UsageError
from graphopt.ir import DataType, Model, Node, Value
from graphopt.ir.query import attribute, is_op
from graphopt.transform import Changes, NoMatch, Rewriter
from graphopt.transform.rule import Replacement, Rule, apply_rules

DOMAIN = "com.microsoft"

_FLOAT = frozenset({"FLOAT"})
_CUDA = frozenset({"FLOAT", "FLOAT16"})

KERNELS: dict[str, dict[str, frozenset[str]]] = {
    "cpu": {
        "Attention": _FLOAT,
        "BiasGelu": _FLOAT,
        "FastGelu": _FLOAT,
        "FusedConv": _FLOAT,
        "FusedGemm": _FLOAT,
        "FusedMatMul": frozenset({"FLOAT", "DOUBLE"}),
        "Gelu": _FLOAT,
        "GroupQueryAttention": _FLOAT,
        "MultiHeadAttention": _FLOAT,
        "QuickGelu": _FLOAT,
        "SkipLayerNormalization": _FLOAT,
        "SkipSimplifiedLayerNormalization": _FLOAT,
    },
    "cuda": {
        "Attention": _CUDA,
        "BiasGelu": _CUDA,
        "FastGelu": _CUDA,
        "FusedConv": _FLOAT,
        "FusedMatMul": frozenset({"FLOAT", "FLOAT16", "DOUBLE"}),
        "Gelu": _CUDA,
        "GroupQueryAttention": frozenset({"FLOAT16"}),
        "MultiHeadAttention": _CUDA,
        "QuickGelu": _CUDA,
        "SkipLayerNormalization": _CUDA,
        "SkipSimplifiedLayerNormalization": _CUDA,
    },
}
"""Provider → operator of com.microsoft → types of its kernel, as ONNX Runtime 1.31 registers them.

Left out for CUDA: bfloat16, which not every GPU has, and activation functions of float64, which the CPU
that takes over where there is no GPU could not run.
"""

CARRIED = ("MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
"""Operators across which ONNX Runtime moves pairs of QuantizeLinear and DequantizeLinear."""

MAX_STEPS = 16
"""How many operators behind a value are looked at."""

NAMES_ITS_TYPE = 21
"""Since this opset QuantizeLinear has an attribute for the type that it makes."""


def moves_int8(node: Node) -> bool:
    """Whether ONNX Runtime puts a pair of int8 behind `node`, which moves dequantised numbers.

    It does so where one operator takes them that does not quantise them; from opset 21 on it makes what
    it then refuses.
    """
    source = node.inputs[0].producer() if is_op(node, *CARRIED) and node.inputs[0] is not None else None
    if source is None or not is_op(source, "DequantizeLinear"):
        return False
    if source.inputs[0] is None or source.inputs[0].dtype != DataType.INT8:
        return False
    moved = node.outputs[0]
    for step in range(MAX_STEPS):
        if moved.is_graph_output():
            return True
        if len(moved.uses()) != 1:
            return step > 0
        (use,) = moved.uses()
        if not is_op(use.node, *CARRIED):
            return not is_op(use.node, "QuantizeLinear")
        moved = use.node.outputs[0]
    return True


def is_contrib(node: Node | None, *op_types: str) -> bool:
    """Whether `node` is one of ONNX Runtime's own `op_types`; without any, whichever of its own."""
    return node is not None and (node.domain or "") == DOMAIN and (not op_types or node.op_type in op_types)


def select(model: Model, rules: Sequence[Rule], provider: str) -> Changes:
    """Apply `rules` where `provider` has kernels for what they make, and import the domain of those.

    Raises:
        UsageError: GO303, nobody knows the kernels of `provider`.
    """
    if provider not in KERNELS:
        raise UsageError(
            "GO303", "the kernels of this provider are not known", found=provider, expected="cpu or cuda"
        )
    changes = apply_rules(model, [_guarded(item, provider) for item in rules])
    if changes.modified and any((node.domain or "") == DOMAIN for node in model.graph.all_nodes()):
        model.opset_imports.setdefault(DOMAIN, 1)
    return changes


def _guarded(item: Rule, provider: str) -> Rule:
    """`item`, declining where `provider` lacks a kernel for a node that it made."""

    def function(node: Node, rewriter: Rewriter) -> Replacement:
        answer = item(node, rewriter)
        if isinstance(answer, NoMatch):
            return answer
        results = [answer] if isinstance(answer, Value) else answer
        for value in results:
            made = None if value is None else value.producer()
            if is_contrib(made) and made is not None and made.graph is None:
                missing = why_no_kernel(made, provider)
                if missing is not None:
                    return missing
        return answer

    return Rule(item.name, item.op_types, item.domain, function)


def why_no_kernel(node: Node, provider: str) -> NoMatch | None:
    """Why `provider` cannot run `node` of com.microsoft with its first input's type; None if it can."""
    value = node.inputs[0]
    types = KERNELS[provider].get(node.op_type)
    if types is None:
        return NoMatch(f"{provider} has no kernel for {node.op_type}")
    if value is None or value.dtype is None:
        return NoMatch("the type is unknown", None if value is None else value.name)
    if value.dtype.name not in types:
        return NoMatch(f"{provider} has no {node.op_type} of type {value.dtype.name.lower()}", value.name)
    if provider == "cuda" and node.op_type == "FusedConv" and attribute(node, "activation") != "Relu":
        return NoMatch("cuDNN fuses Relu alone", node.name)
    return None
