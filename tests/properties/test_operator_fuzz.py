"""Drawn cases of each operator of the default domain agree with onnx.reference and ONNX Runtime.

A few cases of each by default, the same ones each time. ``GRAPHOPT_FUZZ_EXAMPLES=200`` tries as many, others
with each ``GRAPHOPT_FUZZ_SEED``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

sys.path.insert(0, str(Path(__file__).parent))
from operator_cases import OpCase, judge
from operator_strategies import LEFT_OUT, PREFERRED, STRATEGIES

from graphopt.lowering.xla.ops import load_all

EXAMPLES = int(os.environ.get("GRAPHOPT_FUZZ_EXAMPLES", "4"))
SEED = int(os.environ.get("GRAPHOPT_FUZZ_SEED", "0"))
LONG = EXAMPLES > 10


@pytest.mark.parametrize("op_type", sorted(STRATEGIES))
def test_operator(op_type: str) -> None:
    @seed(SEED)
    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink] if LONG else [Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(STRATEGIES[op_type])
    def agrees(case: OpCase) -> None:
        verdict = judge(case, PREFERRED.get(op_type, ("", ""))[0])
        assert verdict.kind != "wrong", verdict.message

    agrees()


def test_every_operator_is_drawn_or_left_out_for_a_reason() -> None:
    lowered = {name for domain, name, _ in load_all().entries() if domain == ""}
    left_out = set().union(*LEFT_OUT.values())
    assert set(STRATEGIES) <= lowered
    assert lowered <= set(STRATEGIES) | left_out
    assert not left_out & set(STRATEGIES)
    assert set(PREFERRED) <= set(STRATEGIES)
