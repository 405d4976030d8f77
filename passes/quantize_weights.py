"""quantize-weights: weights of matrix products in 4 or 8 bits, computing in floats."""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from graphopt.errors import UsageError
from graphopt.ir import DataType, LazyTensor, Model, Node, Shape, TensorProtocol, Value, provenance, tensor
from graphopt.ir.edit import remove_unused_initializers
from graphopt.ir.ingest import name_everything
from graphopt.ir.opset import upgrade
from graphopt.ir.query import (
    attribute,
    constant_tensor,
    element_count,
    is_op,
    rank,
    static_shape,
    walk_graphs,
)
from graphopt.ir.shapes import infer_shapes
from graphopt.passes._block_quantization import Blocks, RowScales, packed, row_levels, row_scales
from graphopt.passes._matching import attributes_of, numbers
from graphopt.transform import Changes, Exactness, NoMatch, Pass, Rewriter

BLOCKED_OPSET = 21
FORMS = ("matmulnbits", "dequantize")
TYPES = {(4, True): DataType.INT4, (4, False): DataType.UINT4}
TYPES |= {(8, True): DataType.INT8, (8, False): DataType.UINT8}


@dataclasses.dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Store the constant weights of MatMul and Gemm in 4 or 8 bits, a scale for each block of terms.

    given:  float[N, 32] x; opset 21
    before: y = MatMul(x, float[32, 32] 7.0)
    after:  y = MatMul(x, DequantizeLinear<axis = 0, block_size = 32>(int4[32, 32] -8, float[1, 32] -0.875))
    pass:   quantize-weights{form=dequantize}

    Activations stay floats, so the error is that of the weights alone. ``matmulnbits`` is ONNX
    Runtime's operator, which multiplies with the packed weights; ``dequantize`` is standard ONNX of
    opset 21, to which the model is raised. Weights must be constant, finite matrices of float32 or
    float16; they are read once for their scales and converted when they are written.

    Options:
        bits: 4 or 8.
        block: terms that share a scale: a power of two, 16 or more.
        form: ``matmulnbits`` or ``dequantize``.
        symmetric: zero in the middle of the levels; otherwise each block has a zero point.
        accuracy_level: of MatMulNBits: 0 computes in the type of the activations, 4 in int8.
        min_elements: smaller weights stay as they are.
        keep: nodes whose name matches this regular expression stay as they are.

    Spec: https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html (since version 21),
    https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits
    """

    bits: int = 4
    block: int = 32
    form: str = "matmulnbits"
    symmetric: bool = True
    accuracy_level: int = 0
    min_elements: int = 1024
    keep: str | None = None

    exactness = Exactness.LOSSY

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise _wrong("bits", self.bits, "4 or 8")
        if self.block < 16 or self.block & (self.block - 1):
            raise _wrong("block", self.block, "a power of two, 16 or more")
        if self.form not in FORMS:
            raise _wrong("form", self.form, " or ".join(FORMS))
        if self.accuracy_level not in range(5):
            raise _wrong("accuracy-level", self.accuracy_level, "0 to 4")
        try:
            re.compile(self.keep or "")
        except re.error as error:
            raise _wrong("keep", self.keep, f"a regular expression ({error})") from error

    def run(self, model: Model) -> Changes:
        """Quantise node by node, after an upgrade of the opset if the form needs one and there is work."""
        changes = Changes()
        nodes = [n for g in walk_graphs(model.graph) for n in g if is_op(n, "MatMul", "Gemm")]
        chosen: list[Node] = []
        for node in nodes:
            refused = self._reason_against(node)
            if refused is None:
                chosen.append(node)
            else:
                changes.declined[f"{node.op_type}: {refused.reason}"] += 1
        if self.form == "dequantize" and chosen and model.opset_imports.get("", 1) < BLOCKED_OPSET:
            upgrade(model, BLOCKED_OPSET)
            name_everything(model)
            provenance.start(model)
            infer_shapes(model)
        builder = _Builder(model, self)
        for node in chosen:
            builder.rewriter.begin(node)
            answer = builder.replacement(node)
            if isinstance(answer, NoMatch):
                builder.rewriter.abandon()
                changes.declined[f"{node.op_type}: {answer.reason}"] += 1
            else:
                builder.rewriter.commit([answer])
                changes.counts[node.op_type] += 1
        if changes.modified:
            if self.form == "matmulnbits":
                model.opset_imports.setdefault("com.microsoft", 1)
            remove_unused_initializers(model.graph)
        return changes

    def _reason_against(self, node: Node) -> NoMatch | None:
        """Why `node` is left alone, by all that is known without reading its weight."""
        x, weight = node.inputs[0], node.inputs[1]
        if self.keep is not None and re.search(self.keep, node.name or ""):
            return NoMatch("kept by name", node.name)
        shape = static_shape(weight)
        if weight is None or constant_tensor(weight) is None or shape is None or len(shape) != 2:
            return NoMatch("the weight is no constant matrix", None if weight is None else weight.name)
        if weight.dtype not in (DataType.FLOAT, DataType.FLOAT16):
            return NoMatch("the weight is not float32 or float16", weight.name)
        if element_count(shape) < max(self.min_elements, 1):
            return NoMatch("the weight is small", weight.name)
        if constant_tensor(x) is not None or (rank(x) or 0) < 2:
            return NoMatch("its first operand is no matrix of activations", None if x is None else x.name)
        plain = float(attribute(node, "alpha", 1.0)) == 1.0 == float(attribute(node, "beta", 1.0))
        if self.form == "matmulnbits" and (attribute(node, "transA", 0) or not plain):
            return NoMatch("it scales or transposes", node.name)
        return None


def _wrong(option: str, found: object, expected: str) -> UsageError:
    return UsageError(
        "GO303", "a wrong option value", where=f"quantize-weights{{{option}}}", found=found, expected=expected
    )


class _Builder:
    """Makes replacements; a weight that several nodes use is stored once."""

    def __init__(self, model: Model, options: QuantizeWeights) -> None:
        self.rewriter = Rewriter(model)
        self.options = options
        self.blocks = Blocks(options.bits, options.block, options.symmetric)
        self._weights: dict[tuple[Value, bool], tuple[Value, Value, Value | None] | None] = {}

    def replacement(self, node: Node) -> Value | NoMatch:
        """What computes the output of `node` with the stored form of its weight."""
        x, weight = node.inputs[0], node.inputs[1]
        assert weight is not None
        assert x is not None
        by_rows = bool(attribute(node, "transB", 0))
        if (weight, by_rows) not in self._weights:
            self._weights[weight, by_rows] = self._stored(weight, by_rows)
        stored = self._weights[weight, by_rows]
        if stored is None:
            return NoMatch("the weight is not finite", weight.name)
        levels, scales, points = stored
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if self.options.form == "dequantize":
            axis = 1 if by_rows else 0
            wide = self.rewriter.op(
                "DequantizeLinear", levels, scales, points, axis=axis, block_size=self.options.block
            )
            return self.rewriter.op(node.op_type, x, wide, bias, **attributes_of(node))
        shape = static_shape(weight)
        assert shape is not None
        rows, terms = shape if by_rows else shape[::-1]
        product = self.rewriter.op(
            "MatMulNBits",
            x,
            levels,
            scales,
            points,
            domain="com.microsoft",
            K=terms,
            N=rows,
            bits=self.options.bits,
            block_size=self.options.block,
            accuracy_level=self.options.accuracy_level or None,
        )
        product.type, product.shape = node.outputs[0].type, node.outputs[0].shape
        return product if bias is None else self.rewriter.op("Add", product, bias)

    def _stored(self, weight: Value, by_rows: bool) -> tuple[Value, Value, Value | None] | None:
        array, source = numbers(weight), constant_tensor(weight)
        assert array is not None
        assert source is not None
        assert weight.dtype is not None
        by = row_scales(array, by_rows, self.blocks)
        if by is None:
            return None
        float_type = weight.dtype.numpy()
        with np.errstate(over="ignore"):
            if not np.all(np.isfinite(by.scale.astype(float_type))):
                return None
        make = self._blocked if self.options.form == "dequantize" else self._packed
        levels, scales, points = make(source, by_rows, by)
        const = self.rewriter.const
        point = None if points is None else const(points, "zero_points")
        return const(levels, f"int{self.options.bits}"), const(scales.astype(float_type), "scales"), point

    def _packed(
        self, source: TensorProtocol, by_rows: bool, by: RowScales
    ) -> tuple[TensorProtocol, np.ndarray, np.ndarray | None]:
        """MatMulNBits: bytes [N, blocks, block * bits / 8], scales [N, blocks], zero points packed alike."""
        bits = self.options.bits
        rows, count = by.scale.shape

        def make() -> TensorProtocol:
            return tensor(packed(row_levels(source.numpy(), by_rows, by), bits))

        shape = Shape((rows, count, self.options.block * bits // 8))
        points = None if self.options.symmetric else packed(by.zero_point, bits)
        return LazyTensor(make, dtype=DataType.UINT8, shape=shape), by.scale, points

    def _blocked(
        self, source: TensorProtocol, by_rows: bool, by: RowScales
    ) -> tuple[TensorProtocol, np.ndarray, np.ndarray | TensorProtocol | None]:
        """DequantizeLinear: integers in the shape of the weight, scales and zero points for its blocks."""
        dtype = TYPES[self.options.bits, self.options.symmetric]
        dims = source.shape.numpy()
        terms = dims[1] if by_rows else dims[0]
        shift = self.blocks.middle if self.options.symmetric else 0

        def make() -> TensorProtocol:
            levels = row_levels(source.numpy(), by_rows, by)
            flat = levels.reshape(levels.shape[0], -1)[:, :terms].astype(np.int16) - shift
            return tensor((flat if by_rows else flat.T).astype(dtype.numpy()), dtype=dtype)

        scales = by.scale if by_rows else np.ascontiguousarray(by.scale.T)
        points = by.zero_point if by_rows else np.ascontiguousarray(by.zero_point.T)
        stored = None if self.options.symmetric else tensor(points.astype(dtype.numpy()), dtype=dtype)
        return LazyTensor(make, dtype=dtype, shape=Shape(dims)), scales, stored
