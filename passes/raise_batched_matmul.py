"""raise-batched-matmul: a Gemm between Reshapes that fold the batch into its rows becomes a MatMul."""

from __future__ import annotations

import dataclasses

from graphopt.ir import Node, Value
from graphopt.ir.query import attribute, constant_tensor, only_use, rank, same_dim
from graphopt.passes._matching import produced_by
from graphopt.transform import Exactness, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement


@rule("Reshape")
def matmul_of_rows(node: Node, rewriter: Rewriter) -> Replacement:
    """Reshape(Gemm(Reshape(x, [-1, k]), w, b), [*batch, n]) = Add(MatMul(x, w), b), for x: [*batch, k]."""
    gemm = produced_by(node.inputs[0], "Gemm")
    if gemm is None or node.inputs[0] is None or only_use(node.inputs[0]) is not node:
        return NoMatch("it reshapes no Gemm for it alone")
    flat = produced_by(gemm.inputs[0], "Reshape", "Flatten")
    if flat is None or gemm.graph is not node.graph:
        return NoMatch("the rows of the Gemm are not reshaped", gemm.name)
    if attribute(gemm, "alpha", 1.0) != 1.0 or attribute(gemm, "beta", 1.0) != 1.0:
        return NoMatch("the Gemm scales", gemm.name)
    if attribute(gemm, "transA", 0):
        return NoMatch("the Gemm transposes the rows", gemm.name)
    x, weight = flat.inputs[0], gemm.inputs[1]
    bias = gemm.inputs[2] if len(gemm.inputs) > 2 else None
    if weight is None or constant_tensor(weight) is None:
        return NoMatch("the matrix is no constant", gemm.name)
    refusal = _refuses(x, gemm.inputs[0], node.outputs[0]) or _refuses_bias(bias)
    if refusal is not None:
        return refusal
    if attribute(gemm, "transB", 0):
        if only_use(weight) is not gemm:
            return NoMatch("the matrix, which it transposes, is used elsewhere, too", weight.name)
        weight = rewriter.op("Transpose", weight, perm=(1, 0))
    product = rewriter.op("MatMul", x, weight)
    result = product if bias is None else rewriter.op("Add", product, bias)
    result.shape = node.outputs[0].shape
    return result


def _refuses(x: Value | None, rows: Value | None, result: Value) -> NoMatch | None:
    """Why the rows are not those of `x`, or the result has not the batch of `x`, if so."""
    shapes = [v.shape if v is not None else None for v in (x, rows, result)]
    source, flat, target = ([] if s is None else list(s.dims) for s in shapes)
    if len(source) < 3 or len(flat) != 2 or len(target) != len(source):
        return NoMatch("the rank is not known, or there is no batch", result.name)
    if not same_dim(source[-1], flat[1]):
        return NoMatch("the rows are taken apart", result.name)
    if not all(same_dim(a, b) for a, b in zip(source[:-1], target[:-1], strict=True)):
        return NoMatch("the result has not provably the batch of the operand", result.name)
    return None


def _refuses_bias(bias: Value | None) -> NoMatch | None:
    if bias is None:
        return None
    dims = None if bias.shape is None else list(bias.shape.dims)
    if dims is None or rank(bias) not in (0, 1, 2) or (len(dims) == 2 and dims[0] != 1):
        return NoMatch("the bias is not known to be the same for all rows", bias.name)
    return None


@dataclasses.dataclass(frozen=True)
class RaiseBatchedMatmul(RulePass):
    """Multiply batches of rows as such, where a Gemm has them as one matrix.

    given:  float[N, 16, 64] x; w = float[64, 48] 0.5; float[48] b
    before: y = Reshape(Gemm(Reshape(x, [-1, 64]), w, b), [-1, 16, 48])
    after:  y = Add(MatMul(x, w), b)

    The matrix is constant, and the result has the batch of the operand, provably.

    Spec: https://onnx.ai/onnx/operators/onnx__MatMul.html
    """

    exactness = Exactness.REASSOCIATES
    rules = (matmul_of_rows,)
