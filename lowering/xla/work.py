"""The work of one instruction: operations of its contractions, and the bytes it moves from and to HBM."""

from __future__ import annotations

import dataclasses
import math
import re

from graphopt.lowering.xla.hlo import HBM, Computations, Instruction, Shape, bits_of

PASSES = {"highest": 6, "high": 3, "default": 1}
"""Passes of a matrix unit for float32 operands: it multiplies bfloat16, so float32 is split in three
parts, of whose nine products six matter (HIGHEST), or in two, with three (HIGH)."""

MATRIX_UNIT = 128
"""Rows of a matrix unit (256 from v6e on): a shorter contraction leaves the rest idle."""

VIEWS = frozenset(
    {
        "parameter",
        "constant",
        "bitcast",
        "get-tuple-element",
        "tuple",
        "after-all",
        "partition-id",
        "opt-barrier",
    }
)
"""Instructions that move nothing."""

_ASYNC_DONE = frozenset({"copy-done", "async-done", "async-update", "slice-done"})
_DEPTH = 8
_SIZE = re.compile(r"(\w+)=([\dx_\-]+)")


@dataclasses.dataclass(frozen=True)
class Contraction:
    """A matrix product or convolution.

    Attributes:
        flops: two for each multiply-add that the mathematics needs (padding and dilation left out).
        occupied_flops: what the matrix unit does for it: the result with its tiles full, the
            contraction up to a multiple of :data:`MATRIX_UNIT`, each pass.
        passes: how often the matrix unit computes it (see :data:`PASSES`).
        dtype: its operands' wider type.
    """

    flops: int
    occupied_flops: int
    passes: int
    dtype: str
    node: int


def contraction(item: Instruction, shapes: dict[str, Instruction]) -> Contraction | None:
    """The work of a dot or convolution; None of anything else.

    Args:
        shapes: the instructions of the same computation by name.
    """
    operands = [shapes[o].shapes[0] for o in item.operands if o in shapes and shapes[o].shapes]
    if item.opcode not in ("dot", "convolution") or len(operands) < 2 or not item.shapes:
        return None
    flops = _dot_flops(item, operands) if item.opcode == "dot" else convolution_flops(item, operands)
    wide = [s.dtype for s in operands[:2] if s.dtype in ("f32", "f64")]
    names = re.findall(r"[a-z]+", item.attributes.get("operand_precision", ""))
    passes = max((PASSES.get(n, 1) for n in names), default=1) if wide else 1
    result = item.shapes[0]
    length = -(-flops // max(2 * result.elements, 1))  # multiply-adds for each number of the result
    places = result.padded_bytes * 8 // max(bits_of(result.dtype), 1)
    occupied = 2 * places * (-(-length // MATRIX_UNIT) * MATRIX_UNIT) * passes
    return Contraction(flops, occupied, passes, wide[0] if wide else operands[0].dtype, item.node)


def _numbers(text: str | None) -> list[int]:
    return [int(d) for d in re.findall(r"\d+", text or "")]


def _dot_flops(item: Instruction, operands: list[Shape]) -> int:
    dims = operands[0].dims
    contracted = (dims[d] for d in _numbers(item.attributes.get("lhs_contracting_dims")) if d < len(dims))
    return 2 * item.shapes[0].elements * math.prod(contracted)


def convolution_flops(item: Instruction, operands: list[Shape], *, backward: bool = False) -> int:
    """Two for each pair of an output and a kernel position that meets a number of the input.

    The TPU compiler writes batched products as convolutions whose window meets one number only, so
    positions in padding and between dilated numbers must not count.

    Args:
        backward: `item` gives back the input of a convolution from its output: the same pairs.
    """
    source, target = operands[0].dims, item.dims
    if backward:
        source, target = target, source
    labels = re.fullmatch(r"(\w+)_(\w+)->(\w+)", item.attributes.get("dim_labels", ""))
    if labels is None:
        return 0
    left, right, result = labels.groups()
    if (len(left), len(right), len(result)) != (len(source), len(operands[1].dims), len(target)):
        return 0
    window = dict(_SIZE.findall(item.attributes.get("window", "")))
    spatial = sorted(c for c in left if c.isdigit())
    meetings = 1
    for position, label in enumerate(spatial):

        def field(name: str, default: str, at: int = position) -> str:
            parts = window.get(name, "").split("x")
            return parts[at] if at < len(parts) and parts[at] else default

        meetings *= _meetings(
            size=source[left.index(label)],
            kernel=operands[1].dims[right.index(label)],
            output=target[result.index(label)],
            stride=int(field("stride", "1")),
            before=int(field("pad", "0_0").partition("_")[0]),
            base_dilation=int(field("lhs_dilate", "1")),
            window_dilation=int(field("rhs_dilate", "1")),
        )
    # The kernel's input features are those of one group already.
    batch, features = target[result.index("b")], target[result.index("f")]
    return 2 * meetings * batch * features * operands[1].dims[right.index("i")]


def _meetings(
    *, size: int, kernel: int, output: int, stride: int, before: int, base_dilation: int, window_dilation: int
) -> int:
    """Pairs of an output and a kernel position, of one dimension, that meet a number of the input."""
    if base_dilation == 1 and kernel <= 64:
        # For each kernel position, the outputs o with 0 <= o * stride + k * dilation - before < size.
        total = 0
        for k in range(kernel):
            offset = k * window_dilation - before
            first = max(0, -(offset // stride) if offset < 0 else 0)
            last = min(output - 1, (size - 1 - offset) // stride)
            total += max(0, last - first + 1)
        return total
    span = (size - 1) * base_dilation + 1
    total = 0
    for o in range(output):
        start = o * stride - before
        for k in range(kernel):
            at = start + k * window_dilation
            total += 0 <= at < span and at % base_dilation == 0
    return total


def contractions(
    item: Instruction, shapes: dict[str, Instruction], modules: Computations
) -> list[Contraction]:
    """The contractions of an instruction, those within a fusion included."""
    own = contraction(item, shapes)
    if own is not None:
        return [own]
    if item.opcode != "fusion":
        return []
    found: list[Contraction] = []
    work = [(name, 0) for name in item.called]
    while work:
        name, depth = work.pop()
        inside = {i.name: i for i in modules.get(name, [])}
        for inner in inside.values():
            one = contraction(inner, inside)
            if one is not None:
                found.append(one)
            elif inner.opcode == "fusion" and depth < _DEPTH:
                work.extend((called, depth + 1) for called in inner.called)
    return found


def hbm_bytes(item: Instruction, shapes: dict[str, Instruction], modules: Computations) -> int:
    """Bytes that an instruction reads from and writes to HBM, tiles in full.

    Of an operand that only slices or gathers look into, what they take counts, not the whole.
    """
    if item.opcode in VIEWS or item.opcode in _ASYNC_DONE or item.opcode in ("while", "conditional", "call"):
        return 0
    if item.opcode == "copy-start" or item.opcode.endswith("-start"):
        # (destination, source, semaphore): each side counts where it lies in HBM.
        return sum(s.padded_bytes for s in item.shapes[:2] if s.space == HBM)
    reads = [_read(item, i, shapes[o], modules) for i, o in enumerate(item.operands) if o in shapes]
    if item.opcode == "dynamic-update-slice" or _updates_in_place(item, modules):
        largest = max(reads, default=0)
        reads.remove(largest)  # written in place: the rest of the tensor does not move
        return 2 * sum(reads)
    return sum(reads) + sum(s.padded_bytes for s in item.shapes if s.space == HBM)


def _read(item: Instruction, index: int, operand: Instruction, modules: Computations) -> int:
    found = [s for s in operand.shapes if s.space == HBM]
    whole = sum(s.padded_bytes for s in found)
    if not whole:
        return 0
    if item.opcode in ("gather", "dynamic-slice", "slice") and index == 0:
        return min(whole, sum(s.padded_bytes for s in item.shapes))
    if item.opcode == "fusion" and item.called:
        taken = _taken(item.called[0], index, modules)
        return whole if taken is None else min(whole, taken)
    return whole


def _taken(computation: str, index: int, modules: Computations) -> int | None:
    """Bytes that the users of parameter `index` take of it; None if one of them wants all."""
    inside = modules.get(computation, [])
    names = {i.name for i in inside if i.opcode == "parameter" and i.index == index}
    total = 0
    for item in inside:  # in order: what views a parameter stands after it
        if not names.intersection(item.operands):
            continue
        if item.opcode == "bitcast":
            names.add(item.name)
        elif item.opcode in ("gather", "dynamic-slice", "slice") and item.operands[0] in names:
            total += sum(s.padded_bytes for s in item.shapes)
        else:
            return None
    return total


def _updates_in_place(item: Instruction, modules: Computations) -> bool:
    if item.opcode != "fusion" or not item.called:
        return False
    root = next((i for i in modules.get(item.called[0], []) if i.root), None)
    return root is not None and root.opcode == "dynamic-update-slice"
