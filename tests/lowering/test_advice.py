"""Each line of advice appears at its threshold and not below it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from graphopt.lowering.xla.advice import Figures, PaddedSize, advice

CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    # what the line says, figures that call for it, what is changed to just miss it
    (
        "80% of cycles in 1 node",
        {"node_cycles": (80, 5, 5, 5, 5), "total_cycles": 100},
        {"node_cycles": (79, 1, 5, 5, 5, 5)},
    ),
    (
        "97% of cycles in 2 nodes",
        {"node_cycles": (50, 47, *[1] * 8), "total_cycles": 100},
        {"node_cycles": (50, 47, *[1] * 7)},
    ),
    (
        "batch 5 pads to 8 in 1 tensor: 38% of rows are padding (10% of all their bytes)",
        {"padded": (PaddedSize(5, 8, True, 1, 100, "batch"),), "tensor_bytes": 1000},
        {"tensor_bytes": 1001},
    ),
    (
        "size 197 pads to 256 in 2 tensors: 23% of each row is padding",
        {"padded": (PaddedSize(197, 256, False, 2, 100),), "tensor_bytes": 200},
        {"padded": (PaddedSize(206, 256, False, 2, 100),)},
    ),
    (
        "50% of its bytes are float32: --precision bf16",
        {"bound": "HBM", "hbm_bytes": 100, "float32_bytes": 50},
        {"float32_bytes": 49},
    ),
    ("--precision bf16 halves", {"bound": "HBM", "hbm_bytes": 100, "float32_bytes": 50}, {"bound": "MXU"}),
    (
        "a larger batch reads the weights once",
        {"bound": "HBM", "hbm_bytes": 100, "argument_bytes": 50},
        {"argument_bytes": 49},
    ),
    ("copies and transposes take 10%", {"total_cycles": 100, "layout_cycles": 10}, {"layout_cycles": 9}),
    (
        "6 passes of the matrix unit and 30% of cycles: --precision bf16 takes one, tf32 three",
        {"total_cycles": 100, "float32_cycles": 30, "passes": 6},
        {"float32_cycles": 29},
    ),
    (
        "3 passes of the matrix unit and 30% of cycles: --precision bf16 takes one",
        {"total_cycles": 100, "float32_cycles": 30, "passes": 3},
        {"passes": 1},
    ),
    (
        "50% of cycles are in instructions of under 2,500 cycles",
        {"total_cycles": 100, "fixed_cycles": 50, "fixed_below": 2500},
        {"fixed_cycles": 49},
    ),
    ("takes 90% of the chip's memory", {"peak_bytes": 90, "device_bytes": 100}, {"peak_bytes": 89}),
    (
        "takes 101% of the chip's memory: it does not fit",
        {"peak_bytes": 101, "device_bytes": 100},
        {"device_bytes": None},
    ),
    ("1.1 times as long", {"cycle_seconds": 1.0, "memory_seconds": 1.1}, {"memory_seconds": 1.09}),
    (
        "no cycles for 3 instructions that move 5%",
        {"silent": 3, "silent_bytes": 5, "hbm_bytes": 100},
        {"silent_bytes": 4},
    ),
    ("1 loop of unknown trip count", {"open_loops": 1}, {"open_loops": 0}),
]


@pytest.mark.parametrize(("line", "figures", "missed"), CASES, ids=[c[0] for c in CASES])
def test_thresholds(line: str, figures: dict[str, Any], missed: dict[str, Any]) -> None:
    called_for = Figures(**figures)
    assert any(line in each for each in advice(called_for)), advice(called_for)
    key = line[line.find(" ") :][:14] if line[0].isdigit() else line[:12]
    assert not any(key in each for each in advice(dataclasses.replace(called_for, **missed)))


def test_nothing_is_said_of_nothing() -> None:
    assert advice(Figures()) == []


def test_the_two_worst_paddings_are_told() -> None:
    padded = tuple(PaddedSize(n, 128, False, 1, n) for n in (10, 30, 20))
    lines = advice(Figures(padded=padded, tensor_bytes=100))
    assert [line.split(" pads")[0] for line in lines] == ["size 30", "size 20"]
