"""Raising a model's opset for operators that older ones lack."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import ClassVar

from graphopt.ir import DataType, Model, Node, provenance
from graphopt.ir.ingest import name_everything
from graphopt.ir.opset import upgrade
from graphopt.ir.query import walk_graphs
from graphopt.ir.shapes import infer_shapes
from graphopt.passes._onnxruntime import NAMES_ITS_TYPE, moves_int8
from graphopt.transform import Changes, RulePass

DEFINED_AT_18 = frozenset(
    {
        "Elu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Mish",
        "PRelu",
        "Selu",
        "Softplus",
        "Softsign",
        "ThresholdedRelu",
    }
)
"""Of these ONNX Runtime has no float64 kernels, and it finds their definitions at opset 18 but not above."""

NO_KERNEL_FROM_22 = frozenset(
    {
        "Bernoulli",
        "GlobalLpPool",
        "MaxRoiPool",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "RoiAlign",
    }
)
"""Of the versions of opset 22 of these ONNX Runtime's CPU provider has no kernel; those before it runs."""

NO_CUDA_KERNEL_FROM_22 = frozenset(
    {"Dropout", "Elu", "EyeLike", "InstanceNormalization", "MaxPool", "Selu", "ThresholdedRelu"}
)
"""Of the versions of opset 22 of these the CUDA provider of ONNX Runtime 1.31 has no kernel."""


@dataclasses.dataclass(frozen=True)
class UpgradingPass(RulePass):
    """Rules that make an operator which `needed_opset` was the first to have.

    Attributes:
        upgrade: raise an older model to that opset, if it has a match.
        provider: cpu or cuda: whose kernels are not to be lost by that.
    """

    upgrade: bool = False
    provider: str = "cpu"

    needed_opset: ClassVar[int]

    @staticmethod
    @abc.abstractmethod
    def matches(node: Node) -> bool:
        """Whether the operator is written out at `node`, whatever the opset."""

    def run(self, model: Model) -> Changes:
        """Apply the rules, after an upgrade of the opset if that is wanted and of use."""
        if self.upgrade:
            upgrade_for(model, self.needed_opset, self.matches, self.provider)
        return super().run(model)


def upgrade_for(model: Model, opset: int, wanted: Callable[[Node], bool], provider: str = "cpu") -> None:
    """Raise `model` to `opset` if it is older, has a node that is `wanted`, and runs as well afterwards.

    Args:
        provider: cpu or cuda: whose kernels are not to be lost by that.
    """
    if model.opset_imports.get("", 1) >= opset:
        return
    nodes = [node for graph in walk_graphs(model.graph) for node in graph]
    if any(_loses_its_kernel(node, opset, provider) for node in nodes) or not any(
        wanted(node) for node in nodes
    ):
        return
    upgrade(model, opset)
    name_everything(model)
    provenance.start(model)
    infer_shapes(model)


def _loses_its_kernel(node: Node, opset: int, provider: str) -> bool:
    if node.domain:
        return False
    if provider == "cuda" and opset >= 22 and node.op_type in NO_CUDA_KERNEL_FROM_22:
        return True
    if opset >= 22 and node.op_type in NO_KERNEL_FROM_22:
        return True
    if opset >= NAMES_ITS_TYPE and moves_int8(node):
        return True  # `guard-quantization` would part a pair that is computed in 8 bits as it is
    if node.op_type not in DEFINED_AT_18:
        return False
    return any(value is not None and value.dtype == DataType.DOUBLE for value in node.inputs)
