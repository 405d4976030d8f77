"""absorb-transposes: a product of transposed matrices is a Gemm that reads them as they are."""

from __future__ import annotations

import dataclasses

from graphopt.ir import DataType, Node, Value
from graphopt.ir.query import attribute, rank
from graphopt.passes._axes import known_size
from graphopt.passes._matching import attributes_of, produced_by
from graphopt.passes.merge_transposes import permutation
from graphopt.transform import Exactness, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

_GEMM_TYPES = frozenset({DataType.FLOAT, DataType.DOUBLE})


def _turned(value: Value | None) -> Value | None:
    """The matrix that is transposed to `value`, if it is."""
    transpose = produced_by(value, "Transpose")
    if transpose is None or permutation(transpose) != (1, 0):
        return None
    return transpose.inputs[0]


@rule("Gemm")
def gemm_of_transposes(node: Node, rewriter: Rewriter) -> Replacement:
    """Gemm(Transpose(a), b) = Gemm(a, b) with transA turned over, as with b."""
    operands, attributes = list(node.inputs), attributes_of(node)
    for position, name in ((0, "transA"), (1, "transB")):
        source = _turned(operands[position])
        if source is not None:
            operands[position] = source
            attributes[name] = 1 - int(attribute(node, name, 0))
    if operands[:2] == list(node.inputs[:2]):
        return NoMatch("no operand is transposed")
    return rewriter.op("Gemm", *operands, **attributes)


@rule("MatMul")
def matmul_of_transposes(node: Node, rewriter: Rewriter) -> Replacement:
    """MatMul(Transpose(a), b) = Gemm(a, b) with transA, as with b, for matrices."""
    a, b = node.inputs
    if a is None or b is None or rank(a) != 2 or rank(b) != 2 or a.dtype not in _GEMM_TYPES:
        return NoMatch("it multiplies no matrices of float32 or float64")
    sources = [_turned(a), _turned(b)]
    if sources == [None, None]:
        return NoMatch("no operand is transposed")
    # Nothing is said of a Gemm that sums over no element.
    if not (known_size(a, 1) or known_size(b, 0)):
        return NoMatch("it may sum over nothing", a.name)
    flags = [1 if x is not None else None for x in sources]
    return rewriter.op("Gemm", sources[0] or a, sources[1] or b, transA=flags[0], transB=flags[1])


@dataclasses.dataclass(frozen=True)
class AbsorbTransposes(RulePass):
    """Let Gemm transpose its operands while it reads them.

    given:  float[N, 8] x; float[4, 8] w
    before: y = MatMul(x, Transpose<perm = [1, 0]>(w))
    after:  y = Gemm<transB = 1>(x, w)

    Operands are matrices; a MatMul's are float32 or float64, and sum over a known number of elements.

    Spec: https://onnx.ai/onnx/operators/onnx__Gemm.html
    """

    exactness = Exactness.REASSOCIATES
    rules = (gemm_of_transposes, matmul_of_transposes)
