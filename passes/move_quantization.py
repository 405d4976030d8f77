"""move-quantization: what only moves numbers moves them quantised, and pairs that undo each other go."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from graphopt.ir import DataType, Node, Value
from graphopt.ir.query import attribute, constant, constant_tensor, is_op, only_use, rank
from graphopt.passes._matching import attributes_of, made_for, produced_by
from graphopt.transform import NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

_NARROW = frozenset({DataType.INT8, DataType.UINT8})
_EXACT = _NARROW | {DataType.INT16, DataType.UINT16}
_MOVES = (
    *("DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice"),
    *("SpaceToDepth", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
)
MODERATE = (1e-30, 1e30)
"""Between these scales no product with a 16-bit integer is subnormal or infinite in float32."""


@dataclasses.dataclass(frozen=True)
class _Parameters:
    """What a QuantizeLinear and a DequantizeLinear must have in common to undo each other."""

    scale: tuple[int, ...] | None
    scales: bytes
    zeros: tuple[int, ...]
    axis: int | None
    dtype: DataType


def _parameters(node: Node, quantized: Value | None) -> _Parameters | NoMatch:
    """The parameters of `node`, whose quantised side is `quantized`, if they are plain constants."""
    scale = constant(node.inputs[1])
    if scale is None or scale.dtype != np.float32 or scale.size == 0:
        return NoMatch("the scale is no float32 constant", node.name)
    if not np.all((scale > MODERATE[0]) & (scale < MODERATE[1])):
        return NoMatch("a scale is not positive and moderate", node.name)
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    zeros = np.zeros(1) if zero is None else constant(zero)
    if zeros is None or quantized is None or quantized.dtype not in _EXACT:
        return NoMatch("the zero point is not constant, or the type has not 8 or 16 bits", node.name)
    if attribute(node, "block_size", 0) or attribute(node, "output_dtype", 0) not in (
        0,
        int(quantized.dtype),
    ):
        return NoMatch("it is quantised in blocks", node.name)
    found = rank(quantized)
    axis = None
    if scale.size > 1:
        if found is None:
            return NoMatch("the rank is not known", quantized.name)
        axis = int(attribute(node, "axis", 1)) % found
    listed = [int(z) for z in zeros.reshape(-1)]
    listed = listed * (scale.size if len(listed) == 1 else 1)
    return _Parameters(
        scale.shape if axis is not None else None, scale.tobytes(), tuple(listed), axis, quantized.dtype
    )


def _undo(quantize: Node, dequantize: Node) -> NoMatch | None:
    """Why `quantize` does not give back what `dequantize` was given, or None if it does."""
    there = _parameters(dequantize, dequantize.inputs[0])
    if isinstance(there, NoMatch):
        return there
    back = _parameters(quantize, quantize.outputs[0])
    if isinstance(back, NoMatch):
        return back
    return None if there == back else NoMatch("scale, zero point, axis or type differ", quantize.name)


@rule("QuantizeLinear")
def quantize_of_dequantize(node: Node, _: Rewriter) -> Replacement:
    """QuantizeLinear(DequantizeLinear(q, s, z), s, z) = q, which rounding cannot reach."""
    dequantize = produced_by(node.inputs[0], "DequantizeLinear")
    if dequantize is None or dequantize.inputs[0] is None:
        return NoMatch("the operand is not dequantised")
    return _undo(node, dequantize) or dequantize.inputs[0]


@rule("QuantizeLinear")
def quantize_of_moved(node: Node, rewriter: Rewriter) -> Replacement:
    """QuantizeLinear(Reshape(DequantizeLinear(q, s, z)), s, z) = Reshape(q), for one scale s."""
    move = made_for(node.inputs[0], node, *_MOVES, "Concat")
    if isinstance(move, NoMatch):
        return move
    if len(move.outputs) != 1:
        return NoMatch("it has several results", move.name)
    count = len(move.inputs) if is_op(move, "Concat") else 1
    operands: list[Value | None] = list(move.inputs)
    for index in range(count):
        dequantize = produced_by(operands[index], "DequantizeLinear")
        if dequantize is None:
            return NoMatch("what is moved is not dequantised", move.name)
        refusal = _undo(node, dequantize)
        if refusal is not None:
            return refusal
        operands[index] = dequantize.inputs[0]
    source = operands[0]
    scale = constant(node.inputs[1], max_elements=1)
    if scale is None or source is None or source.dtype not in _NARROW:
        return NoMatch("there is a scale for each channel, or the type has not 8 bits", node.name)
    if source.dtype == DataType.INT8 and _parts_a_pair(operands[:count], node.outputs[0]):
        return NoMatch("an int8 that is moved is no pair that ONNX Runtime makes uint8", node.name)
    return rewriter.op(move.op_type, *operands, stem=move.name, **attributes_of(move))


def _multiplies_floats(user: Node, weight: Value) -> bool:
    """Whether `user` is a product of `weight` with what was not quantised itself."""
    return is_op(user, "MatMul") and not any(
        produced_by(value, "DequantizeLinear") for value in user.inputs if value is not weight
    )


def _parts_a_pair(sources: list[Value | None], result: Value) -> bool:
    """Whether a QuantizeLinear and a DequantizeLinear that met are parted by what moves their int8.

    A constant has no QuantizeLinear beside it.
    """
    if all(constant_tensor(source) is not None for source in sources):
        return False
    dequantized = any(is_op(use.node, "DequantizeLinear") for use in result.uses())
    return dequantized or any(produced_by(source, "QuantizeLinear") is not None for source in sources)


@rule("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
def movement_of_quantized_weight(node: Node, rewriter: Rewriter) -> Replacement:
    """Transpose(DequantizeLinear(w, s, z)) = DequantizeLinear(Transpose(w), s, z), for a constant w."""
    dequantize = produced_by(node.inputs[0], "DequantizeLinear")
    if dequantize is None or constant_tensor(dequantize.inputs[0]) is None:
        return NoMatch("the operand is no quantised constant")
    if only_use(dequantize.outputs[0]) is not node:
        return NoMatch("the weight is used elsewhere", dequantize.name)
    if any(_multiplies_floats(user, node.outputs[0]) for user in node.outputs[0].consumers()):
        return NoMatch("next to a product with floats, ONNX Runtime would compute in 8 bits", node.name)
    weight, scale = dequantize.inputs[0], constant_tensor(dequantize.inputs[1])
    if scale is None or attribute(dequantize, "block_size", 0) or weight is None:
        return NoMatch("it is quantised in blocks, or its scale is not constant", dequantize.name)
    if weight.dtype is None or weight.dtype.itemsize < 1:
        return NoMatch("it is packed, several numbers to a byte", weight.name)
    attributes: dict[str, Any] = attributes_of(dequantize)
    if scale.size > 1:
        found = rank(weight)
        if not is_op(node, "Transpose") or found is None:
            return NoMatch("there is a scale for each channel", dequantize.name)
        perm = attribute(node, "perm") or tuple(reversed(range(found)))
        attributes["axis"] = list(perm).index(int(attribute(dequantize, "axis", 1)) % found)
    moved = rewriter.op(node.op_type, weight, *node.inputs[1:], **attributes_of(node))
    return rewriter.op("DequantizeLinear", moved, *dequantize.inputs[1:], stem=dequantize.name, **attributes)


@dataclasses.dataclass(frozen=True)
class MoveQuantization(RulePass):
    """Move numbers quantised where they would be dequantised, moved and quantised alike again.

    given:  uint8[2, 3] q; z = uint8 8
    before: y = QuantizeLinear(Transpose<perm = [1, 0]>(DequantizeLinear(q, 0.5, z)), 0.5, z)
    after:  y = Transpose<perm = [1, 0]>(q)

    Parameters must be equal constants, of 8 bits and one scale for what is moved. A pair that rounds
    (QuantizeLinear, then DequantizeLinear) always stays, and so does DequantizeLinear next to the
    operator that takes it: the change of layout of a quantised weight goes behind it, to the constant.

    MaxPool stays between its pair: on 8 bits it keeps ONNX Runtime from its quantised Conv, and a quantised
    U-Net and ResNet take 1.22 and 1.36 times as long. So do int8 numbers that lie between a QuantizeLinear
    and a DequantizeLinear: on x86 ONNX Runtime makes uint8 of such a pair, for which it has its kernels, but
    not of an int8 that is moved on the way, and runs the operators around it in float32 (a ViT takes 1.1
    times as long). `select-unsigned-quantization` makes uint8 of them all.

    Spec: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html
    """

    rules = (quantize_of_dequantize, quantize_of_moved, movement_of_quantized_weight)
