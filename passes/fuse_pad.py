"""fuse-pad: a Pad before Conv, AveragePool or MaxPool becomes their own padding."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from graphopt.ir import Node, Value
from graphopt.ir.query import attribute, ints, rank, scalar
from graphopt.passes._matching import produced_by
from graphopt.transform import Exactness, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement


@rule("Conv")
def conv_of_pad(node: Node, rewriter: Rewriter) -> Replacement:
    """Conv(Pad(x, p, 0), pads=q) = Conv(x, pads=p + q), for p on spatial axes."""
    found = _padding(node)
    if isinstance(found, NoMatch):
        return found
    x, pads, fill = found
    if fill != 0:
        return NoMatch("it does not pad with zeros")
    return rewriter.op("Conv", x, *node.inputs[1:], **_padded(node, pads))


@rule("AveragePool")
def average_pool_of_pad(node: Node, rewriter: Rewriter) -> Replacement:
    """AveragePool(Pad(x, p, 0)) = AveragePool(x, pads=p, count_include_pad=1).

    A pool that pads on its own as well must count its padding: Pad's zeros are always counted.
    """
    found = _padding(node)
    if isinstance(found, NoMatch):
        return found
    x, pads, fill = found
    if fill != 0:
        return NoMatch("it does not pad with zeros")
    own = _own_pads(node)
    if own is not None and any(own) and not attribute(node, "count_include_pad", 0):
        return NoMatch("the pool has padding that it does not count")
    refusal = _pool_refuses(node, pads)
    if refusal is not None:
        return refusal
    return rewriter.op("AveragePool", x, **(_padded(node, pads) | {"count_include_pad": 1}))


@rule("MaxPool")
def max_pool_of_pad(node: Node, rewriter: Rewriter) -> Replacement:
    """MaxPool(Pad(x, p, -inf)) = MaxPool(x, pads=p); for integers, with the lowest number."""
    found = _padding(node)
    if isinstance(found, NoMatch):
        return found
    x, pads, fill = found
    if x.dtype is None:
        return NoMatch("the type is unknown", x.name)
    dtype = x.dtype.numpy()
    lowest = np.iinfo(dtype).min if dtype.kind in "iu" else -np.inf
    if fill != lowest:
        return NoMatch("it pads with a number that can be the maximum")
    if len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
        return NoMatch("the indices of the maxima, which count the padding, are used")
    if attribute(node, "storage_order", 0):
        return NoMatch("a column-major MaxPool")
    refusal = _pool_refuses(node, pads)
    if refusal is not None:
        return refusal
    result = rewriter.op("MaxPool", x, **_padded(node, pads))
    return [result, *(None for _ in node.outputs[1:])]


def _padding(node: Node) -> tuple[Value, list[int], float | int] | NoMatch:
    """(x, pads of `node` and of the Pad before it together, the number it pads with)."""
    pad = produced_by(node.inputs[0], "Pad")
    if pad is None:
        return NoMatch("no Pad there")
    x = pad.inputs[0]
    x_rank = rank(x)
    if x is None or x_rank is None or x_rank < 3:
        return NoMatch("the rank is unknown or has no spatial axis", pad.name)
    if attribute(pad, "mode", "constant") != "constant":
        return NoMatch("it does not pad with a constant", pad.name)
    spatial = _spatial_pads(pad, x_rank)
    if isinstance(spatial, NoMatch):
        return spatial
    value = pad.inputs[2] if len(pad.inputs) > 2 else None
    fill = 0 if value is None else scalar(value)
    if fill is None:
        return NoMatch("the number it pads with is not constant", pad.name)
    if attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return NoMatch("the padding of the consumer follows from the size of its input", node.name)
    own = _own_pads(node) or [0] * len(spatial)
    if len(own) != len(spatial):
        return NoMatch("the pads of the consumer are of another rank", node.name)
    return x, [a + b for a, b in zip(spatial, own, strict=True)], fill


def _own_pads(node: Node) -> list[int] | None:
    if attribute(node, "auto_pad", "NOTSET") == "VALID":
        return None
    pads = attribute(node, "pads", ())
    return [int(p) for p in pads] if pads else None


def _spatial_pads(pad: Node, x_rank: int) -> list[int] | NoMatch:
    """Begins, then ends, of the spatial axes, if nothing else is padded and nothing cropped."""
    amounts = ints(pad.inputs[1])
    given = pad.inputs[3] if len(pad.inputs) > 3 else None
    axes = tuple(range(x_rank)) if given is None else ints(given)
    if amounts is None or axes is None or len(amounts) != 2 * len(axes):
        return NoMatch("the amounts or the axes are not constant", pad.name)
    if any(amount < 0 for amount in amounts):
        return NoMatch("it crops", pad.name)
    full = [0] * (2 * x_rank)
    for position, axis in enumerate(axes):
        full[axis % x_rank] = amounts[position]
        full[x_rank + axis % x_rank] = amounts[len(axes) + position]
    if any(full[i] for i in (0, 1, x_rank, x_rank + 1)):
        return NoMatch("it pads the batch or the channels", pad.name)
    return full[2:x_rank] + full[x_rank + 2 :]


def _pool_refuses(node: Node, pads: list[int]) -> NoMatch | None:
    """Why a pool cannot take `pads`: each window must hold an element that is no padding."""
    kernel = attribute(node, "kernel_shape", ())
    if len(pads) != 2 * len(kernel):
        return NoMatch("the window is of another rank", node.name)
    if attribute(node, "ceil_mode", 0):
        return NoMatch("with ceil_mode the last window depends on who pads", node.name)
    if any(d != 1 for d in attribute(node, "dilations", ())):
        return NoMatch("the windows are dilated", node.name)
    if any(p >= k for p, k in zip(pads, (*kernel, *kernel), strict=True)):
        return NoMatch("the padding is as large as the window", node.name)
    return None


def _padded(node: Node, pads: list[int]) -> dict[str, Any]:
    attributes: dict[str, Any] = {k: v for k, v in node.attributes.items() if k != "auto_pad"}
    return attributes | {"pads": pads}


@dataclasses.dataclass(frozen=True)
class FusePad(RulePass):
    """Let Conv, AveragePool and MaxPool pad for themselves.

    given:  float[1, 3, 8, 8] x; float[2, 3, 3, 3] w
    before: y = Conv(Pad(x, [0, 0, 1, 1, 0, 0, 1, 1]), w)
    after:  y = Conv<pads = [1, 1, 1, 1]>(x, w)

    The amounts are constant, not negative and on spatial axes only. Conv and AveragePool take zeros
    (AveragePool then counts its padding), MaxPool takes -inf.

    Spec: https://onnx.ai/onnx/operators/onnx__Pad.html
    """

    exactness = Exactness.REASSOCIATES
    rules = (conv_of_pad, average_pool_of_pad, max_pool_of_pad)
