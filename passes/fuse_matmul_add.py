"""fuse-matmul-add: a matrix product and a sum become one Gemm."""

from __future__ import annotations

import dataclasses
from typing import Any

from graphopt.ir import Node, Value
from graphopt.ir.query import attribute, is_op, rank, same_dim
from graphopt.passes._matching import attributes_of, is_float, made_for, produced_by
from graphopt.transform import Exactness, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement


@rule("Add")
def matmul_plus_bias(node: Node, rewriter: Rewriter) -> Replacement:
    """A @ B + c = Gemm(A, B, c), for matrices A and B; the same for a Gemm without C."""
    reason = NoMatch("no MatMul or Gemm there")
    for y, addend in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
        product = made_for(y, node, "MatMul", "Gemm")
        if isinstance(product, NoMatch):
            # The more telling refusal: a product was there, but it is used elsewhere.
            reason = product if produced_by(y, "MatMul", "Gemm") is not None else reason
            continue
        refusal = _not_matrices(product)
        if refusal is not None:
            return refusal
        if any(produced_by(v, "DequantizeLinear") is not None for v in product.inputs[:2]):
            return NoMatch("a product of quantised operands is whole without the sum", product.name)
        if is_op(product, "Gemm") and len(product.inputs) > 2 and product.inputs[2] is not None:
            reason = NoMatch("the Gemm has a C", product.name)
            continue
        if addend is None or y is None or not _broadcasts_into(addend, y):
            reason = NoMatch("the sum may be of another shape than the product", product.name)
            continue
        attributes = {k: v for k, v in attributes_of(product).items() if k != "beta"}
        return rewriter.op("Gemm", *product.inputs[:2], addend, stem=product.name, **attributes)
    return reason


def _not_matrices(product: Node) -> NoMatch | None:
    if any(rank(v) != 2 for v in product.inputs[:2]):
        return NoMatch("an operand is not known to be a matrix", product.name)
    if not is_float(product.outputs[0]):
        return NoMatch("not of a float type", product.name)
    return None


def _broadcasts_into(addend: Value, y: Value) -> bool:
    """Whether ``y + addend`` provably has the shape of `y`."""
    if addend.shape is None or y.shape is None or len(addend.shape) > len(y.shape):
        return False
    own = y.shape.dims[len(y.shape) - len(addend.shape) :]
    return all(
        (isinstance(dim, int) and dim == 1) or same_dim(dim, mine)
        for dim, mine in zip(addend.shape.dims, own, strict=True)
    )


@rule("Gemm", "MatMul")
def product_of_transpose(node: Node, rewriter: Rewriter) -> Replacement:
    """Gemm(Transpose(A), B) = Gemm(A, B, transA=1), and likewise for B and for MatMul."""
    refusal = _not_matrices(node)
    if refusal is not None:
        return refusal
    operands: list[Value | None] = list(node.inputs)
    flips: dict[str, Any] = {}
    for index, name in enumerate(("transA", "transB")):
        transpose = produced_by(operands[index], "Transpose")
        if transpose is None:
            continue
        if tuple(attribute(transpose, "perm", (1, 0))) != (1, 0):
            return NoMatch("it transposes nothing", transpose.name)
        operands[index] = transpose.inputs[0]
        flips[name] = 1 - int(attribute(node, name, 0))
    if not flips:
        return NoMatch("no Transpose there")
    return rewriter.op("Gemm", *operands, **(attributes_of(node) | flips))


@dataclasses.dataclass(frozen=True)
class FuseMatmulAdd(RulePass):
    """Make one Gemm of a product of two matrices, a sum and the transpositions before them.

    given:  float[8, 2] a; float[8, 4] b; float[2, 4] c
    before: y = Add(MatMul(Transpose<perm = [1, 0]>(a), b), c)
    after:  y = Gemm<transA = 1>(a, b, c)

    Both operands are known to be of rank 2, the product has no other user, and the sum provably has
    the shape of the product. Products of higher rank stay MatMul.

    Spec: https://onnx.ai/onnx/operators/onnx__Gemm.html
    """

    exactness = Exactness.REASSOCIATES
    rules = (matmul_plus_bias, product_of_transpose)
