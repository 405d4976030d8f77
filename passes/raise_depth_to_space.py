"""raise-depth-to-space: Reshape, Transpose, Reshape that move blocks between channels and space."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from graphopt.ir import DataType, Node, SymbolicDim, Value
from graphopt.ir.query import only_use, same_dim
from graphopt.passes._matching import produced_by
from graphopt.passes.merge_transposes import permutation
from graphopt.transform import NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement

_TO_SPACE: dict[tuple[int, ...], str] = {(0, 3, 4, 1, 5, 2): "DCR", (0, 1, 4, 2, 5, 3): "CRD"}
_TO_DEPTH = (0, 3, 5, 1, 2, 4)
_WITH_KERNELS = frozenset({DataType.FLOAT, DataType.DOUBLE})
"""The types that ONNX Runtime's CPU provider has the two operators for."""

Dim = int | SymbolicDim


def _reshaped(node: Node) -> tuple[Value, list[Dim], tuple[int, ...], list[Dim]] | NoMatch:
    """(x, the six dimensions between, the permutation, the dimensions of the result) of the three."""
    transpose = produced_by(node.inputs[0], "Transpose")
    if transpose is None or node.inputs[0] is None or only_use(node.inputs[0]) is not node:
        return NoMatch("it reshapes no Transpose for it alone")
    first = produced_by(transpose.inputs[0], "Reshape")
    perm = permutation(transpose)
    middle = transpose.inputs[0]
    if first is None or middle is None or perm is None or only_use(middle) is not transpose:
        return NoMatch("nothing is reshaped for the Transpose alone", transpose.name)
    x, result = first.inputs[0], node.outputs[0]
    shapes = [v.shape if v is not None else None for v in (x, middle, result)]
    known = [list(s.dims) for s in shapes if s is not None]
    if len(known) != 3 or [len(s) for s in known] != [4, 6, 4] or x is None or x.dtype not in _WITH_KERNELS:
        return NoMatch("the ranks are not 4, 6 and 4, or it is no float32 or float64", first.name)
    source = known[0]
    if not all(same_dim(dims[0], source[0]) for dims in known):
        return NoMatch("the batch changes", first.name)
    return x, known[1], perm, known[2]


@rule("Reshape")
def depth_to_space(node: Node, rewriter: Rewriter) -> Replacement:
    """Reshape(Transpose(Reshape(x, [N, b, b, C, H, W]))) = DepthToSpace(x), and from [N, C, b, b, H, W]."""
    found = _reshaped(node)
    if isinstance(found, NoMatch):
        return found
    x, middle, perm, result = found
    mode = _TO_SPACE.get(perm)
    assert x.shape is not None
    source = x.shape.dims
    if mode is None or not all(same_dim(a, b) for a, b in zip(middle[4:], source[2:], strict=True)):
        return NoMatch("other axes are moved", node.name)
    block, other, channels = middle[1:4] if mode == "DCR" else (middle[2], middle[3], middle[1])
    if not isinstance(block, int) or block < 1 or not same_dim(block, other):
        return NoMatch("the blocks are not known to be square", node.name)
    if not same_dim(channels, result[1]) or not _is_product(channels, block * block, source[1]):
        return NoMatch("the channels are not those of the blocks", node.name)
    made = rewriter.op("DepthToSpace", x, blocksize=block, mode=mode)
    made.shape = node.outputs[0].shape
    return made if _scaled(source, result, block) else NoMatch("the result has another shape", node.name)


@rule("Reshape")
def space_to_depth(node: Node, rewriter: Rewriter) -> Replacement:
    """Reshape(Transpose(Reshape(x, [N, C, H, b, W, b]), [0, 3, 5, 1, 2, 4])) = SpaceToDepth(x)."""
    found = _reshaped(node)
    if isinstance(found, NoMatch):
        return found
    x, middle, perm, result = found
    assert x.shape is not None
    block = middle[3]
    if perm != _TO_DEPTH or not same_dim(block, middle[5]) or not isinstance(block, int) or block < 1:
        return NoMatch("other axes are moved, or the blocks are not known to be square", node.name)
    kept = [middle[1], middle[2], middle[4]]
    if not all(same_dim(a, b) for a, b in zip(kept, [x.shape.dims[1], *result[2:]], strict=True)):
        return NoMatch("the result has another shape", node.name)
    source = x.shape.dims
    if not _scaled(result, source, block) or not _is_product(source[1], block * block, result[1]):
        return NoMatch("the result has another shape", node.name)
    made = rewriter.op("SpaceToDepth", x, blocksize=block)
    made.shape = node.outputs[0].shape
    return made


def _is_product(a: Dim, factor: int, product: Dim) -> bool:
    return isinstance(a, int) and isinstance(product, int) and a * factor == product


def _scaled(small: Sequence[Dim], large: Sequence[Dim], block: int) -> bool:
    """Whether height and width of `large` are those of `small` times `block`."""
    return all(same_dim(a * block, b) for a, b in zip(small[2:], large[2:], strict=True))


@dataclasses.dataclass(frozen=True)
class RaiseDepthToSpace(RulePass):
    """Raise the pixel shuffles that exporters write as Reshape, Transpose and Reshape.

    given:  float[1, 32, 5, 5] x
    before: t = Transpose<perm = [0, 3, 4, 1, 5, 2]>(Reshape(x, [1, 2, 2, 8, 5, 5]));
            y = Reshape(t, [1, 8, 10, 10])
    after:  y = DepthToSpace<blocksize = 2, mode = "DCR">(x)

    Spec: https://onnx.ai/onnx/operators/onnx__DepthToSpace.html
    """

    rules = (depth_to_space, space_to_depth)
