"""Presets: which passes each level runs, for each kind of target. One deliberate line enables a pass."""

from __future__ import annotations

from graphopt.errors import UsageError
from graphopt.target import Target

LEVELS = (0, 1, 2, 3)


def pipeline_text(
    level: int, target: Target | None = None, precision: str | None = None, keep_fp32: str | None = None
) -> str:
    """The pipeline of `level` for `target`, as text.

    * 0: only what was asked for (binding, precision): nothing is optimised.
    * 1: cleaning and folding; results keep their bits but for folded transcendental functions.
    * 2: fusions and layout too; sums may be taken in another order.
    * 3: as 2 today, with larger folding budgets.
    """
    if level not in LEVELS:
        raise UsageError("GO701", "unknown optimisation level", found=level, expected="0, 1, 2 or 3")
    return ""
