"""Plain advice from the figures of a compiled module. Each line has its threshold beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

CONCENTRATED = 0.8
"""The fewest nodes that hold this share of the cycles are named …"""
CONCENTRATED_NODES = 0.2
"""… if they are at most this share of the nodes that have cycles, …"""
CONCENTRATED_AMONG = 5
"""… and there are at least as many nodes as this."""
PADDED = 0.2
"""A dimension is named if at least this share of it, in memory, is padding …"""
PADDED_OF_ALL = 0.1
"""… and that padding is at least this share of all bytes of tensors."""
PADDED_LINES = 2
FLOAT32_BYTES = 0.5
"""A model bound by HBM is told of bf16 if at least this share of its bytes is float32."""
ARGUMENT_BYTES = 0.5
"""… and of a larger batch if at least this share of its bytes is arguments, which every batch reads once."""
LAYOUT = 0.1
"""Copies and transposes are named from this share of the cycles on."""
SEVERAL_PASSES = 0.3
"""Float32 products in several passes are named from this share of the cycles on."""
FIXED = 0.5
"""Instructions that do little but start are named from this share of the cycles on."""
FULL = 0.9
"""HBM is called nearly full from this share on."""
WAITING = 1.1
"""Waiting for HBM is named if the bytes take this many times as long as the cycles."""
SILENT_BYTES = 0.05
"""Instructions without an estimate are named if they move at least this share of the bytes."""


@dataclasses.dataclass(frozen=True)
class PaddedSize:
    """All tensors in which a dimension of one size is padded to one larger size.

    Attributes:
        name: of the dimension, if the model names it.
        rows: whether it lies across rows (8 to a tile), else along a row (128 to a tile).
        wasted_bytes: padding because of it, over all its tensors.
    """

    size: int
    padded: int
    rows: bool
    tensors: int
    wasted_bytes: int
    name: str | None = None

    @property
    def waste(self) -> float:
        """The share of the dimension that is padding."""
        return 1 - self.size / self.padded


@dataclasses.dataclass(frozen=True)
class Figures:
    """What advice is derived from; shares are between 0 and 1.

    Attributes:
        node_cycles: of the nodes, dearest first.
        total_cycles: with those that belong to no node.
        bound: of the whole module.
        cycle_seconds: what the cycles take; None without a published clock.
    """

    node_cycles: tuple[int, ...] = ()
    total_cycles: int = 0
    bound: str = "vector"
    padded: tuple[PaddedSize, ...] = ()
    tensor_bytes: int = 0
    hbm_bytes: int = 0
    float32_bytes: int = 0
    argument_bytes: int = 0
    layout_cycles: int = 0
    float32_cycles: int = 0
    passes: int = 1
    fixed_cycles: int = 0
    fixed_below: int = 0
    peak_bytes: int = 0
    device_bytes: int | None = None
    cycle_seconds: float | None = None
    memory_seconds: float = 0.0
    silent: int = 0
    silent_bytes: int = 0
    open_loops: int = 0


def advice(figures: Figures) -> list[str]:
    """Every line that the figures call for, the most useful first."""
    found: list[str] = []
    for each in RULES:
        line = each(figures)
        found += [line] if isinstance(line, str) else line or []
    return found


def concentration(f: Figures) -> str | None:
    """ "97 % of cycles in 2 nodes"."""
    if not f.total_cycles or len(f.node_cycles) < CONCENTRATED_AMONG:
        return None
    held = 0
    for count, cycles in enumerate(f.node_cycles, start=1):
        held += cycles
        if held >= CONCENTRATED * f.total_cycles:
            if count > CONCENTRATED_NODES * len(f.node_cycles):
                return None
            return f"{held / f.total_cycles:.0%} of cycles in {count} node{'s' * (count > 1)}"
    return None


def padding(f: Figures) -> list[str]:
    """ "batch 5 pads to 8: 38% of rows are padding"."""
    lines = []
    for one in sorted(f.padded, key=lambda p: (-p.wasted_bytes, p.size)):
        if one.waste < PADDED or one.wasted_bytes < PADDED_OF_ALL * f.tensor_bytes or not f.tensor_bytes:
            continue
        name = f"{one.name} {one.size}" if one.name else f"size {one.size}"
        of = "rows are" if one.rows else "each row is"
        lines.append(
            f"{name} pads to {one.padded} in {one.tensors} tensor{'s' * (one.tensors > 1)}: "
            f"{one.waste:.0%} of {of} padding ({one.wasted_bytes / f.tensor_bytes:.0%} of all their bytes)"
        )
    return lines[:PADDED_LINES]


def narrower(f: Figures) -> str | None:
    """HBM bound: bf16 halves the bytes."""
    if f.bound != "HBM" or not f.hbm_bytes or f.float32_bytes < FLOAT32_BYTES * f.hbm_bytes:
        return None
    return (
        f"bound by HBM, and {f.float32_bytes / f.hbm_bytes:.0%} of its bytes are float32: "
        "--precision bf16 halves those"
    )


def larger_batch(f: Figures) -> str | None:
    """HBM bound by weights: a larger batch reads them once all the same."""
    if f.bound != "HBM" or not f.hbm_bytes or f.argument_bytes < ARGUMENT_BYTES * f.hbm_bytes:
        return None
    return (
        f"bound by HBM, and {f.argument_bytes / f.hbm_bytes:.0%} of its bytes are weights and inputs: "
        "a larger batch reads the weights once all the same"
    )


def layout(f: Figures) -> str | None:
    """Copies and transposes."""
    if not f.total_cycles or f.layout_cycles < LAYOUT * f.total_cycles:
        return None
    return f"copies and transposes take {f.layout_cycles / f.total_cycles:.0%} of cycles"


def several_passes(f: Figures) -> str | None:
    """Float32 products cost as many bfloat16 products as they take passes."""
    if not f.total_cycles or f.passes < 2 or f.float32_cycles < SEVERAL_PASSES * f.total_cycles:
        return None
    return (
        f"float32 products take {f.passes} passes of the matrix unit and "
        f"{f.float32_cycles / f.total_cycles:.0%} of cycles: --precision bf16 takes one"
        + (", tf32 three" if f.passes > 3 else "")
    )


def fixed(f: Figures) -> str | None:
    """Many instructions that do next to nothing."""
    if not f.total_cycles or f.fixed_cycles < FIXED * f.total_cycles:
        return None
    return (
        f"{f.fixed_cycles / f.total_cycles:.0%} of cycles are in instructions of under {f.fixed_below:,} "
        "cycles, about what an empty one takes: a larger batch costs little more"
    )


def room(f: Figures) -> str | None:
    """Nearly full, or too large."""
    if not f.device_bytes or f.peak_bytes < FULL * f.device_bytes:
        return None
    share = f.peak_bytes / f.device_bytes
    return f"it takes {share:.0%} of the chip's memory" + (": it does not fit" if share > 1 else "")


def waiting(f: Figures) -> str | None:
    """Bytes that take longer than the work that hides them."""
    if not f.cycle_seconds or f.memory_seconds < WAITING * f.cycle_seconds:
        return None
    return (
        f"its bytes take {f.memory_seconds / f.cycle_seconds:.1f} times as long as its cycles: the schedule "
        "counts no waiting for copies from HBM, so the time is that of the bytes"
    )


def silent(f: Figures) -> str | None:
    """Instructions without an estimate."""
    if not f.silent or not f.hbm_bytes or f.silent_bytes < SILENT_BYTES * f.hbm_bytes:
        return None
    return (
        f"the compiler gives no cycles for {f.silent} instructions that move "
        f"{f.silent_bytes / f.hbm_bytes:.0%} of the bytes (gathers, sorts, reshapes): "
        "the total is too low by them"
    )


def open_loops(f: Figures) -> str | None:
    """Loops that run as often as the data say."""
    if not f.open_loops:
        return None
    return (
        f"{f.open_loops} loop{'s' * (f.open_loops > 1)} of unknown trip count: the body counts once; "
        "multiply it by the turns that you expect"
    )


RULES: Sequence[Callable[[Figures], str | list[str] | None]] = (
    room,
    concentration,
    several_passes,
    waiting,
    narrower,
    larger_batch,
    padding,
    layout,
    fixed,
    silent,
    open_loops,
)
