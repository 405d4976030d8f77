"""narrow-float: compute in bfloat16 or float16 where that is safe, and in float32 elsewhere."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import onnx_ir

from graphopt.errors import UsageError
from graphopt.ir import DataType, LazyTensor, Model, Node, TensorProtocol, Value, tensor
from graphopt.ir.query import constant, constant_tensor, is_op, static_shape
from graphopt.passes._half_range import DENOMINATOR, misfit
from graphopt.passes._matching import limits, numbers
from graphopt.passes._retype import Retyper
from graphopt.passes._signature import TypedOperands, contrib_operands, typed_operands
from graphopt.transform import CalibratedPass, Changes, Exactness, Ranges, ValueRange
from graphopt.transform.calibration import observable

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

WIDE_INSIDE = frozenset(
    {"GroupNormalization", "InstanceNormalization", "LayerNormalization", "RMSNormalization"}
)
"""Normalizations whose statistics a lowering may take in float32 whatever the operands' type."""

_LOOKED_UP = (
    "Add Concat Expand Gather LayerNormalization MatMul Gemm Reshape RMSNormalization Slice Transpose"
)
LOOKED_UP = frozenset([*_LOOKED_UP.split(), "Squeeze", "Unsqueeze"])
"""What reads embeddings. Tables of sines and positions are multiplied by what is computed."""

ATTENTION_MASK = 3
"""The position of the mask among the inputs of Attention."""

_CLAMPS = "Add Clip Concat Equal Expand Greater GreaterOrEqual Less LessOrEqual Max Min Pad Sub Where"
CLAMPS = frozenset(_CLAMPS.split())
"""Operators for which a number beyond the range is as good as the largest one: they add masks, choose
and compare. A product with a clamped number would be another product."""


@dataclasses.dataclass(frozen=True)
class NarrowFloat(CalibratedPass):
    """Compute in bfloat16 (or float16) inside the model; inputs and outputs keep their types.

    given:  float[N, 2] x
    before: y = Softmax(Relu(MatMul(x, float[2, 3] 0.5)))
    after:  y = Softmax(Cast<to = 1>(Relu(MatMul(Cast<to = 10>(x), float16[2, 3] 0.5))))
    pass:   narrow-float{to=fp16}

    Products (Conv, Gemm, MatMul, …) are narrowed. Other operators follow: they are narrowed if all that
    they compute with is. Normalizations, sums, exponentials, losses, everything whose operator has no
    such type at the model's opset, and control flow keep float32; bodies are narrowed inside. Attention
    computes its softmax in float32.
    Weights are converted when they are written, not before.

    A mask out of the type's range is clamped to the largest finite number, and counted; a factor out of
    range, or a constant that would become 0, keeps its user in float32.

    With calibration feeds float16 is taken only where what was observed fits: a node keeps float32 if
    an operand or a result times `room` exceeds 65504, or has only numbers below the smallest normal
    one, or if it divides by such numbers. Nodes in bodies, which cannot be observed, keep float32 then.

    Options:
        to: ``bf16`` or ``fp16``.
        wide-inside: the target takes the statistics of normalizations in float32 whatever their operands'
            type, and its weights are read from a memory that they should be small in: also narrow
            normalizations of what is narrow already, and tables of embeddings.
        contrib: also narrow activation functions of com.microsoft, which CUDA has float16 kernels for.
        keep: nodes whose name matches this regular expression keep float32.
        room: how many times larger than observed numbers may get (with calibration feeds).
        wide-ops: operators, separated by spaces, that keep float32: the target has no such type for them.
    """

    to: str = "bf16"
    keep: str | None = None
    room: float = 2.0
    wide_inside: bool = False
    wide_ops: str | None = None
    contrib: bool = False

    exactness = Exactness.LOSSY

    def __post_init__(self) -> None:
        if not self.room >= 1:
            raise UsageError(
                "GO303",
                "a wrong option value",
                where="narrow-float{room}",
                found=self.room,
                expected="1 or more",
            )
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

    def wanted(self, model: Model) -> list[str]:
        """All of float32; bfloat16 has its range."""
        return observable(model, DataType.FLOAT) if self.to == "fp16" else []

    def run_with(self, model: Model, ranges: Ranges | None) -> Changes:
        """Decide node by node in graph order, bodies before the node that holds them."""
        keep = re.compile(self.keep) if self.keep else None
        seen = _by_value(model, ranges) if ranges is not None and self.to == "fp16" else None
        wide_ops = frozenset((self.wide_ops or "").split())
        return _Narrowing(
            model, TYPES[self.to], keep, seen, self.room, self.wide_inside, self.contrib, wide_ops
        ).run()


def _by_value(model: Model, ranges: Ranges) -> dict[Value, ValueRange]:
    """The ranges by value of the main graph: names change while types do."""
    graph = model.graph
    values = (*graph.inputs, *(v for node in graph for v in node.outputs))
    return {v: ranges[v.name] for v in values if v.name is not None and v.name in ranges}


class _Narrowing:
    def __init__(
        self,
        model: Model,
        narrow: DataType,
        keep: re.Pattern[str] | None,
        seen: dict[Value, ValueRange] | None,
        room: float,
        wide_inside: bool,
        contrib: bool,
        wide_ops: frozenset[str],
    ) -> None:
        self.model = model
        self.narrow = narrow
        self.keep = keep
        self.seen = seen
        self.room = room
        self.wide_inside = wide_inside
        self.wide_ops = wide_ops
        self.contrib = contrib
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
        if operands is None and self.contrib:
            operands = contrib_operands(node, DataType.FLOAT, self.retyper.retyped)
        if operands is None:
            self.retyper.restore(node)
            return
        reason = self._reason_against(node, operands)
        if reason is not None:
            if reason:
                self.changes.declined[reason] += 1
                kept = {"node": node.name or "", "op": node.op_type, "reason": reason}
                self.changes.details.append({"kept": "float32", **kept})
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
        if node.op_type in self.wide_ops:
            return f"the target has no {self.narrow.name} for {node.op_type}"
        if node.op_type in SENSITIVE and not (self.wide_inside and node.op_type in WIDE_INSIDE):
            return f"{node.op_type} is sensitive to precision"
        if not operands.allows(self.narrow):
            return f"{node.op_type} has no {self.narrow.name} at this opset"
        computed = [v for i in operands.inputs if (v := node.inputs[i]) and constant_tensor(v) is None]
        always = node.op_type in ALWAYS_NARROW or (
            self.wide_inside and (_is_embedding(node) or _is_mask(node))
        )
        if not always and not (computed and all(v in self.retyper.retyped for v in computed)):
            return ""
        for index in operands.inputs:
            value = node.inputs[index]
            problem = None if value is None else self._constant_problem(value)
            if problem == "vanishes" or (problem == "partly" and index == DENOMINATOR.get(node.op_type)):
                return f"a constant of {node.op_type} would become 0"
            if problem == "clamped" and self.narrow == DataType.FLOAT16 and node.op_type not in CLAMPS:
                return f"a constant of {node.op_type} is beyond the range of {self.narrow.name}"
        return None if self.seen is None else misfit(node, operands, self.seen, self.narrow, self.room)

    def _constant_problem(self, value: Value) -> str | None:
        """What the narrow type does to a constant: "clamped", "vanishes", "partly" vanishes, or None.

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


def _is_embedding(node: Node) -> bool:
    """Whether `node` looks up rows of a constant table of vectors, to be added or multiplied by weights."""
    table = node.inputs[0] if is_op(node, "Gather") else None
    shape = static_shape(table)
    if table is None or shape is None or len(shape) != 2 or constant_tensor(table) is None:
        return False
    users = list(node.outputs[0].uses())
    return bool(users) and all(
        user.op_type in LOOKED_UP or (is_op(user, "Mul") and constant_tensor(user.inputs[1 - i]) is not None)
        for user, i in users
    )


def _is_mask(node: Node) -> bool:
    """Whether `node` chooses between constants for a mask of attention, which keeps float32 otherwise."""
    chosen = node.inputs[1:] if is_op(node, "Where") else ()
    return bool(chosen) and all(constant(v) is not None for v in chosen) and _only_masks(node.outputs[0], 4)


def _only_masks(value: Value, depth: int) -> bool:
    moves = ("Expand", "Reshape", "Slice", "Unsqueeze")
    return bool(value.uses()) and all(
        (is_op(user, "Attention") and i == ATTENTION_MASK)
        or (depth > 0 and is_op(user, *moves) and i == 0 and _only_masks(user.outputs[0], depth - 1))
        for user, i in value.uses()
    )


def _largest(dtype: DataType) -> float:
    return float(limits(dtype.numpy()).max)


def _problem(array: np.ndarray, to: DataType) -> str | None:
    magnitude = np.abs(array)
    if np.any((magnitude > _largest(to)) & np.isfinite(magnitude)):
        return "clamped"
    lost = (magnitude > 0) & (magnitude < float(limits(to.numpy()).smallest_subnormal) / 2)
    if not np.any(lost):
        return None
    return "vanishes" if np.all(lost | (magnitude == 0)) else "partly"


def narrowed(array: np.ndarray, to: DataType) -> np.ndarray:
    """`array` in `to`, rounded to nearest; finite numbers stay finite."""
    largest = _largest(to)
    return np.where(np.isfinite(array), np.clip(array, -largest, largest), array).astype(to.numpy())
