"""select-fused-matmul: products take the transpositions and scalar factors around them in."""

from __future__ import annotations

import dataclasses
import math

from graphopt.ir import Model, Node, Value
from graphopt.ir.query import attribute, is_op, only_use, rank
from graphopt.passes._matching import is_float, scalar_factor
from graphopt.passes._onnxruntime import DOMAIN, is_contrib, select
from graphopt.transform import Changes, Exactness, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

MAX_ABSORBED = 8
"""Nodes that one operand is followed through: a product rarely has more than a scale and a Transpose."""


@dataclasses.dataclass
class _Operand:
    """One operand of a product: ``scale * value``, transposed on its last two axes if `flipped`."""

    value: Value
    scale: float = 1.0
    flipped: bool = False
    perm: tuple[int, ...] | None = None


@rule("MatMul")
def product_of_transposed(node: Node, rewriter: Rewriter) -> Replacement:
    """c A @ transpose(B) = FusedMatMul(A, B, alpha=c, transB=1), and so for A."""
    return _absorb_operands(node, rewriter, 1.0)


@rule("FusedMatMul", domain=DOMAIN)
def fused_product_of_transposed(node: Node, rewriter: Rewriter) -> Replacement:
    """FusedMatMul(A, transpose(B)) = FusedMatMul(A, B, transB=1), and so for A and for factors."""
    if attribute(node, "transBatchA", 0) or attribute(node, "transBatchB", 0):
        return NoMatch("it transposes batch axes", node.name)
    return _absorb_operands(node, rewriter, float(attribute(node, "alpha", 1.0)))


@rule("Mul", "Div")
def scaled_product(node: Node, rewriter: Rewriter) -> Replacement:
    """c (A @ B) = FusedMatMul(A, B, alpha=c)."""
    for y, other in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
        factor = scalar_factor(other, y)
        product = None if y is None else y.producer()
        if factor is None or product is None or (is_op(node, "Div") and y is not node.inputs[0]):
            continue
        if not is_op(product, "MatMul") and not is_contrib(product, "FusedMatMul"):
            continue
        if product.graph is not node.graph or y is None or only_use(y) is not node:
            return NoMatch("the product is used elsewhere", product.name)
        if not is_float(y):
            return NoMatch("not of a float type", y.name)
        alpha = float(attribute(product, "alpha", 1.0)) * _power(factor, node)
        if not _is_plain(alpha):
            return NoMatch("the factor is 0, not finite or very small or large", node.name)
        kept = {k: attribute(product, k) for k in ("transA", "transB", "transBatchA", "transBatchB")}
        return rewriter.op(
            "FusedMatMul", *product.inputs, domain=DOMAIN, stem=product.name, alpha=alpha, **kept
        )
    return NoMatch("no product with a scalar factor")


def _power(factor: float, node: Node) -> float:
    """What `node`, a Mul or a Div, multiplies by."""
    if is_op(node, "Mul"):
        return factor
    return 1.0 / factor if factor else math.inf


def _is_plain(alpha: float) -> bool:
    """Whether a product may be scaled by `alpha` at another place without overflow that was not there."""
    return math.isfinite(alpha) and 1e-6 <= abs(alpha) <= 1e6


def _absorb_operands(node: Node, rewriter: Rewriter, alpha: float) -> Replacement:
    if any(v is None or (rank(v) or 0) < 2 for v in node.inputs):
        return NoMatch("an operand is not known to have two axes", node.name)
    if not is_float(node.outputs[0]):
        return NoMatch("not of a float type", node.name)
    first, second = (_operand(v, node) for v in node.inputs if v is not None)
    scale = alpha * first.scale * second.scale
    if not _is_plain(scale):
        return NoMatch("the factor is 0, not finite or very small or large", node.name)
    if not (first.flipped or second.flipped or first.scale != 1.0 or second.scale != 1.0):
        return NoMatch("no transposed or scaled operand")
    inputs = [_in_place(operand, rewriter) for operand in (first, second)]
    flips = {
        name: int(bool(attribute(node, name, 0)) != operand.flipped)
        for name, operand in (("transA", first), ("transB", second))
    }
    shown = {name: flip for name, flip in flips.items() if flip}
    return rewriter.op(
        "FusedMatMul", *inputs, domain=DOMAIN, stem=node.name, alpha=None if scale == 1.0 else scale, **shown
    )


def _in_place(operand: _Operand, rewriter: Rewriter) -> Value:
    """The value of `operand`, after the Transpose that is left of it if one is."""
    if operand.perm is None:
        return operand.value
    return rewriter.op("Transpose", operand.value, perm=operand.perm)


def _operand(value: Value, user: Node) -> _Operand:
    """`value` as an operand, after the Transpose and the scalar factors that serve `user` alone."""
    found = _Operand(value)
    for _ in range(MAX_ABSORBED):
        producer = found.value.producer()
        if producer is None or producer.graph is not user.graph or only_use(found.value) is not user:
            break
        if is_op(producer, "Transpose"):
            if not _transpose(found, producer):
                break
            if found.perm is not None:
                break
        elif not _scale(found, producer):
            break
        user = producer
    return found


def _scale(found: _Operand, node: Node) -> bool:
    """Take the scalar factor of `node` into `found`; False if it is none."""
    if not is_op(node, "Mul", "Div") or len(node.inputs) != 2:
        return False
    a, b = node.inputs
    pairs = ((a, b), (b, a)) if is_op(node, "Mul") else ((a, b),)
    for value, other in pairs:
        factor = scalar_factor(other, value)
        if factor is not None and value is not None and is_float(value):
            scale = found.scale * _power(factor, node)
            if _is_plain(scale):
                found.value, found.scale = value, scale
                return True
    return False


def _transpose(found: _Operand, node: Node) -> bool:
    """Take what `node` does to the last two axes into `found`; False if nothing is gained by it."""
    source, size = node.inputs[0], rank(node.inputs[0])
    if source is None or size is None or size < 2:
        return False
    perm = tuple(attribute(node, "perm", tuple(reversed(range(size)))))
    rest = (*perm[:-2], perm[-1], perm[-2])
    if rest == tuple(range(size)):
        found.value, found.flipped = source, not found.flipped
        return True
    if rest[-1] == size - 1:
        # What is left moves whole rows, which is cheaper than moving single elements.
        found.value, found.flipped, found.perm = source, not found.flipped, rest
        return True
    return False


@dataclasses.dataclass(frozen=True)
class SelectFusedMatmul(RulePass):
    """Make FusedMatMul of a product with transposed or scaled operands or a scaled result.

    given:  float[B, 4, 5] a; float[B, 6, 5] b
    before: y = Div(MatMul(a, Transpose<perm = [0, 2, 1]>(b)), 8.0)
    after:  y = com.microsoft.FusedMatMul<alpha = 0.125, transB = 1>(a, b)

    Factors are one-element constants. Where a Transpose does more than exchange the last two axes, it
    does the rest, if that leaves the innermost axis in place. Matrices that Gemm serves stay Gemm.

    Options:
        provider: whose kernels are asked for, cpu or cuda.

    Spec: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.FusedMatMul
    """

    provider: str = "cpu"

    exactness = Exactness.REASSOCIATES
    rules = (product_of_transposed, fused_product_of_transposed, scaled_product)

    def run(self, model: Model) -> Changes:
        """Apply the rules where the provider has the kernel."""
        return select(model, self.rules, self.provider)
