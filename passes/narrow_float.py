"""narrow-float: compute in bfloat16 or float16 where that is safe, and in float32 elsewhere."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import onnx_ir

from graphopt.errors import UsageError
from graphopt.ir import DataType, LazyTensor, Model, Node, TensorProtocol, Value, tensor
from graphopt.ir.query import constant, constant_tensor, is_op
from graphopt.passes._matching import limits, numbers
from graphopt.passes._retype import Retyper
from graphopt.passes._signature import TypedOperands, typed_operands
from graphopt.transform import Changes, Exactness, Pass

TYPES = {"bf16": DataType.BFLOAT16, "fp16": DataType.FLOAT16}

ALWAYS_NARROW = frozenset({"Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"})
"""What the hardware is fast at: products with many terms, which it accumulates in float32."""

_SENSITIVE = """
    BatchNormalization GroupNormalization InstanceNormalization LRN LayerNormalization LpNormalization
    MeanVarianceNormalization RMSNormalization
    Hardmax LogSoftmax Softmax Softplus Exp Log Pow Reciprocal Sqrt Cos Cosh Sin Sinh Tan Acos Acosh Asin
    Asinh Atan Atanh Det
    CumProd CumSum GlobalAveragePool GlobalLpPool LpPool Mean ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceMean ReduceProd ReduceSum ReduceSumSquare
    NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss Adagrad Adam Gradient Momentum
    Bernoulli BlackmanWindow DFT HammingWindow HannWindow MelWeightMatrix Multinomial RandomNormal
    RandomNormalLike RandomUniform RandomUniformLike Range STFT
    ArgMax ArgMin DequantizeLinear DynamicQuantizeLinear MaxRoiPool NonMaxSuppression OneHot QuantizeLinear
    RoiAlign TopK Unique
    CastLike Loop If Scan
"""
SENSITIVE = frozenset(_SENSITIVE.split())
"""What loses more than the last bits, or decides something, or fixes the type of something else."""


@dataclasses.dataclass(frozen=True)
class NarrowFloat(Pass):
    """Compute in bfloat16 (or float16) inside the model; inputs and outputs keep their types.

    before: c = Conv(x, w);  r = Relu(c);  y = Softmax(r)
    after:  c = Conv(Cast<bf16>(x), w_bf16);  r = Relu(c);  y = Softmax(Cast<float>(r))

    Products (Conv, Gemm, MatMul, …) are narrowed. Other operators follow: they are narrowed if all that
    they compute with is. Normalizations, sums, exponentials, losses, everything whose operator has no
    such type at the model's opset, and control flow keep float32; bodies are narrowed inside. Attention
    computes its softmax in float32.
    Weights are converted when they are written, not before.

    A constant out of the type's range is clamped to the largest finite number, and counted; a scalar
    that would become 0 keeps its user in float32.

    Options:
        to: ``bf16`` or ``fp16``.
        keep: nodes whose name matches this regular expression keep float32.
    """

    to: str = "bf16"
    keep: str | None = None

    exactness = Exactness.LOSSY

    def __post_init__(self) -> None:
        if self.to not in TYPES:
            raise UsageError(
                "GO303",
                "a wrong option value",
                where="narrow-float{to}",
                found=self.to,
                expected="bf16 or fp16",
            )
        try:
            re.compile(self.keep or "")
        except re.error as error:
            raise UsageError(
                "GO303", f"not a regular expression: {error}", where="narrow-float{keep}", found=self.keep
            ) from error

    def run(self, model: Model) -> Changes:
        """Decide node by node in graph order, bodies before the node that holds them."""
        return _Narrowing(model, TYPES[self.to], re.compile(self.keep) if self.keep else None).run()


class _Narrowing:
    def __init__(self, model: Model, narrow: DataType, keep: re.Pattern[str] | None) -> None:
        self.model = model
        self.narrow = narrow
        self.keep = keep
        self.changes = Changes()
        self.retyper = Retyper(model, DataType.FLOAT, narrow, self._convert)
        self._fits: dict[Value, str | None] = {}
        self._clamped: set[Value] = set()

    def run(self) -> Changes:
        self.retyper.run(self._node)
        if self._clamped:
            self.changes.counts[f"constant clamped to the range of {self.narrow.name}"] += len(self._clamped)
        return self.changes

    def _node(self, node: Node) -> None:
        """Narrow `node` or make it read float32."""
        if is_op(node, "Cast"):
            return  # reads either type and gives the type that it names
        operands = typed_operands(node, self.model, DataType.FLOAT, self.retyper.retyped)
        if operands is None:
            self.retyper.restore(node)
            return
        reason = self._reason_against(node, operands)
        if reason is not None:
            if reason:
                self.changes.declined[reason] += 1
            self.retyper.restore(node)
            return
        touched = any(node.inputs[i] not in self.retyper.retyped for i in operands.inputs) or operands.outputs
        for index in operands.inputs:
            value = node.inputs[index]
            if value is not None and self._constant_problem(value) == "clamped":
                self._clamped.add(value)
        self.retyper.retype(node, operands.inputs, operands.outputs)
        self.retyper.restore(node, but=operands.inputs)
        if is_op(node, "Attention") and "softmax_precision" not in node.attributes:
            node.attributes.add(onnx_ir.AttrInt64("softmax_precision", int(DataType.FLOAT)))
        if touched:
            self.changes.counts[node.op_type] += 1

    def _reason_against(self, node: Node, operands: TypedOperands) -> str | None:
        """Why `node` keeps float32; "" where there was nothing to gain."""
        if self.keep is not None and self.keep.search(node.name or ""):
            return "kept by name"
        if node.op_type in SENSITIVE:
            return f"{node.op_type} is sensitive to precision"
        if not operands.allows(self.narrow):
            return f"{node.op_type} has no {self.narrow.name} at this opset"
        computed = [v for i in operands.inputs if (v := node.inputs[i]) and constant_tensor(v) is None]
        if node.op_type not in ALWAYS_NARROW and not (
            computed and all(v in self.retyper.retyped for v in computed)
        ):
            return ""
        for index in operands.inputs:
            value = node.inputs[index]
            if value is not None and self._constant_problem(value) == "vanishes":
                return f"a scalar constant of {node.op_type} would become 0"
        return None

    def _constant_problem(self, value: Value) -> str | None:
        """What the narrow type does to a constant: "clamped", "vanishes" (scalars only) or None.

        bfloat16 has nearly the range of float32, so there only small constants, masks, are read.
        """
        if value not in self._fits:
            any_size = self.narrow == DataType.FLOAT16
            found = numbers(value) if any_size else constant(value)
            self._fits[value] = None if found is None else _problem(found, self.narrow)
        return self._fits[value]

    def _convert(self, wide: TensorProtocol, name: str) -> TensorProtocol:
        narrow = self.narrow
        return LazyTensor(
            lambda: tensor(narrowed(wide.numpy(), narrow), name=name),
            dtype=narrow,
            shape=wide.shape,  # type: ignore[arg-type]
            name=name,
        )


def _largest(dtype: DataType) -> float:
    return float(limits(dtype.numpy()).max)


def _problem(array: np.ndarray, to: DataType) -> str | None:
    magnitude = np.abs(array)
    if np.any((magnitude > _largest(to)) & np.isfinite(magnitude)):
        return "clamped"
    if array.size == 1 and np.all(magnitude > 0) and np.all(array.astype(to.numpy()) == 0):
        return "vanishes"
    return None


def narrowed(array: np.ndarray, to: DataType) -> np.ndarray:
    """`array` in `to`, rounded to nearest; finite numbers stay finite."""
    largest = _largest(to)
    return np.where(np.isfinite(array), np.clip(array, -largest, largest), array).astype(to.numpy())
