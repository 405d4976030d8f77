"""Gates: what they mean, and that one which cannot be judged is never taken for passed."""

from __future__ import annotations

import pytest

from graphopt.errors import UsageError
from graphopt.viz.gates import judge, parse_gate

METRICS = {
    "nodes": [100, 106],
    "bytes": [1 << 20, 1 << 20],
    "flops": [None, 5],
    "moved": [0, 10],
    "cycles": [200, 190],
}
OPERATORS = {"Conv": [3, 3], "Transpose": [0, 2], "com.microsoft.FusedConv": [0, 4], "FusedConv": [1, 1]}


@pytest.mark.parametrize(
    ("gate", "failed", "found"),
    [
        ("nodes>+5%", True, 6.0),
        ("nodes>+6%", False, 6.0),
        ("nodes>=+6%", True, 6.0),
        ("nodes>+6", False, 6),
        ("nodes > 105", True, 106),
        ("nodes<+0", False, 6),
        ("bytes>1M", False, 1 << 20),
        ("bytes>=1M", True, 1 << 20),
        ("bytes>+0%", False, 0.0),
        ("cycles>+2%", False, -5.0),
        ("cycles>-10%", True, -5.0),
        ("cycles<=-5%", True, -5.0),
        ("moved>+1000%", True, float("inf")),
        ("Transpose>+0", True, 2),
        ("Transpose>+50%", True, float("inf")),
        ("Conv>+0", False, 0),
        ("Softmax>0", False, 0),
        ("FusedConv>4", True, 5),
        ("com.microsoft.FusedConv>4", False, 4),
        ("com.other.Thing>0", False, 0),
    ],
)
def test_gates(gate: str, failed: bool, found: float) -> None:
    (verdict,) = judge([parse_gate(gate)], METRICS, OPERATORS)
    assert (verdict["failed"], verdict["found"]) == (failed, pytest.approx(found))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nodes",
        "nodes>",
        "nodes>5%",
        "nodes>+x%",
        "nodes=5",
        "nodes>5KB",
        ">5",
        "nodes>+5%%",
        "n\u03c9>1",
        "nodes>1e9",
        "nodes>--5",
    ],
)
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="GO701"):
        parse_gate(text)


@pytest.mark.parametrize("gate", ["nodez>+5%", "latency>1", "flops>+0"])
def test_what_cannot_be_judged_is_refused(gate: str) -> None:
    with pytest.raises(UsageError, match="GO701"):
        judge([parse_gate(gate)], METRICS, OPERATORS)
