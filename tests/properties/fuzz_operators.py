"""Try operators on many cases and print what was found: ``python tests/properties/fuzz_operators.py N [OP ...]``."""

from __future__ import annotations

import collections
import os
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402
from operator_cases import OpCase, judge  # noqa: E402
from operator_strategies import PREFERRED, STRATEGIES  # noqa: E402


def fuzz(
    op_type: str, examples: int, number: int = 0
) -> tuple[collections.Counter[str], list[str], list[str]]:
    """The counts of verdicts, the wrong ones, and those where the oracles differ."""
    counts: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    torn: list[str] = []

    @seed(number)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(STRATEGIES[op_type])
    def run(case: OpCase) -> None:
        verdict = judge(case, PREFERRED.get(op_type, ("", ""))[0])
        counts[verdict.kind] += 1
        if verdict.kind == "wrong":
            wrong.append(verdict.message)
        if verdict.kind == "one":
            torn.append(verdict.message)

    run()
    return counts, wrong, torn


if __name__ == "__main__":
    shown = int(os.environ.get("SHOWN", "2"))
    for name in sys.argv[2:] or sorted(STRATEGIES):
        counts, wrong, torn = fuzz(name, int(sys.argv[1]), int(os.environ.get("SEED", "0")))
        print(name, dict(counts), flush=True)
        for kind, messages in (("WRONG", wrong), ("TORN", torn)):
            for message in sorted(messages, key=len)[:shown]:
                print(f"  {kind} {message}".replace("\n", "\n    "), flush=True)
