"""The strategies of all families, the operators that have none, and which oracle is right where they differ."""

from __future__ import annotations

import operator_strategies_elementwise as elementwise
import operator_strategies_movement as movement
import operator_strategies_spatial  # noqa: F401  (registers its cases)
from operator_cases import RUNTIME  # noqa: F401

STRATEGIES = {**elementwise.STRATEGIES, **movement.STRATEGIES}
PREFERRED: dict[str, tuple[str, str]] = {}
