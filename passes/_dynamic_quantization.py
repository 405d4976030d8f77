"""Matrix products in 8-bit integers whose activations are quantised when they are known, at run time.

The forms are those that ONNX Runtime fuses into one kernel (DynamicQuantizeMatMul).
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from graphopt.ir import DataType, Graph, Node, Value
from graphopt.ir.query import attribute, constant_tensor, element_count, rank, static_shape
from graphopt.passes._integer_grid import Affine, Grid, integers, weight_affine
from graphopt.transform import NoMatch, Rewriter

ACCUMULATOR = 2**31 - 1
ACTIVATION_LEVELS = 255


@dataclasses.dataclass(frozen=True)
class WeightPolicy:
    """What is quantised, and how weights are."""

    grid: Grid
    per_channel: bool
    min_elements: int
    keep: re.Pattern[str] | None

    def reason_against(self, node: Node, weight: Value | None) -> NoMatch | None:
        """Why `node` is left alone whatever its operator."""
        if self.keep is not None and self.keep.search(node.name or ""):
            return NoMatch("kept by name", node.name)
        if constant_tensor(weight) is None or weight is None:
            return NoMatch("the weight is not a constant", weight.name if weight is not None else None)
        shape = static_shape(weight)
        if weight.dtype != DataType.FLOAT or shape is None:
            return NoMatch("the weight is not float32", weight.name)
        if element_count(shape) < self.min_elements:
            return NoMatch("the weight is small", weight.name)
        return None


class DynamicQuantizer:
    """Builds the quantised forms; quantised activations and weights are shared."""

    def __init__(self, rewriter: Rewriter, policy: WeightPolicy) -> None:
        self._rewriter = rewriter
        self._policy = policy
        self._graph: Graph | None = None
        self._activations: dict[tuple[Value, Graph | None], tuple[Value, Value, Value]] = {}
        self._weights: dict[tuple[Value, bool, int | None], tuple[Value, Affine] | None] = {}

    def replacement(self, node: Node) -> Value | NoMatch:
        """What computes the output of `node` with integers; the rewriter has begun on it."""
        self._graph = node.graph
        if node.op_type == "Gather":
            return self._gather(node)
        weight = node.inputs[1]
        refused = self._policy.reason_against(node, weight)
        if refused is not None or weight is None:
            return refused or NoMatch("it has no weight")
        x = node.inputs[0]
        x_rank = rank(x)
        if x is None or x.dtype != DataType.FLOAT or x_rank is None or x_rank < 2 or rank(weight) != 2:
            return NoMatch("it is no product of float32 activations with a matrix", node.name)
        if node.op_type == "Gemm":
            return self._gemm(node, x, weight)
        return self._product(x, weight, transposed=False, factor=1.0)

    def _gemm(self, node: Node, x: Value, weight: Value) -> Value | NoMatch:
        if attribute(node, "transA", 0):
            return NoMatch("the activations are transposed", node.name)
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        beta = float(attribute(node, "beta", 1.0))
        if bias is not None and beta != 1.0:
            return NoMatch("beta is not 1", node.name)
        transposed = bool(attribute(node, "transB", 0))
        factor = float(attribute(node, "alpha", 1.0))
        result = self._product(x, weight, transposed=transposed, factor=factor)
        if isinstance(result, NoMatch) or bias is None:
            return result
        return self._rewriter.op("Add", result, bias)

    def _product(self, x: Value, weight: Value, *, transposed: bool, factor: float) -> Value | NoMatch:
        """``x @ weight * factor`` as (x / sx) @ (weight / sw) * (sx * sw * factor)."""
        shape = static_shape(weight)
        assert shape is not None
        terms, top = shape[1 if transposed else 0], self._policy.grid.high
        if terms * ACTIVATION_LEVELS * max(top, -self._policy.grid.low) > ACCUMULATOR:
            return NoMatch(f"a sum of {terms} products may exceed int32", weight.name)
        found = self._weight(weight, transposed, axis=0 if transposed else 1)
        if found is None:
            return NoMatch("the weight is empty or not finite", weight.name)
        levels, by = found
        rewriter = self._rewriter
        quantised, x_scale, x_zero_point = self._activation(x)
        zero_points = None
        if not by.is_symmetric:
            zero_points = rewriter.const(by.zero_point.astype(by.grid.dtype.numpy()), "zero_point")
        scales = rewriter.const((by.scale * np.float32(factor)).astype(np.float32), "scale")
        product = rewriter.op("MatMulInteger", quantised, levels, x_zero_point, zero_points)
        wide = rewriter.op("Cast", product, to=int(DataType.FLOAT))
        return rewriter.op("Mul", wide, rewriter.op("Mul", x_scale, scales))

    def _gather(self, node: Node) -> Value | NoMatch:
        """Rows of a table in integers, each with its scale."""
        table, indices = node.inputs[0], node.inputs[1]
        refused = self._policy.reason_against(node, table)
        if refused is not None or table is None:
            return refused or NoMatch("it has no table")
        if rank(table) != 2 or attribute(node, "axis", 0) not in (0, -2):
            return NoMatch("it does not take rows of a matrix", node.name)
        found = self._weight(table, transposed=False, axis=0)
        if found is None:
            return NoMatch("the table is empty or not finite", table.name)
        levels, by = found
        rewriter = self._rewriter
        scales = by.scale if by.axis == 0 else np.full(static_shape(table)[:1], by.scale)  # type: ignore[index]
        rows = rewriter.op("Cast", rewriter.op("Gather", levels, indices, axis=0), to=int(DataType.FLOAT))
        if not by.is_symmetric:
            points = np.broadcast_to(by.zero_point.astype(np.float32), scales.shape)
            shift = rewriter.const(points.reshape(-1, 1).copy(), "zero_point")
            rows = rewriter.op("Sub", rows, rewriter.op("Gather", shift, indices, axis=0))
        factor = rewriter.const(scales.reshape(-1, 1).copy(), "scale")
        return rewriter.op("Mul", rows, rewriter.op("Gather", factor, indices, axis=0))

    def _activation(self, x: Value) -> tuple[Value, Value, Value]:
        """(uint8 numbers, scale, zero point) of `x`; once for all users in one graph."""
        key = (x, self._graph)
        if key not in self._activations:
            made = self._rewriter.ops("DynamicQuantizeLinear", x, outputs=3, stem=f"{x.name}/quantized")
            self._activations[key] = (made[0], made[1], made[2])
        return self._activations[key]

    def _weight(self, weight: Value, transposed: bool, axis: int) -> tuple[Value, Affine] | None:
        key = (weight, transposed, axis)
        if key not in self._weights:
            by = weight_affine(weight, self._policy.grid, axis if self._policy.per_channel else None)
            if by is None:
                self._weights[key] = None
            else:
                name = f"{weight.name}/{by.grid.dtype.name.lower()}"
                levels = integers(weight, by, name, transposed=transposed)
                self._weights[key] = (self._rewriter.const(levels, by.grid.dtype.name.lower()), by)
        return self._weights[key]
